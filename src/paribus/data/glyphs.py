"""The built-in real corpus: emoji drawn in ten styles, recoloured icons, and written words.

Every picture has known factors (thing, style, colour, written word). ``build`` rasterises pinned third-party
art once into ``images.bin`` (PNGs end to end), ``table.parquet`` (one row a picture) and ``meta.json``;
``Glyphs`` reads them back. What is held out, and how a picture is painted, are pure functions of the seed
and of names.
"""

import csv
import functools
import hashlib
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from paribus.data import art as art_module
from paribus.data.art import PINS, Art, Concept, IconSet, Package, attributions
from paribus.data.captions import captions as compose_captions
from paribus.data.captions import find_policy
from paribus.data.draw import (
    COLOURS,
    Cell,
    Drawing,
    Drawn,
    Job,
    WordArt,
    backgrounds,
    decode,
    draw,
    encode,
    sheet,
)
from paribus.errors import UserError
from paribus.files import sha256, whole_file, whole_folder, write_json
from paribus.progress import progress
from paribus.results import Attribution
from paribus.rng import stream
from paribus.types import Config, Sample

COLUMNS = (
    *("key", "kind", "concept", "subgroup", "group", "style", "vendor"),
    *("colour", "background", "text", "split", "name", "keywords"),
)
SPLITS = ("train", "redraw", "test")
FACTORS = ("concept", "subgroup", "group", "style", "colour", "text")

TEST_SHARE = 0.15
"""Share of concept families whose every drawing is held out."""
REDRAW_SHARE = 0.12
"""Share of (family, vendor) among the rest: the concept is seen, this vendor's drawing of it is not."""
UNSEEN_WORDS = 0.2
LENGTH_SHARES = {3: 0.32, 4: 0.46, 5: 0.22}
LEAST_INK = 0.005
"""Drawings that cover less of the picture are blank."""

_UNSUITABLE = """
bang barf bust busts butt cock crap dead death die diy drug drugs fart ftw gay hump kill kills lick lol
loo lust male nerd poo poop puke screw sexy shit shoot simp slay spew strip thong turd ugly vomit weed wip
"""
UNSUITABLE = frozenset(_UNSUITABLE.split())
"""Keywords that are no words to put in front of everyone, or no words."""


class GlyphsConfig(Config):
    """What is drawn."""

    kind: Literal["glyphs"] = "glyphs"
    size: int = Field(48, ge=8, le=1024, description="side of the pictures in pixels")
    seed: int = Field(0, ge=0, description="of splits, paint, words and captions")
    words: int = Field(280, ge=0, description="how many different words are written")
    styles: tuple[str, ...] | None = Field(None, description="only these styles; None: all")


class FileMeta(Config):
    """A file's size and digest."""

    bytes: int
    sha256: str


class Meta(Config):
    """What a built corpus holds; ``meta.json``."""

    version: Literal[1] = 1
    config: GlyphsConfig
    digest: str = Field(description="SHA-256 over all columns and the digests of all pixels")
    counts: dict[str, dict[str, int]] = Field(description="kind -> split -> pictures")
    styles: dict[str, int] = Field(description="style -> pictures")
    dropped: dict[str, int] = Field(description="reason -> drawings left out")
    words: dict[str, list[str]]
    files: dict[str, FileMeta]
    attributions: list[Attribution]


class Entry(NamedTuple):
    """A picture to be: its row, but for the colour, and how to draw it."""

    row: dict[str, str]
    job: Job


# What is held out.


def family(concept: str) -> str:
    """The concepts that are drawn alike and must not be torn apart: genders, directions, clock faces."""
    for pattern, joined in _FAMILIES:
        concept = re.sub(pattern, joined, concept)
    return concept


