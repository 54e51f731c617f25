"""Conversations about pictures in LLaVA's published layout, made into a store of our own, once.

What a record says, and which faults it may have, is in ``llava.py``. Records with a fault are left out,
counted and listed.

``build_mix`` writes ``records.arrow`` and ``pictures.arrow`` (mapped into memory, never loaded),
``images.bin`` (pictures that came inside parquet files), ``lost.jsonl`` (what was left out, and why) and
``meta.json``. Picture files stay where they lie. Pictures come with their stored rows and columns (EXIF
orientation is ignored, as LLaVA does), of animations the first frame, transparency on white (as the
benchmarks' pictures); sixteen bits become eight, and grey, palette and CMYK become RGB.
"""

import bisect
import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError
from tqdm import tqdm

from paribus.data.llava import Fault, Files, find_files, printable, read_file, read_record, source_of
from paribus.errors import UserError
from paribus.files import disk_errors, whole_folder, write_json, write_text
from paribus.progress import progress
from paribus.types import NOTHING, Config, Sample, Turn, Turns

RECORDS, PICTURES, IMAGES, LOST, META = (
    "records.arrow",
    "pictures.arrow",
    "images.bin",
    "lost.jsonl",
    "meta.json",
)

PIXELS = 89_478_485
"""Most pixels of a picture: Pillow's own bound, above which a small file may be a decompression bomb."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
EXAMPLES = 20

_BATCH, _CHARACTERS = 4_096, 1 << 28
"""Most records and characters of an Arrow batch, whose strings may have 2 GiB."""

_SLICE = 64
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)

_TURNS = pa.list_(pa.struct({"ask": pa.string(), "reply": pa.string()}))
_RECORD = {
    "key": pa.string(),
    "source": pa.string(),
    "picture": pa.int32(),
    "characters": pa.int32(),
    "turns": _TURNS,
}
_SPOOLED = pa.schema({**_RECORD, "number": pa.int64(), "said": pa.binary(32)})
_PICTURE = pa.schema({"path": pa.string(), "offset": pa.int64(), "length": pa.int64(), "key": pa.string()})


class ConversationsConfig(Config):
    """A mix of conversations; ``file`` and ``images`` are where it lies, the digest what it is."""

    kind: Literal["llava"] = "llava"
    file: str = Field(
        min_length=1,
        description="LLaVA's .json list, a .jsonl, a .parquet (or a folder of them) with columns "
        "conversations, id and image, or a data set of the hub: OWNER/NAME or OWNER/NAME@REVISION",
    )
    images: str | None = Field(
        None, description="the folder that paths of pictures are relative to; None: the file's own"
    )
    survive: bool = Field(
        True, description="leave out, count and list records with a fault; false: stop at the first"
    )
    thorough: bool = Field(
        True, description="decode and digest every picture; false: look at its header and its size"
    )
    longest: int = Field(100_000, gt=0, description="characters of a conversation; a longer one is a fault")
    samples: int | None = Field(None, gt=0, description="declared; the mix must hold as many")


class Part(Config):
    """What one source gives to a mix."""

    records: int = 0
    pictured: int = 0
    turns: int = 0
    characters: int = 0


class MixMeta(Config):
    """What a mix holds; ``meta.json``.

    ``digest`` is the SHA-256 over each record's key, turns and picture in the records' order. Of a picture it
    takes the SHA-256 of its file if ``thorough``, else its path and size in bytes (pictures from inside a
    parquet file are always digested).
    """

    version: Literal[1] = 1
    digest: str
    samples: int
    pictured: int
    pictures: int = Field(description="different picture files")
    unshown: int = Field(description="records with a picture that no turn names: text alone, as in LLaVA")
    thorough: bool
    parts: dict[str, Part] = Field(description="by source")
    losses: dict[str, dict[str, int]] = Field(description="source -> fault -> records left out")
    examples: dict[str, tuple[str, ...]] = Field(description="fault -> its first records, in words")

    @property
    def lost(self) -> dict[str, int]:
        """Fault -> records left out."""
        found: Counter[str] = Counter()
        for faults in self.losses.values():
            found.update(faults)
        return dict(sorted(found.items()))

    @property
    def lost_by_source(self) -> dict[str, int]:
        """Source -> records left out."""
        return {source: sum(faults.values()) for source, faults in self.losses.items()}


# Pictures.


class _TooLargeError(ValueError):
    """A picture with more pixels than ``PIXELS``."""


def _opened(handle: BinaryIO | io.BytesIO) -> Image.Image:
    Image.init()  # else Pillow knows only the first five formats
    try:
        picture = Image.open(handle, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLargeError(str(error)) from error
    if picture.width * picture.height > PIXELS:
        raise _TooLargeError(f"{picture.width} x {picture.height}")
    return picture


def decode_picture(blob: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """A picture file as RGB.

    Raises:
        ValueError: it cannot be decoded, or has too many pixels.
    """
    with _plainly(), _opened(io.BytesIO(blob)) as picture:
        return _rgb(picture)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """One kind of error for all that Pillow's many readers raise on damaged bytes."""
    try:
        yield
    except _TooLargeError as error:
        raise _TooLargeError(f"more than {PIXELS:,} pixels") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; Pillow's own have no number
        raise ValueError("not a picture, or a damaged one") from error


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if picture.mode == "F":
        raise ValueError("colours are floating-point numbers")
    if picture.mode.startswith("I"):  # Pillow's own conversion clips sixteen bits at 255
        grey = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


