"""NaturalBench: two pictures and two questions whose answers swap, so that no blind guess wins (2410.14669).

Published as BaiqiL/NaturalBench: three shards ``data/train-*.parquet`` of 1,900 groups, columns Index,
Image_0, Image_1, Question_0, Question_1, the four answers Image_0_Question_0 to Image_1_Question_1,
Question_Type (its card says "Question Type") and Source. A ``yes_no`` question is answered Yes or No, a
``multiple_choice`` one, which has its options in its text, A or B. Groups are right if all four answers are.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from paribus.data.tables import Row, all_rows
from paribus.vqa.benchmark import Question
from paribus.vqa.records import Picture, Pictures, Reader, check_count, home, letter, matching

GROUPS = 1_900
_FILES = "*train-*.parquet"
_TYPES = ("Question_Type", "Question Type")

_BOTH = r"A\s*[:.)]\s*(?P<a>\S.*?)[\s;,]+\(?B\s*[:.)]\s*(?P<b>\S.*)"
_OPTIONS = (
    re.compile(rf"(?P<stem>.*\S)\s*Options?:\s*\(?{_BOTH}", re.DOTALL),
    re.compile(rf"(?P<stem>.*\?)\s+\(?{_BOTH}", re.DOTALL),
)
"""How texts name their options: "Why? Option: A: one; B: two;" and "Why? A. one B. two"."""


class Asked(NamedTuple):
    """A question's text and how it is answered."""

    kind: str
    text: str
    options: tuple[str, str]
    lettered: bool


class NaturalBenchConfig(Reader):
    """All of NaturalBench."""

    kind: Literal["naturalbench"] = "naturalbench"
    path: str = Field(
        "BaiqiL/NaturalBench", min_length=1, description="the folder of its shards, or a data set of the hub"
    )
    partial: bool = Field(False, description="whether a part of the groups will do")

    def tables(self) -> list[Path]:
        """Its parquet files.

        Raises:
            UserError: there is none.
        """
        return matching(home(self.path, [_FILES]), _FILES, "*.parquet")

    def read(self) -> Iterator[Question]:
        """Four questions a group: each question on picture 0, then on picture 1.

        Raises:
            UserError: a file is missing or cannot be read, a row is not as published, or some are missing.
        """
        files = self.tables()
        if not self.partial:
            found = sum(1 for _ in all_rows(files, ("Index",)))
            check_count(found, GROUPS, "NaturalBench", self.path)
        pictures = Pictures(files[0].parent)
        for number, row in enumerate(all_rows(files)):
            yield from _group(4 * number, row, pictures)


def _group(place: int, row: Row, pictures: Pictures) -> Iterator[Question]:
    group = f"naturalbench-{row.whole('Index'):04d}"
    images = [pictures.of(row, f"Image_{number}") for number in (0, 1)]
    for number in (0, 1):
        asked = _asked(row, f"Question_{number}")
        for shown, image in enumerate(images):
            yield _question(place + 2 * number + shown, row, asked, (group, number, shown), image)


def _question(place: int, row: Row, asked: Asked, name: tuple[str, int, int], image: Picture) -> Question:
    group, number, shown = name
    column = f"Image_{shown}_Question_{number}"
    return Question(
        index=place,
        question=asked.text,
        options=asked.options,
        answer=row.yes_or_no(column) if asked.kind == "yes_no" else letter(row, column, 2),
        category="NaturalBench",
        image=image,
        source=row.text_or("Source", "NaturalBench"),
        key=f"{group}-q{number}-i{shown}",
        group=group,
        lettered=asked.lettered,
    )


def _asked(row: Row, column: str) -> Asked:
    """What is asked; options named in a way that is not known here stay in the text, and letters are said."""
    text = row.text(column).strip()
    kind = row.one_of(row.which(*_TYPES), ("yes_no", "multiple_choice"))
    if kind == "yes_no":
        return Asked(kind, text, ("Yes", "No"), lettered=False)
    for shape in _OPTIONS:
        if found := shape.fullmatch(text):
            given = (_trimmed(found["a"]), _trimmed(found["b"]))
            return Asked(kind, found["stem"].strip(), given, lettered=True)
    return Asked(kind, text, ("A", "B"), lettered=False)


def _trimmed(option: str) -> str:
    return option.strip(" ;,\n")
