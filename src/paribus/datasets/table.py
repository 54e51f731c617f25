"""Pictures that a table names and labels: CSV, TSV, JSON, JSON lines or parquet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paribus.data.hugging import WORDS
from paribus.data.tables import FORMATS, Row, rows
from paribus.datasets.base import (
    Dataset,
    Settings,
    SplitName,
    make_dataset,
    picture_part,
    printable,
    unlabelled,
)
from paribus.datasets.folder import split_folders
from paribus.datasets.listing import check_there
from paribus.datasets.splits import MADE, given_split, make_split
from paribus.errors import UserError

FILES = ("file", "path", "filename", "file_name", "image", "name", "key")
LABELS = ("label", "class", "labels", "class_name", "target")
SPLITS = ("split", "subset", "partition")
"""What the columns may be called; the first that is there is taken."""


class _Said(NamedTuple):
    """A row: the picture, its label, and where it belongs."""

    path: str
    label: str
    split: SplitName | None


def read(root: Path, settings: Settings) -> Dataset:
    """Pictures by a table, or by the only table in a folder.

    Args:
        root: the table, or its folder.
        settings: names of columns, and the folder of the pictures.

    Raises:
        UserError: the table cannot be read or lacks a column, a row has no label or a split of no known name,
            a picture is named twice or not there, or the data set cannot be used.
    """
    table = _find_table(root)
    said = _read_rows(table, settings)
    folder = settings.images or table.parent
    paths = [one.path for one in said]
    check_there(folder, paths, table)
    classes = _ordered({one.label for one in said})
    place = {name: at for at, name in enumerate(classes)}
    labels = np.array([place[one.label] for one in said], dtype=np.int64)
    words = [one.split for one in said if one.split is not None]
    places = given_split(words, table) if words else make_split(paths, labels, settings.seed)
    parts = {
        split: picture_part(folder, [paths[at] for at in some], labels[some])
        for split, some in places.items()
    }
    notes = () if words else (MADE,)
    name = table.parent.resolve().name if root.is_dir() else table.stem
    return make_dataset(
        name, folder, classes, parts, official=bool(words), own=True, notes=notes, sources=[table]
    )


def looks(root: Path) -> bool:
    """Whether this is a table, or a folder that has one and is not split into folders of classes."""
    if root.is_file():
        return root.suffix.lower() in FORMATS
    return not split_folders(root) and any(
        (root / f"{name}{suffix}").is_file() for name in ("metadata", "labels") for suffix in FORMATS
    )


def _find_table(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise UserError(f"There is no {root}: give a table of pictures and labels, or its folder.")
    found = sorted(file for file in root.iterdir() if file.suffix.lower() in FORMATS)
    if len(found) != 1:
        many = ", ".join(file.name for file in found) or "none"
        raise UserError(f"The folder {root} has not one table but {many}: give the table itself.")
    return found[0]


def _read_rows(table: Path, settings: Settings) -> list[_Said]:
    found, seen, without = list[_Said](), set[str](), list[str]()
    for row in rows(table):
        file = column_of(row, settings.file, FILES, "pictures")
        label = column_of(row, settings.label, LABELS, "labels")
        path = row.text(file).removeprefix("./")
        if path in seen:
            raise row.fault(file, f"{printable(path)!r} stands there twice")
        seen.add(path)
        if row.cell(label) is None or not str(row.cells[label]).strip():
            without.append(printable(path))
            continue
        found.append(_Said(path, row.text(label).strip(), _split(row, settings.split)))
    if without:
        raise unlabelled(table, without)
    unsplit = [one.path for one in found if one.split is None]
    if 0 < len(unsplit) < len(found):
        raise UserError(
            f"{table} has no split for {len(unsplit):,} of the pictures (first: {printable(unsplit[0])}): "
            "give every row one, or none."
        )
    return found


def column_of(row: Row, given: str | None, usual: Sequence[str], what: str) -> str:
    """The column that a person named, or the first of the usual names that a row has.

    Raises:
        UserError: there is none.
    """
    names = usual if given is None else (given,)
    found = next((name for name in names if name in row.cells), None)
    if found is None:
        there = ", ".join(str(name) for name in row.cells)
        raise UserError(
            f"{row.file}, row {row.number}: it has no column of {what} ({' or '.join(names)}), only {there}; "
            "name another."
        )
    return found


def _split(row: Row, given: str | None) -> SplitName | None:
    """Where a row belongs; None if the table has no such column."""
    if given is None and not any(name in row.cells for name in SPLITS):
        return None
    column = column_of(row, given, SPLITS, "splits")
    word = row.text(column).strip()
    if word.lower() not in WORDS:
        raise row.fault(column, f"{word!r} is none of {', '.join(WORDS)}", "write one of them")
    return WORDS[word.lower()]


def _ordered(names: set[str]) -> list[str]:
    """Classes in order: numbers by their size, names by their letters."""
    numbers = all(re.fullmatch(r"\d+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)
