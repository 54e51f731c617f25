"""Captions and labels out of tables, whatever the order and the way in which pictures are named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paribus.errors import UserError
from paribus.study.told import column_of, read_told

KEYS = ["a/one.jpg", "a/two.png", "b/one.png", "b/four.gif"]


def table(folder, rows, suffix=".csv"):
    path = folder / f"told{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_pictures_are_named_by_path_file_or_stem_in_any_order(tmp_path, suffix):
    rows = [
        {"path": "four", "caption": "the fourth"},
        {"path": "./a/one.jpg", "caption": "the first"},
        {"path": "two.png", "caption": "the second"},
        {"path": "elsewhere.png", "caption": "of no picture here"},
    ]
    told = read_told(table(tmp_path, rows, suffix), KEYS)
    assert told == {"caption": ("the first", "the second", "", "the fourth")}


def test_a_file_name_that_two_pictures_have_names_neither(tmp_path):
    rows = [{"file": "one", "label": "x"}, {"file": "one.png", "label": "y"}]
    assert read_told(table(tmp_path, rows), KEYS) == {"label": ("", "", "y", "")}


def test_every_other_column_says_something(tmp_path):
    rows = [{"name": "b/one.png", "kind": "x", "year": 1999}, {"name": "two", "kind": "y", "year": 2001}]
    told = read_told(table(tmp_path, rows), KEYS)
    assert told == {"kind": ("", "y", "x", ""), "year": ("", "2001", "1999", "")}
    assert column_of(told, "year", tmp_path) == told["year"]
    with pytest.raises(UserError, match="has no column 'colour', only kind, year: name another"):
        column_of(told, "colour", tmp_path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"file": "x.png", "label": "a"}], r"names none of the 4 pictures \(its first row names 'x\.png'"),
        ([{"picture": "a/one.jpg", "label": "a"}], "no column of pictures' names, one of file, path"),
        ([{"file": "one.jpg", "label": "a"}, {"file": "a/one.jpg", "label": "b"}], "row 2.*there twice"),
    ],
)
def test_what_a_table_lacks_is_told(tmp_path, rows, told):
    with pytest.raises(UserError, match=told):
        read_told(table(tmp_path, rows), KEYS)


def test_a_column_that_says_nothing_is_told(tmp_path):
    told = read_told(table(tmp_path, [{"file": "a/one.jpg", "label": ""}]), KEYS)
    with pytest.raises(UserError, match="has nothing in its column 'label'"):
        column_of(told, "label", tmp_path)


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv cannot be read"):
        read_told(tmp_path / "none.csv", KEYS)


def test_blanks_say_nothing_and_a_column_without_a_name_is_none(tmp_path):
    path = tmp_path / "told.csv"
    path.write_text("file,label,,\na/one.jpg,  ,x,\ntwo,y,,\n")
    assert read_told(path, KEYS) == {"label": ("", "y", "", "")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,label,label\ntwo,x,y\n", "has two columns 'label'"),
        ("file\ntwo\n", "has names of pictures and nothing else"),
    ],
)
def test_columns_that_would_be_lost_are_named(tmp_path, text, told):
    path = tmp_path / "told.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_told(path, KEYS)
