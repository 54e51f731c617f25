"""ImageNet (ILSVRC2012): ``train`` in folders of synsets, ``val`` in such folders or flat beside the devkit.

``val`` is the part that is tested on, since nobody has labels of the official test pictures. Classes are the
synsets in the order of their names, as everywhere but in the devkit, whose ids have an order of their own.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from paribus.datasets.base import (
    Dataset,
    Settings,
    check_counts,
    find_home,
    make_dataset,
    need,
    picture_part,
    read_lines,
    read_mat,
)
from paribus.datasets.listing import flatten, folders_in, list_below, list_classes
from paribus.errors import UserError

OFFICIAL = {"synsets": 1_000, "pictures in train": 1_281_167, "pictures in val": 50_000}
INNER = ("imagenet", "ILSVRC2012", "imagenet-1k")
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"

_SYNSET = re.compile(r"n\d{8}")
_FLAT = re.compile(r"val/ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_UNPACK = f"unpack {DEVKIT}.tar.gz again"


def read(root: Path, settings: Settings) -> Dataset:
    """ImageNet in its folder.

    Raises:
        UserError: a folder or a file of the devkit is missing, a name is not as published, or a count
            differs.
    """
    home = find_home(root, INNER, ("train",))
    for folder in ("train", "val"):
        need(home / folder, f"unpack ILSVRC2012_img_{folder}.tar into {home}")
    train = list_classes(home, "train")
    _check_synsets(home / "train", train)
    classes = tuple(train)
    paths, labels = flatten(train, classes)
    if folders_in(home / "val"):
        (tested, truth), sources = _sorted_val(home, classes), tuple[Path, ...]()
    else:
        tested, truth, sources = _flat_val(home, classes)
    found = dict(zip(OFFICIAL, (len(classes), len(paths), len(tested)), strict=True))
    return make_dataset(
        "imagenet",
        home,
        classes,
        {"train": picture_part(home, paths, labels), "test": picture_part(home, tested, truth)},
        notes=check_counts(home, found, OFFICIAL, settings.check),
        sources=sources,
    )


def looks(root: Path) -> bool:
    """Whether a folder has as many synsets to train on as ImageNet; subsets are folders like any other."""
    names = folders_in(find_home(root, INNER, ("train",)) / "train")
    return len(names) == OFFICIAL["synsets"] and all(map(_SYNSET.fullmatch, names))


def _check_synsets(folder: Path, listed: Mapping[str, Sequence[str]]) -> None:
    odd = next((name for name in listed if not _SYNSET.fullmatch(name)), None)
    if odd is not None:
        raise UserError(
            f"{folder} has a folder {odd!r}, which is no synset (n and eight digits): give ImageNet's own "
            "folders, or name the kind `folder`."
        )
    if not listed:
        raise UserError(
            f"{folder} has no synset's folder of pictures: unpack the archive of each synset there."
        )


def _sorted_val(home: Path, classes: Sequence[str]) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """The pictures to test on where someone has put them into folders of synsets."""
    listed = list_classes(home, "val")
    _check_synsets(home / "val", listed)
    _check_known(home, listed, classes)
    return flatten(listed, classes)


def _flat_val(
    home: Path, classes: Sequence[str]
) -> tuple[list[str], Int64[np.ndarray, " N"], tuple[Path, ...]]:
    """The pictures to test on as the archive has them, labelled by the devkit; and its files."""
    paths = list_below(home, "val")
    devkit = _find_devkit(home)
    truth = _ground_truth(devkit / TRUTH)
    synset = _synsets_by_id(devkit / META)
    wanted = []
    for path in paths:
        matched = _FLAT.fullmatch(path)
        if matched is None or not 1 <= int(matched[1]) <= len(truth):
            raise UserError(
                f"{home / path} is none of the {len(truth):,} pictures that {devkit / TRUTH} labels: "
                "move it away."
            )
        wanted.append(truth[int(matched[1]) - 1])
    unknown = next((number for number in wanted if number not in synset), None)
    if unknown is not None:
        raise UserError(f"{devkit / TRUTH} has the id {unknown}, and {META} has no such synset: {_UNPACK}.")
    names = [synset[number] for number in wanted]
    _check_known(home, names, classes)
    place = {name: at for at, name in enumerate(classes)}
    labels = np.array([place[name] for name in names], dtype=np.int64)
    return paths, labels, (devkit / TRUTH, devkit / META)


def _check_known(home: Path, names: Mapping[str, object] | Sequence[str], classes: Sequence[str]) -> None:
    known = set(classes)
    strange = next((name for name in names if name not in known), None)
    if strange is not None:
        raise UserError(
            f"The class {strange!r} is in val and absent from train in {home}: unpack its archive into "
            f"{home / 'train' / strange}."
        )


def _find_devkit(home: Path) -> Path:
    beside = (home / DEVKIT, home, home / "devkit", home.parent / DEVKIT)
    for folder in beside:
        if (folder / "data" / TRUTH).exists() or (folder / "data" / META).exists():
            return folder / "data"
    raise UserError(
        f"The pictures in {home / 'val'} are in no folders of synsets, and there is no {home / DEVKIT} to "
        f"tell their labels: unpack {DEVKIT}.tar.gz in {home}."
    )


def _ground_truth(path: Path) -> list[int]:
    lines = read_lines(path, _UNPACK)
    try:
        return [int(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path} has a line that is no number ({error}): {_UNPACK}.") from error


def _synsets_by_id(path: Path) -> dict[int, str]:
    """ILSVRC's id -> synset; those with children are not classes, though they have ids too."""
    synsets = read_mat(path, "synsets", _UNPACK)
    if not {"ILSVRC2012_ID", "WNID", "num_children"} <= set(synsets.dtype.names or ()):
        raise UserError(f"{path} is not the devkit's list of synsets: {_UNPACK}.")
    return {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if int(one["num_children"]) == 0}
