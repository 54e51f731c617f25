"""Features of one's own shards through any encoder: a file for each shard, and one table when all are there.

A batch holds samples of one shard, in their order, so what is in a shard's file depends on the shard, the
encoder and the batch, and not on who makes it: the work may be cut over jobs and processes in any way, be
killed and be begun again, and the table is the same to the last byte on machines of one kind. Between kinds
it differs by rounding; the table says what it was made on.

In the folder: ``manifest.json``, what the features are of; ``shards/NAME.safetensors``, written whole, of
each shard that is done; and in the end, in their place, ``features.npy`` [N D], which can be mapped into
memory, ``samples.parquet`` (key and shard of each row), ``looks.safetensors`` if they are wanted (what tells
near-duplicates and placeholders), and, last, ``table.json``.
"""

import hashlib
import io
import json
import logging
import os
import platform
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from paribus.analysis.looks import Looks, look_at
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.data.tars import find_shards
from paribus.data.uids import read_uids
from paribus.encoders.eye import Eye, EyeAbout
from paribus.encoders.folders import read_files
from paribus.errors import UserError
from paribus.files import disk_errors, make_folder, whole_file, write_json
from paribus.progress import progress
from paribus.study.evaluate import Histogram
from paribus.study.seeing import AnyLooker, Found, anywhere, files_digest, weights_of
from paribus.study.stage import locked
from paribus.study.stages import PublishedEncoder
from paribus.train.places import own_part
from paribus.types import Config, Runtime, Share

logger = logging.getLogger(__name__)

MANIFEST, TABLE, FEATURES, SAMPLES = "manifest.json", "table.json", "features.npy", "samples.parquet"
LOOKS = "looks.safetensors"
_PARTS = "shards"

Kept = Literal["fp16", "fp32"]
DTYPES: dict[Kept, Any] = {"fp16": np.float16, "fp32": np.float32}


class Setting(Config):
    """All that decides the features."""

    version: Literal[1] = 1
    encoder: str = Field(description="digest of its files")
    samples: str = Field(description="digest of the samples; see IndexMeta")
    shards: str = Field(description="digest of how many samples each shard has, by its name")
    precision: Literal["bf16", "fp32"]
    batch: int = Field(gt=0, description="pictures at once: matrix products may round by it")
    kept: Kept = Field(description="what the features are written in")
    looks: bool = Field(description="whether looks are kept too")

    @property
    def digest(self) -> str:
        """SHA-256 of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


WORDS = {
    "version": "an older or newer Paribus",
    "encoder": "another encoder",
    "samples": "other samples",
    "shards": "other shards",
    "precision": "another --precision",
    "batch": "another --batch",
    "kept": "another --store",
    "looks": "another choice of --looks",
}
"""What differs, in words, if a field of ``Setting`` does."""


class Manifest(Config):
    """What a folder's features are of: ``manifest.json``."""

    setting: Setting
    encoder: EyeAbout


class TableAbout(Manifest):
    """A finished table: ``table.json``."""

    samples: int
    width: int
    features: str = Field(description="SHA-256 of the file")
    keys: str = Field(description="SHA-256 of the parquet")
    made: tuple[str, ...] = Field(description="on which kinds of machine")


class Table(NamedTuple):
    """Features in the order of the samples, mapped into memory, and what they are."""

    features: Float[np.ndarray, "N D"]
    about: TableAbout
    folder: Path

    def keys(self) -> list[str]:
        """Names of the samples: shard's stem/key in the tar."""
        found: list[str] = pq.read_table(self.folder / SAMPLES, columns=["key"])["key"].to_pylist()
        return found

    def looks(self) -> Looks | None:
        """What tells near-duplicates and placeholders, if it was kept."""
        return Looks(**load_file(self.folder / LOOKS)) if self.about.setting.looks else None


def open_table(folder: Path) -> Table:
    """A finished table.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        about = TableAbout.model_validate_json((folder / TABLE).read_text("utf-8"))
        features = np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no finished table of features: run paribus embed to its end."
        ) from error
    except (OSError, ValueError, EOFError, ValidationError) as error:
        raise UserError(f"The table in {folder} is damaged: delete {folder} and make it anew.") from error
    if features.shape != (about.samples, about.width) or features.dtype != DTYPES[about.setting.kept]:
        raise UserError(f"{folder / FEATURES} is damaged: delete {folder} and make it anew.")
    return Table(features, about, folder)


def indexed(root: Path, index: Path, keep: Path | None, workers: int) -> Shards:
    """Shards by their index, which is built if there is none; several processes wait for the one that does.

    Raises:
        UserError: the index is of other tars or of another list, or cannot be built.
    """
    if not (index / "meta.json").is_file():
        find_shards(root.expanduser())  # or a folder would be made where there is none
        config = ShardsConfig(root=str(root), keep=None if keep is None else str(keep))
        make_folder(index)
        with disk_errors(index), locked(index, "the index"):
            build_index(config, index, workers)
    source = Shards(index, root)
    if keep is None and source.meta.kept:
        logger.warning("the index %s holds the samples of a list only: those are looked at", index)
    if keep is not None and read_uids(keep.expanduser()).digest != source.meta.kept:
        raise UserError(
            f"The index {index} was not made with the list {keep}: give a folder of its own with --index."
        )
    return source


def encoder_digest(encoder: AnyLooker, runtime: Runtime) -> str:
    """SHA-256 of an encoder's files as they are now; of one without files, of its config."""
    if isinstance(encoder, Histogram):
        return hashlib.sha256(json.dumps(encoder.identity(), sort_keys=True).encode()).hexdigest()
    if isinstance(encoder, Found | PublishedEncoder):
        return files_digest(read_files(weights_of(encoder)))
    return files_digest(read_files(encoder.folder(runtime)))