_PERSON = "(woman-and-man|older-person|person|people|woman|women|man|men|mx|mrs|santa)"
_FAMILIES = (
    (r"-facing-right$", ""),
    (r"^(family|kiss|couple-with-heart)-(man|woman|adult).*", r"\1"),
    (r".*-(o-clock|thirty)$", "clock-face"),
    (r"^mer(man|maid|person)$", "merperson"),
    (r"^(prince|princess|person-with-crown)$", "royalty"),
    (r"^(boy|girl|child)$", "child"),
    (r"^old(er)?-(man|woman|person)$", "older-person"),
    (r"^(man|woman|person)$", "person"),
    (rf"^{_PERSON}-(?=.)", ""),
    (r"(?<=.)-(man|woman|person)$", ""),
)


def _share(seed: int, *names: str) -> float:
    """A keyed uniform in [0, 1)."""
    return stream(seed, *names) / 2**63


def concept_split(seed: int, name: str) -> str:
    """Where a concept family goes; all kinds ask here, so an icon "axe" is held out with the emoji."""
    return "test" if _share(seed, "concept", name) < TEST_SHARE else "train"


def drawing_split(seed: int, name: str, vendor: str) -> str:
    """Where one vendor's drawings of a concept family go, all of its styles together."""
    if concept_split(seed, name) == "test":
        return "test"
    return "redraw" if _share(seed, "redraw", name, vendor) < REDRAW_SHARE else "train"


class Families:
    """Concept families, joined further where some set draws two of them with the very same picture."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, concept: str) -> str:
        """The family of a concept."""
        name = family(concept)
        while name in self._parents:
            name = self._parents[name]
        return name

    def join(self, first: str, second: str) -> None:
        """Make the families of two concepts one, named by the alphabetically first."""
        low, high = sorted((self.find(first), self.find(second)))
        if low != high:
            self._parents[high] = low


# What is drawn.


def _paint(seed: int, key: str) -> tuple[str, str]:
    """A fill, and a background that it can be told from."""
    fill = tuple(COLOURS)[stream(seed, "fill", key) % len(COLOURS)]
    grounds = backgrounds(fill)
    return fill, grounds[stream(seed, "background", key) % len(grounds)]


def _entry(config: GlyphsConfig, row: dict[str, str], drawing: Drawing, one_colour: bool) -> Entry:
    """A picture with colours of its own on white, or with a keyed fill and background."""
    fill, background = _paint(config.seed, row["key"]) if one_colour else (None, "white")
    return Entry({**row, "background": background}, Job(drawing, fill, background, config.size))


def names_colour(name: str) -> bool:
    """Whether a thing's name says its colour, so that to draw it in another would make the name untrue."""
    return not COLOURS.keys().isdisjoint(name.lower().split())


def _emoji_rows(config: GlyphsConfig, art: Art, families: Families) -> Iterator[Entry]:
    sets = {package: art.emoji_set(package).drawings(art.concepts) for package in art.of_role("emoji")}
    for found in sets.values():
        _join_copies(found, families)
    for package in _chosen(sets, config):
        for concept, drawing in sets[package]:
            if package.one_colour and names_colour(concept.name):
                continue
            row = {
                "key": f"{package.style}/{concept.slug}",
                "kind": "emoji",
                "concept": concept.slug,
                "subgroup": concept.subgroup,
                "group": concept.group,
                "style": package.style,
                "vendor": package.vendor,
                "text": "",
                "split": drawing_split(config.seed, families.find(concept.slug), package.vendor),
                "name": concept.name,
                "keywords": ", ".join(concept.keywords),
            }
            yield _entry(config, row, drawing, package.one_colour)


def _join_copies(drawings: Iterable[tuple[Concept, Drawing]], families: Families) -> None:
    first: dict[Drawing, str] = {}
    for concept, drawing in drawings:
        families.join(first.setdefault(drawing, concept.slug), concept.slug)


def _chosen(packages: Iterable[Package], config: GlyphsConfig) -> list[Package]:
    return [package for package in packages if config.styles is None or package.style in config.styles]


def _icon_rows(config: GlyphsConfig, art: Art, families: Families) -> Iterator[Entry]:
    for package in _chosen(art.of_role("icon"), config):
        icons = IconSet(art.path(package))
        for name in icons:
            row = {
                "key": f"{package.style}/{name}",
                "kind": "icon",
                "concept": name,
                "subgroup": "icon",
                "group": "icon",
                "style": package.style,
                "vendor": package.vendor,
                "text": "",
                "split": concept_split(config.seed, families.find(name)),
                "name": name.replace("-", " "),
                "keywords": "",
            }
            drawing = icons.icon(name)
            if drawing is not None and not names_colour(row["name"]):
                yield _entry(config, row, drawing, package.one_colour)


