"""Anybody's questions with options: a table of any common format, and which of its columns is what."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from paribus.data.tables import Row, all_rows
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.records import Pictures, Reader, home, lenders, letter, matching

_ROWS = ("*.parquet", "*.jsonl", "*.json", "*.tsv", "*.csv")


class ChoiceConfig(Reader):
    """A table of questions, by default with VMCBench's and MMBench's columns."""

    kind: Literal["choice"] = "choice"
    name: str = Field("choice", min_length=1, description="of the questions, where no column gives one")
    files: str = Field(
        "", description="pattern of the files of a folder or data set, e.g. data/test-*.parquet"
    )
    images: str = Field(
        "", description="the folder that pictures' paths start from; if empty, the file's own"
    )
    index: str = Field("index", description="column that rows are named by, where pictures name other rows")
    question: str = "question"
    options: str | tuple[str, ...] = Field(
        ("A", "B", "C", "D"), description="columns, of which the last may be empty; or one column of lists"
    )
    answer: str = Field("answer", description="column; empty: the answers are not published")
    answers: Literal["letter", "index", "option"] = Field(
        "letter", description="what an answer is: a letter, a place from 0, or an option's text"
    )
    image: str = "image"
    category: str = ""
    source: str = ""
    group: str = Field("", description="column; questions of a group are right together")
    lettered: bool = Field(True, description="whether an answer says a letter; if not, the option itself")

    def tables(self) -> list[Path]:
        """Those that match the pattern, or have rows.

        Raises:
            UserError: there is none.
        """
        patterns = (self.files,) if self.files else _ROWS
        return matching(home(self.path, patterns), *patterns)

    def read(self) -> Iterator[Question]:
        """The questions in the order of the files.

        Raises:
            UserError: a file is missing or cannot be read, or a row lacks what its columns should have.
        """
        files = self.tables()
        folder = Path(self.images).expanduser() if self.images else files[0].parent
        pictures = Pictures(folder, lenders(files, self.index, self.image))
        for place, row in enumerate(all_rows(files)):
            yield self._question(place, row, pictures)

    def _question(self, place: int, row: Row, pictures: Pictures) -> Question:
        options = self._options(row)
        category = row.text(self.category) if self.category else self.name
        return Question(
            index=place,
            question=row.text(self.question),
            options=options,
            answer=self._answer(row, options),
            category=category,
            image=pictures.of(row, self.image),
            source=row.text(self.source) if self.source else category,
            key=f"{self.name}-{place:06d}",
            group=f"{self.name}-{row.text(self.group)}" if self.group else "",
            lettered=self.lettered,
        )

    def _options(self, row: Row) -> tuple[str, ...]:
        if isinstance(self.options, str):
            options = _listed(row, self.options)
            named = self.options
        else:
            given = [column for column in self.options if row.cell(column) is not None]
            # Fewer options than columns is common; one that is missing in between is a mistake.
            options = tuple(row.text(column) for column in self.options[: len(given)])
            named = ", ".join(self.options)
        if not 2 <= len(options) <= len(LETTERS):
            raise row.fault(named, f"there are {len(options)} options, which must be 2 to {len(LETTERS)}")
        return options

    def _answer(self, row: Row, options: tuple[str, ...]) -> str:
        if not self.answer:
            return ""
        place = self._place(row, options)
        return LETTERS[place] if self.lettered else options[place]

    def _place(self, row: Row, options: tuple[str, ...]) -> int:
        if self.answers == "letter":
            return LETTERS.index(letter(row, self.answer, len(options)))
        if self.answers == "index":
            return int(row.one_of(self.answer, [str(place) for place in range(len(options))]))
        said = row.one_of(self.answer, options)
        if options.count(said) > 1:
            raise row.fault(self.answer, f"{said!r} is two of the options")
        return options.index(said)


def _listed(row: Row, column: str) -> tuple[str, ...]:
    """A cell's list of options; a text is read as JSON."""
    value: Any = row.cell(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise row.fault(column, "it is no list in JSON", 'write ["cat", "dog"]') from error
    if not isinstance(value, list):
        raise row.fault(column, "it is no list of options")
    return tuple(Row(row.file, row.number, {column: option}).text(column) for option in value)
