"""The whole downstream as one config, equal for all arms: LLaVA-1.5's two stages, and what is asked."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paribus.data.conversations import ConversationsConfig
from paribus.encoders.published import Fit
from paribus.types import Budget, Config, Recipe
from paribus.vlm.eyes import EyesConfig
from paribus.vlm.language import AnyLanguage, LanguageConfig
from paribus.vlm.lora import LoRAConfig
from paribus.vlm.model import Part
from paribus.vqa.glyphqa import GlyphQAConfig
from paribus.vqa.registry import AnyBenchmark

Wording = Literal["plain", "chat"]
"""LLaVA's ``plain``, picture and caption and nothing else; or as the language model is spoken to."""


class CaptionsConfig(Config):
    """The corpus' own pictures and captions."""

    kind: Literal["captions"] = "captions"


class QuestionsConfig(Config):
    """The training half of the built-in questions."""

    kind: Literal["glyphqa"] = "glyphqa"


AnyTalk = Annotated[CaptionsConfig | QuestionsConfig | ConversationsConfig, Field(discriminator="kind")]


def _llava(lr: float) -> Recipe:
    """LLaVA-1.5's, of transformers' Trainer: AdamW with its own betas and eps, gradients cut at norm 1."""
    return Recipe(lr=lr, warmup=0.03, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, clip=1.0)


class Lesson(Config):
    """One stage of training: from what, how much, how, and what moves."""

    data: AnyTalk
    budget: Budget
    recipe: Recipe
    fit: Fit = "crop"
    wording: Wording = "chat"
    trained: tuple[Part, ...]
    lora: LoRAConfig | None = Field(None, description="factors of the language model, in place of all of it")
    grouped: bool = Field(
        False, description="batches of pictures or of text alone (group_by_modality_length)"
    )
    words: int = Field(40, ge=1, description="tokens of text of a sample, about: for planning")
    targets: int = Field(4, ge=1, description="tokens of its replies, about: for planning")

    @model_validator(mode="after")
    def _moves(self) -> "Lesson":
        if not self.trained and self.lora is None:
            raise ValueError("nothing moves: name what is trained, of encoder, connector, language")
        return self


class AlignLesson(Lesson):
    """LLaVA-1.5's first: the connector, on captions."""

    data: AnyTalk = CaptionsConfig()
    budget: Budget = Budget(samples=8_000, batch=64)
    recipe: Recipe = _llava(1e-3)
    trained: tuple[Part, ...] = ("connector",)
    words: int = 20
    targets: int = 15


class InstructLesson(Lesson):
    """LLaVA-1.5's second: connector and language model, on conversations."""

    data: AnyTalk = QuestionsConfig()
    budget: Budget = Budget(samples=16_000, batch=64)
    recipe: Recipe = _llava(2e-5)
    trained: tuple[Part, ...] = ("connector", "language")


class AskConfig(Config):
    """How questions are asked and answered."""

    template: str = Field("short", description="a name in vqa.benchmark.PROMPTS")
    circular: bool = Field(False, description="also with options rotated, right only if right in all places")
    generate: bool = Field(False, description="also by what the model writes, strictly read")
    calibrated: bool = Field(
        False,
        description="also with each option's likelihood normalised by what the model says without a picture",
    )
    benchmarks: tuple[AnyBenchmark, ...] = Field((), description="read from their publishers' files")


class VisionLanguageConfig(Config):
    """An encoder's life as the eyes of a language model."""

    language: AnyLanguage = LanguageConfig()
    language_budget: Budget = Field(
        Budget(samples=32_000, batch=64), description="of a language model that is trained from scratch"
    )
    language_recipe: Recipe = Recipe(lr=2e-3, weight_decay=0.05, clip=1.0)
    eyes: EyesConfig = EyesConfig()
    questions: GlyphQAConfig | None = Field(GlyphQAConfig(), description="the built-in benchmark, if wanted")
    align: AlignLesson = AlignLesson()
    instruct: InstructLesson = InstructLesson()
    ask: AskConfig = AskConfig()
