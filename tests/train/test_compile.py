"""Compiled blocks: the same training within rounding, under the same names, and a run may change its mind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objectives import tiny_loader, tiny_objective

from paribus.encoders.vision import Block
from paribus.train.extras import see_extras
from paribus.train.loop import fit
from paribus.types import Budget, Runtime

from . import BATCH, RECIPE

STEPS = 4


def train(folder, *, compiled, until=STEPS):
    """Train in double precision until a step of the whole, a checkpoint after each; the weights."""
    objective, loader = tiny_objective("clip").double(), tiny_loader("clip", batch=BATCH)
    names = list(objective.state_dict())
    fit(
        objective,
        lambda start, stop: loader(start, min(stop, until)),
        recipe=RECIPE,
        budget=Budget(samples=STEPS * BATCH, batch=BATCH),
        precision="fp32",
        folder=folder,
        runtime=Runtime(device="cpu", checkpoint_seconds=0.0, compile=compiled),
        label="clip",
    )
    blocks = [module for module in objective.modules() if isinstance(module, Block)]
    assert len(blocks) == 4  # two that see and two that read
    assert all((block._compiled_call_impl is not None) == compiled for block in blocks)
    assert list(objective.state_dict()) == names
    return objective.state_dict()


def compare(folder):
    """Compiled from the start, up to the middle, and from the middle on: as if never."""
    torch._inductor.config.compile_threads = 1  # processes to compile in take longer to start
    see_extras(Runtime(device="cpu", compile=True))
    plain, start = train(folder / "plain", compiled=False), train(folder / "start", compiled=False, until=0)
    train(folder / "until", compiled=True, until=2)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    until = train(folder / "until", compiled=False)
    train(folder / "since", compiled=False, until=2)
    since = train(folder / "since", compiled=True)
    for ended in (until, since):
        torch.testing.assert_close(ended, plain, rtol=0, atol=1e-9)
        assert not all(torch.equal(ended[name], plain[name]) for name in plain)
    assert all((plain[name] - start[name]).abs().max() > 1e-4 for name in plain if plain[name].numel())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_or_not_and_back_again_the_weights_are_the_same(tmp_path):
    """In a process of its own: types that are checked at run time cannot be compiled."""
    tests, source = Path(__file__).parents[1], Path(__file__).parents[2] / "src"
    code = f"from train import test_compile as t; t.compare(t.Path({str(tmp_path)!r}))"
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
