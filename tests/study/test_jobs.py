"""Stages as SLURM jobs: what is submitted is read as sbatch reads it, and run as SLURM runs it."""

import re
import shutil
import sys

import pytest

from paribus.cli_options import read_slurm
from paribus.errors import UserError
from paribus.study.jobs import asked
from paribus.study.study import load_study
from paribus.types import Runtime, Slurm
from study import begin, paribus, records, small_settings, timeless, write_study
from study.slurm import install, jobs

PLAIN = {"nodes": "1", "ntasks-per-node": "1", "time": "1440", "cpus-per-task": "2"}


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of this machine, and the environment in which it is found."""
    return tmp_path / "slurm", install(tmp_path / "slurm")


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
    assert (local["nodes"], local["tasks_per_node"], local["timeout_min"]) == (1, 1, 1440)


def test_what_a_stage_refuses_comes_back_as_a_sentence(slurm, tiny_cache, tmp_path, monkeypatch):
    for name, value in slurm[1].items():
        monkeypatch.setenv(name, value)
    words = load_study(write_study(tmp_path)).all_arms()[0].encoder.text
    runtime = Runtime(cache=tiny_cache, cluster="slurm", device="cpu")
    with pytest.raises(UserError, match=r"^Unknown caption policy 'poem': choose one of [^\n]*\.$"):
        words.changed(captions="poem").run(runtime)
    assert len(jobs(slurm[0])) == 1


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
