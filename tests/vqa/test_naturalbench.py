"""NaturalBench in its published layout, and in the ways it can be broken."""

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.naturalbench import GROUPS, NaturalBenchConfig

from .published import naturalbench, naturalbench_rows, photo, write_parquet

IMAGES = ("Image_0", "Image_1")


def read(path, **settings):
    return list(NaturalBenchConfig(path=str(path), **{"partial": True, **settings}).read())


def written(folder, rows):
    write_parquet(folder / "train-0.parquet", rows, IMAGES)
    return read(folder)


def test_groups_are_two_questions_on_two_pictures(tmp_path):
    naturalbench(tmp_path)
    questions = read(tmp_path)
    assert len(questions) == 24
    for number in range(6):
        group = questions[4 * number : 4 * number + 4]
        name = f"naturalbench-{number:04d}"
        assert [question.key for question in group] == [
            f"{name}-q0-i0", f"{name}-q0-i1", f"{name}-q1-i0", f"{name}-q1-i1"
        ]  # fmt: skip
        assert {question.group for question in group} == {name}
        assert {question.source for question in group} == {("Flickr30K", "DOCCI")[number % 2]}
        for question, shown in zip(group, (0, 1, 0, 1), strict=True):
            np.testing.assert_array_equal(question.image, photo(2 * number + shown))
        # The answers swap, so that nobody who does not look can be right.
        assert group[0].answer == group[3].answer != group[1].answer == group[2].answer


def test_options_are_taken_out_of_the_texts(tmp_path):
    naturalbench(tmp_path)
    asked = {(q.question, q.options, q.lettered) for q in read(tmp_path)}
    assert asked == {
        ("Is it raining?", ("Yes", "No"), False),
        ("Is it dry?", ("Yes", "No"), False),
        ("Where?", ("To the right", "To the left"), True),
        ("How?", ("By hand.", "By machine."), True),
        ("What follows?", ("Nothing happens.", "Something moves."), True),
        # Named in a way not known: the text keeps its options, and a letter is said.
        ("Pick the first, or else the second.", ("A", "B"), False),
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Is vitamin A. or B. shown?", None),
        ("Why? Options: (A) it rains, (B) it snows", ("Why?", ("it rains", "it snows"))),
        ("Who\nis at B. Option: A: he; B: a man in A. mask", ("Who\nis at B.", ("he", "a man in A. mask"))),
    ],
)  # fmt: skip
def test_only_options_are_taken_for_options(tmp_path, text, wanted):
    row = {**naturalbench_rows(2)[1], "Question_0": text}
    question = written(tmp_path, [row])[0]
    assert (question.question, question.options) == (wanted or (text, ("A", "B")))
    assert question.lettered == (wanted is not None)


def test_the_type_may_be_spelt_as_on_the_card_and_the_source_left_out(tmp_path):
    rows = naturalbench_rows(3)
    for row in rows:
        row["Question Type"] = row.pop("Question_Type")
        del row["Source"]
    assert {question.source for question in written(tmp_path, rows)} == {"NaturalBench"}


def test_all_groups_must_be_there(tmp_path):
    rows = [{**naturalbench_rows(1)[0], "Index": number} for number in range(GROUPS)]
    write_parquet(tmp_path / "train-0.parquet", rows, IMAGES)
    assert sum(1 for _ in NaturalBenchConfig(path=str(tmp_path)).read()) == 7600
    write_parquet(tmp_path / "train-0.parquet", rows[1:], IMAGES)
    with pytest.raises(UserError, match=r"NaturalBench has 1,900, and .* has 1,899: .*partial: true"):
        read(tmp_path, partial=False)


@pytest.mark.parametrize(
    ("number", "column", "value", "said"),
    [
        (0, "Image_1_Question_0", "Maybe", "'Maybe' is neither yes nor no"),
        (0, "Image_0_Question_1", None, "it is empty"),
        (1, "Image_0_Question_0", "E", "'E' is not one of A, B"),
        (1, "Image_0_Question_0", "a", "'a' is not one of A, B"),
        (2, "Question_Type", "open", "'open' is not one of yes_no, multiple_choice"),
        (2, "Question_1", "", "it is empty"),
        (2, "Index", None, "it is empty"),
        (2, "Image_0", {"bytes": b"broken", "path": "0.png"}, "the picture cannot be decoded"),
        (2, "Image_1", None, "there is no picture"),
    ],
)
def test_a_broken_cell_is_named(tmp_path, number, column, value, said):
    rows = naturalbench_rows(3)
    rows[number][column] = value
    with pytest.raises(UserError, match=rf"train-0.parquet, row {number + 1}, column '{column}': {said}"):
        written(tmp_path, rows)


@pytest.mark.parametrize("column", ["Index", "Image_0", "Question_1", "Image_1_Question_1", "Question_Type"])
def test_a_missing_column_is_named(tmp_path, column):
    rows = naturalbench_rows(3)
    for row in rows:
        del row[column]
    with pytest.raises(UserError, match=rf"row 1: it has no column '{column}', only "):
        written(tmp_path, rows)
