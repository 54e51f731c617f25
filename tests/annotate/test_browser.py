"""The page in a real browser, worked by keyboard, by mouse and by a screen reader's eye."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import build, served

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
NAMES = ("a \"quoted\" 'name'.png", "two\nlines.jpg", "<script>window.ran=1<!script>.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def server(tmp_path):
    with served(build(tmp_path / "run", names=NAMES)) as one:
        yield one


class View:
    """A page, what it said on the console, and what it asked for."""

    def __init__(
        self, browser: Any, address: str, width: int = 1000, height: int = 800, scheme: str = "light"
    ):
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.ready("Pair ")

    def ready(self, words: str) -> None:
        """Wait until the status line holds words."""
        self.page.wait_for_function(
            "words => document.getElementById('said').textContent.includes(words)", arg=words
        )

    def press(self, key: str, words: str) -> None:
        self.page.keyboard.press(key)
        self.ready(words)

    @property
    def pressed(self) -> list[str]:
        return self.page.eval_on_selector_all("[aria-pressed=true]", "all => all.map(b => b.dataset.label)")


def test_six_pairs_by_keyboard_back_and_again(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    assert view.page.locator("img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    view.press("1", "Kept: semantic. Pair 2 of 6.")
    view.press("2", "Kept: perceptual. Pair 3 of 6.")
    view.press("3", "Kept: both. Pair 4 of 6.")
    assert server.desk.labels() == ["semantic", "perceptual", "both", None, None, None]
    view.press("Backspace", "Back. Pair 3 of 6: both.")
    assert view.pressed == ["both"]
    view.press("Backspace", "Back. Pair 2 of 6: perceptual.")
    view.press("4", "Kept: neither. Pair 4 of 6.")  # on to where one was
    assert server.desk.labels() == ["semantic", "neither", "both", None, None, None]
    view.page.reload()
    view.ready("Pair 4 of 6.")
    assert view.page.text_content("#count") == "3 of 6 labelled"
    view.press("s", "Skipped. Pair 5 of 6.")
    view.press("1", "Pair 6 of 6.")
    view.press("1", "Kept: semantic. Pair 4 of 6.")  # what was skipped comes again
    view.press("s", "This is the only pair without a label.")
    view.press("2", "Kept: perceptual.")
    assert view.page.is_visible("#done") and not view.page.is_visible("#work")
    assert view.page.evaluate("document.activeElement.id") == "end"
    assert server.desk.labels() == ["semantic", "neither", "both", "perceptual", "semantic", "semantic"]
    view.page.keyboard.press("1")  # says nothing of no pair
    view.press("Backspace", "Back. Pair 4 of 6: perceptual.")
    view.press("3", "Kept: both.")
    assert view.page.is_visible("#done")
    view.page.reload()
    view.page.wait_for_selector("#done", state="visible")
    assert server.desk.labels()[3] == "both"
    assert {row.annotator for row in server.desk.store.all()} == {"ada"}
    assert all(0 < row.seconds < 60 for row in server.desk.store.all())
    assert view.said == []
    assert view.page.evaluate("window.ran") is None
    assert [url for url in view.asked if not url.startswith((server.address, "data:,"))] == []
    view.page.close()


def test_the_pictures_are_those_of_the_place(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    for place in range(6):
        for side in (0, 1):
            source = view.page.get_attribute(f"#picture-{side}", "src")
            assert source == f"picture/{place}/{side}"
        view.press("4", f"Pair {place + 2} of 6." if place < 5 else "Kept")
    view.page.close()


def test_by_mouse_and_by_tab(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    view.page.click("[data-label=both]")
    view.ready("Pair 2 of 6.")
    view.page.focus("[data-label=neither]")
    view.press("Enter", "Kept: neither. Pair 3 of 6.")
    assert view.page.evaluate("document.activeElement.dataset.label") == "neither"
    view.page.click("#back")
    view.ready("Back. Pair 2 of 6: neither.")
    view.page.click("#skip")
    view.ready("Skipped. Pair 3 of 6.")
    order = []
    view.page.reload()
    view.ready("Pair 3 of 6.")
    for _ in range(6):
        view.page.keyboard.press("Tab")
        order.append(view.page.evaluate("document.activeElement.dataset.label || document.activeElement.id"))
    assert order == ["semantic", "perceptual", "both", "neither", "back", "skip"]
    assert server.desk.labels()[:3] == ["both", "neither", None]
    view.page.close()


def test_a_held_key_and_other_keys_label_nothing_more(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    for key in ("5", "0", "a", "Control+1", "Alt+2", "Meta+3"):
        view.page.keyboard.press(key)
    view.page.keyboard.down("1")
    for _ in range(8):
        view.page.keyboard.down("1")  # a second one without an up between is a repeat
    view.page.keyboard.up("1")
    view.ready("Pair 2 of 6.")
    view.page.wait_for_timeout(100)
    assert server.desk.labels() == ["semantic", *[None] * 5]
    view.page.close()


def rename(database: Path, table: str, name: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO {name}")


def test_a_label_that_is_not_kept_is_told_and_not_counted(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    rename(server.desk.store.path, "labels", "away")  # as a disk that is not to be written to
    view.press("1", "Not kept")
    assert view.page.text_content("#count") == "0 of 6 labelled"
    rename(server.desk.store.path, "away", "labels")
    view.press("1", "Kept: semantic. Pair 2 of 6.")
    view.page.close()


def test_a_picture_that_is_gone_is_told_and_skipped(browser: Any, server: Any) -> None:
    server.desk.seats[1].pictures[0].path.unlink()
    view = View(browser, server.address)
    view.press("1", "A picture cannot be shown")
    view.page.keyboard.press("2")
    view.press("s", "Skipped. Pair 3 of 6.")
    assert server.desk.labels() == ["semantic", *[None] * 5]
    view.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (400, 800), (1280, 720)])
def test_it_fits_and_can_be_read(browser: Any, server: Any, width: int, height: int, scheme: str) -> None:
    view = View(browser, server.address, width, height, scheme)
    view.press("1", "Pair 2 of 6.")
    view.press("Backspace", "Pair 1 of 6")
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert view.page.evaluate(_CONTRAST) == []
    colour = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
    assert shade > 700 if scheme == "light" else shade < 120
    left, right = (view.page.locator(f"#picture-{side}").bounding_box() for side in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert min(left["width"], left["height"]) >= 150
    view.page.close()


_CONTRAST = """() => {
    const light = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const ground = node => { const c = getComputedStyle(node).backgroundColor;
        return c === 'rgba(0, 0, 0, 0)' ? ground(node.parentElement) : c; };
    return [...document.querySelectorAll('h1, b, kbd, button span, #count, #said')].filter(node => {
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05) < 4.5;
    }).map(node => node.outerHTML);
}"""
"""Texts with less contrast than WCAG 2 asks at level AA."""


def test_its_policy_stops_a_script_and_a_request(browser: Any, server: Any) -> None:
    view = View(browser, server.address)
    view.page.evaluate(
        """() => { const add = node => document.body.append(node);
        add(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}));
        add(Object.assign(document.createElement('style'), {textContent: 'body { color: red }'}));
        fetch('http://127.0.0.1:9/y').catch(() => 0); }"""
    )
    view.page.wait_for_timeout(200)
    assert len([text for text in view.said if "Content Security Policy" in text]) >= 3
    assert view.page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    view.page.close()


def test_another_sites_page_cannot_frame_or_label(browser: Any, server: Any, tmp_path: Any) -> None:
    """A page of another origin that even knows the token."""
    view = View(browser, server.address)
    other = browser.new_page()
    other.goto("data:text/html,<p>other</p>")
    told = other.evaluate(
        """async where => { try { await fetch(where + 'label', {method: 'POST', mode: 'no-cors',
        headers: {'Content-Type': 'text/plain'}, body: '{"place": 0, "label": "both", "seconds": 1}'}); }
        catch { return 'failed'; }
        try { await fetch(where + 'state'); return 'read'; } catch { return 'sent'; } }""",
        server.address,
    )
    assert told in ("failed", "sent")
    assert server.desk.labels() == [None] * 6
    other.close()
    view.page.close()
