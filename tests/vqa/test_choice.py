"""Tables of questions of any format, by the columns that are named, and in the ways they can be broken."""

import base64

import numpy as np
import pytest
from pydantic import ValidationError

from paribus.errors import UserError
from paribus.vqa.choice import ChoiceConfig

from .published import as_tsv, photo, png, vmcbench_rows, write_lines, write_parquet, write_table


def read(path, **settings):
    return list(ChoiceConfig(path=str(path), **settings).read())


def listed(count=4):
    """Questions with lists of options and pictures as files."""
    return [
        {
            "what": f"Why {number}?",
            "choices": [f"one {number}", f"two {number}", f"three {number}"][: 2 + number % 2],
            "right": number % 2,
            "file": f"pictures/{number}.png",
            "topic": ("art", "music")[number % 2],
            "pair": number // 2,
        }
        for number in range(count)
    ]


MAPPED = {
    "question": "what", "options": "choices", "answer": "right", "answers": "index", "image": "file",
    "source": "topic", "group": "pair", "name": "arts",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(number))
    return tmp_path


def _check_listed(questions):
    assert len(questions) == 4
    for number, question in enumerate(questions):
        assert question.question == f"Why {number}?"
        assert question.options == (f"one {number}", f"two {number}", f"three {number}")[: 2 + number % 2]
        assert question.answer == "AB"[number % 2]
        assert (question.category, question.source) == ("arts", ("art", "music")[number % 2])
        assert (question.key, question.group) == (f"arts-{number:06d}", f"arts-{number // 2}")
        np.testing.assert_array_equal(question.image, photo(number))


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "csv", "tsv"])
def test_columns_are_mapped_in_every_format(folder, form):
    rows, path = listed(), folder / f"table.{form}"
    if form == "parquet":
        write_parquet(path, rows)
    elif form in ("jsonl", "json"):
        write_lines(path, rows)
    else:
        texts = [{**row, "choices": str(row["choices"]).replace("'", '"')} for row in rows]
        write_table(path, texts, "," if form == "csv" else "\t")
    _check_listed(read(folder, **MAPPED))
    _check_listed(read(path, **MAPPED))


def test_the_defaults_are_mmbenchs_columns(tmp_path):
    rows = as_tsv(vmcbench_rows(20))
    for row in rows[::2]:
        row.update(C="", D="", answer="B")
    write_table(tmp_path / "MMBench.tsv", rows, "\t")
    questions = read(tmp_path / "MMBench.tsv", category="category")
    assert [len(question.options) for question in questions] == [2, 4] * 10
    assert questions[1].options == ("cat 1", "dog 1", "x, y 1", "None")
    assert questions[1].category == questions[1].source == "MMStar"
    for number, question in enumerate(questions):
        np.testing.assert_array_equal(question.image, photo(number % 7))


@pytest.mark.parametrize("form", ["bytes", "struct", "path", "base64", "uri"])
def test_pictures_of_every_form_are_the_same(folder, form):
    rows = vmcbench_rows(4)
    for number, row in enumerate(rows):
        text = base64.b64encode(png(number)).decode()
        row["image"] = {
            "bytes": png(number), "struct": row["image"], "path": f"{number}.png", "base64": text,
            "uri": f"data:image/png;base64,{text}",
        }[form]  # fmt: skip
    write_parquet(folder / "table.parquet", rows, ("image",) if form == "struct" else ())
    questions = read(folder, images=str(folder / "pictures"))
    for number, question in enumerate(questions):
        np.testing.assert_array_equal(question.image, photo(number))


def test_files_are_chosen_by_a_pattern(tmp_path):
    for name, count in (("test-0", 3), ("test-1", 2), ("train-0", 7)):
        write_parquet(tmp_path / "data" / f"{name}.parquet", vmcbench_rows(count))
    assert len(read(tmp_path, files="data/test-*.parquet")) == 5
    assert len(read(tmp_path)) == 12
    with pytest.raises(UserError, match=r"has no data/dev-.*set path to the benchmark's files"):
        read(tmp_path, files="data/dev-*.parquet")


def test_answers_may_be_texts_and_options_may_be_said(folder):
    rows = listed()
    for row in rows:
        row["right"] = row["choices"][row["right"]]
    write_parquet(folder / "table.parquet", rows)
    settings = MAPPED | {"answers": "option"}
    _check_listed(read(folder, **settings))
    said = read(folder, **settings, lettered=False)
    assert [question.answer for question in said] == ["one 0", "two 1", "one 2", "two 3"]
    assert [question.says for question in said] == [question.options for question in said]


def test_answers_may_be_unpublished(folder):
    write_parquet(folder / "table.parquet", listed())
    assert {question.answer for question in read(folder, **MAPPED | {"answer": ""})} == {""}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("right", 2, "'2' is not one of 0, 1"),
        ("right", None, "it is empty"),
        ("choices", ["one"], "there are 1 options, which must be 2 to 10"),
        ("choices", ["x"] * 11, "there are 11 options"),
        ("choices", ["one", None], "it is empty"),
        ("choices", ["one", " "], "it is empty"),
        ("choices", None, "it is no list of options"),
        ("choices", {"A": "one"}, "it is no list of options"),
        ("choices", "one, two", "it is no list in JSON"),
        ("what", "", "it is empty"),
        ("what", ["Why?"], "it is no text"),
        ("topic", None, "it is empty"),
        ("file", "gone.png", r"there is no picture .*gone\.png"),
        ("file", None, "there is no picture"),
        ("file", "AAA?" * 20, "the picture's base64 is damaged"),
    ],
)
def test_a_broken_cell_is_named(folder, column, value, said):
    rows = listed()
    rows[2][column] = value
    write_lines(folder / "table.jsonl", rows)
    with pytest.raises(UserError, match=rf"table.jsonl, row 3, column '{column}': {said}.*\.$"):
        read(folder, **MAPPED)


@pytest.mark.parametrize(
    ("answers", "answer", "said"),
    [
        ("letter", "a", "'a' is not one of A, B, C, D"),
        ("letter", "E", "'E' is not one of A, B, C, D"),
        ("option", "bird", "'bird' is not one of cat 0, dog 0"),
        ("option", "None", "'None' is two of the options"),
    ],
)
def test_a_wrong_answer_is_named(tmp_path, answers, answer, said):
    write_parquet(tmp_path / "table.parquet", [{**vmcbench_rows(1)[0], "C": "None", "answer": answer}])
    with pytest.raises(UserError, match=f"row 1, column 'answer': {said}"):
        read(tmp_path, answers=answers)


def test_an_option_that_is_missing_between_others_is_named(tmp_path):
    write_parquet(tmp_path / "table.parquet", [vmcbench_rows(1)[0], {**vmcbench_rows(2)[1], "B": None}])
    with pytest.raises(UserError, match="row 2, column 'B': it is empty"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["what", "choices", "right", "file", "topic", "pair"])
def test_a_missing_column_is_named(folder, column):
    rows = listed()
    for row in rows:
        del row[column]
    write_parquet(folder / "table.parquet", rows)
    with pytest.raises(UserError, match=rf"row 1: it has no column '{column}', only "):
        read(folder, **MAPPED)


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError, match="answers"):
        ChoiceConfig(path="x", answers="number")
    with pytest.raises(ValidationError, match="path"):
        ChoiceConfig(path="")
