"""Figures: placed where the numbers are, escaped, named, and told apart by people who see fewer colours."""

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import paribus.report
from paribus.report.figures import (
    COLOURS,
    Mark,
    Panel,
    Series,
    Style,
    axis,
    forest,
    key,
    lines,
    spread,
    styles,
    thin,
    track,
    whisker,
)

HOSTILE = "</title><script>alert('x')</script>\"' onload=\"alert(1)"
BLUE = Style(0, 0)


def _tree(svg: str) -> ET.Element:
    """The figure parsed as XML: only well-formed, fully escaped drawings get through."""
    return ET.fromstring(svg)


def _panel(reference: float | None = 0.25) -> Panel:
    marks = [Mark("clip", BLUE, 0.5, 0.4, 0.6), Mark("dino", Style(1, 1), 0.3, 0.2, 0.4)]
    return Panel("group", marks, reference)


@pytest.mark.parametrize(
    "values", [[0.2, 0.81], [-0.05, 0.3], [1e-9, 3e-9], [5, 5], [0, 0], [12345, 99999], [-3, -1]]
)
@pytest.mark.parametrize("snug", [True, False])
def test_an_axis_holds_its_values_with_a_few_round_ticks(values: list[float], snug: bool) -> None:
    values = [float(value) for value in values]
    scale = axis(values, snug=snug)
    assert all(-1e-6 <= scale.at(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(scale.ticks) <= 8
    steps = np.diff(scale.ticks)
    assert np.allclose(steps, steps[0])
    lead = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert np.isclose(lead, [1, 2, 2.5, 5, 10]).any()


def test_an_axis_leaves_out_what_is_not_finite() -> None:
    scale = axis([float("nan"), float("inf"), 0.0, 1.0])
    assert (scale.low, scale.high) == (0.0, 1.0)
    assert axis([float("nan")]).low < axis([]).high


def test_tick_texts_differ_from_one_another() -> None:
    for values in ([0.701, 0.704], [0.0, 0.01], [0.0, 0.25], [0.0, 1000.0]):
        scale = axis(values)
        texts = [scale.label(tick, False) for tick in scale.ticks]
        assert len(set(texts)) == len(texts)


def test_a_dot_stands_where_its_value_lies() -> None:
    (svg,) = forest("f", [_panel()], share=True, word="chance")
    tree = _tree(svg)
    scale = axis([0.5, 0.4, 0.6, 0.3, 0.2, 0.4, 0.25], snug=True)
    dots = [
        float(node.attrib["x"][:-1]) for node in tree.iter("svg") if node.attrib.get("class") in ("c0", "c1")
    ]
    assert dots == pytest.approx([scale.at(0.5), scale.at(0.3)], abs=0.01)
    whiskers = [node for node in tree.iter("line") if node.attrib["class"].startswith("whisker")]
    ends = [float(node.attrib[end][:-1]) for node in whiskers for end in ("x1", "x2")]
    assert ends == pytest.approx([scale.at(x) for x in (0.4, 0.6, 0.2, 0.4)], abs=0.01)
    (line,) = (node for node in tree.iter("line") if node.attrib["class"] == "reference")
    assert float(line.attrib["x1"][:-1]) == pytest.approx(scale.at(0.25), abs=0.01)


def test_panels_of_one_figure_share_a_scale_and_have_names_of_their_own() -> None:
    drawn = forest("f", [_panel(), Panel("style", [Mark("clip", BLUE, 0.9, 0.8, 0.95)])], share=True)
    ticks = [
        [n.attrib["x1"] for n in _tree(svg).iter("line") if n.attrib["class"] == "grid"] for svg in drawn
    ]
    assert ticks[0] == ticks[1]
    ids = [re.findall(r'id="([^"]+)"', svg) for svg in drawn]
    assert not set(ids[0]) & set(ids[1])


def _all(text: str) -> list[str]:
    mark = Mark(text, BLUE, 0.1, -0.1, 0.2)
    return [
        *forest("a", [Panel(text, [mark], 0.0)], share=False, word=text),
        whisker("b", mark),
        track("c", text, {text: 50.0}, {text: BLUE}),
        lines("d", text, [Series(text, BLUE, [1.0, 2.0], [3.0, 4.0])]),
    ]


@pytest.mark.parametrize("text", ["clip", HOSTILE, "a & b < c", "日本語 ✓"])
def test_every_figure_is_named_described_and_escaped(text: str) -> None:
    for svg in _all(text):
        tree = _tree(svg)
        assert tree.attrib["role"] == "img"
        named = tree.attrib["aria-labelledby"].split()
        assert [node.attrib["id"] for node in (tree[0], tree[1])] == named
        assert (tree[0].tag, tree[1].tag) == ("title", "desc")
        assert text in (tree[0].text or "") + (tree[1].text or "")
        assert not list(tree.iter("script"))
        assert "style" not in {name for node in tree.iter() for name in node.attrib}


def test_values_that_are_not_finite_are_left_out_of_the_drawing() -> None:
    nan = float("nan")
    svgs = [
        *forest("a", [Panel("t", [Mark("m", BLUE, nan, nan, nan)])], share=True),
        whisker("b", Mark("m", BLUE, nan, nan, nan)),
        track("c", "t", {"m": nan}, {"m": BLUE}),
        lines(
            "d", "t", [Series("m", BLUE, [1.0, 2.0, 3.0], [1.0, nan, 2.0]), Series("n", BLUE, [1.0], [nan])]
        ),
    ]
    for svg in svgs:
        coordinates = [
            v
            for node in _tree(svg).iter()
            for k, v in node.attrib.items()
            if k in ("x", "x1", "x2", "points")
        ]
        assert not any("nan" in value for value in coordinates)


def test_a_line_goes_through_its_points() -> None:
    tree = _tree(lines("d", "loss", [Series("m", BLUE, [0.0, 50.0, 100.0], [4.0, 2.0, 0.0])]))
    (drawn,) = tree.iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in drawn.attrib["points"].split()]
    assert points == [(0, 0), (500, 500), (1000, 1000)]


def test_thinning_keeps_ends_and_spikes() -> None:
    rng = np.random.default_rng(0)
    ys = rng.normal(size=10_000).tolist()
    ys[1234], ys[8765] = 99.0, -99.0
    xs = [float(x) for x in range(10_000)]
    kept = thin(xs, ys)
    assert len(kept) <= 242
    assert kept[0] == (0.0, ys[0])
    assert kept[-1] == (9999.0, ys[-1])
    assert {(1234.0, 99.0), (8765.0, -99.0)} <= set(kept)
    assert kept == sorted(kept)


def test_labels_are_moved_apart_and_stay_inside() -> None:
    assert spread([10.0, 50.0, 90.0], 13.0, 0.0, 100.0) == [10, 50, 90]
    places = spread([99.0, 99.0, 99.0], 13.0, 0.0, 100.0)
    assert places == [74, 87, 100]
    assert all(b - a >= 13 for a, b in itertools.pairwise(spread([5.0, 5.0, 6.0, 40.0], 13.0, 0.0, 30.0)))


def test_styles_follow_the_order_and_never_the_name() -> None:
    one, two = styles(["clip", "dino"], ["untrained"]), styles(["dino", "clip"], ["x"])
    assert one["clip"] == two["dino"]
    assert one["dino"] == two["clip"]
    assert one["untrained"] == two["x"] == Style(None, 0)
    many = styles([f"a{k}" for k in range(30)], [])
    assert len(set(many.values())) == 30
    assert len({key(style) for style in many.values()}) == 30


def _matrix(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split()]).reshape(3, 3)


