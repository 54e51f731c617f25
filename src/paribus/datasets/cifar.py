"""CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and a picture.

The version for Python is a pickle, which can run anything when it is opened: it is told of, never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
    check_counts,
    find_home,
    has,
    locate,
    make_dataset,
    need,
    read_lines,
)
from paribus.errors import UserError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
OFFICIAL = {"pictures to train on": 50_000, "pictures to test on": 10_000}


class Layout(NamedTuple):
    """How one of the two lies in its archive."""

    name: str
    archive: str
    inner: str
    pickled: str
    """The folder of the version that is not read."""
    pickles: tuple[str, ...]
    """Files that tell it."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int
    """Label bytes before each picture, of which the last is the class."""
    classes: int


CIFAR10 = Layout(
    name="cifar10",
    archive="cifar-10-binary.tar.gz",
    inner="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    pickles=("data_batch_1", "batches.meta"),
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
    labels=1,
    classes=10,
)
CIFAR100 = Layout(
    name="cifar100",
    archive="cifar-100-binary.tar.gz",
    inner="cifar-100-binary",
    pickled="cifar-100-python",
    pickles=("train", "meta"),
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    labels=2,
    classes=100,
)


@dataclass(frozen=True)
class Records:
    """The pictures of some files of records, end to end."""

    root: Path
    files: tuple[str, ...]
    starts: tuple[int, ...]
    labels: int

    def __call__(self, index: int) -> UInt8[np.ndarray, "32 32 3"]:
        """One picture.

        Raises:
            UserError: the file has become shorter, or cannot be read.
        """
        piece, row = locate(self.starts, index)
        path = self.root / self.files[piece]
        try:
            with path.open("rb") as handle:
                handle.seek(row * (self.labels + PIXELS) + self.labels)
                blob = handle.read(PIXELS)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): get it again.") from error
        if len(blob) < PIXELS:
            raise UserError(f"{path} is cut off within picture {row}: get it again.")
        # Red, green and blue lie one after the other, each a plane.
        return np.ascontiguousarray(np.frombuffer(blob, np.uint8).reshape(3, SIDE, SIDE).transpose(1, 2, 0))


def read_cifar10(root: Path, settings: Settings) -> Dataset:
    """CIFAR-10 in its folder; see ``_read``."""
    return _read(CIFAR10, root, settings)


def read_cifar100(root: Path, settings: Settings) -> Dataset:
    """CIFAR-100 in its folder, with its 100 fine labels; see ``_read``."""
    return _read(CIFAR100, root, settings)


def looks_cifar10(root: Path) -> bool:
    """Whether a folder has CIFAR-10, in either version."""
    return _looks(CIFAR10, root)


def looks_cifar100(root: Path) -> bool:
    """Whether a folder has CIFAR-100, in either version."""
    return _looks(CIFAR100, root)


def _looks(layout: Layout, root: Path) -> bool:
    inner = (layout.inner, layout.pickled)
    return has(root, inner, *layout.train[:1], *layout.test) or _pickled(layout, root)


def _pickled(layout: Layout, root: Path) -> bool:
    inside = (root / layout.pickled).is_dir() or root.name == layout.pickled
    return inside or all((root / name).is_file() for name in layout.pickles)


def _read(layout: Layout, root: Path, settings: Settings) -> Dataset:
    """A data set of records.

    Raises:
        UserError: only the pickled version is there, a file is missing or cut off, or a count differs.
    """
    signs = (*layout.train, *layout.test)
    home = find_home(root, (layout.inner,), signs)
    if not any((home / sign).exists() for sign in signs) and _pickled(layout, root):
        raise UserError(
            f"{root} has the pickled version of {layout.name}, which is never opened: give the binary "
            f"version, {layout.archive} ({signs[0]}, ..., {signs[-1]}, {layout.names})."
        )
    remedy = f"unpack {layout.archive} there"
    classes = read_lines(home / layout.names, remedy)
    if len(classes) != layout.classes:
        raise UserError(
            f"{home / layout.names} names {len(classes)} classes instead of {layout.classes}: {remedy}."
        )
    parts = (_part(layout, home, layout.train, remedy), _part(layout, home, layout.test, remedy))
    found = dict(zip(OFFICIAL, map(len, parts), strict=True))
    return make_dataset(
        layout.name,
        home,
        classes,
        {"train": parts[0], "test": parts[1]},
        notes=check_counts(home, found, OFFICIAL, settings.check),
        sources=[home / name for name in (*signs, layout.names)],
    )


def _part(layout: Layout, home: Path, files: Sequence[str], remedy: str) -> Part:
    labels = [_labels(layout, need(home / name, remedy)) for name in files]
    keys = [f"{name}#{row}" for name, some in zip(files, labels, strict=True) for row in range(len(some))]
    starts = np.cumsum([0, *map(len, labels)]).tolist()
    return Part(
        tuple(keys), np.concatenate(labels), Records(home, tuple(files), tuple(starts), layout.labels)
    )


def _labels(layout: Layout, path: Path) -> Int64[np.ndarray, " N"]:
    record, size = layout.labels + PIXELS, path.stat().st_size
    if size % record or not size:
        raise UserError(
            f"{path} has {size:,} bytes, which are no whole number of records of {record:,}, so it is cut "
            f"off: unpack {layout.archive} again."
        )
    column = np.memmap(path, np.uint8, "r").reshape(-1, record)[:, layout.labels - 1]
    labels = np.array(column, dtype=np.int64)
    if labels.max() >= layout.classes:
        raise UserError(
            f"{path} has the label {labels.max()}, and {layout.name} has {layout.classes} classes: unpack "
            f"{layout.archive} again."
        )
    return labels
