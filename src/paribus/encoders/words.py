"""What a two-tower model says of texts, in the space where its pictures are: for zero-shot classification."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional as F

from paribus.encoders.folders import read_json, recognised
from paribus.encoders.towers_exchange import read_stage_joint
from paribus.encoders.weights import load_model, load_tokenizer
from paribus.errors import UserError

TEXTS = 256


class Reading(NamedTuple):
    """How a model of transformers' is given texts."""

    padding: str | bool
    inputs: tuple[str, ...]


READINGS = {
    "clip": Reading(True, ("input_ids", "attention_mask")),
    "siglip": Reading("max_length", ("input_ids",)),  # it was taught with whole contexts (its model card)
}
"""model_type -> how."""


class Words(NamedTuple):
    """Vectors of texts, and the map by which an encoder's vectors come to them; None if they are there."""

    texts: Float32[np.ndarray, "C E"]
    projection: Float32[np.ndarray, "E D"] | None

    def see(self, vectors: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N E"]:
        """An encoder's vectors in the space of the words."""
        return vectors if self.projection is None else vectors @ self.projection.T


def reads_words(folder: Path) -> bool:
    """Whether a folder of transformers' holds a text tower that is known."""
    try:
        known = recognised(folder) == "transformers"
        return known and read_json(folder / "config.json").get("model_type") in READINGS
    except UserError:
        return False


def read_words(folder: Path, texts: Sequence[str]) -> Words:
    """Texts as a folder's own text tower reads them.

    Args:
        folder: a CLIPModel or SiglipModel of transformers', or a study's arm that read captions.
        texts: what to read.

    Raises:
        UserError: the folder holds no text tower that is known.
    """
    form = recognised(folder)
    if form == "stage":
        return _by_stage(folder, texts)
    kind = read_json(folder / "config.json").get("model_type") if form == "transformers" else form
    if kind not in READINGS:
        raise UserError(
            f"{folder} holds no text tower that Paribus asks: give a CLIPModel or a SiglipModel of "
            f"transformers', or an arm that read captions, not {kind}."
        )
    return _by_transformers(folder, READINGS[kind], texts)


@torch.no_grad()
def _by_stage(folder: Path, texts: Sequence[str]) -> Words:
    joint = read_stage_joint(folder)
    tower = joint.text.eval()
    read = torch.cat([tower(part) @ joint.text_proj.T for part in _parts(texts)])
    return Words(F.normalize(read, dim=-1).numpy(), joint.image_proj.numpy())


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """So many texts at a time that a tower's activations stay small."""
    for start in range(0, len(texts), TEXTS):
        yield list(texts[start : start + TEXTS])


@torch.no_grad()
def _by_transformers(folder: Path, how: Reading, texts: Sequence[str]) -> Words:
    model: Any = load_model(folder, dtype=torch.float32)
    context = int(model.config.text_config.max_position_embeddings)
    tokenizer, read = load_tokenizer(folder), []
    for part in _parts(texts):
        tokens = tokenizer(
            part, padding=how.padding, truncation=True, max_length=context, return_tensors="pt"
        )
        out = model.get_text_features(**{name: tokens[name] for name in how.inputs})
        read.append(getattr(out, "pooler_output", out))
    found = torch.cat(read)
    head = getattr(model, "visual_projection", None)
    return Words(F.normalize(found, dim=-1).numpy(), None if head is None else head.weight.numpy())
