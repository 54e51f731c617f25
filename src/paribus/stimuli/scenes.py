"""Scenes to segment: a few drawings on a ground, and which group is seen at each pixel."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from paribus.stimuli.cutouts import Cutout, paste, pixels, scaled
from paribus.stimuli.grounds import ground
from paribus.stimuli.pool import GROUPS, Pool

CLASSES = ("background", *GROUPS)
"""What the labels of a mask stand for."""

LEAST_SIDE, MOST_SIDE = 0.3, 0.6
"""A thing's longer side as a share of the scene's."""
MANY_FROM = 96
"""Scenes of this side and up may have four things, smaller ones three: below that, things would be specks."""
LEAST_SEEN = 0.6
"""Where it can, a thing is laid so that this share of what is seen of each earlier one stays in sight."""
PLACINGS = 30


class Scene(NamedTuple):
    """A scene, and the group of what is seen at each pixel: an index into ``CLASSES``."""

    image: UInt8[np.ndarray, "S S 3"]
    mask: UInt8[np.ndarray, "S S"]
    concepts: tuple[str, ...]


def scene(pool: Pool, side: int, rng: np.random.Generator) -> Scene:
    """Two to four drawings at random places and sizes; later ones lie over earlier ones.

    Args:
        pool: what may be shown.
        side: of the scene in pixels.
        rng: what is drawn from.
    """
    count = int(rng.integers(2, 5 if side >= MANY_FROM else 4))
    rows = [pool.draw(rng) for _ in range(count)]
    things = [_sized(pool.cutout(row), side, rng) for row in rows]
    canvas = ground(rng, side, things)
    owner = np.full((side, side), -1, np.intp)
    for place, thing in enumerate(things):
        top, left = _placed(owner, thing, rng)
        owner[paste(canvas, thing, top, left)] = place
    labels = np.array([0, *(CLASSES.index(pool.group(row)) for row in rows)], np.uint8)
    shown = [pool.concept(row) for place, row in enumerate(rows) if (owner == place).any()]
    return Scene(pixels(canvas), labels[owner + 1], tuple(shown))


def _sized(cutout: Cutout, side: int, rng: np.random.Generator) -> Cutout:
    # A drawing is never blown up: its own size bounds the largest.
    longest = max(cutout.shape[:2])
    wanted = min(rng.uniform(LEAST_SIDE, MOST_SIDE) * side, longest)
    return scaled(cutout, wanted / longest)


def _placed(owner: np.ndarray, thing: Cutout, rng: np.random.Generator) -> tuple[int, int]:
    """The first of some random places that leaves all earlier things in sight, else the one that hides least.

    ``owner`` is which thing is seen at each pixel, -1 for none.
    """
    height, width = thing.shape[:2]
    solid = thing[..., 3] >= 0.5
    areas = np.bincount(owner.ravel() + 1)[1:]
    best, least = (0, 0), np.inf
    for _ in range(PLACINGS):
        top = int(rng.integers(owner.shape[0] - height + 1))
        left = int(rng.integers(owner.shape[1] - width + 1))
        hidden = _hidden(owner[top : top + height, left : left + width], solid, areas)
        if hidden <= 1 - LEAST_SEEN:
            return top, left
        if hidden < least:
            best, least = (top, left), hidden
    return best


def _hidden(window: np.ndarray, solid: Bool[np.ndarray, "h w"], areas: np.ndarray) -> float:
    """The largest share of any thing in sight that would be covered."""
    if not len(areas):
        return 0.0
    covered = np.bincount(window[solid] + 1, minlength=len(areas) + 1)[1:]
    return float((covered / np.maximum(areas, 1)).max())
