"""Run, plan: a study from its file to its records."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from paribus.errors import UserError
from paribus.study.stage import AnyStage, walk
from paribus.study.stages import Pretrain
from paribus.study.study import Study
from paribus.train.distributed import agreed, together
from paribus.types import Runtime

ASSUMED_RATE = 60e9 * (os.cpu_count() or 1)
"""FLOP/s assumed on a machine that has not finished a training yet; then its own rate counts."""

Say = Callable[[str], None]


class Planned(NamedTuple):
    """One line of a plan."""

    address: str
    done: bool
    flops: float
    seconds: float
    depth: int


def execute(study: Study, runtime: Runtime, say: Say) -> bool:
    """Run every stage that is not done, inputs first, and say what is done.

    Of several processes that ``torchrun`` started, the first does what is not training, and all train.
    Returned is whether this is the first one, to which the results are left.
    """
    with together() as share:
        stages = walk(study.stages())
        waiting = [stage for stage in stages if agreed(share.first and stage.cached(runtime) is None)]
        tell = say if share.first else _silent
        tell(f"{len(stages)} stages, {len(stages) - len(waiting)} of them done")
        for number, stage in enumerate(waiting, 1):
            tell(f"[{number}/{len(waiting)}] {stage.address()}")
            started = time.monotonic()
            if share.first:
                stage.run(runtime)
                agreed(False)  # done: the others go on to the next
            else:
                stage.assist(runtime)
            tell(f"[{number}/{len(waiting)}] {stage.address()} done in {time.monotonic() - started:.1f} s")
        return share.first


def _silent(line: str) -> None:
    del line


def plan(study: Study, runtime: Runtime) -> Iterator[Planned]:
    """The graph from its ends down, each stage once, with what it is predicted to cost."""
    rate = measured_rate(study, runtime)
    seen: set[str] = set()

    def visit(stage: AnyStage, depth: int) -> Iterator[Planned]:
        address = stage.address()
        if address in seen:
            return
        seen.add(address)
        done = stage.cached(runtime) is not None
        flops = 0.0 if done else stage.flops()
        yield Planned(address, done, flops, flops / rate, depth)
        for below in stage.inputs():
            yield from visit(below, depth + 1)

    for stage in study.stages():
        yield from visit(stage, 0)


def measured_rate(study: Study, runtime: Runtime) -> float:
    """FLOP/s that this machine reached in the study's finished pre-trainings, or the assumed rate."""
    flops = seconds = 0.0
    for stage in walk(study.stages()):
        if isinstance(stage, Pretrain):
            record = stage.cached(runtime)
            if record is not None and record.seconds > 0:
                flops += record.flops_per_sample * record.samples
                seconds += record.seconds
    return flops / seconds if seconds else ASSUMED_RATE


def disk_bytes(folder: Path) -> int:
    """What a folder holds; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def need_space(folder: Path, megabytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: less is free.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 2**20
    if free < megabytes:
        raise UserError(
            f"{place} has {free} MB free and the study needs about {megabytes} MB: free some space."
        )
