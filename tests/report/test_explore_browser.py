"""The page of a comparison in a browser: pairs are found, looked at and shared; hostile texts stay texts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus.comparison import Comparison
from paribus.report.explore import FIRST, write_comparison
from paribus.report.explore_tables import identity

from .test_browser import CHROMIUM, QUIET, _open
from .test_explore import HOSTILE, _hostile, build

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]
PAIRS = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def found(pictures: Path) -> Comparison:
    return build(pictures, pairs=PAIRS, layers=20)


@pytest.fixture(scope="module")
def address(found: Comparison, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_comparison(found, pictures, tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def view(browser: Any, address: str) -> Iterator[Any]:
    """The page, wide; it must have been quiet to the end."""
    shown, said, asked = _open(browser, address, 1280)
    yield shown
    assert said == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {address}
    shown.close()


def _ids(view: Any) -> list[str]:
    return view.eval_on_selector_all("#cards > li", "all => all.map(one => one.dataset.id)")


def _fits(view: Any) -> bool:
    widths = view.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    return max(widths[:2]) <= widths[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 400, 800, 1280])
def test_it_opens_quietly_asks_for_nothing_and_fits(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    view, said, asked = _open(browser, address, width, scheme)
    assert _fits(view)
    assert len(_ids(view)) == FIRST
    assert view.eval_on_selector_all("#cards img", "all => all.every(i => i.complete && i.naturalWidth > 0)")
    view.locator("#cards .open").first.click()
    view.wait_for_function("[...document.querySelectorAll('dialog img')].every(i => i.naturalWidth > 0)")
    assert view.evaluate(
        "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth"
    )
    assert _fits(view)
    shade = view.evaluate("getComputedStyle(document.querySelector('dialog')).backgroundColor")
    light = sum(int(part) for part in re.findall(r"\d+", shade)[:3])
    assert light > 700 if scheme == "light" else light < 120
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    view.close()


def test_filters_leave_what_they_say(view: Any, found: Comparison) -> None:
    by_id = {identity(found, place): pair for place, pair in enumerate(found.pairs)}
    view.click("text=Show all")
    assert sorted(_ids(view)) == sorted(by_id)
    assert view.inner_text("#count") == f"{PAIRS} pairs"

    view.check("input[name=only][value=b]", force=True)
    ids = _ids(view)
    assert ids and all(by_id[one].alike == "b" for one in ids)
    view.select_option("select[name=factor]", "colour")
    view.fill("input[name=least]", "80")
    tops = [
        max(pair.factors.items(), key=lambda item: item[1]) for pair in map(by_id.get, _ids(view)) if pair
    ]
    wanted = [
        one
        for one, pair in by_id.items()
        if pair.alike == "b" and pair.factors["colour"] == max(pair.factors.values()) >= 80
    ]
    assert {name for name, _ in tops} == {"colour"} and min(value for _, value in tops) >= 80
    assert _ids(view) == wanted
    assert view.inner_text("#count") == f"{len(wanted)} of {PAIRS} pairs"

    view.click("#clear")
    assert view.evaluate("document.activeElement.name") == "q"
    view.fill("input[name=amin]", "0.8")
    view.fill("input[name=bmax]", "0")
    view.select_option("select[name=sort]", "a-high")
    cosines = [by_id[one].similarity for one in _ids(view)]
    assert cosines and all(one["a"] >= 0.8 and one["b"] <= 0 for one in cosines)
    assert [one["a"] for one in cosines] == sorted((one["a"] for one in cosines), reverse=True)
    view.click("#clear")

    view.fill("input[name=q]", "TEMPLES/0000 flower")
    assert _ids(view) == [next(iter(by_id))]
    view.fill("input[name=q]", "there is no such word")
    assert _ids(view) == [] and view.is_visible("#nothing")


def test_more_are_shown_when_asked_for_and_the_focus_is_on_the_first_new_one(view: Any) -> None:
    view.click("#more")
    assert len(_ids(view)) == 2 * FIRST
    focused = view.evaluate("document.activeElement.closest('li').dataset.id")
    assert focused == _ids(view)[FIRST]
    view.wait_for_function("[...document.querySelectorAll('#cards img')].every(i => i.naturalWidth > 0)")


def test_a_pair_is_looked_at_by_mouse(view: Any, found: Comparison) -> None:
    view.locator("#cards > li").nth(1).click()
    assert view.is_visible("dialog")
    text = view.inner_text("dialog")
    pair = found.pairs[PAIRS // 2]
    assert "Only dino finds these alike" in text and "2 of 60" in text
    assert found.shown[pair.left].caption in text and found.shown[pair.right].key in text
    for which in ("a", "b"):
        assert f"{pair.percentile[which]:.1f}" in text  # type: ignore[index]
        assert f"{pair.rank[which]:,} of 401,856" in text  # type: ignore[index]
    rows = view.eval_on_selector_all(
        ".bars tr", "all => all.map(r => [r.cells[0].textContent, r.cells[2].textContent])"
    )
    assert rows == [[n, f"{v:.1f}"] for n, v in sorted(pair.factors.items(), key=lambda item: -item[1])]
    assert view.locator(".nearest img").count() == 12
    assert view.locator(".nearest .shared").count() == 12
    view.mouse.click(5, 450)
    assert not view.is_visible("dialog")


def test_a_pair_is_looked_at_by_keyboard_and_the_focus_returns(view: Any) -> None:
    ids = _ids(view)
    view.locator("#cards .open").nth(22).focus()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    assert view.is_visible("dialog") and view.url.endswith(f"pair={ids[23]}")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowRight")
    assert "26 of 60" in view.inner_text("#where")
    inside = "document.querySelector('dialog').contains(document.activeElement)"
    for _ in range(12):
        view.keyboard.press("Tab")
    assert view.evaluate(f"{inside} || document.activeElement === document.body")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("Escape")
    assert not view.is_visible("dialog") and "pair=" not in view.url
    assert len(_ids(view)) == 2 * FIRST
    assert view.evaluate("document.activeElement.closest('li').dataset.id") == _ids(view)[24]


def test_walking_stops_at_both_ends(view: Any) -> None:
    view.fill("input[name=q]", "temples/0000")
    view.locator("#cards .open").first.click()
    for key in ("ArrowLeft", "ArrowRight"):
        view.keyboard.press(key)
        assert view.inner_text("#where") == "1 of 1"
    assert (
        view.get_attribute("#before", "aria-disabled")
        == view.get_attribute("#after", "aria-disabled")
        == "true"
    )


def test_a_view_is_shared_by_its_address(browser: Any, view: Any, address: str, found: Comparison) -> None:
    second = [identity(found, place) for place, pair in enumerate(found.pairs) if pair.alike == "b"][1]
    view.check("input[name=only][value=a]", force=True)
    view.fill("input[name=q]", "a & b=c #100% é")
    view.fill("input[name=q]", "temple")
    view.select_option("select[name=sort]", "gap")
    view.locator("#cards .open").nth(2).click()
    other, said, _ = _open(browser, view.url, 1280)
    assert other.is_visible("dialog")
    assert other.inner_text("#where") == view.inner_text("#where")
    assert _ids(other) == _ids(view)
    assert other.input_value("input[name=q]") == "temple"
    other.keyboard.press("Escape")
    other.evaluate(f"location.hash = '#gallery?only=b&pair={second}'")
    other.wait_for_function("document.querySelector('#where').textContent === '2 of 30'")
    other.evaluate("location.hash = '#gallery?only=x&sort=toString&factor=none&pair=none&least=abc&amin=e'")
    other.wait_for_function("!document.querySelector('dialog').open")
    assert len(_ids(other)) == FIRST
    other.evaluate("location.hash = '#layers'")
    assert said == []
    other.close()
    view.keyboard.press("Escape")
    view.click("#clear")
    view.wait_for_url(f"{address}#gallery")


def test_without_a_script_all_but_the_filters_is_there(browser: Any, address: str) -> None:
    view = browser.new_page(java_script_enabled=False, viewport={"width": 800, "height": 900})
    view.goto(address)
    assert view.locator("#cards > li").count() == FIRST
    assert view.locator("#cards img").first.bounding_box()["width"] > 40
    assert not view.is_visible("#filters") and not view.is_visible("#more") and not view.is_visible("dialog")
    assert "The first 24 of 60 pairs; tables/pairs.csv lists them all" in view.inner_text("#count")
    assert view.locator(".forest").count() == 6
    assert view.is_visible(".heat")
    view.close()


def test_cards_say_the_same_with_a_script_and_without(browser: Any, address: str) -> None:
    script = """all => all.map(one => [one.dataset.id, one.dataset.alike,
        ...[...one.querySelectorAll('.alike, figcaption, td, .chips li, desc')].map(part => part.textContent),
        ...[...one.querySelectorAll('.track-figure svg svg')].map(sign => Math.round(parseFloat(
            sign.getAttribute('x')))),
        ...[...one.querySelectorAll('img')].map(image => image.src)])"""
    plain = browser.new_page()
    text = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    plain.set_content(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    view, _, _ = _open(browser, address, 800)
    before, after = (one.eval_on_selector_all("#cards > li", script) for one in (plain, view))
    assert len(before) == FIRST and before == after
    plain.close()
    view.close()


def test_it_prints_pairs_tables_and_figures_without_controls(view: Any) -> None:
    view.emulate_media(media="print")
    assert not view.is_visible("#filters") and not view.is_visible("#more")
    assert view.is_visible("#cards img") and view.is_visible(".heat") and view.is_visible(".forest")
    assert view.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("width", [400, 1280])
def test_no_text_of_a_figure_leaves_its_panel_or_meets_its_plot(
    browser: Any, address: str, width: int
) -> None:
    script = """all => all.flatMap(svg => {
        const box = svg.parentElement.getBoundingClientRect();
        const dots = [...svg.querySelectorAll('.marker, .whisker')].map(d => d.getBoundingClientRect());
        return [...svg.querySelectorAll('text')].filter(t => {
            const r = t.getBoundingClientRect();
            const met = t.matches('.row-label, .value') && dots.some(d =>
                d.left < r.right - 1 && r.left + 1 < d.right && d.top < r.bottom - 3 && r.top + 3 < d.bottom);
            return r.left < box.left - 2 || r.right > box.right + 2 || met;
        }).map(t => t.textContent);
    })"""
    view, _, _ = _open(browser, address, width)
    assert view.eval_on_selector_all(".panel > svg", script) == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_of_the_heat_map_are_legible_on_every_shade(browser: Any, address: str, scheme: str) -> None:
    script = """() => {
        const pixel = colour => {
            const pen = document.createElement('canvas').getContext('2d');
            pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
            return pen.getImageData(0, 0, 1, 1).data.slice(0, 3);
        };
        const light = colour => [...pixel(colour)].map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
        const cell = document.querySelector('.heat td.best');
        return [...Array(21).keys()].map(step => {
            cell.className = `h${step}`;
            const style = getComputedStyle(cell);
            const [low, high] = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
            return (high + 0.05) / (low + 0.05);
        });
    }"""
    view, _, _ = _open(browser, address, 800, scheme)
    assert min(view.evaluate(script)) >= 4.5
    view.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_hostile_texts_stay_texts_and_within_their_places(
    browser: Any, found: Comparison, pictures: Path, tmp_path: Path, width: int
) -> None:
    page = write_comparison(_hostile(found, HOSTILE), pictures, tmp_path)
    view, said, asked = _open(browser, page.as_uri(), width)
    assert _fits(view)
    view.locator("#cards .open").nth(1).click()
    assert _fits(view)
    box = view.evaluate("(d => [d.scrollWidth, d.clientWidth])(document.querySelector('dialog'))")
    assert box[0] <= box[1]
    assert "<script>window.ran=1</script>" in view.inner_text("dialog .large")
    view.keyboard.press("Escape")
    view.fill("input[name=q]", "onerror='window.ran=2'")
    assert len(_ids(view)) == FIRST
    view.select_option("select[name=factor]", index=1)
    assert len(_ids(view)) == FIRST
    tall = view.eval_on_selector_all("#cards > li", "all => Math.max(...all.map(one => one.offsetHeight))")
    assert tall < 600
    assert view.evaluate("window.ran") is None and view.locator("[onerror]").count() == 0
    assert said == []
    assert len([url for url in asked if not url.startswith("data:")]) == 1
    view.close()


def test_its_policy_stops_a_script_and_a_request(browser: Any, address: str, tmp_path: Path) -> None:
    source = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    attack = (
        "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x'><p style='color:red' onclick='x()'>"
    )
    hostile = tmp_path / "hostile.html"
    hostile.write_text(source.replace("<main>", "<main>" + attack), encoding="utf-8")
    view, said, _ = _open(browser, hostile.as_uri(), 800)
    assert view.evaluate("window.ran") is None
    assert len([text for text in said if "Content Security Policy" in text]) >= 3
    view.close()


def test_ranks_of_a_sample_are_called_about(
    browser: Any, found: Comparison, pictures: Path, tmp_path: Path
) -> None:
    path = write_comparison(found.model_copy(update={"exact_ranks": False}), pictures, tmp_path)
    view, said, _ = _open(browser, path.as_uri(), 1280)
    view.locator("#cards > li").nth(0).click()
    assert f"about {found.pairs[0].rank['a']:,} of 401,856" in view.inner_text("dialog")
    assert said == []
    view.close()
