"""Pairs of pictures of one drawing, moved and repainted, with points whose new places are known.

Points are (x, y) in pixels from the frame's top left corner: the middle of the first pixel is (0.5, 0.5), and
a point lies in the patch ``floor(x / patch)``.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from paribus.stimuli.cutouts import Canvas, Cutout, pixels
from paribus.stimuli.grounds import ground
from paribus.stimuli.pool import Pool, retry

POINTS = 16
MOST_TURN = 30.0
"""Degrees."""
SCALES = (0.8, 1.25)
SIDES = (0.55, 0.8)
"""The drawing's longer side in the source, as a share of the picture's."""
SHIFT = 0.12
"""Each centre lies at most this share of the side from the middle of the frame, in x and in y."""
MARGIN = 1.0
"""Points stay so many pixels inside the frame."""
APART = 1 / 32
"""Points are at least this share of the side apart."""
GAIN, OFFSET = 0.2, 0.08
"""The target's channels are scaled by 1 +- GAIN, all by one factor more, and moved by +- OFFSET."""
FINER = 2
"""Pictures are rendered so many times finer and then averaged, so that shrinking does not alias."""

Similarity = Float[np.ndarray, "2 3"]


class Pair(NamedTuple):
    """A source, a target, and where each point of the source is in the target."""

    source: UInt8[np.ndarray, "S S 3"]
    target: UInt8[np.ndarray, "S S 3"]
    points: Float32[np.ndarray, "P 2"]
    matches: Float32[np.ndarray, "P 2"]
    concept: str


def pair(pool: Pool, side: int, rng: np.random.Generator) -> Pair:
    """One drawing twice: turned, scaled, shifted, on another ground and in other light.

    Args:
        pool: what may be shown.
        side: of the pictures in pixels.
        rng: what is drawn from.
    """
    row, found = retry(lambda: _matched(pool, side, rng), "points that correspond")
    cutout, first, second, points = found
    source = ground(rng, side, [cutout])
    target = ground(rng, side, [cutout])
    return Pair(
        pixels(rendered(source, cutout, first)),
        pixels(relit(rendered(target, cutout, second), rng)),
        moved(first, points).astype(np.float32),
        moved(second, points).astype(np.float32),
        pool.concept(row),
    )


def _matched(
    pool: Pool, side: int, rng: np.random.Generator
) -> tuple[int, tuple[Cutout, Similarity, Similarity, Float[np.ndarray, "P 2"]]] | None:
    """A drawing, where it stands in both pictures, and points on it that are seen in both; or None."""
    row = pool.draw(rng)
    cutout = pool.cutout(row)
    height, width = cutout.shape[:2]
    factor = rng.uniform(*SIDES) * side / max(height, width)
    turn, growth = (
        rng.uniform(-MOST_TURN, MOST_TURN),
        math.exp(rng.uniform(math.log(SCALES[0]), math.log(SCALES[1]))),
    )
    centres = side / 2 + rng.uniform(-SHIFT, SHIFT, (2, 2)) * side
    first = similarity((width / 2, height / 2), factor, 0.0, centres[0])
    second = similarity((width / 2, height / 2), factor * growth, turn, centres[1])
    points = _points(cutout, first, second, side, rng)
    return None if points is None else (row, (cutout, first, second, points))


def similarity(
    middle: tuple[float, float], factor: float, degrees: float, centre: Float[np.ndarray, "2"]
) -> Similarity:
    """The matrix that turns and scales about ``middle`` and then moves that to ``centre``."""
    cosine, sine = (factor * f(math.radians(degrees)) for f in (math.cos, math.sin))
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([linear, (centre - linear @ np.array(middle))[:, None]], axis=1)


def moved(matrix: Similarity, points: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
    """Where a similarity takes points."""
    places: Float[np.ndarray, "P 2"] = points @ matrix[:, :2].T + matrix[:, 2]
    return places


def _points(
    cutout: Cutout, first: Similarity, second: Similarity, side: int, rng: np.random.Generator
) -> Float[np.ndarray, "P 2"] | None:
    """Middles of solid pixels, in the drawing's coordinates, that keep apart and inside both frames."""
    solid = np.pad(cutout[..., 3] > 0.9, 1).astype(np.uint8)
    core = cv2.erode(solid, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    candidates = np.argwhere(core)[:, ::-1] + 0.5
    seen = np.ones(len(candidates), bool)
    for matrix in (first, second):
        places = moved(matrix, candidates)
        seen &= ((places >= MARGIN) & (places <= side - MARGIN)).all(axis=1)
    chosen: list[Float[np.ndarray, "2"]] = []
    least = APART * side / math.hypot(*first[0, :2])
    for point in rng.permutation(candidates[seen]):
        if all(math.dist(point, other) >= least for other in chosen):
            chosen.append(point)
        if len(chosen) == POINTS:
            return np.stack(chosen)
    return None


def rendered(canvas: Canvas, cutout: Cutout, matrix: Similarity) -> Canvas:
    """The drawing on a canvas, where the matrix puts it."""
    side = canvas.shape[0]
    # OpenCV counts from the middle of the first pixel: p' + 0.5 = FINER * (A (p + 0.5) + b).
    linear = FINER * matrix[:, :2]
    shift = FINER * matrix[:, 2] + linear @ np.full(2, 0.5) - 0.5
    fine = cv2.warpAffine(
        cutout,
        np.concatenate([linear, shift[:, None]], axis=1),
        (FINER * side, FINER * side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    layer = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    shown: Canvas = canvas * (1 - layer[..., 3:]) + layer[..., :3]
    return shown


def relit(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    """Another light: each channel, and all together, brighter or darker."""
    gains = rng.uniform(1 - GAIN, 1 + GAIN) * rng.uniform(1 - GAIN, 1 + GAIN, 3)
    lit: Canvas = (canvas * gains + rng.uniform(-OFFSET, OFFSET)).astype(np.float32)
    return lit
