"""Webdataset tar shards (the layout of DataComp and img2dataset), read by random access.

``build_index`` reads every tar once: it groups members as webdataset does (a key is the name up to its first
dot), leaves out what cannot be trained on, and writes ``table.npy`` (``ROW``: 24 bytes a sample),
``skipped.jsonl`` (what was left out, and why) and, last, ``meta.json``. ``Shards`` maps the table into memory
and fetches any sample with two ``pread``. Keys are not in the table: a sample's key is read from its tar
header, which lies before its image and whose checksum tells if the tar is another one.
"""

import bisect
import functools
import hashlib
import json
import os
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from tqdm import tqdm

from paribus.data.decoding import caption_bytes, clean_caption, decode_image
from paribus.data.opened import OPEN_FILES, Files
from paribus.data.samples import Reading, quiet, take, told
from paribus.data.tars import START, Member, Shard, disk_read, find_shards, key_at, leads_out, read_contents
from paribus.data.uids import Uids, matched, read_uids
from paribus.errors import UserError
from paribus.files import disk_errors, whole_file, write_json, write_text
from paribus.progress import progress
from paribus.types import Config, Sample

ROW = np.dtype(
    [
        ("place", "<u8"),  # number of the shard << START | start of the image's first tar header in it
        ("caption", "<u8"),  # bytes of the caption << START | where they begin
        ("size", "<u4"),  # bytes of the image
        ("head", "<u4"),  # bytes of headers before the image's: 512, more for long names
    ]
)
"""One sample in ``table.npy``."""

LARGEST_JSON = 2**24
"""Bytes of a sample's metadata; in larger ones no uid is sought."""

_PARTS = ".parts"


class ShardsConfig(Reading):
    """Image-text pairs in ``*.tar`` in a folder and below; ``root`` is where they lie, the digest what."""

    kind: Literal["shards"] = "shards"
    root: str = Field(min_length=1)
    samples: int | None = Field(None, gt=0, description="declared; the index must hold as many")
    keep: str | None = Field(
        None, description="a list of uids (npy, parquet or text): only these samples are trained on"
    )

    @property
    def reading(self) -> Reading:
        """The part that decides which samples come out."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})


class IndexMeta(Config):
    """What an index holds: the manifest, ``meta.json``.

    ``digest`` is the SHA-256 over the SHA-256 of each sample's (key in the tar, image file, caption as it
    comes out), in the order of the shards. Names and borders of shards do not enter it: the same samples in
    the same order, cut into other shards, have the same digest and stand at the same places of ``Order``.
    Their ``Sample.key``, which names the shard, differs then, and with it the crops that are drawn.
    """

    version: Literal[3] = 3
    reading: Reading
    kept: str = Field("", description="digest of the list of uids; empty if all samples are kept")
    listed: int = Field(0, description="uids in that list")
    absent: int = Field(0, description="of those, uids that are in no shard")
    digest: str
    samples: int
    left_out: dict[str, int] = Field(description="reason -> samples (or repeated members) not in the index")
    mended: dict[str, int] = Field(description="what was mended -> captions in the index")
    shards: tuple[Shard, ...]


# Building.


class _Stopped(Exception):  # noqa: N818 - it is no error
    """The run was interrupted: the shard is given up."""


class _Kept(NamedTuple):
    row: tuple[int, ...]
    digest: bytes
    mended: list[str]


def _uid(file: int, members: dict[str, Member]) -> str | None:
    """The uid that a sample's metadata name, as DataComp's do."""
    told = members.get("json")
    if told is None or told.size > LARGEST_JSON:
        return None
    try:
        found = json.loads(os.pread(file, told.size, told.data))
    except (ValueError, RecursionError):
        return None
    uid = found.get("uid") if isinstance(found, dict) else None
    return None if uid is None else str(uid)


def _examine(file: int, key: str, members: dict[str, Member], reading: Reading) -> _Kept | str:
    """A sample's row and digest, or why it is left out."""
    if leads_out(key):
        return "name outside the tar"
    image = next((members[extension] for extension in reading.image if extension in members), None)
    caption = members.get(reading.caption)
    if image is None:
        return "no image"
    if caption is None:
        return "no caption"
    if image.odd or caption.odd:
        return f"image is {image.odd}" if image.odd else f"caption is {caption.odd}"
    size = min(caption.size, caption_bytes(reading.max_caption))
    raw = os.pread(file, size, caption.data)
    found = take(key, raw, image.size, lambda: os.pread(file, image.size, image.data), reading)
    if isinstance(found, str):
        return found
    row = (image.start, size << START | caption.data, image.size, image.head)
    return _Kept(row, found.digest, found.mended)


