"""The page: everything measured is on it, nothing on it is unescaped, and it asks the network for nothing."""

import base64
import hashlib
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paribus.progress import duration
from paribus.report.page import breakable, digest, embed, link, power, render, write_report
from paribus.report.tables import SECTIONS, interval, is_share
from paribus.results import Results

from . import build

HEADINGS = [
    "Ledger",
    "Cost per arm",
    "Claims",
    "Probes",
    "The boundary",
    "Analysis",
    "Vision-language model",
    "Training curves",
    "Licences and attributions",
    "Environment",
    "How to reproduce",
]
HOSTILE = "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}&amp;"
VOID = {"meta", "link", "img", "input", "br", "wbr", "hr"}


class Page(HTMLParser):
    """The page as a browser would build it: elements, tables as rows of cells, headings; well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "caption":
            self.captions.append("")
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "title", "desc"):
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "caption" in self.open:
            self.captions[-1] += data
        if any(re.fullmatch("h[1-6]", name) for name in self.open):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data


@pytest.fixture(scope="module")
def study() -> tuple[Results, dict[str, bytes]]:
    return build()


@pytest.fixture(scope="module")
def page(study: tuple[Results, dict[str, bytes]]) -> Page:
    return Page(render(*study))


def test_sections_stand_in_their_order(page: Page) -> None:
    shown = [text for level, text in page.headings if level == "h2"]
    assert [text for text in shown if text in HEADINGS] == HEADINGS
    assert page.headings[0] == ("h1", "quickstart")


def _cell(page: Page, task: str, arm: str, seed: int, said: str) -> bool:
    for table in page.tables:
        head = [cell.strip() for cell in table[0]]
        if arm in head and head[0] == "Task":
            at, seeds = head.index(arm), head.index("seed")
            if any(
                r[0] in (task, f"{task}, seed {seed}") and r[seeds] == str(seed) and r[at].strip() == said
                for r in table[1:]
            ):
                return True
    return False


def test_every_measure_stands_in_the_row_of_its_task_and_the_column_of_its_arm(
    study: tuple[Results, dict[str, bytes]], page: Page
) -> None:
    results, _ = study
    assert len(results.measures) >= 80
    for m in results.measures:
        said = interval(m.value, m.low, m.high, is_share(m.metric))
        assert any(_cell(page, name, m.arm, m.seed, said) for name in (m.task, m.metric)), (
            m.task,
            m.arm,
            said,
        )


def test_every_difference_claim_cost_and_ledger_row_is_on_the_page(
    study: tuple[Results, dict[str, bytes]], page: Page
) -> None:
    results, _ = study
    rows = [[cell.strip() for cell in row] for table in page.tables for row in table]
    for d in results.differences:
        said = interval(d.value, d.low, d.high, True, signed=True)
        assert any(row[0] == d.task and said in row for row in rows), d.task
    for claim in results.claims:
        assert all(text in page.text for text in (claim.name, claim.text, claim.because, claim.source))
        assert interval(claim.value, claim.low, claim.high, False, signed=True) in page.text
    for cost in results.costs:
        assert any(row[0] == cost.arm and f"{cost.image_forwards:,}" in row[2] for row in rows)
    values = page.text + " ".join(attrs.get("title", "") for _, attrs in page.elements)
    for line in results.ledger:
        assert any(row[0] == line.path for row in rows)
        why = "" if line.role == "treatment" else line.why  # the list of arms says it
        assert all(text in values for text in (*line.values.values(), why, line.source))
    assert all(because in page.text for because in results.arms.values())
    for item in results.gallery:
        for arm, value in item.similarity.items():
            wanted = [arm, f"{value:.3f}", f"{item.percentile[arm]:.1f}"]
            assert wanted in rows


def test_seeds_are_kept_apart() -> None:
    results, pictures = build()
    second = [m.model_copy(update={"seed": 1, "value": m.value * 0.9}) for m in results.measures]
    both = results.model_copy(update={"measures": [*results.measures, *second], "seeds": [0, 1]})
    parsed = Page(render(both, pictures))
    for m in both.measures:
        said = interval(m.value, m.low, m.high, is_share(m.metric))
        assert any(_cell(parsed, name, m.arm, m.seed, said) for name in (m.task, m.metric)), (m.task, m.arm)


def test_a_control_that_differs_is_in_sight_and_named() -> None:
    results, pictures = build()
    broken = results.ledger[4].model_copy(update={"agrees": False, "values": {"clip": "8", "dino": "16"}})
    changed = results.model_copy(update={"ledger": [*results.ledger[:4], broken, *results.ledger[5:]]})
    html = render(changed, pictures)
    assert "1 row differs between arms and must not" in Page(html).text
    body = html[html.index("Broken <span>") : html.index('<tbody class="role control">')]
    assert "encoder.<wbr>patch" in body
    assert "16" in body
    assert "must not: do not read" not in render(results, pictures)


def _hostile(value: Any, name: str = "") -> Any:
    """The record with every free text made hostile, keys of mappings too."""
    if isinstance(value, dict):
        free = name in ("arms", "data", "values", "similarity", "percentile", "mined", "environment")
        return {(HOSTILE + key if free else key): _hostile(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item, name) for item in value]
    fixed = name in ("section", "verdict", "role", "level", "left_picture", "right_picture")
    return HOSTILE + value if isinstance(value, str) and not fixed else value


def test_hostile_text_in_every_field_stays_text() -> None:
    results, pictures = build()
    hostile = Results.model_validate(_hostile(results.model_dump(mode="json")))
    html = render(hostile, pictures)
    parsed = Page(html)
    friendly = Page(render(results, pictures))
    names = {tag for tag, _ in parsed.elements}
    assert "script" not in names
    assert names <= {tag for tag, _ in friendly.elements}
    assert not [
        attrs
        for _, attrs in parsed.elements
        if any(name.startswith("on") or name == "style" for name in attrs)
    ]
    assert "{{ 7*7 }}" in parsed.text
    assert HOSTILE in parsed.text
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in parsed.elements if tag == "img")
    assert not [attrs for tag, attrs in parsed.elements if tag == "a" and not attrs["href"].startswith("#")]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//evil", "file:///etc", "http://[", "", "https:///x"]
)
def test_only_web_addresses_become_links(url: str) -> None:
    assert link(url) is None
    assert link("https://example.org/a?b=c&d") is not None


def test_nothing_is_loaded_and_links_tell_nobody(study: tuple[Results, dict[str, bytes]], page: Page) -> None:
    results, pictures = study
    html = render(results, pictures)
    assert "script" not in {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name, "#")
            assert value.startswith(("#", "data:")) or tag == "a", (tag, value)
    outside = [attrs for tag, attrs in page.elements if tag == "a" and not attrs["href"].startswith("#")]
    assert {attrs["href"] for attrs in outside} == {a.url for a in results.attributions}
    assert all("noreferrer" in attrs["rel"].split() for attrs in outside)
    sheet = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert sheet
    assert "url(" not in sheet[1]
    assert "@import" not in sheet[1]
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    hashed = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    parts = (
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{hashed}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    assert policy.split("; ") == list(parts)


def test_tables_and_ids_are_sound(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {
        attrs["href"][1:] for tag, attrs in page.elements if tag == "a" and attrs["href"].startswith("#")
    }
    labels = {one for _, attrs in page.elements for one in attrs.get("aria-labelledby", "").split()}
    assert targets | labels <= set(ids)
    assert len(page.captions) == len(page.tables)
    assert all(caption.strip() for caption in page.captions)
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")
    levels = [int(level[1]) for level, _ in page.headings]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_an_empty_study_has_all_its_sections() -> None:
    results, _ = build()
    lists = (
        "ledger",
        "costs",
        "measures",
        "differences",
        "claims",
        "curves",
        "gallery",
        "attributions",
        "baselines",
        "seeds",
    )
    empty = results.model_copy(
        update={name: [] for name in lists} | {"arms": {}, "data": {}, "mined": {}, "environment": {}}
    )
    parsed = Page(render(empty, {}))
    assert [text for level, text in parsed.headings if level == "h2" and text in HEADINGS] == HEADINGS
    assert parsed.text.count("Not measured in this run.") == len(SECTIONS)


def _photo(size: int, seed: int) -> bytes:
    """Noise, which compresses worse than any photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((size, size)).save(out, "PNG")
    return out.getvalue()


