"""The files of Hugging Face's ``datasets``: parquet as on the hub, or what save_to_disk wrote.

Both are read by pyarrow alone.
"""

import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from paribus.errors import UserError

IMAGES = ("image", "img", "picture")
"""What the column of pictures may be called; the first that is there is taken."""

AGAIN = "get the data set again"

WORDS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What a split may be called -> what it is."""

_SHARD = re.compile(r"(\w+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?)?\.(?:parquet|arrow)")


class Piece(NamedTuple):
    """Rows that are read at once: a row group of a parquet file, or all of an Arrow file."""

    path: Path
    group: int
    first: int
    """Its first row's number in the file."""
    rows: int


# Files.


def is_saved(root: Path) -> bool:
    """Whether a folder is what save_to_disk writes."""
    return any((root / name).is_file() for name in ("dataset_dict.json", "state.json"))


def find_files(root: Path) -> dict[str, list[Path]]:
    """Split -> its files, in order; of a data set without splits, one split of no name.

    Args:
        root: the data set's folder, or its only file.

    Raises:
        UserError: there are none.
    """
    if root.is_file():
        return {"": [root]}
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give a folder of Hugging Face's files.")
    if (root / "dataset_dict.json").is_file():
        splits = read_json(root / "dataset_dict.json").get("splits", ())
        return {str(split): _saved(root / str(split)) for split in splits}
    if (root / "state.json").is_file():
        return {"": _saved(root)}
    files = parquets(root) or sorted(root.glob("*.arrow"))  # as load_dataset keeps them
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
        found.setdefault(file_split(root, file), []).append(file)
    return found


def parquets(root: Path) -> list[Path]:
    """The parquet files in a folder and in the folders in it."""
    return sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")])


def _is_split(root: Path, folder: Path) -> bool:
    """Whether a folder is a split, as where the hub has made parquet of other files: train/0000.parquet."""
    return folder != root and folder.name in WORDS


def file_split(root: Path, file: Path) -> str:
    """The split that a file's name, or its folder's, says it is of."""
    if _is_split(root, file.parent):
        return file.parent.name
    named = _SHARD.fullmatch(file.name)
    return named[1] if named else file.stem


def _saved(folder: Path) -> list[Path]:
    """The files that save_to_disk says it wrote into a folder."""
    named = read_json(folder / "state.json").get("_data_files", ())
    files = [folder / str(one["filename"]) for one in named if isinstance(one, Mapping) and "filename" in one]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise UserError(f"There is no {missing or folder / 'data-*.arrow'}: {AGAIN}.")
    return files


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object of the data set's own.

    Raises:
        UserError: it is not there or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not there or cannot be read as JSON ({error}): {AGAIN}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: {AGAIN}.")
    return found


# Columns.


def damaged(path: Path) -> UserError:
    """A file that is not what its name says, as an error to raise."""
    return UserError(f"{path} is no {path.suffix[1:]} file, or a damaged one: {AGAIN}.")


def read_schema(path: Path) -> Any:
    """A file's columns.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return pq.read_schema(path) if path.suffix == ".parquet" else _arrow(path).schema
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error


@functools.lru_cache(maxsize=64)
def _arrow(path: Path) -> Any:
    """An Arrow file, mapped into memory and not read."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error


@functools.lru_cache(maxsize=4)
def read_column(path: Path, group: int, column: str) -> Any:
    """One column of a piece; of parquet it is read, and the last few stay in memory.

    Raises:
        UserError: the file is damaged.
    """
    if path.suffix != ".parquet":
        return _arrow(path).column(column)
    try:
        with pq.ParquetFile(path) as parquet:
            return parquet.read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error


def pieces_of(path: Path) -> list[Piece]:
    """What a file's rows can be read in.

    Raises:
        UserError: the file is damaged.
    """
    if path.suffix != ".parquet":
        return [Piece(path, 0, 0, _arrow(path).num_rows)]
    try:
        meta = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error
    rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    firsts = itertools.accumulate(rows, initial=0)
    return [
        Piece(path, group, first, some) for group, (first, some) in enumerate(zip(firsts, rows, strict=False))
    ]


def column_named(root: Path, columns: Sequence[str], given: str | None, usual: Sequence[str]) -> str:
    """The column that a person named, or the first of the usual names that is there.

    Raises:
        UserError: there is none.
    """
    names = usual if given is None else (given,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise UserError(
            f"{root} has no column {' or '.join(names)}, only {', '.join(columns)}: name another."
        )
    return found
