"""VMCBench in the layout that its publishers gave it, and in all the ways it can be broken."""

import base64
import csv
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from paribus.errors import UserError
from paribus.vqa.benchmark import CATEGORIES
from paribus.vqa.vmcbench import COUNTS, SOURCES, VMCBenchConfig, leaderboard

from . import published
from .published import as_tsv, photo, png, vmcbench_rows, write_parquet, write_table


def read(path, **settings):
    return list(VMCBenchConfig(path=str(path), **{"partial": True, **settings}).read())


def shards(folder, rows):
    """The test split: two shards and no answers."""
    rows = [{**row, "answer": None} for row in rows]
    for number in range(2):
        write_parquet(folder / "data" / f"test-0000{number}-of-00002.parquet", rows[number::2])


def test_the_categories_are_those_of_the_two_harnesses():
    assert tuple(SOURCES) == CATEGORIES
    named = [source for sources in SOURCES.values() for source in sources]
    assert sorted(named) == sorted(published.SOURCES) and len(named) == 20
    assert {category: len(sources) for category, sources in SOURCES.items()} == dict(
        zip(CATEGORIES, (7, 6, 2, 5), strict=True)
    )
    assert sum(COUNTS.values()) == 9018


def test_parquet_is_read_as_published(tmp_path):
    write_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet", vmcbench_rows(40, first=7))
    questions = read(tmp_path)
    assert Counter(question.source for question in questions) == dict.fromkeys(published.SOURCES, 2)
    for number, question in enumerate(questions):
        assert question.index == number and question.key == f"vmcbench-dev-{number + 7:05d}"
        assert question.options == (f"cat {number}", f"dog {number}", f"x, y {number}", "None")
        assert question.answer == "ABCD"[number % 4] and question.lettered and not question.group
        assert question.source in SOURCES[question.category]
        np.testing.assert_array_equal(question.image, photo(number % 7))


@pytest.mark.parametrize("form", ["bytes", "struct", "path", "base64"])
def test_pictures_may_be_bytes_or_structs_or_paths_or_base64(tmp_path, form):
    rows = vmcbench_rows(7)
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        row["image"] = {
            "bytes": png(number),
            "struct": row["image"],
            "path": {"bytes": None, "path": f"{number}.png"},
            "base64": base64.b64encode(png(number)).decode(),
        }[form]
    write_parquet(tmp_path / "dev-0.parquet", rows, () if form in ("bytes", "base64") else ("image",))
    for number, question in enumerate(read(tmp_path)):
        np.testing.assert_array_equal(question.image, photo(number))


def test_tsv_is_read_with_pictures_that_other_rows_have(tmp_path):
    rows = as_tsv(vmcbench_rows(30))
    # A row may also name one that comes after it.
    rows = rows[::-1]
    assert sum(isinstance(row["image"], int) for row in rows) == 23
    write_table(tmp_path / "data" / "tsv" / "VMCBench_DEV.tsv", rows, "\t")
    questions = read(tmp_path)
    write_parquet(tmp_path / "parquet" / "dev-0.parquet", vmcbench_rows(30))
    for question, other in zip(questions, read(tmp_path / "parquet")[::-1], strict=True):
        assert (question.question, question.options, question.key) == (
            other.question,
            other.options,
            other.key,
        )
        np.testing.assert_array_equal(question.image, other.image)


