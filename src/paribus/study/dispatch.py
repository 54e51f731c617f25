"""Stages as jobs, several at a time: each is submitted as soon as what it is made of is there."""

import time
from collections.abc import Callable, Sequence

from paribus.errors import UserError
from paribus.study.jobs import LOOK, Submitted
from paribus.study.stage import AnyStage
from paribus.types import Runtime

SETTLE = 60.0
"""Seconds for which SLURM may go on counting a job that is over among those that one may have."""


def dispatch(stages: Sequence[AnyStage], runtime: Runtime, tell: Callable[[str], None]) -> None:
    """Have every stage made by a job of its own. Where one fails, all that do not rest on it are made first.

    Args:
        stages: those that are not done, inputs first.
        runtime: with the cluster. SLURM has up to ``slurm.jobs`` at a time, this machine one.
        tell: takes lines for a person.

    Raises:
        UserError: there is no SLURM here or it refuses a job, or jobs failed: what each says.
    """
    queue = _Queue(stages, runtime, tell)
    try:
        queue.submit()
        while queue.running or queue.full:
            time.sleep(LOOK)
            queue.look()
            queue.submit()
    except KeyboardInterrupt:
        queue.tell_running()
        raise
    queue.tell_failed()


class _Queue:
    """What waits, what runs and what failed, by address."""

    def __init__(self, stages: Sequence[AnyStage], runtime: Runtime, tell: Callable[[str], None]) -> None:
        self.runtime, self.tell = runtime, tell
        self.stages = {stage.address(): stage for stage in stages}
        self.names = {
            address: f"[{number}/{len(self.stages)}] {address}"
            for number, address in enumerate(self.stages, 1)
        }
        self.missing = {
            address: {below.address() for below in stage.inputs()} & self.stages.keys()
            for address, stage in self.stages.items()
        }
        """Waiting stage -> its inputs that are not there yet."""
        self.running: dict[str, tuple[Submitted, float]] = {}
        self.failed: dict[str, str] = {}
        self.most = runtime.slurm.jobs if runtime.cluster == "slurm" else 1
        self.full, self.ended = False, float("-inf")
        """Whether SLURM took no more jobs when it was asked last and none has ended since; when one ended."""

    def submit(self) -> None:
        """Submit what can be made now, in the order of the stages."""
        if self.full and self.running:
            return
        self.full = False
        ready = [address for address, missing in self.missing.items() if not missing]
        for address in ready[: max(0, self.most - len(self.running))]:
            try:
                job = self.stages[address].submit(self.runtime)
            except UserError as error:
                self.full = bool(self.running) or time.monotonic() - self.ended <= SETTLE
                if not self.full:  # nor is it a cluster's limit on how many jobs one may have
                    self.failed[address] = str(error)
                    self.missing.clear()
                return
            del self.missing[address]
            self.running[address] = job, time.monotonic()
            self.tell(f"{self.names[address]} is job {job.number}")

    def look(self) -> None:
        """See which jobs are over, and how."""
        for address, (job, since) in list(self.running.items()):
            try:
                if not job.over():
                    continue
                self.stages[address].made(self.runtime)
            except UserError as error:
                self.failed[address] = str(error)
                self.tell(f"{self.names[address]} failed")
            else:
                self.tell(f"{self.names[address]} done in {time.monotonic() - since:.1f} s")
                for missing in self.missing.values():
                    missing.discard(address)
            del self.running[address]
            self.full, self.ended = False, time.monotonic()

    def tell_running(self) -> None:
        """Say which jobs go on when nobody waits for them any more."""
        if self.running and self.runtime.cluster == "slurm":
            numbers = " ".join(job.number for job, _ in self.running.values())
            self.tell(f"Jobs of SLURM go on: {numbers} (scancel ends them); run again to wait for them.")

    def tell_failed(self) -> None:
        """Raise what the jobs that failed say."""
        if len(self.failed) == 1:
            raise UserError(*self.failed.values())
        if self.failed:
            said = " ".join(f"{address}: {sentence}" for address, sentence in self.failed.items())
            raise UserError(f"{len(self.failed)} stages failed. {said}")
