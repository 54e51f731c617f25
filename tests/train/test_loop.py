"""fit(): killed anywhere and called again, it ends with the same bits; when it cannot go on, it says why."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from objectives import same_bits, tiny_loader, tiny_objective
from vlm import tiny_loader as vlm_loader
from vlm import tiny_vlm

from paribus.encoders.vision import in_unit
from paribus.errors import UserError
from paribus.objectives import OBJECTIVES
from paribus.train.loop import chain, fit, until_next
from paribus.train.optim import learning_rate
from paribus.train.state import checkpoints
from paribus.types import Budget, Clock, Runtime

from . import BATCH, LONG, RECIPE, STEPS, train_long

KINDS = [*sorted(OBJECTIVES), "vision-language"]


def build(kind):
    """A fresh objective and its loader."""
    if kind == "vision-language":
        return tiny_vlm(trained=("connector", "language")), vlm_loader(BATCH)
    return tiny_objective(kind), tiny_loader(kind, batch=BATCH)


def train(kind, folder, *, batches=None, every=0.0, steps=STEPS, chunk=None, recipe=RECIPE, precision="fp32"):
    """Train a fresh objective; a checkpoint after each step unless told otherwise."""
    objective, loader = build(kind)
    result = fit(
        objective,
        loader if batches is None else batches(loader),
        recipe=recipe,
        budget=Budget(samples=steps * BATCH + 3, batch=BATCH),
        precision=precision,
        folder=folder,
        runtime=Runtime(device="cpu", chunk=chunk, checkpoint_seconds=every),
        label=f"pretrain {kind}",
    )
    return objective, result


class PowerCutError(Exception):
    """What a test raises in place of one."""


def failing_at(step):
    """Wraps a loader so that it raises where step ``step`` is asked for."""

    def wrap(loader):
        def batches(start, stop):
            for number, batch in enumerate(loader(start, stop), start):
                if number == step:
                    raise PowerCutError
                yield batch

        return batches

    return wrap


def ended_alike(a, b, folder_a, folder_b):
    """The same weights, buffers, optimiser, order and history, bit for bit."""
    (model_a, fit_a), (model_b, fit_b) = a, b
    assert same_bits(model_a.state_dict(), model_b.state_dict())
    assert fit_a.order == fit_b.order
    assert fit_a.history == fit_b.history
    last = [checkpoints(folder)[-1] for folder in (folder_a, folder_b)]
    digests = [json.loads((path / "progress.json").read_text())["sha256"] for path in last]
    assert last[0].name == last[1].name == f"step-{len(fit_a.history):08d}"
    assert digests[0] == digests[1], "the optimiser's moments too"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs of every kind, and their folders."""
    folders = {kind: tmp_path_factory.mktemp("whole") for kind in KINDS}
    return {kind: (train(kind, folder), folder) for kind, folder in folders.items()}


