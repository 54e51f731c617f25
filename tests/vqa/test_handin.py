"""Answers as a table for somebody else: one row a question, whole or not at all."""

import csv
import json

import pytest

from paribus.errors import UserError
from paribus.types import NOTHING
from paribus.vqa.benchmark import Question
from paribus.vqa.handin import write_answers


def question(number, *options, lettered=True):
    return Question(
        number,
        f'What, "{number}",\nis it? 猫',
        options,
        "",
        "c",
        NOTHING,
        "s",
        f"own-{number}",
        lettered=lettered,
    )


QUESTIONS = [
    question(0, "Yes", "No", lettered=False),
    question(1, "red", "blue, or so", "green"),
    question(2, "left", "right"),
]


def test_questions_of_every_kind_stand_in_one_table(tmp_path):
    for name in ("a.csv", "a.JSON"):
        write_answers(QUESTIONS, ["No", "C", "A"], tmp_path / name)
    rows = json.loads((tmp_path / "a.JSON").read_text(encoding="utf-8"))
    assert rows[1] == {
        "index": "own-1",
        "question": QUESTIONS[1].question,
        "A": "red",
        "B": "blue, or so",
        "C": "green",
        "category": "s",
        "prediction": "C",
    }
    assert [row["prediction"] for row in rows] == ["No", "C", "A"] and "C" not in rows[2]
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as handle:
        table = list(csv.DictReader(handle))
    assert [{name: cell for name, cell in row.items() if cell} for row in table] == rows
    assert list(table[0]) == list(rows[1])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["No", "C"], "2 letters for 3 questions"),
        (["A", "C", "A"], "'A' to question own-0 is none of Yes, No"),
        (["No", "C", "C"], "'C' to question own-2 is none of A, B"),
        (["No", "", "A"], "'' to question own-1 is none of A, B, C"),
    ],
)
def test_what_is_no_answer_is_refused_and_nothing_is_left(tmp_path, said, why):
    with pytest.raises(UserError, match=why):
        write_answers(QUESTIONS, said, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())
