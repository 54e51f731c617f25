"""Other people's benchmark files: where they lie, and what is in their rows' cells (see ``data.tables``)."""

import base64
import binascii
import fnmatch
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from paribus.data.decoding import decode_image
from paribus.data.hub import fetch_dataset
from paribus.data.tables import Row, all_rows
from paribus.errors import UserError
from paribus.types import Config, Stamp
from paribus.vqa.benchmark import LETTERS, Question

Picture = UInt8[np.ndarray, "H W 3"]
LONGEST_NAME = 64
"""Characters: a picture's cell that is no longer names another row (VLMEvalKit, ``ImageBaseDataset``)."""

_DATA_URI = re.compile(r"data:[\w/+.-]+;base64,")


class Reader(Config, ABC):
    """A benchmark that others publish: where its files are, and how they become questions."""

    kind: str = ""
    """The name in the registry; every reader narrows it to its own."""

    path: str = Field(
        min_length=1,
        description="a file, a folder, or a data set of the hub: OWNER/NAME or OWNER/NAME@REVISION",
    )

    @abstractmethod
    def tables(self) -> list[Path]:
        """The files of its rows, in their order; those of a data set are fetched.

        Raises:
            UserError: there is none.
        """

    @abstractmethod
    def read(self) -> Iterator[Question]:
        """The questions, one by one, with their positions from 0.

        Raises:
            UserError: a file is missing or cannot be read, or a row is not as published.
        """


# Where the files are.


def home(path: str, wanted: Sequence[str]) -> Path:
    """The file or folder that a path names; a data set's wanted files are fetched from the hub.

    Args:
        path: a local file or folder, else ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        wanted: patterns of the files to fetch.

    Raises:
        UserError: there is no such file, or the hub cannot be reached or does not have it.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    return fetch_dataset(path, wanted, "set path to a file or a folder that holds its files")


def matching(place: Path, *patterns: str) -> list[Path]:
    """The files below a folder that match the first pattern that any matches, by name; a file is itself.

    Raises:
        UserError: there is none.
    """
    if place.is_file():
        return [place]
    there = (file for file in place.rglob("*") if file.is_file() and not file.name.startswith("."))
    files = {file.relative_to(place).as_posix(): file for file in there}
    for pattern in patterns:
        # As the hub's own patterns: a star also stands for slashes.
        found = sorted(name for name in files if fnmatch.fnmatchcase(name, pattern))
        if found:
            return [files[name] for name in found]
    raise UserError(f"The folder {place} has no {' or '.join(patterns)}: set path to the benchmark's files.")


# What is in a cell.


_opened: ContextVar[dict[Path, Stamp] | None] = ContextVar("opened", default=None)


@contextmanager
def opened() -> Iterator[dict[Path, Stamp]]:
    """Collect the picture files that are read meanwhile, and what they are like."""
    found: dict[Path, Stamp] = {}
    token = _opened.set(found)
    try:
        yield found
    finally:
        _opened.reset(token)


@dataclass(frozen=True)
class Pictures:
    """Pictures out of cells: bytes, {bytes, path}, a path, base64, or the name of a row that has the picture.

    Args:
        folder: what paths are relative to.
        lent: row's name -> the row that has its picture; see ``lenders``.
    """

    folder: Path
    lent: Mapping[str, Row] = field(default_factory=dict)

    def of(self, row: Row, column: str) -> Picture:
        """A row's picture, as RGB.

        Raises:
            UserError: there is none, or it cannot be decoded.
        """
        value = row.cell(column)
        if isinstance(value, dict):  # Hugging Face's image: the bytes or, of local files, where they are
            value = value.get("bytes") or value.get("path")
        if value is None:
            raise row.fault(column, "there is no picture")
        if isinstance(value, str):
            return self._of_text(row, column, value)
        if not isinstance(value, bytes):
            raise row.fault(column, "it is no picture")
        return _decoded(row, column, value)

    def _of_text(self, row: Row, column: str, text: str) -> Picture:
        if not _DATA_URI.match(text):
            if is_name(text) and text in self.lent:
                return self.of(self.lent[text], column)
            if is_path(text) or is_name(text):
                return self.at(row, column, text)
        try:
            blob = base64.b64decode(_DATA_URI.sub("", text, count=1), validate=True)
        except binascii.Error as error:
            raise row.fault(column, f"the picture's base64 is damaged ({error})") from error
        return _decoded(row, column, blob)

    def at(self, row: Row, column: str, path: str) -> Picture:
        """A picture file that a row names.

        Raises:
            UserError: there is no such file, or it cannot be decoded.
        """
        try:
            written = (self.folder / path).stat().st_mtime_ns
            blob = (self.folder / path).read_bytes()
        except OSError as error:
            raise row.fault(
                column, f"there is no picture {self.folder / path}", "look at where the pictures are"
            ) from error
        if (collected := _opened.get()) is not None:
            digest = hashlib.sha256(blob).hexdigest()
            collected[self.folder / path] = Stamp(bytes=len(blob), mtime=written, sha256=digest)
        return _decoded(row, column, blob)


def is_path(text: str) -> bool:
    """Whether a picture's cell is a path: those have a suffix, and base64 has no dot."""
    return "." in text


def is_name(text: str) -> bool:
    """Whether a picture's cell is too short for a picture, and so names another row."""
    return len(text) <= LONGEST_NAME and not is_path(text)


def _decoded(row: Row, column: str, blob: bytes) -> Picture:
    try:
        return decode_image(blob)
    except ValueError as error:
        raise row.fault(column, "the picture cannot be decoded") from error


def lenders(files: Sequence[Path], index: str, image: str) -> dict[str, Row]:
    """The rows whose pictures other rows of a TSV or CSV name, by the names: VLMEvalKit saves space so.

    Raises:
        UserError: a row names one that is not there, or that has no picture of its own.
    """
    tables = [file for file in files if file.suffix.lower() in (".tsv", ".csv")]
    borrowers: dict[str, Row] = {}
    for row in all_rows(tables):
        if image in row.cells and index in row.cells and _borrows(row, image):
            borrowers.setdefault(row.text(image), Row(row.file, row.number, {}))
    if not borrowers:
        return {}
    found = {row.text(index): row for row in all_rows(tables) if row.text(index) in borrowers}
    for name, borrower in borrowers.items():
        if name not in found or _borrows(found[name], image):
            raise borrower.fault(image, f"it names row {name!r}, which has no picture")
    return found


def _borrows(row: Row, image: str) -> bool:
    value = row.cell(image)
    return isinstance(value, str) and is_name(value)


# What questions have in common.


def letter(row: Row, column: str, count: int) -> str:
    """An answer's letter, of so many options.

    Raises:
        UserError: it is not one of them.
    """
    return row.one_of(column, tuple(LETTERS[:count]))


def check_count(found: int, published: int, name: str, path: str) -> None:
    """See that all that was published is there.

    Raises:
        UserError: it is not.
    """
    if found != published:
        less = "get the files again, or set partial: true for a part"
        raise UserError(f"{name} has {published:,}, and {path} has {found:,}: {less}.")