class _Place(NamedTuple):
    """Where a picture lies: a path below the folder of pictures, or bytes of ``images.bin`` (no path)."""

    path: str
    offset: int
    length: int


class _Look(NamedTuple):
    """What was found of a picture: its size and key, or its fault and what is wrong with it."""

    length: int = 0
    key: str = ""
    fault: str = ""
    what: str = ""


@dataclass(frozen=True)
class _Pictures:
    """Every picture once, in the order in which records name them."""

    root: Path
    images: Path
    store: BinaryIO
    places: list[_Place] = field(default_factory=list)
    known: dict[str | bytes, int] = field(default_factory=dict)

    def add(self, image: str | bytes | None) -> int:
        """The picture's number; -1 for none. Bytes are stored when they are new."""
        if image is None:
            return -1
        name = image if isinstance(image, str) else hashlib.sha256(image).digest()
        if name not in self.known:
            self.known[name] = len(self.places)
            if isinstance(image, str):
                self.places.append(_Place(image, 0, 0))
            else:
                self.places.append(_Place("", self.store.tell(), len(image)))
                self.store.write(image)
        return self.known[name]

    def look(self, numbers: range, thorough: bool) -> list[_Look]:
        """Check some pictures; runs in threads."""
        return [self._look(self.places[number], thorough) for number in numbers]

    def _look(self, place: _Place, thorough: bool) -> _Look:
        told = place.path or "the picture in it"
        path = self.root / place.path if place.path else self.images
        try:
            with path.open("rb") as handle:
                handle.seek(place.offset)
                # Of a file in the fast way, only its header is read.
                whole = thorough or not place.path
                blob = handle.read(place.length or -1) if whole else b""
                length = len(blob) if whole else handle.seek(0, io.SEEK_END)
                handle.seek(0)
                with _plainly(), _opened(io.BytesIO(blob) if whole else handle) as picture:
                    if thorough:
                        _rgb(picture)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise UserError(
                    f"Cannot read the picture {path} ({error.strerror}): mend that and run again."
                ) from error
            return _Look(
                fault="image missing", what=f"there is no {told} in the folder of pictures{_near(path)}"
            )
        except _TooLargeError as error:
            return _Look(fault="image too large", what=f"{told} has {error}")
        except ValueError as error:
            return _Look(fault="image undecodable", what=f"{told} is {error}")
        return _Look(length, hashlib.sha256(blob).hexdigest() if whole else place.path)


def _near(path: Path) -> str:
    """A hint: OCR-VQA's pictures are named .jpg in the mix, and many copies have them as .gif or .png."""
    try:
        others = [path.with_suffix(suffix) for suffix in (".gif", ".png", ".jpg", ".jpeg", ".webp")]
        found = next((other.name for other in others if other != path and other.is_file()), None)
    except (OSError, ValueError):
        return ""
    return f", but a {found} is there" if found else ""


# Building.


@dataclass(frozen=True)
class _Lost:
    """A record that was left out."""

    record: int
    id: str
    source: str
    fault: str
    field: str
    what: str

    def __str__(self) -> str:
        return f"record {self.record} (id {self.id}), field {self.field!r}: {self.what}"