def part_of(given: str | None) -> Share:
    """Which part is this process's; see ``own_part``."""
    return own_part(given, os.environ)


class _Block(NamedTuple):
    """Samples of one shard that are looked at together."""

    shard: int
    rows: range
    last: bool


class _Read(NamedTuple):
    block: _Block
    keys: list[str]
    pixels: Float[Tensor, "B 3 S S"]
    looks: Looks | None


@dataclass(frozen=True)
class Embedding:
    """An encoder, indexed shards, and the folder that takes the features.

    Args:
        out: the folder.
        source: the shards.
        eye: the encoder.
        digest: of the encoder.
        runtime: device, and threads that read.
    """

    out: Path
    source: Shards
    eye: Eye
    digest: str
    runtime: Runtime
    precision: Literal["bf16", "fp32"] = "bf16"
    batch: int = 128
    kept: Kept = "fp16"
    looks: bool = False

    @cached_property
    def manifest(self) -> Manifest:
        """What the features will be of."""
        named = json.dumps([[shard.name, len(self.rows[at])] for at, shard in enumerate(self._shards)])
        setting = Setting(
            encoder=self.digest,
            samples=self.source.digest,
            shards=hashlib.sha256(named.encode()).hexdigest(),
            precision=self.precision,
            batch=self.batch,
            kept=self.kept,
            looks=self.looks,
        )
        return Manifest(setting=setting, encoder=anywhere(self.eye.about))

    @property
    def _shards(self) -> Sequence[Any]:
        return self.source.meta.shards

    @cached_property
    def rows(self) -> dict[int, range]:
        """Number of a shard -> which samples it has."""
        return {number: self.source.of_shard(number) for number in range(len(self._shards))}

    @cached_property
    def whole(self) -> list[int]:
        """The shards that have samples, in their order."""
        return [number for number, rows in self.rows.items() if rows]

    def begin(self) -> None:
        """Claim the folder for these features.

        Raises:
            UserError: it has others in it.
        """
        make_folder(self.out)
        path = self.out / MANIFEST
        with disk_errors(path), locked(self.out, "the manifest"):
            if not path.exists():
                write_json(path, self.manifest.model_dump(mode="json"))
        try:
            found = Manifest.model_validate_json(path.read_text("utf-8")).setting
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: delete {self.out} and make it anew.") from error
        for name in Setting.model_fields:
            if getattr(found, name) != getattr(self.manifest.setting, name):
                raise UserError(
                    f"The features in {self.out} were begun with {WORDS[name]}: give another folder with "
                    "--out, or delete this one."
                )

    def left(self, numbers: Iterable[int]) -> list[int]:
        """Which of these shards are not done yet."""
        found = [] if self._finished() else [number for number in numbers if self._made(number) is None]
        return [] if self._finished() else found  # its parts go when the table is there

    def run(self, part: Share) -> None:
        """Make the files of a part's shards that are not there yet.

        Raises:
            UserError: a shard cannot be read, or the encoder sees what is not finite.
        """
        own = self.whole[part.rank :: part.size]
        todo = self.left(own)
        total, missing = (sum(len(self.rows[number]) for number in some) for some in (own, todo))
        label = "features" if part.size == 1 else f"features, part {part.rank} of {part.size}"
        bar: tqdm[None] = progress(label=label, total=total, initial=total - missing, unit="picture")
        keys, seen, looks = list[str](), list[Tensor](), list[Looks]()
        with bar:
            for read in self._reads(self._blocks(todo)):
                keys += read.keys
                seen.append(self._see(read.pixels))
                looks += [] if read.looks is None else [read.looks]
                bar.update(len(read.keys))
                if read.block.last:
                    self._write(read.block.shard, keys, torch.cat(seen), looks)
                    keys, seen, looks = [], [], []

    def _blocks(self, numbers: Iterable[int]) -> Iterator[_Block]:
        for number in numbers:
            rows = self.rows[number]
            for at in range(0, len(rows), self.batch):
                yield _Block(number, rows[at : at + self.batch], at + self.batch >= len(rows))

    def _reads(self, blocks: Iterable[_Block]) -> Iterator[_Read]:
        """Prepared pictures in order, some blocks ahead, also over the borders of shards."""
        waiting: deque[Future[_Read]] = deque()
        with ThreadPoolExecutor(self.runtime.workers) as pool:
            try:
                for block in blocks:
                    waiting.append(pool.submit(self._read, block))
                    if len(waiting) > 2 * self.runtime.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _read(self, block: _Block) -> _Read:
        samples = [self.source[row] for row in block.rows]
        images = [one.image for one in samples]
        looks = look_at(images) if self.looks else None
        return _Read(block, [one.key for one in samples], self.eye.prepare(images), looks)

    def _see(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        device = self.runtime.torch_device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.eye.look(pixels.to(device), layers=False).vector.float().cpu()

    def _write(
        self, number: int, keys: list[str], seen: Float[Tensor, "n D"], looks: Sequence[Looks] = ()
    ) -> None:
        """A shard's file, whole or not at all; whoever else writes it writes the same."""
        with np.errstate(over="ignore"):
            features = seen.numpy().astype(DTYPES[self.kept])
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(wrong):
            first = int(wrong[0])
            raise UserError(
                f"{keys[first]} has features beyond fp16: use --store fp32."
                if bool(seen[first].isfinite().all())
                else f"What the encoder sees in {keys[first]} is not finite: its weights are damaged, or the "
                "precision is too low."
            )
        told = {"setting": self.manifest.setting.digest, "made": machine(self.runtime.torch_device)}
        arrays = {"features": features, "keys": np.frombuffer(json.dumps(keys).encode(), np.uint8)}
        if looks:
            arrays |= joined(looks)._asdict()
        with whole_file(self._part(number)) as temporary:
            save_file(arrays, temporary, {"about": json.dumps(told)})  # one entry: their order is chance

    def _part(self, number: int) -> Path:
        return self.out / _PARTS / f"{self._shards[number].name}.safetensors"

    def _made(self, number: int) -> str | None:
        """On what a shard's file was made; None if it is not there, is cut off, or is of other features."""
        try:
            with safe_open(self._part(number), framework="np") as stored:
                about = json.loads(stored.metadata()["about"])
                rows = stored.get_slice("features").get_shape()[0]
            fits = about["setting"] == self.manifest.setting.digest and rows == len(self.rows[number])
            return str(about["made"]) if fits else None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def _read_part(self, number: int, *names: str) -> list[np.ndarray]:
        with safe_open(self._part(number), framework="np") as stored:
            return [stored.get_tensor(name) for name in names]

    def _finished(self) -> bool:
        return (self.out / TABLE).exists()

    def join(self) -> Table | int:
        """The table, put together if it is not yet and all shards are done; else how many are left.

        Raises:
            UserError: the disk is full, or the table is damaged.
        """
        with disk_errors(self.out), locked(self.out, "the table"):
            left = len(self.left(self.whole))
            if left:
                return left
            if not self._finished():
                self._join()
            shutil.rmtree(self.out / _PARTS, ignore_errors=True)
        return open_table(self.out)

    def _join(self) -> None:
        made = sorted({str(self._made(number)) for number in self.whole})
        width = int(self._read_part(self.whole[0], "features")[0].shape[1])
        if self.looks:
            looks = joined([Looks(*self._read_part(number, *Looks._fields)) for number in self.whole])
            with whole_file(self.out / LOOKS) as temporary:
                save_file(looks._asdict(), temporary)
        about = TableAbout(
            **dict(self.manifest),
            samples=len(self.source),
            width=width,
            features=self._write_features(width),
            keys=self._write_keys(),
            made=tuple(made),
        )
        write_json(self.out / TABLE, about.model_dump(mode="json"))

    def _write_features(self, width: int) -> str:
        """One shard after the other, as one array; returns the file's digest."""
        dtype = np.dtype(DTYPES[self.kept])
        header = io.BytesIO()
        told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(header, told | {"shape": (len(self.source), width)})
        digest = hashlib.sha256(header.getvalue())
        with whole_file(self.out / FEATURES) as temporary, temporary.open("wb") as handle:
            handle.write(header.getvalue())
            for number in progress(self.whole, label="joining", unit="shard"):
                blob = self._read_part(number, "features")[0].tobytes()
                digest.update(blob)
                handle.write(blob)
        return digest.hexdigest()

    def _write_keys(self) -> str:
        """Key and shard of each row; returns the file's digest."""
        schema = pa.schema([("key", pa.string()), ("shard", pa.string())])
        with whole_file(self.out / SAMPLES) as temporary:
            with pq.ParquetWriter(temporary, schema) as writer:
                for number in self.whole:
                    keys = json.loads(self._read_part(number, "keys")[0].tobytes())
                    names = [self._shards[number].name] * len(keys)
                    writer.write_table(pa.table({"key": keys, "shard": names}, schema=schema))
            with temporary.open("rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()


def joined(looks: Sequence[Looks]) -> Looks:
    """Looks one after the other."""
    return Looks(*(np.concatenate(column) for column in zip(*looks, strict=True)))


def machine(device: torch.device) -> str:
    """What rounding depends on: the kind of processor, and torch."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{kind}, torch {torch.__version__.partition('+')[0]}"
