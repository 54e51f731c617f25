"""Stages as jobs, several at a time: what waits for what, and what a failed one does to others."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from train.processes import free_port

from paribus.errors import UserError
from paribus.study import dispatch as dispatching
from paribus.study import stage
from paribus.study.dispatch import dispatch
from paribus.study.jobs import Submitted
from paribus.study.stage import Stage
from paribus.types import Config, Runtime, Slurm
from study import write_study
from study.slurm import enter, install, jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Made(Config):
    """A record that says nothing."""


class Step(Stage[Made]):
    """A stage that may rest on another one, wait for others to run, or refuse."""

    name: ClassVar[str] = "step"
    number: int
    after: "Step | None" = None
    meets: int = 0
    refuses: bool = False

    def compute(self, folder: Path, runtime: Runtime) -> Made:
        if self.refuses:
            raise UserError(f"Step {self.number} has no pictures: bring them.")
        place, until = runtime.cache / "met", time.monotonic() + 60
        place.mkdir(exist_ok=True)
        (place / str(self.number)).touch()
        while len(list(place.iterdir())) < self.meets and time.monotonic() < until:
            time.sleep(0.1)
        if time.monotonic() >= until:
            raise UserError("The others never came.")
        return Made()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM of this machine."""
    enter(install(tmp_path / "slurm"), monkeypatch)
    return tmp_path / "slurm"


def run(stages, folder, cluster="slurm", **asked):
    """What is told; the addresses are the steps' numbers."""
    told = list[str]()
    runtime = Runtime(cache=folder / "cache", cluster=cluster, device="cpu", slurm=Slurm(**asked))
    numbers = {stage.address(): str(stage.number) for stage in stages}
    try:
        dispatch(stages, runtime, told.append)
    except UserError as error:
        told.append(str(error))
    told = [re.sub(r"step-[0-9a-f]+", lambda found: numbers[found[0]], line) for line in told]
    there = {stage.number for stage in stages if stage.cached(runtime) is not None}
    return [re.sub(r"\d+\.\d s$", "T", line) for line in told], there


def test_what_does_not_rest_on_each_other_runs_at_the_same_time(slurm, tmp_path):
    """Two steps that wait until both run, and one that needs the first."""
    one, two = Step(number=1, meets=2), Step(number=2, meets=2)
    told, there = run([one, two, Step(number=3, after=one)], tmp_path)
    assert there == {1, 2, 3} and len(jobs(slurm)) == 3
    assert told[:2] == ["[1/3] 1 is job 1", "[2/3] 2 is job 2"]
    assert set(told[2:]) == {
        "[1/3] 1 done in T",
        "[2/3] 2 done in T",
        "[3/3] 3 is job 3",
        "[3/3] 3 done in T",
    }
    assert told.index("[1/3] 1 done in T") < told.index("[3/3] 3 is job 3")


@pytest.mark.parametrize(
    ("cluster", "asked"), [("slurm", {"jobs": 1}), ("slurm", {"qos": "one"}), ("local", {})], ids=str
)
def test_no_more_run_than_are_allowed(cluster, asked, slurm, tmp_path):
    """Whether the user, SLURM, or this machine sets the limit."""
    told, there = run([Step(number=1), Step(number=2)], tmp_path, cluster, **asked)
    assert there == {1, 2}
    told = [re.sub(r"job \d+", "job J", line) for line in told]
    assert told == [f"[{n}/2] {n} {what}" for n in (1, 2) for what in ("is job J", "done in T")]


def test_what_rests_on_a_failed_one_is_left_and_all_else_is_made(slurm, tmp_path):
    bad = Step(number=1, refuses=True)
    steps = [bad, Step(number=2), Step(number=3, after=bad), Step(number=4, after=Step(number=2))]
    told, there = run(steps, tmp_path)
    assert there == {2, 4} and len(jobs(slurm)) == 3
    assert "[1/4] 1 failed" in told and told[-1] == "Step 1 has no pictures: bring them."


def test_several_that_fail_are_all_told(slurm, tmp_path):
    told, there = run([Step(number=n, refuses=True) for n in (1, 2)], tmp_path)
    assert there == set()
    found = re.fullmatch(r"2 stages failed\. (.*)", told[-1])
    assert found and all(f"{n}: Step {n} has no pictures: bring them." in found[1] for n in (1, 2))


class Unwanted(Step):
    """A step whose job the cluster does not take."""

    name: ClassVar[str] = "step"

    def submit(self, runtime: Runtime) -> Submitted:
        raise UserError("SLURM refused the job: no such account.")


def test_what_failed_before_is_told_beside_a_job_that_is_not_taken(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatching, "SETTLE", -1.0)
    told, there = run([Step(number=1, refuses=True), Unwanted(number=2), Step(number=3)], tmp_path, jobs=1)
    assert there == set() and len(jobs(slurm)) == 1
    assert told[-1].startswith("2 stages failed. ")
    assert "Step 1 has no pictures" in told[-1] and "no such account" in told[-1]


def test_who_interrupts_it_is_told_which_jobs_go_on(slurm, tmp_path):
    said = list[str]()

    def tell(line):
        said.append(line)
        if "job 2" in line:
            raise KeyboardInterrupt

    runtime = Runtime(cache=tmp_path / "cache", cluster="slurm", device="cpu")
    steps = [Step(number=1), Step(number=2)]
    with pytest.raises(KeyboardInterrupt):
        dispatch(steps, runtime, tell)
    assert said[-1] == "Jobs of SLURM go on: 1 2 (scancel ends them); run again to wait for them."
    for step in steps:  # they do
        while step.cached(runtime) is None:
            time.sleep(0.2)


def test_a_record_may_show_late_and_one_that_was_written_elsewhere_is_missed(tmp_path, monkeypatch):
    step, made = Step(number=1), Step(number=1)
    runtime = Runtime(cache=tmp_path / "cache", cluster="local", device="cpu")
    made.run(Runtime(cache=tmp_path / "other", device="cpu"))
    folder, other = step.folder(runtime), made.folder(Runtime(cache=tmp_path / "other"))
    folder.parent.mkdir(parents=True)
    timer = threading.Timer(1.0, other.rename, [folder])
    timer.start()
    assert step.made(runtime) == Made()
    monkeypatch.setattr(stage, "SHOWN", 0.2)
    with pytest.raises(UserError, match=r"The job of step is done, but left nothing in \S*/stages/step-"):
        Step(number=2).made(runtime)


def test_several_processes_do_not_submit(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "paribus"]
    where = ["--cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    command = [*torchrun, "run", str(write_study(tmp_path)), *where, "--cluster", "local"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode
    assert "--cluster submits jobs: start it as one process, without torchrun or srun." in done.stderr
    assert not (tmp_path / "cache" / "stages").exists()