class _Spool:
    """Records on their way to a file, a batch at a time."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.rows: list[dict[str, Any]] = []
        self.characters = 0

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        self.characters += row["characters"]
        if len(self.rows) == _BATCH or self.characters > _CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            turns = [row["turns"] for row in self.rows]
            plain = {name: [row[name] for row in self.rows] for name in _SPOOLED.names if name != "turns"}
            arrays = [
                _turn_array(turns) if name == "turns" else pa.array(plain[name], _SPOOLED.field(name).type)
                for name in _SPOOLED.names
            ]
            self.writer.write_batch(pa.record_batch(arrays, schema=_SPOOLED))
            self.rows, self.characters = [], 0


def _turn_array(turns: Sequence[Turns]) -> Any:
    """Lists of structs, built column by column, which is several times as fast as from dictionaries."""
    flat = list(itertools.chain.from_iterable(turns))
    texts = [pa.array(column, pa.string()) for column in zip(*flat, strict=True)]
    ends = np.cumsum([0, *map(len, turns)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.StructArray.from_arrays(texts, names=["ask", "reply"]))


@dataclass
class _Build:
    """One conversion: what was found, and what was lost, so far."""

    config: ConversationsConfig
    files: Files
    pictures: _Pictures
    lost: list[_Lost] = field(default_factory=list)
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    unshown: int = 0

    def read(self, spool: _Spool) -> None:
        """Read every record; what has no fault in its text goes to the spool."""
        everything = itertools.chain.from_iterable(map(read_file, self.files.paths))
        bar = progress(everything, label="Reading conversations", total=self.config.samples, unit="record")
        for number, cells in enumerate(bar, start=1):
            known = cells if isinstance(cells, dict) else {}
            key, source = self._key(known, number), printable(source_of(known))
            try:
                talk = read_record(cells, key, self.config.longest)
            except Fault as fault:
                self.lose(_Lost(number, key, source, fault.name, fault.field, fault.what))
                continue
            characters = sum(len(text) for turn in talk.turns for text in turn)
            self.unshown += talk.unshown
            spool.add(
                key=key,
                source=source,
                picture=self.pictures.add(talk.image),
                characters=characters,
                turns=talk.turns,
                number=number,
                said=talk.said,
            )
        spool.flush()
        if not self.seen:
            raise UserError(f"There is no record in {self.config.file}: set file to LLaVA's layout.")

    def _key(self, cells: Mapping[str, object], number: int) -> str:
        """A record's id; one that was there before gets a number, since keys name random draws."""
        given = cells.get("id")
        name = printable(str(given)) if isinstance(given, str | int) and str(given) else f"record-{number}"
        key = name
        while key in self.seen:
            self.seen[name] += 1
            key = f"{name}~{self.seen[name]}"
        self.seen[key] = 1
        return key

    def lose(self, lost: _Lost) -> None:
        """Leave a record out.

        Raises:
            UserError: the mix need not survive.
        """
        if not self.config.survive:
            raise UserError(
                f"{self.config.file}, {lost}; mend the record, or set survive: true to train without it."
            )
        self.lost.append(lost)

    def look(self, workers: int) -> list[_Look]:
        """Check every picture in threads; where nothing need survive, up to the first with a fault."""
        total, looks = len(self.pictures.places), list[_Look]()
        slices = [range(start, min(start + _SLICE, total)) for start in range(0, total, _SLICE)]
        bar: tqdm[None] = progress(label="Looking at pictures", total=total, unit="picture")
        with bar, ThreadPoolExecutor(max(1, workers)) as pool:
            waiting = [pool.submit(self.pictures.look, some, self.config.thorough) for some in slices]
            try:
                for future in waiting:
                    looks += future.result()
                    bar.update(len(looks) - bar.n)
                    if not self.config.survive and any(look.fault for look in looks[-_SLICE:]):
                        break  # ``keep`` says whose it is
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return looks + [_Look()] * (total - len(looks))

    def check_home(self, looks: Sequence[_Look]) -> None:
        """See that it is not the folder that is wrong.

        Raises:
            UserError: no picture is there at all.
        """
        if self.config.survive and looks and all(look.fault == "image missing" for look in looks):
            raise UserError(
                f"None of the {len(looks):,} pictures that {self.config.file} names is in "
                f"{self.pictures.root}: set images to the folder that paths such as "
                f"{self.pictures.places[0].path} are relative to."
            )

    def keep(self, spooled: Any, writer: Any, looks: Sequence[_Look]) -> str:
        """Write the records whose pictures are good, and count them; the digest of all of them."""
        digest = hashlib.sha256(b"bytes" if self.config.thorough else b"sizes")
        good = np.array([not look.fault for look in looks] + [True])  # the last one, -1, is no picture
        places = np.append(np.cumsum(good[:-1]) - 1, -1)
        for at in range(spooled.num_record_batches):
            batch = spooled.get_batch(at)
            kept = good[batch.column("picture").to_numpy()]
            for row in np.flatnonzero(~kept).tolist():
                self._lose_picture(batch.slice(row, 1).to_pylist()[0], looks)
            batch = batch.filter(pa.array(kept))
            pictures = batch.column("picture").to_numpy()
            self._count(batch, pictures)
            for said, picture in zip(batch.column("said").to_pylist(), pictures.tolist(), strict=True):
                digest.update(said + self._identity(picture, looks))
            columns = {name: batch.column(name) for name in _RECORD}
            columns["picture"] = pa.array(places[pictures], pa.int32())
            writer.write_batch(pa.record_batch(list(columns.values()), schema=pa.schema(_RECORD)))
        return digest.hexdigest()

    def _identity(self, picture: int, looks: Sequence[_Look]) -> bytes:
        """What of a picture enters the digest, always as long."""
        if picture < 0:
            return bytes(32)
        key, length = looks[picture].key, looks[picture].length
        return hashlib.sha256(key.encode() if self.config.thorough else f"{length} {key}".encode()).digest()

    def _lose_picture(self, row: dict[str, Any], looks: Sequence[_Look]) -> None:
        look = looks[row["picture"]]
        self.lose(_Lost(row["number"], row["key"], row["source"], look.fault, "image", look.what))

    def _count(self, batch: Any, pictures: Int[np.ndarray, " R"]) -> None:
        columns = (
            batch.column("source").to_pylist(),
            (pictures >= 0).tolist(),
            pc.list_value_length(batch.column("turns")).to_pylist(),
            batch.column("characters").to_pylist(),
        )
        for source, pictured, turns, characters in zip(*columns, strict=True):
            part = self.parts.setdefault(source, Counter())
            part.update(records=1, pictured=pictured, turns=turns, characters=characters)

    def meta(self, digest: str, pictures: int) -> MixMeta:
        """What the mix holds, now that all is written."""
        self.lost.sort(key=lambda lost: lost.record)
        losses: dict[str, Counter[str]] = {}
        examples: dict[str, list[str]] = {}
        for lost in self.lost:
            losses.setdefault(lost.source, Counter())[lost.fault] += 1
            shown = examples.setdefault(lost.fault, [])
            if len(shown) < EXAMPLES:
                shown.append(str(lost))
        total: Counter[str] = sum(self.parts.values(), Counter())
        return MixMeta(
            digest=digest,
            samples=total["records"],
            pictured=total["pictured"],
            pictures=pictures,
            unshown=self.unshown,
            thorough=self.config.thorough,
            parts={source: Part(**part) for source, part in sorted(self.parts.items())},
            losses={source: dict(sorted(found.items())) for source, found in sorted(losses.items())},
            examples={fault: tuple(shown) for fault, shown in sorted(examples.items())},
        )


