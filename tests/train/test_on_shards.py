"""Training from tar shards with threads that read ahead: killed at will, moved between processes."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch
from data.test_shards import write_shards
from objectives import ENCODER, tiny_config, tiny_objective

from paribus.data.loader import Loader
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.files import sha256
from paribus.train import distributed
from paribus.train.loop import fit
from paribus.train.state import checkpoints
from paribus.types import Budget, Runtime

from . import BATCH, RECIPE
from .processes import together_run
from .test_distributed import StopError, close

KINDS = ("clip", "dino")
KILLS, MANY, FEW = 20, 120, 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four tars with 52 samples, and their index."""
    place = tmp_path_factory.mktemp("place")
    write_shards(place / "tars")
    build_index(ShardsConfig(root=str(place / "tars")), place / "index", 1)
    return place


def train(kind, place, folder, steps, stop=None):
    """Train from the shards, a checkpoint after each step, cut off before step ``stop``; the ids it saw."""
    torch.set_num_threads(1)
    loader = Loader(
        Shards(place / "index", place / "tars"),
        tiny_config(kind).views(),
        image_size=ENCODER.image_size,
        batch=BATCH,
        seed=0,
        workers=2,
        share=distributed.share(),
    )
    objective, seen = tiny_objective(kind), []

    def batches(start, end):
        for number, batch in enumerate(loader(start, end), start):
            if number == stop:
                raise StopError
            seen.append((number, batch.ids.tolist()))
            yield batch

    runtime = Runtime(device="cpu", checkpoint_seconds=0.0)
    budget = Budget(samples=steps * BATCH, batch=BATCH)
    try:
        fit(
            objective, batches, recipe=RECIPE, budget=budget, precision="fp32", folder=Path(folder),
            runtime=runtime, label=kind,
        )  # fmt: skip
    except StopError:
        assert stop is not None
    state = {name: value.clone().numpy() for name, value in objective.state_dict().items()}
    return state, seen


def last(folder):
    """The newest checkpoint: the digest of weights, optimiser, centre; and where training stands."""
    newest = checkpoints(folder)[-1]
    told = json.loads((newest / "progress.json").read_text())
    del told["seconds"]
    return newest.name, sha256(newest / "state.safetensors"), told


def reached(folder):
    return max((int(path.name[5:]) for path in checkpoints(folder)), default=0)


def kill_after(steps, delay, kind, place, folder):
    """Train in a process of its own, and kill it some steps further on than it began."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start = reached(folder)
    process = context.Process(target=train, args=(kind, place, folder, MANY))
    process.start()
    deadline = time.monotonic() + 120
    while reached(folder) < start + steps:
        assert process.is_alive(), "the process ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_lose_nothing(kind, place, tmp_path):
    """Weights, optimiser, teacher and centre, the order and every logged loss are those of a calm run."""
    chance = random.Random(kind)
    for _ in range(KILLS):
        kill_after(chance.randint(1, 4), chance.uniform(0.0, 0.03), kind, place, tmp_path / "killed")
    began = reached(tmp_path / "killed")
    assert KILLS <= began < MANY
    train(kind, place, tmp_path / "killed", MANY)
    train(kind, place, tmp_path / "calm", MANY)
    assert last(tmp_path / "killed") == last(tmp_path / "calm")
    assert len(last(tmp_path / "calm")[2]["history"]) == MANY
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("killed", "calm")]
    assert names[0] == names[1]


def trainings(place, folder):
    """For a process of two: both kinds to their end, and both cut off after half."""
    place, folder = Path(place), Path(folder)
    whole = {kind: train(kind, place, folder / "whole" / kind, FEW) for kind in KINDS}
    half = {kind: train(kind, place, folder / "cut" / kind, FEW, stop=FEW // 2)[1] for kind in KINDS}
    return whole, half


@pytest.fixture(scope="module")
def pair(place, tmp_path_factory):
    """What two processes said, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    return together_run(2, folder / "said", __name__, "trainings", str(place), str(folder / "runs")), folder


def joined(first, second):
    """The ids of every step, of which each of two processes saw its own rows."""
    return [(step, rows + more) for (step, rows), (_, more) in zip(first, second, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_model_that_one_trains(kind, pair, place, tmp_path):
    state, seen = train(kind, place, tmp_path, FEW)
    (one, _), (other, _) = pair[0]
    assert joined(one[kind][1], other[kind][1]) == seen
    assert close(one[kind][0], state)
    assert all(torch.equal(torch.from_numpy(one[kind][0][name]), torch.from_numpy(value))
               for name, value in other[kind][0].items())  # fmt: skip
    (_, _, ours), (_, _, alone) = last(pair[1] / "runs" / "whole" / kind), last(tmp_path)
    assert ours["order"] == alone["order"]
    assert [line["loss"] for line in ours["history"]] == pytest.approx(
        [line["loss"] for line in alone["history"]], rel=2e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_moved_from_two_processes_to_one_sees_the_same_samples(kind, pair, place, tmp_path):
    """Cut off after half of its steps, it goes on alone from the step it had reached."""
    folder = pair[1] / "runs" / "cut" / kind
    assert reached(folder) == FEW // 2
    (_, one), (_, other) = pair[0]
    state, rest = train(kind, place, folder, FEW)
    calm, seen = train(kind, place, tmp_path, FEW)
    assert joined(one[kind], other[kind]) + rest == seen
    assert last(folder)[2]["order"] == last(tmp_path)[2]["order"]
    assert close(state, calm)
