"""A stage as a job of its own: what it asks a cluster for, and how its answer comes back."""

import shutil
from typing import Any

from paribus.errors import UserError
from paribus.types import Runtime

SHARED = ("timeout_min", "mem_gb")
"""Settings that exca takes by the same name for any cluster."""
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
    given = {key: getattr(slurm, key) for key in SHARED}
    given |= {f"slurm_{key}": getattr(slurm, key) for key in OWN}
    return given | {
        "cluster": runtime.cluster,
        "folder": str(runtime.cache / "jobs"),
        "logs": str((runtime.cache / "jobs" / "%j").absolute()),
        "job_name": f"paribus-{name}",
        "nodes": nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": slurm.cpus_per_task or runtime.workers,
        "gpus_per_node": (gpus if slurm.gpus_per_node is None else slurm.gpus_per_node) or None,
        "slurm_use_srun": nodes * tasks > 1,
        "slurm_setup": list(slurm.setup) or None,
        "slurm_additional_parameters": slurm.sbatch or None,
    }


def answered(infra: Any, runtime: Runtime) -> None:
    """Submit a stage by its infra, and wait until it is done.

    Raises:
        UserError: there is no SLURM here, it refuses the job, or the stage itself raised one.
        RuntimeError: the job broke, or ran out of time.
    """
    if runtime.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "--cluster slurm: sbatch and srun are not both here: run this where jobs are submitted."
        )
    try:
        job = infra.submit(runtime)
    except RuntimeError as error:
        told = " ".join(str(error).split()) or "it did not say why"
        raise UserError(f"SLURM refused the job: {told.rstrip('.')}; see --slurm KEY=VALUE.") from error
    job.wait()
    # The first process speaks for all: if another breaks, so does it.
    refused = job.task(0).result()
    if refused is not None:
        raise UserError(refused)