def build_mix(config: ConversationsConfig, folder: Path, workers: int) -> MixMeta:
    """Make a mix of conversations into our own store; the same bytes whatever the workers.

    Args:
        config: where the records and their pictures lie.
        folder: gets the store, whole or not at all; a mix that is in it is replaced.
        workers: threads that check pictures; Pillow's decoders release the interpreter lock.

    Raises:
        UserError: the records cannot be read, all are lost, none of the pictures is there, one has a fault
            and the mix need not survive, ``folder`` holds other files, or there are not as many records as
            ``config.samples`` declares (the mix is left in place then).
    """
    with disk_errors(folder):
        strange = folder.exists() and any(folder.iterdir()) and not (folder / META).exists()
    if strange:
        raise UserError(f"The folder {folder} holds other files: choose an empty or new folder.")
    files = find_files(config.file)
    root = Path(config.images).expanduser() if config.images else files.home
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: set images to the folder that pictures lie in.")
    with whole_folder(folder) as temporary:
        meta = _build(config, files, root, temporary, workers)
    if config.samples not in (None, meta.samples):
        raise UserError(
            f"samples: {config.samples} are declared, {config.file} gives {meta.samples} "
            f"({_told(meta)}; see {folder / LOST}): declare {meta.samples}, or mend what was lost."
        )
    return meta


