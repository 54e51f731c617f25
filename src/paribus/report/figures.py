"""Small figures as inline SVG: dots with intervals, and lines over training.

They are drawn here and not by matplotlib because a page that follows the reader's colour scheme, is read
aloud, and stays small needs drawings whose colours are CSS variables, whose text is text, and whose widths
are shares of the page. Horizontal positions are percentages and vertical ones pixels, so letters keep
their size at every width. Every figure says in ``<desc>`` what it shows; every string is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from paribus.report.tables import bounds, interval, number

COLOURS = 6
SHAPES = (
    "M-3.7 0a3.7 3.7 0 1 0 7.4 0a3.7 3.7 0 1 0-7.4 0z",
    "M-3.3-3.3h6.6v6.6h-6.6z",
    "M0-4.8L4.8 0L0 4.8L-4.8 0z",
    "M0-4.5L4.6 3.4H-4.6z",
    "M0 4.5L4.6-3.4H-4.6z",
)
"""Marker outlines around the origin. Five, against six colours: the pair repeats only after thirty arms."""
DASHES = ("", "6 3", "2 2.5", "8 3 2 3", "1 3")

Attribute = str | float | int | None


@dataclass(frozen=True)
class Style:
    """How an arm looks in every figure; ``colour`` None is a baseline's grey, drawn hollow."""

    colour: int | None
    shape: int

    @property
    def css(self) -> str:
        """The class that sets the colour."""
        return "baseline" if self.colour is None else f"c{self.colour}"

    @property
    def dash(self) -> str:
        """The line pattern, for series over training."""
        return DASHES[self.shape]


def styles(arms: Sequence[str], baselines: Sequence[str]) -> dict[str, Style]:
    """A style per arm, by its place and never by its name; baselines are grey and hollow."""
    trained = {arm: Style(place % COLOURS, place % len(SHAPES)) for place, arm in enumerate(arms)}
    others = {
        arm: Style(None, place % len(SHAPES)) for place, arm in enumerate(baselines) if arm not in trained
    }
    return trained | others


@dataclass(frozen=True)
class Mark:
    """A value with its interval, on a row of its own."""

    label: str
    style: Style
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """A titled group of rows; ``reference`` is where chance, or no difference, lies."""

    title: str
    marks: Sequence[Mark]
    reference: float | None = None


@dataclass(frozen=True)
class Axis:
    """A horizontal or vertical scale with round ends and round ticks."""

    low: float
    high: float
    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """Where a value lies, in per cent of the axis."""
        return 100 * (value - self.low) / (self.high - self.low)

    @property
    def labelled(self) -> Sequence[float]:
        """The ticks that bear a text: every second of many, zero among them."""
        start = next((place % 2 for place, tick in enumerate(self.ticks) if abs(tick) < 1e-12), 0)
        return self.ticks[start::2] if len(self.ticks) > 4 else self.ticks

    def label(self, tick: float, share: bool) -> str:
        """A tick's text, as precise as the step between ticks asks."""
        step = (self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else self.high - self.low) * (
            100 if share else 1
        )
        size = math.floor(math.log10(step) + 1e-9)
        odd = abs(step / 10**size - round(step / 10**size)) > 1e-6  # 0.25 needs one place more than 0.2
        return number(tick, share, decimals=max(0, int(odd) - size))


def axis(values: Sequence[float], count: int = 4, *, snug: bool = False) -> Axis:
    """A scale that holds all finite values, in about ``count`` round steps of 1, 2, 2.5 or 5.

    It ends at round numbers, or with ``snug`` just outside the values.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        pad = 0.5 * abs(high) or 0.5
        low, high = low - pad, high + pad
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(
        m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0) if m * power * count >= (high - low) * 0.999
    )
    if snug:
        pad = 0.03 * (high - low)
        low, high = low - pad, high + pad
        ticks = [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return Axis(low, high, ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [place * step for place in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def tag(name: str, *children: Markup | str, **attributes: Attribute) -> Markup:
    """An element, escaped: ``class_`` is ``class`` and ``stroke_width`` is ``stroke-width``."""
    parts = [
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), _plain(value))
        for key, value in attributes.items()
        if value is not None and value != ""
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(parts), Markup("").join(children))


def _plain(value: str | float | int) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _percent(value: float) -> str:
    return _plain(value) + "%"


def figure(name: str, title: str, desc: str, *children: Markup, height: float, css: str) -> Markup:
    """The frame of every figure: as wide as its place, named and described for those who cannot see it."""
    ids = f"{name}-title", f"{name}-desc"
    head = tag("title", title, id=ids[0]), tag("desc", desc, id=ids[1])
    role = {"role": "img", "aria-labelledby": " ".join(ids)}
    return tag("svg", *head, *children, class_=f"figure {css}", width="100%", height=height, **role)


def marker(style: Style, x: str = "50%", y: float = 0.0) -> Markup:
    """The arm's sign, centred on a point."""
    shape = tag("path", d=SHAPES[style.shape], class_="marker")
    return tag("svg", shape, x=x, y=y, width="1", height="1", overflow="visible", class_=style.css)


