"""What configs of other libraries have in common: published means, and how their words are looked up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from paribus.encoders.vision import Crop, Interpolation
from paribus.errors import UserError
from paribus.types import Config

Settings = dict[str, Any]

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Pixels(Config):
    """How a model's pictures are prepared, in the words of ``EncoderConfig``."""

    image_size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    resize: int | None = Field(None, ge=1)
    squash: bool = False
    crop: Crop = "torchvision"


INTERPOLATIONS: dict[str, Interpolation] = {"bicubic": "bicubic", "bilinear": "bilinear"}


def known(table: Mapping[Any, Any], value: Any, what: str, where: Path) -> Any:
    """A table's entry.

    Raises:
        UserError: there is none; the sentence lists what there is.
    """
    if value not in table:
        listed = ", ".join(str(key) for key in table)
        raise UserError(f"{where} says {what} {value!r}, which Paribus does not know: it reads {listed}.")
    return table[value]


def inverse(table: Mapping[Any, Any], value: Any) -> Any:
    """The first key of a value."""
    return next(key for key, found in table.items() if found == value)
