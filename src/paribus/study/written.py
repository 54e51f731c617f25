"""The stage that reads what is written in some of a folder's pictures; an OCR extra does it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from paribus.analysis.reading import read_words, reader
from paribus.data.folder import Folder
from paribus.files import whole_file
from paribus.progress import progress
from paribus.study.pictures import Pictures
from paribus.study.stage import Stage
from paribus.types import Config, Runtime

_READ, _WORDS = ".read.jsonl", "words.jsonl"
"""What a run that goes on has read so far, picture by picture; and all of it."""


class WrittenRecord(Config):
    """How many pictures have words in them, and of how many."""

    written: int
    pictures: int


class Written(Stage[WrittenRecord]):
    """Words in pictures, without case and punctuation."""

    name: ClassVar[str] = "written"
    version: int = 1
    pictures: Pictures
    rows: tuple[int, ...]

    def compute(self, folder: Path, runtime: Runtime) -> WrittenRecord:
        """Read the pictures that were not read before; one line each.

        Raises:
            UserError: the extra ``ocr`` is not installed.
        """
        images, begun = self.pictures.open(runtime), folder / _READ
        found = _lines(begun)[: len(self.rows)]
        begun.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")  # without a torn last line
        with begun.open("a", encoding="utf-8") as out:
            for words in read_words(self._rest(images, len(found))):
                found.append(json.dumps(sorted(words), ensure_ascii=False))
                out.write(f"{found[-1]}\n")
                out.flush()
        with whole_file(folder / _WORDS) as path:
            path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        begun.unlink()
        return WrittenRecord(written=sum(line != "[]" for line in found), pictures=len(found))

    def _rest(self, images: Folder, done: int) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
        bar = progress(self.rows[done:], label="Reading words", unit="picture")
        return (images.image(row) for row in bar)

    def open(self, runtime: Runtime) -> list[frozenset[str]]:
        """The words in each picture, in the order of ``rows``."""
        return [frozenset(json.loads(line)) for line in _lines(self.folder(runtime) / _WORDS)]


def check_reader() -> None:
    """See, before anything is computed, that words can be read.

    Raises:
        UserError: the extra ``ocr`` is not installed.
    """
    reader()


def _lines(path: Path) -> list[str]:
    """Whole lines; nothing where there is no file."""
    try:
        *whole, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [line.decode() for line in whole]
