"""What a person says of the pictures of a folder: captions or labels in a table, in whatever order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paribus.errors import UserError
from paribus.vqa.records import rows

FILES = ("file", "path", "filename", "file_name", "image", "name", "key")
"""What the column of the pictures' names may be called; the first that is there is taken."""


class Told(NamedTuple):
    """A text for each picture, empty where nothing is said; and how many have one."""

    texts: tuple[str, ...]
    said: int


def read_told(table: Path, column: str, keys: Sequence[str]) -> Told:
    """What a table says of pictures.

    A row names a picture by its path below the folder, or by its file's name with or without the suffix where
    only one picture has it. Rows of other pictures are passed over.

    Args:
        table: .csv, .tsv, .jsonl, .json or .parquet, with a column of names (``FILES``) and one of texts.
        column: the column of texts.
        keys: the pictures' paths.

    Raises:
        UserError: the table cannot be read, has no such column, names a picture twice, or none of them.
    """
    place = _places(keys)
    texts = [""] * len(keys)
    first, others = "", 0
    for row in rows(table):
        given = next((name for name in FILES if name in row.cells), None)
        if given is None:
            raise row.fault(FILES[0], f"there is no column of pictures' names, one of {', '.join(FILES)}")
        name = row.text(given).removeprefix("./")
        at = place.get(name)
        if at is None:
            first, others = first or name, others + 1
            continue
        if texts[at]:
            raise row.fault(given, f"{name!r} stands there twice")
        texts[at] = row.text_or(column, "") if column in row.cells else row.text(column)
    said = sum(map(bool, texts))
    if not said:
        told = f"its first row names {first!r}" if others else "it says nothing of any"
        raise UserError(
            f"{table} has no {column} of any of the {len(keys):,} pictures ({told}, and the first picture is "
            f"{keys[0]!r}): name them by their paths below the folder."
        )
    return Told(tuple(texts), said)


def folders_of(keys: Sequence[str]) -> tuple[str, ...]:
    """The folder that each picture is in, where labels are folders.

    Raises:
        UserError: none is in a folder.
    """
    folders = tuple(key.rpartition("/")[0] for key in keys)
    if not any(folders):
        raise UserError(
            "The pictures are in no folders that could be their labels: give a table with --labels, or put "
            "those of each label into a folder of its name."
        )
    return folders


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Every name that stands for one picture only."""
    shorter = [{key.rpartition("/")[2], key.rpartition("/")[2].rpartition(".")[0]} for key in keys]
    count = Counter(name for names in shorter for name in names)
    known = {name: at for at, names in enumerate(shorter) for name in names if count[name] == 1}
    return known | {key: at for at, key in enumerate(keys)}
