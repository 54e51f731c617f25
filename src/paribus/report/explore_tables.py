"""The numbers of a comparison as tables: a line for both encoders and their difference; CSV; LaTeX."""

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paribus.comparison import Comparison, Which
from paribus.report.tables import MINUS, SECTIONS, bounds, is_share
from paribus.results import Difference, Measure
from paribus.types import Config

BOTH = "both"
"""What stands in a measure's arm where it is of the two together."""


@dataclass
class Line:
    """A task in one metric: what each encoder got, what the two got together, and a minus b."""

    task: str
    metric: str
    seed: int
    label: str = ""
    a: Measure | None = None
    b: Measure | None = None
    both: Measure | None = None
    difference: Difference | None = None

    @property
    def parts(self) -> list[Measure | Difference]:
        """What is there."""
        found = (self.a, self.b, self.both, self.difference)
        return [part for part in found if part is not None]

    @property
    def n(self) -> str:
        """The sample count with its unit, or all of them where they differ."""
        return " / ".join(dict.fromkeys(f"{part.n:,} {part.unit}" for part in self.parts))


@dataclass(frozen=True)
class Block:
    """Lines under one heading: all tasks of one metric, or all metrics of one task."""

    section: str
    name: str
    share: bool
    lines: list[Line]

    @property
    def heading(self) -> str:
        """The metric, or the one task, with its unit."""
        return f"{self.name}, %" if self.share else self.name

    @property
    def common(self) -> bool:
        """Whether any line is of the two together."""
        return any(line.both is not None for line in self.lines)

    @property
    def many_seeds(self) -> bool:
        """Whether lines have to be told apart by seed."""
        return len({line.seed for line in self.lines}) > 1


def sections(found: Comparison) -> dict[str, str]:
    """What was measured, in the order of every report, with its title; what is new comes last."""
    present = dict.fromkeys(
        [*(one.section for one in found.measures), *(one.section for one in found.differences)]
    )
    known = {name: title for name, title in SECTIONS.items() if name in present}
    return known | {name: name for name in present if name not in known}


def blocks(found: Comparison, section: str) -> list[Block]:
    """A section's numbers, in the order in which they were recorded.

    One block per metric; metrics of which each measures the same one task share a block.
    """
    lines = _lines(found, section)
    tasks: dict[str, set[str]] = {}
    for line in lines:
        tasks.setdefault(line.metric, set()).add(line.task)
    groups: dict[tuple[str, bool, bool], list[Line]] = {}
    for line in lines:
        alone = len(tasks[line.metric]) == 1
        name = line.task if alone else line.metric
        groups.setdefault((name, alone, is_share(line.metric)), []).append(line)
    out = []
    for (name, alone, share), chosen in groups.items():
        by_metric = alone and len({line.metric for line in chosen}) > 1
        for line in chosen:
            line.label = line.metric if by_metric else line.task
        out.append(Block(section, name if by_metric else chosen[0].metric, share, chosen))
    return out


def _lines(found: Comparison, section: str) -> list[Line]:
    lines: dict[tuple[str, str, int], Line] = {}

    def line(one: Measure | Difference) -> Line:
        return lines.setdefault((one.task, one.metric, one.seed), Line(one.task, one.metric, one.seed))

    for measure in found.measures:
        if measure.section == section and measure.arm in ("a", "b", BOTH):
            setattr(line(measure), measure.arm, measure)
    for difference in found.differences:
        if difference.section == section:
            line(difference).difference = difference
    return list(lines.values())


def write_tables(found: Comparison, folder: Path) -> None:
    """Write CSVs at full precision and LaTeX tables (booktabs) into a folder that is there.

    Encoders have their names; what belongs to one becomes a column for each (``cosine:clip``); lists are
    joined by `` | ``; nothing is an empty cell.
    """
    for name, (header, rows) in _csvs(found).items():
        names = list(dict.fromkeys([*header, *(key for row in rows for key in row)]))
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for name, text in latex(found).items():
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")


Table = tuple[Sequence[str], list[dict[str, object]]]


def _csvs(found: Comparison) -> dict[str, Table]:
    names = {which: encoder.name for which, encoder in found.encoders.items()}
    measures = [dict(one) | {"arm": _named(one.arm, names)} for one in found.measures]
    differences = [
        dict(one) | {"arm": _named(one.arm, names), "other": _named(one.other, names)}
        for one in found.differences
    ]
    layers: list[dict[str, object]] = [
        {f"layer:{names['a']}": row, f"layer:{names['b']}": column, "CKA": value}
        for row, values in enumerate(found.layers.values if found.layers else [])
        for column, value in enumerate(values)
    ]
    header = [f"layer:{names['a']}", f"layer:{names['b']}", "CKA"]
    pairs = [_pair(found, place, names) for place in range(len(found.pairs))]
    return {
        "measures": (_fields(Measure), measures),
        "differences": (_fields(Difference), differences),
        "layers": (header, layers),
        "pairs": (_PAIR, pairs),
    }


