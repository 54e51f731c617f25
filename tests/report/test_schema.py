"""results.json: what is written is valid, what is read is what was written, what is damaged says where."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from paribus.errors import UserError
from paribus.report.schema import SCHEMA, load_results, results_schema, write_results

from . import build


def test_the_packaged_schema_is_the_one_of_the_classes() -> None:
    packaged = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert packaged == results_schema(), "run: python -m paribus.report.schema"


def test_the_schema_is_itself_valid_and_closed() -> None:
    schema = results_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    results, _ = build()
    path = write_results(results, tmp_path)
    Draft202012Validator(results_schema()).validate(json.loads(path.read_text(encoding="utf-8")))
    assert load_results(path) == results


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_results(build()[0], tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    results, _ = build()
    broken = results.measures[3].model_copy(update={"low": float("nan")})
    measures = [*results.measures[:3], broken, *results.measures[4:]]
    with pytest.raises(UserError, match=r"results\.measures\[3\]\.low is nan"):
        write_results(results.model_copy(update={"measures": measures}), tmp_path)
    assert not list(tmp_path.iterdir())


def _damaged(tmp_path: Path, **changes: object) -> Path:
    record = build()[0].model_dump(mode="json")
    record.update(changes)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"level": "lenient"}, "at level"),
        ({"version": 2}, "at version"),
        ({"extra": 1}, "at the whole file"),
        ({"measures": [{"arm": "clip"}]}, r"at measures\[0\]"),
        ({"seeds": ["zero"]}, r"at seeds\[0\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_field(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load_results(_damaged(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": NaN}', b"\xff\xfe", b"[" * 5000])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not JSON"):
        load_results(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json"):
        load_results(tmp_path / "nowhere.json")
