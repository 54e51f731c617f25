"""A SLURM of one machine: sbatch, srun and sacct as programs on PATH, which do as their manuals say.

``sbatch`` keeps a copy of the script it was given, reads its ``#SBATCH`` lines, and runs it in the background
with the environment of a batch step: the job's variables, and none of a step's. ``srun`` starts as many
processes as the job asked for, each with a step's variables. Job n is told in ``n.json`` and ``n.sh``, its
processes' group in ``n.pid``, and what it ended with in ``n.code``.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

SBATCH = re.compile(r"#SBATCH --([\w-]+)(?:=(.*))?")


def install(folder: Path) -> dict[str, str]:
    """Put the programs into a folder; what a process's environment needs to find them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        program = folder / "bin" / name
        program.write_text(
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(__file__)} {name} "
            f'{shlex.quote(str(folder / "jobs"))} "$@"\n'
        )
        program.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def enter(environment: dict[str, str], monkeypatch) -> None:
    """Let this process find the programs, and its submitit know nothing of the jobs of another SLURM."""
    from submitit.slurm.slurm import SlurmJob

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    SlurmJob.watcher.clear()
    SlurmJob.watcher._registered.clear()


def jobs(folder: Path) -> list[tuple[dict[str, str], str]]:
    """Options and script of all jobs, in order."""
    found = sorted((folder / "jobs").glob("*.json"), key=lambda path: int(path.stem))
    return [(json.loads(path.read_text()), path.with_suffix(".sh").read_text()) for path in found]


def sbatch(home: Path, script: str) -> None:
    text = Path(script).read_text()
    options = {key: shlex.split(value)[0] if value else "" for key, value in SBATCH.findall(text)}
    if options.get("partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    given = list(home.glob("*.json"))
    if options.get("qos") == "one" and any(not path.with_suffix(".code").exists() for path in given):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    number = str(1 + len(given))
    (home / f"{number}.sh").write_text(text)
    (home / f"{number}.json").write_text(json.dumps(options))
    nodes, each = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    told = {"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": f"127.0.0.[1-{nodes}]"}
    told |= {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(nodes * each)}
    out, error = (shlex.quote(options[name].replace("%j", number)) for name in ("output", "error"))
    wait = f"until [ -d $(dirname {out}) ]; do sleep 0.05; done"  # it is opened when the job begins
    run = f"bash {shlex.quote(str(home / f'{number}.sh'))} >>{out} 2>>{error}"
    job = subprocess.Popen(
        ["bash", "-c", f"{wait}; {run}; echo $? >{shlex.quote(str(home / f'{number}.code'))}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | told,
        start_new_session=True,
    )
    (home / f"{number}.pid").write_text(str(job.pid))
    print(f"Submitted batch job {number}")


def srun(home: Path, *arguments: str) -> None:
    del home
    at = next(at for at, word in enumerate(arguments) if word == sys.executable)
    size, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size)}
    step |= {"SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"]}
    running = [
        subprocess.Popen(
            arguments[at:],
            env=os.environ
            | step
            | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % (size // nodes))}
            | {"SLURM_NODEID": str(rank // (size // nodes))},
        )
        for rank in range(size)
    ]
    together = os.environ.get("SLURM_KILL_BAD_EXIT") == "1"
    while any(one.poll() is None for one in running):
        if together and any(one.poll() for one in running):
            for one in running:
                one.kill()
        time.sleep(0.05)
    codes = [128 - one.returncode if one.returncode < 0 else one.returncode for one in running]
    sys.exit(max(codes))


def sacct(home: Path, *_: str) -> None:
    """Who was killed is said to have had no memory left: nobody else kills here."""
    print("JobID|State|NodeList")
    states = {"": "RUNNING", "0": "COMPLETED", str(128 + signal.SIGKILL): "OUT_OF_MEMORY"}
    for path in home.glob("*.json"):
        code = path.with_suffix(".code")
        said = states.get(code.read_text().strip() if code.exists() else "", "FAILED")
        print(f"{path.stem}|{said}|localhost")


def scancel(home: Path, number: str) -> None:
    os.killpg(int((home / f"{number}.pid").read_text()), signal.SIGKILL)


if __name__ == "__main__":
    program, home, *arguments = sys.argv[1:]
    {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scancel": scancel}[program](Path(home), *arguments)
