"""CIFAR-10.1: new pictures of CIFAR-10's classes, to be tested on alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from paribus.datasets.base import Dataset, Part, Settings, check_counts, find_home, has, make_dataset, need
from paribus.datasets.cifar_photos import CLASSES
from paribus.errors import UserError

OFFICIAL = {"v6": 2_000, "v4": 2_021}
"""Version -> pictures; the first that is there is read, which is the one its authors recommend."""
INNER = ("datasets", "CIFAR-10.1/datasets", "CIFAR-10.1")
NOTE = "Class i is the i-th of CIFAR-10."

_REMEDY = "get it again from the publisher's repository (datasets/ of CIFAR-10.1)"


@dataclass(frozen=True)
class Array:
    """Pictures in a file of one array."""

    path: Path

    def __call__(self, index: int) -> UInt8[np.ndarray, "32 32 3"]:
        """One picture.

        Raises:
            UserError: the file is not as it was.
        """
        return np.array(_load(self.path)[index])


def read(root: Path, settings: Settings) -> Dataset:
    """CIFAR-10.1 in its folder.

    Raises:
        UserError: a file is missing or holds something else, or a count differs.
    """
    home = find_home(root, INNER, [_names(version)[0] for version in OFFICIAL])
    version = next((each for each in OFFICIAL if (home / _names(each)[0]).exists()), next(iter(OFFICIAL)))
    data, truth = (need(home / name, _REMEDY) for name in _names(version))
    pictures, labels = _load(data), _load(truth)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (32, 32, 3):
        raise _other(data, pictures, "uint8 of N x 32 x 32 x 3")
    if labels.dtype.kind not in "iu" or labels.shape != pictures.shape[:1]:
        raise _other(truth, labels, f"whole numbers, {len(pictures):,} of them")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise UserError(f"{truth} has labels that are not from 0 to {len(CLASSES) - 1}: {_REMEDY}.")
    keys = tuple(f"{data.name}#{row}" for row in range(len(pictures)))
    notes = check_counts(home, {"pictures": len(pictures)}, {"pictures": OFFICIAL[version]}, settings.check)
    return make_dataset(
        "cifar10.1",
        home,
        CLASSES,
        {"test": Part(keys, np.array(labels, dtype=np.int64), Array(data))},
        notes=[NOTE, *notes],
        indexed=True,
        sources=[data, truth],
    )


def looks(root: Path) -> bool:
    """Whether a folder has one of its versions."""
    return any(has(root, INNER, *_names(version)) for version in OFFICIAL)


def _names(version: str) -> tuple[str, str]:
    return f"cifar10.1_{version}_data.npy", f"cifar10.1_{version}_labels.npy"


def _load(path: Path) -> Any:
    """An array as it lies on the disk; objects would be pickles and are refused."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no file of a plain array, or a damaged one: {_REMEDY}.") from error


def _other(path: Path, found: Any, wanted: str) -> UserError:
    shape = " x ".join(map(str, found.shape))
    return UserError(f"{path} holds {found.dtype} of {shape} instead of {wanted}: {_REMEDY}.")
