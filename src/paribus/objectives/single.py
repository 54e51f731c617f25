"""The objectives that stand alone, by kind: what a study's arm can be, and what a hybrid is made of.

A new objective is a file and a line in ``SINGLE``.
"""

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.clip import Clip
from paribus.objectives.dino import Dino
from paribus.objectives.dinotxt import DinoTxt
from paribus.objectives.siglip import SigLip
from paribus.objectives.simclr import SimClr


class Kind(Protocol):
    """A registered objective: its class, made of (config, encoder, material, seed)."""

    Config: type[ObjectiveConfig]

    def __call__(
        self, config: ObjectiveConfig, encoder: VisionEncoder, material: Material, seed: int, /
    ) -> Objective:
        """Build it."""
        ...


SINGLE: dict[str, Kind] = {
    "clip": Clip,  # type: ignore[dict-item]
    "dino": Dino,  # type: ignore[dict-item]
    "dinotxt": DinoTxt,  # type: ignore[dict-item]
    "siglip": SigLip,  # type: ignore[dict-item]
    "simclr": SimClr,  # type: ignore[dict-item]
}

if TYPE_CHECKING:
    AnySingle = ObjectiveConfig
else:
    _configs = [kind.Config for kind in SINGLE.values()]
    AnySingle = Annotated[functools.reduce(operator.or_, _configs), Field(discriminator="kind")]


def build_single(config: ObjectiveConfig, encoder: VisionEncoder, material: Material, seed: int) -> Objective:
    """The objective that a config names, on the given encoder."""
    return SINGLE[config.kind](config, encoder, material, seed)