def _word_rows(config: GlyphsConfig, art: Art, words: dict[str, list[str]]) -> Iterator[Entry]:
    """Seen words in train fonts train; in held-out fonts they are redrawn; unseen words are never trained."""
    splits = {("seen", "train"): "train", ("seen", "heldout"): "redraw", ("unseen", "heldout"): "test"}
    for font in art.fonts:
        for seen, word in ((seen, word) for seen, group in words.items() for word in group):
            if (seen, font.split) not in splits or font.family not in (config.styles or (font.family,)):
                continue
            row = {
                "key": f"{font.family.lower().replace(' ', '-')}/{word}",
                "kind": "word",
                "concept": word,
                "subgroup": "word",
                "group": "word",
                "style": font.family,
                "vendor": font.family,
                "text": word,
                "split": splits[seen, font.split],
                "name": word,
                "keywords": "",
            }
            yield _entry(config, row, WordArt(word, font.path), one_colour=True)


# Which words are written.


def edit_distances(words: Sequence[str]) -> UInt8[np.ndarray, "N N"]:
    """Levenshtein distances between all words (Wagner and Fischer 1974), all pairs at once."""
    count, longest = len(words), max(map(len, words), default=0)
    codes = np.array([[ord(letter) for letter in word.ljust(longest)] for word in words]).reshape(
        count, longest
    )
    lengths = np.array([len(word) for word in words], np.intp)
    table = np.zeros((longest + 1, longest + 1, count, count), np.uint8)
    for edge in range(longest + 1):
        table[edge, 0] = table[0, edge] = edge
    for row in range(1, longest + 1):
        for column in range(1, longest + 1):
            swap = table[row - 1, column - 1] + (codes[:, None, row - 1] != codes[None, :, column - 1])
            gap = np.minimum(table[row - 1, column], table[row, column - 1]) + 1
            table[row, column] = np.minimum(swap, gap)
    places = np.arange(count)
    distances: UInt8[np.ndarray, "N N"] = table[lengths[:, None], lengths[None, :], places[:, None], places]
    return distances


def word_candidates(concepts: Iterable[Concept]) -> list[str]:
    """Words of three to five letters that name or describe at least two emoji other than flags."""
    counts: Counter[str] = Counter()
    for concept in concepts:
        if concept.group != "Flags":
            said = " ".join((concept.name.lower(), *concept.keywords))
            counts.update(set(re.findall(r"(?<![a-z'’])[a-z]{3,5}(?![a-z'’])", said)))
    return sorted(word for word, count in counts.items() if count >= 2 and word not in UNSUITABLE)


def choose_words(candidates: Sequence[str], total: int) -> list[str]:
    """The words with the most neighbours at edit distance 1 (and, less, 2), found by dropping the loneliest.

    Lengths keep fixed shares, or short words, which are all near one another, would crowd out the rest.

    Raises:
        UserError: there are not enough candidates of some length.
    """
    lengths = np.array([len(word) for word in candidates], np.intp)
    quotas = {length: round(share * total) for length, share in LENGTH_SHARES.items()}
    quotas[4] += total - sum(quotas.values())
    for length, quota in quotas.items():
        if (lengths == length).sum() < quota:
            raise UserError(
                f"words={total} asks for {quota} words of {length} letters and the art has "
                f"{(lengths == length).sum()}: set fewer words."
            )
    distances = edit_distances(candidates)
    closeness = 4 * (distances == 1).astype(np.int64) + (distances == 2)
    alive, scores = np.ones(len(candidates), bool), closeness.sum(axis=1)
    for length, quota in quotas.items():
        for _ in range(int((lengths == length).sum()) - quota):
            eligible = np.flatnonzero(alive & (lengths == length))
            loneliest = eligible[scores[eligible].argmin()]
            alive[loneliest] = False
            scores -= closeness[loneliest]
    return [word for word, kept in zip(candidates, alive, strict=True) if kept]


