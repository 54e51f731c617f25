"""Pictures that a table tells captions of, one or several each: for retrieval, with nothing to learn."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from paribus.data.tables import rows
from paribus.datasets.base import Dataset, Settings, make_dataset, picture_part
from paribus.datasets.listing import check_there
from paribus.datasets.table import FILES, column_of
from paribus.errors import UserError

CAPTIONS = ("caption", "text", "captions", "sentence", "title")
"""What the column may be called; the first that is there is taken."""


class Captions(NamedTuple):
    """Pictures in the order of their first row, and captions in the order of rows."""

    files: tuple[str, ...]
    texts: tuple[str, ...]
    image_of: Int64[np.ndarray, " M"]
    """The picture of each caption."""


def read_captions(table: Path, settings: Settings) -> Captions:
    """The captions of a table; a picture may stand in several rows.

    Args:
        table: csv, tsv, jsonl, json or parquet.
        settings: names of the columns of pictures (``file``) and captions (``label``).

    Raises:
        UserError: the table cannot be read or lacks a column, or a row has no caption.
    """
    if not table.is_file():
        raise UserError(f"There is no table {table}: give one with the columns file and caption.")
    files, texts, image_of = dict[str, int](), list[str](), list[int]()
    for row in rows(table):
        path = row.text(column_of(row, settings.file, FILES, "pictures")).removeprefix("./")
        texts.append(row.text(column_of(row, settings.label, CAPTIONS, "captions")))
        image_of.append(files.setdefault(path, len(files)))
    if len(files) < 2:
        raise UserError(f"{table} tells captions of {len(files)} pictures: give at least 2.")
    return Captions(tuple(files), tuple(texts), np.array(image_of, dtype=np.int64))


def read(root: Path, settings: Settings) -> Dataset:
    """The pictures alone, each a class of its own.

    Raises:
        UserError: as ``read_captions``; a picture is not there.
    """
    found, folder = read_captions(root, settings), settings.images or root.parent
    check_there(folder, list(found.files), root)
    part = picture_part(folder, found.files, np.arange(len(found.files)))
    return make_dataset(root.stem, folder, found.files, {"test": part}, sources=[root])


def never(root: Path) -> bool:
    """A bare path is never taken for one: a table of labels looks the same."""
    del root
    return False
