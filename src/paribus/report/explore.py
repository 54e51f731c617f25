"""The page that people explore: where two encoders differ, from a ``Comparison`` and its pictures alone.

One HTML file that needs nothing but itself. Its policy forbids the network and names its one style sheet and
its one script by hash. Without the script it shows the first pairs, every table and every figure.
"""

import base64
import hashlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from paribus.comparison import Comparison, Pair, Which
from paribus.errors import UserError
from paribus.files import disk_errors, whole_file, whole_folder, write_json
from paribus.report import explore_pictures as small
from paribus.report.explore_figures import STEPS, chart, heat
from paribus.report.explore_tables import BOTH, Block, blocks, identity, sections, write_tables
from paribus.report.figures import Style, key, shorten, styles, track
from paribus.report.page import TEMPLATES, breakable, digest
from paribus.report.schema import comparison_record
from paribus.report.tables import SECTIONS, bounds, interval, is_share, number
from paribus.results import Difference
from paribus.stats import holm, interval_p

FIRST = 24
"""Pairs that are in the page itself; the script makes the others when they are asked for."""
FACT = 400
"""Letters of a fact about an encoder, such as its notes; comparison.json has them all."""
FACTORS, SYMBOLS = "factors", "symbols"
REASONS: Mapping[str, str] = {
    "candidates": "pairs beyond both thresholds",
    "kept": "kept, and shown above",
    "duplicate": "passed over: the two pictures look the same",
    "repeat": "passed over: looks like a pair that was kept",
    "hub": "passed over: one of the pictures is in kept pairs already",
}
IMAGES: Mapping[str, str] = {
    "images": "pictures compared",
    "placeholder_images": "pictures of nearly one colour, never in a pair",
}


def write_comparison(found: Comparison, pictures: Path, folder: Path) -> Path:
    """Write the report of a comparison: ``report.html``, ``comparison.json``, ``pairs/`` and ``tables/``.

    All is written under other names first and renamed at the end, the page last, so a report is whole or not
    there.

    Args:
        found: what to show.
        pictures: the folder that holds the files that ``found.shown`` names; it may be ``folder/pairs``.
        folder: where to, made if need be.

    Raises:
        UserError: a picture is missing, a number is not finite, or a folder holds what no comparison wrote.
    """
    found = found.called(*(_one_line(found.encoders[which].name) for which in ("a", "b")))
    record = comparison_record(found)
    names = list(dict.fromkeys([*(shown.picture for shown in found.shown), *filter(None, [found.symbols])]))
    for name in names:
        if Path(name).name != name or not (pictures / name).is_file():
            raise UserError(f"{pictures} has no picture {name!r}, which the comparison shows: compare again.")
    check_folder(folder)
    text = render(found, pictures)
    path = folder / "report.html"
    with (
        whole_file(path) as page,
        whole_file(folder / "comparison.json") as data,
        whole_folder(folder / "tables") as lines,
        whole_folder(folder / "pairs") as pairs,
    ):
        for name in names:
            shutil.copyfile(pictures / name, pairs / name)
        write_json(pairs / "pairs.json", {"pairs": _pairs(found)})
        write_tables(found, lines)
        write_json(data, record)
        page.write_text(text, encoding="utf-8")
    return path


_TABLES = ("measures", "differences", "layers", "pairs")


def check_folder(folder: Path) -> None:
    """See that a report can be written to a folder: two of its folders are replaced as a whole.

    Raises:
        UserError: it is a file, may not be written to, or one of the two holds what no comparison wrote.
    """
    refused = UserError(f"Cannot write to {folder}: choose a folder you may write to.")
    try:
        with disk_errors(folder):
            if folder.is_symlink() and not folder.exists():
                raise refused
            tempfile.TemporaryFile(dir=_there(folder)).close()
    except FileNotFoundError as error:  # as /proc says it
        raise refused from error
    _refuse_strangers(folder / "pairs", {"pairs.json", "symbols.webp"})
    _refuse_strangers(
        folder / "tables", {f"{name}.{kind}" for name in (*_TABLES, *SECTIONS) for kind in ("csv", "tex")}
    )


