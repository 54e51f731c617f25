"""ImageNetV2: ten new pictures of each of ImageNet's classes, to be tested on alone."""

import fnmatch
from pathlib import Path

import numpy as np

from paribus.datasets.base import Dataset, Settings, check_counts, find_home, make_dataset, picture_part
from paribus.datasets.listing import flatten, folders_in, list_classes
from paribus.errors import UserError

FOLDER = "imagenetv2-matched-frequency-format-val"
OFFICIAL = {"classes": 1_000, "pictures": 10_000}
CLASSES = tuple(map(str, range(OFFICIAL["classes"])))
NOTE = "Class i is the i-th of ImageNet's synsets in the order of their names."


def read(root: Path, settings: Settings) -> Dataset:
    """ImageNetV2 in its folder.

    A folder's name is its class: as text the names would sort 0, 1, 10, 100, and nearly all labels be wrong.

    Raises:
        UserError: a folder is no class, or a count differs.
    """
    home = find_home(root, (FOLDER,), ("0", "999"))
    listed = list_classes(home, "")
    odd = next((name for name in listed if name not in CLASSES), None)
    if odd is not None:
        raise UserError(
            f"{home} has a folder {odd!r}, which is no class from 0 to 999: give the folder {FOLDER}."
        )
    if not listed:
        raise UserError(f"{home} has no folders of pictures named 0 to 999: unpack {FOLDER} there.")
    listed = {name: listed[name] for name in sorted(listed, key=int)}
    paths, labels = flatten(listed, CLASSES)
    found = {"classes": len(listed), "pictures": len(paths)}
    notes = list(check_counts(home, found, OFFICIAL, settings.check))
    if len(np.unique(np.bincount(labels, minlength=len(CLASSES)))) > 1 and not notes:
        notes.append(f"Not every class of {home} has ten pictures.")
    return make_dataset(
        "imagenetv2",
        home,
        CLASSES,
        {"test": picture_part(home, paths, labels)},
        notes=[NOTE, *notes],
        indexed=True,
    )


def looks(root: Path) -> bool:
    """Whether a folder has the numbers of all classes, or is called as one of the three archives."""
    home = find_home(root, (FOLDER,), ("0", "999"))
    named = fnmatch.fnmatch(home.name, "imagenetv2-*-format-val")
    return named or set(folders_in(home)) == set(CLASSES)
