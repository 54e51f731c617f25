"""Several real processes over gloo: one model, one order, one set of files, whatever their number."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from objectives import tiny_loader, tiny_objective
from study import ROOT, paribus, records, results, timeless

from paribus.errors import UserError
from paribus.train import distributed
from paribus.train.cost import training_flops
from paribus.train.loop import fit
from paribus.train.state import checkpoints
from paribus.types import Budget, Runtime, Share

from . import BATCH, RECIPE, STEPS
from .processes import free_port, together_run

KINDS = ("clip", "dino", "hybrid", "dinotxt")


class StopError(Exception):
    """What a test raises in place of a power cut."""


LATE = {
    "clip": {"objective": ("clip", {})},
    "dino": {"objective": ("dino", {"drop_path": 0.0}), "start": 0.5},
}


def trained(kind, folder, stop=None, steps=STEPS):
    """A tiny training of this process's rows, cut off before step ``stop``; the first counts its cost too."""
    torch.set_num_threads(1)
    parts = {"parts": LATE} if kind == "hybrid" else {}
    objective = tiny_objective(kind, **parts)
    loader = tiny_loader(kind, batch=BATCH, share=distributed.share(), **parts)
    if distributed.share().first:
        training_flops(objective, loader.make(0)[:2])

    def batches(start, end):
        for number, batch in enumerate(loader(start, end), start):
            if number == stop:
                raise StopError
            yield batch

    result = None
    try:
        result = fit(
            objective,
            batches,
            recipe=RECIPE,
            budget=Budget(samples=steps * BATCH, batch=BATCH),
            precision="fp32",
            folder=Path(folder),
            runtime=Runtime(device="cpu", checkpoint_seconds=0.0),
            label=kind,
        )
    except StopError:
        assert stop is not None
    state = {name: value.clone().numpy() for name, value in objective.state_dict().items()}
    return state, None if result is None else (result.order, result.history)


def close(a, b):
    return all(
        torch.allclose(torch.from_numpy(a[name]), torch.from_numpy(b[name]), rtol=2e-3, atol=2e-4)
        for name in a
    )


