"""MMVP in its published layout, and in the ways it can be broken."""

import cv2
import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.mmvp import COUNT, MMVPConfig

from .published import jpeg, mmvp, mmvp_rows, write_table


def read(path, **settings):
    return list(MMVPConfig(path=str(path), **{"partial": True, **settings}).read())


def test_questions_are_read_in_pairs(tmp_path):
    mmvp(tmp_path, pairs=5)
    questions = read(tmp_path)
    assert [question.group for question in questions] == [
        f"mmvp-00{pair}" for pair in range(1, 6) for _ in "ab"
    ]
    for number, question in enumerate(questions, start=1):
        assert question.key == f"mmvp-{number:03d}"
        assert question.options == ("Open (or so)", "Closed") and question.lettered
        assert question.answer == ("A" if number % 2 else "B")
        assert question.question == f"Is thing {(number + 1) // 2} open (wide) or closed?"
        blue_first = cv2.imdecode(np.frombuffer(jpeg(number), np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(question.image, blue_first[..., ::-1])


def test_the_column_may_be_spelt_either_way_and_excel_may_have_saved_it(tmp_path):
    mmvp(tmp_path)
    before = [question.question for question in read(tmp_path)]
    rows = [{"Index": row.pop("lndex"), **row} for row in mmvp_rows(4)]
    write_table(tmp_path / "Questions.csv", rows)
    table = tmp_path / "Questions.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert [question.question for question in read(tmp_path)] == before


def test_the_folder_may_be_named_by_the_file(tmp_path):
    mmvp(tmp_path)
    assert len(read(tmp_path / "Questions.csv")) == 8


def test_all_pairs_must_be_there(tmp_path):
    mmvp(tmp_path, pairs=COUNT // 2)
    assert len(read(tmp_path, partial=False)) == COUNT == 300
    write_table(tmp_path / "Questions.csv", mmvp_rows(149))
    with pytest.raises(UserError, match=r"MMVP has 300, and .* has 298: .*partial: true"):
        read(tmp_path, partial=False)


@pytest.mark.parametrize(("gone", "said"), [(3, "question 4 and not 3"), (8, "question 7 and not 8")])
def test_a_lone_half_of_a_pair_is_named(tmp_path, gone, said):
    mmvp(tmp_path)
    write_table(tmp_path / "Questions.csv", [row for row in mmvp_rows(4) if row["lndex"] != gone])
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_a_number_that_is_there_twice_is_refused(tmp_path):
    mmvp(tmp_path)
    write_table(tmp_path / "Questions.csv", mmvp_rows(4) + mmvp_rows(1))
    with pytest.raises(UserError, match="has a number twice"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("Correct Answer", "(c)", r"'\(c\)' is not one of \(a\), \(b\)"),
        ("Correct Answer", "(A)", r"'\(A\)' is not one of \(a\), \(b\)"),
        ("Correct Answer", "a", "'a' is not one of"),
        ("Correct Answer", "", "it is empty"),
        ("Options", "(a) Open", "is not of the form"),
        ("Options", "(a) Open (b) ", "is not of the form"),
        ("Options", "(b) Open (a) Closed", "is not of the form"),
        ("Options", "Open or closed", "is not of the form"),
        ("Question", "", "it is empty"),
        ("lndex", "three", "'three' is no whole number"),
    ],
)
def test_a_broken_cell_is_named(tmp_path, column, value, said):
    mmvp(tmp_path)
    rows = mmvp_rows(4)
    rows[2][column] = value
    write_table(tmp_path / "Questions.csv", rows)
    with pytest.raises(UserError, match=rf"Questions.csv, row 3, column '{column}': .*{said}"):
        read(tmp_path)


def test_missing_and_broken_pictures_are_named(tmp_path):
    mmvp(tmp_path)
    (tmp_path / "MMVP Images" / "2.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"row 2, .*: the picture cannot be decoded"):
        read(tmp_path)
    (tmp_path / "MMVP Images" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"row 2, .*: there is no picture .*2\.jpg"):
        read(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    mmvp(tmp_path)
    rows = mmvp_rows(4)
    for row in rows:
        del row["Options"]
    write_table(tmp_path / "Questions.csv", rows)
    with pytest.raises(UserError, match=r"row 1: it has no column 'Options', only lndex, Question"):
        read(tmp_path)
