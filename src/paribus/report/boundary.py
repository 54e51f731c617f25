"""The boundary between two kinds of supervision: a chart, a table, and the same as text and as a page.

A row is a task. Right of the line the first side is better, left of it the second; what is drawn hollow and
grey is no difference that can be claimed.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from paribus.files import make_folder, write_json, write_text
from paribus.report.figures import Mark, Panel, Style, forest, key
from paribus.report.tables import bounds, interval, number
from paribus.results import AbilityMap, Boundary, MapRow

TEMPLATES = Path(__file__).with_name("templates")
LOOKS: Mapping[Boundary, Style] = {
    "one leads": Style(0, 0),
    "two leads": Style(1, 1),
    "the same": Style(None, 2),
    "no difference can be claimed": Style(None, 0),
}


@dataclass(frozen=True)
class Line:
    """A task as the table shows it."""

    row: MapRow
    step: str
    p: str
    verdict: str
    leader: str
    tied: str


def ordered(found: AbilityMap) -> list[MapRow]:
    """From what the first side is best for to what the second is; without sides as they were asked."""
    return sorted(found.rows, key=lambda row: -row.step.value if row.step is not None else 0.0)


def words(found: AbilityMap, row: MapRow) -> str:
    """A row's verdict, naming the sides."""
    margin = number(found.margin, True, decimals=0 if round(100 * found.margin, 6) % 1 == 0 else 1)
    said: dict[Boundary, str] = {
        "one leads": f"{found.one} {'leads' if row.merit else 'is higher'}",
        "two leads": f"{found.two} {'leads' if row.merit else 'is higher'}",
        "the same": f"the same within {margin} points",
        "no difference can be claimed": "no difference can be claimed",
    }
    return said[row.verdict] if row.verdict is not None else ""


def lines(found: AbilityMap) -> list[Line]:
    """The table's rows."""
    out = []
    for row in ordered(found):
        step, best = row.step, row.values[row.leader]
        out.append(
            Line(
                row,
                "" if step is None else interval(step.value, step.low, step.high, True, signed=True),
                "" if row.p_holm is None else p_text(row.p_holm),
                words(found, row),
                f"{row.leader} {interval(best.value, best.low, best.high, True)}",
                _told(row),
            )
        )
    return out


def _told(row: MapRow) -> str:
    """Who cannot be told from the leader; of many, who can."""
    others = [name for name in row.values if name != row.leader]
    rest = [name for name in others if name not in row.tied]
    if not rest:
        return "any other" if others else ""
    return ", ".join(row.tied) if len(row.tied) <= len(rest) else f"all but {', '.join(rest)}"


def p_text(p: float) -> str:
    """A p-value to three decimals."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def chart(found: AbilityMap, name: str = "boundary") -> list[Markup]:
    """The steps, task by task; nothing where there are no sides."""
    marks = [
        Mark(row.task, LOOKS[row.verdict], row.step.value, row.step.low, row.step.high)
        for row in ordered(found)
        if row.step is not None and row.verdict is not None
    ]
    if not marks:
        return []
    return forest(
        name, [Panel(f"{found.one} minus {found.two}, points", marks, 0.0)], share=True, signed=True
    )


def legend(found: AbilityMap) -> list[tuple[Markup, str]]:
    """The signs of the verdicts that occur, and what they mean."""
    example = {row.verdict: row for row in found.rows if row.verdict is not None}
    return [(key(LOOKS[verdict]), words(found, example[verdict])) for verdict in LOOKS if verdict in example]


def said(found: AbilityMap) -> list[str]:
    """What the map says, in sentences."""
    if not found.one:
        return []
    counts = Counter(row.verdict for row in found.rows if row.verdict is not None and row.merit)
    total = sum(counts.values())
    parts = [
        f"{found.one} leads at {counts['one leads']}",
        f"{found.two} at {counts['two leads']}",
        f"{counts['the same']} are the same within the margin",
        f"at {counts['no difference can be claimed']} no difference can be claimed",
    ]
    leanings = [f"{row.task}: {words(found, row)}" for row in found.rows if not row.merit and row.verdict]
    return [f"Of {total} tasks {', '.join(parts)}", *leanings]


def text(found: AbilityMap) -> str:
    """The map for a terminal."""
    rows = lines(found)
    wide = max(len(line.row.task) for line in rows)
    out = [f"{sentence}." for sentence in said(found)]
    if found.one:
        out += ["", f"{found.one} ({', '.join(found.sides[found.one])}) minus {found.two} "
                f"({', '.join(found.sides[found.two])}), points; p after Holm's correction"]  # fmt: skip
        out += [f"  {line.row.task:<{wide}}  {line.step:<22} {line.p:>6}  {line.verdict}" for line in rows]
    out += ["", "Who has the highest value, and who cannot be told from it"]
    out += [f"  {line.row.task:<{wide}}  {line.leader:<32}  {line.tied or '–'}" for line in rows]
    for task, names in found.left_out.items():
        out.append(f"  {task}: not asked of {', '.join(names)}, which has nothing to read it from")
    return "\n".join(out)


def environment() -> Environment:
    """Templates of the page; the map's part is shared with the report."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"number": number, "bounds": bounds}
    return made


def parts(found: AbilityMap) -> dict[str, object]:
    """What the template of the map needs."""
    return {
        "map": found,
        "map_lines": lines(found),
        "map_chart": chart(found),
        "map_legend": legend(found),
        "map_said": said(found),
        "map_encoders": encoders(found.rows),
    }


def encoders(rows: Sequence[MapRow]) -> list[str]:
    """All that were asked anything, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def write_map(found: AbilityMap, folder: Path, about: Mapping[str, str], command: str) -> Path:
    """Write ``map.html`` and ``map.json``.

    Args:
        found: what to show.
        folder: where to, made if need be.
        about: encoder -> what it is, in words.
        command: what was typed.
    """
    sheet = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    page = environment().get_template("map_page.html.j2").render(
        css=Markup(sheet),
        css_hash=base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode(),
        about=about,
        command=command,
        **parts(found),
    )  # fmt: skip
    make_folder(folder)
    write_json(folder / "map.json", found.model_dump(mode="json"))
    write_text(folder / "map.html", page)
    return folder / "map.html"
