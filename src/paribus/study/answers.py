"""The stage that asks a finished model: with its picture, without one, and with another's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from pydantic import Field
from safetensors.numpy import load_file, save_file

from paribus.encoders.published import evaluate
from paribus.encoders.vision import EncoderConfig
from paribus.files import whole_file, write_json
from paribus.progress import progress
from paribus.rng import key_id
from paribus.study.downstream import Instruct
from paribus.study.recipe import AskConfig
from paribus.study.stage import Stage
from paribus.study.talks import AnyQuestions
from paribus.types import IMAGE, Batch, Config, Runtime, Turn
from paribus.vlm.answering import first_words, option_scores, without_picture, write
from paribus.vlm.model import SEEN, VisionLanguage
from paribus.vqa import scoring
from paribus.vqa.benchmark import Benchmark, Question, prompt

Way = Literal["seen", "no image", "wrong image"]
WAYS: tuple[Way, ...] = ("seen", "no image", "wrong image")
"""How questions are asked; the last two are blind, and say what language alone explains."""

BLOCK = 64
"""Questions asked at once."""


class AnswerRecord(Config):
    """How it went."""

    questions: int
    accuracy: dict[str, float] = Field(
        description="way -> share of right answers; none without published ones"
    )
    unparsed: int | None = Field(None, description="written answers that name no option, or several")


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
    precision: Literal["bf16", "fp32"]

    def compute(self, folder: Path, runtime: Runtime) -> AnswerRecord:
        """Write ``scores.safetensors``: way -> log-likelihoods ``[Q C]``; and ``written.json`` if wanted."""
        model = self.vlm.open(runtime).to(runtime.torch_device).eval()
        benchmark = self.questions.test(runtime)
        asking = Asking(model, benchmark, self.ask, self.vlm, self.precision, runtime)
        scores: dict[str, np.ndarray] = {way: asking.scores(way) for way in WAYS}
        if self.ask.circular:
            scores["rotated"] = asking.rotated()
        with whole_file(folder / "scores.safetensors") as path:
            save_file(scores, path)
        if self.ask.generate:
            write_json(folder / "written.json", asking.written())
        return self._record(folder, asking.questions)

    def _record(self, folder: Path, questions: list[Question]) -> AnswerRecord:
        if not all(question.answer for question in questions):
            return AnswerRecord(questions=len(questions), accuracy={})
        correct = self._correct(folder, questions)
        unparsed = None
        if self.ask.generate:
            unparsed = int(scoring.score_texts(_written(folder), questions).unparsed.sum())
        return AnswerRecord(
            questions=len(questions),
            accuracy={way: float(right.mean()) for way, right in correct.items()},
            unparsed=unparsed,
        )

    def _correct(self, folder: Path, questions: list[Question]) -> dict[str, Bool[np.ndarray, " Q"]]:
        scores = load_file(folder / "scores.safetensors")
        correct: dict[str, Bool[np.ndarray, " Q"]]
        correct = {way: scoring.score(scores[way].astype(np.float64), questions) for way in WAYS}
        correct["majority"] = scoring.score(scoring.majority(questions), questions)
        if self.ask.circular:
            turned = [turned for question in questions for turned in scoring.rotations(question)]
            each = scoring.score(scores["rotated"].astype(np.float64), turned)
            correct["circular"] = scoring.circular(each, questions)
        if self.ask.generate:
            correct["written"] = scoring.score_texts(_written(folder), questions).correct
        return correct

    def open(self, runtime: Runtime) -> Answered:
        """The questions, and which were answered rightly."""
        benchmark = self.questions.test(runtime)
        questions = [benchmark.question(index) for index in range(len(benchmark))]
        return Answered(questions, self._correct(self.folder(runtime), questions))

    def flops(self) -> float:
        """Forward passes alone; training dominates."""
        shape = self.vlm.mind().config.shape()
        tokens = self.vlm.eyes().words([stage.encoder for stage in self.vlm.looks()]) + 50.0
        return len(WAYS) * self.questions.asked * shape.forward(tokens, 1.0)


def _written(folder: Path) -> list[str]:
    import json

    texts: list[str] = json.loads((folder / "written.json").read_text(encoding="utf-8"))
    return texts


class Asking:
    """One model and one benchmark; pictures are looked at once, however often they are asked about."""

    def __init__(
        self,
        model: VisionLanguage,
        benchmark: Benchmark,
        ask: AskConfig,
        vlm: Instruct,
        precision: str,
        runtime: Runtime,
    ) -> None:
        self.model, self.ask, self.half = model, ask, precision == "bf16"
        self.device = runtime.torch_device
        self.questions = [benchmark.question(index) for index in range(len(benchmark))]
        configs = [stage.encoder for stage in vlm.looks()]
        self.seen = self._look(configs, vlm)
        digests = [hashlib.sha256(question.image.tobytes()).hexdigest() for question in self.questions]
        self.wrong = scoring.wrong_image_order(len(self.questions), vlm.seed, digests)

    @torch.no_grad()
    def _look(self, configs: Sequence[EncoderConfig], vlm: Instruct) -> torch.Tensor:
        """What the frozen eyes see of every question's picture, ``[Q N D]``."""
        eyes, rows = self.model.eyes, []
        assert eyes is not None
        for start in progress(range(0, len(self.questions), BLOCK), label="looking", unit="block"):
            part = [question.image for question in self.questions[start : start + BLOCK]]
            views = [evaluate(config, part, vlm.lesson.fit).to(self.device) for config in configs]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                rows.append(eyes.look(views).cpu())
        return torch.cat(rows)

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
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                texts += write(
                    self.model, self._batch(part, np.arange(start, start + len(part)), blind=False)
                )
        return texts

    def _scored(
        self, questions: Sequence[Question], places: np.ndarray, *, blind: bool, label: str
    ) -> Float32[np.ndarray, "Q C"]:
        words = first_words(self.model.chat, [question.says for question in questions])
        out = np.empty(words.shape, dtype=np.float32)
        for start in progress(range(0, len(questions), BLOCK), label=f"questions, {label}", unit="block"):
            rows = slice(start, start + BLOCK)
            batch = self._batch(questions[rows], places[rows], blind=blind)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                out[rows] = option_scores(self.model, batch, words[rows]).float().numpy()
        return out

    def _batch(self, questions: Sequence[Question], places: np.ndarray, *, blind: bool) -> Batch:
        asked = [(Turn(f"{IMAGE}\n{prompt(question, self.ask.template)}", ""),) for question in questions]
        turns = [without_picture(each) for each in asked] if blind else asked
        ids = np.array([key_id(question.key) for question in questions], dtype=np.uint64)
        views = {} if blind else {SEEN: self.seen[torch.from_numpy(places)].to(self.device)}
        return Batch(ids, views, [""] * len(turns), turns)
