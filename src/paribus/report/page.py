"""The report: one HTML file that needs nothing but itself.

No script, no network, no font from elsewhere: the page's policy forbids them and names its one style sheet
by hash. The order is fixed: what was held equal comes before any number.
"""

import base64
import hashlib
import io
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from markupsafe import Markup
from PIL import Image

from paribus.files import write_text
from paribus.progress import duration
from paribus.report import boundary, tables
from paribus.report.figures import (
    LABEL,
    Mark,
    Panel,
    Series,
    Style,
    forest,
    key,
    lines,
    shorten,
    styles,
    track,
    whisker,
)
from paribus.report.tables import MINUS, Pivot
from paribus.results import Claim, Cost, Curve, Difference, GalleryItem, LedgerRow, Results
from paribus.vqa.benchmark import CATEGORIES
from paribus.vqa.scoring import MICRO, over_seeds, sentence

LEVELS: Mapping[str, str] = {
    "recipe": "each arm keeps its published recipe; every departure is listed as a confound",
    "strict": "all arms share views, optimiser and schedule",
    "compute": "arms get equal training compute instead of equal samples",
}
STAGES: Mapping[str, str] = {
    "pretrain": "Pre-training",
    "align": "Connector alignment",
    "instruct": "Instruction tuning",
    "language": "Language model",
}
SIGNS: Mapping[str, str] = {"supported": "\u2713", "contradicted": "\u2715", "not distinguishable": "\u2248"}
ROLES: Mapping[str, str] = {
    "control": "held equal in every arm",
    "treatment": "what the study varies",
    "objectives": "the settings of what is varied; many belong to one kind of supervision only",
    "confound": "what could not be held equal, and why",
    "measured": "what every run recorded of itself",
}
FOLD = 40
"""From how many rows on a table of differences, whose figures stand above it, is closed at first."""
TEMPLATES = Path(__file__).with_name("templates")
PICTURE = 160
"""Longest side of a picture in the page, in pixels; small pictures are kept as they are."""


def write_report(results: Results, folder: Path, pictures: Mapping[str, bytes]) -> Path:
    """Write ``folder/report.html``.

    Args:
        results: what to show.
        folder: where to, made if need be.
        pictures: the gallery's images (PNG or any other format) by ``left_picture`` and ``right_picture``.
    """
    path = folder / "report.html"
    write_text(path, render(results, pictures))
    return path


def render(results: Results, pictures: Mapping[str, bytes]) -> str:
    """The page as text; the same results give the same text."""
    environment = boundary.environment()
    environment.filters |= {
        "duration": duration,
        "power": power,
        "breakable": breakable,
        "digest": digest,
        "link": link,
    }
    environment.globals |= {
        "share_of": tables.is_share,
        "within": tables.within,
    }
    sheet = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    looks = looks_of(results)
    return environment.get_template("page.html.j2").render(
        r=results,
        css=Markup(sheet),
        css_hash=base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode(),
        level=LEVELS[results.level],
        keys={arm: key(style) for arm, style in looks.items()},
        ledger=ledger(results),
        roles=ROLES,
        costs=costs(results.costs),
        verdicts=Counter(claim.verdict for claim in results.claims),
        signs=SIGNS,
        claims=[(claim, _whisker(place, claim)) for place, claim in enumerate(results.claims, 1)],
        fold=FOLD,
        sections={name: section(results, name, looks) for name in tables.SECTIONS},
        titles=tables.SECTIONS,
        said=said(results),
        gallery=gallery(results, pictures, looks),
        curves=curves(results, looks),
        curve_arms=list(dict.fromkeys(curve.arm for curve in results.curves)),
        command=shlex.join(["paribus", "run", f"{results.study}.yaml"]),
        **(boundary.parts(results.ability_map) if results.ability_map else {"map": None}),
    )


def said(results: Results) -> list[str]:
    """What the answers say of every two models, category by category, in words with intervals.

    Over all seeds where there are several; of a benchmark with a name of its own, what it says overall.
    """
    several = len(results.seeds) > 1
    metric = over_seeds(MICRO, len(results.seeds)) if several else MICRO
    rows = [row for row in results.differences if row.section == "vqa" and row.metric == metric]
    wanted = {*CATEGORIES, tables.OVERALL}
    return [sentence(row) for row in _sorted(rows) if tables.named(row.task)[1] in wanted]


def looks_of(results: Results) -> dict[str, Style]:
    """A style for whatever bears a name in the results; arms in order, all else as baselines."""
    named = [*tables.columns(results), *(curve.arm for curve in results.curves)]
    named += [arm for item in results.gallery for arm in (*item.similarity, *item.percentile)]
    return styles(list(results.arms), [name for name in dict.fromkeys(named) if name not in results.arms])


