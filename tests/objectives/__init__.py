"""Small things to train, for the tests of objectives and of the loop: real photographs, tiny models."""

from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paribus.data.loader import Loader
from paribus.encoders.text import Material, TextConfig, train_tokenizer
from paribus.encoders.vision import EncoderConfig, VisionEncoder, in_unit
from paribus.objectives import OBJECTIVES
from paribus.types import IMAGE, Batch, Sample, Turn

ENCODER = EncoderConfig(patch=4, width=16, depth=2, heads=2, mlp_ratio=2.0, image_size=16)

COLOURS = ("red", "blue", "green", "yellow")
PLACES = ("left", "right", "top", "bottom", "middle")
THINGS = {"china.jpg": "temple roof", "flower.jpg": "flower"}
CAPTIONS = tuple(
    f"the {place} of a {thing}, mostly {colour}, number {number}"
    for number, (thing, colour, place) in enumerate(
        (thing, colour, place) for thing in THINGS.values() for colour in COLOURS for place in PLACES
    )
)
TOKENIZER = train_tokenizer(CAPTIONS, 320)
MATERIAL = Material(tokenizer=TOKENIZER)

TINY = {
    "embed": 8,
    "text": TextConfig(context=24, vocabulary=320, width=16, depth=2, heads=2),
    "out": 24,
    "hidden": 16,
    "bottleneck": 8,
    "local_crops": 2,
    "local_size": 0.5,
    "blocks": 1,
}
"""Sizes by the name of the setting; a new objective takes those that it knows."""

PARTS = {
    "siglip": {"objective": ("siglip", {"reads": ("global1", "global2")}), "weight": 0.5},
    "simclr": {"objective": ("simclr", {})},
    "dino": {"objective": ("dino", {"drop_path": 0.0}), "weight": 2.0},
}
"""A hybrid of everything; two parts look at the same crops."""


@dataclass(frozen=True)
class Photos:
    """Forty pieces of two real photographs, with captions of different lengths."""

    digest: str = "photos"
    pieces: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        photos = [load_sample_image(name) for name in THINGS]
        for number in range(len(CAPTIONS)):
            photo = photos[number * 2 // len(CAPTIONS)]
            top, left = rng.integers(0, photo.shape[0] - 40), rng.integers(0, photo.shape[1] - 40)
            self.pieces.append(np.ascontiguousarray(photo[top : top + 40, left : left + 30]))

    def __len__(self):
        return len(self.pieces)

    def __getitem__(self, index, /):
        caption = CAPTIONS[index]
        said = caption + " in the sun" * (index % 3)
        turns = (Turn(f"{IMAGE}\nwhat is it?", said),)
        return Sample(f"piece/{index}", self.pieces[index], said, turns=turns)


def tiny_config(kind, **changes):
    """A registered objective's config, made small."""
    config = OBJECTIVES[kind].Config
    if "parts" in config.model_fields:
        parts = changes.get("parts", PARTS)
        built = {
            name: part | {"objective": tiny_config(part["objective"][0], **part["objective"][1])}
            for name, part in parts.items()
        }
        return config(parts=built)
    known = {name: value for name, value in (TINY | changes).items() if name in config.model_fields}
    return config(**known)


def tiny_objective(kind, seed=0, encoder=ENCODER, **changes):
    """A registered objective on a tiny encoder."""
    return OBJECTIVES[kind](tiny_config(kind, **changes), VisionEncoder(encoder, seed), MATERIAL, seed)


def tiny_loader(kind, batch=6, seed=0, source=None, parts=PARTS, **settings):
    """Batches of photographs with the views that the objective asks for."""
    views = tiny_config(kind, parts=parts).views()
    source = Photos() if source is None else source
    size = ENCODER.image_size
    return Loader(source, views, image_size=size, batch=batch, seed=seed, **settings)


def in_float64(objective, batch):
    """The same model and batch in double precision.

    transformers' RMSNorm rounds to float32 inside, which would hide what is compared; torch's own does not.
    """
    for module in list(objective.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    views = {name: in_unit(view).double() for name, view in batch.views.items()}
    return objective.double(), Batch(batch.ids, views, batch.texts, batch.turns, batch.seed)


def gradients(module):
    """Copies of all gradients, by name."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def relative(a, b):
    """Largest difference relative to the largest magnitude of each tensor; 0 for equal tensors."""
    scale = max(float(b.abs().max()), 1e-300) if b.numel() else 1.0
    return float((a - b).abs().max()) / scale if b.numel() else 0.0


def same_bits(a, b):
    """Whether two state dicts hold the same bytes under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Largest(TorchDispatchMode):
    """The most elements that any result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out
