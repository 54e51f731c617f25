"""Stages as SLURM jobs: what is submitted is read as sbatch reads it, and run as SLURM runs it."""

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

from paribus.cli_options import read_slurm
from paribus.errors import UserError
from paribus.study.jobs import asked, cause
from paribus.study.stage import Stage
from paribus.study.study import load_study
from paribus.types import Config, Runtime, Slurm
from study import begin, paribus, records, small_settings, timeless, write_study
from study.slurm import enter, install, jobs

PLAIN = {"nodes": "1", "ntasks-per-node": "1", "time": "1440", "cpus-per-task": "2"}


Way = Literal["well", "alone", "assist", "killed", "second killed", "broken"]


class Seen(Config):
    """What a job saw."""

    gpus: str | None


class Ends(Stage[Seen]):
    """A stage of several processes that ends in some way."""

    name: ClassVar[str] = "ends"
    several: ClassVar[bool] = True
    way: Way = "well"

    def __setstate__(self, state):
        """In a job, before anything: the second process alone finds a GPU, which it may not take."""
        super().__setstate__(state)
        if self.way == "alone" and os.environ.get("SLURM_PROCID") == "1":
            torch.cuda.is_available = lambda: True

    def compute(self, folder: Path, runtime: Runtime) -> Seen:
        del folder, runtime
        if self.way == "broken":
            raise MemoryError("no room\n for it")
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way != "well":
            signal.pause()  # as long as others are waited for
        return Seen(gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))

    def assist(self, runtime: Runtime) -> None:
        if self.way == "assist":
            raise UserError("The second process sees no pictures: mend that.")
        if self.way == "second killed":
            os.kill(os.getpid(), signal.SIGKILL)
        super().assist(runtime)


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of this machine, and the environment in which it is found."""
    return tmp_path / "slurm", install(tmp_path / "slurm")


@pytest.fixture
def near(slurm, monkeypatch):
    """The same for this process."""
    enter(slurm[1], monkeypatch)
    return slurm[0]


@pytest.fixture
def study(tmp_path):
    """A study that trains one encoder and nothing else."""
    settings = small_settings()
    settings |= {"measure": [], "baselines": [], "vlms": {}, "arms": {"clip": settings["arms"]["clip"]}}
    return write_study(tmp_path, settings)


def line(folder, study, cache, *more):
    where = ("--cache", cache, "--runs", folder / "runs", "--device", "cpu")
    return ("run", study, *where, "--cluster", "slurm", *more)


def asks(folder):
    """Job's name -> what it asks for, without where it writes."""
    found = {}
    for options, _ in jobs(folder):
        own = ("output", "error", "open-mode", "signal", "wckey")
        found[options["job-name"]] = {k: v for k, v in options.items() if k not in (*own, "job-name")}
    return found


@pytest.mark.slow
def test_each_stage_is_a_job_that_leaves_what_it_would_here(slurm, study, tiny_cache, tmp_path):
    """From `paribus run` through exca and submitit to sbatch, the job itself, and back."""
    folder, environment = slurm
    here = tmp_path / "here"
    (here / "stages").mkdir(parents=True)
    (here / "art").symlink_to((tiny_cache / "art").resolve())
    for link in tiny_cache.glob("stages/*"):
        (here / "stages" / link.name).symlink_to(link.resolve())
    done = paribus(tmp_path, *line(tmp_path, study, tiny_cache), environment=environment)
    assert done.code == 0, done.err
    assert paribus(tmp_path, "run", study, "--cache", here, "--device", "cpu").code == 0
    assert timeless(records(tiny_cache)) == timeless(records(here))
    (arm,) = load_study(study).all_arms()
    trained = [
        stage.folder(Runtime(cache=cache)) / "encoder.safetensors"
        for cache in (tiny_cache, here)
        for stage in [arm.encoder]
    ]
    assert trained[0].read_bytes() == trained[1].read_bytes()
    told = asks(folder)
    assert told["paribus-pretrain"] == PLAIN
    assert set(told) == {f"paribus-{name.split('-')[0]}" for name in records(tiny_cache)} - {"paribus-corpus"}
    for options, script in jobs(folder):
        command = script.split("# command\n")[1]
        assert f"{sys.executable} -u -m submitit.core._submit" in command and "srun" not in command
        assert options["output"].startswith(str(tiny_cache / "jobs")) and "%j" in options["output"]