# Resuming.


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_at_every_step_and_resumed_ends_with_the_same_bits(kind, tmp_path, whole):
    for step in range(STEPS):
        with pytest.raises(PowerCutError):
            train(kind, tmp_path, batches=failing_at(step))
        assert len(checkpoints(tmp_path)) == min(step, 2)
    resumed = train(kind, tmp_path)
    ended_alike(resumed, whole[kind][0], tmp_path, whole[kind][1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_checkpoints_ends_with_the_same_bits(kind, tmp_path, whole):
    """Saving changes nothing, and a run that was cut before its first checkpoint starts again."""
    with pytest.raises(PowerCutError):
        train(kind, tmp_path, batches=failing_at(STEPS - 1), every=1e9)
    model, result = train(kind, tmp_path, every=1e9)
    assert checkpoints(tmp_path) == []
    assert same_bits(model.state_dict(), whole[kind][0][0].state_dict())
    assert result.history == whole[kind][0][1].history


def test_a_finished_run_called_again_trains_no_more(tmp_path, whole):
    train("clip", tmp_path)
    again = train("clip", tmp_path, batches=failing_at(0))
    ended_alike(again, whole["clip"][0], tmp_path, whole["clip"][1])


def test_only_what_is_left_is_asked_of_the_loader(tmp_path):
    asked = []

    def wrap(loader):
        def batches(start, stop):
            asked.append((start, stop))
            return loader(start, stop)

        return batches

    with pytest.raises(PowerCutError):
        train("clip", tmp_path, batches=failing_at(5))
    train("clip", tmp_path, batches=wrap)
    assert asked == [(5, STEPS)]


def kill_after(folder, step):
    """Train in another process, and kill it once it has passed ``step``; how far it came."""
    tests, source = Path(__file__).parents[1], Path(__file__).parents[2] / "src"
    code = f"from train import train_long; train_long({str(folder)!r})"
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(int(path.name[5:]) > step for path in checkpoints(folder)):
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return max(int(path.name[5:]) for path in checkpoints(folder))


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path):
    """SIGKILL while it saves after every step; then it ends as the one that nobody killed."""
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    assert 5 < kill_after(killed, 5) < LONG
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed, undisturbed = train_long(killed), train_long(calm)
    torch.set_num_threads(threads)
    ended_alike(resumed, undisturbed, killed, calm)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in calm.iterdir())


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json"])
def test_a_checkpoint_cut_in_half_is_named_and_the_one_before_goes_on(tmp_path, whole, name):
    with pytest.raises(PowerCutError):
        train("clip", tmp_path, batches=failing_at(5))
    newest = checkpoints(tmp_path)[-1]
    path = newest / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"step-00000005 is damaged: delete that folder and run again"):
        train("clip", tmp_path)
    shutil.rmtree(newest)
    ended_alike(train("clip", tmp_path), whole["clip"][0], tmp_path, whole["clip"][1])


