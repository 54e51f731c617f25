"""img2dataset, a program of another environment: its command line, its running, and its end.

It writes tars of pictures, captions and json into ``DIR/shards``, skips shards that are done, and keeps to
pages that forbid the use of their pictures by ``X-Robots-Tag``. A shard may take it an hour, and it says
nothing meanwhile; so the pictures in the tars that grow are counted.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field
from tqdm import tqdm

from paribus.data import outcome
from paribus.data.outcome import Stats
from paribus.data.wanted import TOLD
from paribus.errors import UserError
from paribus.files import disk_errors, write_json
from paribus.progress import progress
from paribus.types import Config

PROGRAM = "img2dataset"
RESERVE = 2 * 2**30
"""Bytes of a disk that are left free: a download that has filled it is stopped."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""How a program is asked to end, by Control-C, by another program, and by a terminal that closes."""

POLL, PATIENCE = 0.5, 10.0
"""Seconds between two looks, and until a process that was asked to end is made to."""


class Settings(Config):
    """What img2dataset is told; the values are those of DataComp's downloader."""

    image_size: int = Field(512, gt=0, description="the longer side that larger pictures are reduced to")
    resize_mode: Literal["keep_ratio_largest"] = "keep_ratio_largest"
    timeout: int = Field(10, gt=0, description="seconds without an answer")
    retries: int = Field(2, ge=0)
    processes: int = Field(16, ge=1)
    threads: int = Field(128, ge=1, description="of each process")
    verify: bool = Field(False, description="refuse pictures whose sha256 is not the listed one")

    def line(self, program: str, wanted: Path, shards: Path, per_shard: int) -> list[str]:
        """The command line of img2dataset."""
        saved = ["uid"] if self.verify else ["uid", TOLD]
        options = {
            "url_list": wanted,
            "input_format": "parquet",
            "url_col": "url",
            "caption_col": "text",
            "save_additional_columns": json.dumps(saved),
            "output_format": "webdataset",
            "output_folder": shards,
            "number_sample_per_shard": per_shard,
            "oom_shard_count": 8,
            "image_size": self.image_size,
            "resize_mode": self.resize_mode,
            "resize_only_if_bigger": True,
            "encode_format": "jpg",
            "processes_count": self.processes,
            "thread_count": self.threads,
            "timeout": self.timeout,
            "retries": self.retries,
            "compute_hash": "sha256",
            "incremental_mode": "incremental",
            "enable_wandb": False,
        }
        if self.verify:
            options["verify_hash"] = json.dumps([TOLD, "sha256"])
        return [program, *(f"--{name}={value}" for name, value in options.items())]


@dataclass(frozen=True)
class Home:
    """Where a download's files lie."""

    root: Path

    @property
    def metadata(self) -> Path:
        """What the hub had."""
        return self.root / "metadata"

    @property
    def wanted(self) -> Path:
        """The rows to download, a file for each shard."""
        return self.root / "wanted"

    @property
    def shards(self) -> Path:
        """The tars; img2dataset takes every .json in here for a shard that is done."""
        return self.root / "shards"

    @property
    def log(self) -> Path:
        """What img2dataset said."""
        return self.root / "img2dataset.log"

    @property
    def manifest(self) -> Path:
        """What came of it."""
        return self.root / "download.json"

    @property
    def running(self) -> Path:
        """Which processes write here now."""
        return self.root / "running.json"

    @property
    def lock(self) -> Path:
        """Held by the download that is at work here."""
        return self.root / ".lock"


def find_program(given: str | None) -> str:
    """The program img2dataset.

    Raises:
        UserError: it is not there.
    """
    found = shutil.which(str(Path(given).expanduser()) if given else PROGRAM)
    if found is None:
        raise UserError(
            f"There is no program {given or PROGRAM}: install it in an environment of its own, of Python "
            "3.12 or older (python3 -m venv i2d; i2d/bin/pip install img2dataset), and give --img2dataset "
            "i2d/bin/img2dataset."
        )
    return str(Path(found).absolute())


