"""One process equals two and three, for everything that is registered: loss, its parts and all gradients."""

import numpy as np
import pytest
import torch
from train.processes import together_run

from paribus.train.distributed import share
from paribus.train.split import backward

from . import gradients, in_float64, relative
from .test_contract import ALL, CLOCK, made

PAIRS = [(kind, chunk) for kind in ALL for chunk in (None, 2)]
CASES = [(*pair, wide) for pair in PAIRS for wide in (False, True)]


def measured(kind, chunk, wide):
    """Loss, parts, gradients and buffers from this process's rows of a batch of seven, and the others'."""
    objective, batch = made(kind)
    rows = batch[share().rows(len(batch))]
    if wide:
        objective, rows = in_float64(objective, rows)
    losses = backward(objective, rows, CLOCK, chunk, "fp32")
    buffers = {name: value for name, value in objective.named_buffers() if value.numel()}
    numbers = {"loss": losses.total, **losses.parts, **gradients(objective), **buffers}
    return {name: value.detach().numpy() for name, value in numbers.items()}


def every_case():
    """For a process of many: all cases at once, because beginning a process takes longer than they do."""
    torch.set_num_threads(1)
    return {case: measured(*case) for case in CASES}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return {
        size: together_run(size, tmp_path_factory.mktemp("ranks") / "out", __name__, "every_case")
        for size in (2, 3)
    }


def apart(found, alone):
    """Of each tensor, the largest difference relative to its largest magnitude, in float64."""
    assert found.keys() == alone.keys()
    tensors = {name: (torch.from_numpy(found[name]), torch.from_numpy(alone[name])) for name in alone}
    return {name: relative(ours.double(), theirs.double()) for name, (ours, theirs) in tensors.items()}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("kind", "chunk"), PAIRS)
def test_processes_change_nothing_in_float64(shared, kind, chunk, size):
    """Seven samples over two (4 and 3) and three (3, 2 and 2): every number to 1e-10."""
    alone = measured(kind, chunk, wide=True)
    assert any(name.endswith("weight") for name in alone)
    for process in shared[size]:
        found = apart(process[kind, chunk, True], alone)
        assert {name: value for name, value in found.items() if value > 1e-10} == {}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("kind", "chunk"), PAIRS)
def test_processes_change_float32_by_its_rounding_only(shared, kind, chunk, size):
    """Loss, parts and the gradient as one vector to 1e-6; its smallest entries are sums that cancel."""
    alone = measured(kind, chunk, wide=False)
    slopes = {name for name in alone if name in dict(made(kind)[0].named_parameters())}
    for process in shared[size]:
        found = process[kind, chunk, False]
        assert all(v < 1e-6 for name, v in apart(found, alone).items() if name not in slopes)
        ours, theirs = (
            np.concatenate([numbers[name].ravel().astype(np.float64) for name in sorted(slopes)])
            for numbers in (found, alone)
        )
        assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_ends_with_the_same_bits(shared, size):
    """Else the copies of the model would drift apart from step to step."""
    first, *others = shared[size]
    for other in others:
        for case, numbers in first.items():
            assert all(np.array_equal(value, other[case][name]) for name, value in numbers.items()), case
