"""Pairs that are not in tars as a source: an index over what a form of them lists, read by random access.

``build_pairs`` looks at every sample once, as the index of tars does, leaves out what cannot be trained on,
and writes ``table.npy`` (``ROW``: 24 bytes a sample), ``words.bin`` (keys, paths and captions as they come
out), ``skipped.jsonl`` (what was left out, and why) and, last, ``meta.json``. Pictures stay where they lie,
but those in parquet files, which are copied into ``.pictures``. ``Pairs`` maps table and words into memory.
A picture is told by its size and the beginning of its SHA-256, whenever it is read.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import mmap
import os
import shutil
import stat
import struct
import threading
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from tqdm import tqdm

from paribus.data.decoding import caption_bytes, decode_image
from paribus.data.listed import Block, Entry, Listing, PairsConfig
from paribus.data.opened import OPEN_FILES, Files
from paribus.data.samples import Taken, quiet, take, told
from paribus.data.tars import START, Shard, stamp
from paribus.errors import UserError
from paribus.files import disk_errors, whole_file, write_json
from paribus.progress import progress
from paribus.types import Config, Sample

ROW = np.dtype(
    [
        ("words", "<u8"),  # where its words begin
        ("place", "<u8"),  # number of the file that holds the picture << START | where it begins in it
        ("size", "<u4"),  # bytes of the picture
        ("mark", "<u4"),  # the first of its SHA-256
    ]
)
"""One sample in ``table.npy``; ``place`` is 0 where the picture is a file of its own."""

_ROW = struct.Struct("<2Q2I")
_WORDS = struct.Struct("<3I")
"""Before a sample's words: bytes of its key, of the picture's path, and of the caption."""

_PARTS, _PICTURES = ".parts", ".pictures"  # hidden: their bytes are no part of the digest of a stage's files
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)


class PairsMeta(Config):
    """What an index holds: the manifest, ``meta.json``.

    ``digest`` is the SHA-256 over the SHA-256 of each sample's (key, image file, caption as it comes out), as
    of tars; ``pictures`` over each one's (key, image file).
    """

    version: Literal[1] = 1
    reading: dict[str, Any]
    digest: str
    pictures: str
    samples: int
    left_out: dict[str, int] = Field(description="reason -> samples (or repeated files) not in the index")
    mended: dict[str, int] = Field(description="what was mended -> captions in the index")
    files: tuple[Shard, ...] = Field(description="what lists or holds the samples, as it was")
    copied: bool = Field(description="whether pictures were copied out of those files")
    names: str = Field(description="digest of the names, where no file lists them")
    words: int = Field(description="bytes of words.bin")


# Building.


class _Stopped(Exception):  # noqa: N818 - it is no error
    """The run was interrupted: the block is given up."""


@dataclass
class _Kept:
    """What comes of a block's samples, packed: a row group of parquet may have a million."""

    samples: int = 0
    rows: bytearray = field(default_factory=bytearray)
    words: bytearray = field(default_factory=bytearray)
    digests: bytearray = field(default_factory=bytearray)
    mended: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry, taken: Taken, place: int) -> None:
        """Put a sample behind the others."""
        key, path, text = entry.key.encode(), os.fsencode(entry.path), taken.text.encode()
        sha = hashlib.sha256(taken.blob).digest()
        self.rows += _ROW.pack(len(self.words), place, len(taken.blob), int.from_bytes(sha[:4], "little"))
        self.words += _WORDS.pack(len(key), len(path), len(text)) + key + path + text
        self.digests += taken.digest + hashlib.sha256(struct.pack("<Q", len(key)) + key + sha).digest()
        self.mended.update(taken.mended)
        self.samples += 1


def _plain(path: str, flags: int) -> int:
    """Open a file that is one: a pipe would wait for ever."""
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENOENT, "No such file")
    return file


def _opened(path: Path) -> BinaryIO:
    return open(path, "rb", opener=_plain)


def _held(handle: BinaryIO, size: int, place: int) -> bytes:
    try:
        return os.pread(handle.fileno(), size, place)
    except OSError as error:
        raise _unreadable(Path(handle.name), error) from error


def _absent(error: Exception) -> bool:
    """Whether a file is not there, or cannot be called so; else a disk fails or forbids it."""
    return not isinstance(error, OSError) or error.errno in _ABSENT


