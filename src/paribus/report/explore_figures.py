"""Figures of a comparison: what each encoder's similarity follows, and how alike their layers are."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from paribus.comparison import LayerMap
from paribus.report.explore_tables import Block
from paribus.report.figures import (
    FOOT,
    HEAD,
    LABEL,
    LETTER,
    REM,
    Axis,
    Mark,
    Style,
    axis,
    figure,
    marker,
    shorten,
    tag,
)
from paribus.report.tables import MINUS, bounds, interval
from paribus.results import Difference, Measure

PITCH, GAP = 17.0, 13.0
"""Pixels from one mark of a row to the next, and between rows."""
STEPS = 20
"""Shades of the heat map, besides that of nothing."""

Group = tuple[str, Sequence[Mark]]


def chart(name: str, block: Block, names: tuple[str, str], looks: tuple[Style, Style]) -> list[Markup]:
    """Both encoders, and their difference, row beside row; the most of the first encoder comes first.

    A difference has the sign of the encoder that is higher where its interval leaves zero out.
    """
    lines = sorted(block.lines, key=lambda line: -line.difference.value if line.difference else -math.inf)
    both: list[Group] = []
    steps: list[Group] = []
    for line in lines:
        label = f"{line.label} \u00b7 {line.seed}" if block.many_seeds else line.label
        found = [(names[0], looks[0], line.a), (names[1], looks[1], line.b)]
        both.append((label, [_mark(who, look, part) for who, look, part in found if part]))
        if line.difference:
            steps.append((label, [_mark("", _side(line.difference, looks), line.difference)]))
    drawn = []
    if any(row for _, row in both):
        drawn.append(_rows(f"{name}-both", block.heading, both, block.share, signed=False))
    if steps:
        title = f"{shorten(names[0], 18)} {MINUS} {shorten(names[1], 18)}"
        drawn.append(_rows(f"{name}-difference", title, steps, block.share, signed=True, per=2))
    return drawn


def _mark(label: str, look: Style, part: Measure | Difference) -> Mark:
    return Mark(label, look, part.value, part.low, part.high)


def _side(one: Difference, looks: tuple[Style, Style]) -> Style:
    return looks[0] if one.low > 0 else looks[1] if one.high < 0 else Style(None, 0)


def _rows(
    name: str, title: str, groups: Sequence[Group], share: bool, *, signed: bool, per: int = 0
) -> Markup:
    """Rows of marks around zero, numbers beside them; ``per`` marks of room keep two plots level."""
    marks = [mark for _, row in groups for mark in row]
    scale = axis([0.0, *(x for mark in marks for x in (mark.value, mark.low, mark.high))], snug=True)
    texts = [interval(mark.value, mark.low, mark.high, share, signed=signed) for mark in marks]
    left = _rem([text for label, _ in groups for text in _wrapped(label)], 3, 12)
    right = _rem(texts, 4, 11)
    per = max([per, *(len(row) for _, row in groups)])
    bottom = HEAD + len(groups) * (per * PITCH + GAP)
    parts = [tag("text", shorten(title, 44), x=0, y=13.0, class_="panel-title on-left")]
    plot = _grid(scale, bottom, share)
    for place, (label, row) in enumerate(groups):
        top = HEAD + GAP / 2 + place * (per * PITCH + GAP)
        middle = top + per * PITCH / 2
        words = _wrapped(label)
        parts += [
            tag(
                "text", text, x=0, y=middle + 4 + 13 * (at - (len(words) - 1) / 2), class_="row-label on-left"
            )
            for at, text in enumerate(words)
        ]
        for index, mark in enumerate(row):
            y = middle + (index - (len(row) - 1) / 2) * PITCH
            value, ends = bounds(mark.value, mark.low, mark.high, share, signed=signed)
            spans = tag("tspan", value), tag("tspan", f" {ends}", class_="ends")
            parts.append(tag("text", *spans, x="100%", y=y + 4, class_="value on-right", text_anchor="end"))
            plot += _dot(mark, scale, y)
    said = "; ".join(
        f"{label}: " + ", ".join(f"{m.label} {interval(m.value, m.low, m.high, share)}".strip() for m in row)
        for label, row in groups
    )
    return figure(name, title, said, *parts, *plot, height=bottom + FOOT, css=f"forest l{left} r{right}")


def _wrapped(label: str) -> list[str]:
    """A label in at most two lines, so that what differs at its end is still told apart."""
    return textwrap.wrap(label, LABEL, max_lines=2, placeholder="\u2026") or [""]


def _rem(texts: Sequence[str], least: int, most: int) -> int:
    longest = max(map(len, texts), default=0)
    return max(least, min(most, math.ceil((longest * LETTER + 10) / REM)))


def _grid(scale: Axis, bottom: float, share: bool) -> list[Markup]:
    lines = [
        tag("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=HEAD - 2, y2=bottom + 2, class_=css)
        for x, css in [*((scale.at(tick), "grid") for tick in scale.ticks), (scale.at(0.0), "reference")]
    ]
    texts = [
        tag(
            "text",
            scale.label(tick, share),
            x=f"{scale.at(tick):.2f}%",
            y=bottom + 15,
            class_="tick",
            text_anchor="middle",
        )
        for tick in scale.labelled
    ]
    return lines + texts


def _dot(mark: Mark, scale: Axis, y: float) -> list[Markup]:
    ends = [f"{scale.at(x):.2f}%" for x in (mark.low, mark.high)]
    css = mark.style.css
    return [
        tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_=f"whisker {css}"),
        *(tag("line", x1=x, x2=x, y1=y - 3.5, y2=y + 3.5, class_=f"cap {css}") for x in ends),
        marker(mark.style, f"{scale.at(mark.value):.2f}%", y),
    ]


@dataclass(frozen=True)
class Cell:
    """One number of the heat map: its text, its shade, and whether it is the highest of its row."""

    text: str
    shade: str
    best: bool


def heat(layers: LayerMap) -> list[list[Cell]]:
    """The map's cells; a layer that is the same for all pictures has no number, and says so."""
    wide = max(map(len, layers.values), default=0) > 16
    rows = []
    for row in layers.values:
        top = max((value for value in row if value is not None), default=None)
        rows.append([_cell(value, wide, value is not None and value == top) for value in row])
    return rows


def _cell(value: float | None, wide: bool, best: bool) -> Cell:
    if value is None:
        return Cell("\u2013", "h-none", False)
    text = f"{value:.2f}".replace("-", MINUS)
    shown = text.replace("0.", ".", 1) if wide and text.lstrip(MINUS).startswith("0.") else text
    return Cell(shown, shade(value), best)


def shade(value: float) -> str:
    """The style sheet's class for a share from 0 to 1."""
    return f"h{round(STEPS * min(1.0, max(0.0, value)))}"
