"""One to eight drawings of one concept, where the inked area does not tell how many."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from paribus.stimuli.cutouts import Cutout, ink_of, paste, pixels, scaled
from paribus.stimuli.grounds import ground
from paribus.stimuli.pool import Pool, one, retry

MOST = 8
INK = (0.14, 0.22)
"""All drawings together cover a share of the picture drawn from here, whatever their number."""
SPREAD = 0.3
"""Of the logarithm of one drawing's share of the ink."""
LEAST_DENSITY, MOST_ASPECT = 0.45, 1.7
"""A drawing covers at least so much of its box, which is at most so oblong: eight must fit in."""
LEAST_WHOLE = 0.85
"""Its largest piece is at least this share of it: a pair of cherries would count as two."""
COPIES_SHARE = 0.5
LAYOUTS, PLACINGS = 5, 30
SEEN = 0.05
"""Alpha from which two drawings could be seen to touch."""


class Counted(NamedTuple):
    """A picture, how many things it shows, and of what concept."""

    image: UInt8[np.ndarray, "S S 3"]
    things: int
    concept: str


def counted(pool: Pool, side: int, rng: np.random.Generator) -> Counted:
    """Copies of one drawing, or several drawings of one concept, that nowhere touch.

    Args:
        pool: what may be shown.
        side: of the picture in pixels.
        rng: what is drawn from.
    """
    count = int(rng.integers(1, MOST + 1))
    ink = rng.uniform(*INK) * side**2
    shown, things, places = retry(lambda: _shown(pool, count, ink, side, rng), "counting pictures")
    canvas = ground(rng, side, things)
    for thing, (top, left) in zip(things, places, strict=True):
        paste(canvas, thing, top, left)
    return Counted(pixels(canvas), count, shown)


def _shown(
    pool: Pool, count: int, ink: float, side: int, rng: np.random.Generator
) -> tuple[str, list[Cutout], list[tuple[int, int]]] | None:
    """A concept by lot, drawings of it and where they stand, or None if they are not compact or do not fit.

    What does not fit is drawn anew with the same number and ink: the number must not bear on the ink.
    """
    rows = pool.drawings(rng)
    copies = rng.random() < COPIES_SHARE
    chosen = [one(rng, rows)] * count if copies else [one(rng, rows) for _ in range(count)]
    cutouts = {row: pool.cutout(row) for row in dict.fromkeys(chosen)}
    if not all(map(_is_compact, cutouts.values())):
        return None
    for _ in range(LAYOUTS):
        things = _sized([cutouts[row] for row in chosen], ink, rng)
        if places := _places(things, side, rng):
            return pool.concept(rows[0]), things, places
    return None


def _is_compact(cutout: Cutout) -> bool:
    height, width = cutout.shape[:2]
    oblong = max(height, width) / min(height, width) > MOST_ASPECT
    if oblong or ink_of(cutout) < LEAST_DENSITY * height * width:
        return False
    _, pieces = cv2.connectedComponents((cutout[..., 3] >= 0.5).astype(np.uint8), connectivity=8)
    areas = np.bincount(pieces.ravel())[1:]
    return bool(areas.max() >= LEAST_WHOLE * areas.sum())


def _sized(drawings: list[Cutout], ink: float, rng: np.random.Generator) -> list[Cutout]:
    """The drawings at unequal sizes that sum to the ink."""
    weights = np.exp(rng.normal(0, SPREAD, len(drawings)))
    shares = (weights / weights.sum()).tolist()
    return [
        scaled(drawing, math.sqrt(share * ink / ink_of(drawing)))
        for drawing, share in zip(drawings, shares, strict=True)
    ]


def _places(things: list[Cutout], side: int, rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """A random place for each thing, no two touching, or None if some thing finds none."""
    taken = np.zeros((side, side), np.uint8)
    places: list[tuple[int, int]] = []
    for thing in things:
        height, width = thing.shape[:2]
        if max(height, width) > side:
            return None
        solid = thing[..., 3] > SEEN
        near = cv2.dilate(taken, np.ones((3, 3), np.uint8)).astype(bool)
        for _ in range(PLACINGS):
            top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
            if not (near[top : top + height, left : left + width] & solid).any():
                break
        else:
            return None
        places.append((top, left))
        taken[top : top + height, left : left + width] |= solid
    return places
