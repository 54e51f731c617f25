"""The page of a comparison: all of it is there and told in words, and no text of others is ever markup."""

import base64
import functools
import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from paribus.comparison import Comparison, Encoder, LayerMap, Near, Pair, Shown
from paribus.errors import UserError
from paribus.report.explore import FIRST, facts, first, mined, render, said, write_comparison
from paribus.report.explore_figures import heat, shade
from paribus.report.explore_pictures import BUDGET, block, data, thumbnails
from paribus.report.explore_tables import identity
from paribus.report.schema import COMPARISON, comparison_schema
from paribus.report.tables import interval, is_share
from paribus.results import Difference, Measure

from .test_page import Page

FACTORS = {"colour": (0.12, 0.41), "texture": (0.10, 0.28), "layout": (0.18, 0.17), "text": (0.34, 0.05)} | {
    "meaning": (0.39, 0.11),
    "label": (0.27, 0.16),
}
HOSTILE = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=2'>\"'\n\r\n<!--<script>"
    "\u202eright to left\u202c \u2028\u2029 {{ 7*7 }} \U0001f600 \u200f&amp;\x00\x1b[31m"
)


@functools.cache
def _photographs() -> list[Image.Image]:
    sklearn = pytest.importorskip("sklearn.datasets")
    return [Image.fromarray(one) for one in sklearn.load_sample_images().images]


