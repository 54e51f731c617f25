"""Captions and labels out of tables, whatever the order and the way in which pictures are named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paribus.errors import UserError
from paribus.study.told import read_told

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
    told = read_told(table(tmp_path, rows, suffix), "caption", KEYS)
    assert told == (("the first", "the second", "", "the fourth"), 3)


def test_a_file_name_that_two_pictures_have_names_neither(tmp_path):
    rows = [{"file": "one", "label": "x"}, {"file": "one.png", "label": "y"}]
    assert read_told(table(tmp_path, rows), "label", KEYS).texts == ("", "", "y", "")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"file": "x.png", "label": "a"}],
            r"no label of any of the 4 pictures \(its first row names 'x.png'",
        ),
        ([{"file": "a/one.jpg", "label": ""}], "it says nothing of any"),
        ([{"picture": "a/one.jpg", "label": "a"}], "no column of pictures' names, one of file, path"),
        ([{"file": "a/one.jpg", "word": "a"}], "it has no column 'label', only file, word"),
        (
            [{"file": "one.jpg", "label": "a"}, {"file": "a/one.jpg", "label": "b"}],
            "row 2.*stands there twice",
        ),
    ],
)
def test_what_a_table_lacks_is_told(tmp_path, rows, told):
    with pytest.raises(UserError, match=told):
        read_told(table(tmp_path, rows), "label", KEYS)


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv cannot be read"):
        read_told(tmp_path / "none.csv", "label", KEYS)
