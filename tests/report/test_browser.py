"""The page in a real browser: it opens quietly, asks for nothing, and fits every screen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paribus.report.page import write_report
from paribus.results import LedgerRow

from . import build
from .test_page import HEADINGS

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(build()[0], tmp_path_factory.mktemp("report"), build()[1]).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


def _open(browser: Any, address: str, width: int, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(address)
    view.wait_for_load_state("networkidle")
    return view, said, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_opens_quietly_asks_for_nothing_and_fits(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    view, said, asked = _open(browser, address, width, scheme)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    widths = view.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert max(widths[:2]) <= widths[2]
    headings = view.eval_on_selector_all("main h2", "all => all.map(h => h.textContent)")
    assert headings == HEADINGS
    assert view.eval_on_selector_all("img", "all => all.every(i => i.complete && i.naturalWidth > 0)")
    view.close()


def test_no_text_of_a_figure_leaves_its_panel_or_meets_its_plot(browser: Any, address: str) -> None:
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
    for width in (360, 800, 1280):
        view, _, _ = _open(browser, address, width)
        assert view.eval_on_selector_all(".panel > svg", script) == [], width
        view.close()


def test_dark_mode_is_dark_and_light_mode_light(browser: Any, address: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        view, _, _ = _open(browser, address, 800, scheme)
        colour = view.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
        view.close()
    assert shades["light"] > 700
    assert shades["dark"] < 120


def test_controls_open_by_keyboard_and_are_always_printed(browser: Any, address: str) -> None:
    view, _, _ = _open(browser, address, 1280)
    row = view.locator("tbody.control tr").nth(1)
    assert not row.is_visible()
    view.focus("#controls")
    view.keyboard.press("Space")
    assert row.is_visible()
    view.keyboard.press("Space")
    assert not row.is_visible()
    view.emulate_media(media="print")
    assert row.is_visible()
    assert not view.locator(".contents").is_visible()
    assert view.pdf(format="A4").startswith(b"%PDF")
    view.close()


def test_many_settings_and_differences_are_closed_at_first_and_always_printed(
    browser: Any, tmp_path: Path
) -> None:
    results, pictures = build()
    more = [one.model_copy(update={"seed": seed}) for seed in range(9) for one in results.differences]
    own = LedgerRow(path="objective.scale", role="treatment", values=dict.fromkeys(results.arms, "1"))
    changed = {"differences": more, "ledger": [*results.ledger, own]}
    page = write_report(results.model_copy(update=changed), tmp_path, pictures)
    view, _, _ = _open(browser, page.as_uri(), 1280)
    closed = ["#objectives", *(f"#{box.get_attribute('id')}" for box in view.locator(".fold").all())]
    assert len(closed) > 1
    for box in closed:
        objectives = box == "#objectives"
        what = "tbody.objectives tr:nth-child(2)" if objectives else f"{box} + label + .scroll"
        assert not view.locator(what).is_visible()
        view.check(box)
        assert view.locator(what).is_visible()
        view.uncheck(box)
    view.emulate_media(media="print")
    assert all(view.locator(f"{box} + label + .scroll").is_visible() for box in closed[1:])
    view.close()


def test_the_verdict_leads_to_its_claim(browser: Any, address: str) -> None:
    view, _, _ = _open(browser, address, 800)
    view.locator(".verdicts a").nth(2).click()
    assert view.url.endswith("#claim-3")
    assert view.locator("#claim-3").evaluate("node => node.getBoundingClientRect().top >= 0")
    view.close()


def test_its_policy_stops_a_script_and_a_request(browser: Any, address: str, tmp_path: Path) -> None:
    source = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    attack = "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x'><p style='color:red'>"
    hostile = tmp_path / "hostile.html"
    hostile.write_text(source.replace("<main>", "<main>" + attack), encoding="utf-8")
    view, said, _ = _open(browser, hostile.as_uri(), 800)
    assert view.evaluate("window.ran") is None
    assert len([text for text in said if "Content Security Policy" in text]) >= 3
    view.close()