_PAIR = ("id", "alike", "left", "right", "left_picture", "right_picture")


def _pair(found: Comparison, place: int, names: Mapping[Which, str]) -> dict[str, object]:
    pair = found.pairs[place]
    line: dict[str, object] = {"id": identity(found, place), "alike": names[pair.alike]}
    for side, at in (("left", pair.left), ("right", pair.right)):
        shown = found.shown[at]
        line |= {side: shown.key, f"{side}_picture": shown.picture}
        line |= {f"{side}_caption": shown.caption, f"{side}_label": shown.label}
    for name, values in (
        ("cosine", pair.similarity),
        ("percentile", pair.percentile),
        ("rank", pair.rank),
    ):
        line |= {f"{name}:{names[which]}": value for which, value in values.items()}
    line |= {f"factor:{factor}": value for factor, value in pair.factors.items()}
    return line | {"shares": " | ".join(pair.shares)}


def identity(found: Comparison, place: int) -> str:
    """What a pair is called in every file and in the page's address; the same whenever it is compared."""
    pair = found.pairs[place]
    keys = "\0".join(found.shown[side].key for side in (pair.left, pair.right))
    return f"{pair.alike}-{hashlib.sha256(keys.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def _named(arm: str, names: Mapping[Which, str]) -> str:
    return {str(which): name for which, name in names.items()}.get(arm, arm)


def _fields(model: type[Config]) -> list[str]:
    return list(model.model_fields)


def latex(found: Comparison) -> dict[str, str]:
    """A file per section, and one of the layers; the preamble needs booktabs."""
    names = [tex(found.encoders["a"].name), tex(found.encoders["b"].name)]
    out = {}
    for section in sections(found):
        parts = [_tabular(block, names) for block in blocks(found, section)]
        out[re.sub(r"[^\w-]+", "-", section)] = "\n".join(parts)
    if found.layers:
        out["layers"] = _layers(found.layers.values, names)
    return out


def _tabular(block: Block, names: Sequence[str]) -> str:
    head = ["", *names, f"{names[0]} $-$ {names[1]}"] + (["the two"] if block.common else [])
    rows = []
    for line in block.lines:
        label = f"{line.label}, seed {line.seed}" if block.many_seeds else line.label
        cells = [(line.a, False), (line.b, False), (line.difference, True)]
        cells += [(line.both, False)] if block.common else []
        texts = [_interval(part, block.share, signed) for part, signed in cells]
        rows.append([tex(label), *texts, tex(line.n)])
    return _booktabs(tex(block.heading), "l" + "r" * len(head[1:]) + "l", [*head, "n"], rows)


def _interval(part: Measure | Difference | None, share: bool, signed: bool) -> str:
    if part is None:
        return ""
    value, ends = bounds(part.value, part.low, part.high, share, signed=signed)
    return f"{_math(value)} {{\\footnotesize {{[}}{_math(ends[1:-1])}]}}"


def _math(text: str) -> str:
    """Numbers with a minus that every LaTeX knows, and thousands in braces so that none breaks."""
    return text.replace(MINUS, "$-$")


def _layers(values: Sequence[Sequence[float | None]], names: Sequence[str]) -> str:
    columns = max(map(len, values), default=0)
    rows = [
        [str(place), *("--" if value is None else _math(f"{value:.2f}") for value in row)]
        for place, row in enumerate(values)
    ]
    title = f"CKA; rows: layers of {names[0]}, columns: layers of {names[1]}"
    return _booktabs(title, "r" * (columns + 1), ["", *map(str, range(columns))], rows)


def _booktabs(title: str, shape: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join(f"  {' & '.join(row)} \\\\\n" for row in rows)
    return (
        f"% {title} (needs \\usepackage{{booktabs}})\n"
        f"\\begin{{tabular}}{{@{{}}{shape}@{{}}}}\n  \\toprule\n  {' & '.join(head)} \\\\\n  \\midrule\n"
        f"{body}  \\bottomrule\n\\end{{tabular}}\n"
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line's end it would begin an argument
    "*": "{*}",
    MINUS: "$-$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def tex(text: str) -> str:
    r"""Any text as LaTeX that compiles and shows just it; white space becomes spaces, and never ``\par``."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return "".join(_TEX.get(char, char) for char in plain)
