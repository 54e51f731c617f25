"""Oxford Flowers-102: ``jpg`` and two .mat files, one of labels and one of the split into three."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
    SplitName,
    check_counts,
    find_home,
    has,
    make_dataset,
    need,
    picture_part,
    read_mat,
    unlabelled,
)
from paribus.datasets.listing import check_there
from paribus.errors import UserError

OFFICIAL = {
    "classes": 102,
    "pictures in train": 1_020,
    "pictures in val": 1_020,
    "pictures in test": 6_149,
}
INNER = ("flowers-102", "102flowers", "oxford-102-flowers")
LABELS, SPLIT = "imagelabels.mat", "setid.mat"
VARIABLES: dict[SplitName, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
NOTE = "The publisher numbers the flowers and does not name them."


def read(root: Path, settings: Settings) -> Dataset:
    """Flowers-102 in its folder, with the published split: most pictures are tested on.

    Raises:
        UserError: a file is missing or damaged, a picture is not there or has no label, or a count differs.
    """
    home = find_home(root, INNER, (LABELS, SPLIT, "jpg"))
    need(home / "jpg", "unpack 102flowers.tgz there")
    labels = _whole(home / LABELS, "labels")
    parts = {split: _part(home, labels, variable) for split, variable in VARIABLES.items()}
    classes = [str(number) for number in range(1, int(labels.max(initial=1)) + 1)]
    found = dict(zip(OFFICIAL, (len(classes), *map(len, parts.values())), strict=True))
    return make_dataset(
        "flowers",
        home,
        classes,
        parts,
        notes=[NOTE, *check_counts(home, found, OFFICIAL, settings.check)],
        sources=[home / LABELS, home / SPLIT],
    )


def looks(root: Path) -> bool:
    """Whether a folder has both of its .mat files."""
    return has(root, INNER, LABELS, SPLIT)


def _whole(path: Path, variable: str) -> Int64[np.ndarray, " N"]:
    """A list of numbers from 1."""
    remedy = f"get {path.name} again"
    try:
        found = np.asarray(read_mat(path, variable, remedy)).astype(np.int64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has other things than whole numbers in {variable!r}: {remedy}.") from error
    if found.ndim != 1 or found.min(initial=1) < 1:
        raise UserError(f"{path} has no list of numbers from 1 in {variable!r}: {remedy}.")
    return found


def _part(home: Path, labels: Int64[np.ndarray, " N"], variable: str) -> Part:
    numbers = _whole(home / SPLIT, variable)
    paths = [f"jpg/image_{number:05d}.jpg" for number in numbers]
    without = [path for path, number in zip(paths, numbers, strict=True) if number > len(labels)]
    if without:
        raise unlabelled(home / LABELS, without)
    check_there(home, paths, home / SPLIT)
    return picture_part(home, paths, labels[numbers - 1] - 1)
