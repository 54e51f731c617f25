"""A local data set of Hugging Face's ``datasets``: parquet as on the hub, or what save_to_disk wrote.

Both are read by pyarrow alone. A picture is a struct of bytes and path; classes are in the files' metadata.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8

from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
    decode,
    locate,
    make_dataset,
    unlabelled,
)
from paribus.datasets.splits import MADE, WORDS, given_split, make_split
from paribus.errors import UserError

IMAGES = ("image", "img", "picture")
LABELS = ("label", "fine_label", "labels")
"""What the columns may be called; the first that is there is taken."""

_SHARD = re.compile(r"(\w+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?)?\.parquet")
_REMEDY = "get the data set again"


class Piece(NamedTuple):
    """Rows that are read at once: a row group of a parquet file, or all of an Arrow file."""

    path: Path
    group: int
    first: int
    """Its first row's number in the file."""
    rows: int


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
        cell: Any = _column(piece.path, piece.group, self.column)[row].as_py()
        name = f"{piece.path}#{piece.first + row}"
        path = None
        if isinstance(cell, dict):
            cell, path = cell.get("bytes"), cell.get("path")
        if cell is None and path:
            name = str(self.root / path)
            cell = _file(self.root / path)
        if not isinstance(cell, bytes):
            raise UserError(
                f"{name} has no picture in the column {self.column!r}: {_REMEDY}, or name another column."
            )
        return decode(cell, name)


def read(root: Path, settings: Settings) -> Dataset:
    """A data set of Hugging Face in its folder.

    Raises:
        UserError: there are no such files or they are damaged, a column is missing, a row has no label, or
            the data set cannot be used.
    """
    found = _find_files(root)
    known = {split: files for split, files in found.items() if split in WORDS}
    if not known and len(found) > 1:
        raise UserError(f"{root} has the splits {', '.join(found)} and no train or test: rename its files.")
    pieces = [piece for files in (known or found).values() for path in files for piece in _pieces(path)]
    if not pieces:
        raise UserError(f"{root} has no rows: {_REMEDY}.")
    keys = [key for piece in pieces for key in _keys(root, piece)]
    columns = _schema(pieces[0].path).names
    image = _named(root, columns, settings.file, IMAGES)
    classes, labels = _labels(root, pieces, _named(root, columns, settings.label, LABELS), keys)
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
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    return root.is_dir() and any(_split_of(root, file) in WORDS for file in _parquets(root))


# Files.


def _find_files(root: Path) -> dict[str, list[Path]]:
    """Split -> its files, in order; of a data set without splits, one split of no name.

    Raises:
        UserError: there are none.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give a folder of Hugging Face's files.")
    if (root / "dataset_dict.json").is_file():
        splits = _json(root / "dataset_dict.json").get("splits", ())
        return {str(split): _saved(root / str(split)) for split in splits}
    if (root / "state.json").is_file():
        return {"": _saved(root)}
    files = _parquets(root)
    if not files:
        raise UserError(
            f"{root} has neither parquet files nor what save_to_disk writes: give a folder of one of the two."
        )
    folders = {file.parent for file in files if not _is_split(root, file.parent)}
    if len(folders) > 1:
        names = ", ".join(sorted(folder.name for folder in folders))
        raise UserError(f"{root} has several data sets ({names}): give the folder of one of them.")
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_split_of(root, file), []).append(file)
    return found


def _parquets(root: Path) -> list[Path]:
    return sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")])


def _is_split(root: Path, folder: Path) -> bool:
    """Whether a folder is a split, as where the hub has made parquet of other files: train/0000.parquet."""
    return folder != root and folder.name in WORDS


def _split_of(root: Path, file: Path) -> str:
    if _is_split(root, file.parent):
        return file.parent.name
    named = _SHARD.fullmatch(file.name)
    return named[1] if named else file.stem


def _saved(folder: Path) -> list[Path]:
    """The files that save_to_disk says it wrote into a folder."""
    named = _json(folder / "state.json").get("_data_files", ())
    files = [folder / str(one["filename"]) for one in named if isinstance(one, Mapping) and "filename" in one]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise UserError(f"There is no {missing or folder / 'data-*.arrow'}: {_REMEDY}.")
    return files


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not there or cannot be read as JSON ({error}): {_REMEDY}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: {_REMEDY}.")
    return found


# Columns.


def _guarded(path: Path) -> UserError:
    return UserError(f"{path} is no {path.suffix[1:]} file, or a damaged one: {_REMEDY}.")


def _schema(path: Path) -> Any:
    try:
        return pq.read_schema(path) if path.suffix == ".parquet" else _arrow(path).schema
    except (pa.ArrowException, OSError) as error:
        raise _guarded(path) from error


@functools.lru_cache(maxsize=64)
def _arrow(path: Path) -> Any:
    """An Arrow file, mapped into memory and not read."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise _guarded(path) from error


@functools.lru_cache(maxsize=4)
def _column(path: Path, group: int, column: str) -> Any:
    """One column of a piece; of parquet it is read, and the last few stay in memory."""
    if path.suffix != ".parquet":
        return _arrow(path).column(column)
    try:
        with pq.ParquetFile(path) as parquet:
            return parquet.read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise _guarded(path) from error


def _pieces(path: Path) -> list[Piece]:
    if path.suffix != ".parquet":
        return [Piece(path, 0, 0, _arrow(path).num_rows)]
    try:
        meta = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _guarded(path) from error
    rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    return [Piece(path, group, sum(rows[:group]), some) for group, some in enumerate(rows)]


def _keys(root: Path, piece: Piece) -> list[str]:
    name = piece.path.relative_to(root).as_posix()
    return [f"{name}#{piece.first + row}" for row in range(piece.rows)]


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The picture {path} cannot be read ({error.strerror}): {_REMEDY}.") from error


def _named(root: Path, columns: Sequence[str], given: str | None, usual: Sequence[str]) -> str:
    names = usual if given is None else (given,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise UserError(
            f"{root} has no column {' or '.join(names)}, only {', '.join(columns)}: name another."
        )
    return found


def _labels(
    root: Path, pieces: Sequence[Piece], column: str, keys: Sequence[str]
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """The classes' names and every row's place among them; -1 is Hugging Face's word for no label."""
    cells = [value for piece in pieces for value in _column(piece.path, piece.group, column).to_pylist()]
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
        raise UserError(f"{root} has the label {labels.max()} and names {len(names)} classes: {_REMEDY}.")
    return names, labels


def _class_names(path: Path, column: str) -> list[str] | None:
    """What the metadata calls the classes; None if it says nothing."""
    told = (_schema(path).metadata or {}).get(b"huggingface")
    if told is not None:
        features = _features(path, told)
    elif (path.parent / "dataset_info.json").is_file():
        features = _json(path.parent / "dataset_info.json").get("features", {})
    else:
        return None
    names = (features.get(column) or {}).get("names")
    return [str(name) for name in names] if names else None


def _features(path: Path, told: bytes) -> Mapping[str, Any]:
    try:
        features: Mapping[str, Any] = json.loads(told)["info"]["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has damaged metadata of Hugging Face ({error!r}): {_REMEDY}.") from error
    return features
