"""Tiled losses are the whole matrix's for every tile, and equal open_clip's, lightly's and plain loops."""

import peers  # noqa: F401 - before open_clip and lightly
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from open_clip.loss import ClipLoss, SigLipLoss

from paribus.objectives.contrastive import info_nce, nt_xent, sigmoid_loss

from . import Largest

B, D = 9, 5


def units(*shape, seed):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).requires_grad_()


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def slopes(loss, inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def alike(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tile", [*range(1, B + 1), B + 3])
def test_clip_equals_open_clip_for_every_tile(tile):
    inputs = [units(B, D, seed=1), units(B, D, seed=2), scalar(14.3)]
    theirs = ClipLoss()(*inputs)
    alike(slopes(info_nce(*inputs, tile=tile), inputs), slopes(theirs, inputs), 1e-12)


@pytest.mark.parametrize("tile", [*range(1, B + 1), B + 3])
def test_siglip_equals_open_clip_for_every_tile(tile):
    inputs = [units(B, D, seed=1), units(B, D, seed=2), scalar(10.0), scalar(-10.0)]
    theirs = SigLipLoss()(*inputs)
    alike(slopes(sigmoid_loss(*inputs, tile=tile), inputs), slopes(theirs, inputs), 1e-12)


@pytest.mark.parametrize("tile", [1, 4, 2 * B - 1, 2 * B, 100])
def test_simclr_equals_lightly_for_every_tile(tile):
    """Theirs normalises inside, so both are given vectors of any length."""
    views = (units(B, 2, D, seed=3).detach() * 3.0).requires_grad_()
    theirs = NTXentLoss(temperature=0.1)(views[:, 0], views[:, 1])
    ours = nt_xent(F.normalize(views, dim=-1), 0.1, tile=tile)
    alike(slopes(ours, [views]), slopes(theirs, [views]), 1e-10)


def loop_siglip(image, text, scale, bias):
    """Algorithm 1, pair by pair."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            logit = scale * (image[i] * text[j]).sum() + bias
            total = total - F.logsigmoid(logit if i == j else -logit)
    return total / len(image)


def loop_simclr(views, temperature):
    """Equation 1, view by view."""
    flat, total = [*views[:, 0], *views[:, 1]], 0.0
    for i, one in enumerate(flat):
        others = [(one * other).sum() / temperature for j, other in enumerate(flat) if j != i]
        twin = (one * flat[(i + len(views)) % len(flat)]).sum() / temperature
        total = total - twin + torch.stack(others).logsumexp(0)
    return total / len(flat)


def test_losses_equal_loops():
    inputs = [units(B, D, seed=1), units(B, D, seed=2), scalar(10.0), scalar(-10.0)]
    alike(slopes(sigmoid_loss(*inputs, tile=4), inputs), slopes(loop_siglip(*inputs), inputs), 1e-12)
    views = units(B, 2, D, seed=3)
    alike(slopes(nt_xent(views, 0.1, tile=4), [views]), slopes(loop_simclr(views, 0.1), [views]), 1e-12)


def test_gradients_equal_finite_differences():
    inputs = (units(4, 3, seed=1), units(4, 3, seed=2), scalar(3.0))
    assert torch.autograd.gradcheck(lambda *v: info_nce(*v, tile=2), inputs)
    assert torch.autograd.gradcheck(lambda *v: sigmoid_loss(*v, tile=3), (*inputs, scalar(-2.0)))
    assert torch.autograd.gradcheck(lambda v: nt_xent(v, 0.5, tile=3), (units(3, 2, 4, seed=4),))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b, tile: info_nce(a, b, torch.tensor(10.0), tile=tile),
        lambda a, b, tile: sigmoid_loss(a, b, torch.tensor(10.0), torch.tensor(-10.0), tile=tile),
        lambda a, b, tile: nt_xent(torch.stack([a, b], dim=1)[: len(a) // 2], 0.1, tile=tile),
    ],
    ids=["clip", "siglip", "simclr"],
)
def test_no_tensor_is_ever_as_large_as_the_matrix(loss):
    count, tile, width = 512, 64, 8
    a, b = (units(count, width, seed=seed).detach().float().requires_grad_() for seed in (1, 2))
    with Largest() as seen:
        loss(a, b, tile).backward()
    assert tile * tile <= seen.elements <= 2 * count * width < tile * count, "inputs are the largest there is"
    with Largest() as whole:
        loss(a, b, 2 * count).backward()
    assert whole.elements == count * count, "the measure sees a whole matrix where there is one"