def build(folder: Path, pairs: int = 60, side: int = 96, near: int = 3, layers: int = 5) -> Comparison:
    """A comparison of made-up numbers about real photographs, whose pictures lie in ``folder``."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    count = 2 * pairs + near * 2 * pairs
    shown = []
    for place in range(count):
        photo = _photographs()[place % 2]
        left, top = (int(rng.integers(0, size - side)) for size in photo.size)
        crop = photo.crop((left, top, left + side, top + int(rng.integers(side // 2, side + 1))))
        crop.save(folder / f"{place:05d}.webp", quality=85)
        what = "flower" if place % 2 else "temple"
        caption = "" if place % 5 == 4 else f"a {what}, seen at {left} and {top}"
        shown.append(
            Shown(key=f"{what}s/{place:04d}.jpg", picture=f"{place:05d}.webp", caption=caption, label=what)
        )
    found = []
    for place in range(pairs):
        alike, apart = ("a", "b") if place < pairs // 2 else ("b", "a")
        high, low = float(rng.uniform(0.7, 0.99)), float(rng.uniform(-0.3, 0.3))
        factors = {name: float(rng.uniform(0, 100)) for name in FACTORS}
        record: dict[str, Any] = {
            "left": 2 * place,
            "right": 2 * place + 1,
            "alike": alike,
            "similarity": {alike: high, apart: low},
            "percentile": {alike: 99 + high / 1.01, apart: 25 + 80 * low},
            "rank": {alike: 1 + place, apart: 300_000 + place},
            "factors": factors,
            "shares": ["label"] if place % 4 == 0 else [],
        }
        found.append(Pair.model_validate(record))
    spare = iter(range(2 * pairs, count))
    nearest: dict[str, Any] = {}
    for place in range(2 * pairs):
        mine = [Near(place=next(spare, place), similarity=0.9 - 0.01 * k) for k in range(near)]
        nearest[str(place)] = {"a": mine, "b": [mine[-1], *mine[: near - 1]]}
    measures, differences = _numbers(rng)
    values = [
        [None if 0 in (i, j) else round(math.exp(-abs(i - j) / 3) * 0.9, 3) for j in range(layers)]
        for i in range(layers)
    ]
    return Comparison(
        encoders={"a": _encoder("clip", 768), "b": _encoder("dino", 384)},
        folder="/pictures/my photographs",
        pictures={"pictures": "900", "left out": "2", "digest": hashlib.sha256(b"x").hexdigest()},
        faults={"cut off": ("broken/1.jpg", "broken/2.jpg")},
        thresholds={"a": (0.45, 0.96), "b": (0.38, 0.98)},
        mined={"images": 900, "placeholder_images": 3, "a_high_candidates": 595, "a_high_kept": pairs // 2}
        | {"a_high_hub": 136, "b_high_candidates": 216, "b_high_kept": pairs - pairs // 2, "b_high_hub": 116}
        | {"something new": 7},
        measures=measures,
        differences=differences,
        layers=LayerMap(values=values, pictures=900),
        shown=shown,
        pairs=found,
        near=nearest,
        left_out={"text size": "no picture holds words"},
        seed=0,
        environment={"paribus": "0.1.0", "torch": "2.13.0+cpu"},
    )


def _encoder(name: str, width: int) -> Encoder:
    return Encoder(
        name=name,
        where=f"/models/{name}",
        format="transformers",
        model="ViT of 12 blocks, patches of 16",
        parameters=86_000_000,
        width=width,
        size=224,
        prepared="resize the shorter side to 224 (bicubic), crop the centre 224",
        read="class token",
        taught=name,
        notes=("half precision on disk",) if name == "clip" else (),
    )


def _numbers(rng: np.random.Generator) -> tuple[list[Measure], list[Difference]]:
    measures, differences = [], []

    def add(section: Any, task: str, metric: str, a: float, b: float, half: float) -> None:
        common = {"section": section, "task": task, "metric": metric, "n": 900, "seed": 0}
        for arm, value in (("a", a), ("b", b)):
            ends = {"value": value, "low": value - half, "high": value + half}
            measures.append(Measure(arm=arm, **common, **ends))  # type: ignore[arg-type]
        step = {"value": a - b, "low": a - b - 1.4 * half, "high": a - b + 1.4 * half}
        differences.append(Difference(arm="a", other="b", **common, **step))  # type: ignore[arg-type]

    for metric, scale in (("standardised coefficient", 1.0), ("unique R2", 0.3)):
        for name, (a, b) in FACTORS.items():
            add("factors", name, metric, a * scale, b * scale, float(rng.uniform(0.01, 0.05)) * scale)
    add("similarity", "geometry", "uniformity", -1.6, -1.4, 0.05)
    add("similarity", "geometry", "effective rank", 39.2, 29.9, 0.7)
    for metric, value in (("CKA", 0.534), ("nearest 10 in common", 0.309)):
        common = {"section": "similarity", "task": "geometry", "metric": metric, "arm": "both", "n": 900}
        measures.append(Measure(**common, value=value, low=value - 0.02, high=value + 0.03, seed=0))  # type: ignore[arg-type]
    add("symbols", "symbols", "mean cosine of distinct symbols, same style", 0.877, 0.995, 0.01)
    add("symbols", "symbols", "mean cosine of one symbol across styles", 0.624, 0.466, 0.01)
    return measures, differences


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def found(pictures: Path) -> Comparison:
    return build(pictures)


@pytest.fixture(scope="module")
def page(found: Comparison, pictures: Path) -> Page:
    return Page(render(found, pictures))


HEADINGS = [
    "Pairs they disagree on",
    "What each follows",
    "All measures",
    "Layer by layer",
    "Symbols",
    "What was left out",
    "How to reproduce",
    "Environment",
]


def test_sections_stand_in_their_order(page: Page) -> None:
    assert [text for level, text in page.headings if level == "h2"][: len(HEADINGS)] == HEADINGS
    assert page.headings[0] == ("h1", "clip and dino")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_number_stands_in_its_row_with_its_interval(found: Comparison, page: Page) -> None:
    rows = [row for table in page.tables for row in table if len(row) >= 5]
    assert len(found.measures) > 30
    for one in (*found.measures, *found.differences):
        share, signed = is_share(one.metric), isinstance(one, Difference)
        text = interval(one.value, one.low, one.high, share, signed=signed)
        named = [row for row in rows if row[0].strip() in (one.task, one.metric)]
        column = 3 if signed else {"a": 1, "b": 2, "both": 4}[one.arm]
        assert any(len(row) > column and row[column].strip() == text for row in named), one


def test_what_was_found_is_said_with_intervals(found: Comparison) -> None:
    told = said(found)
    assert told[0].startswith("How alike the two are, from 0 to 1: CKA 0.534 [0.514, 0.564]")
    assert "clip follows text (by 0.290 [" in told[1] and told[1].endswith("more than that of dino does")
    assert "dino follows colour (by 0.290 [" in told[2] and "layout" not in told[1] + told[2]
    level = [d.model_copy(update={"low": -1.0, "high": 1.0}) for d in found.differences]
    assert said(found.model_copy(update={"differences": level}))[-1].startswith(
        "No factor is followed clearly"
    )
    assert said(found.model_copy(update={"differences": [], "measures": []})) == []


def test_encoders_stand_side_by_side(found: Comparison, page: Page) -> None:
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in page.tables[0]}
    assert table["width"] == ["768", "384"]
    assert table["model"] == ["ViT of 12 blocks, patches of 16 the same"]
    assert table["notes"] == ["half precision on disk", "–"]
    assert ("where", "/models/clip", "/models/dino") in facts(found)


def test_without_a_script_the_first_pairs_are_there(found: Comparison, page: Page) -> None:
    cards = [a for tag, a in page.elements if tag == "li" and "data-id" in a and a["data-id"]]
    assert len(cards) == FIRST == len(first(found))
    assert [card["data-alike"] for card in cards[:4]] == ["a", "b", "a", "b"]
    assert [card["data-id"] for card in cards[:2]] == [identity(found, place) for place in first(found)[:2]]
    images = [a["src"] for tag, a in page.elements if tag == "img"]
    assert len(images) == 2 * FIRST
    assert all(source.startswith("data:image/webp;base64,") for source in images)


def test_each_picture_is_in_the_page_once(found: Comparison, pictures: Path) -> None:
    text = render(found, pictures)
    drawn = thumbnails(found, pictures)
    used = {near.place for sides in found.near.values() for nearest in sides.values() for near in nearest}
    assert set(drawn) == used | {at for pair in found.pairs for at in (pair.left, pair.right)}
    assert all(text.count(data) == 1 for data in drawn.values())
    sizes = {place: Image.open(io.BytesIO(base64.b64decode(data))).size for place, data in drawn.items()}
    paired = {at for pair in found.pairs for at in (pair.left, pair.right)}
    assert max(max(size) for place, size in sizes.items() if place in paired) == 96
    assert max(max(size) for place, size in sizes.items() if place not in paired) == 56


def test_many_large_pictures_are_drawn_more_coarsely(
    found: Comparison, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = sum(map(len, thumbnails(found, pictures).values()))
    assert fine < BUDGET
    monkeypatch.setattr("paribus.report.explore_pictures.BUDGET", fine // 2)
    assert sum(map(len, thumbnails(found, pictures).values())) < 0.8 * fine


def test_the_policy_names_the_only_sheet_and_the_only_script(found: Comparison, pictures: Path) -> None:
    text = render(found, pictures)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r"\sstyle=|\son\w+=|https?://(?!www\.w3\.org)", text)
    assert "innerHTML" not in text


def _hostile(found: Comparison, text: str) -> Comparison:
    long = text * (10_000 // len(text) + 1)
    shown = [
        one.model_copy(
            update={"key": f"{place}{text}", "caption": long if place % 2 else text, "label": long}
        )
        for place, one in enumerate(found.shown)
    ]
    encoders = {
        which: one.model_copy(
            update={"name": f"{which}{text}", "notes": (long,), "model": text, "where": text}
        )
        for which, one in found.encoders.items()
    }
    pairs = [
        one.model_copy(update={"factors": {text: 3.0, "x": 1.0}, "shares": [text]}) for one in found.pairs
    ]
    measures = [
        one.model_copy(update={"task": one.task + text, "metric": one.metric + text})
        for one in found.measures
    ]
    changed = {"faults": {text: (long, text)}, "left_out": {text: text}, "folder": text, "measures": measures}
    changed |= {"environment": {text: text}, "pictures": {text: text}, "mined": {text: 3}, "pairs": pairs}
    return found.model_copy(update={"shown": shown, "encoders": encoders, **changed})


def test_nothing_that_others_wrote_is_markup(found: Comparison, pictures: Path) -> None:
    text = render(_hostile(found, HOSTILE), pictures)
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert {a["src"][:22] for tag, a in page.elements if tag == "img"} == {"data:image/webp;base64"}
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert "{{ 7*7 }}" in page.text
    (inner,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert not re.search("[<>&\u2028\u2029]", inner)
    told = json.loads(inner)
    assert told["shown"]["0"][1].startswith(HOSTILE.strip()[:20])
    assert max(len(part) for parts in told["shown"].values() for part in parts) <= 600
    assert len(text) < 6_000_000


def test_a_page_of_nothing_says_so(found: Comparison, pictures: Path) -> None:
    nothing = {"pairs": [], "near": {}, "shown": [], "measures": [], "differences": [], "layers": None}
    nothing |= {"faults": {}, "left_out": {}, "environment": {}, "mined": {}}
    page = Page(render(found.model_copy(update=nothing), pictures))
    for words in ("No pair lies beyond", "No factor was", "Nothing was measured", "Layers were not"):
        assert words in page.text
    assert "No file was at fault" in page.text


def test_the_layers_are_a_table_that_says_what_has_no_number(found: Comparison, page: Page) -> None:
    assert found.layers
    (table,) = [table for table in page.tables if len(table) == 6 and len(table[1]) == 6]
    assert "not defined" in table[1][1]
    assert table[2][2].startswith("0.90") and "highest of its row" in table[2][2]
    assert [shade(x) for x in (-0.2, 0.0, 0.524, 1.0, 1.3)] == ["h0", "h0", "h10", "h20", "h20"]
    wide = heat(LayerMap(values=[[0.25, None, 1.0, -0.01] * 5], pictures=3))
    assert [cell.text for cell in wide[0][:4]] == [".25", "–", "1.00", "−.01"]


def test_counts_of_the_search_are_in_words(found: Comparison) -> None:
    told = mined(found)
    assert told.images[0] == ("pictures compared", 900)
    assert ("pairs beyond both thresholds", 595, 216) in told.reasons
    assert told.others == [("something new", 7)]
    assert "repeat" not in str(told.reasons)


def test_what_is_written(found: Comparison, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    path = write_comparison(found, pictures, folder)
    assert path == folder / "report.html"
    assert {one.name for one in folder.iterdir()} == {"report.html", "comparison.json", "pairs", "tables"}
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert Comparison.model_validate_json(json.dumps(record)) == found
    Draft202012Validator(comparison_schema()).validate(record)
    pairs = json.loads((folder / "pairs" / "pairs.json").read_text(encoding="utf-8"))["pairs"]
    assert pairs[0] == {
        "id": identity(found, 0),
        "left": "00000.webp",
        "right": "00001.webp",
        "alike": "clip",
        "apart": "dino",
    }
    assert pairs[-1]["alike"] == "dino" and pairs[-1]["id"].startswith("b-")
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    turned = found.model_copy(update={"pairs": found.pairs[::-1]})
    assert identity(turned, 0) == pairs[-1]["id"], "a pair is called the same wherever it stands"
    assert all((folder / "pairs" / pair[side]).is_file() for pair in pairs for side in ("left", "right"))
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    write_comparison(found, folder / "pairs", folder)  # again, from its own pictures
    assert {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()} == before


def test_equal_names_are_told_apart(found: Comparison, pictures: Path, tmp_path: Path) -> None:
    write_comparison(found.called("vit", "vit"), pictures, tmp_path)
    assert "vit (2)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_written_leaves_all_as_it_was(
    found: Comparison, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        write_comparison(found, pictures, tmp_path)
    assert [one.name for one in tmp_path.rglob("*")] == ["pairs", "holiday.jpg"]
    broken = found.differences[0].model_copy(update={"low": math.nan})
    with pytest.raises(UserError, match=r"differences\[0\]\.low is nan"):
        write_comparison(found.model_copy(update={"differences": [broken]}), pictures, tmp_path / "new")
    for name in ("00777777.webp", "../00000.webp"):
        lost = found.shown[0].model_copy(update={"picture": name})
        with pytest.raises(UserError, match="has no picture"):
            write_comparison(
                found.model_copy(update={"shown": [lost, *found.shown[1:]]}), pictures, tmp_path / "new"
            )
    assert not (tmp_path / "new").exists()


def test_a_damaged_picture_leaves_a_gap(found: Comparison, pictures: Path, tmp_path: Path) -> None:
    for one in found.shown:
        (tmp_path / one.picture).write_bytes((pictures / one.picture).read_bytes())
    (tmp_path / found.shown[0].picture).write_bytes(b"RIFF....WEBP broken")
    page = Page(render(found, tmp_path))
    assert page.text.count("picture cannot be shown") >= 1
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 2 * FIRST - 1


def test_the_packaged_schema_is_the_one_of_the_classes() -> None:
    packaged = json.loads(COMPARISON.read_text(encoding="utf-8"))
    assert packaged == comparison_schema(), "run: python -m paribus.report.schema"
    Draft202012Validator.check_schema(packaged)


def test_the_same_comparison_gives_the_same_page(found: Comparison, pictures: Path) -> None:
    assert render(found, pictures) == render(found, pictures)
    assert block({"a": "</script>"}) == '{"a":"\\u003c/script\\u003e"}'
    assert data(found, {}, set())["counted"] == 897, "without the placeholders"
