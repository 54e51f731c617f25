"""The numbers as tables: written, pivoted (arms as columns), saved as CSV, summed up in text."""

import csv
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from paribus.files import whole_file
from paribus.results import Attribution, Claim, Cost, Difference, GalleryItem, LedgerRow, Measure, Results
from paribus.types import Config
from paribus.vqa.benchmark import CATEGORIES

SECTIONS: Mapping[str, str] = {
    "probe": "Linear probes",
    "knn": "Nearest-neighbour classification",
    "zeroshot": "Zero-shot classification",
    "retrieval": "Retrieval of pictures and captions",
    "abilities": "What each encoder can be used for",
    "neighbours": "What nearest neighbours share",
    "factors": "Which factor the similarity follows",
    "similarity": "How alike the encoders are",
    "symbols": "The symbol test",
    "vqa": "Visual question answering",
    "language": "The language model",
}
MINUS = "\u2212"
OVERALL = "overall"
WIDTH = 100

_SHARE = re.compile(
    r"\b(accuracy|shares?|rate|agreement|recall|precision|exact match|f1|m?IoU|top-?\d+)\b", re.IGNORECASE
)


def is_share(metric: str) -> bool:
    """Whether a metric is a share of cases, to be written as a percentage."""
    return _SHARE.search(metric) is not None


def number(value: float, share: bool, *, decimals: int | None = None, signed: bool = False) -> str:
    """One number: shares as percentages with one decimal, others with three significant places or so."""
    shown = 100 * value if share else value
    places = decimals if decimals is not None else _decimals(shown, share)
    text = f"{shown:,.{places}f}"
    if not text.strip("-0.,"):
        return text.lstrip("-")  # what rounds to nothing has no sign
    sign = "+" if signed and not text.startswith("-") else ""
    return sign + text.replace("-", MINUS)


def bounds(value: float, low: float, high: float, share: bool, *, signed: bool = False) -> tuple[str, str]:
    """A value and its interval, equally precise: ``("41.2", "[38.0, 44.5]")``."""
    places = 1 if share else min(_decimals(x, share) for x in (value, low, high))
    ends = ", ".join(number(x, share, decimals=places, signed=signed) for x in (low, high))
    return number(value, share, decimals=places, signed=signed), f"[{ends}]"


def interval(value: float, low: float, high: float, share: bool, *, signed: bool = False) -> str:
    """A value and its interval in one string: ``41.2 [38.0, 44.5]``."""
    return " ".join(bounds(value, low, high, share, signed=signed))


def _decimals(shown: float, share: bool) -> int:
    if share:
        return 1
    size = abs(shown)
    return 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0


def columns(results: Results) -> list[str]:
    """Everything that was measured, in the order of every table: arms, baselines, then any other."""
    measured = [measure.arm for measure in results.measures]
    return list(dict.fromkeys([*results.arms, *results.baselines, *measured]))


@dataclass
class Row:
    """One line of a pivot: a task under one seed, and what each arm got.

    ``label`` is what names the line: the task, or the metric where all lines are of one task. ``depth`` is 1
    for a source within a category.
    """

    task: str
    metric: str
    seed: int
    unit: str
    label: str
    depth: int = 0
    cells: dict[str, Measure] = field(default_factory=dict)

    @property
    def n(self) -> str:
        """The sample count, or all of them where the arms differ."""
        return _joined(f"{measure.n:,}" for measure in self.cells.values())

    @property
    def chance(self) -> float | None:
        """What guessing gives, where any arm says so."""
        return next((m.chance for m in self.cells.values() if m.chance is not None), None)


@dataclass
class Pivot:
    """Measures of one section with arms as columns: all tasks of one metric, or all metrics of one task."""

    section: str
    name: str
    share: bool
    arms: list[str]
    rows: list[Row]

    @property
    def heading(self) -> str:
        """The metric, or the one task, with its unit."""
        return f"{self.name}, %" if self.share else self.name

    @property
    def has_chance(self) -> bool:
        """Whether guessing means anything for these tasks."""
        return any(row.chance is not None for row in self.rows)

    @property
    def many_seeds(self) -> bool:
        """Whether rows have to be told apart by seed."""
        return len({row.seed for row in self.rows}) > 1


def pivots(results: Results, section: str) -> list[Pivot]:
    """The section's measures as pivots, in the order in which they were recorded.

    One per metric; metrics of which each measures the same one task share a pivot and become its lines.
    """
    measures = [measure for measure in results.measures if measure.section == section]
    order = columns(results)
    groups: dict[tuple[str, bool, bool], list[Measure]] = {}
    for measure in measures:
        tasks = {other.task for other in measures if other.metric == measure.metric}
        alone = len(tasks) == 1
        name = measure.task if alone else measure.metric
        groups.setdefault((name, alone, is_share(measure.metric)), []).append(measure)
    out = []
    for (name, alone, share), chosen in groups.items():
        by_metric = alone and len({measure.metric for measure in chosen}) > 1
        heading = name if by_metric else chosen[0].metric
        present = {measure.arm for measure in chosen}
        arms = [arm for arm in order if arm in present]
        out.append(Pivot(section, heading, share, arms, _rows(chosen, by_metric)))
    return out