@dataclass(frozen=True)
class Ledger:
    """The first table: rows by the part they play; ``broken`` are those that differ and must not."""

    arms: list[str]
    broken: list[LedgerRow]
    groups: dict[str, list[LedgerRow]]

    def same(self, row: LedgerRow) -> bool:
        """Whether one cell can speak for all arms."""
        return set(row.values) == set(self.arms) and len(set(row.values.values())) == 1


def ledger(results: Results) -> Ledger:
    """Sort the ledger's rows; a broken control is never among those that a reader may leave closed."""
    present = {arm for row in results.ledger for arm in row.values}
    arms = list(dict.fromkeys([*(arm for arm in results.arms if arm in present), *sorted(present)]))
    broken = [row for row in results.ledger if not row.agrees]
    groups = {name: [row for row in results.ledger if group(row) == name and row.agrees] for name in ROLES}
    return Ledger(arms, broken, groups)


def group(row: LedgerRow) -> str:
    """Where a row stands: under the part it plays, an objective's own settings apart."""
    own = row.path.startswith("objective.") and row.path != "objective.kind"
    return "objectives" if own and row.role == "treatment" else row.role


@dataclass(frozen=True)
class CostRow:
    """One arm's cost, and how many times the cheapest arm's of the same seed it is."""

    cost: Cost
    forwards_ratio: float
    flops_ratio: float


def costs(records: Sequence[Cost]) -> list[CostRow]:
    """Costs with their ratios to the cheapest arm under the same seed."""
    rows = []
    for cost in records:
        peers = [other for other in records if other.seed == cost.seed]
        forwards = min(other.image_forwards for other in peers) or 1
        flops = min(other.flops for other in peers) or 1.0
        rows.append(CostRow(cost, cost.image_forwards / forwards, cost.flops / flops))
    return rows


def _whisker(place: int, claim: Claim) -> Markup:
    shape = list(SIGNS).index(claim.verdict)
    return whisker(
        f"claim-{place}-figure", Mark(claim.name, Style(None, shape), claim.value, claim.low, claim.high)
    )


@dataclass(frozen=True)
class Block:
    """One pivot of a section with its panels."""

    pivot: Pivot
    panels: list[Markup]


@dataclass(frozen=True)
class Section:
    """All that was measured under one heading, with the paired differences."""

    blocks: list[Block]
    differences: list[Difference]
    panels: list[tuple[str, list[Markup]]]

    @property
    def empty(self) -> bool:
        """Whether the run measured nothing here."""
        return not (self.blocks or self.differences)


PANELS_BY_ARM = ("factors",)
"""Sections read down the encoder (which factor does it follow?), not across encoders."""


def section(results: Results, name: str, looks: Mapping[str, Style]) -> Section:
    """One section's pivots, figures and differences."""
    blocks = []
    for place, pivot in enumerate(tables.pivots(results, name)):
        make = panels_by_arm if name in PANELS_BY_ARM else panels_by_task
        blocks.append(Block(pivot, make(f"{name}-{place}", pivot, looks)))
    differences = _sorted([one for one in results.differences if one.section == name])
    return Section(blocks, differences, difference_panels(f"{name}-difference", differences))


def _sorted(differences: Sequence[Difference]) -> list[Difference]:
    """Pair by pair, and within a pair as in every other table."""
    place = tables.places([one.task for one in differences])
    pairs = list(dict.fromkeys((one.arm, one.other) for one in differences))
    return sorted(differences, key=lambda one: (pairs.index((one.arm, one.other)), place[one.task]))


def panels_by_task(name: str, pivot: Pivot, looks: Mapping[str, Style]) -> list[Markup]:
    """A panel per task, a row per arm and seed; sources within a category are left to the table."""
    groups: dict[str, list[tables.Row]] = {}
    for row in pivot.rows:
        if row.depth == 0:
            groups.setdefault(row.label, []).append(row)
    panels = []
    for label, rows in groups.items():
        marks = [
            _mark(_seeded(arm, row.seed, pivot.many_seeds), arm, row, looks)
            for arm in pivot.arms
            for row in rows
            if arm in row.cells
        ]
        panels.append(Panel(label, marks, rows[0].chance))
    return forest(name, panels, share=pivot.share, word="chance")


def panels_by_arm(name: str, pivot: Pivot, looks: Mapping[str, Style]) -> list[Markup]:
    """A panel per arm, a row per task, around zero."""
    panels = []
    for arm in pivot.arms:
        rows = [row for row in pivot.rows if arm in row.cells]
        marks = [_mark(_seeded(row.label, row.seed, pivot.many_seeds), arm, row, looks) for row in rows]
        panels.append(Panel(arm, marks, 0.0))
    return forest(name, panels, share=pivot.share, signed=True)


