"""Caltech-UCSD Birds (CUB-200-2011): four lists by picture and class numbers, and the folder ``images``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paribus.datasets.base import (
    Dataset,
    Settings,
    check_counts,
    find_home,
    has,
    make_dataset,
    need,
    picture_part,
    read_lines,
    unlabelled,
)
from paribus.datasets.listing import check_there
from paribus.errors import UserError

OFFICIAL = {"classes": 200, "pictures to train on": 5_994, "pictures to test on": 5_794}
INNER = ("CUB_200_2011",)
IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"

_REMEDY = "unpack CUB_200_2011.tgz again"


def read(root: Path, settings: Settings) -> Dataset:
    """CUB-200-2011 in its folder.

    Raises:
        UserError: a list is missing or not as published, a picture is not there, or a count differs.
    """
    home = find_home(root, INNER, (IMAGES, LABELS, SPLIT, CLASSES))
    images, labels, split, named = (_read_list(home / name) for name in (IMAGES, LABELS, SPLIT, CLASSES))
    need(home / "images", _REMEDY)
    _check_numbers(home, images, labels, split)
    classes = list(named.values())
    place = {number: at for at, number in enumerate(named)}
    strange = next((label for label in labels.values() if label not in place), None)
    if strange is not None:
        raise UserError(f"{home / LABELS} has the class {strange}, which {CLASSES} does not name: {_REMEDY}.")
    paths = np.array([f"images/{name}" for name in images.values()])
    truth = np.array([place[labels[number]] for number in images], dtype=np.int64)
    learnt = np.array([split[number] == "1" for number in images])
    check_there(home, paths.tolist(), home / IMAGES)
    counts = (len(classes), int(learnt.sum()), int((~learnt).sum()))
    return make_dataset(
        "cub",
        home,
        classes,
        {
            "train": picture_part(home, paths[learnt].tolist(), truth[learnt]),
            "test": picture_part(home, paths[~learnt].tolist(), truth[~learnt]),
        },
        notes=check_counts(home, dict(zip(OFFICIAL, counts, strict=True)), OFFICIAL, settings.check),
        sources=[home / name for name in (IMAGES, LABELS, SPLIT, CLASSES)],
    )


def looks(root: Path) -> bool:
    """Whether a folder has its lists."""
    return has(root, INNER, IMAGES, LABELS, SPLIT)


def _read_list(path: Path) -> dict[str, str]:
    """Number -> what stands beside it."""
    found: dict[str, str] = {}
    for line in read_lines(path, _REMEDY):
        number, _, said = line.partition(" ")
        if not said or number in found:
            raise UserError(
                f"{path} has a line {line!r}, and each must be a number of its own and what it is of: "
                f"{_REMEDY}."
            )
        found[number] = said.strip()
    return found


def _check_numbers(home: Path, images: dict[str, str], labels: dict[str, str], split: dict[str, str]) -> None:
    """See that the lists are of the same pictures."""
    without: Sequence[str] = [name for number, name in images.items() if number not in labels]
    if without:
        raise unlabelled(home / LABELS, without)
    unsplit = [name for number, name in images.items() if number not in split]
    if unsplit:
        raise UserError(
            f"{home / SPLIT} does not say of {len(unsplit):,} pictures whether they are trained or tested on "
            f"(first: {unsplit[0]}): {_REMEDY}."
        )
    strangers = [number for listed in (split, labels) for number in listed if number not in images]
    if strangers:
        raise UserError(
            f"{home} has {len(strangers):,} numbers in {SPLIT} or {LABELS} that are of no picture in "
            f"{IMAGES} (first: {strangers[0]}): {_REMEDY}."
        )