def _rows(measures: Sequence[Measure], by_metric: bool) -> list[Row]:
    rows: dict[tuple[str, str, int, str], list[Row]] = {}
    details = within([measure.task for measure in measures])
    for measure in measures:
        same = rows.setdefault((measure.task, measure.metric, measure.seed, measure.unit), [])
        row = next((row for row in same if measure.arm not in row.cells), None)
        if row is None:
            label = measure.metric if by_metric else measure.task
            row = Row(measure.task, measure.metric, measure.seed, measure.unit, label)
            row.depth = int(measure.task in details)
            same.append(row)
        row.cells[measure.arm] = measure
    ordered = [row for same in rows.values() for row in same]
    place = places([row.task for row in ordered])
    return sorted(ordered, key=lambda row: place[row.task])


def within(tasks: Iterable[str]) -> set[str]:
    """The tasks that are parts of others: ``OCR/TextVQA``, or a benchmark's sources beside its categories.

    Tasks of a benchmark that is named, ``pope: overall``, are looked at by themselves.
    """
    by_benchmark: dict[str, dict[str, str]] = {}
    for task in tasks:
        benchmark, own = named(task)
        by_benchmark.setdefault(benchmark, {})[own] = task
    out = set()
    for found in by_benchmark.values():
        kept = {*CATEGORIES, OVERALL} if found.keys() & set(CATEGORIES) else found.keys()
        out |= {task for own, task in found.items() if "/" in own or own not in kept}
    return out


def named(task: str) -> tuple[str, str]:
    """A task's benchmark, empty where it has its tasks to itself, and the task."""
    benchmark, separator, own = task.partition(": ")
    return (benchmark, own) if separator else ("", task)


