"""AdamW with moments of eight bits: what is rounded, how far it strays, and that it resumes to the bit."""

import sys

import pytest
import torch
from objectives import same_bits
from safetensors.torch import load_file
from torch import nn

from paribus.errors import UserError
from paribus.train.optim import build_optimizer, set_rates
from paribus.train.state import Progress, checkpoints, load_state, save_state
from paribus.types import Clock, Recipe

from .words import RECIPE, Words, train

bitsandbytes = pytest.importorskip("bitsandbytes")

EIGHT = RECIPE.model_copy(update={"optimizer": "adamw8bit"})
WIDE = {"width": 256, "hidden": 260, "dtype": torch.float32}


class Fitted(nn.Module):
    """A matrix that is rounded, one that is too narrow for it, and a vector, to be fitted to data."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.wide, self.narrow = nn.Linear(256, 32), nn.Linear(32, 4, bias=False)

    def loss(self):
        x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
        return (self.narrow(self.wide(x).tanh()) - x[:, :4]).square().mean()


def descend(optimizer, steps, recipe):
    """Losses of some steps, and the module."""
    module = Fitted()
    built = build_optimizer(module, recipe.model_copy(update={"optimizer": optimizer}))
    losses = []
    for step in range(steps):
        set_rates(built, recipe, Clock(step, step, steps))
        loss = module.loss()
        loss.backward()
        built.step()
        built.zero_grad()
        losses.append(loss.item())
    return losses, module, built


def test_the_first_step_is_that_of_adamw():
    """Moments are rounded after they have been used."""
    recipe = Recipe(lr=1e-2, warmup=0.0, weight_decay=0.3)
    (_, ours, _), (_, theirs, _) = descend("adamw8bit", 1, recipe), descend("adamw", 1, recipe)
    for a, b, start in zip(ours.parameters(), theirs.parameters(), Fitted().parameters(), strict=True):
        assert torch.allclose(a - start, b - start, rtol=1e-4, atol=1e-7)
        assert not torch.equal(a, start)


def test_losses_fall_alike():
    recipe = Recipe(lr=3e-3, warmup=0.1, weight_decay=0.1)
    (ours, near, _), (theirs, exact, _) = descend("adamw8bit", 150, recipe), descend("adamw", 150, recipe)
    assert theirs[-1] < 0.1 * theirs[0]
    assert ours == pytest.approx(theirs, abs=5e-3 * theirs[0])
    assert ours != theirs
    for a, b, start in zip(near.parameters(), exact.parameters(), Fitted().parameters(), strict=True):
        assert (a - b).norm() < 0.1 * (b - start).norm()


def test_moments_are_those_of_adamw_to_the_nearest_code():
    """Decoded by hand: code times the block's scale, off by half the gap between codes at most."""
    recipe = Recipe(lr=1e-2, warmup=0.0)
    (_, ours, eight), (_, theirs, full) = descend("adamw8bit", 1, recipe), descend("adamw", 1, recipe)
    state, exact = eight.state[ours.wide.weight], full.state[theirs.wide.weight]
    for key, scale, signed in (("exp_avg", "scale", True), ("exp_avg_sq", "scale_sq", False)):
        code = bitsandbytes.functional.create_dynamic_map(signed=signed)
        gap = float(code.sort().values.diff().max())
        decoded = code[state[key].long()] * state[scale]
        largest = exact[key].abs().amax(dim=1, keepdim=True)
        assert torch.allclose(state[scale], largest, rtol=1e-5)
        assert ((decoded - exact[key]).abs() <= 0.51 * gap * largest).all()


def test_what_is_rounded_and_what_it_weighs():
    _, module, optimizer = descend("adamw8bit", 1, Recipe())
    dtypes = {name: optimizer.state[p]["exp_avg"].dtype for name, p in module.named_parameters()}
    eight = {name for name, dtype in dtypes.items() if dtype == torch.uint8}
    assert eight == {"wide.weight"}
    weight = module.wide.weight
    tensors = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) == weight.numel() * (2 + 2 * 4 / 256)


def test_decay_is_apart_from_the_gradient():
    module = Fitted()
    recipe = Recipe(lr=0.1, warmup=0.0, weight_decay=0.5, optimizer="adamw8bit")
    optimizer = build_optimizer(module, recipe)
    set_rates(optimizer, recipe, Clock(0, 0, 1))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, start in Fitted().named_parameters():
        kept = 1.0 - 0.1 * 0.5 * (start.ndim > 1)
        assert torch.allclose(module.get_parameter(name), kept * start, rtol=1e-6)


# Checkpoints.


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    train(tmp_path / "killed", stop=4, recipe=EIGHT, **WIDE)
    resumed, again = train(tmp_path / "killed", recipe=EIGHT, **WIDE)
    whole, result = train(tmp_path / "whole", recipe=EIGHT, **WIDE)
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert again.history == result.history
    files = [checkpoints(tmp_path / name)[-1] / "state.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    kept = load_file(files[0])
    assert any(v.dtype == torch.uint8 for v in kept.values())
    assert {int(v) for name, v in kept.items() if name.startswith("optimizer/step/")} <= {4, 5, 6, 7}


def test_any_state_comes_back_as_it_was(tmp_path):
    """bitsandbytes' own optimiser: numbers, bytes, and tables that all parameters share."""
    model = Words(**WIDE)
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = bitsandbytes.optim.AdamW8bit(moved)
    for parameter in moved:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    save_state(tmp_path, Progress(1), model, optimizer)
    other = Words(**WIDE)
    fresh = bitsandbytes.optim.AdamW8bit([p for p in other.parameters() if p.requires_grad])
    load_state(tmp_path, other, fresh)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        before, after = optimizer.state.get(a, {}), fresh.state.get(b, {})
        assert {k: type(v) for k, v in before.items()} == {k: type(v) for k, v in after.items()}
        assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))
        assert before.get("step") == after.get("step")
    shared = {id(s["qmap1"]) for s in optimizer.state.values() if "qmap1" in s}
    assert len(shared) == 1 < sum("qmap1" in s for s in fresh.state.values())


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "paribus.train.eightbit", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match=r"adamw8bit needs bitsandbytes: pip install 'paribus\[quant\]'"):
        build_optimizer(Fitted(), Recipe(optimizer="adamw8bit"))
