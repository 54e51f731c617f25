"""Who is taught to see: a language model an arm, and those that a study names besides.

Each is the control's downstream, with the changes that it declares: two encoders together, a published
encoder, another connector or language model, weights that move otherwise.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from paribus.errors import UserError
from paribus.study.answers import Answer
from paribus.study.control import one_sentence, put
from paribus.study.corpora import Corpus
from paribus.study.downstream import Align, Instruct, Language, PublishedLanguage
from paribus.study.recipe import CaptionsConfig, Lesson, QuestionsConfig, VisionLanguageConfig
from paribus.study.stages import AnyEncoder
from paribus.study.talks import AnyTalks, Asking, Captions, Mix, Published, Questions
from paribus.types import Config
from paribus.vlm.conversation import TEMPLATES
from paribus.vlm.language import LanguageConfig, PretrainedLanguageConfig
from paribus.vqa.benchmark import check_template


class Entry(Config):
    """An encoder that was trained elsewhere."""

    weights: str = Field(min_length=1, description="its folder, in any layout that `paribus encoder` reads")
    because: str = Field(min_length=1)


class Seer(Config):
    """One model that sees, besides the arms' own."""

    encoders: tuple[str, ...] = Field(min_length=1, description="arms, baselines or published ones, by name")
    because: str = Field(min_length=1)
    change: dict[str, Any] = Field(
        {}, description="settings of control.vlm by path, e.g. {eyes.connector: {kind: linear}}"
    )

    def told(self) -> str:
        """Why it is there, and all that it has otherwise than the arms' own models."""
        changes = [f"{path}: {json.dumps(value)}" for path, value in self.change.items()]
        return f"{self.because} ({'; '.join([' and '.join(self.encoders), *changes])})"


def departed(vlm: VisionLanguageConfig, change: dict[str, Any], where: str) -> VisionLanguageConfig:
    """The downstream with the changes that a model declares.

    Raises:
        UserError: there is no such setting, or it cannot have the value.
    """
    settings = vlm.model_dump(mode="json")
    inner = next(((p, q) for p in change for q in change if q.startswith(f"{p}.")), None)
    if inner is not None:
        raise UserError(f"{where}: {inner[1]} lies in {inner[0]}, which is given as a whole: write it there.")
    for path, value in change.items():
        if path.split(".")[0] == "questions":
            raise UserError(
                f"{where}: questions are asked of all models alike: change control.vlm.questions."
            )
        if not put(settings, path, value):
            raise UserError(
                f"{where}: there is no setting control.vlm.{path}; settings begin with {', '.join(settings)}."
            )
    try:
        return VisionLanguageConfig.model_validate(settings)
    except ValidationError as error:
        raise UserError(one_sentence(error, where)) from error


@dataclass(frozen=True)
class Teaching:
    """How encoders become a language model's eyes, and what it is asked then.

    Args:
        vlm: the downstream.
        corpus: the built-in corpus that captions and questions are made from.
        told: what its captions mention.
        precision: of training and of asking.
    """

    vlm: VisionLanguageConfig
    corpus: Corpus
    told: str
    precision: Literal["bf16", "fp32"]

    def model(self, encoders: Sequence[AnyEncoder], seed: int) -> Instruct:
        """A language model that was taught to see with these encoders."""
        align = Align(
            encoders=tuple(encoders),
            language=self._language(seed),
            sight=self.vlm.eyes,
            **self._lesson(self.vlm.align, seed),
        )
        return Instruct(align=align, **self._lesson(self.vlm.instruct, seed))

    def answers(self, encoders: Sequence[AnyEncoder], seed: int) -> tuple[Answer, ...]:
        """Its answers to every benchmark."""
        instruct, ask = self.model(encoders, seed), self.vlm.ask
        made = () if self.vlm.questions is None else (self._made(),)
        asked = (*made, *(Published(config=config) for config in ask.benchmarks))
        return tuple(Answer(vlm=instruct, questions=questions, ask=ask) for questions in asked)

    def check(self, where: str) -> None:
        """See what types cannot say.

        Raises:
            UserError: a template or a benchmark is not what it should be.
        """
        if self.vlm.questions is None and not self.vlm.ask.benchmarks:
            raise UserError(
                f"{where}: nothing is asked, so nothing would be taught: name a benchmark under "
                "ask.benchmarks, or remove questions: null."
            )
        try:
            check_template(self.vlm.ask.template)
        except UserError as error:
            raise UserError(f"{where}.ask.template: {error}") from error
        language = self.vlm.language
        worded = language.template if isinstance(language, PretrainedLanguageConfig) else None
        if worded is not None and worded not in TEMPLATES:
            raise UserError(
                f"{where}.language.template: there is no {worded!r}; choose one of {', '.join(TEMPLATES)}."
            )
        titles = [Published(config=config).title for config in self.vlm.ask.benchmarks]
        twice = [title for title in dict.fromkeys(titles) if titles.count(title) > 1]
        if twice:
            raise UserError(f"{where}.ask.benchmarks: {twice[0]} stands there twice; write it once.")

    def _made(self) -> Questions:
        """The built-in questions.

        Raises:
            UserError: they are switched off, and something is to be learnt from them.
        """
        if self.vlm.questions is None:
            raise UserError(
                "control.vlm.questions: nothing is made, but a language model is to be taught from it: "
                "remove the null, or take a published language model and conversations of your own."
            )
        return Questions(corpus=self.corpus, config=self.vlm.questions)

    def _language(self, seed: int) -> Language | PublishedLanguage:
        vlm = self.vlm
        if not isinstance(vlm.language, LanguageConfig):
            return PublishedLanguage(config=vlm.language)
        return Language(
            corpus=self.corpus,
            questions=self._made(),
            template=vlm.ask.template,
            captions=self.told,
            config=vlm.language,
            budget=vlm.language_budget,
            recipe=vlm.language_recipe,
            precision=self.precision,
            seed=seed,
        )

    def _talks(self, lesson: Lesson) -> AnyTalks:
        if isinstance(lesson.data, CaptionsConfig):
            return Captions(corpus=self.corpus, captions=self.told)
        if isinstance(lesson.data, QuestionsConfig):
            return Asking(questions=self._made(), template=self.vlm.ask.template)
        return Mix(config=lesson.data)

    def _lesson(self, lesson: Lesson, seed: int) -> dict[str, Any]:
        return {
            "lesson": lesson,
            "talks": self._talks(lesson),
            "budget": lesson.budget,
            "recipe": lesson.recipe,
            "precision": self.precision,
            "seed": seed,
        }