def _told(meta: MixMeta) -> str:
    told = ", ".join(f"{fault}: {count}" for fault, count in meta.lost.items())
    return f"left out: {told or 'none'}"


def _build(config: ConversationsConfig, files: Files, root: Path, folder: Path, workers: int) -> MixMeta:
    spooled = folder / "spool.arrow"
    with (folder / IMAGES).open("wb") as store:
        build = _Build(config, files, _Pictures(root, folder / IMAGES, store))
        with pa.ipc.new_file(spooled, _SPOOLED) as writer:
            build.read(_Spool(writer))
    looks = build.look(workers)
    build.check_home(looks)
    with (
        pa.memory_map(str(spooled)) as mapped,
        pa.ipc.open_file(mapped) as reader,
        pa.ipc.new_file(folder / RECORDS, pa.schema(_RECORD)) as writer,
    ):
        digest = build.keep(reader, writer, looks)
    spooled.unlink()
    meta = build.meta(digest, _write_pictures(build.pictures.places, looks, folder / PICTURES))
    if not meta.samples:
        first = f"; the first is {build.lost[0]}" if build.lost else ""
        raise UserError(f"No record of {config.file} can be trained on ({_told(meta)}){first}.")
    lines = [json.dumps(vars(lost), ensure_ascii=False) + "\n" for lost in build.lost]
    write_text(folder / LOST, "".join(lines))
    write_json(folder / META, meta.model_dump(mode="json"))
    return meta


def _write_pictures(places: Sequence[_Place], looks: Sequence[_Look], path: Path) -> int:
    """Write where the good pictures lie; how many there are."""
    rows = [
        (place.path, place.offset, look.length, look.key)
        for place, look in zip(places, looks, strict=True)
        if not look.fault
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_PICTURE)
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, _PICTURE.types, strict=True)]
    with pa.ipc.new_file(path, _PICTURE) as writer:
        writer.write_table(pa.table(arrays, schema=_PICTURE), max_chunksize=_BATCH)
    return len(rows)


# Reading.


def _again(folder: Path) -> str:
    return f"delete {folder} and run again to make the mix anew"


