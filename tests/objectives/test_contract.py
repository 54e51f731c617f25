"""What every objective promises, run over the registry: a new one is tested by being registered."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from vlm import tiny_batch as vlm_batch
from vlm import tiny_vlm

from paribus.encoders.vision import weights_digest
from paribus.objectives import OBJECTIVES, AnyObjective, build_objective
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.presets import PRESETS
from paribus.rng import torch_seed
from paribus.train.split import backward
from paribus.types import Batch, Clock, Recipe

from . import (
    ENCODER,
    MATERIAL,
    VisionEncoder,
    gradients,
    in_float64,
    relative,
    same_bits,
    tiny_config,
    tiny_loader,
    tiny_objective,
)

CLOCK = Clock(step=5, seen=30, total=100)
KINDS = sorted(OBJECTIVES)
ALL = [*KINDS, "vision-language", "language"]


def made(kind: str, **changes) -> tuple[Objective, Batch]:
    """A tiny objective and a batch for it; random residuals are on where the objective has them."""
    if kind == "vision-language":
        return tiny_vlm(trained=("connector", "language")), vlm_batch()
    if kind == "language":
        return tiny_vlm(eyes=False), vlm_batch(pictures=False)
    changes = {"drop_path": 0.5, "norm_last": False} | changes
    return tiny_objective(kind, **changes), tiny_loader(kind, batch=7).make(1)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradients(kind, chunk):
    """In float64, to 1e-10 of each tensor's largest gradient, for the loss and everything it is made of."""
    objective, batch = in_float64(*made(kind))
    whole = backward(objective, batch, CLOCK, None, "fp32")
    expected = gradients(objective)
    assert expected
    objective.zero_grad(set_to_none=True)
    losses = backward(objective, batch, CLOCK, chunk, "fp32")
    got = gradients(objective)
    assert relative(losses.total, whole.total) < 1e-10
    assert losses.parts.keys() == whole.parts.keys()
    for name, part in whole.parts.items():
        assert relative(losses.parts[name], part) < 1e-10, name
    assert got.keys() == expected.keys()
    assert {name: d for name in got if (d := relative(got[name], expected[name])) > 1e-10} == {}


@pytest.mark.parametrize("kind", ALL)
def test_gradients_add_to_those_that_are_there(kind):
    objective, batch = in_float64(*made(kind))
    backward(objective, batch, CLOCK, None, "fp32")
    once = gradients(objective)
    backward(objective, batch, CLOCK, 2, "fp32")
    for name, twice in gradients(objective).items():
        assert relative(twice, 2 * once[name]) < 1e-10, name