def trainings(folder):
    """For a process of two: every kind to its end, and every kind cut off after half."""
    folder = Path(folder)
    whole = {kind: trained(kind, folder / "whole" / kind) for kind in KINDS}
    for kind in KINDS:
        trained(kind, folder / "cut" / kind, stop=STEPS // 2)
    return whole


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes said of whole trainings, and the folder with the checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    return together_run(2, folder / "said", __name__, "trainings", str(folder / "runs")), folder / "runs"


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_model_that_one_trains(kind, pair, tmp_path):
    """Teachers, centres and late parts included; AdamW turns rounding of tiny gradients into small steps."""
    state, (order, history) = trained(kind, tmp_path)
    for process in pair[0]:
        theirs, (their_order, their_history) = process[kind]
        assert their_order == order
        assert close(theirs, state)
        assert [line["loss"] for line in their_history] == pytest.approx(
            [line["loss"] for line in history], rel=2e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_processes_began_one_finishes(kind, pair, tmp_path):
    folder = pair[1] / "cut" / kind
    assert [path.name for path in checkpoints(folder)] == ["step-00000003", "step-00000004"]
    state, (order, history) = trained(kind, folder)
    whole, (whole_order, whole_history) = pair[0][0][kind]
    assert order == whole_order
    assert close(state, whole)
    assert history[: STEPS // 2] == whole_history[: STEPS // 2], "two processes are deterministic"


def drifted():
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    distributed.check_same(model)
    with torch.no_grad():
        model.bias += distributed.share().rank
    try:
        distributed.check_same(model)
    except RuntimeError as error:
        return str(error)
    return None


def summed():
    """Unlike dtypes, more than a bucket, a gradient that only one process has, and one that nobody has."""
    rank = distributed.share().rank
    tensors = [torch.full((3, 2), rank + 1.0), torch.full((5,), rank + 1.0, dtype=torch.float64)]
    big = torch.full((distributed.BUCKET // 4 + 1,), float(rank + 1))
    distributed.add([*tensors, big])
    model = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1, bias=False) for name in ("one", "none", "both")})
    model["both"].weight.grad = torch.full((1, 1), float(rank + 1))
    if rank == 1:
        model["one"].weight.grad = torch.full((1, 1), 7.0)
    distributed.add_gradients(model)
    grads = {name: None if p.grad is None else float(p.grad) for name, p in model.named_parameters()}
    said = distributed.agreed(rank == 0), distributed.agreed(rank == 1)
    rows = distributed.gather(torch.arange(rank + 1) + 10 * rank, [1, 2])
    return [float(t.flatten()[0]) for t in (*tensors, big)], grads, said, rows.tolist()


def test_collectives(tmp_path):
    for found in together_run(2, tmp_path / "out", __name__, "summed"):
        sums, grads, said, rows = found
        assert sums == [3.0, 3.0, 3.0]
        assert grads == {"one.weight": 7.0, "none.weight": None, "both.weight": 3.0}
        assert said == (True, False)
        assert rows == [0, 10, 11]


def test_drift_is_found(tmp_path):
    assert all("drifted apart" in said for said in together_run(2, tmp_path / "out", __name__, "drifted"))


def separate(folder):
    """Each process with a folder of its own, in which only the first has a checkpoint."""
    own = Path(folder) / str(distributed.share().rank)
    if not distributed.share().first:
        return outcome(own)
    with single():
        trained("clip", own, stop=STEPS // 2)
    return outcome(own)


@contextlib.contextmanager
def single():
    """As if there were no other process."""
    known = distributed.dist.is_initialized
    distributed.dist.is_initialized = lambda: False
    try:
        yield
    finally:
        distributed.dist.is_initialized = known


def outcome(folder):
    try:
        trained("clip", folder)
    except UserError as error:
        return str(error)
    return None


def test_processes_that_do_not_see_one_folder_are_refused_at_once(tmp_path):
    said = together_run(2, tmp_path / "out", __name__, "separate", str(tmp_path / "runs"))
    assert all("do not begin at one step: all must see the same folder" in one for one in said)


def with_gpus(monkeypatch, place, *seen):
    """A process of several that sees some GPUs, by their marks; what it takes is given back."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("LOCAL_RANK", str(place))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    own = [SimpleNamespace(uuid=mark) for mark in seen]
    monkeypatch.setattr(torch.cuda, "get_device_properties", own.__getitem__)
    monkeypatch.setattr(distributed, "_gpu", "")
    return taken


@pytest.mark.parametrize(
    "binding",
    [
        ["abcd", "abcd", "abcd", "abcd"],  # all GPUs of the machine: --gpus-per-node, torchrun
        ["a", "b", "c", "d"],  # its own: --gpus-per-task, --ntasks-per-gpu=1, --gpu-bind=single:1
        ["cd", "cd", "ab", "ab"],  # the nearest: --gpu-bind=closest, as in Lightning's issue 13605
        ["abcdefgh"] * 4,  # more than there are processes
    ],
)
def test_each_process_takes_a_gpu_of_its_own_however_they_are_bound(binding, monkeypatch):
    found = []
    for place, seen in enumerate(binding):
        taken = with_gpus(monkeypatch, place, *seen)
        distributed.own_device("auto")
        (number,) = taken
        assert distributed._gpu.endswith(f" {seen[number]}")
        found.append(distributed._gpu)
    assert len(set(found)) == len(binding)
    distributed.see_apart(found)


def test_several_processes_are_not_told_to_take_one_gpu(monkeypatch):
    taken = with_gpus(monkeypatch, 0, "a", "b")
    with pytest.raises(UserError, match="several processes cannot share one GPU; use auto, cuda or cpu"):
        distributed.own_device("cuda:1")
    distributed.own_device("cpu")
    assert not taken and not distributed._gpu


@pytest.mark.parametrize(
    ("gpus", "why"),
    [
        (["x a", "x b", "y c", "x a"], "Processes 1 and 4 of 4 have one GPU of x between them"),
        (["x a", "x b", ""], "Process 3 of 3 sees no GPU, and others do"),
        (["", "x b"], "Process 1 of 2 sees no GPU, and others do"),
    ],
)
def test_fewer_gpus_than_processes_are_refused(gpus, why):
    with pytest.raises(UserError, match=f"^{why}: start as many on each machine as it has GPUs, or use "):
        distributed.see_apart(gpus)
    distributed.see_apart(["", ""])


def one_for_all():
    """Whatever its number, a process sees the one GPU that all see."""
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
    torch.cuda.set_device = lambda number: None
    torch.cuda.get_device_properties = lambda number: SimpleNamespace(uuid="a")
    distributed.own_device("auto")


def test_all_processes_say_that_two_have_one_gpu(tmp_path):
    said = together_run(3, tmp_path / "out", __name__, "ranks", before="one_for_all")
    assert said == [said[0]] * 3
    assert said[0].startswith("Processes 1 and 2 of 3 have one GPU of ")


def ranks():
    return distributed.share()


def refused(folder):
    try:
        trained("dino", folder, steps=BATCH + 1)
    except UserError as error:
        return str(error)
    return None


def test_more_processes_than_samples_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "share", lambda: Share(0, BATCH + 1))
    assert "start fewer" in refused(tmp_path)


@pytest.mark.parametrize("total", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_rows_are_dealt_in_order_and_evenly(total, size):
    runs = [list(range(total))[Share(rank, size).rows(total)] for rank in range(size)]
    assert [row for run in runs for row in run] == list(range(total))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_alone_nothing_is_asked_of_anybody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")  # which some schedulers set for everyone
    with distributed.together() as share:
        assert share == Share(0, 1)
        assert not torch.distributed.is_initialized()
        assert distributed.agreed(True)
        assert distributed.counts_of(5) == [5]


@pytest.mark.slow
def test_torchrun_runs_a_whole_study_to_one_report(finished, tmp_path, tiny_study, tiny_cache):
    """The same data, order and start as alone, one report, and an audit passes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "paribus"]
    line = ["run", str(tiny_study), "--cache", str(tiny_cache), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, *line, "--workers", "1"], capture_output=True, text=True, cwd=ROOT, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    ours, alone = timeless(records(tiny_cache)), timeless(records(finished / "cache"))
    assert ours.keys() == alone.keys()
    for address, record in ours.items():
        if "order" in record["record"]:
            assert record["record"]["order"] == alone[address]["record"]["order"], address
    pretrained = [json.loads(json.dumps(r)) for a, r in ours.items() if a.startswith("pretrain")]
    assert len({record["record"]["start"] for record in pretrained}) == 1
    assert len(results(tmp_path / "runs")["measures"]) == len(results(finished / "runs")["measures"])
    assert paribus(tmp_path, "audit", tiny_study, "--cache", tiny_cache).code == 0