def key(style: Style) -> Markup:
    """The arm's sign within a line of text; hidden from readers, as the name beside it says the same."""
    shape = tag("path", d=SHAPES[style.shape], class_="marker", transform="translate(7 7)")
    return tag(
        "svg",
        shape,
        class_=f"key {style.css}",
        width="14",
        height="14",
        aria_hidden="true",
        focusable="false",
    )


def _label(text: str, x: str | int, y: float, css: str = "", anchor: str = "") -> Markup:
    return tag("text", text, x=x, y=y, class_=css, text_anchor=anchor)


def _rule(x: float, y1: float, y2: float, css: str) -> Markup:
    return tag("line", x1=_percent(x), x2=_percent(x), y1=y1, y2=y2, class_=css)


LABEL = 26
"""Letters of a row's label; the rest is in the description and in the table."""
ROW, HEAD, FOOT = 20.0, 27.0, 22.0
LETTER, REM = 6.6, 16.0
"""Widths in pixels of a letter in a figure, and of the unit in which the style sheet sets a panel's columns.

The columns of labels and of numbers are the drawing's left and right padding (classes ``l9 r8``), so that
100% is the width of the plot alone; their texts are moved out into it by the style sheet.
"""


def forest(
    name: str, panels: Sequence[Panel], *, share: bool, signed: bool = False, word: str = ""
) -> list[Markup]:
    """Dot-and-interval panels on one common scale; the numbers stand beside the dots.

    ``word`` names the reference line ("chance"); ``signed`` writes a plus before what is above zero.
    """
    shown = [mark for panel in panels for mark in panel.marks]
    inside = [value for mark in shown for value in (mark.value, mark.low, mark.high)]
    scale = axis(inside + [panel.reference for panel in panels if panel.reference is not None], snug=True)
    texts = [interval(m.value, m.low, m.high, share, signed=signed) for m in shown]
    labels = [shorten(mark.label, LABEL) for mark in shown]
    frame = _Frame(scale, _rem(labels, 3, 12), _rem(texts, 4, 11), share, signed, word)
    return [_panel(f"{name}-{place}", panel, frame) for place, panel in enumerate(panels)]


def _rem(texts: Sequence[str], least: int, most: int) -> int:
    """How wide a column of texts is, in whole rem, with a little room."""
    longest = max(map(len, texts), default=0)
    return max(least, min(most, math.ceil((longest * LETTER + 10) / REM)))


@dataclass(frozen=True)
class _Frame:
    """What the panels of one figure have in common."""

    scale: Axis
    left: int
    right: int
    share: bool
    signed: bool
    word: str

    def text(self, mark: Mark) -> str:
        return interval(mark.value, mark.low, mark.high, self.share, signed=self.signed)

    def value(self, mark: Mark, y: float) -> Markup:
        """The numbers at the end of a row; the style sheet drops the bounds where there is no room."""
        value, ends = bounds(mark.value, mark.low, mark.high, self.share, signed=self.signed)
        parts = tag("tspan", value), tag("tspan", f" {ends}", class_="ends")
        return tag("text", *parts, x="100%", y=y, class_="value on-right", text_anchor="end")


