"""A local data set of Hugging Face's ``datasets``: parquet as on the hub, or what save_to_disk wrote.

Both are read by pyarrow alone. A picture is a struct of bytes and path; classes are in the files' metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from paribus.data.hugging import (
    AGAIN,
    IMAGES,
    WORDS,
    Piece,
    column_named,
    file_split,
    find_files,
    is_saved,
    parquets,
    pieces_of,
    read_column,
    read_json,
    read_schema,
)
from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
    decode,
    locate,
    make_dataset,
    unlabelled,
)
from paribus.datasets.splits import MADE, given_split, make_split
from paribus.errors import UserError

LABELS = ("label", "fine_label", "labels")
"""What the column of labels may be called; the first that is there is taken."""


@dataclass(frozen=True)
class Cells:
    """Pictures out of a column, end to end over pieces; ``rows`` picks some of them."""

    root: Path
    column: str
    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]
    rows: Int64[np.ndarray, " N"]

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """One picture.

        Raises:
            UserError: there is none in the row, or it cannot be decoded.
        """
        number, row = locate(self.starts, int(self.rows[index]))
        piece = self.pieces[number]
        cell: Any = read_column(piece.path, piece.group, self.column)[row].as_py()
        name = f"{piece.path}#{piece.first + row}"
        path = None
        if isinstance(cell, dict):
            cell, path = cell.get("bytes"), cell.get("path")
        if cell is None and path:
            name = str(self.root / path)
            cell = _file(self.root / path)
        if not isinstance(cell, bytes):
            raise UserError(
                f"{name} has no picture in the column {self.column!r}: {AGAIN}, or name another column."
            )
        return decode(cell, name)


def read(root: Path, settings: Settings) -> Dataset:
    """A data set of Hugging Face in its folder.

    Raises:
        UserError: there are no such files or they are damaged, a column is missing, a row has no label, or
            the data set cannot be used.
    """
    found = find_files(root)
    known = {split: files for split, files in found.items() if split in WORDS}
    if not known and len(found) > 1:
        raise UserError(f"{root} has the splits {', '.join(found)} and no train or test: rename its files.")
    pieces = [piece for files in (known or found).values() for path in files for piece in pieces_of(path)]
    if not pieces:
        raise UserError(f"{root} has no rows: {AGAIN}.")
    keys = [key for piece in pieces for key in _keys(root, piece)]
    columns = read_schema(pieces[0].path).names
    image = column_named(root, columns, settings.file, IMAGES)
    classes, labels = _labels(root, pieces, column_named(root, columns, settings.label, LABELS), keys)
    notes = [f"The split {split!r} was left out." for split in found if known and split not in known]
    if known:
        split_of = {path: WORDS[split] for split, files in known.items() for path in files}
        words = [split_of[piece.path] for piece in pieces for _ in range(piece.rows)]
        places = given_split(words, root)
    else:
        places = make_split(keys, labels, settings.seed)
        notes.append(MADE)
    starts = tuple(np.cumsum([0, *(piece.rows for piece in pieces)]).tolist())
    parts = {
        split: Part(
            tuple(keys[at] for at in some),
            labels[some],
            Cells(root, image, tuple(pieces), starts, some),
        )
        for split, some in places.items()
    }
    sources = list(dict.fromkeys(piece.path for piece in pieces))
    name = root.resolve().name
    return make_dataset(
        name, root, classes, parts, official=bool(known), own=not known, notes=notes, sources=sources
    )


def looks(root: Path) -> bool:
    """Whether a folder is of save_to_disk, or has parquet files called as splits are."""
    return is_saved(root) or any(file_split(root, file) in WORDS for file in parquets(root))


# Columns.


def _keys(root: Path, piece: Piece) -> list[str]:
    name = piece.path.relative_to(root).as_posix()
    return [f"{name}#{piece.first + row}" for row in range(piece.rows)]


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The picture {path} cannot be read ({error.strerror}): {AGAIN}.") from error


def _labels(
    root: Path, pieces: Sequence[Piece], column: str, keys: Sequence[str]
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """The classes' names and every row's place among them; -1 is Hugging Face's word for no label."""
    cells = [value for piece in pieces for value in read_column(piece.path, piece.group, column).to_pylist()]
    without = [key for key, value in zip(keys, cells, strict=True) if value in (None, "", -1)]
    if without:
        raise unlabelled(root, without)
    if not all(isinstance(value, int | str) for value in cells):
        raise UserError(f"{root} has neither numbers nor names in the column {column!r}: name another.")
    names = _class_names(pieces[0].path, column)
    if names is None:
        named = sorted(set(cells), key=lambda value: (isinstance(value, str), value))
        place = {value: at for at, value in enumerate(named)}
        return [str(name) for name in named], np.array([place[value] for value in cells], dtype=np.int64)
    labels = np.array(cells, dtype=np.int64)
    if labels.max(initial=0) >= len(names):
        raise UserError(f"{root} has the label {labels.max()} and names {len(names)} classes: {AGAIN}.")
    return names, labels


def _class_names(path: Path, column: str) -> list[str] | None:
    """What the metadata calls the classes; None if it says nothing."""
    told = (read_schema(path).metadata or {}).get(b"huggingface")
    if told is not None:
        features = _features(path, told)
    elif (path.parent / "dataset_info.json").is_file():
        features = read_json(path.parent / "dataset_info.json").get("features", {})
    else:
        return None
    names = (features.get(column) or {}).get("names")
    return [str(name) for name in names] if names else None


def _features(path: Path, told: bytes) -> Mapping[str, Any]:
    try:
        features: Mapping[str, Any] = json.loads(told)["info"]["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has damaged metadata of Hugging Face ({error!r}): {AGAIN}.") from error
    return features
