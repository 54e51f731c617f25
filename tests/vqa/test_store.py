"""Questions on disk: whole or not there, the same when they come back, and damage told."""

import json
import shutil

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.benchmark import Question
from paribus.vqa.store import Stored, write

from .published import photo


def question(number, **changes):
    fields = {
        "index": number, "question": f"Why {number}?", "options": ("ä", "ö", "ü"), "answer": "C",
        "category": "General", "image": photo(number % 3), "source": "toy", "key": f"toy-{number}",
        "group": f"pair-{number // 2}",
    }  # fmt: skip
    return Question(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path):
    yes_no = question(5, options=("Yes", "No"), answer="Yes", lettered=False, group="")
    write([*map(question, range(5)), yes_no, question(6, answer="")], tmp_path / "toy", {"by": "hand"})
    return tmp_path / "toy"


def test_questions_come_back_as_they_were(folder):
    stored = Stored(folder)
    assert len(stored) == 7
    for number in range(5):
        again, wanted = stored.question(number), question(number)
        np.testing.assert_array_equal(again.image, wanted.image)
        names = ("index", "question", "options", "answer", "category", "source", "key", "group", "lettered")
        assert [getattr(again, name) for name in names] == [getattr(wanted, name) for name in names]
    assert stored.question(5).says == ("Yes", "No")
    assert stored.question(6).answer == ""


def test_meta_says_where_they_come_from_and_how_many(folder):
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    assert meta["by"] == "hand" and meta["counts"] == {"": 7}
    assert {path.name for path in folder.iterdir()} == {"images.bin", "table.parquet", "meta.json"}


def test_equal_pictures_are_kept_once(tmp_path):
    for name, count in (("three", 3), ("thirty", 30)):
        write(map(question, range(count)), tmp_path / name, {})
    sizes = {name: (tmp_path / name / "images.bin").stat().st_size for name in ("three", "thirty")}
    assert sizes["three"] == sizes["thirty"] > 3000
    thirty = Stored(tmp_path / "thirty")
    for number in range(30):
        np.testing.assert_array_equal(thirty.question(number).image, photo(number % 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "Where?"}, {"options": ("ä", "ö", "u")}, {"answer": "A"}, {"category": "OCR"},
        {"image": photo(1)}, {"source": "other"}, {"group": ""},
        {"options": ("ä", "ö", "C"), "lettered": False},
    ],
)  # fmt: skip
def test_the_digest_is_of_everything(tmp_path, changes):
    write([question(0)], tmp_path / "one", {"about": 1})
    write([question(0)], tmp_path / "same", {"about": 2})
    write([question(0, **changes)], tmp_path / "other", {"about": 1})
    one, same, other = (Stored(tmp_path / name).digest for name in ("one", "same", "other"))
    assert one == same != other


def test_nothing_is_left_of_questions_that_break_off(tmp_path):
    def broken():
        yield question(0)
        raise UserError("Row 2 is broken: mend it.")

    with pytest.raises(UserError, match="Row 2"):
        write(broken(), tmp_path / "toy", {})
    assert not list(tmp_path.iterdir())


def test_what_was_stored_before_stays_when_new_questions_break_off(folder):
    before = Stored(folder).digest
    with pytest.raises(UserError, match="no questions to store"):
        write([], folder, {})
    assert Stored(folder).digest == before
    write([question(9)], folder, {})
    assert len(Stored(folder)) == 1


def test_two_questions_of_one_key_are_refused(tmp_path):
    with pytest.raises(UserError, match="the key toy-1"):
        write([question(1), question(1)], tmp_path / "toy", {})
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write([question(0)], tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["images.bin", "table.parquet", "meta.json"])
@pytest.mark.parametrize("damage", [_cut, _flipped, lambda path: path.unlink()])
def test_damage_is_named_and_says_what_to_do(folder, tmp_path, name, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / name)
    with pytest.raises(UserError, match=rf"{name}.*: delete .*copy and store the questions again\.$"):
        Stored(copy)