def _panel(name: str, panel: Panel, frame: _Frame) -> Markup:
    bottom = HEAD + ROW * len(panel.marks)
    said = "; ".join(f"{mark.label} {frame.text(mark)}" for mark in panel.marks)
    parts = [_label(shorten(panel.title, 40), 0, 13.0, "panel-title on-left")]
    if panel.reference is not None and frame.word:
        reference = f"{frame.word} {number(panel.reference, frame.share)}"
        said = f"{reference}; {said}"
        parts.append(_label(reference, "100%", 13.0, "soft on-right", "end"))
    plot = [*_grid(frame, bottom), *_reference(panel, frame, bottom)]
    for place, mark in enumerate(panel.marks):
        middle = HEAD + ROW * (place + 0.5)
        parts.append(_label(shorten(mark.label, LABEL), 0, middle + 4, "row-label on-left"))
        parts.append(frame.value(mark, middle + 4))
        plot += _dot(mark, frame.scale, middle)
    css = f"forest l{frame.left} r{frame.right}"
    return figure(name, panel.title, said, *parts, *plot, height=bottom + FOOT, css=css)


def _grid(frame: _Frame, bottom: float) -> list[Markup]:
    ticks = [frame.scale.at(tick) for tick in frame.scale.ticks]
    rules = [_rule(at, HEAD - 2, bottom + 2, "grid") for at in ticks]
    texts = [
        _label(
            frame.scale.label(tick, frame.share),
            _percent(frame.scale.at(tick)),
            bottom + 15,
            "tick",
            "middle",
        )
        for tick in frame.scale.labelled
    ]
    return rules + texts


def _reference(panel: Panel, frame: _Frame, bottom: float) -> list[Markup]:
    if panel.reference is None:
        return []
    return [_rule(frame.scale.at(panel.reference), HEAD - 4, bottom + 2, "reference")]


def _dot(mark: Mark, scale: Axis, y: float) -> list[Markup]:
    """The interval as a line with a sign on it; what is not finite is left out, its text remains."""
    parts = []
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        ends = {"x1": _percent(scale.at(mark.low)), "x2": _percent(scale.at(mark.high))}
        parts.append(tag("line", y1=y, y2=y, class_=f"whisker {mark.style.css}", **ends))
        caps = ({"x1": x, "x2": x, "class_": f"cap {mark.style.css}"} for x in ends.values())
        parts += [tag("line", y1=y - 3.5, y2=y + 3.5, **cap) for cap in caps]
    if math.isfinite(mark.value):
        parts.append(marker(mark.style, _percent(scale.at(mark.value)), y))
    return parts


def whisker(name: str, mark: Mark) -> Markup:
    """One signed value with its interval, on a scale around zero: on which side is it, and is it clear?"""
    ends = [abs(value) for value in (mark.value, mark.low, mark.high) if math.isfinite(value)]
    scale = axis([-max(ends, default=1.0), max(ends, default=1.0)], count=2)
    text = interval(mark.value, mark.low, mark.high, False, signed=True)
    at = scale.at(mark.value) if math.isfinite(mark.value) else 50.0
    place, anchor = ("100%", "end") if at > 58 else ("0%", "start") if at < 42 else (_percent(at), "middle")
    plot = [
        tag("line", x1="0%", x2="100%", y1=32, y2=32, class_="grid"),
        *(_rule(scale.at(tick), 28.0, 36.0, "grid") for tick in scale.ticks),
        _rule(50.0, 22.0, 42.0, "reference"),
        *_dot(mark, scale, 32.0),
        *(_label(scale.label(t, False), _percent(scale.at(t)), 53.0, "tick", "middle") for t in scale.ticks),
        _label(text, place, 13.0, "value strong", anchor),
    ]
    inner = tag("svg", *plot, x="8%", width="84%", overflow="visible")
    return figure(name, mark.label, f"{text}, on a scale around zero", inner, height=58.0, css="claim-figure")


def track(name: str, title: str, percentiles: Mapping[str, float], looks: Mapping[str, Style]) -> Markup:
    """Where each encoder ranks a pair among all its pairs, from 0 (least alike) to 100 (most alike)."""
    said = "; ".join(f"{arm}: {value:.1f}" for arm, value in percentiles.items())
    plot = [tag("line", x1="0%", x2="100%", y1=9, y2=9, class_="track")]
    plot += [_rule(at, 5.0, 13.0, "grid") for at in (0.0, 50.0, 100.0)]
    plot += [
        marker(looks[arm], _percent(value), 9.0) for arm, value in percentiles.items() if math.isfinite(value)
    ]
    inner = tag("svg", *plot, x="3%", width="94%", overflow="visible")
    return figure(name, title, said, inner, height=18.0, css="track-figure")


@dataclass(frozen=True)
class Series:
    """One line: ``xs`` and ``ys`` of equal length."""

    label: str
    style: Style
    xs: Sequence[float]
    ys: Sequence[float]