def part_words(words: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Hold out a keyed fifth of the words from training."""
    ranked = sorted(words, key=lambda word: stream(seed, "unseen", word))
    unseen = set(ranked[: round(UNSEEN_WORDS * len(words))])
    return {"seen": [word for word in words if word not in unseen], "unseen": sorted(unseen)}


# Building.


def build(
    config: GlyphsConfig, art_folder: Path, out_folder: Path, workers: int, *, pins: Path = PINS
) -> None:
    """Draw the corpus into ``out_folder``, whole or not at all; the same bytes whenever it is repeated.

    Args:
        config: what is drawn.
        art_folder: where ``art.fetch`` put the packages; verified first.
        out_folder: replaced, if it holds an earlier corpus.
        workers: processes that draw; 0 or 1 draws in this one.
        pins: the pin file that the art is checked against.

    Raises:
        UserError: the art is missing or not what was pinned, a style is unknown, there are not enough words,
            or ``out_folder`` holds something else.
    """
    if out_folder.exists() and any(out_folder.iterdir()) and not (out_folder / "meta.json").exists():
        raise UserError(
            f"The folder {out_folder} holds other files: choose an empty or new folder for the corpus."
        )
    art_module.verify(art_folder, pins)
    art = Art(art_folder, pins)
    _check_styles(config, art)
    words = part_words(choose_words(word_candidates(art.concepts), config.words), config.seed)
    families = Families()
    entries = list(_emoji_rows(config, art, families))
    entries += _icon_rows(config, art, families)
    entries += _word_rows(config, art, words)
    drawn = _draw_all([entry.job for entry in entries], workers)
    kept, dropped = _sieve([entry.row for entry in entries], drawn)
    with whole_folder(out_folder) as folder:
        _write(folder, config, art, kept, dropped, words)


def _check_styles(config: GlyphsConfig, art: Art) -> None:
    known = [package.style for role in ("emoji", "icon", "font") for package in art.of_role(role)]
    for style in config.styles or ():
        if style not in known:
            raise UserError(f"Unknown style {style!r} in styles: choose among {', '.join(known)}.")


def _draw_all(jobs: Sequence[Job], workers: int) -> list[Drawn]:
    """Draw all jobs, in order. Processes are spawned: a fork would copy the locks of running threads."""
    bar = functools.partial(progress, label="Drawing glyphs", unit="image", total=len(jobs))
    if workers <= 1:
        return [draw(job) for job in bar(jobs)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            return list(bar(pool.map(draw, jobs, chunksize=64)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _sieve(
    rows: Sequence[dict[str, str]], drawn: Sequence[Drawn]
) -> tuple[list[tuple[dict[str, str], Drawn]], dict[str, int]]:
    """Leave out blank drawings and repeats of the same drawing, the first of which stays."""
    kept, seen, dropped = [], set[str](), Counter[str]()
    for row, picture in zip(rows, drawn, strict=True):
        if picture.ink < LEAST_INK:
            dropped["blank"] += 1
        elif picture.shape in seen:
            dropped["repeated"] += 1
        else:
            seen.add(picture.shape)
            kept.append(({**row, "colour": picture.colour}, picture))
    return kept, {reason: dropped[reason] for reason in ("blank", "repeated")}


def _write(
    folder: Path,
    config: GlyphsConfig,
    art: Art,
    kept: Sequence[tuple[dict[str, str], Drawn]],
    dropped: dict[str, int],
    words: dict[str, list[str]],
) -> None:
    (folder / "images.bin").write_bytes(b"".join(picture.png for _, picture in kept))
    columns: dict[str, object] = {name: [row[name] for row, _ in kept] for name in COLUMNS}
    ends = np.cumsum([len(picture.png) for _, picture in kept], dtype=np.int64)
    columns |= {"end": ends, "sha256": [picture.sha256 for _, picture in kept]}
    pq.write_table(pa.table(columns), folder / "table.parquet", compression="zstd")
    styles = Counter(row["style"] for row, _ in kept)
    counts = Counter((row["kind"], row["split"]) for row, _ in kept)
    kinds = dict.fromkeys(row["kind"] for row, _ in kept)
    files = [folder / name for name in ("images.bin", "table.parquet")]
    meta = Meta(
        config=config,
        digest=_digest(["\x1f".join((*(row[name] for name in COLUMNS), each.sha256)) for row, each in kept]),
        counts={kind: {split: counts[kind, split] for split in SPLITS} for kind in kinds},
        styles=dict(styles),
        dropped=dropped,
        words=words,
        files={file.name: FileMeta(bytes=file.stat().st_size, sha256=sha256(file)) for file in files},
        attributions=attributions(art, styles),
    )
    write_json(folder / "meta.json", meta.model_dump(mode="json"))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# Reading.


def read_meta(folder: Path) -> Meta:
    """What a built corpus says of itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "meta.json"
    try:
        return Meta.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}: run `paribus corpus build glyphs`.") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"The file {path} is damaged: run `paribus corpus build glyphs`.") from error


