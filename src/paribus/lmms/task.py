"""A benchmark's questions as tasks of lmms-eval: a table with pictures, and what to do with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from paribus.data.draw import encode
from paribus.errors import UserError
from paribus.files import whole_file, write_text
from paribus.lmms.settings import LIMIT
from paribus.progress import progress
from paribus.vqa.benchmark import PROMPTS, Benchmark, Question, check_template, prompt, worded

SPLIT = "test"
"""What the table is called as a split, which lmms-eval wants of every table."""

ROWS = 100
"""Questions that are written at once."""

_WORD, _WORDS = pa.string(), pa.list_(pa.string())
_FIELDS = {
    "key": _WORD,
    "prompt": _WORD,
    "options": _WORDS,
    "says": _WORDS,
    "answer": _WORD,
    "category": _WORD,
    "source": _WORD,
    "group": _WORD,
    "lettered": pa.bool_(),
    "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
}


def _features() -> dict[str, Any]:
    """The columns as the ``datasets`` package names them: without, it would not open the pictures."""
    word, flag = ({"dtype": dtype, "_type": "Value"} for dtype in ("string", "bool"))
    named = {_WORD: word, _WORDS: {"feature": word, "_type": "List"}, _FIELDS["lettered"]: flag}
    return {name: named.get(kind, {"_type": "Image"}) for name, kind in _FIELDS.items()}


_SCHEMA = pa.schema(_FIELDS, {"huggingface": json.dumps({"info": {"features": _features()}})})


class _Function(str):
    """A function's full name, which lmms-eval's YAML marks."""


class _Dumper(yaml.SafeDumper):
    """YAML as lmms-eval reads it."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def write_task(benchmark: Benchmark, template: str, folder: Path, name: str) -> tuple[str, str]:
    """Write ``NAME.parquet``, ``NAME.yaml`` and ``NAME_options.yaml``.

    Args:
        benchmark: the questions.
        template: in what words they are asked, a name in ``PROMPTS``.
        folder: where to write; lmms-eval is told of it by ``--include_path``.
        name: of the task; files of that name are replaced.

    Returns:
        Names of two tasks: one has answers written, the other compares options by their likelihood.

    Raises:
        UserError: there is no such template, no question, a question without a published answer, or no room.
    """
    check_template(template)
    if not len(benchmark):
        raise UserError(f"There are no questions for the task {name}: look at where they come from.")
    _write_table(benchmark, template, folder / f"{name}.parquet")
    names = (name, f"{name}_options")
    about = {"version": 1, "template": PROMPTS[template], "digest": benchmark.digest}
    for each, way in zip(names, (_written(), _options()), strict=True):
        task = {"task": each, **_shared(name), **way, "metadata": about}
        text = yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        write_text(folder / f"{each}.yaml", text)
    return names


def _write_table(benchmark: Benchmark, template: str, path: Path) -> None:
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        for start in progress(range(0, len(benchmark), ROWS), label="writing questions", unit="block"):
            stop = min(start + ROWS, len(benchmark))
            writer.write_table(
                pa.Table.from_pylist(list(_rows(benchmark, template, start, stop)), schema=_SCHEMA)
            )


def _rows(benchmark: Benchmark, template: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
    for index in range(start, stop):
        question = worded(benchmark.question(index), template)
        _check(question)
        plain = ("key", "options", "says", "answer", "category", "source", "group", "lettered")
        yield {
            **{field: getattr(question, field) for field in plain},
            "prompt": prompt(question, template),
            "image": {"bytes": encode(question.image), "path": None},
        }


def _check(question: Question) -> None:
    if not question.answer:
        raise UserError(
            f"Question {question.key} has no published answer, so that lmms-eval could not score it: take a "
            "split that has its answers."
        )


def _shared(table: str) -> dict[str, Any]:
    return {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {SPLIT: f"{table}.parquet"}},
        "test_split": SPLIT,
        "doc_to_visual": "image",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
    }


def _written() -> dict[str, Any]:
    """Answers are written, and read strictly."""
    wishes = {"max_new_tokens": LIMIT, "do_sample": False, "temperature": 0.0, "until": []}
    return {
        "output_type": "generate_until",
        "generation_kwargs": wishes,
        "process_results": _Function("paribus.lmms.scores.written"),
        "metric_list": [_metric("acc", better=True), _metric("unparsed", better=False)],
    }


def _options() -> dict[str, Any]:
    """The likeliest of what may be said is the answer; a space in front is the wording's business."""
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "says",
        "target_delimiter": "",
        "process_results": _Function("paribus.lmms.scores.likeliest"),
        "metric_list": [_metric("acc", better=True)],
    }


def _metric(name: str, *, better: bool) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": better}