# How linear RGB looks to the colour-blind: Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "full": np.eye(3),
    "protanopia": _matrix(".152286 1.052583 -.204868 .114503 .786281 .099216 -.003882 -.048116 1.051998"),
    "deuteranopia": _matrix(".367322 .860646 -.227968 .280085 .672501 .047413 -.011820 .042940 .968881"),
    "tritanopia": _matrix("1.255528 -.076749 -.178779 -.078411 .930809 .147602 .004733 .691367 .303900"),
}
# Ottosson's OKLab, in which equal distances look about equally different.
LMS = _matrix(
    ".4122214708 .5363325363 .0514459929 .2119034982 .6806995451 .1073969566 "
    ".0883024619 .2817188376 .6299787005"
)
LAB = _matrix(
    ".2104542553 .7936177850 -.0040720468 1.9779984951 -2.4285922050 .4505937099 "
    ".0259040371 .7827717662 -.8086757660"
)


def _palettes() -> list[dict[str, str]]:
    sheet = (Path(paribus.report.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{([^}]*--c0[^}]*)\}", sheet)
    return [dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block)) for block in blocks]


def _linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, two: str) -> float:
    dark, light = sorted(float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, two))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_and_are_told_apart_under_every_vision(mode: int) -> None:
    palette = _palettes()[mode]
    arms = [palette[f"c{k}"] for k in range(COLOURS)]
    assert all(_contrast(colour, palette["paper"]) >= 3 for colour in [*arms, palette["baseline"]])
    texts = ("ink", "soft", "link", "supported", "contradicted", "undecided")
    assert all(_contrast(palette[name], palette["paper"]) >= 4.5 for name in texts)
    for name, matrix in VISION.items():
        seen = [LAB @ np.cbrt(LMS @ np.clip(matrix @ _linear(colour), 0, 1)) for colour in arms]
        nearest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
        assert nearest >= 0.09, name