def test_cells_longer_than_csv_allows_by_default_are_read(tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    import cv2

    blob = cv2.imencode(".png", large)[1].tobytes()
    row = {**vmcbench_rows(1)[0], "image": base64.b64encode(blob).decode()}
    assert len(row["image"]) > 131_072
    write_table(tmp_path / "VMCBench_DEV.tsv", [row], "\t")
    np.testing.assert_array_equal(read(tmp_path)[0].image, large[..., ::-1])


def test_the_test_split_has_several_shards_and_no_answers(tmp_path):
    shards(tmp_path, vmcbench_rows(40))
    write_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet", vmcbench_rows(3))
    questions = read(tmp_path, split="test")
    assert len(questions) == 40 and {question.answer for question in questions} == {""}
    assert [question.key for question in questions[:2]] == ["vmcbench-test-00000", "vmcbench-test-00002"]
    assert len(read(tmp_path, split="dev")) == 3


def test_a_test_split_without_the_column_or_with_answers_is_read_too(tmp_path):
    rows = vmcbench_rows(4)
    write_parquet(tmp_path / "with" / "test-0.parquet", rows)
    assert [q.answer for q in read(tmp_path / "with", split="test")] == list("ABCD")
    for row in rows:
        del row["answer"]
    write_parquet(tmp_path / "without" / "test-0.parquet", rows)
    assert {q.answer for q in read(tmp_path / "without", split="test")} == {""}


def test_a_cached_data_set_of_the_hub_is_read(tmp_path, monkeypatch):
    """The real client, offline: what `hf download` left in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    home = tmp_path / "datasets--suyc21--VMCBench"
    write_parquet(home / "snapshots" / commit / "data" / "dev-00000-of-00001.parquet", vmcbench_rows(5))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    assert len(read("suyc21/VMCBench")) == len(read(f"suyc21/VMCBench@{commit}")) == 5
    with pytest.raises(UserError, match="no data set of that name can be fetched"):
        read("suyc21/VMCBench@v2")


# Counts.


def test_all_questions_of_all_sources_must_be_there(tmp_path):
    write_parquet(tmp_path / "dev-0.parquet", vmcbench_rows(1000))
    assert len(read(tmp_path, partial=False)) == 1000
    write_parquet(tmp_path / "dev-0.parquet", vmcbench_rows(999))
    with pytest.raises(
        UserError, match=r"dev has 1,000 questions of 20 sources, .* has 999: .*partial: true"
    ):
        read(tmp_path, partial=False)
    rows = [row for row in vmcbench_rows(1053) if row["category"] != "GQA"]
    write_parquet(tmp_path / "dev-0.parquet", rows[:1000])
    with pytest.raises(UserError, match=r"has 1,000, none from GQA: get the files again"):
        read(tmp_path, partial=False)


def test_the_count_is_told_before_pictures_are_decoded(tmp_path):
    rows = [{**row, "image": {"bytes": b"broken", "path": None}} for row in vmcbench_rows(3)]
    write_parquet(tmp_path / "dev-0.parquet", rows)
    with pytest.raises(UserError, match="has 3, none from"):
        next(VMCBenchConfig(path=str(tmp_path)).read())


# Broken rows and files.


def _changed(column, value):
    def change(row):
        row[column] = value

    return change


@pytest.mark.parametrize("form", ["parquet", "tsv"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("answer", "E", r"'E' is not one of A, B, C, D"),
        ("answer", "b", r"'b' is not one of A, B, C, D"),
        ("answer", "AB", r"'AB' is not one of A, B, C, D"),
        ("answer", None, "it is empty"),
        ("C", None, "it is empty"),
        ("C", "", "it is empty"),
        ("A", "  ", "it is empty"),
        ("question", None, "it is empty"),
        ("category", "VQAv9", "'VQAv9' is not one of SEEDBench"),
    ],
)
def test_a_broken_cell_is_named(tmp_path, form, column, value, said):
    rows = vmcbench_rows(4)
    rows[2][column] = value
    if form == "parquet":
        write_parquet(tmp_path / "dev-0.parquet", rows)
    else:
        write_table(tmp_path / "VMCBench_DEV.tsv", as_tsv(rows), "\t")
    with pytest.raises(
        UserError, match=rf", row 3, column '{column}': {said}.*; get the file again, or mend it\.$"
    ):
        read(tmp_path)


def test_an_index_that_is_no_number_is_named(tmp_path):
    write_table(tmp_path / "VMCBench_DEV.tsv", as_tsv([{**vmcbench_rows(1)[0], "index": "first"}]), "\t")
    with pytest.raises(UserError, match="column 'index': 'first' is no whole number"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"bytes": b"broken", "path": None}, "the picture cannot be decoded"),
        ({"bytes": png(0)[:40], "path": None}, "the picture cannot be decoded"),
        ({"bytes": None, "path": None}, "there is no picture"),
        (None, "there is no picture"),
        (
            {"bytes": None, "path": "gone.jpg"},
            "there is no picture .*gone.jpg; look at where the pictures are",
        ),
    ],
)
def test_a_broken_picture_in_parquet_is_named(tmp_path, image, said):
    rows = vmcbench_rows(4)
    rows[1]["image"] = image
    write_parquet(tmp_path / "dev-0.parquet", rows)
    with pytest.raises(UserError, match=rf"dev-0.parquet, row 2, column 'image': {said}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("?" * 100, "the picture's base64 is damaged"),
        (base64.b64encode(png(0)).decode()[:-3], "the picture's base64 is damaged"),
        (base64.b64encode(b"broken" * 20).decode(), "the picture cannot be decoded"),
        ("gone.jpg", "there is no picture .*gone.jpg"),
        ("17", "it names row '17', which has no picture"),
        ("1", "it names row '1', which has no picture"),
        ("", "there is no picture"),
    ],
)
def test_a_broken_picture_in_tsv_is_named(tmp_path, image, said):
    rows = as_tsv(vmcbench_rows(4))
    rows[1]["image"] = image
    write_table(tmp_path / "VMCBench_DEV.tsv", rows, "\t")
    with pytest.raises(UserError, match=rf"VMCBench_DEV.tsv, row 2, column 'image': {said}"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["index", "question", "B", "answer", "category", "image"])
def test_a_missing_column_is_named(tmp_path, column):
    rows = vmcbench_rows(4)
    for row in rows:
        del row[column]
    write_parquet(tmp_path / "dev-0.parquet", rows)
    with pytest.raises(UserError, match=rf"row 1: it has no column '{column}', only .*; get the file again"):
        read(tmp_path)


def _no_rows(path):
    pq.write_table(pa.table({"index": pa.array([], pa.int64())}), path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b""), "is no parquet file, or a damaged one"),
        (lambda path: path.write_text("version https://git-lfs"), "is no parquet file, or a damaged one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is no parquet file, or a damaged one"),
        (_no_rows, "has no rows"),
    ],
)
def test_a_spoilt_parquet_is_named(tmp_path, spoil, said):
    path = tmp_path / "dev-0.parquet"
    write_parquet(path, vmcbench_rows(4))
    spoil(path)
    with pytest.raises(UserError, match=rf"^{path} {said}: .*\.$"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"index\tquestion\n", "has no rows"),
        (b"index\tquestion\n1\t\xff\n", "cannot be read as a table in UTF-8"),
        (b"index\tquestion\n1\twhy\tmore\n", "row 1: it has more cells than the header"),
        (b"index\n1\n", "row 1: it has no column 'category', only index"),
    ],
)
def test_a_spoilt_tsv_is_named(tmp_path, content, said):
    path = tmp_path / "VMCBench_DEV.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}.* ?{said}.*\.$"):
        read(tmp_path)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "VMCBench.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"VMCBench.xlsx is no file of rows: give one of .parquet, .tsv"):
        read(tmp_path / "VMCBench.xlsx")


# The leaderboard.


def test_answers_are_written_for_the_leaderboard(tmp_path):
    shards(tmp_path, vmcbench_rows(6, first=1000))
    questions = read(tmp_path, split="test")
    for name in ("answers.csv", "answers.json"):
        leaderboard(questions, list("ABCDAB"), tmp_path / "out" / name)
    with (tmp_path / "out" / "answers.csv").open(newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    told = json.loads((tmp_path / "out" / "answers.json").read_text(encoding="utf-8"))
    assert [row | {"index": int(row["index"])} for row in lines] == told
    assert [line["prediction"] for line in lines] == list("ABCDAB")
    assert [int(line["index"]) for line in lines] == [1000, 1002, 1004, 1001, 1003, 1005]
    for line, question in zip(lines, questions, strict=True):
        assert (line["question"], line["category"]) == (question.question, question.source)
        assert tuple(line[letter] for letter in "ABCD") == question.options


@pytest.mark.parametrize(
    ("split", "letters", "said"),
    [
        ("dev", "ABCD", "vmcbench-dev-00000 is not of VMCBench's test split"),
        ("test", "ABC", "3 letters for 4 questions"),
        ("test", "ABCE", "'E' to question vmcbench-test-00003 is none of A, B, C, D"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path, split, letters, said):
    write_parquet(tmp_path / "data" / f"{split}-0.parquet", vmcbench_rows(4))
    questions = read(tmp_path, split=split)
    with pytest.raises(UserError, match=said):
        leaderboard(questions, list(letters), tmp_path / "answers.csv")
    assert not (tmp_path / "answers.csv").exists()
