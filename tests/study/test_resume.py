"""Killed at any moment and run again, or run twice at once: the same weights and the same numbers."""

import os
import random
import signal
import time
from functools import partial

import pytest

from study import (
    begin,
    checkpoint_always,
    counted,
    counting,
    leftovers,
    paribus,
    reached,
    records,
    results,
    timeless,
)


def line(folder, study, cache):
    return ("run", study, "--cache", cache, "--runs", folder / "runs", "--workers", "1")


def stage_begun(command, number):
    return lambda: f"[{number}/" in command.stderr.read_text()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_like_the_uninterrupted_run(
    finished, tmp_path, tiny_study, tiny_cache
):
    chance = random.Random(0)
    kills = 0
    for number in (1, 3, 6, 8, 5, 4):
        command = begin(tmp_path, *line(tmp_path, tiny_study, tiny_cache))
        kills += command.kill_when(stage_begun(command, number), delay=chance.uniform(0.0, 0.4))
    assert kills >= 4
    assert len(records(tiny_cache)) < len(records(finished / "cache"))
    done = paribus(tmp_path, *line(tmp_path, tiny_study, tiny_cache))
    assert done.code == 0, done.err
    assert timeless(records(tiny_cache)) == timeless(records(finished / "cache"))
    assert results(tmp_path / "runs") == results(finished / "runs")
    assert not leftovers(tiny_cache / "stages", tmp_path / "runs")


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_from_its_checkpoint(
    tmp_path, tiny_study, tiny_cache, shared_cache
):
    """Weights, order and history bit for bit, for every arm, whatever the step at which it was killed."""
    from paribus.study.study import load_study

    changes = ("control.budget.samples=640", "measure=[]", "baselines=[]")
    sets = [part for change in changes for part in ("--set", change)]
    study = load_study(tiny_study, changes)
    whole = tmp_path / "whole"
    (whole / "stages").mkdir(parents=True)
    for link in tiny_cache.glob("stages/*"):
        (whole / "stages" / link.name).symlink_to(link.resolve())
    assert paribus(tmp_path, *line(tmp_path, tiny_study, whole), *sets).code == 0
    log = tmp_path / "begun"
    for arm in study.all_arms():
        for least in (3, 17):
            command = begin(
                tmp_path,
                *line(tmp_path, tiny_study, tiny_cache),
                *sets,
                before=partial(checkpoint_always, log),
            )
            folder = tiny_cache / "stages" / arm.encoder.address() / ".checkpoints"
            assert command.kill_when(partial(reached, folder, least)), command.stderr.read_text()
    done = paribus(tmp_path, *line(tmp_path, tiny_study, tiny_cache), *sets)
    assert done.code == 0, done.err
    started = [int(step) for step in counted(log)]
    # Each arm began at the beginning, then behind its first kill, then behind its second (the last unlogged).
    assert [step > 0 for step in started] == ([False, True, True] * len(study.arms))[:-1]
    assert all(step >= least for least, step in zip((0, 3, 17) * len(study.arms), started, strict=False))
    assert timeless(records(tiny_cache)) == timeless(records(whole))
    files = [record["files"] for address, record in records(tiny_cache).items() if "pretrain" in address]
    assert len(files) == len(study.arms) and all(
        {"encoder.safetensors", "history.json"} == set(f) - {"joint.safetensors", "tokenizer.json"}
        for f in files
    )
    assert not list(tiny_cache.rglob("step-*"))


@pytest.mark.slow
def test_two_runs_at_once_share_the_work_and_agree(finished, tmp_path, tiny_study, tiny_cache):
    log = tmp_path / "computed"
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    commands = [
        begin(folder, *line(folder, tiny_study, tiny_cache), before=partial(counting, log))
        for folder in folders
    ]
    ends = [command.wait() for command in commands]
    assert [end.code for end in ends] == [0, 0], [end.err for end in ends]
    stages = records(finished / "cache").keys() - {
        a for a in records(finished / "cache") if a.startswith("corpus")
    }
    assert sorted(counted(log)) == sorted(stages)
    assert results(folders[0] / "runs") == results(folders[1] / "runs") == results(finished / "runs")
    assert timeless(records(tiny_cache)) == timeless(records(finished / "cache"))


def test_an_interrupted_run_says_how_to_go_on(tmp_path, tiny_study, tiny_cache):
    """Control-C is no defect: one line, and the exit code that shells expect.

    In the midst of a training: between stages a destructor may be at work, in which Python drops it.
    """
    longer = ("--set", "control.budget.samples=64000")
    command = begin(tmp_path, *line(tmp_path, tiny_study, tiny_cache), *longer)
    while "] pretrain" not in command.stderr.read_text():
        assert command.process.is_alive()
        time.sleep(0.01)
    os.kill(command.process.pid, signal.SIGINT)
    done = command.wait()
    assert done.code == 130
    assert done.err.splitlines()[-1] == "paribus: interrupted; run the same command again to go on"
    assert "Traceback" not in done.err
