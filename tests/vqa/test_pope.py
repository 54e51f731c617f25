"""POPE in both published layouts, and in the ways it can be broken."""

from collections import Counter

import cv2
import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.pope import CATEGORIES, POPEConfig

from .published import jpeg, pope, pope_lines, pope_rows, write_lines, write_parquet


def read(path, **settings):
    return list(POPEConfig(path=str(path), **settings).read())


def decoded(blob):
    return cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_llavas_files_are_read_and_no_others(tmp_path):
    questions = read(**{k: v for k, v in pope(tmp_path).items() if k != "kind"})
    assert Counter(question.source for question in questions) == dict.fromkeys(CATEGORIES, 12)
    assert [question.key for question in questions[11:13]] == ["pope-adversarial-0011", "pope-popular-0000"]
    for place, question in enumerate(questions):
        number = place % 12
        assert question.question == f"Is there a chair number {number} in the image?"
        assert question.options == question.says == ("Yes", "No")
        assert question.answer == ("Yes", "No")[number % 2]
        np.testing.assert_array_equal(question.image, decoded(jpeg(number // 6)))


def test_one_file_is_read_alone(tmp_path):
    settings = pope(tmp_path)
    path = tmp_path / "coco" / "coco_pope_popular.json"
    assert {question.source for question in read(path, images=settings["images"])} == {"popular"}


def test_pictures_may_lie_beside_the_questions_and_lines_in_a_list(tmp_path):
    (tmp_path / "COCO_val2014_000000000000.jpg").write_bytes(jpeg(0))
    path = tmp_path / "my_random.json"
    write_lines(path, pope_lines(3))
    lines = read(path)
    path.write_text("[" + path.read_text().replace("}\n{", "},\n{") + "]")
    assert [(q.key, q.question) for q in read(path)] == [(q.key, q.question) for q in lines]


def test_lmms_labs_shards_are_read_and_not_twice(tmp_path):
    rows = pope_rows(30)
    for shard in range(3):
        write_parquet(
            tmp_path / "data" / f"test-0000{shard}-of-00003.parquet", rows[10 * shard : 10 * shard + 10]
        )
    for category in CATEGORIES:
        some = [row for row in rows if row["category"] == category]
        write_parquet(tmp_path / "Full" / f"{category}-00000-of-00001.parquet", some)
    questions = read(tmp_path)
    assert len(questions) == 30 and Counter(q.source for q in questions) == dict.fromkeys(CATEGORIES, 10)
    assert len({question.key for question in questions}) == 30
    for number, question in enumerate(questions):
        assert question.answer == ("Yes", "No")[number % 2]
        np.testing.assert_array_equal(question.image, decoded(jpeg(number % 3)))
    assert len(read(tmp_path / "Full")) == 30


def test_a_file_whose_category_is_nowhere_is_named(tmp_path):
    (tmp_path / "COCO_val2014_000000000000.jpg").write_bytes(jpeg(0))
    write_lines(tmp_path / "mine.jsonl", pope_lines(1))
    with pytest.raises(UserError, match=r"mine.jsonl, row 1, .*; name it after one of adversarial, popular"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("label", "maybe", "'maybe' is neither yes nor no"),
        ("label", "A", "'A' is neither yes nor no"),
        ("label", None, "it is empty"),
        ("text", "", "it is empty"),
        ("image", "gone.jpg", r"there is no picture .*gone\.jpg; look at where the pictures are"),
        ("image", None, "there is no picture"),
        ("image", 3, "it is no picture"),
        ("category", "hard", "'hard' is not one of adversarial, popular, random"),
    ],
)
def test_a_broken_cell_is_named(tmp_path, column, value, said):
    settings = pope(tmp_path)
    lines = pope_lines(3)
    lines[1][column] = value
    path = tmp_path / "coco" / "coco_pope_random.json"
    write_lines(path, lines)
    with pytest.raises(UserError, match=rf"coco_pope_random.json, row 2, column '{column}': {said}"):
        read(path, images=settings["images"])


@pytest.mark.parametrize("column", ["text", "label", "image"])
def test_a_missing_column_is_named(tmp_path, column):
    settings = pope(tmp_path)
    lines = pope_lines(3)
    del lines[2][column]
    path = tmp_path / "coco" / "coco_pope_random.json"
    write_lines(path, lines)
    wanted = {"text": "question", "label": "label", "image": "image"}[column]
    with pytest.raises(UserError, match=rf"row 3: it has no column '{wanted}', only question_id"):
        read(path, images=settings["images"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ('{"text": ', "row 1: it is no JSON"),
        ("[1, 2]", "row 1: it is no JSON object"),
        ("[", "cannot be read as JSON"),
        ("3\n", "row 1: it is no JSON object"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path, content, said):
    path = tmp_path / "coco_pope_random.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path}.* ?{said}.*\.$"):
        read(tmp_path)