TOP, DEPTH, LEFT, PLOT = 26.0, 116.0, 14.0, 68.0


def lines(name: str, title: str, series: Sequence[Series]) -> Markup:
    """Lines over samples seen; each ends in its sign and its last value."""
    kept = [_finite(one) for one in series]
    kept = [one for one in kept if one.xs]
    across = axis([0.0, *(x for one in kept for x in one.xs)], count=3)
    up = axis([y for one in kept for y in one.ys], count=3)
    said = (
        "; ".join(f"{s.label} from {_short(s.ys[0])} to {_short(s.ys[-1])}" for s in kept)
        or "nothing was logged"
    )
    parts = [_label(shorten(title, 40), 0, 13.0, "panel-title")]
    for tick in up.ticks:
        y = TOP + DEPTH * (1 - up.at(tick) / 100)
        parts.append(tag("line", x1=_percent(LEFT), x2=_percent(LEFT + PLOT), y1=y, y2=y, class_="grid"))
        parts.append(_label(up.label(tick, False), _percent(LEFT - 2), y + 4, "tick", "end"))
    for tick in across.ticks:
        x = LEFT + PLOT * across.at(tick) / 100
        parts.append(_label(_thousands(tick), _percent(x), TOP + DEPTH + 16, "tick", "middle"))
    plot = [_polyline(one, across, up) for one in kept]
    box = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none"}
    parts.append(tag("svg", *plot, x=_percent(LEFT), width=_percent(PLOT), y=TOP, height=DEPTH, **box))
    parts += _ends(kept, across, up)
    return figure(
        name,
        title,
        f"{said}, over {_thousands(across.high)} samples",
        *parts,
        height=TOP + DEPTH + 24,
        css="lines",
    )


def _finite(one: Series) -> Series:
    pairs = [(x, y) for x, y in zip(one.xs, one.ys, strict=True) if math.isfinite(y)]
    return Series(one.label, one.style, [x for x, _ in pairs], [y for _, y in pairs])


def _polyline(one: Series, across: Axis, up: Axis) -> Markup:
    pairs = thin(one.xs, one.ys)
    points = " ".join(f"{10 * across.at(x):.0f},{1000 - 10 * up.at(y):.0f}" for x, y in pairs)
    hollow = {"fill": "none", "vector-effect": "non-scaling-stroke", "stroke-dasharray": one.style.dash}
    return tag("polyline", points=points, class_=f"series {one.style.css}", **hollow)


def _ends(series: Sequence[Series], across: Axis, up: Axis) -> list[Markup]:
    """The sign at each line's end, and its value beside the plot, moved apart where lines meet."""
    ends = sorted(series, key=lambda one: one.ys[-1], reverse=True)
    wanted = [TOP + DEPTH * (1 - up.at(one.ys[-1]) / 100) for one in ends]
    places = spread(wanted, gap=13.0, low=TOP, high=TOP + DEPTH)
    parts = []
    for one, exact, place in zip(ends, wanted, places, strict=True):
        x = LEFT + PLOT * across.at(one.xs[-1]) / 100
        parts.append(marker(one.style, _percent(x), exact))
        parts.append(marker(one.style, _percent(LEFT + PLOT + 4), place))
        parts.append(_label(_short(one.ys[-1]), _percent(LEFT + PLOT + 6.5), place + 4, "value"))
    return parts


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved apart until neighbours keep ``gap``, within ``low`` and ``high`` if they fit."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap if places else low))
    ceiling = max(high, low + gap * (len(places) - 1))
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


def thin(xs: Sequence[float], ys: Sequence[float], buckets: int = 120) -> list[tuple[float, float]]:
    """At most ``2 * buckets + 2`` points of a series: its ends, and the extremes of each stretch between.

    Keeping the extremes and not means leaves every spike in sight.
    """
    if len(xs) <= 2 * buckets:
        return list(zip(xs, ys, strict=True))
    inner = range(1, len(xs) - 1)
    keep = {0, len(xs) - 1}
    for bucket in range(buckets):
        stretch = inner[len(inner) * bucket // buckets : len(inner) * (bucket + 1) // buckets]
        keep |= {min(stretch, key=ys.__getitem__), max(stretch, key=ys.__getitem__)}
    return [(xs[index], ys[index]) for index in sorted(keep)]


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters; the whole text is in the description and the table."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _thousands(value: float) -> str:
    """Counts on an axis: 60k, 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
