"""Run: a study from its file to its records."""

import time
from collections.abc import Callable
from pathlib import Path

from paribus.errors import UserError
from paribus.study.keeping import choose, free, keep, kept_lessons, lessons, remember
from paribus.study.overlap import Overlap
from paribus.study.plan import assumed_rate
from paribus.study.sources import renew
from paribus.study.stage import AnyStage, walk
from paribus.study.study import Study
from paribus.study.training import Training
from paribus.train.distributed import agreed, own_device, together
from paribus.train.extras import see_extras
from paribus.types import Runtime

Say = Callable[[str], None]


def settle(device: str) -> None:
    """Take this process's own GPU, where several run one study, before anything touches another.

    Raises:
        UserError: all are told to take one.
    """
    own_device(device)


def execute(study: Study, runtime: Runtime, say: Say) -> bool:
    """Run every stage that is not done, inputs first, and say what is done.

    Of several processes that ``torchrun`` started, the first does what is not training, and all train.
    Returned is whether this is the first one, to which the results are left.
    """
    with together() as share:
        # What needs no training comes first, so that what is missing shows before days of work.
        stages = sorted(walk(_graph(study, runtime, share.first)), key=_rests_on_training)
        for changed in renew(stages, runtime, (Overlap.name,)) if share.first else ():
            say(f"{changed} since the last run: reading again")
        waiting = [stage for stage in stages if agreed(share.first and stage.cached(runtime) is None)]
        tell = say if share.first else _silent
        tell(f"{len(stages)} stages, {len(stages) - len(waiting)} of them done")
        if share.first and any(isinstance(stage, Training) for stage in waiting):
            see_extras(runtime)
        for stage in waiting if share.first else ():
            stage.check(runtime)
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


def _graph(study: Study, runtime: Runtime, first: bool) -> list[AnyStage]:
    """The ends of the graph; of several processes the first decides what is kept, and tells the others."""
    ends = study.stages()
    kept: set[str] = set()
    if first:
        choices = choose(ends, runtime, assumed_rate(runtime)).values()
        remember(choices, runtime.cache)
        kept = kept_lessons(choices, runtime.cache)
    names = [lesson.address() for lesson in lessons(ends)]
    return keep(ends, {name for name in names if agreed(name in kept)})


def _rests_on_training(stage: AnyStage) -> bool:
    """Whether a stage trains, or needs one that does."""
    return isinstance(stage, Training) or any(map(_rests_on_training, stage.inputs()))


def _silent(line: str) -> None:
    del line


def need_space(folder: Path, megabytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: less is free.
    """
    there = free(folder) // 2**20
    if there < megabytes:
        raise UserError(
            f"{folder} has {there:.0f} MB free and the study needs about {megabytes} MB: free some space."
        )
