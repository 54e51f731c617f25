"""Which of several processes this one is, as torchrun and SLURM say it in the environment."""

import re
from collections.abc import Mapping

from paribus.errors import UserError
from paribus.types import Share

RANKED = {"RANK", "WORLD_SIZE", "MASTER_ADDR"}
"""What ``torchrun``, or what stands in for it, sets."""

PORTS = range(20_000, 60_000)
"""Where the processes of a SLURM step meet, unless MASTER_PORT says where; a step has one of its own."""


def by_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether ``torchrun``, or what stands in for it, started this process."""
    return environment.keys() >= RANKED


def by_srun(environment: Mapping[str, str]) -> dict[str, str]:
    """What ``torchrun`` would have set, for one of several processes that ``srun`` started; else nothing.

    The step's variables are read, not the job's: these are set in a batch script too, which is one process
    whatever the job has asked for. Processes meet at the step's first host, where the first of them is unless
    ``--distribution`` says otherwise; MASTER_ADDR and MASTER_PORT come first where they are set.
    """
    if by_torchrun(environment) or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    job, step = (int(environment.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"])),
        "MASTER_PORT": environment.get("MASTER_PORT", str(PORTS[(1_009 * job + step) % len(PORTS)])),
    }


def first_host(listed: str) -> str:
    """The first of SLURM's list of hosts: of ``gpu[07-09,12]-a,login`` it is ``gpu07-a``."""
    group = re.match(r"(?:[^,\[]|\[[^\]]*\])*", listed)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", group[0] if group else listed)


def own_part(given: str | None, environment: Mapping[str, str]) -> Share:
    """Which part of a work is this process's, that is cut over jobs and over the processes of each.

    Jobs are counted by what is given, ``I/N``, or else by SLURM's array; each job's part is cut again over
    the processes that ``torchrun`` or ``srun`` started in it. So process r of W in job I of N has part
    I * W + r of N * W.

    Raises:
        UserError: what is given is no part, or the array's numbers have gaps.
    """
    jobs = _array(environment) if given is None else _given(given)
    told = {**environment, **by_srun(environment)}
    own = Share(int(told["RANK"]), int(told["WORLD_SIZE"])) if by_torchrun(told) else Share()
    return Share(jobs.rank * own.size + own.rank, jobs.size * own.size)


def _given(part: str) -> Share:
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"--part {part}: write I/N, counted from 0: 0/3, 1/3 and 2/3 are the whole.")
    return Share(int(found[1]), int(found[2]))


def _array(environment: Mapping[str, str]) -> Share:
    numbers = {
        name: int(environment[f"SLURM_ARRAY_TASK_{name}"])
        for name in ("ID", "COUNT", "MIN", "MAX", "STEP")
        if f"SLURM_ARRAY_TASK_{name}" in environment
    }
    if not {"ID", "COUNT"} <= numbers.keys():
        return Share()
    own, count, least, step = numbers["ID"], numbers["COUNT"], numbers.get("MIN", 0), numbers.get("STEP", 1)
    last = least + (count - 1) * step
    if not least <= own <= last or numbers.get("MAX", last) != last:
        raise UserError(
            f"The numbers of SLURM's array have gaps, so which of its {count} parts is task {own}'s cannot "
            "be told: say it with --part I/N."
        )
    return Share((own - least) // step, count)
