"""The stage that asks a finished model: with its picture, without one, and with another's."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from pydantic import Field
from safetensors.numpy import load_file, save_file

from paribus.errors import UserError
from paribus.files import whole_file, write_json
from paribus.progress import progress
from paribus.rng import key_id
from paribus.study.downstream import Instruct
from paribus.study.finished import looked, rounding
from paribus.study.recipe import AskConfig
from paribus.study.stage import Stage
from paribus.study.talks import AnyQuestions
from paribus.types import IMAGE, Batch, Config, Runtime, Turn, Turns
from paribus.vlm.answering import first_words, option_scores, replied, reply_scores, without_picture, write
from paribus.vlm.model import SEEN, VisionLanguage
from paribus.vqa import compat, scoring
from paribus.vqa.benchmark import Benchmark, Question, lists_options, prompt, worded
from paribus.vqa.handin import write_answers
from paribus.vqa.vmcbench import VMCBenchConfig, leaderboard

logger = logging.getLogger(__name__)

Way = Literal["seen", "no image", "wrong image"]
WAYS: tuple[Way, ...] = ("seen", "no image", "wrong image")
"""How questions are asked; the last two are blind, and say what language alone explains."""

BLOCK = 64
"""Questions asked at once."""

HARNESSES: dict[str, Callable[[Sequence[str], Sequence[Question], int], compat.Read]] = {
    "written, VLMEvalKit's rules": compat.vlmevalkit,
    "written, lmms-eval's rules": compat.lmms_eval,
}
"""Further ways, of the same written answers: who else reads them."""

GUESSES = 0
"""The seed with which these harnesses guess; equal for all arms, so that luck is no difference."""


class AnswerRecord(Config):
    """How it went."""

    questions: int
    accuracy: dict[str, float] = Field(
        description="way -> share of right answers; none without published ones"
    )
    unparsed: int | None = Field(None, description="written answers that name no option, or several")
    cut: int = Field(0, description="questions that fill the model's context, and may have lost their end")


class Answered(NamedTuple):
    """What a model answered: questions, and which were answered rightly, by way."""

    questions: list[Question]
    correct: dict[str, Bool[np.ndarray, " Q"]]


class Answer(Stage[AnswerRecord]):
    """Every question, answered by the likelihood of its options, and as asked for by what is written."""

    name: ClassVar[str] = "answer"
    version: int = 2
    vlm: Instruct
    questions: AnyQuestions
    ask: AskConfig

    def compute(self, folder: Path, runtime: Runtime) -> AnswerRecord:
        """Write ``scores.safetensors``: way -> log-likelihoods ``[Q C]``; and ``written.json`` if wanted."""
        model = self.vlm.open(runtime).to(runtime.torch_device).eval()
        benchmark = self.questions.test(runtime)
        asking = Asking(model, benchmark, self.ask, self.vlm, runtime)
        cut = asking.cut()
        if cut:
            logger.warning(
                "%d of %d questions of %s fill the language model's context of %d tokens and may have lost "
                "their end: raise vlm.language.context",
                cut,
                len(benchmark),
                self.questions.title,
                model.chat.context,
            )
        scores: dict[str, np.ndarray] = {way: asking.scores(way) for way in WAYS}
        if self.ask.circular:
            scores["rotated"] = asking.rotated()
        with whole_file(folder / "scores.safetensors") as path:
            save_file(scores, path)
        if self.ask.generate:
            write_json(folder / "written.json", asking.written())
        return self._record(folder, asking.questions, cut)

    def _record(self, folder: Path, questions: list[Question], cut: int) -> AnswerRecord:
        if not all(question.answer for question in questions):
            return AnswerRecord(questions=len(questions), accuracy={}, cut=cut)
        correct = self._correct(folder, questions)
        unparsed = None
        if self.ask.generate:
            unparsed = int(scoring.score_texts(_written(folder), questions).unparsed.sum())
        return AnswerRecord(
            questions=len(questions),
            accuracy={way: float(right.mean()) for way, right in correct.items()},
            unparsed=unparsed,
            cut=cut,
        )

    def _correct(self, folder: Path, questions: list[Question]) -> dict[str, Bool[np.ndarray, " Q"]]:
        scores = load_file(folder / "scores.safetensors")
        correct: dict[str, Bool[np.ndarray, " Q"]]
        correct = {way: scoring.score(scores[way].astype(np.float64), questions) for way in WAYS}
        correct["majority"] = scoring.score(scoring.majority(questions), questions)
        if self.ask.calibrated:
            seen, prior = (scores[way].astype(np.float64) for way in ("seen", "no image"))
            correct["calibrated"] = scoring.score(scoring.calibrated(seen, prior), questions)
        if self.ask.circular:
            turned = [turned for question in questions for turned in scoring.rotations(question)]
            each = scoring.score(scores["rotated"].astype(np.float64), turned)
            correct["circular"] = scoring.circular(each, questions)
        if self.ask.generate:
            texts = _written(folder)
            correct["written"] = scoring.score_texts(texts, questions).correct
            correct |= _read_elsewhere(texts, questions)
        return correct

    def open(self, runtime: Runtime) -> Answered:
        """The questions as they were asked, and which were answered rightly."""
        questions = _all(self.questions.test(runtime), self.ask.template)
        return Answered(questions, self._correct(self.folder(runtime), questions))

    def hand_in(self, runtime: Runtime, path: Path) -> int:
        """Write the likeliest options for whoever scores them; how many.

        VMCBench's test split goes out in its leaderboard's form, all else as a plain table.
        """
        benchmark = self.questions.test(runtime)
        questions = [benchmark.question(index) for index in range(len(benchmark))]
        scores = load_file(self.folder(runtime) / "scores.safetensors")["seen"]
        said = scoring.likeliest(scores, _all(benchmark, self.ask.template))
        config = self.questions.config
        ranked = isinstance(config, VMCBenchConfig) and config.split == "test"
        write = leaderboard if ranked else write_answers
        write(questions, [_as_published(*each) for each in zip(questions, said, strict=True)], path)
        return len(questions)

    def flops(self) -> float:
        """Forward passes alone; training dominates."""
        shape = self.vlm.mind().config.shape()
        tokens = self.vlm.eyes().words([stage.encoder for stage in self.vlm.looks()]) + 50.0
        return len(WAYS) * self.questions.asked * shape.forward(tokens, 1.0)


def _all(benchmark: Benchmark, template: str) -> list[Question]:
    """All questions as a template asks them."""
    return [worded(benchmark.question(index), template) for index in range(len(benchmark))]


def _as_published(question: Question, said: str) -> str:
    """An answer as the benchmark wants it: a letter, where options have them."""
    return said if said in question.says else question.says[question.options.index(said)]


def _written(folder: Path) -> list[str]:
    texts: list[str] = json.loads((folder / "written.json").read_text(encoding="utf-8"))
    return texts


def _read_elsewhere(texts: list[str], questions: list[Question]) -> dict[str, Bool[np.ndarray, " Q"]]:
    """Which answers each harness takes for right; none of one that does not read such questions."""
    found: dict[str, Bool[np.ndarray, " Q"]] = {}
    for way, read in HARNESSES.items():
        try:
            found[way] = read(texts, questions, GUESSES).correct
        except UserError:
            continue
    return found


def asked(question: Question, template: str) -> Turns:
    """A question with its picture, as a conversation whose reply is open."""
    return (Turn(f"{IMAGE}\n{prompt(question, template)}", ""),)


class Asking:
    """One model and one benchmark; pictures are looked at once, however often they are asked about."""

    def __init__(
        self,
        model: VisionLanguage,
        benchmark: Benchmark,
        ask: AskConfig,
        vlm: Instruct,
        runtime: Runtime,
    ) -> None:
        self.model, self.vlm, self.ask, self.device = model, vlm, ask, runtime.torch_device
        self.questions = _all(benchmark, ask.template)
        self.seen = self._look()
        digests = [hashlib.sha256(question.image.tobytes()).hexdigest() for question in self.questions]
        self.wrong = scoring.wrong_image_order(len(self.questions), vlm.seed, digests)

    def _look(self) -> Float[torch.Tensor, "Q N D"]:
        """What the frozen eyes see of every question's picture."""
        rows = []
        for start in progress(range(0, len(self.questions), BLOCK), label="looking", unit="block"):
            part = [question.image for question in self.questions[start : start + BLOCK]]
            rows.append(looked(self.model, self.vlm, part).cpu())
        return torch.cat(rows)

    def cut(self) -> int:
        """How many questions leave no room for a reply beside their picture; unlisted options are replies."""
        chat, template = self.model.chat, self.ask.template
        if lists_options(template):
            spoken = chat.speak([asked(each, template) for each in self.questions], cue=True)
            return sum(len(each.ids) >= chat.context for each in spoken)
        return sum(
            any(
                len(said.ids) >= chat.context
                for said in chat.speak(replied(asked(each, template), each.says))
            )
            for each in self.questions
        )

    def scores(self, way: Way) -> Float32[np.ndarray, "Q C"]:
        """Log-likelihoods of the options, asked in one of the ways."""
        places = self.wrong if way == "wrong image" else np.arange(len(self.questions))
        return self._scored(self.questions, places, blind=way == "no image", label=way)

    def rotated(self) -> Float32[np.ndarray, "N C"]:
        """The same for every rotation of every question's options."""
        turned = [scoring.rotations(question) for question in self.questions]
        places = np.repeat(np.arange(len(turned)), [len(some) for some in turned])
        return self._scored([each for some in turned for each in some], places, blind=False, label="rotated")

    def written(self) -> list[str]:
        """What the model writes to each question."""
        texts: list[str] = []
        for start in progress(range(0, len(self.questions), BLOCK), label="writing", unit="block"):
            part = self.questions[start : start + BLOCK]
            with rounding(self.vlm, self.device):
                texts += write(
                    self.model, self._batch(part, np.arange(start, start + len(part)), blind=False)
                )
        return texts

    def _scored(
        self, questions: Sequence[Question], places: np.ndarray, *, blind: bool, label: str
    ) -> Float32[np.ndarray, "Q C"]:
        says = [question.says for question in questions]
        out = np.full((len(says), max(map(len, says))), -np.inf, dtype=np.float32)
        for start in progress(range(0, len(says), BLOCK), label=f"questions, {label}", unit="block"):
            rows = slice(start, start + BLOCK)
            batch = self._batch(questions[rows], places[rows], blind=blind)
            with rounding(self.vlm, self.device):
                scores = self._likely(batch, says[rows]).float().numpy()
            out[rows, : scores.shape[1]] = scores
        return out

    def _likely(self, batch: Batch, says: Sequence[Sequence[str]]) -> torch.Tensor:
        """How likely options are: listed ones by their first token, others as the whole reply."""
        if lists_options(self.ask.template):
            return option_scores(self.model, batch, first_words(self.model.chat, says))
        return reply_scores(self.model, batch, says)

    def _batch(self, questions: Sequence[Question], places: np.ndarray, *, blind: bool) -> Batch:
        shown = [asked(question, self.ask.template) for question in questions]
        turns = [without_picture(each) for each in shown] if blind else shown
        ids = np.array([key_id(question.key) for question in questions], dtype=np.uint64)
        views = {} if blind else {SEEN: self.seen[torch.from_numpy(places)].to(self.device)}
        return Batch(ids, views, [""] * len(turns), turns)
