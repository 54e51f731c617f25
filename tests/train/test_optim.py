"""Schedules in closed form, AdamW against a float64 program, and both ways of clipping."""

import math

import numpy as np
import pytest
import torch
from objectives import tiny_objective
from reference import dino as reference
from reference.adamw import AdamW
from torch import nn
from vlm import tiny_vlm

from paribus.objectives import OBJECTIVES
from paribus.train.optim import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_rates,
    trainable,
    weight_decay,
)
from paribus.types import Clock, Recipe, cosine


def clocks(steps, batch=8):
    return [Clock(step, step * batch, steps * batch) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 1e-6])
def test_learning_rate_is_a_line_and_half_a_cosine(warmup, final):
    recipe = Recipe(lr=3e-3, final_lr=final, warmup=warmup)
    got = [learning_rate(recipe, clock) for clock in clocks(200)]
    ramp = round(200 * warmup)
    line = 3e-3 * np.arange(ramp) / max(ramp, 1)
    half = reference.cosine_schedule(3e-3, final, 200 - ramp)
    assert np.allclose(got, np.concatenate([line, half]), rtol=1e-9, atol=1e-15)
    assert max(got) == pytest.approx(3e-3)
    assert learning_rate(recipe, Clock(200, 1600, 1600)) == pytest.approx(final, abs=1e-15)


def test_rates_depend_on_samples_and_not_on_steps():
    """Half the batch, twice the steps: the same rate after the same number of samples."""
    recipe = Recipe(warmup=0.1, weight_decay=0.04, final_weight_decay=0.4)
    for seen in (0, 32, 400, 960):
        a, b = Clock(seen // 8, seen, 1000), Clock(seen // 4, seen, 1000)
        assert learning_rate(recipe, a) == learning_rate(recipe, b)
        assert weight_decay(recipe, a) == weight_decay(recipe, b)


def test_weight_decay_is_constant_or_half_a_cosine():
    flat = Recipe(weight_decay=0.2)
    assert {weight_decay(flat, clock) for clock in clocks(50)} == {0.2}
    rising = Recipe(weight_decay=0.04, final_weight_decay=0.4)
    got = [weight_decay(rising, clock) for clock in clocks(50)]
    assert np.allclose(got, reference.cosine_schedule(0.04, 0.4, 50), rtol=1e-12)


def test_cosine_and_clock_at_their_ends():
    assert cosine(2.0, 5.0, 0.0) == 2.0
    assert cosine(2.0, 5.0, 1.0) == 5.0
    assert cosine(2.0, 5.0, 0.5) == pytest.approx(3.5)
    assert Clock(9, 120, 100).fraction == 1.0


@pytest.mark.parametrize("kind", [*sorted(OBJECTIVES), "vision-language"])
def test_matrices_decay_and_vectors_do_not(kind):
    model = tiny_objective(kind) if kind in OBJECTIVES else tiny_vlm(trained=("connector", "language"))
    optimizer = build_optimizer(model, Recipe(weight_decay=0.3))
    set_rates(optimizer, Recipe(weight_decay=0.3), Clock(5, 50, 100))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert decay.keys() == {id(p) for p in moving.values()}, "every moving parameter, once, and no other"
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(moving)
    for name, p in moving.items():
        assert decay[id(p)] == (0.3 if p.ndim > 1 else 0.0), name
    vectors = [name for name, p in moving.items() if not decay[id(p)]]
    assert any("norm" in name for name in vectors)
    assert all(decay[id(p)] == 0.0 for name, p in moving.items() if name.endswith("bias"))


def test_the_optimizer_equals_adamw_in_float64():
    """Six steps with moving rates: one matrix with decay, one vector without."""
    recipe = Recipe(
        lr=0.02, warmup=0.2, weight_decay=0.3, final_weight_decay=0.6, betas=(0.9, 0.95), eps=1e-6
    )
    layer = nn.Linear(5, 4).double()
    optimizer = build_optimizer(layer, recipe)
    matrix = AdamW(layer.weight.detach().numpy(), recipe.betas, recipe.eps)
    vector = AdamW(layer.bias.detach().numpy(), recipe.betas, recipe.eps)
    rng = np.random.default_rng(0)
    for clock in clocks(6):
        gradients = rng.normal(size=(4, 5)), rng.normal(size=4)
        layer.weight.grad, layer.bias.grad = (torch.from_numpy(gradient) for gradient in gradients)
        set_rates(optimizer, recipe, clock)
        optimizer.step()
        lr, decay = learning_rate(recipe, clock), weight_decay(recipe, clock)
        matrix.step(gradients[0], lr, decay)
        vector.step(gradients[1], lr, 0.0)
    assert np.allclose(layer.weight.detach(), matrix.value, rtol=1e-10)
    assert np.allclose(layer.bias.detach(), vector.value, rtol=1e-10)


def parameters_with_gradients():
    generator = torch.Generator().manual_seed(0)
    shapes, scales = [(4, 5), (7,), (3, 2, 2), (), (0, 4)], [10.0, 0.01, 1.0, 5.0, 1.0]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p, scale in zip(parameters, scales, strict=True):
        p.grad = scale * torch.randn(p.shape, generator=generator)
    return [*parameters, nn.Parameter(torch.zeros(3))]


@pytest.mark.parametrize("clip", [0.3, 3.0, 1e6])
def test_clipping_by_tensor_equals_dinos(clip):
    ours, theirs = parameters_with_gradients(), parameters_with_gradients()
    clip_gradients(ours, Recipe(clip=clip, clip_by="tensor"))
    reference.clip_gradients(theirs, clip)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-6)
    assert ours[-1].grad is None


@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_clipping_by_the_global_norm(clip):
    ours, before = parameters_with_gradients(), parameters_with_gradients()
    clip_gradients(ours, Recipe(clip=clip, clip_by="global"))
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in before[:-1]))
    for a, b in zip(ours[:-1], before[:-1], strict=True):
        assert torch.allclose(a.grad, b.grad * min(1.0, clip / norm), rtol=1e-5)


def test_no_clipping_where_none_is_asked_for():
    ours, before = parameters_with_gradients(), parameters_with_gradients()
    clip_gradients(ours, Recipe(clip=None))
    for a, b in zip(ours[:-1], before[:-1], strict=True):
        assert torch.equal(a.grad, b.grad)


def test_trainable_leaves_out_what_is_frozen():
    objective = tiny_objective("dino")
    names = trainable(objective)
    assert names
    assert not any(name.startswith("teacher") for name in names)
    assert "head.gain" not in names
