"""A folder of pictures, in whatever formats and sizes, read where it lies.

Pictures are those files below the folder whose suffix says so, in the order of their names; hidden ones and
what is in hidden folders are none. They are decoded as LLaVA's are (``conversations.decode_picture``): rows
and columns as stored, of animations the first frame, transparency on white.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from paribus.data.conversations import decode_picture
from paribus.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


class Listed(NamedTuple):
    """A file: its path below the folder as the system has it, its size, and when it was last written."""

    path: bytes
    bytes: int
    mtime: int
    ctime: int
    """When the system last changed anything of it, which no program can set."""

    @property
    def key(self) -> str:
        """Its path as text that any file can hold."""
        return key_of(self.path)


def key_of(path: bytes) -> str:
    """A path as text that any file can hold: what is no UTF-8 is spelt out."""
    return path.decode(errors="backslashreplace")


def list_pictures(root: Path) -> list[Listed]:
    """All pictures below a folder.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give a folder of pictures.")
    found = []
    for folder, below, names in os.walk(os.fsencode(root)):
        below[:] = [name for name in below if not name.startswith(b".")]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes, since names need not be UTF-8
            if not name.startswith(b".") and name.lower().endswith(_ENDS) and os.path.isfile(path):  # noqa: PTH113
                stat = os.stat(path)  # noqa: PTH116
                name = os.path.relpath(path, os.fsencode(root))
                found.append(Listed(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    if not found:
        raise UserError(f"There is no picture in {root}: give a folder with {', '.join(SUFFIXES)} files.")
    return sorted(found)


def folders_below(root: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """A folder and all below it, as ``a/b/``, each with its files' names; hidden folders are passed over.

    Names come as the system lists them, once, and none is held. Links are followed; a folder that they lead
    to again is passed over.

    Raises:
        UserError: a folder cannot be listed.
    """
    seen = set[tuple[int, int]]()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        folder, below = root / inner, list[str]()
        with _listing(folder):
            stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        names = _names(folder, below)
        yield inner, names
        for _ in names:
            pass  # the rest, for the folders among them
        waiting += [f"{inner}{name}/" for name in sorted(below, reverse=True)]


def _names(folder: Path, below: list[str]) -> Iterator[str]:
    """The files of a folder; the folders in it are put into ``below``."""
    with _listing(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not _is_folder(entry):
                yield entry.name
            elif not entry.name.startswith("."):
                below.append(entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads round in a circle


@contextlib.contextmanager
def _listing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot list the folder {folder} ({error.strerror}): mend that.") from error


_ENDS = tuple(suffix.encode() for suffix in SUFFIXES)


def listing_digest(listed: Sequence[Listed]) -> str:
    """SHA-256 over names, sizes and times: what tells that a folder has changed, without reading it."""
    whole = hashlib.sha256()
    for one in listed:
        whole.update(f"{len(one.path)} {one.bytes} {one.mtime} {one.ctime} ".encode() + one.path)
    return whole.hexdigest()


@dataclass(frozen=True)
class Folder:
    """Some pictures of a folder, by position."""

    root: Path
    paths: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def keys(self) -> list[str]:
        """Their paths as text that any file can hold."""
        return [key_of(path) for path in self.paths]

    def read(self, index: int) -> bytes:
        """A picture's file.

        Raises:
            OSError: it cannot be read.
        """
        return (self.root / os.fsdecode(self.paths[index])).read_bytes()

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """A picture.

        Raises:
            UserError: it is not what it was.
        """
        try:
            return decode_picture(self.read(index))
        except (OSError, ValueError) as error:
            name = key_of(self.paths[index])
            raise UserError(
                f"{self.root / name} could be decoded before and cannot be now: run again."
            ) from error
