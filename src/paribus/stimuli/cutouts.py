"""Drawings cut out of the corpus's pictures, and laid on other grounds.

A *cutout* is ``float32`` RGBA with premultiplied alpha, all in [0, 1], cropped to its ink: ``[h w 4]``. The
corpus keeps pictures, not layers, so alpha is told from the known even background (blue-screen matting, Smith
and Blinn 1996). With one ink on one background that is exact. A drawing with colours of its own stands on
white; there the outside is what is white and reaches the frame, and only the outermost pixels are soft.
White that is enclosed counts as paint: eyes, paper and teeth are far more common than the hole in a ring.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from paribus.data.art import read_pins
from paribus.data.draw import COLOURS, RGB

Cutout = Float32[np.ndarray, "_ _ 4"]
Canvas = Float32[np.ndarray, "_ _ 3"]

NEAR_WHITE = 10
"""A pixel that differs less from white, in its channel that differs most, may be background."""
LEAST_ALPHA = 0.04
"""Fainter pixels at the margins are cropped away."""
_SOFT = np.ones((3, 3), np.uint8)


@functools.cache
def one_ink_styles() -> frozenset[str]:
    """The styles that are drawn in one colour on a keyed background."""
    return frozenset(package.style for package in read_pins() if package.one_colour)


def cut(image: UInt8[np.ndarray, "S S 3"], *, ink: str | None, background: str) -> Cutout:
    """The drawing in a picture of the corpus.

    Args:
        image: the picture.
        ink: the colour term it is drawn in, or None if it has colours of its own.
        background: the colour term that it stands on.
    """
    ground = np.array(COLOURS[background], np.float32)
    layer = _of_one_ink(image, COLOURS[ink], ground) if ink else _of_many(image, ground)
    return _cropped(layer)


def _of_one_ink(
    image: UInt8[np.ndarray, "S S 3"], ink: RGB, ground: Float32[np.ndarray, "3"]
) -> Float32[np.ndarray, "S S 4"]:
    """Alpha is how far each pixel lies on the way from background to ink."""
    way = np.array(ink, np.float32) - ground
    alpha = np.clip((image.astype(np.float32) - ground) @ way / (way @ way), 0, 1)
    colour = np.array(ink, np.float32) / 255
    layer: Float32[np.ndarray, "S S 4"] = alpha[..., None] * np.append(colour, np.float32(1))
    return layer


def _of_many(
    image: UInt8[np.ndarray, "S S 3"], ground: Float32[np.ndarray, "3"]
) -> Float32[np.ndarray, "S S 4"]:
    """Alpha is one inside; next to the outside, a pixel's contrast as a share of its neighbours' greatest."""
    pixels = image.astype(np.float32)
    contrast: Float32[np.ndarray, "S S"] = np.abs(pixels - ground).max(axis=-1)
    outside = outer(contrast < NEAR_WHITE)
    edge = cv2.dilate(outside.astype(np.uint8), _SOFT).astype(bool)
    share = contrast / np.maximum(cv2.dilate(contrast, _SOFT), 1)
    alpha = np.where(outside, 0, np.where(edge, share, 1)).astype(np.float32)[..., None]
    # Premultiplied, so that the drawing laid on its own background is the picture again.
    colour = np.clip(pixels - (1 - alpha) * ground, 0, 255 * alpha) / 255
    return np.concatenate([colour, alpha], axis=-1, dtype=np.float32)


def outer(empty: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Those of the empty pixels that are connected, side to side, with the outside of the picture."""
    padded = np.pad(empty, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    reached: Bool[np.ndarray, "H W"] = (labels == labels[0, 0])[1:-1, 1:-1]
    return reached


def _cropped(layer: Float32[np.ndarray, "S S 4"]) -> Cutout:
    seen = layer[..., 3] > LEAST_ALPHA
    if not seen.any():
        return layer
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return layer[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def scaled(cutout: Cutout, factor: float) -> Cutout:
    """A cutout at another size, at least one pixel."""
    height, width = (max(1, round(side * factor)) for side in cutout.shape[:2])
    if (height, width) == cutout.shape[:2]:
        return cutout
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(cutout, (width, height), interpolation=how), np.float32)


def paste(canvas: Canvas, cutout: Cutout, top: int, left: int) -> Bool[np.ndarray, "H W"]:
    """Lay a cutout over a canvas, in place; where it is now what is seen (alpha of a half or more)."""
    height, width = cutout.shape[:2]
    window = canvas[top : top + height, left : left + width]
    window *= 1 - cutout[..., 3:]
    window += cutout[..., :3]
    seen = np.zeros(canvas.shape[:2], bool)
    seen[top : top + height, left : left + width] = cutout[..., 3] >= 0.5
    return seen


def ink_of(cutout: Cutout) -> float:
    """How many pixels a cutout covers."""
    return float(cutout[..., 3].sum())


def mean_colour(cutout: Cutout) -> Float[np.ndarray, "3"]:
    """The mean colour of what a cutout shows."""
    mean: Float[np.ndarray, "3"] = cutout[..., :3].sum(axis=(0, 1)) / max(ink_of(cutout), 1e-6)
    return mean


def pixels(canvas: Canvas) -> UInt8[np.ndarray, "H W 3"]:
    """A canvas as an 8-bit picture."""
    rounded: UInt8[np.ndarray, "H W 3"] = np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)
    return rounded
