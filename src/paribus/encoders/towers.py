"""Text towers by kind, what they are built from, and the projections that join them to pictures.

A tower turns captions into vectors. It is not an objective: any tower serves any objective that reads text.
A new kind is a file and a line in ``TOWERS``.
"""

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from paribus.encoders.pretrained import PretrainedConfig, PretrainedTower
from paribus.encoders.text import Material, TextConfig, TextTower, Tower, TowerConfig
from paribus.encoders.vectors import FrozenConfig, VectorTower

TOWERS: dict[str, tuple[type[TowerConfig], Callable[..., Tower]]] = {
    "scratch": (TextConfig, TextTower),
    "pretrained": (PretrainedConfig, PretrainedTower),
    "frozen": (FrozenConfig, VectorTower),
}
"""Kind -> its config, and the tower made of (config, material, seed)."""


def _scratch(value: Any) -> Any:
    """A tower of no stated kind is one from scratch."""
    return {"kind": "scratch", **value} if isinstance(value, dict) else value


if TYPE_CHECKING:
    AnyTower = TowerConfig
else:
    _configs = [config for config, _ in TOWERS.values()]
    _told_apart = Annotated[functools.reduce(operator.or_, _configs), Field(discriminator="kind")]
    AnyTower = Annotated[_told_apart, BeforeValidator(_scratch)]


def build_tower(config: TowerConfig, material: Material, seed: int) -> Tower:
    """The tower that a config names.

    Raises:
        UserError: the material does not fit: tokenizer, width, context or weights.
    """
    _, tower = TOWERS[config.kind]
    return tower(config, material, seed)