def _there(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _one_line(name: str) -> str:
    return " ".join(name.split()) or "unnamed"


def _refuse_strangers(folder: Path, ours: set[str]) -> None:
    """It must hold nothing of anybody else's."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    strangers = sorted(name for name in there - ours if not re.fullmatch(r"\d{5}\.webp", name))
    if strangers:
        raise UserError(f"{folder} holds {strangers[0]!r}, which is no comparison's: choose another folder.")


def _pairs(found: Comparison) -> list[dict[str, str]]:
    return [
        {
            "id": identity(found, place),
            "left": found.shown[pair.left].picture,
            "right": found.shown[pair.right].picture,
            "alike": found.encoders[pair.alike].name,
            "apart": found.encoders[_other(pair.alike)].name,
        }
        for place, pair in enumerate(found.pairs)
    ]


def _other(which: Which) -> Which:
    return "b" if which == "a" else "a"


def render(found: Comparison, pictures: Path) -> str:
    """The page as text; the same comparison and pictures give the same text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "digest": digest}
    environment.globals |= {"number": number, "bounds": bounds, "shorten": shorten}
    sheet, script = (
        "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in files)
        for files in (("page.css", "explore.css"), ("explore.js", "explore_detail.js"))
    )
    names = (found.encoders["a"].name, found.encoders["b"].name)
    looks = styles(names, [])
    drawn = small.thumbnails(found, pictures)
    cards = [_card(found, place, drawn, looks) for place in first(found)]
    in_page = {at for card in cards for at in (card.left.place, card.right.place)}
    return environment.get_template("explore.html.j2").render(
        c=found,
        css=Markup(sheet),
        css_hash=_hash(sheet),
        js=Markup(script),
        js_hash=_hash(script),
        data=Markup(small.block(small.data(found, drawn, in_page))),
        names=dict(zip("ab", names, strict=True)),
        keys=dict(zip("ab", (key(looks[name]) for name in names), strict=True)),
        facts=facts(found),
        said=said(found),
        cards=cards,
        blank=_blank(names, looks),
        counts={which: sum(pair.alike == which for pair in found.pairs) for which in ("a", "b")},
        factor_names=small.factors(found),
        sections=sections(found),
        blocks={name: blocks(found, name) for name in sections(found)},
        charts=_charts(found, names, (looks[names[0]], looks[names[1]])),
        heat=heat(found.layers) if found.layers else [],
        steps=STEPS,
        sheet=small.sheet(pictures / found.symbols) if found.symbols else None,
        mined=mined(found),
        command=found.command
        or shlex.join(
            ["paribus", "compare", *(found.encoders[w].where for w in ("a", "b")), "--images", found.folder]
        ),
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def facts(found: Comparison) -> list[tuple[str, str, str]]:
    """What the two encoders are, side by side: name of the fact, a's, b's; what both lack is left out."""
    a, b = found.encoders["a"], found.encoders["b"]
    rows = [
        ("model", a.model, b.model),
        ("taught by", a.taught, b.taught),
        ("parameters", f"{a.parameters:,}", f"{b.parameters:,}"),
        ("width", f"{a.width:,}", f"{b.width:,}"),
        ("pictures are prepared", a.prepared, b.prepared),
        ("prepared side", f"{a.size:,} pixels", f"{b.size:,} pixels"),
        ("what is compared", a.read, b.read),
        ("format", a.format, b.format),
        ("where", a.where, b.where),
        ("notes", "; ".join(a.notes), "; ".join(b.notes)),
    ]
    short = [(name, *(small.cut(text, FACT) for text in texts)) for name, *texts in rows if any(texts)]
    return [(name, first, second) for name, first, second in short]


def said(found: Comparison) -> list[str]:
    """What was found, in sentences with intervals: how alike the two are, then what each follows more.

    What is followed more is said of differences that stay clear for all factors together (Holm).
    """
    names = {which: shorten(encoder.name, 40) for which, encoder in found.encoders.items()}
    common = [m for m in found.measures if m.arm == BOTH and m.section == "similarity"]
    out = []
    if common:
        parts = [f"{m.metric} {interval(m.value, m.low, m.high, is_share(m.metric))}" for m in common]
        out.append(f"How alike the two are, from 0 to 1: {_joined(parts)} (n = {common[0].n:,})")
    steps = [d for d in found.differences if d.section == FACTORS and d.metric.startswith("standard")]
    sure = holm(np.array([interval_p(d.value, d.low, d.high) for d in steps])) < 0.05
    together = {d.task for d, clear in zip(steps, sure, strict=True) if clear}
    sides: tuple[tuple[Which, int], ...] = (("a", 1), ("b", -1))
    metrics = {d.metric for d in steps}
    followed = {  # what neither follows cannot be followed more
        which: {m.task for m in found.measures if m.metric in metrics and m.arm == which and m.low > 0}
        for which, _ in sides
    }
    for which, sign in sides:
        wanted = together & followed[which]
        clear = [d for d in steps if (d.low if sign > 0 else -d.high) > 0 and d.task in wanted]
        clear = sorted(clear, key=lambda d: -abs(d.value))[:3]
        if clear:
            tasks = _joined([f"{d.task} (by {_plain(d)})" for d in clear])
            who = f"{names[which]} follows {tasks} more than that of {names[_other(which)]} does"
            out.append(f"The similarity of {who}")
    if steps and len(out) == bool(common):
        out.append("No factor is followed clearly more by one than by the other")
    return out


def _plain(one: Difference) -> str:
    low, high = sorted((abs(one.low), abs(one.high)))
    return interval(abs(one.value), low, high, is_share(one.metric))


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def first(found: Comparison) -> list[int]:
    """Places of the pairs that are in the page itself: the most extreme of both directions in turn."""
    order: list[tuple[int, str, int]] = []
    seen = {"a": 0, "b": 0}
    for place, pair in enumerate(found.pairs):
        order.append((seen[pair.alike], pair.alike, place))
        seen[pair.alike] += 1
    return [place for _, _, place in sorted(order)[:FIRST]]


@dataclass(frozen=True)
class Side:
    """One picture of a card; ``source`` is None for a picture that is damaged."""

    place: int
    name: str
    source: str | None


@dataclass(frozen=True)
class Card:
    """A pair as it stands in the gallery; numbers are texts of a and of b."""

    id: str
    alike: Which
    left: Side
    right: Side
    track: Markup
    cosines: tuple[str, str]
    percentiles: tuple[str, str]
    chips: list[str]


def _card(found: Comparison, place: int, drawn: Mapping[int, str], looks: Mapping[str, Style]) -> Card:
    pair, names = found.pairs[place], [found.encoders["a"].name, found.encoders["b"].name]
    left, right = (
        Side(at, small.called(found.shown[at]), small.address(drawn[at]) if at in drawn else None)
        for at in (pair.left, pair.right)
    )
    title = f"Percentiles of {shorten(left.name, 60)} and {shorten(right.name, 60)}"
    where = {names[0]: pair.percentile["a"], names[1]: pair.percentile["b"]}
    return Card(
        id=identity(found, place),
        alike=pair.alike,
        left=left,
        right=right,
        track=track(f"pair-{place}", title, where, looks),
        cosines=(number(pair.similarity["a"], False), number(pair.similarity["b"], False)),
        percentiles=_decimals(pair.percentile["a"], pair.percentile["b"]),
        chips=_chips(pair),
    )


def _decimals(a: float, b: float) -> tuple[str, str]:
    return number(a, False, decimals=1), number(b, False, decimals=1)


def _chips(pair: Pair) -> list[str]:
    chips = [f"same {small.cut(name, small.NAME)}" for name in pair.shares]
    if pair.factors:
        top = max(pair.factors, key=pair.factors.__getitem__)
        chips.append(f"alike in {small.cut(top, small.NAME)} {pair.factors[top]:.0f}")
    return chips


def _blank(names: Iterable[str], looks: Mapping[str, Style]) -> Card:
    """What the script makes its cards from."""
    none, nothing = Side(-1, "", None), ("", "")
    drawn = track("pair-blank", "Percentiles", dict.fromkeys(names, 0.0), looks)
    return Card("", "a", none, none, drawn, nothing, nothing, [])


def _charts(
    found: Comparison, names: tuple[str, str], looks: tuple[Style, Style]
) -> dict[str, list[tuple[Block, list[Markup]]]]:
    """Figures of what is on one scale: factors and symbols."""
    return {
        section: [
            (block, chart(f"{section}-{place}", block, names, looks))
            for place, block in enumerate(blocks(found, section))
        ]
        for section in (FACTORS, SYMBOLS)
    }


@dataclass(frozen=True)
class Passed:
    """What the search met: counts of pictures, reasons with a count a direction, and any other count."""

    images: list[tuple[str, int]]
    reasons: list[tuple[str, int | None, int | None]]
    others: list[tuple[str, int]]


def mined(found: Comparison) -> Passed:
    """The counts of the search, in words."""
    counts = dict(found.mined)
    images = [(words, counts.pop(name)) for name, words in IMAGES.items() if name in counts]
    reasons = [
        (words, counts.pop(f"a_high_{name}", None), counts.pop(f"b_high_{name}", None))
        for name, words in REASONS.items()
    ]
    return Passed(images, [row for row in reasons if row[1:] != (None, None)], [*counts.items()])