def verify(folder: Path) -> Meta:
    """Check a built corpus against its own digests.

    Raises:
        UserError: a file is missing or damaged.
    """
    meta = read_meta(folder)
    for name, expected in meta.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"The file {path} is missing: run `paribus corpus build glyphs`.")
        if path.stat().st_size != expected.bytes or sha256(path) != expected.sha256:
            raise UserError(f"The file {path} is damaged: run `paribus corpus build glyphs`.")
    return meta


ABOUT = 23_000
"""About how many pictures the whole corpus has, where costs are predicted before it is drawn."""


class Glyphs:
    """The built corpus, or some splits of it, as a source.

    Args:
        folder: where ``build`` put it; verified before use.
        splits: which of "train", "redraw" and "test".
        captions: the caption policy (``captions.CAPTION_POLICIES``).

    Raises:
        UserError: the corpus is missing or damaged, or a split or policy is unknown.
    """

    columns: dict[str, Shaped[np.ndarray, " rows"]]
    """Column -> value of each picture of the splits; see ``COLUMNS``."""

    def __init__(self, folder: Path, *, splits: Sequence[str] = ("train",), captions: str = "thing") -> None:
        self.folder, self.splits, self.policy = Path(folder), tuple(splits), captions
        shuffled = find_policy(captions).shuffled
        _check_splits(self.splits)
        self.meta = verify(self.folder)
        table = pq.read_table(self.folder / "table.parquet")
        everything = {name: table[name].to_numpy().astype(np.str_) for name in (*COLUMNS, "sha256")}
        rows = np.flatnonzero(np.isin(everything["split"], self.splits))
        self.columns = {name: everything[name][rows] for name in COLUMNS}
        self._pixels = everything["sha256"][rows]
        ends = table["end"].to_numpy()
        self._spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)[rows]
        self._blobs: NDArray[np.uint8] = np.memmap(self.folder / "images.bin", np.uint8, mode="r")
        pool = np.flatnonzero((everything["split"] == "train") & shuffled)
        self._captions = compose_captions(
            _records(everything, rows), captions, seed=self.meta.config.seed, pool=_records(everything, pool)
        )

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int, /) -> Sample:
        factors = {name: str(self.columns[name][index]) for name in FACTORS}
        key = str(self.columns["key"][index])
        return Sample(key=key, image=self.image(index), text=self._captions[index], factors=factors)

    def image(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        """One picture."""
        start, end = self._spans[index]
        return decode(np.asarray(self._blobs[start:end]))

    @property
    def words(self) -> dict[str, list[str]]:
        """The written words: "seen" ones are in the train split, "unseen" ones in no picture of it."""
        return self.meta.words

    @property
    def captions(self) -> list[str]:
        """The caption of each picture."""
        return list(self._captions)

    @functools.cached_property
    def pictures(self) -> str:
        """SHA-256 over keys and pixels of these splits, whatever is said of them."""
        return _digest("\x1f".join(part) for part in zip(self.columns["key"], self._pixels, strict=True))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over keys, pixels and captions of these splits."""
        parts = zip(self.columns["key"], self._pixels, self._captions, strict=True)
        return _digest("\x1f".join(part) for part in parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by name: a worker opens the files again instead of being sent their bytes."""
        return functools.partial(Glyphs, splits=self.splits, captions=self.policy), (self.folder,)


def _check_splits(splits: Sequence[str]) -> None:
    for split in splits or ("none",):
        if split not in SPLITS:
            raise UserError(f"Unknown split {split!r}: choose among {', '.join(SPLITS)}.")


def _records(columns: dict[str, Shaped[np.ndarray, " all"]], rows: NDArray[np.intp]) -> list[dict[str, str]]:
    """Columns as one mapping a row."""
    names = list(columns)
    picked = zip(*(columns[name][rows].tolist() for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in picked]


# Looking.


TOLD = ("group", "subgroup", "concept", "style", "colour", "text")
"""Columns that an exported picture's factors stand in."""


def export(glyphs: Glyphs, folder: Path) -> int:
    """Write pictures as PNG files, and a table of what is known of each; how many there are.

    ``pictures/NUMBER.png`` and ``told.csv`` with the columns file, caption and ``TOLD``; the whole folder or
    nothing.
    """
    columns = {name: glyphs.columns[name] for name in TOLD}
    with whole_folder(folder) as temporary:
        (temporary / "pictures").mkdir()
        with (temporary / "told.csv").open("w", newline="", encoding="utf-8") as handle:
            table = csv.writer(handle)
            table.writerow(["file", "caption", *columns])
            for place in progress(range(len(glyphs)), label="Writing pictures", unit="picture"):
                name = f"{place:05d}.png"
                (temporary / "pictures" / name).write_bytes(encode(glyphs.image(place)))
                table.writerow(
                    [name, glyphs.captions[place], *(str(told[place]) for told in columns.values())]
                )
    return len(glyphs)


def contact_sheet(
    glyphs: Glyphs,
    path: Path,
    rows: str = "concept",
    columns: str | None = "style",
    *,
    height: int = 12,
    width: int = 12,
    kinds: Sequence[str] = ("emoji", "icon", "word"),
) -> None:
    """Write a PNG of pictures by their factors.

    Args:
        glyphs: the pictures.
        path: of the PNG.
        rows: the column whose values become lines; the values that have the most to show, in a keyed order.
        columns: the column whose values stand side by side, labelled under each picture; None: a keyed
            choice of the line's pictures, labelled with their captions.
        height: at most so many lines.
        width: at most so many pictures a line.
        kinds: only pictures of these kinds.

    Raises:
        UserError: ``rows`` or ``columns`` is no column.
    """
    for name in (rows, *([columns] if columns else [])):
        if name not in COLUMNS:
            raise UserError(f"Unknown column {name!r}: choose among {', '.join(COLUMNS)}.")
    keys = glyphs.columns["key"]
    eligible = np.flatnonzero(np.isin(glyphs.columns["kind"], kinds)).tolist()
    order = sorted(eligible, key=lambda index: stream("sheet", str(keys[index])))
    lines: dict[str, dict[str, int]] = {}
    for index in order:
        place = str(glyphs.columns[columns][index]) if columns else str(index)
        lines.setdefault(str(glyphs.columns[rows][index]), {}).setdefault(place, index)
    shown = sorted(lines, key=lambda line: -len(lines[line]))[:height]
    places = Counter(place for line in shown for place in lines[line])
    side_by_side = sorted(place for place, _ in places.most_common(width))

    def cell(index: int | None, label: str) -> Cell | None:
        return None if index is None else Cell(glyphs.image(index), label)

    def cells(line: dict[str, int]) -> list[Cell | None]:
        if columns:
            return [cell(line.get(place), place) for place in side_by_side]
        return [cell(index, glyphs[index].text) for index in list(line.values())[:width]]

    picture = sheet([(line, cells(lines[line])) for line in shown])
    with whole_file(path) as temporary:
        temporary.write_bytes(encode(picture))