@dataclass(frozen=True)
class _Job:
    """One shard to read, and the file that takes what it gives."""

    root: Path
    shard: Shard
    reading: Reading
    part: Path
    uids: Uids | None = None

    @property
    def claim(self) -> dict[str, Any]:
        """What a part must have been made of to be taken for this shard's."""
        return {
            "shard": self.shard.model_dump(mode="json"),
            "reading": self.reading.model_dump(mode="json"),
            "kept": _digest(self.uids),
        }

    def notes(self) -> dict[str, Any] | None:
        """What an earlier run noted of this shard; None if it has not been read, or has changed since."""
        try:
            with np.load(self.part, allow_pickle=False) as part:
                notes: dict[str, Any] = json.loads(part["notes"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return notes if notes["claim"] == self.claim else None

    def run(self, stop: threading.Event, tick: Callable[[int], None]) -> None:
        """Read the shard and write its part: rows, digests and notes; ``tick`` takes the bytes done."""
        path = self.root / self.shard.name
        kept, places, unlisted, left = list[_Kept](), list[int](), 0, self.shard.bytes
        with disk_read(path), path.open("rb") as handle:
            samples, repeated = read_contents(path)
            skipped = [{"key": key, "reason": "repeated member"} for key in repeated]
            for key, members in samples.items():
                if stop.is_set():
                    raise _Stopped
                place = self._listed(handle.fileno(), key, members)
                if place is None:
                    unlisted += 1
                else:
                    places.append(place)
                    found = _examine(handle.fileno(), key, members, self.reading)
                    if isinstance(found, str):
                        skipped.append({"key": key, "reason": found})
                    else:
                        kept.append(found)
                size = sum(member.size for member in members.values())
                left -= size
                tick(size)
        tick(left)
        mended = Counter(word for each in kept for word in each.mended)
        notes = {"samples": len(kept), "skipped": skipped, "mended": mended, UNLISTED: unlisted}
        self._write(kept, places, notes)

    def _listed(self, file: int, key: str, members: dict[str, Member]) -> int | None:
        """Where a sample stands in the list of uids, by its uid or its key; None if it is not wanted."""
        if self.uids is None:
            return -1
        uid = _uid(file, members)
        place = None if uid is None else self.uids.at(uid)
        return self.uids.at(key) if place is None else place

    def _write(self, kept: Sequence[_Kept], places: Sequence[int], notes: dict[str, Any]) -> None:
        notes = {"claim": self.claim} | notes
        arrays = {
            "places": np.array(places, np.int64),
            "rows": np.array([each.row for each in kept], ROW),
            "digests": np.frombuffer(b"".join(each.digest for each in kept), np.uint8),
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
        }
        with whole_file(self.part) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]


UNLISTED = "not listed"
"""Why samples are left out that the list of uids does not name; they are counted, not named."""


def _digest(uids: Uids | None) -> str:
    return "" if uids is None else uids.digest


def build_index(config: ShardsConfig, out: Path, workers: int) -> IndexMeta:
    """Index the shards of ``config.root``; the same bytes whatever the workers and interruptions.

    What each shard gave is kept in ``out/.parts`` until all are read, so a killed run goes on with the
    shards that are left. A finished index of the same tars is not built again.

    Args:
        config: where the shards lie and what is read of them.
        out: gets ``table.npy``, ``skipped.jsonl`` and ``meta.json``.
        workers: threads, a shard each; hashing and OpenCV release the interpreter lock.

    Raises:
        UserError: there are no shards, one is compressed or damaged, the list of uids cannot be read, nothing
            can be trained on, or there are not as many samples as ``config.samples`` declares (the index is
            left in place then).
    """
    root = Path(config.root).expanduser()
    shards = find_shards(root)
    uids = None if config.keep is None else read_uids(Path(config.keep).expanduser())
    meta = _finished(config, out, _digest(uids))
    if meta is None:
        with disk_errors(out):
            (out / _PARTS).mkdir(parents=True, exist_ok=True)
        parts = [out / _PARTS / f"{shard.name}.npz" for shard in shards]
        jobs = [
            _Job(root, shard, config.reading, part, uids) for shard, part in zip(shards, parts, strict=True)
        ]
        with quiet():
            _run_all(jobs, workers)
        meta = _join(jobs, out, config)
    if config.samples not in (None, meta.samples):
        raise UserError(
            f"samples: {config.samples} are declared, {root} holds {meta.samples} ({told(meta.left_out)}; "
            f"see {out / 'skipped.jsonl'}): declare {meta.samples}, or complete the shards."
        )
    return meta


def _finished(config: ShardsConfig, out: Path, kept: str) -> IndexMeta | None:
    """The index that is in ``out``, if it is whole and of these tars."""
    try:
        meta = Shards(out, Path(config.root).expanduser()).meta
    except UserError:
        return None
    return meta if (meta.reading, meta.kept) == (config.reading, kept) else None


def _run_all(jobs: Sequence[_Job], workers: int) -> None:
    """Read the shards that are left; the first error, or an interruption, stops the others at once."""
    todo = [job for job in jobs if job.notes() is None]
    total, left = (sum(job.shard.bytes for job in some) for some in (jobs, todo))
    stop, lock = threading.Event(), threading.Lock()
    bar: tqdm[None] = progress(label="Indexing shards", total=total, initial=total - left, unit="B")

    def tick(size: int) -> None:
        with lock:
            bar.update(size)

    with bar, ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(job.run, stop, tick) for job in todo]
        try:
            for future in as_completed(waiting):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _join(jobs: Sequence[_Job], out: Path, config: ShardsConfig) -> IndexMeta:
    """Put the parts together in the shards' order; ``meta.json`` comes last, for the whole."""
    noted: list[dict[str, Any]] = [job.notes() or {} for job in jobs]
    samples = sum(notes["samples"] for notes in noted)
    left_out = Counter(line["reason"] for notes in noted for line in notes["skipped"])
    left_out += Counter({UNLISTED: sum(notes[UNLISTED] for notes in noted)})  # leaves out what is 0
    uids, found = jobs[0].uids, matched(_places(job) for job in jobs)
    if uids is not None and not found:
        raise UserError(
            f"The list {config.keep} names none of the {left_out[UNLISTED]:,} samples of {config.root}: give "
            "uids that stand in the shards' json, or their keys."
        )
    if not samples:
        raise UserError(
            f"No sample of {config.root} has an image ({', '.join(config.image)}) and a caption "
            f"({config.caption}) that can be read ({told(left_out)}): see the settings image and caption."
        )
    (out / "meta.json").unlink(missing_ok=True)
    digest = _write_table(jobs, out / "table.npy", samples)
    lines = [
        json.dumps({"shard": job.shard.name, **line}, ensure_ascii=False) + "\n"
        for job, notes in zip(jobs, noted, strict=True)
        for line in notes["skipped"]
    ]
    write_text(out / "skipped.jsonl", "".join(lines))
    meta = IndexMeta(
        reading=config.reading,
        kept=_digest(uids),
        listed=0 if uids is None else len(uids),
        absent=0 if uids is None else len(uids) - found,
        digest=digest,
        samples=samples,
        left_out=dict(sorted(left_out.items())),
        mended=dict(sorted(sum((Counter(notes["mended"]) for notes in noted), Counter[str]()).items())),
        shards=tuple(job.shard for job in jobs),
    )
    write_json(out / "meta.json", meta.model_dump(mode="json"))
    shutil.rmtree(out / _PARTS)
    return meta


