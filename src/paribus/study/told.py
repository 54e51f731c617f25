"""What a person says of the pictures of a folder: captions or labels in a table, in whatever order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paribus.data.tables import Row, rows
from paribus.datasets.table import FILES
from paribus.errors import UserError

Told = dict[str, tuple[str, ...]]
"""Column -> a text for each picture, empty where nothing is said."""


def read_told(table: Path, keys: Sequence[str]) -> Told:
    """What a table says of pictures, column by column.

    A row names a picture by its path below the folder, or by its file's name with or without the suffix where
    only one picture has it. Rows of other pictures are passed over.

    Args:
        table: .csv, .tsv, .jsonl, .json or .parquet, with a column of names (``FILES``) and others of texts.
        keys: the pictures' paths.

    Raises:
        UserError: the table cannot be read, has no column of names, names a picture twice, or none of them.
    """
    place, texts = _places(keys), dict[str, list[str]]()
    strangers, named = list[str](), set[int]()
    for row in rows(table):
        given = next((name for name in FILES if name in row.cells), None)
        if given is None:
            raise row.fault(FILES[0], f"there is no column of pictures' names, one of {', '.join(FILES)}")
        name = row.text(given).removeprefix("./")
        at = place.get(name)
        if at is None:
            strangers.append(name)
            continue
        if at in named:
            raise row.fault(given, f"{name!r} stands there twice")
        named.add(at)
        for column in row.cells.keys() - {given, ""}:
            texts.setdefault(column, [""] * len(keys))[at] = _said(row, column)
    if not named:
        raise UserError(
            f"{table} names none of the {len(keys):,} pictures (its first row names {strangers[0]!r}, and "
            f"the first picture is {keys[0]!r}): name them by their paths below the folder."
        )
    if not texts:
        raise UserError(f"{table} has names of pictures and nothing else: give it a column of what is said.")
    return {column: tuple(texts[column]) for column in sorted(texts)}


def _said(row: Row, column: str) -> str:
    """A cell's text; of blanks alone none."""
    value = row.cells[column]
    return "" if isinstance(value, str) and not value.strip() else row.text_or(column, "")


def column_of(told: Told, column: str, table: Path) -> tuple[str, ...]:
    """One column of a table.

    Raises:
        UserError: it is not there, or says nothing of any picture.
    """
    if column not in told:
        raise UserError(f"{table} has no column {column!r}, only {', '.join(told) or 'names'}: name another.")
    if not any(told[column]):
        raise UserError(f"{table} has nothing in its column {column!r}: name another.")
    return told[column]


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Every name that stands for one picture only."""
    shorter = [{key.rpartition("/")[2], key.rpartition("/")[2].rpartition(".")[0]} for key in keys]
    count = Counter(name for names in shorter for name in names)
    known = {name: at for at, names in enumerate(shorter) for name in names if count[name] == 1}
    return known | {key: at for at, key in enumerate(keys)}
