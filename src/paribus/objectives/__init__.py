"""Supervision signals, one paper per file. A new one is a file and a line in ``single.SINGLE``."""

import functools
import operator
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.hybrid import Hybrid
from paribus.objectives.presets import expand
from paribus.objectives.single import SINGLE, Kind

OBJECTIVES: dict[str, Kind] = {**SINGLE, "hybrid": Hybrid}  # type: ignore[dict-item]

if TYPE_CHECKING:
    AnyObjective = ObjectiveConfig
else:
    _configs = [kind.Config for kind in OBJECTIVES.values()]
    _told_apart = Annotated[functools.reduce(operator.or_, _configs), Field(discriminator="kind")]
    AnyObjective = Annotated[_told_apart, BeforeValidator(expand)]


def build_objective(
    config: ObjectiveConfig, encoder: VisionEncoder, material: Material, seed: int
) -> Objective:
    """The objective that a config names, on the given encoder."""
    return OBJECTIVES[config.kind](config, encoder, material, seed)