def _places(job: _Job) -> Int64[np.ndarray, " M"]:
    """Where a shard's samples stand in the list of uids."""
    with np.load(job.part, allow_pickle=False) as part:
        places: Int64[np.ndarray, " M"] = part["places"]
    return places[places >= 0]


def _write_table(jobs: Sequence[_Job], path: Path, samples: int) -> str:
    """Write the rows of all parts one after another; returns the digest of all samples."""
    digest = hashlib.sha256()
    header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (samples,)}
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for number, job in enumerate(jobs):
            with np.load(job.part, allow_pickle=False) as part:
                rows = part["rows"]
                digest.update(part["digests"].tobytes())
            rows["place"] |= np.uint64(number << START)
            handle.write(rows.tobytes())
    return digest.hexdigest()


# Reading.


def _again(folder: Path) -> str:
    return f"delete {folder} and run again to build the index anew"


def read_meta(folder: Path) -> IndexMeta:
    """What an index says of itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "meta.json"
    try:
        return IndexMeta.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}: run again to build the index of the shards.") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"The file {path} is damaged: {_again(folder)}.") from error


def _read_table(folder: Path, samples: int) -> NDArray[Any]:
    path = folder / "table.npy"
    try:
        table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"The file {path} is missing or damaged: {_again(folder)}.") from error
    if table.dtype != ROW or table.shape != (samples,):
        raise UserError(f"The file {path} is damaged: {_again(folder)}.")
    return table


def _check_same(found: Sequence[Shard], meta: IndexMeta, folder: Path, root: Path) -> None:
    """The tars must be those that were indexed: none more, none less, none written since."""
    were, are = ({shard.name: shard for shard in shards} for shards in (meta.shards, found))
    for name in sorted(were.keys() | are.keys()):
        if name not in are:
            what = "is missing"
        elif name not in were:
            what = "was not there when the index was built"
        elif were[name].bytes != are[name].bytes:
            what = f"has {are[name].bytes:,} bytes and had {were[name].bytes:,}"
        elif were[name].mtime != are[name].mtime:
            what = "was written after the index (to copy shards, keep their times: cp -p, rsync -t)"
        else:
            continue
        raise UserError(
            f"The index {folder} belongs to other shards: {root / name} {what}; bring the indexed shards "
            f"back, or {_again(folder)}."
        )


class Shards:
    """Indexed shards as a source: any sample at any time, from any number of threads.

    ``Sample.key`` is ``<shard's path without .tar>/<key in the tar>``, so that keys may repeat from shard to
    shard.

    Args:
        folder: where ``build_index`` put the index.
        root: the folder of the tars, wherever it lies now.
        open_files: at most so many tars stay open.

    Raises:
        UserError: the index is missing or damaged, or ``root`` does not hold the tars that were indexed.
    """

    def __init__(self, folder: Path, root: Path, *, open_files: int = OPEN_FILES) -> None:
        self.folder, self.root = Path(folder), Path(root)
        self.meta = read_meta(self.folder)
        _check_same(find_shards(self.root), self.meta, self.folder, self.root)
        self._table = _read_table(self.folder, self.meta.samples)
        self._stems = tuple(shard.name.removesuffix(".tar") for shard in self.meta.shards)
        self._files = Files([self.root / shard.name for shard in self.meta.shards], open_files)

    def __len__(self) -> int:
        return self.meta.samples

    def __getitem__(self, index: int, /) -> Sample:
        """One sample.

        Raises:
            UserError: its shard cannot be read or has changed, or its image cannot be decoded.
        """
        place, said, size, head = self._table[index].item()
        (shard, start), (caption_size, caption) = divmod(place, 1 << START), divmod(said, 1 << START)
        path = self._files.paths[shard]
        with disk_read(path), self._files.borrow(shard) as file:
            block = os.pread(file, head + size, start)
            raw = os.pread(file, caption_size, caption)
        key = key_at(block[:head])
        if key is None or (len(block), len(raw)) != (head + size, caption_size):
            raise UserError(f"The shard {path} has changed under its index: {_again(self.folder)}.")
        try:
            image = decode_image(block[head:])
        except ValueError as error:
            raise UserError(
                f"The image of {key} in the shard {path} cannot be decoded: {_again(self.folder)} with "
                "check: true, which leaves such images out."
            ) from error
        text, _ = clean_caption(raw, self.meta.reading.max_caption)
        return Sample(key=f"{self._stems[shard]}/{key}", image=image, text=text)

    def of_shard(self, number: int) -> range:
        """Which samples a shard holds, by its number in ``meta.shards``; nothing of the table is copied."""
        places = range(len(self))

        def shard_of(row: int) -> int:
            return int(self._table[row]["place"]) >> START

        start = bisect.bisect_left(places, number, key=shard_of)
        return range(start, bisect.bisect_left(places, number + 1, lo=start, key=shard_of))

    def caption(self, index: int) -> str:
        """One sample's caption; its picture is not read.

        Raises:
            UserError: its shard cannot be read.
        """
        place, said, _, _ = self._table[index].item()
        shard, (size, caption) = place >> START, divmod(said, 1 << START)
        try:
            with self._files.borrow(shard) as file:
                raw = os.pread(file, size, caption)
        except OSError as error:
            path = self._files.paths[shard]
            raise UserError(
                f"Cannot read the shard {path}: {error.strerror}; mend that and go on."
            ) from error
        return clean_caption(raw, self.meta.reading.max_caption)[0]

    @property
    def digest(self) -> str:
        """Of all samples in their order; see ``IndexMeta``."""
        return self.meta.digest

    @property
    def pictures(self) -> str:
        """Of what the pictures are: shards have one set of captions, so one digest names both."""
        return self.meta.digest

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by name: a worker opens the files again."""
        return functools.partial(Shards, open_files=self._files.limit), (self.folder, self.root)