def _unreadable(path: Path, error: Exception) -> UserError:
    why = error.strerror if isinstance(error, OSError) else error
    return UserError(f"Cannot read {path} ({why}): mend that and run again; it goes on there.")


@dataclass(frozen=True)
class _Job:
    """One block to look at, and the files that take what it gives."""

    listing: Listing
    block: Block
    config: PairsConfig
    out: Path
    number: int

    @property
    def part(self) -> Path:
        return self.out / _PARTS / f"{self.number:08d}.npz"

    @property
    def claim(self) -> dict[str, Any]:
        """What a part must have been made of to be taken for this block's."""
        return {"block": self.block.claim, "reading": self.config.reading}

    def notes(self, claim: dict[str, Any]) -> dict[str, Any] | None:
        """What an earlier run noted of this block; None if it has not been read, or is another one now."""
        notes = _notes(self.part)
        same = notes is not None and notes["claim"] == claim
        return notes if same and notes is not None and _as_seen(self.listing.root, notes["skipped"]) else None

    def run(self, stop: threading.Event, tick: Callable[[int], None], copies: BinaryIO | None) -> None:
        """Look at the samples and write the part: rows, words, digests and notes.

        ``copies`` takes copies of pictures from where it stands, and stands behind them then.
        """
        claim = self.claim | ({} if copies is None else {"start": copies.tell()})
        notes = self.notes(claim)
        if notes is not None and (copies is None or _reaches(copies, notes["end"])):
            tick(notes["samples"] + len(notes["skipped"]))
            return
        kept, skipped = _Kept(), list[dict[str, Any]]()
        with self._holder() as holder:
            for entry in self.block.entries():
                if stop.is_set():
                    raise _Stopped
                found = self._look(entry, holder)
                if isinstance(found, str):
                    line = {"key": entry.key, "row": entry.row, "reason": found, "seen": self._sights(entry)}
                    skipped.append({name: value for name, value in line.items() if value not in (0, {})})
                else:
                    kept.add(entry, found, self._place(entry, found, copies))
                tick(1)
        notes = {"claim": claim, "samples": kept.samples, "skipped": skipped, "mended": kept.mended}
        if copies is not None:
            copies.flush()
            os.fsync(copies.fileno())
            notes["end"] = copies.tell()
        self._write(kept, notes)

    @contextlib.contextmanager
    def _holder(self) -> Iterator[BinaryIO | None]:
        """The file that holds the pictures, if they lie in one."""
        if self.block.file is None:
            yield None
            return
        path = self.listing.home / self.listing.files[self.block.file].name
        try:
            handle = _opened(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        with handle:
            yield handle

    def _look(self, entry: Entry, holder: BinaryIO | None) -> Taken | str:
        """A sample, or why it is left out."""
        if entry.fault:
            return entry.fault
        raw = self._caption(entry)
        if raw is None:
            return "no caption"
        if entry.blob is not None:
            blob = entry.blob
            return take(entry.key, raw, len(blob), lambda: blob, self.config)
        if holder is not None and not entry.path:
            held = functools.partial(_held, holder, entry.size, entry.place)
            return take(entry.key, raw, entry.size, held, self.config)
        return self._file(entry, raw)

    def _sights(self, entry: Entry) -> dict[str, list[int] | None]:
        """What the files of a sample that is left out are like: mended, they are looked at again."""
        names = (quote(name, errors="surrogatepass") for name in (entry.path, entry.said) if name)
        return {name: _sight(self.listing.root, name) for name in names}

    def _caption(self, entry: Entry) -> bytes | None:
        if not entry.said:
            return entry.raw
        path = self.listing.root / entry.said
        try:
            with _opened(path) as handle:
                return handle.read(caption_bytes(self.config.max_caption))
        except (OSError, ValueError) as error:
            if _absent(error):
                return None
            raise _unreadable(path, error) from error

    def _file(self, entry: Entry, raw: bytes) -> Taken | str:
        path = self.listing.root / entry.path
        try:
            handle = _opened(path)
        except (OSError, ValueError) as error:
            if _absent(error):
                return "missing image"
            raise _unreadable(path, error) from error
        with handle:
            size = os.fstat(handle.fileno()).st_size
            return take(entry.key, raw, size, functools.partial(_held, handle, size, 0), self.config)

    def _place(self, entry: Entry, taken: Taken, copies: BinaryIO | None) -> int:
        """Where the picture lies for good, as ``ROW`` has it."""
        if entry.path:
            return entry.place
        place = entry.place
        if copies is not None:
            place = copies.tell()
            copies.write(taken.blob)
        return place | (self.block.file or 0) << START

    def _write(self, kept: _Kept, notes: dict[str, Any]) -> None:
        arrays = {
            "rows": np.frombuffer(kept.rows, ROW),
            "words": np.frombuffer(kept.words, np.uint8),
            "digests": np.frombuffer(kept.digests, np.uint8).reshape(-1, 2, 32),
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
        }
        with whole_file(self.part) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Chain:
    """Blocks whose pictures are copied into one file, and so are looked at after each other; or only one."""

    jobs: Sequence[_Job]

    def run(self, stop: threading.Event, tick: Callable[[int], None]) -> None:
        """Look at all of them; what is copied counts as far as a part says that it reaches."""
        with self._copies() as copies:
            for job in self.jobs:
                job.run(stop, tick, copies)

    @contextlib.contextmanager
    def _copies(self) -> Iterator[BinaryIO | None]:
        """The file that takes copies of pictures, if there will be any."""
        block, out = self.jobs[0].block, self.jobs[0].out
        if not block.copied:
            yield None
            return
        path = _copy(out, block.file or 0)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            with path.open("r+b") as handle:
                yield handle
                handle.truncate()


def _reaches(copies: BinaryIO, end: int) -> bool:
    """Go to where a block's copies end, if the file has so much."""
    reached = os.fstat(copies.fileno()).st_size >= end
    copies.seek(end if reached else copies.tell())
    return reached


def _notes(part: Path) -> dict[str, Any] | None:
    try:
        with np.load(part, allow_pickle=False) as arrays:
            notes: dict[str, Any] = json.loads(arrays["notes"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return notes


def _sight(root: Path, name: str) -> list[int] | None:
    """Size and time of a file by its quoted name, which need not be UTF-8; None if it is not there."""
    try:
        found = (root / unquote(name, errors="surrogatepass")).stat()
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


def _as_seen(root: Path, skipped: Iterable[dict[str, Any]]) -> bool:
    """Whether the files of all samples that were left out are as they were then."""
    seen = (pair for line in skipped for pair in line.get("seen", {}).items())
    return all(_sight(root, name) == before for name, before in seen)


def _copy(folder: Path, file: int) -> Path:
    """Where the pictures of a file are copied to."""
    return folder / _PICTURES / f"{file:05d}.bin"


def build_pairs(config: PairsConfig, out: Path, workers: int) -> PairsMeta:
    """Index the pairs of ``config``; the same bytes whatever the workers and interruptions.

    What each block of samples gave is kept in ``out/.parts`` until all are read, so a killed run goes on with
    what is left. A finished index of the same pairs is not built again; of a folder, only names are compared.

    Args:
        config: where the pairs lie and what is read of them.
        out: gets the index.
        workers: threads, a block each; hashing and OpenCV release the interpreter lock.

    Raises:
        UserError: there is nothing, or what lists it cannot be read, nothing can be trained on, or there are
            not as many samples as ``config.samples`` declares (the index is left in place then).
    """
    listing = config.listing()
    meta = _finished(config, listing, out)
    if meta is None:
        with disk_errors(out):
            (out / _PARTS).mkdir(parents=True, exist_ok=True)
            (out / "meta.json").unlink(missing_ok=True)  # pictures may be copied over those of another index
        with quiet():
            count = _run_all(config, listing, out, max(1, workers))
        meta = _join(config, listing, out, count)
    if config.samples not in (None, meta.samples):
        raise UserError(
            f"samples: {config.samples} are declared, {listing.what} gives {meta.samples} "
            f"({told(meta.left_out)}; see {out / 'skipped.jsonl'}): declare {meta.samples}, or complete it."
        )
    return meta


def _finished(config: PairsConfig, listing: Listing, out: Path) -> PairsMeta | None:
    """The index that is in ``out``, if it is whole and of these pairs."""
    try:
        meta = Pairs(out, None, listing.root).meta
    except UserError:
        return None
    same = (meta.reading, meta.files, meta.names) == (config.reading, listing.files, listing.names)
    return meta if same and _as_seen(listing.root, _left_out(out)) else None


def _left_out(out: Path) -> Iterator[dict[str, Any]]:
    with (out / "skipped.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _run_all(config: PairsConfig, listing: Listing, out: Path, workers: int) -> int:
    """Look at all blocks, a few at a time; the first error, or an interruption, stops the others at once."""
    stop, lock = threading.Event(), threading.Lock()
    bar: tqdm[None] = progress(label=f"Indexing {listing.what.name}", total=listing.total, unit="sample")
    waiting: deque[Future[None]] = deque()
    count = 0

    def tick(samples: int) -> None:
        with lock:
            bar.update(samples)

    with bar, ThreadPoolExecutor(workers) as pool:
        try:
            for chain in _chained(config, listing, out):
                waiting.append(pool.submit(chain.run, stop, tick))
                count += len(chain.jobs)
                if len(waiting) > 2 * workers:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return count


def _chained(config: PairsConfig, listing: Listing, out: Path) -> Iterator[_Chain]:
    jobs = (_Job(listing, block, config, out, number) for number, block in enumerate(listing.blocks()))
    for _, chain in itertools.groupby(
        jobs, lambda job: ("file", job.block.file) if job.block.copied else job
    ):
        yield _Chain(list(chain))


def _join(config: PairsConfig, listing: Listing, out: Path, count: int) -> PairsMeta:
    """Put the parts together in their order; ``meta.json`` comes last, for the whole."""
    parts = [out / _PARTS / f"{number:08d}.npz" for number in range(count)]
    samples, left_out, mended = 0, Counter[str](), Counter[str]()
    with whole_file(out / "skipped.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for part in parts:
            notes = _notes(part) or {}
            samples += notes["samples"]
            mended += Counter(notes["mended"])
            left_out.update(line["reason"] for line in notes["skipped"])
            lines.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in notes["skipped"])
    if not samples:
        why = f"{told(dict(sorted(left_out.items())))}; see {out / 'skipped.jsonl'}"
        raise UserError(
            f"Nothing of {listing.what} has a picture and a caption that can be read ({why}): mend that, or "
            "name others."
        )
    digests, words = _write_rows(parts, out, samples)
    meta = PairsMeta(
        reading=config.reading,
        digest=digests[0],
        pictures=digests[1],
        samples=samples,
        left_out=dict(sorted(left_out.items())),
        mended=dict(sorted(mended.items())),
        files=listing.files,
        copied=listing.copied,
        names=listing.names,
        words=words,
    )
    write_json(out / "meta.json", meta.model_dump(mode="json"))
    shutil.rmtree(out / _PARTS)
    return meta


def _write_rows(parts: Sequence[Path], out: Path, samples: int) -> tuple[tuple[str, str], int]:
    """Write the rows and words of all parts one after another; the digests, and the bytes of all words."""
    whole, pictures, end = hashlib.sha256(), hashlib.sha256(), 0
    header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (samples,)}
    with contextlib.ExitStack() as stack:
        table, words = (
            stack.enter_context(stack.enter_context(whole_file(out / name)).open("wb"))
            for name in ("table.npy", "words.bin")
        )
        np.lib.format.write_array_header_1_0(table, header)
        for part in parts:
            with np.load(part, allow_pickle=False) as arrays:
                rows, said, digests = arrays["rows"], arrays["words"], arrays["digests"]
            rows["words"] += np.uint64(end)
            end += len(said)
            table.write(rows.tobytes())
            words.write(said.tobytes())
            whole.update(digests[:, 0].tobytes())
            pictures.update(digests[:, 1].tobytes())
    return (whole.hexdigest(), pictures.hexdigest()), end


# Reading.


def _again(folder: Path) -> str:
    return f"delete {folder} and run again to build the index anew"


def _read_meta(folder: Path) -> PairsMeta:
    path = folder / "meta.json"
    try:
        return PairsMeta.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}: run again to build the index of the pairs.") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"The file {path} is damaged: {_again(folder)}.") from error


def _check_same(meta: PairsMeta, folder: Path, home: Path) -> None:
    """What lists or holds the samples must be what was indexed."""
    for was in meta.files:
        now = stamp(home, home / was.name)
        if now.bytes != was.bytes:
            what = f"has {now.bytes:,} bytes and had {was.bytes:,}"
        elif now.mtime != was.mtime:
            what = "was written after the index (to copy it, keep its time: cp -p, rsync -t)"
        else:
            continue
        raise UserError(
            f"The index {folder} belongs to another {home / was.name}: it {what}; bring the indexed one "
            f"back, or {_again(folder)}."
        )


class _Words(NamedTuple):
    key: bytes
    path: bytes
    text: bytes


class Pairs:
    """Indexed pairs as a source: any sample at any time, from any number of threads.

    Args:
        folder: where ``build_pairs`` put the index.
        home: the folder of the files that list or hold the samples, to see that they are the same; None if
            they are not needed.
        root: the folder that paths of pictures begin at, wherever it lies now.
        open_files: at most so many files that hold pictures stay open.

    Raises:
        UserError: the index is missing or damaged, or what lists or holds the samples has changed.
    """

    def __init__(self, folder: Path, home: Path | None, root: Path, *, open_files: int = OPEN_FILES) -> None:
        self.folder, self.home, self.root = Path(folder), home, Path(root)
        self.meta = _read_meta(self.folder)
        if home is not None:
            _check_same(self.meta, self.folder, home)
        self._table, self._words = self._mapped()
        held = [(home or Path()) / file.name for file in self.meta.files]
        copies = [_copy(self.folder, number) for number in range(len(held))]
        self._files = Files(copies if self.meta.copied else held, open_files)

    def _mapped(self) -> tuple[NDArray[Any], mmap.mmap]:
        table, words = self.folder / "table.npy", self.folder / "words.bin"
        try:
            rows: NDArray[Any] = np.load(table, mmap_mode="r", allow_pickle=False)
            with words.open("rb") as handle:
                said = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"The file {table} or {words.name} is missing or damaged: {_again(self.folder)}."
            ) from error
        if rows.dtype != ROW or rows.shape != (self.meta.samples,) or len(said) != self.meta.words:
            raise UserError(f"The file {table} or {words.name} is damaged: {_again(self.folder)}.")
        return rows, said

    def __len__(self) -> int:
        return self.meta.samples

    def _said(self, start: int) -> _Words:
        """Key, path and caption."""
        sizes = _WORDS.unpack_from(self._words, start)
        cuts = list(itertools.accumulate(sizes, initial=start + _WORDS.size))
        return _Words(*(self._words[first:last] for first, last in itertools.pairwise(cuts)))

    def __getitem__(self, index: int, /) -> Sample:
        """One sample.

        Raises:
            UserError: its picture cannot be read or decoded, or is another one now.
        """
        start, place, size, mark = self._table[index].item()
        said = self._said(start)
        key, text = said.key.decode(), said.text.decode()
        where, blob = self._picture(said.path, place, size)
        if len(blob) != size or int.from_bytes(hashlib.sha256(blob).digest()[:4], "little") != mark:
            raise UserError(
                f"The picture of {key} in {where} is another one than was indexed: bring the indexed one "
                f"back, or {_again(self.folder)}."
            )
        try:
            image = decode_image(blob)
        except ValueError as error:
            raise UserError(
                f"The picture of {key} in {where} cannot be decoded: {_again(self.folder)} with check: true, "
                "which leaves such pictures out."
            ) from error
        return Sample(key=key, image=image, text=text)

    def _picture(self, path: bytes, place: int, size: int) -> tuple[Path, bytes]:
        """Where a picture lies, and its file; a byte more than it had, if there is one."""
        file, start = divmod(place, 1 << START)
        where = self.root / os.fsdecode(path) if path else self._files.paths[file]
        try:
            if path:
                with _opened(where) as handle:
                    return where, handle.read(size + 1)
            with self._files.borrow(file) as number:
                return where, os.pread(number, size, start)
        except OSError as error:
            raise UserError(
                f"Cannot read the picture {where} ({error.strerror}): bring it back and go on, or "
                f"{_again(self.folder)}."
            ) from error

    def caption(self, index: int) -> str:
        """One sample's caption; its picture is not read."""
        return self._said(self._table[index].item()[0]).text.decode()

    @property
    def digest(self) -> str:
        """Of all samples in their order; see ``PairsMeta``."""
        return self.meta.digest

    @property
    def pictures(self) -> str:
        """Of keys and pictures alone."""
        return self.meta.pictures

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by name: a worker opens the files again."""
        again = functools.partial(Pairs, open_files=self._files.limit)
        return again, (self.folder, self.home, self.root)