# Chunks and precision.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_end_close_to_the_whole_batch(kind, chunk, tmp_path, whole):
    """Adam blows rounding up where a gradient is nothing else, so weights are close, not equal."""
    model, result = train(kind, tmp_path, chunk=chunk)
    (expected, of_whole), _ = whole[kind]
    assert result.order == of_whole.order
    for ours, theirs in zip(result.history, of_whole.history, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[name] == pytest.approx(theirs[name], rel=1e-3) for name in ours)
    moved = {name: p for name, p in expected.named_parameters() if p.requires_grad and p.ndim > 1}
    start, _ = build(kind)
    for name, parameter in moved.items():
        way = (parameter - start.get_parameter(name)).detach()
        apart = (model.get_parameter(name) - parameter).detach()
        assert apart.norm() <= 0.02 * way.norm() + 1e-9, name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_trains_float32_weights(kind, tmp_path, whole):
    model, result = train(kind, tmp_path, precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    losses = [line["loss"] for line in result.history]
    expected = [line["loss"] for line in whole[kind][0][1].history]
    assert losses != expected
    assert losses[0] == pytest.approx(expected[0], rel=0.02)


# What is recorded.


def test_the_order_digest_is_that_of_the_batches(whole):
    _, loader = build("clip")
    digest = ""
    for batch in loader(0, STEPS):
        digest = chain(digest, batch.ids)
    assert whole["clip"][0][1].order == whole["dino"][0][1].order == digest


def test_the_history_has_a_line_for_every_step(whole):
    history = whole["clip"][0][1].history
    assert [line["seen"] for line in history] == [BATCH * step for step in range(STEPS)]
    clocks = [Clock(step, step * BATCH, STEPS * BATCH) for step in range(STEPS)]
    assert [line["lr"] for line in history] == [learning_rate(RECIPE, clock) for clock in clocks]
    named = {"seen", "loss", "lr", "clip", "temperature", "image_spread", "text_spread"}
    assert named == set(history[0])


def test_seconds_add_up_over_interruptions(tmp_path):
    def slowly(step):
        def wrap(loader):
            def batches(start, stop):
                for number, batch in enumerate(loader(start, stop), start):
                    if number == step:
                        raise PowerCutError
                    time.sleep(0.05)
                    yield batch

            return batches

        return wrap

    with pytest.raises(PowerCutError):
        train("clip", tmp_path, batches=slowly(4))
    _, result = train("clip", tmp_path, batches=slowly(-1))
    assert result.seconds >= STEPS * 0.05, "what the interrupted run took counts too"


def test_frozen_parameters_do_not_move(tmp_path):
    """Decay and momentum must not reach them either."""
    objective, loader = build("clip")
    objective.joint.text.requires_grad_(False)
    before = {name: value.clone() for name, value in objective.joint.text.state_dict().items()}
    runtime = Runtime(device="cpu")
    fit(
        objective, loader, recipe=RECIPE, budget=Budget(samples=24, batch=6), precision="fp32",
        folder=tmp_path, runtime=runtime, label="clip",
    )  # fmt: skip
    assert same_bits(objective.joint.text.state_dict(), before)
    assert not same_bits(objective.image.state_dict(), build("clip")[0].image.state_dict())


# When it cannot go on.


def poisoned_at(step):
    """Wraps a loader so that one pixel of step ``step`` is not a number."""

    def wrap(loader):
        def batches(start, stop):
            for number, batch in enumerate(loader(start, stop), start):
                if number == step:
                    views = {name: in_unit(view) for name, view in batch.views.items()}
                    first = next(iter(views.values()))
                    first[(0,) * first.ndim] = float("nan")
                    batch = replace(batch, views=views)
                yield batch

        return batches

    return wrap


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(kind, tmp_path, whole):
    with pytest.raises(UserError, match=rf"loss of pretrain {kind} is nan at step 5: lower recipe\.lr"):
        train(kind, tmp_path, batches=poisoned_at(5))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000004", "step-00000005"]
    ended_alike(train(kind, tmp_path), whole[kind][0], tmp_path, whole[kind][1])


@pytest.fixture
def small_disk(tmp_path):
    """A real file system with room for two checkpoints and a half; only root can mount one."""
    train("clip", tmp_path / "measure", steps=1)
    room = int(2.5 * sum(path.stat().st_size for path in checkpoints(tmp_path / "measure")[0].iterdir()))
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size={room}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoints(small_disk, whole):
    folder = small_disk / "checkpoints"
    with pytest.raises(UserError, match=r"No space left.*step-00000003: free some and run again"):
        train("clip", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    ended_alike(train("clip", folder), whole["clip"][0], folder, whole["clip"][1])


def test_a_file_that_may_not_grow_keeps_the_last_good_checkpoint(tmp_path, whole):
    """The same through the kernel's limit on file size, which needs no root."""
    with pytest.raises(PowerCutError):
        train("clip", tmp_path, batches=failing_at(2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(UserError, match=r"No space left.*step-00000003"):
            train("clip", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    ended_alike(train("clip", tmp_path), whole["clip"][0], tmp_path, whole["clip"][1])


@pytest.mark.parametrize(
    ("cost", "least", "expected"), [(0.1, 20.0, 20.0), (3.0, 20.0, 150.0), (3.0, 0.0, 0.0)]
)
def test_checkpoints_take_a_fiftieth_of_the_time_at_most(cost, least, expected):
    assert until_next(cost, Runtime(checkpoint_seconds=least)) == pytest.approx(expected)


def test_as_many_checkpoints_are_kept_as_asked(tmp_path):
    objective, loader = build("clip")
    fit(
        objective, loader, recipe=RECIPE, budget=Budget(samples=STEPS * BATCH, batch=BATCH), precision="fp32",
        folder=tmp_path, runtime=Runtime(device="cpu", checkpoint_seconds=0.0, checkpoints=4), label="clip",
    )  # fmt: skip
    assert [int(path.name[5:]) for path in checkpoints(tmp_path)] == list(range(STEPS - 3, STEPS + 1))