def places(tasks: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Where each task stands: categories in order, each above its own sources, then all else as it came.

    Benchmarks that are named follow each other in the order they came.
    """
    found = {task: named(task) for task in tasks}
    benchmarks = dict.fromkeys(benchmark for benchmark, _ in found.values())
    came = [(benchmark, own.split("/", 1)[0]) for benchmark, own in found.values()]
    heads = dict.fromkeys((benchmark, head) for benchmark in benchmarks for head in CATEGORIES)
    heads |= dict.fromkeys(came)
    by_benchmark = sorted(heads, key=lambda head: list(benchmarks).index(head[0]))
    return {
        task: (by_benchmark.index((benchmark, own.split("/", 1)[0])), int("/" in own))
        for task, (benchmark, own) in found.items()
    }


def _joined(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def write_tables(results: Results, folder: Path) -> None:
    """Write ``folder/tables/*.csv``: full precision, one file per kind of record.

    What belongs to an arm becomes a column per arm (``value:clip``); curves have one line per point; a
    list is joined by `` | ``; nothing is an empty cell.
    """
    tables: dict[str, list[dict[str, object]]] = {
        "ledger": [_flat(row, values="value") for row in results.ledger],
        "costs": [_flat(cost) for cost in results.costs],
        "measures": [_flat(measure) for measure in results.measures],
        "differences": [_flat(difference) for difference in results.differences],
        "claims": [_flat(claim) for claim in results.claims],
        "curves": [
            {"arm": c.arm, "stage": c.stage, "name": c.name, "seed": c.seed, "seen": seen, "value": value}
            for c in results.curves
            for seen, value in zip(c.seen, c.values, strict=True)
        ],
        "gallery": [
            _flat(item, similarity="similarity", percentile="percentile") for item in results.gallery
        ],
        "attributions": [_flat(attribution) for attribution in results.attributions],
    }
    for name, rows in tables.items():
        _write_csv(folder / "tables" / f"{name}.csv", rows, _HEADERS[name])


def _flat(record: Config, **spread: str) -> dict[str, object]:
    """A record as one line; the mappings named in ``spread`` become one column per key."""
    line: dict[str, object] = {}
    for name, value in record:
        if name in spread:
            line.update({f"{spread[name]}:{key}": item for key, item in value.items()})
        elif isinstance(value, list):
            line[name] = " | ".join(value)
        else:
            line[name] = value
    return line


def _fields(model: type[Config], *without: str) -> list[str]:
    return [name for name in model.model_fields if name not in without]


_HEADERS: Mapping[str, Sequence[str]] = {
    "ledger": _fields(LedgerRow, "values"),
    "costs": _fields(Cost),
    "measures": _fields(Measure),
    "differences": _fields(Difference),
    "claims": _fields(Claim),
    "curves": ["arm", "stage", "name", "seed", "seen", "value"],
    "gallery": _fields(GalleryItem, "similarity", "percentile"),
    "attributions": _fields(Attribution),
}


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]], header: Sequence[str]) -> None:
    names = list(dict.fromkeys([*header, *(name for row in rows for name in row)]))
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(results: Results) -> str:
    """What a study found, for a terminal of 100 columns: the main rows, then a line per claim."""
    seeds = ", ".join(map(str, results.seeds))
    marked = " (rows are marked by seed)" if len(results.seeds) > 1 else ""
    lines = [_cut(f"{results.study}   level {results.level}, seeds {seeds}{marked}", WIDTH)]
    blocks = [
        _main_rows(pivot)
        for section in ("probe", "knn", "zeroshot", "retrieval", "neighbours", "vqa")
        for pivot in pivots(results, section)
    ]
    for group in _groups([block for block in blocks if block.rows], columns(results)):
        lines += ["", *group]
    if results.claims:
        lines += ["", "The claims", *(_claim_line(claim) for claim in results.claims)]
    return "\n".join(lines) + "\n"


def _main_rows(pivot: Pivot) -> Pivot:
    """The pivot without the sources within a category."""
    return replace(pivot, rows=[row for row in pivot.rows if row.depth == 0])


def _groups(blocks: Sequence[Pivot], arms: Sequence[str]) -> list[list[str]]:
    """As many arms side by side as fit, under one head; the others below in the same way.

    Intervals lose their brackets where that spares the reader a second table.
    """
    if not blocks:
        return []
    shown = [arm for arm in arms if any(arm in row.cells for block in blocks for row in block.rows)]
    label = min(30, max(len(_label(row, block)) for block in blocks for row in block.rows) + 2)
    options = [_parts(blocks, shown, label, write) for write in (interval, _dashed)]
    parts, cell, write = min(options, key=lambda option: len(option[0]))
    return [_group(blocks, part, label, cell, write) for part in parts]


def _parts(
    blocks: Sequence[Pivot], shown: Sequence[str], label: int, write: Callable[..., str]
) -> tuple[list[Sequence[str]], int, Callable[..., str]]:
    texts = [_text(m, block, write) for block in blocks for row in block.rows for m in row.cells.values()]
    cell = max(10, *map(len, texts))
    fit = max(1, (WIDTH - label - len("  chance")) // (cell + 2))
    return [shown[start : start + fit] for start in range(0, len(shown), fit)], cell, write


def _group(
    blocks: Sequence[Pivot], arms: Sequence[str], label: int, cell: int, write: Callable[..., str]
) -> list[str]:
    lines = _head(arms, label, cell)
    for block in blocks:
        rows = [row for row in block.rows if row.cells.keys() & set(arms)]
        if rows:
            lines.append(_cut(f"{SECTIONS[block.section]}: {block.heading}", WIDTH))
        for row in rows:
            texts = [_text(row.cells[arm], block, write) if arm in row.cells else "" for arm in arms]
            chance = "" if row.chance is None else number(row.chance, block.share)
            start = f"{_cut('  ' + _label(row, block), label):<{label}}"
            lines.append(start + "".join(f"  {text:<{cell}}" for text in texts) + f"  {chance:>6}")
    return [line.rstrip() for line in lines]


def _head(arms: Sequence[str], label: int, cell: int) -> list[str]:
    """The arms' names, broken where they are wider than their columns, over a rule."""
    names = [textwrap.wrap(_cut(arm, 3 * cell), cell)[:3] or [""] for arm in arms]
    height = max(map(len, names))
    lines = []
    for line in range(height):
        parts = [name[line - height] if height - line <= len(name) else "" for name in names]
        end = "  chance" if line == height - 1 else ""
        lines.append(" " * label + "".join(f"  {part:<{cell}}" for part in parts) + end)
    return [*lines, "-" * len(lines[-1])]


def _dashed(value: float, low: float, high: float, share: bool) -> str:
    """A value and its interval without brackets: ``41.2 38.0–44.5``."""
    middle, ends = bounds(value, low, high, share)
    return f"{middle} {ends[1:-1].replace(', ', chr(0x2013))}"


def _label(row: Row, pivot: Pivot) -> str:
    return f"{_cut(row.label, 23)} \u00b7 {row.seed}" if pivot.many_seeds else row.label


def _text(measure: Measure, pivot: Pivot, write: Callable[..., str]) -> str:
    return write(measure.value, measure.low, measure.high, pivot.share)


def _claim_line(claim: Claim) -> str:
    numbers = interval(claim.value, claim.low, claim.high, False, signed=True)
    start = f"  {claim.verdict:<19}  {numbers:<23}  "
    return start + _cut(f"{claim.name}: {claim.text}", WIDTH - len(start))


def _cut(text: str, width: int) -> str:
    """At most ``width`` characters, and none that could steer a terminal."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= width else text[: width - 1] + "\u2026"
