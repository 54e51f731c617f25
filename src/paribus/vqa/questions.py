"""How each GlyphQA question is made: options first, then the answer, then the picture.

Every maker draws its four options by a rule that treats them alike (a question about positions or numbers has
always the same four) and only then draws which one is right, uniformly. So the options say nothing of the
answer, and one who does not see the picture is right in one of four. Two sources also follow the numbers of
real rows; they keep labels apart between train and test instead.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8

from paribus.data.draw import COLOURS, colour_shares
from paribus.data.glyphs import edit_distances
from paribus.vqa.charts import Row, bars, pick, pie, table

Split = Literal["train", "test"]
Picture = UInt8[np.ndarray, "S S 3"]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

TRIES = 1000
MAIN_SHARE = 0.55
"""Least share of a drawing in one colour term for that to be its main colour."""


class Thing(NamedTuple):
    """One drawing that questions may show."""

    row: int
    concept: str
    name: str
    subgroup: str
    style: str
    colour: str
    background: str


@dataclass(frozen=True)
class Draft:
    """A question before its options are shuffled; ``answer`` is the place of the right option."""

    text: str
    options: tuple[str, str, str, str]
    answer: int
    image: Picture


KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine",
               "animal-bug"),
    "food": ("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "food-marine"),
    "drink": ("drink",),
    "plant": ("plant-flower", "plant-other"),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
    "building": ("place-building", "place-religious"),
    "clothes": ("clothing",),
    "instrument": ("musical-instrument",),
    "tool": ("tool",),
    "sport": ("sport",),
    "face": ("face-smiling", "face-affection", "face-tongue", "face-neutral-skeptical", "face-sleepy",
             "face-unwell", "face-concerned", "face-negative"),
    "hand": ("hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hand-fingers-closed",
             "hands"),
    "person": ("person", "person-role", "person-activity", "person-sport", "person-gesture"),
    "arrow": ("arrow",),
    "heart": ("heart",),
    "flag": ("country-flag", "subdivision-flag"),
}  # fmt: skip
"""Kinds of things that a person tells apart at a glance, by Unicode subgroup."""

NEAR_KINDS = (
    {"food", "drink"}, {"food", "plant"}, {"food", "animal"}, {"face", "person"}, {"hand", "person"},
    {"sport", "clothes"}, {"sport", "person"}, {"clothes", "person"}, {"vehicle", "person"},
    {"tool", "clothes"},
)  # fmt: skip
"""Kinds that share things (a chestnut, a lobster, a running shirt): never both in one question."""

ODD_MEMBERS = frozenset({
    "anchor", "brick", "construction", "rock", "wood", "motorway", "wheel", "microbe", "trophy",
    "lipstick", "feather", "ring", "bus stop", "railway track", "oil drum", "fuel pump",
    "police car light", "horizontal traffic light", "vertical traffic light", "stop sign", "ring buoy",
    "seat", "spider web", "gem stone", "prayer beads", "flag in hole", "paw prints", "love letter",
    "folding hand fan", "crown", "glasses", "coral", "empty nest", "nest with eggs", "hut", "link",
    "white cane", "magnet", "toolbox", "dagger", "bomb", "shield", "cooking", "salt", "ice", "jar",
    "chopsticks", "amphora", "skull", "skull and crossbones", "airplane arrival",
    "airplane departure", "shopping bags", "rosette", "hair pick",
})  # fmt: skip
"""Things in a subgroup that are no clear case of its kind."""

_NAMED_KINDS = (
    "animal", "food", "drink", "plant", "vehicle", "clothes", "instrument", "tool", "sport", "building",
)  # fmt: skip

NAMED = (
    *itertools.chain.from_iterable(KINDS[kind] for kind in _NAMED_KINDS),
    "dishware", "light-video", "computer", "phone", "book-paper", "money", "writing", "office", "lock",
    "science", "medical", "household", "game", "event", "award-medal", "body-parts", "arts-crafts",
    "face-costume", "sound", "sky-weather", "place-other", "other-object", "mail",
)  # fmt: skip
"""Subgroups whose things have plain names; faces, hands, flags and signs do not."""

CLOSE_COLOURS = (
    {"red", "orange"}, {"red", "brown"}, {"red", "pink"}, {"orange", "yellow"}, {"orange", "brown"},
    {"purple", "pink"}, {"purple", "blue"}, {"black", "grey"}, {"white", "grey"}, {"yellow", "brown"},
)  # fmt: skip
"""Colour terms between which people differ: never both among the options about a drawing."""

LOOKS = {
    "openmoji": "outlined",
    "fluent-high-contrast": "one colour",
    "fluent-emoji-high-contrast": "one colour",
    "emojione-monotone": "one colour",
}
"""What sets a style apart at 22 pixels; all others are "coloured"."""

PLACES = ("top left", "top right", "bottom left", "bottom right")
ORDER = ("first", "second", "third", "fourth")
UNPICTURED = frozenset(
    {"pile of poo", "cigarette", "coffin", "wood", "lock", "wing", "cyclone", "zzz", "classical building"}
)
"""Things left out of questions: not for everyone, or not to be told from others of their subgroup."""

_FILLERS = frozenset({
    "a", "an", "and", "of", "in", "on", "with", "the", "face", "button", "sign", "symbol", "up", "to",
})  # fmt: skip


class Pool:
    """All that the questions of one split may show, indexed for drawing.

    Args:
        things: the split's drawings.
        keywords: concept -> what else it is called or goes with.
        picture: row -> its pixels.
        words: source name -> written word -> rows.
        fonts: the split's fonts.
        tables: rows with labels, one list a table.
        states: rows with two-letter labels.
        series: rows without labels.
        size: side of a question's picture in pixels.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        *,
        keywords: Mapping[str, frozenset[str]],
        picture: Callable[[int], Picture],
        words: Mapping[str, Mapping[str, Sequence[int]]],
        fonts: Sequence[Path],
        tables: Sequence[Sequence[Row]],
        states: Sequence[Sequence[Row]],
        series: Sequence[Sequence[Row]],
        size: int,
    ) -> None:
        self.keywords, self.picture, self.words, self.fonts = keywords, picture, words, tuple(fonts)
        self.tables, self.states, self.series, self.size = tables, states, series, size
        kinds = {subgroup: kind for kind, subgroups in KINDS.items() for subgroup in subgroups}
        clear = [t for t in things if t.subgroup in kinds and t.name not in ODD_MEMBERS]
        named = [t for t in things if t.subgroup in NAMED and plain_name(t.name) and t.name not in UNPICTURED]
        self.of_concept = group(named, lambda t: t.concept)
        self.in_subgroup = {
            subgroup: list(dict.fromkeys(t.concept for t in members))
            for subgroup, members in group(named, lambda t: t.subgroup).items()
        }
        self.of_kind = group(clear, lambda t: kinds[t.subgroup])
        self.of_style_kind = group(clear, lambda t: (t.style, kinds[t.subgroup]))
        # White is no main colour here, where nearly all stands on white; repainted art has two main colours.
        plain = [t for t in things if t.background == "white" != t.colour]
        self.of_colour = group(plain, lambda t: t.colour)
        self.many_drawings = [
            c for c, members in self.of_concept.items() if len({t.style for t in members}) >= 3
        ]
        self.many_concepts = [
            k for k, members in self.of_style_kind.items() if len({t.concept for t in members}) >= 3
        ]
        self.near = {source: neighbours(tuple(members)) for source, members in words.items()}

    def name(self, concept: str) -> str:
        """What a concept is called in questions and options."""
        return self.of_concept[concept][0].name

    def alike(self, one: str, other: str) -> bool:
        """Whether two concepts' names could both be said of one picture."""
        a, b = self.name(one), self.name(other)
        shared = {word.rstrip("s") for word in a.split()} & {
            word.rstrip("s") for word in b.split()
        } - _FILLERS
        return bool(shared) or a in self.keywords[other] or b in self.keywords[one]

    def show(self, thing: Thing) -> Picture:
        """A drawing at the question's full size."""
        return fit(self.picture(thing.row), self.size)

    def grid(self, things: Sequence[Thing | None]) -> Picture:
        """Four drawings, or blanks, two by two: top left, top right, bottom left, bottom right."""
        return tile([None if thing is None else self.picture(thing.row) for thing in things], self.size)