def read_meta(folder: Path) -> MixMeta:
    """What a mix says of itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / META
    try:
        return MixMeta.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}: run again to make the mix of conversations.") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"The file {path} is damaged: {_again(folder)}.") from error


class _Table:
    """An Arrow file mapped into memory: any row at any time, nothing of it loaded."""

    def __init__(self, folder: Path, name: str, schema: Any, rows: int) -> None:
        path = folder / name
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches = [reader.get_batch(at) for at in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"The file {path} is missing or damaged: {_again(folder)}.") from error
        self.starts = [0, *itertools.accumulate(len(batch) for batch in self.batches)]
        if self.starts[-1] != rows or reader.schema != schema:
            raise UserError(f"The file {path} is damaged: {_again(folder)}.")
        self.columns = [batch.columns for batch in self.batches]

    def row(self, index: int, *columns: int) -> list[Any]:
        """Some cells of a row."""
        if not 0 <= index < self.starts[-1]:
            raise IndexError(index)
        at = bisect.bisect_right(self.starts, index) - 1
        return [self.columns[at][column][index - self.starts[at]].as_py() for column in columns]

    def whole(self, column: int, dtype: type[np.generic]) -> NDArray[Any]:
        """A column of numbers."""
        parts = [columns[column].to_numpy() for columns in self.columns]
        return np.concatenate([np.empty(0, dtype), *parts])

    def said(self, column: int) -> bool:
        """Whether a column of texts has any that is not empty."""
        return any(pc.any(pc.not_equal(columns[column], "")).as_py() for columns in self.columns)

    def words(self, column: int) -> Shaped[np.ndarray, " N"]:
        """A column of words of which there are few."""
        encoded = pa.chunked_array([columns[column] for columns in self.columns], pa.string())
        table = encoded.combine_chunks().dictionary_encode()
        words = np.array(table.dictionary.to_pylist() or [""])
        found: Shaped[np.ndarray, " N"] = words[table.indices.to_numpy()]
        return found


class Conversations:
    """A mix as a source: any conversation at any time, from any number of threads.

    Args:
        folder: where ``build_mix`` put it.
        images: the folder of the pictures, wherever it lies now; not needed where they are inside the mix.

    Raises:
        UserError: the mix is missing or damaged, or there is no such folder.
    """

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        self.folder, self.images = Path(folder), images
        self.meta = read_meta(self.folder)
        self._records = _Table(self.folder, RECORDS, pa.schema(_RECORD), self.meta.samples)
        self._pictures = _Table(self.folder, PICTURES, _PICTURE, self.meta.pictures)
        if images is not None and not images.is_dir() and self._pictures.said(0):
            raise UserError(f"There is no folder {images}: set images to the folder that pictures lie in.")
        self._inside = self._map()

    def _map(self) -> NDArray[np.uint8]:
        path = self.folder / IMAGES
        try:
            return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        except OSError as error:
            raise UserError(f"The file {path} is missing or damaged: {_again(self.folder)}.") from error

    def __len__(self) -> int:
        return self.meta.samples

    def __getitem__(self, index: int, /) -> Sample:
        """One conversation, with its picture.

        Raises:
            UserError: its picture cannot be read or decoded, or is another one now.
        """
        key, source, picture, turns = self._records.row(index, 0, 1, 2, 4)
        return _sample(key, source, turns, NOTHING if picture < 0 else self._decoded(picture, key))

    def said(self, index: int) -> Sample:
        """One conversation; its picture is ``NOTHING`` and is not read."""
        key, source, turns = self._records.row(index, 0, 1, 4)
        return _sample(key, source, turns, NOTHING)

    def picture_key(self, index: int) -> str:
        """A name that equal pictures share; empty for text alone.

        It is the SHA-256 of the picture's file, or its path where pictures were not read (``thorough``).
        """
        (picture,) = self._records.row(index, 2)
        return "" if picture < 0 else str(self._pictures.row(picture, 3)[0])

    def _decoded(self, picture: int, key: str) -> UInt8[np.ndarray, "H W 3"]:
        path, offset, length = self._pictures.row(picture, 0, 1, 2)
        where = self._where(path)
        try:
            blob = where.read_bytes() if path else self._inside[offset : offset + length].tobytes()
        except OSError as error:
            raise UserError(
                f"The picture {where} of the record {key} cannot be read ({error.strerror}): bring it back, "
                f"or {_again(self.folder)}."
            ) from error
        if len(blob) != length:
            raise UserError(
                f"The picture {where} of the record {key} has {len(blob):,} bytes and had {length:,}: bring "
                f"the old one back, or {_again(self.folder)}."
            )
        try:
            return decode_picture(blob)
        except ValueError as error:
            raise UserError(
                f"The picture {where} of the record {key} is {error}: {_again(self.folder)} with "
                "thorough: true, which leaves such records out."
            ) from error

    def _where(self, path: str) -> Path:
        if not path:
            return self.folder / IMAGES
        if self.images is None:
            raise UserError(f"The mix {self.folder} has its pictures in files: set images to their folder.")
        return self.images / path

    @functools.cached_property
    def pictured(self) -> Bool[np.ndarray, " N"]:
        """Which conversations are about a picture."""
        shown: Bool[np.ndarray, " N"] = self._records.whole(2, np.int32) >= 0
        return shown

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Characters of each conversation."""
        return self._records.whole(3, np.int32)

    @functools.cached_property
    def sources(self) -> Shaped[np.ndarray, " N"]:
        """Where each conversation is from."""
        return self._records.words(1)

    @property
    def digest(self) -> str:
        """Of all conversations in their order; see ``MixMeta``."""
        return self.meta.digest

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by name: a worker maps the files again."""
        return Conversations, (self.folder, self.images)


def _sample(key: str, source: str, turns: list[dict[str, str]], image: UInt8[np.ndarray, "H W 3"]) -> Sample:
    told = tuple(Turn(turn["ask"], turn["reply"]) for turn in turns)
    return Sample(key, image, told[0].reply, {"source": source}, told)