def version_of(program: str) -> str:
    """The version of an img2dataset, asked of the Python beside it; unknown if there is none."""
    ask = "import importlib.metadata as m; print(m.version('img2dataset'))"
    python = Path(program).resolve().with_name("python3")
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60, env={})
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def run(line: Sequence[str], home: Home, rows: int) -> None:
    """Run img2dataset to its end; whatever happens, none of its processes is left."""
    apart = ("PYTHONPATH", "PYTHONHOME")  # its environment is another one
    environment = {name: value for name, value in os.environ.items() if name not in apart}
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    with _handling(_interrupt, signal.SIGTERM, signal.SIGHUP), home.log.open("ab") as log:
        child = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that Control-C reaches Paribus alone, which then ends them all
        )
        try:
            told = {"host": socket.gethostname(), "group": child.pid}
            write_json(home.running, told | {"boot": _boot(), "started": _started(child.pid)})
            _watch(child, home, rows)
        finally:
            with _handling(signal.SIG_IGN, *ENDING):  # who asks twice must not stop this
                _end(child)
                home.running.unlink(missing_ok=True)
                shutil.rmtree(home.shards / "_tmp", ignore_errors=True)
                outcome.tidy(home.shards, outcome.read_stats(home.shards))
    if child.returncode:
        raise UserError(
            f"img2dataset failed ({_last_line(home.log)}): see {home.log}, mend that, and run again."
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handling(handler: Callable[..., None] | signal.Handlers, *numbers: signal.Signals) -> Iterator[None]:
    """Do something else on signals; only the main thread may say what."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _watch(child: subprocess.Popen[bytes], home: Home, rows: int) -> None:
    """Show how far the program is until it ends.

    Raises:
        UserError: the disk is full.
    """
    seen = _Seen(home.shards)
    bar: tqdm[None] = progress(label="Downloading", total=rows, initial=seen.look(), unit="picture")
    with bar:
        while child.poll() is None:
            time.sleep(POLL)
            bar.update(seen.look() - bar.n)
            bar.set_postfix_str(seen.share(), refresh=False)
            if shutil.disk_usage(home.root).free < RESERVE:
                raise UserError(
                    f"The disk of {home.root} is full: free some space and run again; it goes on there."
                )
        bar.update(seen.look() - bar.n)


@dataclass
class _Growing:
    """Counts the pictures of a tar that is being written, from where it was left."""

    path: Path
    place: int = 0
    count: int = 0

    def look(self) -> int:
        with contextlib.suppress(OSError, tarfile.HeaderError), self.path.open("rb") as handle:
            while True:
                block = os.pread(handle.fileno(), tarfile.BLOCKSIZE, self.place)
                if len(block) < tarfile.BLOCKSIZE or not block.strip(b"\0"):
                    break
                info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
                self.count += info.name.endswith(".jpg")
                self.place += tarfile.BLOCKSIZE * (1 + -(-info.size // tarfile.BLOCKSIZE))
        return self.count


@dataclass
class _Seen:
    """How far img2dataset is: all pictures of the shards that are done, and what has come of the others."""

    folder: Path
    done: dict[str, Stats] = field(default_factory=dict)
    growing: dict[str, _Growing] = field(default_factory=dict)

    def look(self) -> int:
        """Pictures that were tried, or a few less."""
        for path in self.folder.glob("*.tar"):
            if path.stem in self.done:
                continue
            stats = outcome.stats_at(path.with_name(f"{path.stem}_stats.json"))
            if stats is None:
                self.growing.setdefault(path.stem, _Growing(path)).look()
            else:
                self.done[path.stem] = stats
                self.growing.pop(path.stem, None)
        return outcome.totals(self.done)[0] + sum(each.count for each in self.growing.values())

    def share(self) -> str:
        """The part that came of the shards that are done."""
        tried, came = outcome.totals(self.done)
        return f"{came / tried:.1%} came" if tried else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a program and all its processes: asked first, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if child.poll() is not None and not _living(child.pid):
                return
            time.sleep(0.05)


def _living(group: int) -> bool:
    """Whether a process of a group still runs; one that has ended and that nobody asked after does not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the number is someone else's by now
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    return not stats or any(_runs(path, group) for path in stats)


def _runs(stat: Path, group: int) -> bool:
    try:
        state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in "ZX"


def _boot() -> str | None:
    """Which start of the machine this is; None where that is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _started(process: int) -> int | None:
    """When a process began, in ticks since the machine did; None if it is gone, or where that is not told."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5)
    except (OSError, ValueError, IndexError):
        return None


def _is_another(told: dict[str, object], group: int) -> bool:
    """Whether a group's number was given anew since, after a restart or to a process that began later.

    While any process is left in a group, its number is given to no new process.
    """
    pairs = ((told.get("boot"), _boot()), (told.get("started"), _started(group)))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


@contextlib.contextmanager
def alone(home: Home) -> Iterator[None]:
    """Keep other downloads out of a folder, which is there; the system lets it go if this process is killed.

    Raises:
        UserError: another one is in it, or processes that one left, or the disk refuses it.
    """
    lock = FileLock(home.lock)
    try:
        with disk_errors(home.root):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"A download into {home.root} is running: wait for it, or end it.") from error
    try:
        check_alone(home)
        yield
    finally:
        lock.release()


def check_alone(home: Home) -> None:
    """Refuse to write where processes of another run still write.

    Raises:
        UserError: there are some, or there may be on another machine.
    """
    try:
        told = json.loads(home.running.read_text("utf-8"))
        host, group = str(told["host"]), int(told["group"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        host, group = "another machine", 0
    if host != socket.gethostname():
        raise UserError(
            f"A download to {home.root} runs on {host}, or was killed there: if it does not run, delete "
            f"{home.running} and run again."
        )
    if _living(group) and not _is_another(told, group):
        raise UserError(
            f"A download to {home.root} is running: wait for it, or end its processes (kill -- -{group}) and "
            "run again."
        )
    home.running.unlink(missing_ok=True)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    return next((line.rstrip(".") for line in reversed(lines) if line), "it said nothing")
