"""Tables: numbers as a reader sees them, CSV that comes back whole, a summary that fits its terminal."""

import csv
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from paribus.report.tables import (
    bounds,
    interval,
    is_share,
    number,
    pivots,
    summary,
    within,
    write_tables,
)
from paribus.results import (
    Attribution,
    Claim,
    Cost,
    Difference,
    GalleryItem,
    LedgerRow,
    Measure,
    Results,
)
from paribus.vqa.benchmark import CATEGORIES

from . import build


@pytest.mark.parametrize(
    ("value", "share", "signed", "said"),
    [
        (0.4123, True, False, "41.2"),
        (0.0, True, False, "0.0"),
        (-0.00001, True, True, "0.0"),
        (-0.0861, True, True, "−8.6"),
        (0.206, True, True, "+20.6"),
        (0.713, False, False, "0.713"),
        (23.456, False, False, "23.46"),
        (123456.7, False, False, "123,457"),
        (1.0, True, False, "100.0"),
    ],
)
def test_numbers(value: float, share: bool, signed: bool, said: str) -> None:
    assert number(value, share, signed=signed) == said


def test_an_interval_is_as_precise_at_its_ends_as_in_its_middle() -> None:
    assert interval(0.412, 0.38, 0.445, True) == "41.2 [38.0, 44.5]"
    assert bounds(9.998, 9.9, 10.21, False) == ("10.00", "[9.90, 10.21]")
    assert interval(-0.164, -0.254, 0.074, False, signed=True) == "−0.164 [−0.254, +0.074]"


def test_which_metrics_are_shares() -> None:
    assert all(map(is_share, ("accuracy", "top-1 accuracy", "Share of neighbours", "exact match", "F1")))
    assert not any(
        map(
            is_share,
            ("mean cosine", "standardised coefficient", "linear CKA", "nats per token", "generation"),
        )
    )


def test_a_pivot_loses_no_measure_even_among_duplicates() -> None:
    results, _ = build()
    twice = results.model_copy(update={"measures": [*results.measures, *results.measures[:5]]})
    for section in {measure.section for measure in twice.measures}:
        shown = [
            cell for pivot in pivots(twice, section) for row in pivot.rows for cell in row.cells.values()
        ]
        wanted = [measure for measure in twice.measures if measure.section == section]
        assert sorted(map(repr, shown)) == sorted(map(repr, wanted))


def test_a_category_stands_above_its_sources() -> None:
    results, _ = build()
    late = [m for m in results.measures if "/" not in m.task] + [m for m in results.measures if "/" in m.task]
    pivot, overall = pivots(results.model_copy(update={"measures": late}), "vqa")
    tasks = [row.task for row in pivot.rows]
    assert tasks[:3] == ["General", "General/count", "General/scene"]
    assert tasks[-2:] == ["Doc & Chart", "Doc & Chart/bars"]
    assert (overall.heading, [row.label for row in overall.rows]) == (
        "overall, %",
        ["accuracy (micro)", "accuracy (macro)"],
    )


def test_sources_that_do_not_name_their_category_stand_below_the_categories() -> None:
    results, _ = build()
    flat = [m.model_copy(update={"task": m.task.rsplit("/", 1)[-1]}) for m in results.measures]
    last = sorted(flat, key=lambda m: m.task in CATEGORIES)
    pivot, _ = pivots(results.model_copy(update={"measures": last}), "vqa")
    depths = [row.depth for row in pivot.rows]
    assert [row.task for row in pivot.rows if row.depth == 0] == list(CATEGORIES)
    assert depths == sorted(depths)
    assert "signs" not in summary(results.model_copy(update={"measures": last}))


def test_a_benchmark_that_is_named_stands_by_itself() -> None:
    """Its own categories and its whole are no details of another benchmark's."""
    results, _ = build()
    own = [
        m.model_copy(update={"task": f"own: {m.task}"})
        for m in results.measures
        if m.section == "vqa" and m.metric == "accuracy"
    ]
    other = [
        m.model_copy(update={"task": task})
        for m in own[:1]
        for task in ("pope: POPE/random", "pope: POPE", "pope: overall")
    ]
    late = sorted(own, key=lambda m: (CATEGORIES[::-1].index(m.task[5:].split("/")[0]), "/" in m.task))
    mixed = [*late, *other, *results.measures]
    pivot, _ = pivots(results.model_copy(update={"measures": mixed}), "vqa")
    tasks = [row.task for row in pivot.rows]
    built_in = [task for task in tasks if ": " not in task]
    assert tasks[: len(built_in)] == [f"own: {task}" for task in built_in]
    assert tasks[len(built_in) :] == ["pope: POPE", "pope: POPE/random", "pope: overall", *built_in]
    assert built_in[:2] == ["General", "General/count"]
    details = {row.task for row in pivot.rows if row.depth}
    assert details == {task for task in tasks if "/" in task}
    assert within(["pope: POPE/random", "pope: POPE", "pope: overall", "General"]) == {"pope: POPE/random"}
    shown = summary(results.model_copy(update={"measures": mixed}))
    assert "pope: overall" in shown and "own: OCR" in shown and "pope: POPE/random" not in shown