@pytest.mark.parametrize("kind", ALL)
def test_the_loss_is_differentiated_rightly(kind):
    """Along a random direction, the gradient equals a central difference of the loss in float64."""
    objective, batch = in_float64(*made(kind))
    backward(objective, batch, CLOCK, 3, "fp32")
    moved = {name: p for name, p in objective.named_parameters() if p.grad is not None}
    with torch_seed(0, "direction"):
        along = {name: torch.randn_like(p) * p.abs().mean().clamp_min(1e-3) for name, p in moved.items()}
    slope = sum((p.grad * along[name]).sum().item() for name, p in moved.items())

    def loss_at(step):
        with torch.no_grad():
            for name, p in moved.items():
                p.add_(along[name], alpha=step)
            value = float(objective.loss(objective.encode(batch), CLOCK).total)
            for name, p in moved.items():
                p.sub_(along[name], alpha=step)
        return value

    assert abs(slope) > 1e-6
    assert (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_a_sample_is_encoded_by_itself(kind):
    """Its rows, order and neighbours aside, every encoding is a function of one sample."""
    objective, batch = in_float64(*made(kind))
    with torch.no_grad():
        whole = objective.encode(batch)
        pieces = [objective.encode(batch[row : row + 1]) for row in range(len(batch))]
    for name, value in whole.items():
        assert len(value) == len(batch), f"{name} must have the batch as its first dimension"
        again = torch.cat([piece[name] for piece in pieces])
        assert torch.allclose(value.double(), again.double(), rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("kind", ALL)
def test_bf16_is_close_and_gradients_stay_float32(kind):
    objective, batch = made(kind)
    exact = float(backward(objective, batch, CLOCK, None, "fp32").total)
    objective.zero_grad(set_to_none=True)
    rounded = backward(objective, batch, CLOCK, None, "bf16").total
    assert rounded.dtype == torch.float32
    assert float(rounded) != exact, "bf16 must really be in use"
    assert float(rounded) == pytest.approx(exact, rel=0.02)
    assert {gradient.dtype for gradient in gradients(objective).values()} == {torch.float32}


@pytest.mark.parametrize("kind", ALL)
def test_nothing_touches_the_global_generator(kind):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    objective, batch = made(kind)
    backward(objective, batch, CLOCK, 3, "fp32")
    objective.before_step(CLOCK)
    objective.after_step(CLOCK)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_builds_the_same_weights_and_another_seed_others(kind):
    one, same, other = (tiny_objective(kind, seed) for seed in (0, 0, 1))
    assert same_bits(one.state_dict(), same.state_dict())
    assert weights_digest(one) != weights_digest(other)
    assert weights_digest(one.encoder()) == weights_digest(VisionEncoder(ENCODER, 0))


@pytest.mark.parametrize("kind", ALL)
def test_the_state_is_all_there_is(kind):
    """Another instance with the first one's state goes on exactly as the first does."""
    objective, batch = made(kind)
    other, _ = made(kind)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    objective.loss(objective.encode(batch), CLOCK)
    objective.after_step(CLOCK)
    other.load_state_dict(objective.state_dict())
    ends = []
    for model in (objective, other):
        losses = backward(model, batch, CLOCK, None, "fp32")
        model.before_step(CLOCK)
        model.after_step(CLOCK)
        ends.append((losses.total, gradients(model), model.state_dict()))
    (a, grads_a, state_a), (b, grads_b, state_b) = ends
    assert torch.equal(a, b)
    assert same_bits(grads_a, grads_b)
    assert same_bits(state_a, state_b)


@pytest.mark.parametrize("kind", ALL)
def test_a_few_steps_on_one_batch_lower_the_loss(kind):
    """With plain gradient steps; teachers and centres stand still, so the target does."""
    objective, batch = made(kind, drop_path=0.0)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    totals = []
    for _ in range(25):
        totals.append(float(backward(objective, batch, CLOCK, None, "fp32").total))
        optimizer.step()
        optimizer.zero_grad()
    assert totals[-1] < 0.95 * totals[0]


# What a registered config says of itself.


@pytest.mark.parametrize("kind", KINDS)
def test_the_registry_builds_what_the_config_names(kind):
    config = tiny_config(kind)
    assert isinstance(config, ObjectiveConfig)
    assert config.kind == kind
    built = build_objective(config, VisionEncoder(ENCODER), MATERIAL, 0)
    assert type(built) is OBJECTIVES[kind]
    assert type(config).model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.kind = "other"
    with pytest.raises(ValueError, match="Extra inputs"):
        type(config)(kind=kind, no_such_setting=1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_encoder_or_it_is_frozen(kind):
    objective, batch = made(kind)
    trained = next(m for m in objective.modules() if isinstance(m, VisionEncoder))
    before = weights_digest(trained)
    backward(objective, batch, CLOCK, 3, "fp32")
    moved = {name for name, p in trained.named_parameters() if p.grad is not None and p.grad.any()}
    if not objective.config.trains_encoder:
        assert not moved
        assert not any(p.requires_grad for p in trained.parameters())
        objective.after_step(CLOCK)
        assert weights_digest(objective.encoder()) == before
        return
    silent = {name for name, _ in trained.named_parameters()} - moved
    assert silent <= {"register_tokens"}


@pytest.mark.parametrize("name", PRESETS)
def test_views_are_named_once_and_published_settings_are_complete(name):
    views = TypeAdapter(AnyObjective).validate_python({"preset": name}).views()
    assert len({view.name for view in views}) == len(views) >= 1
    for view in views:
        side = view.size * 224
        assert side == pytest.approx(round(side)), f"{view.name} is a whole number of pixels at 224"
        assert round(side) % 16 == 0, f"{view.name} is a whole number of patches of 16 at 224"


@pytest.mark.parametrize("kind", KINDS)
def test_departures_are_settings_of_the_recipe_and_change_it(kind):
    for confound in tiny_config(kind).recipe():
        part, name = confound.path.split(".")
        assert part == "recipe"
        changed = Recipe.model_validate({name: confound.value})
        assert getattr(changed, name) == confound.value != getattr(Recipe(), name)


@pytest.mark.parametrize("kind", KINDS)
def test_image_forwards_count_tokens(kind):
    """What passes through the encoder is measured at its first block, in tokens."""
    objective, batch = made(kind)
    seen = 0

    def count(_module, inputs):
        nonlocal seen
        seen += inputs[0].shape[0] * inputs[0].shape[1]

    encoders = [module for module in objective.modules() if isinstance(module, VisionEncoder)]
    for encoder in encoders:
        encoder.blocks[0].register_forward_pre_hook(count)
    with torch.no_grad():
        objective.encode(batch)
    full = len(batch) * ENCODER.tokens(ENCODER.image_size)
    assert objective.image_forwards() == pytest.approx(seen / full)


def test_batches_slice_by_rows():
    batch = tiny_loader("dino").make(0)
    part = batch[2:5]
    assert len(part) == 3
    assert np.array_equal(part.ids, batch.ids[2:5])
    assert part.texts == batch.texts[2:5]
    assert part.turns == batch.turns[2:5]
    assert part.seed == batch.seed
    assert all(torch.equal(part.views[name], view[2:5]) for name, view in batch.views.items())