def _seeded(label: str, seed: int, many_seeds: bool) -> str:
    """A row's label, with the seed where there are several; it is the name that gives way."""
    return f"{shorten(label, LABEL - 4)} \u00b7 {seed}" if many_seeds else label


def _mark(label: str, arm: str, row: tables.Row, looks: Mapping[str, Style]) -> Mark:
    cell = row.cells[arm]
    return Mark(label, looks[arm], cell.value, cell.low, cell.high)


def difference_panels(name: str, differences: Sequence[Difference]) -> list[tuple[str, list[Markup]]]:
    """For each metric, a panel per pair of arms and a row per task, around zero."""
    details = tables.within([one.task for one in differences])
    shown = [one for one in differences if one.task not in details]
    many = len({one.seed for one in shown}) > 1
    out = []
    for place, metric in enumerate(dict.fromkeys(one.metric for one in shown)):
        panels: dict[str, list[Mark]] = {}
        for one in shown:
            if one.metric == metric:
                mark = Mark(_seeded(one.task, one.seed, many), Style(None, 0), one.value, one.low, one.high)
                panels.setdefault(f"{one.arm} {MINUS} {one.other}", []).append(mark)
        share = tables.is_share(metric)
        drawn = [Panel(pair, marks, 0.0) for pair, marks in panels.items()]
        heading = f"{metric}, points" if share else metric
        out.append((heading, forest(f"{name}-{place}", drawn, share=share, signed=True)))
    return out


@dataclass(frozen=True)
class Card:
    """A pair of pictures; a picture that is missing or damaged is None."""

    item: GalleryItem
    left: str | None
    right: str | None
    track: Markup


def gallery(
    results: Results, pictures: Mapping[str, bytes], looks: Mapping[str, Style]
) -> dict[tuple[str, str], list[Card]]:
    """The pairs, by who finds them alike and who does not."""
    embedded = {name: embed(pictures[name]) for name in _pictured(results) if name in pictures}
    groups: dict[tuple[str, str], list[Card]] = {}
    for place, item in enumerate(results.gallery):
        title = f"Percentiles of {shorten(item.left_label, 60)} and {shorten(item.right_label, 60)}"
        drawn = track(f"pair-{place}", title, item.percentile, looks)
        card = Card(item, embedded.get(item.left_picture), embedded.get(item.right_picture), drawn)
        groups.setdefault((item.high_arm, item.low_arm), []).append(card)
    return groups


def _pictured(results: Results) -> set[str]:
    return {name for item in results.gallery for name in (item.left_picture, item.right_picture)}


def embed(data: bytes) -> str | None:
    """A picture as a ``data:`` address, drawn anew so that the page holds pixels and nothing else.

    Large pictures become small JPEGs. None if the bytes are no picture: a page with a gap is worth more
    than no page.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    small = max(flat.size) <= PICTURE
    flat.thumbnail((PICTURE, PICTURE))
    out = io.BytesIO()
    if small:
        flat.save(out, "PNG", optimize=True)
    if not small or out.tell() > 20_000:
        out = io.BytesIO()
        flat.save(out, "JPEG", quality=85)
    kind = "png" if out.getvalue().startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def curves(results: Results, looks: Mapping[str, Style]) -> dict[str, list[Markup]]:
    """A panel per logged series, by stage; arms and seeds share a panel."""
    groups: dict[str, dict[str, list[Curve]]] = {}
    for curve in results.curves:
        groups.setdefault(curve.stage, {}).setdefault(curve.name, []).append(curve)
    many = len({curve.seed for curve in results.curves}) > 1
    return {
        STAGES.get(stage, stage): [
            lines(f"curve-{place}-{index}", name, [_series(curve, many, looks) for curve in found])
            for index, (name, found) in enumerate(named.items())
        ]
        for place, (stage, named) in enumerate(groups.items())
    }


def _series(curve: Curve, many_seeds: bool, looks: Mapping[str, Style]) -> Series:
    label = f"{curve.arm}, seed {curve.seed}" if many_seeds else curve.arm
    return Series(label, looks[curve.arm], [float(seen) for seen in curve.seen], curve.values)


def power(value: float) -> str:
    """A large count as 2.31 x 10 to the 15th, in print's notation."""
    if abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    raised = str(int(exponent)).translate(
        str.maketrans("0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b")
    )
    return f"{mantissa}\u00d710{raised}"


def breakable(path: str) -> Markup:
    """A setting's path that may break after its dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?=.)", path))


def digest(value: str) -> str | None:
    """The first twelve places of a value that is a hexadecimal digest; None of any other."""
    return value[:12] if re.fullmatch(r"[0-9a-f]{32,128}", value) else None


def link(url: str) -> str | None:
    """The address if a reader may follow it (http or https), else None."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None
