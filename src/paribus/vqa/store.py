"""Questions as they are kept on disk, from whichever benchmark: images.bin, table.parquet and meta.json.

Pictures are PNG, one after another; equal ones are kept once. ``meta.json`` is written last and has the
SHA-256 of the other two, which are checked whenever the questions are opened.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paribus.data.draw import decode, encode
from paribus.errors import UserError
from paribus.files import sha256, whole_folder, write_json
from paribus.progress import progress
from paribus.vqa.benchmark import Question

IMAGES, TABLE, META = "images.bin", "table.parquet", "meta.json"
FILES = (IMAGES, TABLE)

_FIELDS = {
    "index": pa.int64(),
    "question": pa.string(),
    "options": pa.list_(pa.string()),
    "answer": pa.string(),
    "category": pa.string(),
    "source": pa.string(),
    "key": pa.string(),
    "group": pa.string(),
    "lettered": pa.bool_(),
}
"""A question's own fields, but for its picture."""

_SCHEMA = pa.schema({**_FIELDS, "split": pa.string(), "offset": pa.int64(), "length": pa.int64()})


class Record(NamedTuple):
    """A question as it is stored: its fields, its split, and its picture as PNG."""

    row: dict[str, Any]
    blob: bytes


def record(question: Question, split: str = "") -> Record:
    """What is stored of a question; ``split`` tells sets of questions in one folder apart."""
    row = {name: getattr(question, name) for name in _FIELDS}
    return Record({**row, "options": list(question.options), "split": split}, encode(question.image))


def write(questions: Iterable[Question], folder: Path, about: Mapping[str, Any]) -> None:
    """Store one set of questions, whole or not at all.

    Args:
        questions: what to store, read once.
        folder: where; replaced if there are questions in it.
        about: where they come from, for ``meta.json``.

    Raises:
        UserError: there are none, two share a key, ``folder`` holds something else, or the disk is full.
    """
    bar = progress(questions, label="Storing questions", unit="question")
    write_records((record(question) for question in bar), folder, about)


def write_records(records: Iterable[Record], folder: Path, about: Mapping[str, Any]) -> None:
    """Store questions that may be of several splits; see ``write``."""
    if folder.exists() and any(folder.iterdir()) and not (folder / META).exists():
        raise UserError(f"The folder {folder} holds other files: choose an empty or new folder.")
    with whole_folder(folder) as temporary:
        with (temporary / IMAGES).open("wb") as images:
            rows = _stored(records, images)
        if not rows:
            raise UserError(f"There are no questions to store in {folder}: look at where they come from.")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary / TABLE)
        meta = {
            **about,
            "counts": Counter(row["split"] for row in rows),
            "sha256": {name: sha256(temporary / name) for name in FILES},
        }
        write_json(temporary / META, meta)


def _stored(records: Iterable[Record], images: BinaryIO) -> list[dict[str, Any]]:
    """Write the pictures; the rows with where each one's picture is."""
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    places: dict[bytes, int] = {}
    for row, blob in records:
        if row["key"] in keys:
            raise UserError(f"Two questions have the key {row['key']}: make the benchmark's rows differ.")
        keys.add(row["key"])
        digest = hashlib.sha256(blob).digest()
        if digest not in places:
            places[digest] = images.tell()
            images.write(blob)
        rows.append({**row, "offset": places[digest], "length": len(blob)})
    return rows


class Stored:
    """One stored set of questions (a ``Benchmark``).

    Args:
        folder: where ``write`` put them.
        split: which of several sets in the folder.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, split: str = "") -> None:
        self.folder, self.split = folder, split
        self.meta = self._verified_meta()
        table = pq.read_table(folder / TABLE, filters=[("split", "=", split)])
        self._rows: Sequence[dict[str, Any]] = table.to_pylist()
        self._images = np.memmap(folder / IMAGES, np.uint8, mode="r")

    def again(self) -> str:
        """What to do about damage."""
        return f"delete {self.folder} and store the questions again"

    def _verified_meta(self) -> dict[str, Any]:
        """``meta.json``, if the files are what it says."""
        path = self.folder / META
        try:
            meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            wanted = {name: meta["sha256"][name] for name in FILES}
            meta["counts"][self.split]
        except FileNotFoundError as error:
            raise UserError(
                f"There are no questions in {self.folder} (no {META}): {self.again()}."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The file {path} is damaged: {self.again()}.") from error
        for name, digest in wanted.items():
            if not (self.folder / name).is_file():
                raise UserError(f"The file {self.folder / name} is missing: {self.again()}.")
            if sha256(self.folder / name) != digest:
                raise UserError(
                    f"The file {self.folder / name} is damaged (its SHA-256 is not the one in {META}): "
                    f"{self.again()}."
                )
        return meta

    def __len__(self) -> int:
        return len(self._rows)

    def question(self, index: int, /) -> Question:
        """The question at a position."""
        row = self._rows[index]
        blob = self._images[row["offset"] : row["offset"] + row["length"]]
        fields = {**{name: row[name] for name in _FIELDS}, "options": tuple(row["options"])}
        return Question(**fields, image=decode(np.asarray(blob)))

    @property
    def digest(self) -> str:
        """SHA-256 over the files' digests and the split: equal digests mean equal questions."""
        parts = [*(self.meta["sha256"][name] for name in FILES), self.split]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
