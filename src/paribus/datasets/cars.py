"""Stanford Cars: pictures in ``cars_train`` and ``cars_test``, what they show in the devkit's .mat files."""

from pathlib import Path

from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
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

OFFICIAL = {"classes": 196, "pictures to train on": 8_144, "pictures to test on": 8_041}
INNER = ("stanford_cars", "car_data")
META, TRAIN = "devkit/cars_meta.mat", "devkit/cars_train_annos.mat"
LABELLED, UNLABELLED = "cars_test_annos_withlabels.mat", "devkit/cars_test_annos.mat"

_DEVKIT = "unpack car_devkit.tgz there"


def read(root: Path, settings: Settings) -> Dataset:
    """Stanford Cars in its folder.

    Raises:
        UserError: a file is missing or damaged, a picture that it names is not there, or a count differs.
    """
    home = find_home(root, INNER, ("devkit", "cars_train", "cars_test"))
    classes = [str(name) for name in read_mat(home / META, "class_names", _DEVKIT)]
    for folder in ("cars_train", "cars_test"):
        need(home / folder, f"unpack {folder}.tgz there")
    labelled = _labelled(home)
    train = _part(home, home / TRAIN, "cars_train", len(classes))
    test = _part(home, labelled, "cars_test", len(classes))
    found = dict(zip(OFFICIAL, (len(classes), len(train), len(test)), strict=True))
    return make_dataset(
        "cars",
        home,
        classes,
        {"train": train, "test": test},
        notes=check_counts(home, found, OFFICIAL, settings.check),
        sources=[home / META, home / TRAIN, labelled],
    )


def looks(root: Path) -> bool:
    """Whether a folder has the devkit of the cars, or both folders of pictures."""
    return has(root, INNER, META) or has(root, INNER, "cars_train", "cars_test")


def _labelled(home: Path) -> Path:
    """The labels of the test pictures, which came later and not with the devkit.

    Raises:
        UserError: there are none.
    """
    for path in (home / LABELLED, home / "devkit" / LABELLED):
        if path.exists():
            return path
    lies = f" ({UNLABELLED} names the pictures without labels)" if (home / UNLABELLED).exists() else ""
    raise UserError(
        f"{home} has no labels of the test pictures{lies}: get {LABELLED} and put it into {home / 'devkit'}."
    )


def _part(home: Path, annotations: Path, folder: str, classes: int) -> Part:
    rows = read_mat(annotations, "annotations", _DEVKIT)
    fields = rows.dtype.names or ()
    if "fname" not in fields:
        raise UserError(f"{annotations} names no pictures (no field 'fname'): {_DEVKIT}.")
    paths = [f"{folder}/{row['fname']}" for row in rows]
    if "class" not in fields:
        raise unlabelled(annotations, paths)
    labels = [int(row["class"]) - 1 for row in rows]  # MATLAB counts from 1
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise UserError(f"{annotations} has classes that are not from 1 to {classes}: {_DEVKIT}.")
    check_there(home, paths, annotations)
    return picture_part(home, paths, labels)
