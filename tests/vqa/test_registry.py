"""The contract that every registered benchmark keeps; a new one is tested by being registered."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from paribus.errors import UserError
from paribus.types import Config
from paribus.vqa.benchmark import PROMPTS, Asked, Benchmark, prompt
from paribus.vqa.registry import BENCHMARKS, AnyBenchmark
from paribus.vqa.store import Stored, write

from .published import LAYOUTS

ADAPTER = TypeAdapter(AnyBenchmark)
IMAGE = np.zeros((1, 1, 3), np.uint8)
each_kind = pytest.mark.parametrize("kind", BENCHMARKS)


@pytest.fixture
def reader(kind, tmp_path):
    (tmp_path / "published").mkdir()
    return ADAPTER.validate_python(LAYOUTS[kind](tmp_path / "published"))


def test_every_benchmark_has_a_layout_to_be_tested_with():
    assert LAYOUTS.keys() == BENCHMARKS.keys()


@each_kind
def test_the_config_is_told_apart_by_its_kind_and_frozen(kind, reader):
    assert type(reader) is BENCHMARKS[kind] and isinstance(reader, Config)
    assert ADAPTER.validate_python(reader.model_dump()) == reader
    with pytest.raises(ValidationError, match="extra"):
        ADAPTER.validate_python({**reader.model_dump(), "pathh": "x"})
    with pytest.raises(ValidationError, match="frozen"):
        reader.path = "elsewhere"


def test_unknown_kinds_are_refused():
    with pytest.raises(ValidationError, match="'mmvp'"):
        ADAPTER.validate_python({"kind": "vqav9", "path": "x"})


@each_kind
def test_its_questions_are_whole_and_can_be_asked(kind, reader):
    questions = list(reader.read())
    assert len(questions) >= 8
    assert [question.index for question in questions] == list(range(len(questions)))
    assert len({question.key for question in questions}) == len(questions)
    for question in questions:
        assert question.answer in question.says
        assert all(option.strip() for option in question.options)
        assert question.category and question.source
        assert question.image.dtype == np.uint8 and question.image.shape == (30, 40, 3)
        assert all(question.question in prompt(question, template) for template in PROMPTS)
    groups = [question.group for question in questions if question.group]
    assert all(groups.count(group) > 1 for group in groups)


@each_kind
def test_it_is_stored_and_comes_back_the_same(kind, reader, tmp_path):
    for name in ("one", "two"):
        write(reader.read(), tmp_path / name, {"config": reader.model_dump()})
    one, two = Stored(tmp_path / "one"), Stored(tmp_path / "two")
    assert isinstance(one, Benchmark)
    assert one.digest == two.digest
    questions = list(reader.read())
    assert len(one) == len(questions)
    for place, question in enumerate(questions):
        again = one.question(place)
        np.testing.assert_array_equal(again.image, question.image)
        assert replace(again, image=IMAGE) == replace(question, image=IMAGE)
    assert Asked(one, "short")[0].text == questions[0].answer


@each_kind
def test_what_is_not_there_is_told_in_one_sentence(kind, reader, tmp_path):
    for path, said in (
        (tmp_path / "nowhere", f"There is no {tmp_path / 'nowhere'}: set path to"),
        ("nobody/nothing", "There is no file or folder nobody/nothing, and no data set of that name"),
        (tmp_path / "empty", f"The folder {tmp_path / 'empty'} has no "),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError) as told:
            list(reader.model_copy(update={"path": str(path)}).read())
        assert str(told.value).startswith(said)
        assert "\n" not in str(told.value) and str(told.value).endswith(".")
