"""One's own pictures in folders of their classes, below folders of splits or without (ImageFolder)."""

from pathlib import Path

import numpy as np

from paribus.data.hugging import WORDS
from paribus.datasets.base import Dataset, Settings, SplitName, make_dataset, picture_part
from paribus.datasets.listing import flatten, folders_in, list_classes
from paribus.datasets.splits import MADE, given_split, make_split
from paribus.errors import UserError


def read(root: Path, settings: Settings) -> Dataset:
    """Pictures whose folder is their class.

    Where the first folders are splits (``train`` and ``val``, ``valid``, ``validation`` or ``test``), those
    are taken, and of ``train`` and ``val`` alone the second is tested on. Else a split is made.

    Raises:
        UserError: there is no picture in a folder of its class, nothing to learn from or to test on, one
            class only, or one that is tested on and never trained on.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give a folder with a folder of pictures for each class.")
    words = split_folders(root)
    folders = {name: list_classes(root, name) for name in words} if words else {"": list_classes(root, "")}
    classes = sorted({name for listed in folders.values() for name in listed})
    if not classes:
        raise UserError(
            f"{root} has no pictures in folders of their classes: put those of each class into a folder of "
            "its name, or give a table of labels."
        )
    flat = {folder: flatten(listed, classes) for folder, listed in folders.items()}
    paths = [path for some, _ in flat.values() for path in some]
    labels = np.concatenate([some for _, some in flat.values()])
    if words:
        said = [words[folder] for folder, (some, _) in flat.items() for _ in some]
        places = given_split(said, root)
    else:
        places = make_split(paths, labels, settings.seed)
    parts = {
        split: picture_part(root, [paths[at] for at in some], labels[some]) for split, some in places.items()
    }
    notes = () if words else (MADE,)
    return make_dataset(
        root.resolve().name, root, classes, parts, official=bool(words), own=True, notes=notes
    )


def split_folders(root: Path) -> dict[str, SplitName]:
    """Folder -> its split, where folders are splits: a class called train has pictures, and no folders."""
    names = folders_in(root)
    splits = {name: WORDS[name.lower()] for name in names if name.lower() in WORDS}
    return splits if any(folders_in(root / name) for name in splits) else {}
