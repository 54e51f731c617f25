"""What the tests of the whole share: a small study made from the real one, and `paribus` as a process.

A process of its own that imports torch takes seconds to begin, so commands run as children of one server
that has imported Paribus and done nothing else (multiprocessing's forkserver): each child is a real process
with its own output, exit code and life, and it can be killed.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "studies" / "quickstart.yaml"

STYLES = ["emojione", "emojione-v1", "emojione-monotone", "Acme", "Lora", "Roboto"]
"""The fewest that all questions and probes can be made from: one vendor three times, two kinds of font."""

SMALL = {
    "patch": 8,
    "image_size": 32,
    "size": 32,
    "words": 60,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "embed": 16,
    "out": 32,
    "bottleneck": 16,
    "hidden": 32,
    "layers": 1,
    "vocabulary": 400,
    "samples": 64,
    "batch": 16,
    "train": 40,
    "test": 40,
}
"""What a setting of this name becomes, wherever in the study file it stands."""
STIMULI = {
    "scenes_train": 40,
    "scenes_test": 20,
    "counts_train": 80,
    "counts_test": 40,
    "conflicts": 20,
    "pairs": 20,
    "corrupted": 20,
    "severities": [3],
}
GRID = {"lrs": [0.01], "weight_decays": [0.1], "epochs": 1, "min_steps": 5}


def shrunk(value: Any) -> Any:
    """Settings with every size made small, and all else as it is."""
    if isinstance(value, dict):
        return {key: SMALL.get(key, shrunk(below)) for key, below in value.items()}
    return value


def small_settings() -> dict[str, Any]:
    """The real quickstart, shrunk to seconds."""
    settings: dict[str, Any] = shrunk(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")))
    settings["control"]["data"]["source"] |= {"styles": STYLES, "words": SMALL["words"]}
    return settings | {"grid": GRID, "stimuli": STIMULI}


def write_study(folder: Path, settings: dict[str, Any] | None = None, name: str = "tiny") -> Path:
    """A study file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings or small_settings(), sort_keys=False), encoding="utf-8")
    return path


def copied(tree: Path, to: Path) -> Path:
    """A copy whose big shared parts (art, corpus) stay links."""
    return Path(shutil.copytree(tree, to, symlinks=True))


# Records and results.


def records(cache: Path) -> dict[str, dict[str, Any]]:
    """Address -> everything that a stage's ``record.json`` says, for all stages that are done."""
    paths = sorted(cache.glob("stages/*/record.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


TIMES = ("seconds", "images_per_second", "peak_memory_mb")


def timeless(value: Any) -> Any:
    """The same without what depends on the machine and the moment."""
    if isinstance(value, dict):
        return {k: timeless(below) for k, below in value.items() if k not in (*TIMES, "environment")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def results(runs: Path, name: str = "tiny") -> dict[str, Any]:
    """``results.json`` without times."""
    found: dict[str, Any] = json.loads((runs / name / "results.json").read_text(encoding="utf-8"))
    return timeless(found)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place, through a new file: what it was linked to stays as it was."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.unlink()
    path.write_text(json.dumps(content), encoding="utf-8")


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leftovers(*folders: Path) -> list[Path]:
    """Temporary files and folders that a failed write left."""
    return [path for folder in folders for path in folder.rglob("*.tmp")]


# Commands.


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence of a refusal, as the user reads it."""
        assert self.code == 2, (self.code, self.err)
        *before, last = self.err.splitlines()
        assert last.startswith("paribus: ") and last.endswith("."), self.err
        assert not any(line.startswith(("paribus: ", "Traceback", "  File ")) for line in before), self.err
        return last.removeprefix("paribus: ")


def _serve(
    argv: list[str], out: Path, err: Path, environment: dict[str, str], before: Callable[[], None] | None
) -> None:
    """What a child does: its own output, then ``paribus``."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644), number)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    if before is not None:
        before()
    sys.argv = ["paribus", *argv]
    from paribus.cli import main

    main()


# The server imports by name, and this version of Python does not hand it our sys.path.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["pytest", "peers", "paribus.cli", "paribus.study.collect", "paribus.study.run", "paribus.study.audit"]
    + ["paribus.report.page", "paribus.report.schema"]
    + [f"transformers.models.{kind}.modeling_{kind}" for kind in ("llama", "qwen2")]
)


@dataclass(frozen=True)
class Command:
    """A ``paribus`` that has begun."""

    process: BaseProcess
    stdout: Path
    stderr: Path

    def wait(self, timeout: float = 240) -> Done:
        """Its end."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running: {self.stderr.read_text()}"
        return Done(self.process.exitcode, self.stdout.read_text(), self.stderr.read_text())

    def kill_when(self, ready: Callable[[], bool], delay: float = 0.0) -> bool:
        """SIGKILL once something is so, and a moment later; whether it was still alive then."""
        while self.process.is_alive() and not ready():
            time.sleep(0.002)
        time.sleep(delay)
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive


def begin(
    folder: Path,
    *argv: str | Path,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Command:
    """Begin ``paribus ARGV`` in a process of its own; what it says is kept in ``folder``."""
    number = len(list(folder.glob("*.stdout")))
    stdout, stderr = folder / f"{number}.stdout", folder / f"{number}.stderr"
    stdout.touch()
    stderr.touch()
    arguments = ([str(part) for part in argv], stdout, stderr, environment or {}, before)
    process = _SERVER.Process(target=_serve, args=arguments)
    process.start()
    return Command(process, stdout, stderr)


def paribus(folder: Path, *argv: str | Path, **settings: Any) -> Done:
    """Run ``paribus ARGV`` to its end."""
    return begin(folder, *argv, **settings).wait()


def counting(log: Path) -> None:
    """For ``before``: write down the address of every stage that is really computed."""
    from paribus.study import (
        abilities,
        answers,
        corpora,
        downstream,
        evaluate,
        naming,
        overlap,
        probing,
        stages,
        stimuli,
        talks,
        texts,
    )
    from paribus.study.stage import Stage

    kinds = {
        kind
        for module in (
            *(corpora, texts, stages, evaluate, probing, naming),
            *(talks, downstream, answers, overlap, stimuli, abilities),
        )
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Stage) and "compute" in vars(kind)
    }
    for kind in kinds - {Stage}:
        kind.compute = _counted(kind.compute, log)  # type: ignore[method-assign]


def _counted(compute: Callable[..., Any], log: Path) -> Callable[..., Any]:
    def counted(self: Any, folder: Path, runtime: Any) -> Any:
        with log.open("a") as handle:
            handle.write(f"{self.address()}\n")
        return compute(self, folder, runtime)

    return counted


def counted(log: Path) -> list[str]:
    """What ``counting`` wrote down."""
    return log.read_text().splitlines() if log.exists() else []


def checkpoint_always(log: Path) -> None:
    """For ``before``: a checkpoint after every step, and the step at which each training begins."""
    from paribus.data.loader import Loader
    from paribus.types import Runtime

    Runtime.model_fields["checkpoint_seconds"].default = 0.0
    Runtime.model_rebuild(force=True)
    batches = Loader.__call__

    def logged(self: Any, start: int, stop: int) -> Any:
        with log.open("a") as handle:
            handle.write(f"{start}\n")
        return batches(self, start, stop)

    Loader.__call__ = logged  # type: ignore[method-assign]


def reached(folder: Path, step: int) -> bool:
    """Whether a checkpoint of that step or a later one is there, whole."""
    found = [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
    return max(found, default=-1) >= step


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of its own, as small as asked; needs root.

    Raises:
        PermissionError: this process may not mount anything.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "paribus-test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