@pytest.mark.slow
def test_a_stage_that_trains_is_spread_over_nodes_and_no_other_is(slurm, study, tiny_cache, tmp_path):
    """Two processes on two nodes, which srun starts: one model, one record."""
    folder, environment = slurm
    given = ["nodes=2", "timeout_min=30", "partition=gpu", "account=lab", "qos=long", "constraint=a100"]
    given += [
        "mem_gb=64",
        "cpus_per_task=3",
        "gpus_per_node=1",
        "setup=export PARIBUS_SET=up",
        "sbatch.reservation=r 1",
    ]
    more = [word for one in given for word in ("--slurm", one)]
    done = paribus(tmp_path, *line(tmp_path, study, tiny_cache, *more), environment=environment)
    assert done.code == 0, done.err
    told = asks(folder)
    other = {"partition": "gpu", "account": "lab", "qos": "long", "constraint": "a100", "mem": "64GB"}
    other |= {"time": "30", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "3", "gpus-per-node": "1"}
    other |= {"reservation": "r 1"}
    assert told.pop("paribus-pretrain") == other | {"nodes": "2"}
    assert told and all(asked == other for asked in told.values())
    scripts = {options["job-name"]: script for options, script in jobs(folder)}
    assert all("\n# setup\nexport PARIBUS_SET=up\n" in script for script in scripts.values())
    assert "\nsrun --unbuffered" in scripts.pop("paribus-pretrain")
    assert not any("srun" in script for script in scripts.values())
    trained = load_study(study).all_arms()[0].encoder
    record = trained.cached(Runtime(cache=tiny_cache))
    shutil.rmtree(trained.folder(Runtime(cache=tiny_cache)))
    assert paribus(tmp_path, *line(tmp_path, study, tiny_cache)[:-2]).code == 0
    alone = trained.cached(Runtime(cache=tiny_cache))
    assert (alone.order, alone.start, alone.data) == (record.order, record.start, record.data)


def test_a_job_gets_a_gpu_for_each_of_its_processes(tmp_path):
    def told(several, **settings):
        device = settings.pop("device", "auto")
        runtime = Runtime(cache=tmp_path, cluster="slurm", device=device, workers=6, slurm=Slurm(**settings))
        found = asked("x", runtime, several)
        return tuple(found[name] for name in ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task"))

    assert told(False) == told(True) == (1, 1, 1, 6)
    assert told(True, nodes=4, tasks_per_node=8) == (4, 8, 8, 6)
    assert told(False, nodes=4, tasks_per_node=8) == (1, 1, 1, 6)
    assert told(True, tasks_per_node=8, device="cpu", cpus_per_task=2) == (1, 8, None, 2)
    assert told(True, gpus_per_node=0) == (1, 1, None, 6)
    local = asked("x", Runtime(cluster="local", slurm=Slurm(nodes=4, tasks_per_node=8)), True)
    assert (local["nodes"], local["tasks_per_node"]) == (1, 1)
    assert local["timeout_min"] > 10 * 365 * 24 * 60 and local["slurm_setup"] is None


def test_what_a_stage_refuses_comes_back_as_a_sentence(near, tiny_cache, tmp_path):
    words = load_study(write_study(tmp_path)).all_arms()[0].encoder.text
    runtime = Runtime(cache=tiny_cache, cluster="slurm", device="cpu")
    with pytest.raises(UserError, match=r"^Unknown caption policy 'poem': choose one of [^\n]*\.$"):
        words.changed(captions="poem").run(runtime)
    assert len(jobs(near)) == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("way", "device", "said"),
    [
        ("alone", "cuda:1", r"--device cuda:1: several processes cannot share one GPU"),
        ("assist", "cpu", r"The second process sees no pictures: mend that\."),
        (
            "second killed",
            "cpu",
            r"The job of ends ended before it was done: memory ran out \(",
        ),
    ],
)
def test_what_any_process_ends_with_is_told_and_the_others_are_not_waited_for(
    way, device, said, near, tmp_path
):
    runtime = Runtime(cache=tmp_path / "cache", cluster="slurm", device=device, slurm=Slurm(tasks_per_node=2))
    with pytest.raises(UserError, match=f"^{said}"):
        Ends(way=way).run(runtime)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(int((near / "jobs" / "1.pid").read_text()), 0)
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "broken"])
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_job_that_dies_is_told_in_a_sentence_with_its_logs(way, cluster, near, tmp_path):
    with pytest.raises(UserError) as told:
        Ends(way=way).run(Runtime(cache=tmp_path / "cache", cluster=cluster, device="cpu"))
    whys = {
        ("killed", "local"): "it was killed, or memory ran out",
        ("killed", "slurm"): "memory ran out (--slurm mem_gb=N asks for more)",
    }
    why = whys.get((way, cluster), "MemoryError: no room")
    found = re.fullmatch(
        rf"The job of ends ended before it was done: {re.escape(why)}; "
        r"see its logs in (\S+), and run again to go on from there\.",
        str(told.value),
    )
    assert found, str(told.value)
    (log,) = Path(found[1]).glob("*_log.err")
    assert ("no room" in log.read_text()) == (way == "broken")


