"""MMVP: pairs of pictures that CLIP takes for the same, each pair with one question (arXiv 2401.06209).

Published as MMVP/MMVP: ``Questions.csv`` (columns Index, spelt lndex in the first release, Question, Options,
Correct Answer) beside ``MMVP Images/1.jpg`` to ``300.jpg``. Options are written "(a) Open (b) Closed" and the
answer "(a)". Questions 1 and 2, 3 and 4, and so on, are pairs, which count only if both answers are right.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from paribus.data.tables import Row, rows
from paribus.errors import UserError
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.records import Pictures, Reader, check_count, home, matching

COUNT = 300
_TABLE = "Questions.csv"
_MARK = re.compile(r"(?:^|(?<=\s))\(([a-z])\)\s*")


class MMVPConfig(Reader):
    """All of MMVP."""

    kind: Literal["mmvp"] = "mmvp"
    path: str = Field(
        "MMVP/MMVP", min_length=1, description="the folder of Questions.csv, or a data set of the hub"
    )
    partial: bool = Field(False, description="whether a part of the pairs will do")

    def tables(self) -> list[Path]:
        """The table.

        Raises:
            UserError: there is none.
        """
        return matching(home(self.path, [_TABLE, "MMVP Images/*.jpg"]), f"*{_TABLE}")[:1]

    def read(self) -> Iterator[Question]:
        """The questions in their order.

        Raises:
            UserError: a file is missing or cannot be read, a row is not as published, or some are missing.
        """
        (table,) = self.tables()
        found = list(rows(table))
        _check_pairs(table, [_number(row) for row in found])
        if not self.partial:
            check_count(len(found), COUNT, "MMVP", self.path)
        pictures = Pictures(table.parent)
        for place, row in enumerate(found):
            yield _question(place, row, pictures)


def _number(row: Row) -> int:
    return row.whole(row.which("Index", "lndex"))


def _check_pairs(table: Path, numbers: list[int]) -> None:
    if len(set(numbers)) != len(numbers):
        raise UserError(f"{table} has a number twice: get the file again.")
    for number in numbers:
        other = number + 1 if number % 2 else number - 1
        if other not in numbers:
            raise UserError(
                f"{table} has question {number} and not {other}, which is its pair: get the file again."
            )


def _question(place: int, row: Row, pictures: Pictures) -> Question:
    number, options = _number(row), _options(row)
    marks = tuple(f"({letter.lower()})" for letter in LETTERS[: len(options)])
    said = row.text("Correct Answer").strip()
    if said not in marks:
        raise row.fault("Correct Answer", f"{said!r} is not one of {', '.join(marks)}")
    return Question(
        index=place,
        question=row.text("Question").strip(),
        options=options,
        answer=LETTERS[marks.index(said)],
        category="MMVP",
        image=pictures.at(row, row.which("Index", "lndex"), f"MMVP Images/{number}.jpg"),
        source="MMVP",
        key=f"mmvp-{number:03d}",
        group=f"mmvp-{(number - 1) // 2 + 1:03d}",
    )


def _options(row: Row) -> tuple[str, ...]:
    """The options of "(a) Open (b) Closed"."""
    before, *parts = _MARK.split(row.text("Options").strip())
    names, texts = parts[::2], tuple(text.strip() for text in parts[1::2])
    expected = [letter.lower() for letter in LETTERS[: len(names)]]
    if before or len(names) < 2 or names != expected or not all(texts):
        raise row.fault("Options", f"{row.text('Options')!r} is not of the form (a) ... (b) ...")
    return texts
