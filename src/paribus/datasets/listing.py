"""Which pictures lie below a folder, fast enough for a million, and whether those that are named do."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from paribus.data.folder import SUFFIXES
from paribus.datasets.base import printable
from paribus.errors import UserError
from paribus.progress import progress


def list_below(root: Path, folder: str) -> list[str]:
    """The pictures below a folder, at any depth, as paths below the root; hidden ones are none.

    Raises:
        UserError: a folder cannot be listed.
    """
    found, deeper = list[str](), list[str]()
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                # The entry knows what it is: nothing more is asked of the disk, unless it is a link.
                if entry.is_dir():
                    deeper.append(f"{folder}/{name}")
                elif name.lower().endswith(SUFFIXES) and entry.is_file():
                    found.append(f"{folder}/{name}")
    except OSError as error:
        raise UserError(f"Cannot list the folder {root / folder} ({error.strerror}): mend that.") from error
    found.sort()
    for below in sorted(deeper):
        found += list_below(root, below)
    return found


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, in order; none if it is not there."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_classes(root: Path, folder: str) -> dict[str, list[str]]:
    """Class -> its pictures, where each class has a folder of its name; of no picture, no class.

    Args:
        root: what paths are relative to.
        folder: the one that has the classes' folders, below the root; empty for the root itself.
    """
    names = folders_in(root / folder)
    prefix = f"{folder}/" if folder else ""
    bar = progress(names, label=f"Listing {folder or root.name}", unit="folder")
    found = {name: list_below(root, f"{prefix}{name}") for name in bar}
    return {name: paths for name, paths in found.items() if paths}


def flatten(
    listed: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """The pictures of all classes, class by class, and each one's place among the classes."""
    at = {name: place for place, name in enumerate(classes)}
    places = np.array([at[name] for name in listed], dtype=np.int64)
    counts = np.array([len(paths) for paths in listed.values()], dtype=np.int64)
    return [path for paths in listed.values() for path in paths], np.repeat(places, counts)


def check_there(root: Path, paths: Sequence[str], named_by: Path) -> None:
    """See that all pictures that a file names are there.

    Raises:
        UserError: some are not.
    """
    known: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in known:
            place = root / folder
            known[folder] = set(os.listdir(place)) if place.is_dir() else set()  # noqa: PTH208 - bare names
        if name not in known[folder]:
            absent.append(path)
    if absent:
        raise UserError(
            f"{named_by} names {len(absent):,} of {len(paths):,} pictures that are not in {root} "
            f"(first: {printable(absent[0])}): get the pictures again, or remove the rows."
        )
