"""Texture against shape: one thing's silhouette filled with another's inside (Geirhos et al. 2019).

Geirhos et al. made their cue conflicts by style transfer; here a patch of the other drawing is tiled, which
needs no network. Both things come from coloured styles, on white, as most ordinary pictures of the corpus.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from paribus.errors import UserError
from paribus.stimuli.cutouts import Cutout, ink_of, paste, pixels, scaled
from paribus.stimuli.pool import Pool, one, retry

SHAPE_SIDE = 0.85
"""The silhouette's longer side as a share of the picture's."""
MOST_SOLID = 0.92
"""A silhouette that fills more of its convex hull is a disc or a rectangle, and could be anything."""
LEAST_INK = 0.2
"""And one that covers less of its box shows too little texture."""
LEAST_SHAPES = 5
"""A group with fewer concepts of telling outline lends no shapes: one flag on a pole would be all flags."""
LEAST_PATCH = 0.2
"""A texture is a square from inside the other drawing, of at least this share of its longer side."""
MOST_TILE = 0.3
"""It is shrunk to this share of the picture's side, so that it repeats over any silhouette."""
LEAST_TEXTURE = 0.05
"""Least mean step, in the channel that steps most, between neighbours of its 8 x 8 thumbnail: neither an even
colour nor the shading of a ball is a texture."""
NEAR_WHITE, MOST_WHITE = 0.2, 0.03
"""At most this share of it may be so near white, or the silhouette would be eaten into."""
CENTRES = 12


class Conflict(NamedTuple):
    """A picture with the shape of one group and the texture of another."""

    image: UInt8[np.ndarray, "S S 3"]
    shape: str
    texture: str
    shape_concept: str
    texture_concept: str


Shapes = dict[str, list[list[int]]]


def shapes_of(pool: Pool) -> Shapes:
    """Group -> concept -> drawings whose outlines say something, of groups with enough such concepts.

    Raises:
        UserError: there is no such group.
    """
    found: Shapes = {}
    for group in pool.groups:
        kept = [[row for row in rows if telling(pool.cutout(row))] for rows in pool.concepts(group)]
        if sum(map(bool, kept)) >= LEAST_SHAPES:
            found[group] = [rows for rows in kept if rows]
    if not found:
        raise UserError("The corpus has too few telling outlines for conflicts: build it with more styles.")
    return found


def conflict(pool: Pool, shapes: Shapes, side: int, rng: np.random.Generator) -> Conflict:
    """A silhouette of one group, filled with texture of another.

    Args:
        pool: what may be shown, coloured styles only.
        shapes: its drawings that lend their outlines; see ``shapes_of``.
        side: of the picture in pixels.
        rng: what is drawn from.
    """
    shape_group = one(rng, list(shapes))
    others = [group for group in pool.groups if group != shape_group]
    shape_row = one(rng, one(rng, shapes[shape_group]))
    texture_group = one(rng, others)
    texture_row, patch = retry(lambda: _texture(pool, texture_group, rng), f"textures of {texture_group}")
    return Conflict(
        filled(pool.cutout(shape_row), patch, side),
        shape_group,
        texture_group,
        pool.concept(shape_row),
        pool.concept(texture_row),
    )


def telling(cutout: Cutout) -> bool:
    """Whether an outline says something: neither a disc, nor a rectangle, nor thin lines."""
    solid = (cutout[..., 3] >= 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return False
    hull = np.zeros_like(solid)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(outlines)), 1)
    return bool(ink_of(cutout) >= LEAST_INK * solid.size and solid.sum() <= MOST_SOLID * hull.sum())


def _texture(
    pool: Pool, group: str, rng: np.random.Generator
) -> tuple[int, Float32[np.ndarray, "p p 3"]] | None:
    row = pool.draw(rng, [group])
    patch = textured(pool.cutout(row), rng)
    return None if patch is None else (row, patch)


def textured(cutout: Cutout, rng: np.random.Generator) -> Float32[np.ndarray, "p p 3"] | None:
    """The liveliest of some squares that lie wholly inside a drawing, or None if none makes a texture."""
    inside = np.pad(cutout[..., 3] > 0.98, 1).astype(np.uint8)
    # Chessboard distance to the outside: a square of side 2d - 1 around the pixel lies inside.
    reach = cv2.distanceTransform(inside, cv2.DIST_C, 3)[1:-1, 1:-1].astype(np.intp)
    least = max(LEAST_PATCH * max(cutout.shape[:2]), 0.6 * (2 * reach.max() - 1))
    centres = np.argwhere(2 * reach - 1 >= least)
    best, most = None, LEAST_TEXTURE
    for row, column in rng.permutation(centres)[:CENTRES].tolist():
        half = reach[row, column] - 1
        square = cutout[row - half : row + half + 1, column - half : column + half + 1, :3]
        liveliness = _liveliness(square)
        white = (square.min(axis=-1) > 1 - NEAR_WHITE).mean()
        if liveliness > most and white <= MOST_WHITE:
            best, most = square, liveliness
    return best


def _liveliness(square: Float32[np.ndarray, "p p 3"]) -> float:
    thumbnail = cv2.resize(square, (8, 8), interpolation=cv2.INTER_AREA)
    steps = [np.abs(np.diff(thumbnail, axis=axis)).max(axis=-1).mean() for axis in (0, 1)]
    return float(np.mean(steps))


def filled(shape: Cutout, patch: Float32[np.ndarray, "p p 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    """The silhouette in the middle of a white picture, tiled with the patch and its mirror images."""
    outline = scaled(shape, SHAPE_SIDE * side / max(shape.shape[:2]))[..., 3:]
    height, width = outline.shape[:2]
    tile = min(patch.shape[0], round(MOST_TILE * side))
    patch = np.asarray(cv2.resize(patch, (tile, tile), interpolation=cv2.INTER_AREA), np.float32)
    repeats = [-(-length // patch.shape[0]) for length in (height, width)]
    rows = [patch[:: (-1) ** k] for k in range(repeats[0])]
    column = np.concatenate(rows)
    tiled = np.concatenate([column[:, :: (-1) ** k] for k in range(repeats[1])], axis=1)[:height, :width]
    canvas = np.ones((side, side, 3), np.float32)
    thing = np.concatenate([tiled * outline, outline], axis=-1)
    paste(canvas, thing, (side - height) // 2, (side - width) // 2)
    return pixels(canvas)
