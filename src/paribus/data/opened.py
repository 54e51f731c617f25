"""Many files of which few are open: what random access over thousands of them needs."""

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OPEN_FILES = 512
"""Files kept open: half of the usual limit of a process."""


@dataclass
class _Open:
    """An open file and how many threads are reading it."""

    file: int
    users: int = 0


class Files:
    """At most ``limit`` files stay open, the latest used; no file is closed while a thread reads it."""

    def __init__(self, paths: Sequence[Path], limit: int) -> None:
        self.paths, self.limit = tuple(paths), limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        weakref.finalize(self, _close_all, self._open)

    def _take(self, number: int, opened: int | None = None) -> _Open | None:
        """Count a user of a file that is open, or has just been opened."""
        with self._lock:
            if opened is not None and number in self._open:
                os.close(opened)  # another thread was faster
            elif opened is not None:
                self._open[number] = _Open(opened)
            entry = self._open.get(number)
            if entry is not None:
                entry.users += 1
                self._open.move_to_end(number)
            return entry

    @contextlib.contextmanager
    def borrow(self, number: int) -> Iterator[int]:
        """A descriptor of one file, for ``pread`` only; opened outside the lock, since disks are slow."""
        entry = self._take(number)
        while entry is None:
            entry = self._take(number, os.open(self.paths[number], os.O_RDONLY | os.O_CLOEXEC))
        try:
            yield entry.file
        finally:
            with self._lock:
                entry.users -= 1
                self._trim()

    def _trim(self) -> None:
        if len(self._open) > self.limit:
            idle = [number for number, entry in self._open.items() if not entry.users]
            for number in idle[: len(self._open) - self.limit]:
                os.close(self._open.pop(number).file)


def _close_all(files: OrderedDict[int, _Open]) -> None:
    while files:
        os.close(files.popitem()[1].file)
