"""What a training logs while it runs: a line of JSON a step, and events for TensorBoard if asked.

A run that is killed and goes on writes what an uninterrupted one would: lines of steps that are taken again
are dropped first.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from paribus.files import disk_errors, whole_file
from paribus.train.extras import summary_writer


class Metrics:
    """A log of one training, to be used in a ``with`` block.

    Args:
        path: the log without its suffix: ``path.jsonl`` is the file, ``path`` the folder of events; None:
            what is written goes nowhere.
        start: the first step that will be written; what is there of it and of later ones is dropped.
        tensorboard: whether events are written too.

    Raises:
        UserError: the disk refuses it, or TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path | None, start: int, *, tensorboard: bool) -> None:
        self.path = path
        self.lines: TextIO | None = None
        self.events: Any = None
        if path is None:
            return
        self.lines = _after(path.with_name(f"{path.name}.jsonl"), start)
        if tensorboard:
            self.events = _events(path, start)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (self.lines, self.events):
            with contextlib.suppress(OSError):  # a full disk has been told already
                if part is not None:
                    part.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers, by name; on the disk at once, so that they can be followed.

        Raises:
            UserError: the disk is full.
        """
        if self.lines is None or self.path is None:
            return
        with disk_errors(self.path):
            numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self.lines.write(json.dumps({"step": step, **numbers}) + "\n")
            self.lines.flush()
            for name, value in values.items() if self.events is not None else ():
                self.events.add_scalar(name, value, step)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a log says, a line a step, up to the first that a killed run or machine left damaged."""
    found: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        found.append(line)
    return found


def _after(path: Path, start: int) -> TextIO:
    """The file, with what was written before a step, open for more."""
    kept = [line for line in read_lines(path) if line["step"] < start]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _events(folder: Path, start: int) -> Any:
    writer = summary_writer()
    with disk_errors(folder):
        return writer(str(folder), purge_step=start, flush_secs=10)