def test_forty_pairs_of_photographs_stay_below_five_megabytes(tmp_path: Path) -> None:
    results, pictures = build(pairs=40)
    photos = {name: _photo(256, place) for place, name in enumerate(pictures)}
    path = write_report(results, tmp_path, photos)
    assert path.name == "report.html"
    assert path.stat().st_size < 5_000_000
    assert path.read_text(encoding="utf-8").count("data:image/jpeg") == 80


def test_small_pictures_keep_their_pixels() -> None:
    _, pictures = build(pairs=1)
    source = embed(pictures["p0a"])
    assert source is not None
    shown = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    drawn = Image.open(io.BytesIO(pictures["p0a"]))
    flat = Image.new("RGBA", drawn.size, "white")
    flat.alpha_composite(drawn)
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(flat.convert("RGB")))


def test_a_missing_or_damaged_picture_leaves_a_gap_and_not_a_failure() -> None:
    results, pictures = build(pairs=2)
    whole = render(results, pictures)
    damaged = render(results, {"p0a": pictures["p0a"][:60], "p1a": b"<svg onload=alert(1)>"})
    assert whole.count("picture not stored") == 0
    assert damaged.count("picture not stored") == 4


def test_the_same_results_give_the_same_page() -> None:
    assert render(*build()) == render(*build())


def test_words_for_numbers() -> None:
    assert [duration(s) for s in (4.26, 59.96, 250.0, 7530.0)] == [
        "4.3 s",
        "60.0 s",
        "4 min 10 s",
        "2 h 05 min",
    ]
    assert [power(v) for v in (0.0, 1234.0, 3.412e13)] == ["0", "1,234", "3.41×10¹³"]
    assert digest("a" * 64) == "a" * 12
    assert digest("glyphs") is None
    assert breakable("a.<b>_c") == "a.<wbr>&lt;b&gt;_<wbr>c"
