"""Answers written down for somebody else to score: a row a question, as CSV or as JSON."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paribus.errors import UserError
from paribus.files import whole_file
from paribus.vqa.benchmark import LETTERS, Question

Row = dict[str, str | int]


def _key(question: Question) -> str:
    return question.key


def write_answers(
    questions: Sequence[Question],
    said: Sequence[str],
    path: Path,
    index: Callable[[Question], str | int] = _key,
) -> None:
    """Write each question's index, words, options by letter, source (``category``) and ``prediction``.

    Args:
        questions: what was asked.
        said: an answer for each, as the question ``says`` it.
        path: the file, JSON if it is named so, else CSV; whole or not at all.
        index: what a question goes by.

    Raises:
        UserError: there are not as many answers as questions, or one is none of its question's options.
    """
    if len(questions) != len(said):
        raise UserError(f"There are {len(said)} letters for {len(questions)} questions: give one for each.")
    rows = [_row(question, answer, index) for question, answer in zip(questions, said, strict=True)]
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        if path.suffix.lower() == ".json":
            json.dump(rows, handle, ensure_ascii=False, indent=1)
        else:
            table = csv.DictWriter(handle, _columns(rows))
            table.writeheader()
            table.writerows(rows)


def _row(question: Question, said: str, index: Callable[[Question], str | int]) -> Row:
    name = index(question)
    if said not in question.says:
        raise UserError(
            f"The answer {said!r} to question {question.key} is none of {', '.join(question.says)}: give one."
        )
    options = dict(zip(LETTERS, question.options, strict=False))
    asked: Row = {"index": name, "question": question.question, **options}
    return asked | {"category": question.source, "prediction": said}


def _columns(rows: Sequence[Mapping[str, str | int]]) -> list[str]:
    """All rows' columns, options of the question that has most in their place."""
    widest: Mapping[str, str | int] = max(rows, key=len, default={})
    return list(widest)
