"""``results.json`` and ``comparison.json``: held to the JSON schemas that other programs can check them with.

``python -m paribus.report.schema`` writes the packaged schemas anew after a change of ``paribus.results`` or
``paribus.comparison``.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from pydantic import ValidationError

from paribus.comparison import Comparison
from paribus.errors import UserError
from paribus.files import write_json
from paribus.results import Results

SCHEMA = Path(__file__).with_name("results.schema.json")
COMPARISON = Path(__file__).with_name("comparison.schema.json")


def results_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``Results``, as the classes stand now."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}


def comparison_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``Comparison``, as the classes stand now."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Comparison.model_json_schema()}


def comparison_record(found: Comparison) -> dict[str, Any]:
    """What ``comparison.json`` holds, checked against the packaged schema.

    Raises:
        UserError: a number is not finite, since JSON has no word for it.
    """
    record = found.model_dump(mode="json")
    for where, value in _numbers(found.model_dump(), "comparison"):
        if not math.isfinite(value):
            raise UserError(f"{where} is {value}, which comparison.json cannot hold: compare again.")
    _validator(COMPARISON).validate(record)
    return record


def write_results(results: Results, folder: Path) -> Path:
    """Write ``folder/results.json``, checked against the packaged schema.

    Raises:
        UserError: a number is not finite, since JSON has no word for it and no interval can hold it.
    """
    record = results.model_dump(mode="json")
    for where, value in _numbers(record, "results"):
        if not math.isfinite(value):
            raise UserError(f"{where} is {value}, which results.json cannot hold: look at the run behind it.")
    _validator().validate(record)
    path = folder / "results.json"
    write_json(path, record)
    return path


def load_results(path: Path) -> Results:
    """Read a ``results.json``.

    Raises:
        UserError: the file is missing, not JSON, or does not fit the schema; the sentence names the field.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give the path of a results.json.") from error
    except (ValueError, RecursionError) as error:  # also JSONDecodeError and UnicodeDecodeError
        raise UserError(f"{path} is not JSON ({error}): run the study again to write it anew.") from error
    problems = sorted(_validator().iter_errors(record), key=lambda problem: list(map(str, problem.path)))
    if problems:
        where = problems[0].json_path.removeprefix("$").lstrip(".") or "the whole file"
        said = problems[0].message[:200]
        raise UserError(f"{path} does not fit the results schema at {where}: {said}; run the study again.")
    try:
        return Results.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} cannot be read at {where}: {first['msg']}; run the study again.") from error


def _validator(schema: Path = SCHEMA) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    """Every float in a JSON value, with the path that leads to it."""
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{where}[{index}]")


if __name__ == "__main__":
    write_json(SCHEMA, results_schema())
    write_json(COMPARISON, comparison_schema())