def test_metrics_of_one_task_become_the_lines_of_one_table() -> None:
    (pivot,) = pivots(build()[0], "symbols")
    assert pivot.heading == "symbols"
    assert [row.label for row in pivot.rows] == [
        "mean cosine of distinct symbols",
        "mean cosine of one symbol across styles",
    ]


def _read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _typed(kind: type[BaseModel], line: dict[str, str]) -> Any:
    """A record from its line: nothing stays nothing only where the field may be None."""
    record: dict[str, Any] = {}
    for name, text in line.items():
        base, _, key = name.partition(":")
        target = {"value": "values"}.get(base, base) if key else name
        if key:
            if text:
                record.setdefault(target, {})[key] = text
        elif name == "shares":
            record[name] = text.split(" | ") if text else []
        else:
            optional = text == "" and kind.model_fields[name].annotation is not str
            record[name] = None if optional else text
    return kind.model_validate(record)


def test_every_record_comes_back_from_its_csv(tmp_path: Path) -> None:
    results, _ = build()
    write_tables(results, tmp_path)
    kinds: dict[str, tuple[type[BaseModel], Any]] = {
        "ledger": (LedgerRow, results.ledger),
        "costs": (Cost, results.costs),
        "measures": (Measure, results.measures),
        "differences": (Difference, results.differences),
        "claims": (Claim, results.claims),
        "gallery": (GalleryItem, results.gallery),
        "attributions": (Attribution, results.attributions),
    }
    for name, (kind, records) in kinds.items():
        assert [_typed(kind, line) for line in _read(tmp_path, name)] == records, name
    points = [
        (c.arm, c.stage, c.name, c.seed, *at)
        for c in results.curves
        for at in zip(c.seen, c.values, strict=True)
    ]
    read = [
        (p["arm"], p["stage"], p["name"], int(p["seed"]), int(p["seen"]), float(p["value"]))
        for p in _read(tmp_path, "curves")
    ]
    assert read == points


def test_csv_keeps_hostile_text_in_its_cell(tmp_path: Path) -> None:
    results, _ = build()
    hostile = 'a,"b"\n=1+1;\r\n<i>'
    claim = results.claims[0].model_copy(update={"text": hostile})
    write_tables(results.model_copy(update={"claims": [claim]}), tmp_path)
    (line,) = _read(tmp_path, "claims")
    assert line["text"] == hostile


def test_an_empty_study_still_has_every_table_with_its_head(tmp_path: Path) -> None:
    names = ("ledger", "costs", "measures", "differences", "claims", "curves", "gallery", "attributions")
    empty = build()[0].model_copy(update={name: [] for name in names})
    write_tables(empty, tmp_path)
    for name in names:
        (head,) = (tmp_path / "tables" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        assert head.count(",") >= 4
    assert summary(empty).startswith("quickstart")


def _wide(results: Results) -> Results:
    arms = {f"arm-with-a-long-name-{k}": "because" for k in range(7)}
    measures = [
        m.model_copy(update={"arm": arm}) for m in results.measures if m.arm == "clip" for arm in arms
    ]
    return results.model_copy(update={"arms": arms, "measures": measures, "baselines": []})


@pytest.mark.parametrize("wide", [False, True])
def test_the_summary_fits_a_hundred_columns_and_says_every_main_number(wide: bool) -> None:
    results, _ = build()
    results = _wide(results) if wide else results
    text = summary(results)
    assert max(map(len, text.splitlines())) <= 100
    for measure in results.measures:
        if measure.section in ("probe", "knn", "neighbours", "vqa") and "/" not in measure.task:
            value, ends = bounds(measure.value, measure.low, measure.high, True)
            assert f"{value} {ends}" in text or f"{value} {ends[1:-1].replace(', ', '–')}" in text
    for claim in results.claims:
        line = next(line for line in text.splitlines() if claim.name in line)
        assert line.strip().startswith(claim.verdict)
    assert text.count("chance") == (2 if wide else 1)
    for arm in results.arms:
        assert arm.rsplit("-", 1)[-1] in text


def test_the_summary_cannot_steer_a_terminal() -> None:
    results, _ = build()
    hostile = results.model_copy(update={"study": "\x1b[2J\x07quick\rstart"})
    assert not set(summary(hostile)) & {"\x1b", "\x07", "\r"}
