"""A stage: a frozen config that knows its inputs, its address and how to make its record.

The configuration is the graph: stages nest in each other, and a stage's address is the hash of its whole
resolved config, defaults included, so a changed default is a new address and nothing stale is ever served.
exca gives the canonical form of the config and runs a stage on a cluster; the cache itself is a folder of
plain files (safetensors, parquet, JSON) with a record written last, because exca's own cache is pickles.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

import exca
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from paribus.errors import UserError
from paribus.files import make_folder, sha256, write_json
from paribus.study.jobs import Submitted, asked, see_gpus, submit
from paribus.train.distributed import agreed, own_device, together
from paribus.types import Config, Runtime

logger = logging.getLogger(__name__)

CHECKPOINTS = ".checkpoints"
"""Where a stage that trains keeps what a resumed run needs; removed when the record is written."""
RECORD, BEGUN, LOCK = "record.json", ".begun.json", ".lock"
"""What a finished stage says of itself; one that was begun: its name and config; and who works on it."""

SHOWN = 90.0
"""Seconds for which a network's file system may hide a file that was looked for before it was there."""

R = TypeVar("R", bound=Config)
S = TypeVar("S", bound=BaseModel)


class Stage(BaseModel, Generic[R]):
    """One cached step of a study. Subclasses name their record type and write ``compute``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    several: ClassVar[bool] = False
    """Whether several processes can share the work."""
    infra: exca.SubmitInfra = exca.SubmitInfra()

    @infra.apply
    def _remote(self, runtime: Runtime, gpus: str | None) -> str | None:
        """What a cluster runs; gives the sentence of a ``UserError``, whose type is lost on the way back."""
        try:
            if runtime.cluster == "local":
                see_gpus(gpus)
            own_device(runtime.device)
            with together() as share:
                if share.first:
                    self._fill(runtime)
                    agreed(False)  # done: the others end too
                else:
                    self.assist(runtime)
        except UserError as error:
            return str(error)
        return None

    def compute(self, folder: Path, runtime: Runtime) -> R:
        """Do the work, leave files in ``folder``, return the record. May be called again after a kill."""
        raise NotImplementedError

    def check(self, runtime: Runtime) -> None:
        """See, before anything is computed, that what it needs from outside is there."""
        del runtime

    def outdated(self, runtime: Runtime) -> str:
        """What has changed of the files outside that it was made from, as a clause; empty if nothing has."""
        del runtime
        return ""

    def flops(self) -> float:
        """Predicted floating-point operations; 0 where they do not matter."""
        return 0.0

    def disk(self) -> float:
        """Predicted bytes that are left behind; small files are not counted."""
        return 0.0

    def label(self) -> str:
        """What a person reads in an address; the hash tells stages apart."""
        return self.name

    def identity(self) -> dict[str, Any]:
        """The whole resolved config in exca's canonical form; where and how it runs is not part of it."""
        confdict = exca.ConfDict.from_model(self, uid=True, exclude_defaults=False)
        identity: dict[str, Any] = json.loads(json.dumps(dict(confdict), sort_keys=True))
        return identity

    def address(self) -> str:
        """``name-hash``: where the stage lives under the cache."""
        text = json.dumps(self.identity(), sort_keys=True)
        return f"{self.label()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def folder(self, runtime: Runtime) -> Path:
        """The stage's folder."""
        return runtime.cache / "stages" / self.address()

    def changed(self: S, **settings: Any) -> S:
        """The same stage with other settings; ``model_copy`` would share exca's infra, made for one."""
        same = {name: getattr(self, name) for name in type(self).model_fields if name != "infra"}
        return type(self)(**(same | settings))

    def inputs(self) -> Iterator["AnyStage"]:
        """The stages this one is made of."""
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, Stage):
                yield value

    def cached(self, runtime: Runtime) -> R | None:
        """The record, if the stage is done and its files are whole.

        Raises:
            UserError: the record or a file it names is damaged.
        """
        folder, stored = self.folder(runtime), self._stored(runtime)
        if stored is None:
            return None
        try:
            record = self._record_type().model_validate(stored["record"])
        except ValidationError as error:
            raise _damaged(folder) from error
        files: dict[str, str] = stored["files"]
        for name, digest in files.items():
            if not _intact(folder / name, digest):
                if self._stored(runtime) != stored:  # another run forgets it just now, or has made it anew
                    return self.cached(runtime)
                raise UserError(
                    f"{folder / name} is damaged or missing: delete {folder} and run again to make it anew."
                )
        return record

    def stored_config(self, runtime: Runtime) -> dict[str, Any] | None:
        """The config that the record says it was made with; None if the stage is not done.

        Raises:
            UserError: the record is damaged.
        """
        stored = self._stored(runtime)
        config: dict[str, Any] | None = None if stored is None else stored["config"]
        return config

    def _stored(self, runtime: Runtime) -> dict[str, Any] | None:
        """``record.json``, if there is one: stage, config, record, files."""
        path = self.folder(runtime) / RECORD
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(stored[name], dict) for name in ("config", "record", "files")):
                raise TypeError("a part is no mapping")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path.parent) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): mend that.") from error
        return stored

    def run(self, runtime: Runtime) -> R:
        """The record, computed now if it is not there yet.

        Two runs that want the same stage wait for each other: the second finds the first one's result.
        """
        record = self.cached(runtime)
        if record is not None:
            return record
        for stage in self.inputs():
            stage.run(runtime)
        if runtime.cluster is None:
            self._fill(runtime)
        else:
            self.submit(runtime).wait()
        return self.made(runtime)

    def submit(self, runtime: Runtime) -> Submitted:
        """Have it made by a job of its own; its inputs are there."""
        infra = asked(self.name, runtime, self.several)
        submitted: Stage[R] = self.model_validate(self.model_dump(exclude={"infra"}) | {"infra": infra})
        return submit(submitted.infra, self.name, runtime)

    def made(self, runtime: Runtime) -> R:
        """The record of a stage that was just made; that of a job may show late on a network's file system.

        Raises:
            UserError: a job wrote it elsewhere.
        """
        until = time.monotonic() + (0.0 if runtime.cluster is None else SHOWN)
        while (record := self.cached(runtime)) is None:
            if time.monotonic() < until:
                time.sleep(0.5)
                continue
            if runtime.cluster is None:
                raise RuntimeError(f"stage {self.address()} left no record")
            raise UserError(
                f"The job of {self.name} is done, but left nothing in {self.folder(runtime).absolute()}: let "
                "--cache be a folder that all machines see by that name."
            )
        return record

    def _fill(self, runtime: Runtime) -> None:
        folder = self.folder(runtime)
        make_folder(folder)
        with locked(folder, self.name):
            if self.cached(runtime) is not None:
                return
            _sweep(folder)
            told = {"stage": self.name, "config": self.identity()}
            write_json(folder / BEGUN, told)
            record = self._made(folder, runtime)
            files = {str(path): sha256(folder / path) for path in _kept(folder)}
            write_json(folder / RECORD, told | {"record": record.model_dump(mode="json"), "files": files})
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            (folder / BEGUN).unlink(missing_ok=True)

    def _made(self, folder: Path, runtime: Runtime) -> R:
        """The record, computed now."""
        return self.compute(folder, runtime)

    def assist(self, runtime: Runtime) -> None:
        """What the other processes do while the first of several ``run``s this stage: wait for it."""
        del runtime
        while agreed(False):
            pass

    @classmethod
    def _record_type(cls) -> type[R]:
        for base in cls.__mro__:
            metadata = getattr(base, "__pydantic_generic_metadata__", {})
            if metadata.get("args"):
                record: type[R] = metadata["args"][0]
                return record
        raise TypeError(f"{cls.__name__} does not name its record type {get_args(cls)}")


