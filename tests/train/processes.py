"""Several real processes that train as one over gloo, each running a function of the tests by its name."""

import importlib
import multiprocessing
import os
import pickle
import socket
from pathlib import Path

CONTEXT = multiprocessing.get_context("spawn")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def told(by, rank, size, port):
    """What a starter tells a process; SLURM's has its hosts in a list."""
    if by == "srun":
        step = {"JOB_ID": "7", "STEP_ID": "0", "STEP_NUM_TASKS": size, "STEP_NODELIST": "127.0.0.[1,3]"}
        step |= {"PROCID": rank, "LOCALID": rank}
        return {f"SLURM_{name}": str(value) for name, value in step.items()} | {"MASTER_PORT": str(port)}
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _work(by, rank, size, port, folder, module, before, function, arguments):
    os.environ |= told(by, rank, size, port) | {"OMP_NUM_THREADS": "1"}
    from paribus.errors import UserError
    from paribus.train.distributed import together

    functions = importlib.import_module(module)
    if before is not None:
        getattr(functions, before)()
    try:
        with together():
            result = getattr(functions, function)(*arguments)
    except UserError as error:
        result = str(error)
    (folder / f"{rank}.result").write_bytes(pickle.dumps(result))


def together_run(size, folder, module, function, *arguments, timeout=200, by="torchrun", before=None):
    """What ``module.function(*arguments)`` gives in each of ``size`` processes, or what it refuses.

    ``folder`` is made; ``before`` names a function of the module that each calls before they meet.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    port = free_port()
    workers = [
        CONTEXT.Process(
            target=_work, args=(by, rank, size, port, folder, module, before, function, arguments)
        )
        for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * size, f"the processes ended with {codes}"
    return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(size)]
