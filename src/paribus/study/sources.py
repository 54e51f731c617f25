"""Files that stages read and leave where they lie: what they were like, and what follows if they change.

A stage's address names such files by path, so that a finished study can be looked at where they are not. What
was read is therefore written down, and compared before a study goes on.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from paribus.errors import UserError
from paribus.files import disk_errors, remove, sha256
from paribus.study.stage import BEGUN, CHECKPOINTS, LOCK, RECORD, AnyStage
from paribus.types import Runtime, Stamp

RENEWING = ".sources.lock"
"""Under the cache: held by a run that forgets what was read."""


def _differs(before: Stamp, path: Path) -> bool:
    stat = path.stat()
    if stat.st_size != before.bytes:
        return True
    return stat.st_mtime_ns != before.mtime and sha256(path) != before.sha256


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return Stamp(bytes=stat.st_size, mtime=stat.st_mtime_ns, sha256=sha256(path))


T = TypeVar("T")


def _told(path: Path, look: Callable[[Path], T]) -> T:
    """What is seen in a file; one that cannot be read is named."""
    try:
        return look(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend that.") from error


def stamped(paths: Iterable[Path]) -> dict[str, Stamp]:
    """What files are like now, by their paths below the folder that holds them all.

    Raises:
        UserError: one cannot be read.
    """
    return {name: _told(path, _stamp) for name, path in _named(paths).items()}


def differing(before: Mapping[str, Stamp], find: Callable[[], Iterable[Path]]) -> str:
    """The first of some files that is another now, is new or is gone: "FILE has changed"; empty if none is.

    Wherever their folder lies now: a cache or a home that moved changes nothing.

    Args:
        before: what they were like.
        find: where they are now; if it finds nothing, nothing differs: a finished study does without them.

    Raises:
        UserError: one is there and cannot be read.
    """
    try:
        now = _named(find())
    except (UserError, OSError):  # not there, or in a place that may not be entered
        return ""
    if not now:
        return ""
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            return f"{name}, beside {next(iter(now.values()))}, is gone"
        if name not in before:
            return f"{now[name]} is new"
        if _told(now[name], partial(_differs, before[name])):
            return f"{now[name]} has changed"
    return ""


def beside(tables: Sequence[Path], pictures: Mapping[Path, Stamp]) -> dict[str, Stamp]:
    """The same by the pictures' paths below the tables' folder; what lies elsewhere by absolute ones."""
    home, found = _home(tables), dict[str, Stamp]()
    for path, stamp in sorted(pictures.items()):
        whole = Path(os.path.abspath(path))  # noqa: PTH100 - takes ".." away, and follows no link
        found[(whole.relative_to(home) if whole.is_relative_to(home) else whole).as_posix()] = stamp
    return found


def rewritten(before: Mapping[str, Stamp], find: Callable[[], Sequence[Path]]) -> str:
    """The first picture that is another than it was: "FILE has changed"; empty if none is at hand.

    Args:
        before: what they were like; see ``beside``.
        find: where the tables are now.
    """
    try:
        tables = find()
    except (UserError, OSError):
        return ""
    paths = {_home(tables) / name: stamp for name, stamp in before.items()} if tables else {}
    for path, stamp in paths.items():
        with contextlib.suppress(OSError):  # gone, or not to be read: nothing says that it is another
            if _differs(stamp, path):
                return f"{path} has changed"
    return ""


def _named(paths: Iterable[Path]) -> dict[str, Path]:
    found = list(paths)
    return {os.path.relpath(path, _home(found)): path for path in found}


def _home(paths: Sequence[Path]) -> Path:
    """The folder that holds them all."""
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))  # noqa: PTH100 - as above


def renew(stages: Sequence[AnyStage], runtime: Runtime, telling: Sequence[str]) -> Iterator[str]:
    """Forget what was read from files that have changed, so that they are read again; say what has.

    Args:
        stages: whose files are looked at, if they are done.
        runtime: where they are.
        telling: names of stages that only tell of what was read: they are forgotten with it.

    Raises:
        UserError: something else was made of what the files were, or another run is at work on it.
    """
    for stage in stages:
        if not stage.outdated(runtime):
            continue
        with disk_errors(runtime.cache), FileLock(runtime.cache / RENEWING):
            changed = stage.outdated(runtime)  # another run may have begun as this one did
            if changed:
                _renew(stage, runtime, telling, changed)
        if changed:
            yield changed


def _renew(stage: AnyStage, runtime: Runtime, telling: Sequence[str], changed: str) -> None:
    made = list(_made_of(stage, runtime))
    lasting = [path.name for path, name in made if name not in telling]
    if lasting:
        more = f" and {len(lasting) - 1} more" if len(lasting) > 1 else ""
        raise UserError(
            f"{changed} since {lasting[0]}{more} began with what was there: put that back, or give what is "
            f"there now a name of its own in the study (all in {runtime.cache / 'stages'})."
        )
    for path in (*(path for path, _ in made), stage.folder(runtime)):
        _forget(path)


def _forget(folder: Path) -> None:
    """Empty a stage's folder: the record first, so that a kill leaves a stage that is not done.

    The lock stays: another run may be waiting for it.
    """
    try:
        with disk_errors(folder), FileLock(folder / LOCK, timeout=0):
            (folder / RECORD).unlink(missing_ok=True)
            for path in sorted(folder.iterdir()):
                if path.name != LOCK:
                    remove(path)
    except Timeout:
        raise UserError(f"Another run is working on {folder}: wait until it is done.") from None


def _at_work(folder: Path) -> bool:
    """Whether another run holds a stage's lock."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _made_of(stage: AnyStage, runtime: Runtime) -> Iterator[tuple[Path, str]]:
    """The folders of stages that are made of one, done or begun, of whichever study; and their names."""
    wanted = stage.identity()
    for folder in sorted((runtime.cache / "stages").iterdir()):
        about = _about(folder)
        if about is not None and folder != stage.folder(runtime) and _holds(about["config"], wanted):
            yield folder, str(about["stage"])


def _about(folder: Path) -> dict[str, Any] | None:
    """Which stage left something in a folder, and its config.

    Nothing of one that was begun, has nothing to go on from and is not at work; or is damaged, which is told
    of elsewhere.
    """
    names = [RECORD]
    if (folder / BEGUN).is_file() and ((folder / CHECKPOINTS).is_dir() or _at_work(folder)):
        names.append(BEGUN)
    for name in names:
        try:
            about: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return {"stage": about["stage"], "config": about["config"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _holds(config: Any, wanted: dict[str, Any]) -> bool:
    """Whether a config is, or has in it, another one."""
    if isinstance(config, dict):
        return config == wanted or any(_holds(value, wanted) for value in config.values())
    return isinstance(config, list) and any(_holds(value, wanted) for value in config)
