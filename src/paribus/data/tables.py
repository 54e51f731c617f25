"""Tables wherever they lie, read row by row: parquet, TSV, CSV and JSON.

A row knows its file and its number, from 1, so that what is wrong with a cell can be said in one sentence.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from paribus.errors import UserError

Columns = Sequence[str] | None
"""Which columns are wanted; None for all of them."""

Read = Callable[[Path, Columns, str], Iterator[Mapping[str, Any]]]
"""How a file's rows are read; the last argument is ``open``'s ``errors``."""

AGAIN = "get the file again, or mend it"

LONGEST_ROW = 1_000
"""Lines of one row of CSV; a quotation mark that is never closed would take the rest of the file."""


@dataclass(frozen=True)
class Row:
    """One row of a file, numbered from 1."""

    file: Path
    number: int
    cells: Mapping[str, Any]

    def fault(self, column: str, what: str, remedy: str = AGAIN) -> UserError:
        """What is wrong with a cell, as an error to raise."""
        return UserError(f"{self.file}, row {self.number}, column {column!r}: {what}; {remedy}.")

    def which(self, *columns: str) -> str:
        """Of several names of one column, the first that this row has; the first of all if it has none."""
        return next((column for column in columns if column in self.cells), columns[0])

    def cell(self, column: str) -> Any:
        """A cell as it is in the file; None if it is empty.

        Raises:
            UserError: there is no such column.
        """
        if column not in self.cells:
            known = ", ".join(str(name) for name in self.cells)
            raise UserError(
                f"{self.file}, row {self.number}: it has no column {column!r}, only {known}; {AGAIN}."
            )
        value = self.cells[column]
        empty = value is None or (isinstance(value, float) and math.isnan(value)) or value in ("", b"")
        return None if empty else value

    def text(self, column: str) -> str:
        """A cell's text.

        Raises:
            UserError: it is empty, or no text.
        """
        value = self.cell(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self.fault(column, "it is empty")
        if not isinstance(value, str | int | float):
            raise self.fault(column, "it is no text")
        return str(value)

    def text_or(self, column: str, default: str) -> str:
        """A cell's text, or a default where there is no such column or nothing in it."""
        given = column in self.cells and self.cell(column) is not None
        return self.text(column) if given else default

    def whole(self, column: str) -> int:
        """A cell's whole number.

        Raises:
            UserError: it is none.
        """
        text = self.text(column).strip()
        if not re.fullmatch(r"-?\d+", text):
            raise self.fault(column, f"{text!r} is no whole number")
        return int(text)

    def one_of(self, column: str, known: Sequence[str]) -> str:
        """A cell's text, which is one of a few.

        Raises:
            UserError: it is not.
        """
        text = self.text(column)
        if text not in known:
            raise self.fault(column, f"{text!r} is not one of {', '.join(known)}")
        return text

    def yes_or_no(self, column: str) -> str:
        """``Yes`` or ``No``, in whichever case the file has it.

        Raises:
            UserError: it is neither.
        """
        text = self.text(column).strip().capitalize()
        if text not in ("Yes", "No"):
            raise self.fault(column, f"{self.text(column)!r} is neither yes nor no")
        return text


def rows(file: Path, columns: Columns = None, errors: str = "strict") -> Iterator[Row]:
    """The rows of one file, told by its suffix.

    Args:
        file: ``.parquet``, ``.tsv``, ``.csv``, ``.jsonl`` or ``.json`` (lines, or one list).
        columns: which ones; only parquet is faster for it.
        errors: what becomes of text that is no UTF-8, as ``open`` has it; strict: the file cannot be read.

    Raises:
        UserError: the file cannot be read, or has no rows.
    """
    read = FORMATS.get(file.suffix.lower())
    if read is None:
        raise UserError(f"{file} is no file of rows: give one of {', '.join(FORMATS)}.")
    number = 0
    for number, cells in enumerate(read(file, columns, errors), start=1):
        yield Row(file, number, cells)
    if number == 0:
        raise UserError(f"{file} has no rows: {AGAIN}.")


def all_rows(files: Sequence[Path], columns: Columns = None) -> Iterator[Row]:
    """The rows of several files; see ``rows``."""
    for file in files:
        yield from rows(file, columns)


def _parquet(file: Path, columns: Columns, errors: str) -> Iterator[Mapping[str, Any]]:
    del errors  # a string that is no UTF-8 makes it a damaged file
    # Few rows at a time: each has a picture of perhaps a megabyte.
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:  # or all is held
            for batch in parquet.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no parquet file, or a damaged one: get the file again.") from error


def _check_names(file: Path, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    if twice:
        raise UserError(f"{file} has two columns {twice[0]!r}: rename one of them.")


def _separated(separator: str) -> Read:
    def read(file: Path, columns: Columns, errors: str) -> Iterator[Mapping[str, Any]]:
        # A picture in base64 is longer than the 128 KiB that csv allows a cell.
        csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
        try:
            # Excel begins UTF-8 with a mark, which is no part of the first column's name.
            with file.open(encoding="utf-8-sig", errors=errors, newline="") as handle:
                reader = csv.DictReader(handle, delimiter=separator)
                _check_names(file, reader.fieldnames or ())
                line = reader.line_num
                for number, cells in enumerate(reader, start=1):
                    if None in cells:
                        raise UserError(f"{file}, row {number}: it has more cells than the header; {AGAIN}.")
                    if reader.line_num - line > LONGEST_ROW:
                        raise UserError(
                            f"{file}, row {number}: it goes from line {line + 1:,} to {reader.line_num:,}; "
                            "close its quotation mark, or double it."
                        )
                    line = reader.line_num
                    yield cells
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file} cannot be read as a table in UTF-8 ({error}): {AGAIN}.") from error

    return read


def _json(file: Path, columns: Columns, errors: str) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open(encoding="utf-8-sig", errors=errors) as handle:
            begins = handle.read(1)
            handle.seek(0)
            items = json.load(handle) if begins == "[" else (line for line in handle if line.strip())
            for number, item in enumerate(items, start=1):
                yield _object(file, number, item)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): {AGAIN}.") from error


def _object(file: Path, number: int, item: Any) -> Mapping[str, Any]:
    """A record: a line to be parsed, or what a list holds."""
    try:
        cells = json.loads(item) if isinstance(item, str) else item
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}, row {number}: it is no JSON ({error}); {AGAIN}.") from error
    if not isinstance(cells, dict):
        raise UserError(f"{file}, row {number}: it is no JSON object; {AGAIN}.")
    return cells


FORMATS: dict[str, Read] = {
    ".parquet": _parquet,
    ".tsv": _separated("\t"),
    ".csv": _separated(","),
    ".jsonl": _json,
    ".json": _json,
}
"""Suffix -> how a table is read."""
