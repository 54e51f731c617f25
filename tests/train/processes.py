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


def _work(rank, size, port, folder, module, function, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    from paribus.train.distributed import together

    with together():
        result = getattr(importlib.import_module(module), function)(*arguments)
    (folder / f"{rank}.result").write_bytes(pickle.dumps(result))


def together_run(size, folder, module, function, *arguments, timeout=200):
    """What ``module.function(*arguments)`` gives in each of ``size`` processes; ``folder`` is made."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    port = free_port()
    workers = [
        CONTEXT.Process(target=_work, args=(rank, size, port, folder, module, function, arguments))
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
