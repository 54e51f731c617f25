"""The stages of a labelled dataset: what is in it, and what an encoder sees in each of its pictures."""

import functools
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64, UInt8
from pydantic import Field
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from paribus.datasets import READERS, Dataset, Part, Settings, SplitName, open_dataset
from paribus.encoders.eye import Eye, EyeAbout, Sight
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.progress import progress
from paribus.study.seeing import AnyLooker, anywhere, check_vectors, eye_of, gathered, prepared_blocks, sights
from paribus.study.stage import CHECKPOINTS, Stage
from paribus.types import Config, Runtime

SHARD = 4096
"""Pictures after which what was seen is kept, so that an interrupted run goes on from there."""


class DatasetConfig(Config):
    """Which dataset, and how it is read."""

    at: str = Field(description="KIND:PATH, or a path that its files tell the kind of")
    check: bool = Field(True, description="refuse counts that are not the publisher's")
    file: str | None = Field(None, description="the table's column of pictures")
    label: str | None = Field(None, description="the table's column of labels")
    split: str | None = Field(None, description="the table's column that says train, val or test")
    images: str | None = Field(None, description="the folder that a table's paths are relative to")

    def open(self) -> Dataset:
        """The dataset, listed now.

        Raises:
            UserError: there is none, or it is not what it should be.
        """
        return open_dataset(self.at, self.settings())

    def place(self) -> Path:
        """Where it lies."""
        kind, colon, rest = self.at.partition(":")
        return Path(rest if colon and kind in READERS else self.at).expanduser()

    def settings(self) -> Settings:
        """How it is read."""
        images = None if self.images is None else Path(self.images).expanduser()
        return Settings(self.check, self.file, self.label, self.split, images)


class Photographs(DatasetConfig):
    """A dataset that a study reads its encoders on, and sets that it is shifted to."""

    shifted: tuple[DatasetConfig, ...] = ()
    templates: tuple[str, ...] = Field(
        (), description="how a class is worded for zero-shot, {} is its name; or plain, or seven"
    )
    names: tuple[str, ...] = Field((), description="what classes are called in words, in order")

    def all(self) -> tuple[DatasetConfig, ...]:
        """The dataset, then its shifts."""
        own = DatasetConfig(**{name: getattr(self, name) for name in DatasetConfig.model_fields})
        return (own, *self.shifted)

    @property
    def captioned(self) -> bool:
        """Whether captions are told of its pictures, in place of classes."""
        return self.at.startswith("captions:")


class LabelledRecord(Config):
    """What is in a dataset."""

    name: str
    classes: list[str]
    counts: dict[str, int]
    official: bool = Field(description="whether the split is the publisher's")
    indexed: bool = Field(description="whether class i is the i-th class of the dataset that it shifts")
    own: bool = Field(description="whether a person arranged it")
    notes: list[str]


class Labelled(Stage[LabelledRecord]):
    """A dataset in a folder; it stays where it lies, and a change of any file is another stage."""

    name: ClassVar[str] = "labelled"
    version: int = 1
    config: DatasetConfig
    listing: str = Field(description="digest of names, sizes and times")

    def check(self, runtime: Runtime) -> None:
        """See that it can be listed."""
        del runtime
        self.config.open()

    def compute(self, folder: Path, runtime: Runtime) -> LabelledRecord:
        """List and check it; no picture is decoded."""
        del folder, runtime
        found = self.config.open()
        return LabelledRecord(
            name=found.name,
            classes=list(found.classes),
            counts={name: len(part) for name, part in found.parts.items()},
            official=found.official,
            indexed=found.indexed,
            own=found.own,
            notes=list(found.notes),
        )


@functools.lru_cache
def labelled_of(config: DatasetConfig) -> Labelled:
    """The stage of a dataset as it is now; of a study, as it was when it was first asked for.

    Where nothing lies yet it can be planned with, and ``check`` says that it is missing.

    Raises:
        UserError: what lies there is not what it should be.
    """
    if not config.place().exists():
        return Labelled(config=config, listing="")
    whole, found = sha256(), config.open()
    for path in found.files():
        stat, name = path.stat(), os.path.relpath(path, found.root)
        whole.update(os.fsencode(f"{name} {stat.st_size} {stat.st_mtime_ns}\n"))
    return Labelled(config=config, listing=whole.hexdigest())


class LookRecord(Config):
    """What looked, at how many pictures."""

    about: EyeAbout
    pictures: dict[str, int]
    readings: list[str]
    notes: list[str]


class Looked(NamedTuple):
    """One part as an encoder sees it."""

    readings: dict[str, Float32[np.ndarray, "N _"]]
    """Class token, mean of patches, both, and the class token of the layer before."""
    labels: Int64[np.ndarray, " N"]
    keys: list[str]
    pixels: list[str]
    """A digest of each picture."""


CLASS, PATCHES, BOTH, BEFORE = "class token", "mean patch", "both", "layer before the last"


