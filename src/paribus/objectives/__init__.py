"""Supervision signals, one paper per file. A new one is a file and a line in ``OBJECTIVES``."""

from typing import Annotated

from pydantic import Field
from tokenizers import Tokenizer

from paribus.encoders.vision import VisionEncoder
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.clip import Clip
from paribus.objectives.dino import Dino

OBJECTIVES: dict[str, type[Clip] | type[Dino]] = {"clip": Clip, "dino": Dino}

AnyObjective = Annotated[Clip.Config | Dino.Config, Field(discriminator="kind")]


def build_objective(
    config: ObjectiveConfig, encoder: VisionEncoder, tokenizer: Tokenizer | None, seed: int
) -> Objective:
    """The objective that a config names, on the given encoder."""
    kind: str = config.kind  # type: ignore[attr-defined]
    return OBJECTIVES[kind](config, encoder, tokenizer, seed)  # type: ignore[arg-type]