def group(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, keys in order of first appearance."""
    groups: defaultdict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def plain_name(name: str) -> bool:
    """Whether a name is short and says nothing that 22 pixels cannot show, such as a gender or the time."""
    words = name.split()
    unclear = {
        "man",
        "woman",
        "men",
        "women",
        "person",
        "people",
        "boy",
        "girl",
        "o’clock",
        "o'clock",
        "moon",
    }
    return len(words) <= 3 and re.fullmatch(r"[a-z][a-z -]*", name) is not None and not unclear & set(words)


def fit(image: UInt8[np.ndarray, "H W 3"], size: int) -> Picture:
    """A picture at another size."""
    if image.shape[0] == size:
        return image
    how = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), dtype=np.uint8)


def tile(images: Sequence[UInt8[np.ndarray, "H W 3"] | None], size: int) -> Picture:
    """Four pictures or blanks, two by two on white, with a gap of a twenty-fourth of the side."""
    canvas = np.full((size, size, 3), 255, np.uint8)
    gap = max(1, size // 48)
    side = size // 2 - 2 * gap
    for place, image in enumerate(images):
        if image is not None:
            top, left = (place // 2) * (size // 2) + gap, (place % 2) * (size // 2) + gap
            canvas[top : top + side, left : left + side] = fit(image, side)
    return canvas


def neighbours(words: Sequence[str]) -> dict[str, list[str]]:
    """For each word those at edit distance 1 or 2, of words that have at least three such."""
    close = edit_distances(words)
    near = {
        word: [words[int(j)] for j in np.flatnonzero((row > 0) & (row <= 2))]
        for word, row in zip(words, close, strict=True)
    }
    return {word: others for word, others in near.items() if len(others) >= 3}


def one(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.integers(len(items)))]


def some(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """Several different items, uniformly, in random order."""
    return [items[int(i)] for i in rng.choice(len(items), count, replace=False)]


def retry(draw: Callable[[], T | None], what: str) -> T:
    """The first draw that its rule accepts.

    Raises:
        RuntimeError: if the rule accepts none of ``TRIES`` draws.
    """
    for _ in range(TRIES):
        drawn = draw()
        if drawn is not None:
            return drawn
    raise RuntimeError(f"No {what} can be drawn: the corpus is too small for it.")


def _unlike(pool: Pool, concepts: Sequence[str]) -> bool:
    return not any(pool.alike(a, b) for a, b in itertools.combinations(concepts, 2))


def _four(names: Sequence[str]) -> tuple[str, str, str, str]:
    a, b, c, d = names
    return a, b, c, d


def thing(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which of four things of one subgroup is shown."""
    places = [members for members in pool.in_subgroup.values() if len(members) >= 4]
    weights = np.array([len(members) for members in places], dtype=np.float64)

    def draw() -> list[str] | None:
        members = places[int(rng.choice(len(places), p=weights / weights.sum()))]
        concepts = some(rng, members, 4)
        return concepts if _unlike(pool, concepts) else None

    concepts = retry(draw, "four things of one subgroup")
    answer = int(rng.integers(4))
    image = pool.show(one(rng, pool.of_concept[concepts[answer]]))
    return Draft("What is this?", _four([pool.name(c) for c in concepts]), answer, image)


def _apart(chosen: Sequence[str], close: Sequence[set[str]]) -> bool:
    return not any(pair <= set(chosen) for pair in close)


def kind(pool: Pool, rng: np.random.Generator) -> Draft:
    """What kind of thing is shown."""
    names = [name for name, members in pool.of_kind.items() if members]

    def draw() -> list[str] | None:
        chosen = some(rng, names, 4)
        return chosen if _apart(chosen, NEAR_KINDS) else None

    chosen = retry(draw, "four kinds")
    answer = int(rng.integers(4))
    image = pool.show(one(rng, pool.of_kind[chosen[answer]]))
    return Draft("What kind of thing is this?", _four(chosen), answer, image)


def colour(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which colour most of the drawing has."""
    names = [name for name in COLOURS if len(pool.of_colour.get(name, ())) >= 8]

    def draw() -> tuple[list[str], int] | None:
        chosen = some(rng, names, 4)
        return (chosen, int(rng.integers(4))) if _apart(chosen, CLOSE_COLOURS) else None

    chosen, answer = retry(draw, "four colours")

    def shown() -> Picture | None:
        image = pool.show(one(rng, pool.of_colour[chosen[answer]]))
        return image if colour_shares(image).get(chosen[answer], 0.0) >= MAIN_SHARE else None

    image = retry(shown, f"drawing that is mainly {chosen[answer]}")
    return Draft("What is its main colour?", _four(chosen), answer, image)


def count(pool: Pool, rng: np.random.Generator) -> Draft:
    """How many pictures there are, or how many of them show a thing."""
    answer = int(rng.integers(4))
    target, other = retry(lambda: _several(pool, rng, 2), "two things")
    shown: list[Thing | None]
    if rng.random() < 0.5:
        text = "How many pictures are there?"
        shown = [one(rng, pool.of_concept[c]) for c in rng.choice([target, other], answer + 1)]
        shown += [None] * (3 - answer)
    else:
        text = f"How many pictures show: {pool.name(target)}?"
        shown = [one(rng, pool.of_concept[target]) for _ in range(answer + 1)]
        rest = [one(rng, pool.of_concept[other]) if rng.random() < 0.7 else None for _ in range(3 - answer)]
        shown += rest
    return Draft(text, ("1", "2", "3", "4"), answer, pool.grid([shown[int(i)] for i in rng.permutation(4)]))


def _several(pool: Pool, rng: np.random.Generator, number: int) -> list[str] | None:
    """Things of different subgroups that no name confuses."""
    subgroups = some(rng, tuple(pool.in_subgroup), number)
    concepts = [one(rng, pool.in_subgroup[subgroup]) for subgroup in subgroups]
    return concepts if _unlike(pool, concepts) else None


_SIDES = {"on the left": (0, 1), "on the right": (1, 0), "at the top": (0, 2), "at the bottom": (2, 0)}
_BESIDE = (
    (0, "left of", 1), (1, "right of", 0), (2, "left of", 3), (3, "right of", 2),
    (0, "above", 2), (2, "below", 0), (1, "above", 3), (3, "below", 1),
)  # fmt: skip
"""Place, its relation to another, and that other place."""


def position(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which thing is on one side, in one corner, or next to another."""
    *concepts, other = retry(lambda: _several(pool, rng, 5), "five things")
    answer = int(rng.integers(4))
    right, rest = concepts[answer], [c for i, c in enumerate(concepts) if i != answer]
    cells: list[str | None] = [None] * 4
    variant = int(rng.integers(3))
    if variant == 0:
        where = one(rng, tuple(_SIDES))
        mine, yours = _SIDES[where]
        cells[mine], cells[yours] = right, one(rng, rest)
        text = f"What is {where}?"
    elif variant == 1:
        mine = int(rng.integers(4))
        left_over = iter(some(rng, rest, 3))
        cells = [right if place == mine else next(left_over) for place in range(4)]
        text = f"What is at the {PLACES[mine]}?"
    else:
        mine, relation, anchor = one(rng, _BESIDE)
        left_over = iter(some(rng, rest, 2))
        cells = [right if p == mine else other if p == anchor else next(left_over) for p in range(4)]
        text = f"What is {relation}: {pool.name(other)}?"
    image = pool.grid([None if c is None else one(rng, pool.of_concept[c]) for c in cells])
    return Draft(text, _four([pool.name(c) for c in concepts]), answer, image)


def _odd(pool: Pool, rng: np.random.Generator, text: str, same: Sequence[Thing], odd: Thing) -> Draft:
    """Four pictures of which one differs, at a place drawn uniformly."""
    answer = int(rng.integers(4))
    shown = list(same)
    shown.insert(answer, odd)
    return Draft(text, PLACES, answer, pool.grid(shown))


def odd_thing(pool: Pool, rng: np.random.Generator) -> Draft:
    """Three drawings of one thing in several styles, and another thing of its subgroup."""

    def draw() -> tuple[list[Thing], Thing] | None:
        concept = one(rng, pool.many_drawings)
        same = some(rng, pool.of_concept[concept], 3)
        other = one(rng, pool.in_subgroup[same[0].subgroup])
        if other == concept or pool.alike(concept, other):
            return None
        styles = {t.style for t in same}
        fitting = [t for t in pool.of_concept[other] if t.style in styles]
        return (same, one(rng, fitting)) if fitting else None

    return _odd(pool, rng, "Which picture shows another thing?", *retry(draw, "three drawings of one thing"))


def odd_kind(pool: Pool, rng: np.random.Generator) -> Draft:
    """Three things of one kind and one of another, all in one style."""

    def draw() -> tuple[list[Thing], Thing] | None:
        style, name = one(rng, pool.many_concepts)
        others = [
            k for s, k in pool.of_style_kind if s == style and k != name and _apart((name, k), NEAR_KINDS)
        ]
        same = some(rng, pool.of_style_kind[style, name], 3)
        if not others or len({t.concept for t in same}) < 3:
            return None
        return same, one(rng, pool.of_style_kind[style, one(rng, others)])

    return _odd(
        pool, rng, "Which picture shows another kind of thing?", *retry(draw, "three things of one kind")
    )


def odd_style(pool: Pool, rng: np.random.Generator) -> Draft:
    """Four things of one kind, three in one style and one in a style that looks quite different."""

    def draw() -> tuple[list[Thing], Thing] | None:
        style, name = one(rng, pool.many_concepts)
        look = LOOKS.get(style, "coloured")
        if look == "one colour":
            # Each of these is painted differently, so three of them do not look alike.
            return None
        others = [s for s, k in pool.of_style_kind if k == name and LOOKS.get(s, "coloured") != look]
        if not others:
            return None
        same, odd = (
            some(rng, pool.of_style_kind[style, name], 3),
            one(rng, pool.of_style_kind[one(rng, others), name]),
        )
        return (same, odd) if len({t.concept for t in (*same, odd)}) == 4 else None

    return _odd(
        pool, rng, "Which picture is drawn in another style?", *retry(draw, "four things of one kind")
    )


def word(source: str) -> "Maker":
    """Which word is written, of one word and three of its neighbours at edit distance 1 or 2."""

    def make(pool: Pool, rng: np.random.Generator) -> Draft:
        near = pool.near[source]
        centre = one(rng, tuple(near))
        chosen = [centre, *some(rng, near[centre], 3)]
        answer = int(rng.integers(4))
        image = fit(pool.picture(one(rng, pool.words[source][chosen[answer]])), pool.size)
        return Draft("Which word is written?", _four(chosen), answer, image)

    return make


_BAR_COLOURS = tuple(name for name in COLOURS if name not in ("white", "grey"))


def chart_colour(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which bar or slice is the largest or smallest, by its colour."""
    names = some(rng, _BAR_COLOURS, 4)
    number = int(rng.integers(3, 5))
    values = [row.value for row in pick(pool.series, rng, count=number, gap=0.12, low=0.15)]
    largest = rng.random() < 0.5
    answer = int(np.argmax(values) if largest else np.argmin(values))
    fills = [COLOURS[name] for name in names[:number]]
    shape = int(rng.integers(3))
    if shape == 2:
        image = pie(values, fills, pool.size, turn=float(rng.uniform(0, 360)))
    else:
        image = bars(values, fills, pool.size, horizontal=shape == 1)
    return Draft(f"Which colour is {'largest' if largest else 'smallest'}?", _four(names), answer, image)


def chart_label(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which bar is the highest or lowest, by the name beneath it."""
    rows = pick(pool.states, rng, gap=0.1, low=0.1)
    highest = rng.random() < 0.5
    values = [row.value for row in rows[:3]]
    answer = int(np.argmax(values) if highest else np.argmin(values))
    image = bars(
        values,
        [COLOURS[name] for name in some(rng, _BAR_COLOURS, 3)],
        pool.size,
        labels=[row.label for row in rows[:3]],
        font=one(rng, pool.fonts),
    )
    text = f"Which bar is {'highest' if highest else 'lowest'}?"
    return Draft(text, _four([row.label for row in rows]), answer, image)


def table_cell(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which number stands in a row of a table; one option is a number of that column that is not shown."""
    rows = pick(pool.tables, rng)
    answer = int(rng.integers(4))
    hidden = one(rng, [i for i in range(4) if i != answer])
    shown = [row for i, row in enumerate(rows) if i != hidden]
    image = table(some(rng, shown, 3), pool.size, one(rng, pool.fonts))
    return Draft(
        f"Which number is in row {rows[answer].label}?", _four([row.text for row in rows]), answer, image
    )


def table_order(pool: Pool, rng: np.random.Generator) -> Draft:
    """Which row of a table has the highest or lowest number."""
    rows = pick(pool.tables, rng)
    highest = rng.random() < 0.5
    values = [row.value for row in rows]
    answer = int(np.argmax(values) if highest else np.argmin(values))
    image = table(rows, pool.size, one(rng, pool.fonts))
    return Draft(f"Which row has the {'highest' if highest else 'lowest'} number?", ORDER, answer, image)


Maker = Callable[[Pool, np.random.Generator], Draft]

MAKERS: dict[str, Maker] = {
    "thing": thing,
    "kind": kind,
    "colour": colour,
    "count": count,
    "position": position,
    "odd-thing": odd_thing,
    "odd-kind": odd_kind,
    "odd-style": odd_style,
    "word-seen": word("word-seen"),
    "word-unseen": word("word-unseen"),
    "chart-colour": chart_colour,
    "chart-label": chart_label,
    "table-cell": table_cell,
    "table-order": table_order,
}
"""Source -> how its questions are made. A new source is a function, a line here and a line in ``SOURCES``."""

SOURCES: dict[str, tuple[str, ...]] = {
    "General": ("thing", "kind", "colour"),
    "Reasoning": ("count", "position", "odd-thing", "odd-kind", "odd-style"),
    "OCR": ("word-seen", "word-unseen"),
    "Doc & Chart": ("chart-colour", "chart-label", "table-cell", "table-order"),
}
"""Category -> its sources."""

TEST_ONLY = frozenset({"word-unseen"})


def source_of(index: int, split: Split) -> tuple[str, str]:
    """Category and source of a question: categories take turns, and so do the sources within each."""
    categories = tuple(SOURCES)
    category = categories[index % len(categories)]
    sources = [s for s in SOURCES[category] if split == "test" or s not in TEST_ONLY]
    return category, sources[(index // len(categories)) % len(sources)]