class Look(Stage[LookRecord]):
    """Every picture of a dataset through one frozen encoder; done once, read by all probes."""

    name: ClassVar[str] = "look"
    version: int = 1
    encoder: AnyLooker
    dataset: Labelled
    precision: Literal["bf16", "fp32"]

    def compute(self, folder: Path, runtime: Runtime) -> LookRecord:
        """Write ``PART.safetensors`` and ``PART.parquet``.

        Raises:
            UserError: a picture cannot be decoded, what is seen is not finite or all the same, or test
                pictures are among those to learn from.
        """
        dataset = self.dataset.config.open()
        eye = eye_of(self.encoder, runtime).to(runtime.torch_device)
        digests: dict[SplitName, list[str]] = {}
        readings: list[str] = []
        for name, part in dataset.parts.items():
            seen, digests[name] = self._seen(name, part, eye, folder / CHECKPOINTS, runtime)
            check_vectors(seen[CLASS], eye.about.model, part.keys)
            readings = list(seen)
            with whole_file(folder / f"{name}.safetensors") as path:
                save_file({**seen, "labels": part.labels}, path)
            with whole_file(folder / f"{name}.parquet") as path:
                pq.write_table(pa.table({"key": list(part.keys), "pixels": digests[name]}), path)
        return LookRecord(
            about=anywhere(eye.about),
            pictures={name: len(part) for name, part in dataset.parts.items()},
            readings=readings,
            notes=_leaks(dataset, digests),
        )

    def _seen(
        self, name: str, part: Part, eye: Eye, place: Path, runtime: Runtime
    ) -> tuple[dict[str, Float32[np.ndarray, "N _"]], list[str]]:
        """All pictures of a part, shard by shard; shards that are there already are read."""
        found: list[dict[str, np.ndarray]] = []
        bar: tqdm[Any] = progress(label=f"looking at {name}", total=len(part), unit="picture")
        with bar:
            for start in range(0, len(part), SHARD):
                path = place / f"{name}-{start:09d}.safetensors"
                rows = np.arange(start, min(start + SHARD, len(part)))
                if path.is_file():
                    bar.update(len(rows))
                else:
                    with whole_file(path) as temporary:
                        save_file(self._shard(part, rows, eye, bar, runtime), temporary)
                found.append(load_file(path))
        joined = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
        digests = [row.tobytes().hex() for row in joined.pop("pixels")]
        return joined, digests

    def _shard(
        self, part: Part, rows: Int64[np.ndarray, " R"], eye: Eye, bar: "tqdm[Any]", runtime: Runtime
    ) -> dict[str, np.ndarray]:
        digests: dict[int, bytes] = {}

        def read(row: int) -> UInt8[np.ndarray, "_ _ 3"]:
            image = part.read(row)
            digests[row] = sha256(f"{image.shape}".encode() + image.tobytes()).digest()[:16]
            return image

        blocks = prepared_blocks(read, rows, eye, runtime.workers)
        half, device = self.precision == "bf16", runtime.torch_device
        looking = sights(eye, blocks, bar, half=half, device=device, layers=True, patches=True)
        seen = gathered(_pooled(looking))
        out = {CLASS: seen.vectors}
        if seen.patches is not None:
            out[PATCHES] = seen.patches[:, 0]
        if len(seen.layers) > 1:
            out[BEFORE] = seen.layers[-2]
        out["pixels"] = np.stack([np.frombuffer(digests[int(row)], np.uint8) for row in rows])
        return {key: np.ascontiguousarray(value) for key, value in out.items()}

    def open(self, name: SplitName, runtime: Runtime) -> Looked | None:
        """One part; None if the dataset does not have it."""
        path = self.folder(runtime) / f"{name}.safetensors"
        if not path.is_file():
            return None
        stored = load_file(path)
        labels = stored.pop("labels")
        if PATCHES in stored:
            stored[BOTH] = np.concatenate([stored[CLASS], stored[PATCHES]], axis=1)
        table = pq.read_table(path.with_suffix(".parquet"))
        return Looked(stored, labels, table["key"].to_pylist(), table["pixels"].to_pylist())

    def disk(self) -> float:
        """Not known before the dataset is listed."""
        return 0.0


def _pooled(found: Iterator[Sight]) -> Iterator[Sight]:
    """Patches as their mean alone."""
    for sight in found:
        mean = None if sight.patches is None else sight.patches.mean(dim=1, keepdim=True)
        yield sight._replace(patches=mean)


def _leaks(dataset: Dataset, digests: dict[SplitName, list[str]]) -> list[str]:
    """What is said of test pictures that are also learnt from: pixel for pixel the same.

    Raises:
        UserError: the split is a person's own, and can be mended.
    """
    learnt = {digest for name, part in digests.items() if name != "test" for digest in part}
    test = dataset.parts["test"]
    leaked = [row for row, digest in enumerate(digests["test"]) if digest in learnt]
    if not leaked:
        return []
    told = (
        f"{len(leaked):,} of {len(test):,} test pictures are also in train, the first {test.keys[leaked[0]]}"
    )
    if dataset.own:
        raise UserError(f"{dataset.root}: {told}: keep one copy of each.")
    return [f"{told}; the split is the publisher's and was left as it is"]
