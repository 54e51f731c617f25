"""Whether a frozen encoder looks at each picture once for all lessons, or again whenever a lesson shows it.

Kept features change nothing but what a study costs, and rounding. They are kept where several lessons, epochs
or models look at the same pictures through the same encoders, and reading is cheaper than looking again. What
was once decided is remembered in the cache, so that a run that goes on, goes on as it began.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, TypeVar

from filelock import FileLock

from paribus.errors import UserError
from paribus.files import disk_errors, write_json
from paribus.progress import duration
from paribus.study.answers import Answer
from paribus.study.downstream import Align, Instruct, Seen, Taught, forward_flops
from paribus.study.stage import AnyStage, walk
from paribus.types import Runtime

READ = 1e9
"""Bytes a second that features are read from disk at, about."""
SHARE = 0.5
"""The most of the free disk that is taken for them; what saves most comes first."""
REMEMBERED = "kept.json"
"""The file under the cache that says what was decided: lesson -> whether it reads kept features."""
GAIN = 2 / 3
"""They are kept where it costs at most this share of looking each time."""


class Choice(NamedTuple):
    """What was decided of one encoder and one source: predicted seconds, and bytes needed and to be had."""

    lessons: tuple[str, ...]
    looks: int
    pictures: int
    again: float
    kept: float
    disk: float
    room: float
    decided: bool | None = None
    made: bool = False

    @property
    def worth(self) -> bool:
        """Whether looking once and reading is so much cheaper."""
        return self.kept <= GAIN * self.again

    @property
    def keep(self) -> bool:
        """Whether they are kept; what was decided when a lesson began, stays."""
        if self.decided is not None:
            return self.decided
        return self.pictures > 0 and self.worth and not self._full

    @property
    def _full(self) -> bool:
        return not self.made and self.disk > self.room

    def words(self) -> str:
        """The decision in one line."""
        verdict = f"features {'kept' if self.keep else 'not kept'} for {listed(self.lessons)}"
        if not self.pictures:
            return f"{verdict}: the number of pictures is not declared"
        full = f", of which the disk has {self.room / 1e9:.3g}" if self.worth and self._full else ""
        full = ", there already" if self.made else full
        before = "" if self.decided is None else ", as decided before"
        size = f"{self.disk / 1e9:.3g} GB{full}{before}"
        return (
            f"{verdict}: {self.looks:,} looks at {self.pictures:,} pictures take about "
            f"{duration(self.again)}, looking once and reading {duration(self.kept)} ({size})"
        )


def listed(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def alike(choices: Iterable[Choice]) -> list[Choice]:
    """Choices that read alike as one, for all their lessons."""
    found: dict[Choice, list[str]] = {}
    for choice in choices:
        found.setdefault(choice._replace(lessons=()), []).extend(choice.lessons)
    return [choice._replace(lessons=tuple(lessons)) for choice, lessons in found.items()]


def choose(ends: Sequence[AnyStage], runtime: Runtime, rate: float) -> dict[str, Choice]:
    """By the address of what would be kept: whether it is, for the lessons that are still to come.

    Args:
        ends: of a study's graph.
        runtime: where finished lessons are, and what was decided before.
        rate: FLOP/s that encoders look at.

    Raises:
        UserError: what was decided before cannot be read.
    """
    before = remembered(runtime.cache)
    found: dict[str, tuple[Seen, list[Taught]]] = {}
    for lesson in lessons(ends):
        if not lesson.blinks() and lesson.cached(runtime) is None:
            seen = lesson.seen()
            found.setdefault(seen.address(), (seen, []))[1].append(lesson)
    choices = {
        address: _choice(seen, some, rate, before, made=seen.stored_config(runtime) is not None)
        for address, (seen, some) in found.items()
    }
    room, settled = SHARE * free(runtime.cache), {}
    for address, choice in sorted(choices.items(), key=lambda item: item[1].kept - item[1].again):
        settled[address] = choice._replace(room=room)
        room -= choice.disk if settled[address].keep and not choice.made else 0.0
    return {address: settled[address] for address in choices}


def kept_lessons(choices: Iterable[Choice], cache: Path) -> set[str]:
    """Addresses of the lessons that read kept features; one for which that was decided, stays as it was."""
    before = remembered(cache)
    return {name for choice in choices for name in choice.lessons if before.get(name, choice.keep)}


def remembered(cache: Path) -> dict[str, bool]:
    """What was decided before, by the address of what is kept.

    Raises:
        UserError: the file is damaged.
    """
    path = cache / REMEMBERED
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(address): bool(kept) for address, kept in found.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: delete it; unfinished lessons are then decided anew.") from error


def remember(choices: Iterable[Choice], cache: Path) -> None:
    """Keep to what was decided; what was decided before, stays."""
    new = {name: choice.keep for choice in choices for name in choice.lessons}
    if not new:
        return
    with disk_errors(cache / REMEMBERED):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{REMEMBERED}.lock"):
            write_json(cache / REMEMBERED, new | remembered(cache))


def free(folder: Path) -> float:
    """Bytes that are free where a folder is, or will be."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


def lessons(ends: Sequence[AnyStage]) -> Iterator[Taught]:
    """All lessons of a graph, each once, in an order of its own."""
    known: set[str] = set()
    for stage in walk(list(ends)):
        if isinstance(stage, Taught) and stage.address() not in known:
            known.add(stage.address())
            yield stage


def _choice(
    seen: Seen, some: Sequence[Taught], rate: float, before: dict[str, bool], *, made: bool
) -> Choice:
    """What there is to decide about one source; what is made already costs neither looking nor disk."""
    pictures = seen.talks.expected()
    looks = sum(lesson.budget.steps * lesson.budget.batch for lesson in some)
    look = sum(forward_flops(stage.encoder) for stage in seen.encoders) / rate
    disk = seen.disk()
    read = disk / max(pictures, 1) / READ
    names = tuple(lesson.address() for lesson in some)
    told = {before[name] for name in names if name in before}
    decided = True in told if told else None
    kept = (0.0 if made else pictures * look) + looks * read
    return Choice(names, looks, pictures, looks * look, kept, disk, 0.0, decided, made)


S = TypeVar("S", bound=AnyStage)


def keep(ends: Sequence[S], kept: AbstractSet[str]) -> list[S]:
    """The same graph, some lessons reading what is kept for them; no address changes."""
    return [_kept_answer(end, kept) if isinstance(end, Answer) else end for end in ends]  # type: ignore[misc]


def _kept_answer(answer: Answer, kept: AbstractSet[str]) -> Answer:
    instruct = answer.vlm
    align: Align = _kept(instruct.align, kept)
    taught: Instruct = _kept(instruct.changed(align=align), kept)
    return answer.changed(vlm=taught)


L = TypeVar("L", Align, Instruct)


def _kept(lesson: L, kept: AbstractSet[str]) -> L:
    return lesson.changed(keep=True) if lesson.address() in kept else lesson
