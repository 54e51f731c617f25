"""Which drawings stimuli may show, by group and concept, and how one of them is drawn by lot."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from paribus.data.glyphs import Glyphs
from paribus.errors import UserError
from paribus.stimuli.cutouts import Cutout, cut, one_ink_styles

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)
"""Unicode's groups of emoji."""

TRIES = 1000
T = TypeVar("T")


def one(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.integers(len(items)))]


def retry(draw: Callable[[], T | None], what: str) -> T:
    """The first draw that its rule accepts.

    Raises:
        UserError: the rule accepts none of ``TRIES`` draws.
    """
    for _ in range(TRIES):
        drawn = draw()
        if drawn is not None:
            return drawn
    raise UserError(f"The corpus is too small for {what}: build it with more styles.")


def side_of(corpus: Glyphs, size: int | None) -> int:
    """The side of stimuli in pixels: as asked, or the corpus's own.

    Raises:
        UserError: it is larger than the corpus's pictures, which would have to be blown up, or too small.
    """
    own = corpus.meta.config.size
    if size is not None and not 32 <= size <= own:
        raise UserError(
            f"Stimuli of {size} pixels cannot be made from a corpus of {own}: ask for 32 to {own}, or build "
            "the corpus at the size you want."
        )
    if own < 32:
        raise UserError(f"Stimuli need pictures of 32 pixels or more, not {own}: build a larger corpus.")
    return size or own


class Pool:
    """The emoji of one split.

    Groups, concepts of a group and drawings of a concept are each drawn uniformly, so that no group, and no
    concept with many drawings, crowds out the rest.

    Args:
        corpus: opened with all splits.
        split: "train" or "test"; the corpus parts them by concept family.
        coloured: only styles that paint with colours of their own.

    Raises:
        UserError: the corpus has no such pictures, or is not open for this split.
    """

    def __init__(self, corpus: Glyphs, split: str, *, coloured: bool = False) -> None:
        self._corpus, self._columns = corpus, corpus.columns
        wanted = np.isin(corpus.columns["group"], GROUPS) & (corpus.columns["split"] == split)
        if coloured:
            wanted &= ~np.isin(corpus.columns["style"], sorted(one_ink_styles()))
        rows: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row in np.flatnonzero(wanted).tolist():
            rows[self.group(row)][self.concept(row)].append(row)
        self._rows = {group: list(rows[group].values()) for group in GROUPS if group in rows}
        if not self._rows:
            raise UserError(
                f"The corpus shows no emoji of the split {split!r}: open it with the splits train, redraw "
                "and test, and build it with styles that draw emoji."
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that occur."""
        return tuple(self._rows)

    def concepts(self, group: str) -> list[list[int]]:
        """The drawings of each concept of a group."""
        return self._rows[group]

    def group(self, row: int) -> str:
        """The group of a drawing."""
        return str(self._columns["group"][row])

    def concept(self, row: int) -> str:
        """The concept of a drawing."""
        return str(self._columns["concept"][row])

    def drawings(self, rng: np.random.Generator, groups: Sequence[str] | None = None) -> list[int]:
        """All drawings of one concept: a group by lot, then a concept of it."""
        return one(rng, self.concepts(one(rng, groups or self.groups)))

    def draw(self, rng: np.random.Generator, groups: Sequence[str] | None = None) -> int:
        """One drawing: a group by lot, then a concept of it, then a drawing of that."""
        return one(rng, self.drawings(rng, groups))

    def cutout(self, row: int) -> Cutout:
        """A drawing without its background."""
        columns = self._columns
        style, colour = str(columns["style"][row]), str(columns["colour"][row])
        ink = colour if style in one_ink_styles() else None
        return cut(self._corpus.image(row), ink=ink, background=str(columns["background"][row]))
