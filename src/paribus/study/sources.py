"""Files that stages read and leave where they lie: what they were like, and what follows if they change.

A stage's address names such files by path, so that a finished study can be looked at where they are not. What
was read is therefore written down, and compared before a study goes on.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field

from paribus.errors import UserError
from paribus.files import sha256
from paribus.study.stage import BEGUN, CHECKPOINTS, LOCK, RECORD, AnyStage
from paribus.types import Config, Runtime


class Stamp(Config):
    """What a file was like when it was read."""

    bytes: int
    mtime: int = Field(description="when it was last written, in nanoseconds; if equal, nothing is compared")
    sha256: str


def stamped(paths: Iterable[Path]) -> dict[str, Stamp]:
    """What files are like now, by path.

    Raises:
        UserError: one cannot be read.
    """
    try:
        return {str(path): _stamp(path) for path in paths}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend that.") from error


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return Stamp(bytes=stat.st_size, mtime=stat.st_mtime_ns, sha256=sha256(path))


def differing(before: Mapping[str, Stamp], find: Callable[[], Iterable[Path]]) -> str:
    """The first of some files that is another now, is new or is gone; empty if there is none.

    Args:
        before: what they were like.
        find: where they are now; if it finds nothing, nothing differs: a finished study does without them.

    Raises:
        UserError: one cannot be read.
    """
    try:
        now = {str(path): path for path in find()}
    except UserError:
        return ""
    strange = before.keys() ^ now.keys()
    other = (name for name, stamp in before.items() if name in now and _differs(stamp, now[name]))
    try:
        return (min(strange) if strange else next(other, "")) if now else ""
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend that.") from error


def _differs(before: Stamp, path: Path) -> bool:
    stat = path.stat()
    if stat.st_size != before.bytes:
        return True
    return stat.st_mtime_ns != before.mtime and sha256(path) != before.sha256


def renew(stages: Sequence[AnyStage], runtime: Runtime, telling: Sequence[str]) -> Iterator[str]:
    """Forget what was read from files that have changed, so that they are read again; say which ones.

    Args:
        stages: whose files are looked at, if they are done.
        runtime: where they are.
        telling: names of stages that only tell of what was read: they are forgotten with it.

    Raises:
        UserError: something else was made of what the files were.
    """
    for stage in stages:
        changed = stage.outdated(runtime)
        if not changed:
            continue
        made = list(_made_of(stage, runtime))
        lasting = [path.name for path, name in made if name not in telling]
        if lasting:
            more = f" and {len(lasting) - 1} more" if len(lasting) > 1 else ""
            raise UserError(
                f"{changed} is not what it was when {lasting[0]}{more} began with it: put the old one back, "
                f"or give the new one a name of its own in the study (all in {runtime.cache / 'stages'})."
            )
        for path in (*(path for path, _ in made), stage.folder(runtime)):
            _remove(path)
        yield changed


def _remove(folder: Path) -> None:
    if _at_work(folder):
        raise UserError(f"Another run is working on {folder}: wait until it is done.")
    shutil.rmtree(folder)


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