@pytest.mark.parametrize(
    ("told", "state", "why"),
    [
        ("no output", "TIMEOUT", "its time was over (--slurm timeout_min=N asks for more)"),
        (
            "a.b.UncompletedJobError: Job not requeued because: timed-out and not checkpointable.",
            "RUNNING",
            "its time was over (--slurm timeout_min=N asks for more)",
        ),
        ("no output", "CANCELLED by 7", "it was killed, or memory ran out (SLURM says CANCELLED by 7)"),
        ("no output", "INTERRUPTED", "it was killed, or memory ran out"),
        ("ValueError: one\n\nRuntimeError: two\nlines", "FAILED", "RuntimeError: two"),
    ],
)
def test_why_a_job_is_over(told, state, why):
    assert cause(told, state) == why


@pytest.mark.slow
@pytest.mark.parametrize("visible", [None, "", "5,2", "GPU-8f2c"])
def test_a_job_of_this_machine_sees_the_gpus_that_are_seen_here(visible, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Ends().run(Runtime(cache=tmp_path, cluster="local")) == Seen(gpus=visible)


def test_what_sbatch_refuses_is_told_in_its_words(slurm, study, tiny_cache, tmp_path):
    asked_for = line(tmp_path, study, tiny_cache, "--slurm", "partition=nowhere")
    said = paribus(tmp_path, *asked_for, environment=slurm[1]).refused()
    assert re.search(r"SLURM refused the job: .*invalid partition specified: nowhere; see --slurm", said)


def test_without_slurm_it_is_said_at_once(study, tiny_cache, tmp_path):
    if shutil.which("sbatch"):
        pytest.skip("there is a SLURM here")
    said = paribus(tmp_path, *line(tmp_path, study, tiny_cache)).refused()
    assert said == "--cluster slurm: sbatch and srun are not both here: run this where jobs are submitted."


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("partition", "write KEY=VALUE"),
        ("partition=", "write KEY=VALUE"),
        ("partitoin=gpu", "no such key; there are partition, account, "),
        ("nodes=two", r"--slurm nodes=two: input should be a valid integer"),
        ("nodes=0", r"--slurm nodes=0: input should be greater than 0"),
    ],
)
def test_what_slurm_cannot_be_asked_for_is_refused(given, why):
    with pytest.raises(UserError, match=why):
        read_slurm([given])


def test_what_slurm_is_asked_for_is_read():
    given = [
        "nodes=2",
        "setup=module load cuda",
        "setup=ulimit -n 4096",
        "sbatch.exclude=a[1-2]",
        "mem_gb=1.5",
    ]
    found = read_slurm(given)
    assert found == Slurm(
        nodes=2, setup=("module load cuda", "ulimit -n 4096"), sbatch={"exclude": "a[1-2]"}, mem_gb=1.5
    )
    assert read_slurm([]) == Slurm()


def test_slurm_is_asked_for_nothing_that_goes_elsewhere(study, tiny_cache, tmp_path):
    where = ("run", study, "--cache", tiny_cache, "--slurm", "nodes=2")
    assert "it goes with --cluster slurm" in paribus(tmp_path, *where).refused()
    assert begin(tmp_path, *where, "--cluster", "moon").wait().code == 2
