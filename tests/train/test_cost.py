"""FLOPs against a count by hand, on any device and batch; peak memory against the kernel's own."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives import ENCODER, tiny_loader, tiny_objective

from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.objectives import OBJECTIVES
from paribus.objectives.base import Objective
from paribus.train.cost import peak_memory_mb, training_flops
from paribus.types import Batch, Losses


class Bare(Objective):
    """Nothing but the encoder: the mean square of all it returns."""

    additive = True

    def __init__(self, config):
        super().__init__()
        self.vision = VisionEncoder(config)

    def encode(self, batch):
        features = self.vision(batch.views["image"][:, 0])
        return {"x": torch.cat([features.cls[:, None], features.patches], dim=1)}

    def loss(self, encoded, clock):
        return Losses(encoded["x"].square().mean(), {})

    def encoder(self):
        return self.vision


class Alone(Bare):
    """The same of the class token alone."""

    def encode(self, batch):
        return {"x": self.vision.summary(batch.views["image"][:, 0])}


def pixels(count, size, device="cpu"):
    views = {"image": torch.zeros(count, 1, 3, size, size, device=device)}
    return Batch(np.arange(count, dtype=np.uint64), views, ["a flower"] * count, [()] * count)


def by_hand(config):
    """Two operations a multiplication and addition; backward costs the forward twice.

    Only the patches' own gradient is left out: nothing learns from the pixels.
    """
    patches, width, hidden = config.grid**2, config.width, int(config.width * config.mlp_ratio)
    tokens = patches + 1
    embed = 2 * patches * 3 * config.patch**2 * width
    linear = 2 * tokens * (width * 3 * width + width * width + 2 * width * hidden)
    attention = 2 * 2 * tokens * tokens * width
    return 2 * embed + 3 * config.depth * (linear + attention)


@pytest.mark.parametrize(
    "config",
    [ENCODER, EncoderConfig(patch=8, width=32, depth=3, heads=4, image_size=48)],
)
def test_a_vit_costs_what_it_costs_by_hand(config):
    model = Bare(config)
    assert training_flops(model, pixels(2, config.image_size)) == by_hand(config)
    assert training_flops(model, pixels(5, config.image_size)) == by_hand(config), "for one sample"


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_meta_tensors_cost_the_same(kind):
    """What a plan predicts without data is what a run counts; padded captions aside, so all are alike."""
    real = tiny_loader(kind, batch=4).make(0)
    real = Batch(real.ids, real.views, ["a flower"] * 4, real.turns)
    expected = training_flops(tiny_objective(kind), real)
    with torch.device("meta"):
        views = {name: torch.empty(view.shape) for name, view in real.views.items()}
        made = training_flops(tiny_objective(kind), Batch(real.ids, views, real.texts, real.turns))
    assert made == expected > 0


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_counting_leaves_the_objective_as_it_was(kind):
    model, batch = tiny_objective(kind), tiny_loader(kind, batch=4).make(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training_flops(model, batch)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dino_costs_its_crops():
    """Two teacher globals forward, two student globals and two locals forward and backward, and the heads.

    The tokens of all crops, times the cost of one encoder forward a token, bound the count from below.
    """
    batch = tiny_loader("dino", batch=4).make(0)
    bare = training_flops(Alone(ENCODER), pixels(4, 16))
    dino = training_flops(tiny_objective("dino"), batch)
    assert 2 * bare + 2 * bare / 3 < dino < 4 * bare


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="reads /proc")
def test_peak_memory_is_the_kernels():
    high = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak_memory_mb() == pytest.approx(int(high[1]) / 1024, rel=0.02)