if TYPE_CHECKING:
    AnyStage = Stage[Any]
else:
    AnyStage = Stage  # pydantic makes Stage[Any] a class of its own, and no stage is an instance of it


def _sweep(folder: Path) -> None:
    """Remove what a killed run left half-written (``files.whole_file``, ``whole_folder``); needs the lock."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _kept(folder: Path) -> list[Path]:
    """A stage's files, relative to its folder: all but hidden ones and what is in hidden folders."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.parts)]


def _damaged(folder: Path) -> UserError:
    return UserError(f"{folder / RECORD} is damaged: delete {folder} and run again to make it anew.")


_seen: dict[tuple[str, int, int], str] = {}


def _intact(path: Path, digest: str) -> bool:
    """Whether a file has the digest; a file is read once a process as long as it does not change."""
    try:
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if key not in _seen:
            _seen[key] = sha256(path)
        return _seen[key] == digest
    except OSError:
        return False


class locked:  # noqa: N801 - used like a function
    """Hold a folder's lock; say so once if another run holds it, and wait."""

    def __init__(self, folder: Path, name: str) -> None:
        self.lock, self.name = FileLock(folder / LOCK), name

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0.2)
        except Timeout:
            logger.warning("another run is working on %s: waiting for it", self.name)
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def walk(stages: list[AnyStage]) -> list[AnyStage]:
    """All stages below and including the given ones, inputs first, each once."""
    found: dict[str, AnyStage] = {}

    def visit(stage: AnyStage) -> None:
        if stage.address() in found:
            return
        for below in stage.inputs():
            visit(below)
        found[stage.address()] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())
