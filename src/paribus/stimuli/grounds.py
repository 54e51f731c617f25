"""Grounds to lay drawings on: an even colour or a gradient that the drawings can be told from."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32

from paribus.stimuli.cutouts import Canvas, Cutout, mean_colour

CANDIDATES = 4
"""So many pairs of colours are drawn, and the pair taken that is farthest from all that lies on it."""
GRADIENT_SHARE = 0.7


def ground(rng: np.random.Generator, side: int, things: Sequence[Cutout]) -> Canvas:
    """A canvas in one colour or, more often, a linear gradient between two in a random direction.

    Args:
        rng: what is drawn from.
        side: of the canvas in pixels.
        things: what will lie on it.
    """
    pairs = np.stack([_pair(rng) for _ in range(CANDIDATES)])
    shown = np.stack([mean_colour(thing) for thing in things])
    distances = np.linalg.norm(pairs[:, :, None] - shown, axis=-1).min(axis=(1, 2))
    first, second = pairs[distances.argmax()]
    if rng.random() >= GRADIENT_SHARE:
        second = first
    angle = rng.uniform(0, 2 * np.pi)
    places = np.linspace(-1, 1, side)
    along = places[None, :] * np.cos(angle) + places[:, None] * np.sin(angle)
    share = ((along - along.min()) / (along.max() - along.min()))[..., None]
    canvas: Float32[np.ndarray, "H W 3"] = (first + share * (second - first)).astype(np.float32)
    return canvas


def _pair(rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Two colours of nearby hue, neither vivid, nearly black nor nearly white: drawings are vivid."""
    hue = rng.uniform(0, 360) + np.array([0, rng.uniform(-60, 60)])
    saturation, value = rng.uniform(0.1, 0.6, 2), rng.uniform(0.3, 0.95, 2)
    colours = np.stack([hue % 360, saturation, value], axis=-1).astype(np.float32)
    converted: Float[np.ndarray, "2 3"] = cv2.cvtColor(colours[None], cv2.COLOR_HSV2RGB)[0].astype(np.float64)
    return converted
