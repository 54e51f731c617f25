"""A stage as a job of its own: what it asks a cluster for, and how its answer comes back."""

import contextlib
import os
import re
import shutil
import time
from typing import Any, NamedTuple

from paribus.errors import UserError
from paribus.types import Runtime

UNLIMITED = 100 * 365 * 24 * 60
"""Minutes of a job on this machine, for which submitit must have a limit: a century."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The GPUs that a process may see."""
GRACE = 10.0
"""Seconds that a refusal may come after a process broke: what one refuses breaks those that wait for it."""
TOGETHER = "export SLURM_KILL_BAD_EXIT=1"
"""Has ``srun`` end all processes of a step when one is killed; the others would wait for it."""
OWN = ("partition", "account", "qos", "constraint")
"""Settings that exca takes with ``slurm_`` before their name."""


def asked(name: str, runtime: Runtime, several: bool) -> dict[str, Any]:
    """What exca's infra is told: where, and for how much.

    A process gets the processors that prepare its data and, unless the device is the CPU, a GPU of its own.

    Args:
        name: of the stage, which becomes the job's.
        runtime: with the cluster, and what SLURM is asked for.
        several: whether processes can share the stage's work; if not, it is one process.
    """
    slurm = runtime.slurm
    spread = several and runtime.cluster == "slurm"
    nodes, tasks = (slurm.nodes, slurm.tasks_per_node) if spread else (1, 1)
    gpus = 0 if runtime.device == "cpu" else tasks
    given: dict[str, Any] = {f"slurm_{key}": getattr(slurm, key) for key in OWN}
    setup = [*slurm.setup, TOGETHER] if nodes * tasks > 1 else list(slurm.setup)
    return given | {
        "cluster": runtime.cluster,
        "folder": str(runtime.cache / "jobs"),
        "logs": str((runtime.cache / "jobs" / "%j").absolute()),
        "job_name": f"paribus-{name}",
        "timeout_min": slurm.timeout_min if runtime.cluster == "slurm" else UNLIMITED,
        "mem_gb": slurm.mem_gb,
        "nodes": nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": slurm.cpus_per_task or runtime.workers,
        "gpus_per_node": (gpus if slurm.gpus_per_node is None else slurm.gpus_per_node) or None,
        "slurm_use_srun": nodes * tasks > 1,
        "slurm_setup": setup or None,
        "slurm_additional_parameters": slurm.sbatch or None,
    }


def see_gpus(given: str | None) -> None:
    """See the GPUs that who submitted this job sees: on one machine submitit gives a job the first ones."""
    if given is None:
        os.environ.pop(VISIBLE, None)
    else:
        os.environ[VISIBLE] = given


def answered(infra: Any, name: str, runtime: Runtime) -> None:
    """Submit a stage by its infra, and wait until it is done, or one of its processes refuses or breaks.

    Raises:
        UserError: there is no SLURM here, it refuses the job, the job was ended before it was done, or a
            process of the stage itself raised one.
    """
    if runtime.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "--cluster slurm: sbatch and srun are not both here: run this where jobs are submitted."
        )
    try:
        job = infra.submit(runtime, os.environ.get(VISIBLE))
    except RuntimeError as error:
        told = " ".join(str(error).split()) or "it did not say why"
        raise UserError(f"SLURM refused the job: {told.rstrip('.')}; see --slurm KEY=VALUE.") from error
    end = _end(job)
    if end == _End():
        return
    if not job.done():  # others wait for the one that is gone
        with contextlib.suppress(OSError):
            job.cancel(check=False)
    raise UserError(
        end.refused
        or f"The job of {name} ended before it was done: {end.broke}; "
        f"see its logs in {job.paths.folder}, and run again to go on from there."
    )


class _End(NamedTuple):
    """How a process of a job ended: what it refused, or what broke it; neither if all is well."""

    refused: str | None = None
    broke: str | None = None


def _end(job: Any) -> _End:
    """Wait for the end of a job: the first refusal counts, then what broke a process first."""
    tasks = [job.task(number) for number in range(job.num_tasks)]
    until = float("inf")
    while True:
        over = job.done()
        written = sorted(filter(_has_written, tasks), key=_moment)
        silent = [task for task in tasks if task not in written]  # submitit gives each seconds to show
        ends = [_end_of(task) for task in (*written, *(silent[:1] if over else ()))]
        refused = [end for end in ends if end.refused is not None]
        broke = [end for end in ends if end.broke is not None]
        if broke:
            until = min(until, time.monotonic() + GRACE)
        if refused or (over and (broke or not silent)) or time.monotonic() > until:
            return (refused + broke or [_End()])[0]
        time.sleep(1.0)


def _has_written(task: Any) -> bool:
    return bool(task.paths.result_pickle.exists())


def _moment(task: Any) -> float:
    return float(task.paths.result_pickle.stat().st_mtime)


def _end_of(task: Any) -> _End:
    try:
        return _End(refused=task.result())
    except RuntimeError as error:  # submitit's own are
        return _End(broke=cause(str(error), task.state))


def cause(told: str, state: str) -> str:
    """Why a job is over, as a clause: from submitit's words, and the state that it or SLURM finds it in."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*", told, re.MULTILINE)
    last = errors[-1].rstrip(".") if errors else ""
    if "TIMEOUT" in state or "timed-out" in last:
        return "its time was over (--slurm timeout_min=N asks for more)"
    if "OUT_OF_ME" in state:
        return "memory ran out (--slurm mem_gb=N asks for more)"
    if last:
        return last
    said = "" if state in ("FINISHED", "INTERRUPTED") else f" (SLURM says {state})"
    return f"it was killed, or memory ran out{said}"
