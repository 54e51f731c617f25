"""Which of several processes this one is: SLURM's variables as its manual pages have them."""

import pytest
from study import begin, records, small_settings, write_study
from submitit.slurm.slurm import _parse_node_list

from paribus.errors import UserError
from paribus.train import distributed
from paribus.train.places import by_srun, first_host, own_part
from paribus.types import Share

from .processes import free_port, together_run, told

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
"""Of the second process on the second of two nodes."""
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "gpu[07-08]"}
"""Of a batch script, which is one process whatever its job has asked for."""


def array(own, count, least=0, last=None, step=1):
    last = least + (count - 1) * step if last is None else last
    told = {"ID": own, "COUNT": count, "MIN": least, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()}


@pytest.mark.parametrize(
    "listed",
    [
        "node1",
        "gpu[07-08]",
        "gpu[3,5-7]",
        "a1,b2",
        "rack[1-2]-gpu[03-04],login",
        "n-a[001-128]-ib0",
        "10.0.0.[1-2]",
    ],
)
def test_the_first_host_is_the_one_that_submitit_reads(listed):
    assert first_host(listed) == _parse_node_list(listed)[0]


def test_srun_tells_what_torchrun_would():
    told = by_srun(STEP)
    assert told.pop("MASTER_PORT") not in ("", by_srun(STEP | {"SLURM_STEP_ID": "1"})["MASTER_PORT"])
    assert told == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07"}
    ports = {
        int(by_srun(STEP | {"SLURM_JOB_ID": str(job)})["MASTER_PORT"]) for job in range(10**6, 10**6 + 500)
    }
    assert len(ports) == 500 and min(ports) >= 20_000 and max(ports) < 60_000
    own = by_srun(STEP | {"MASTER_ADDR": "here", "MASTER_PORT": "1234"})
    assert (own["MASTER_ADDR"], own["MASTER_PORT"]) == ("here", "1234")
    assert by_srun(STEP | {"SLURM_GPUS_PER_TASK": "1"})["LOCAL_RANK"] == "1", "what is seen decides, not it"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH,
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"RANK": "3", "WORLD_SIZE": "16", "MASTER_ADDR": "gpu07"},  # torchrun, which srun started
    ],
)
def test_one_process_alone_and_those_of_torchrun_stay_what_they_are(environment):
    assert by_srun(environment) == {}


@pytest.mark.parametrize(
    ("given", "environment", "part"),
    [
        (None, {}, (0, 1)),
        ("2/3", {}, (2, 3)),
        (None, array(7, 64), (7, 64)),
        (None, array(64, 64, least=1), (63, 64)),
        (None, array(6, 4, step=2), (3, 4)),
        (None, {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "5"}, (2, 5)),
        (None, BATCH, (0, 1)),
        (None, STEP, (5, 8)),
        (None, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}, (1, 2)),
        (None, {"WORLD_SIZE": "4"}, (0, 1)),
        (None, STEP | array(2, 4), (2 * 8 + 5, 32)),
        ("0/1", array(2, 4), (0, 1)),
        ("1/3", STEP | array(2, 4), (1 * 8 + 5, 24)),
        ("3/64", array(3, 2, least=3, last=17), (3, 64)),
    ],
)
def test_jobs_and_the_processes_of_each_cut_the_work(given, environment, part):
    assert own_part(given, environment) == Share(*part)


def test_all_processes_of_all_jobs_have_each_part_once():
    parts = [
        own_part(None, STEP | array(job, 3, least=1) | {"SLURM_PROCID": str(rank)})
        for job in (1, 2, 3)
        for rank in range(8)
    ]
    assert sorted(parts) == [Share(rank, 24) for rank in range(24)]


@pytest.mark.parametrize("environment", [array(17, 2, least=3, last=17), array(3, 2, least=3, last=17)])
def test_an_array_with_gaps_is_refused(environment):
    with pytest.raises(UserError, match=r"have gaps, so which of its 2 parts .*: say it with --part I/N\.$"):
        own_part(None, environment)


@pytest.mark.parametrize("given", ["3/3", "1", "a/b", "-1/3", "1/0", ""])
def test_what_is_no_part_is_refused(given):
    with pytest.raises(UserError, match="write I/N, counted from 0"):
        own_part(given, {})


def ranks():
    share = distributed.share()
    return share, distributed.agreed(share.first), distributed.names([f"process {share.rank}"])


def test_processes_that_srun_started_work_as_one(tmp_path):
    """Two real processes, which know each other by SLURM's variables alone."""
    found = together_run(2, tmp_path / "out", __name__, "ranks", by="srun")
    assert found == [(Share(rank, 2), True, ["process 0", "process 1"]) for rank in (0, 1)]


@pytest.mark.slow
def test_srun_runs_a_study_to_one_report(tmp_path, tiny_cache):
    """`srun --ntasks 2 paribus run`: the second process trains along and writes nothing."""
    settings = small_settings()
    settings |= {"measure": [], "baselines": [], "vlms": {}, "arms": {"clip": settings["arms"]["clip"]}}
    study = write_study(tmp_path, settings)
    asked = ("run", study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--device", "cpu")
    port = free_port()
    running = [begin(tmp_path, *asked, environment=told("srun", rank, 2, port)) for rank in (0, 1)]
    ends = [each.wait() for each in running]
    assert [end.code for end in ends] == [0, 0], ends
    assert [end.out.count("Report: ") for end in ends] == [1, 0]
    assert any(name.startswith("pretrain-") for name in records(tiny_cache))
