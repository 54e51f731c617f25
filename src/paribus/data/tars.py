"""What is in a folder of tars: shards in the order of their names, and the samples of each.

Members are grouped as webdataset does: a key is the name up to its first dot.
"""

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from paribus.data.folder import folders_below, key_of
from paribus.errors import UserError
from paribus.types import Config

START = 40
"""Bits of a place in a shard: a tar has at most a TiB, and a folder 16 million tars."""

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How files begin that are not plain tars."""

_COMPRESSED_NAME = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$", re.IGNORECASE)
_MEMBER = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
_NO_TAR = (tarfile.TarError, ValueError, OverflowError)
"""What tarfile raises on bytes that are no tar: numbers in headers may be anything."""


class Shard(Config):
    """A tar as it was found. Times are whole seconds, which every copying program keeps."""

    name: str
    bytes: int
    mtime: int


class Member(NamedTuple):
    """Where a file lies in a tar: ``head`` bytes of headers at ``start``, then ``size`` bytes."""

    start: int
    head: int
    size: int
    odd: str = ""
    """What it is, if it is no plain file: its bytes are not there."""

    @property
    def data(self) -> int:
        """Where its bytes begin."""
        return self.start + self.head


def find_shards(root: Path) -> tuple[Shard, ...]:
    """The tars of a folder and of those below it, by their paths and in their order; hidden ones are none.

    Raises:
        UserError: the folder is missing, or holds no tar, or compressed ones.
    """
    if not root.is_dir():
        raise UserError(f"Cannot open the folder {root}: set root to the folder that holds the .tar shards.")
    found = []
    for folder, names in folders_below(root):
        for name in (f"{folder}{name}" for name in names if not name.startswith(".")):
            if _COMPRESSED_NAME.search(name):
                raise UserError(_cannot_seek(root / name, "compressed"))
            if name.endswith(".tar") and (root / name).is_file():
                found.append(_shard(root, name))
    if not found:
        raise UserError(f"There is no .tar in {root}: set root to the folder that holds the .tar shards.")
    return tuple(sorted(found, key=lambda shard: shard.name))


def has_shards(root: Path) -> bool:
    """Whether there are tars in a folder or below, compressed or not."""
    names = (name for _, names in folders_below(root) for name in names)
    return any(
        (name.endswith(".tar") or _COMPRESSED_NAME.search(name)) and not name.startswith(".")
        for name in names
    )


def _shard(root: Path, name: str) -> Shard:
    shard = stamp(root, root / name)
    if shard.bytes >= 1 << START:
        raise UserError(f"The shard {root / name} has a TiB or more: cut it into smaller ones.")
    return shard


def stamp(home: Path, file: Path) -> Shard:
    """A file as it is now.

    Raises:
        UserError: it is not there, or no record can hold its name.
    """
    try:
        stat = file.stat()
        name = file.relative_to(home).as_posix()
        name.encode()
    except OSError as error:
        raise UserError(f"Cannot read {file} ({error.strerror}): bring it back, or name another.") from error
    except UnicodeEncodeError as error:
        raise UserError(f"The name of {key_of(os.fsencode(file))} is no UTF-8: rename it.") from error
    return Shard(name=name, bytes=stat.st_size, mtime=int(stat.st_mtime))


def _cannot_seek(path: Path, how: str) -> str:
    return (
        f"The shard {path} is {how}, and random access needs plain tars: "
        "uncompress it (images are compressed already)."
    )


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """All members of a tar but folders; only a tar that is whole ends without an error."""
    with path.open("rb") as handle:
        start = handle.read(8)
        for magic, how in COMPRESSED.items():
            if start.startswith(magic):
                raise UserError(_cannot_seek(path, f"compressed by {how}"))
        handle.seek(0)
        end = 0
        try:
            with _open_tar(handle) as tar:
                for info in tar:
                    end = tar.offset
                    if not info.isdir():
                        yield info
                end = tar.offset
        except _NO_TAR as error:
            raise UserError(_broken(path, end)) from error
        handle.seek(end)  # tarfile takes an end of the file, or a damaged header, for the end of the archive
        rest = handle.read(2**20)
    if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise UserError(_broken(path, end))
    if rest.strip(b"\0"):
        raise UserError(
            f"The shard {path} goes on after its end mark at byte {end:,} (tars joined by cat?), and what "
            "follows cannot be read: make it one archive or several files."
        )


def _broken(path: Path, end: int) -> str:
    size = path.stat().st_size
    return (
        f"The shard {path} is cut off or damaged at byte {min(end, size):,} of {size:,}: download it again, "
        "or move it to another folder to train without it."
    )


@contextlib.contextmanager
def disk_read(path: Path) -> Iterator[None]:
    """Turn a disk that fails, or a file that may not be read, into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot read the shard {path} ({error.strerror}): mend that and run again; it goes on there."
        ) from error


def _open_tar(handle: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=handle, mode="r:", encoding="utf-8", errors="surrogateescape")


def _shown(key: str) -> str:
    """A key as text that any file can hold: what is no UTF-8 is replaced."""
    return key.encode(errors="surrogateescape").decode(errors="replace")


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a member, as webdataset parts them; None for hidden or bare names."""
    found = _MEMBER.fullmatch(name)
    return (found[1], found[2].lower()) if found else None


class Contents(NamedTuple):
    """The samples of a tar: key -> extension -> member, in order of first appearance."""

    samples: dict[str, dict[str, Member]]
    repeated: list[str]
    """Keys with a member that was there before, or of a key that looks the same; the first one stays."""


def read_contents(path: Path) -> Contents:
    """Group a tar's members by key.

    Raises:
        UserError: the tar is compressed, damaged or cut off.
    """
    contents, replaced = Contents({}, []), dict[str, str]()
    for info in _members(path):
        named = split_name(info.name)
        if named is None:
            continue
        (raw, extension), key = named, _shown(named[0])
        other = "\ufffd" in key and replaced.setdefault(key, raw) != raw
        members = contents.samples.setdefault(key, {})
        if other or extension in members:
            contents.repeated.append(key)
        else:
            head = info.offset_data - info.offset
            members[extension] = Member(info.offset, head, info.size, _odd(info))
    return contents


def _odd(info: tarfile.TarInfo) -> str:
    """What a member is, if it is no plain file."""
    if info.issym() or info.islnk():
        return "a link"
    return "" if info.isreg() and not info.issparse() else "no plain file"


def leads_out(key: str) -> bool:
    """Whether a key is no path below the tar: absolute, or out by ``..``.

    Nothing is ever unpacked here, but keys are written into tables and reports, by which others fetch files.
    """
    return key.startswith("/") or ".." in key.split("/")


def key_at(headers: bytes) -> str | None:
    """The key that an image's headers name; None if they are no headers."""
    try:
        with _open_tar(io.BytesIO(headers)) as tar:
            info = tar.next()
    except _NO_TAR:
        return None
    named = split_name(info.name) if info is not None else None
    return _shown(named[0]) if named else None
