"""Control, Treatment, Confound: what is equal, what is compared, and what is admitted to differ."""

import copy
import json
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from paribus.data.glyphs import GlyphsConfig
from paribus.encoders.towers import TOWERS
from paribus.encoders.vision import EncoderConfig
from paribus.errors import UserError
from paribus.objectives import OBJECTIVES, AnyObjective
from paribus.objectives.base import ObjectiveConfig
from paribus.study.corpora import OWN, AnySource
from paribus.study.recipe import VisionLanguageConfig
from paribus.types import Budget, Config, Confound, Recipe, ViewSpec
from paribus.vqa.registry import BENCHMARKS

Level = Literal["recipe", "strict", "compute"]

GLYPHS = GlyphsConfig().kind

GEOMETRY = ("name", "count", "size", "scale")
"""What of a view belongs to an objective: how many crops of which size. The rest is photometric."""


class Data(Config):
    """Where the pictures come from and what their captions mention."""

    source: AnySource = GlyphsConfig()
    captions: str = Field("thing", description="what they mention; of one's own data always own")
    vocabulary: int = Field(4096, ge=300, description="of the BPE tokenizer trained on the captions")

    @model_validator(mode="before")
    @classmethod
    def _own(cls, value: Any) -> Any:
        """Where nothing is said, all data but the built-in corpus have captions of their own."""
        source = value.get("source") if isinstance(value, dict) else None
        if isinstance(source, dict) and source.get("kind", GLYPHS) != GLYPHS:
            return {"captions": OWN, **value}
        return value


class Control(Config):
    """Everything that is equal for all arms."""

    data: Data = Data()
    encoder: EncoderConfig = EncoderConfig()
    budget: Budget
    recipe: Recipe = Recipe()
    view: ViewSpec = Field(
        ViewSpec(name="image", scale=(0.4, 1.0), flip=0.5),
        description="the augmentation that level strict gives to every arm's crops",
    )
    precision: Literal["bf16", "fp32"] = "bf16"
    level: Level = "recipe"
    measured_on: GlyphsConfig | None = Field(
        None, description="the corpus of all measures; None: the training source, if it is glyphs"
    )
    vlm: VisionLanguageConfig = VisionLanguageConfig()


class Treatment(Config):
    """One arm: the supervision, why it is there, and how it departs from the control besides."""

    objective: AnyObjective
    because: str = Field(min_length=1)
    after: str | None = Field(None, description="the arm whose trained encoder this one begins with")
    captions: str | None = Field(None, description="what this arm's captions mention, where that is treated")
    confounds: tuple[Confound, ...] = ()


def arm_views(objective: ObjectiveConfig, control: Control) -> tuple[ViewSpec, ...]:
    """An arm's crops: as published, or at ``strict`` its geometry under the control's augmentation.

    Small crops keep their own share of the image, because being small is the treatment; full-size crops
    take the control's.
    """
    published = objective.views()
    if control.level != "strict":
        return published
    return tuple(
        control.view.model_copy(
            update={
                "name": view.name,
                "count": view.count,
                "size": view.size,
                "scale": view.scale if view.size < 1 else control.view.scale,
            }
        )
        for view in published
    )


def arm_confounds(treatment: Treatment, control: Control) -> tuple[Confound, ...]:
    """All declared departures of an arm at the control's level; the study's own come last and win."""
    published = () if control.level == "strict" else treatment.objective.recipe()
    by_path = {confound.path: confound for confound in (*published, *treatment.confounds)}
    return tuple(by_path.values())


def depart(settings: dict[str, Any], confounds: tuple[Confound, ...], arm: str) -> dict[str, Any]:
    """Apply confounds to an arm's settings.

    Raises:
        UserError: a path does not exist.
    """
    changed: dict[str, Any] = json.loads(json.dumps(settings))
    for confound in confounds:
        if not put(changed, confound.path, confound.value):
            raise UserError(
                f"arms.{arm}.confounds: there is no setting {confound.path!r}; "
                f"settings begin with {', '.join(sorted(changed))}."
            )
    return changed


def put(settings: dict[str, Any], path: str, value: Any) -> bool:
    """Set what stands at a path, e.g. ``recipe.lr``; whether there is such a setting."""
    *parents, last = path.split(".")
    place: Any = settings
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        return False
    place[last] = copy.deepcopy(value)  # it belongs to a frozen config, and a later path may lead into it
    return True


KINDS: dict[str, tuple[str, ...]] = {
    "objective": tuple(OBJECTIVES),
    "text": tuple(TOWERS),
    "source": (GLYPHS, "shards", "folder", "table", "huggingface"),
    "language": ("qwen2", "llama", "pretrained"),
    "connector": ("linear", "mlp", "resampler"),
    "align.data": ("captions", "glyphqa", "llava"),
    "instruct.data": ("captions", "glyphqa", "llava"),
    "benchmarks": tuple(BENCHMARKS),
}
"""Fields of several kinds -> the kinds, which pydantic puts into its paths though no file has them there.

A field is told by its name, or by its parent's and its own.
"""


def _kinds(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """The kinds of the field that a path ends in, or of the list that it ends in an item of."""
    names = [part for part in loc if isinstance(part, str)]
    return KINDS.get(".".join(names[-1:])) or KINDS.get(".".join(names[-2:])) or ()


def _path(loc: tuple[int | str, ...]) -> str:
    """Where in the file: pydantic's path without the kinds."""
    inside = [str(part) for place, part in enumerate(loc) if part not in _kinds(loc[:place])]
    return ".".join(inside) or "the file"


def one_sentence(error: ValidationError, where: str) -> str:
    """The first complaint of a pydantic error as one sentence that names file, field and value."""
    first = error.errors()[0]
    path = _path(first["loc"])
    more = len(error.errors()) - 1
    also = f" ({more} more after it)" if more else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: {path} is not a known key; remove it or correct its spelling{also}."
    if first["type"] == "union_tag_not_found":
        kinds = ", ".join(kind for kind in _kinds(first["loc"]) if kind not in first["loc"])
        return f"{where}: {path}: say its kind, one of {kinds}{also}."
    value = (
        f", not {first['input']!r}"
        if first["type"] != "too_short" and not isinstance(first["input"], dict)
        else ""
    )
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {path}: {message[0].lower()}{message[1:]}{value}{also}."
