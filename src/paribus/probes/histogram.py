"""The colour-histogram baseline: an "encoder" that sees which colours there are and nothing else."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, UInt8

LEVELS = 4
"""Bins per channel, each 64 grey levels wide."""

WIDTH = LEVELS**3


def colour_histogram(images: Iterable[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "N 64"]:
    """The square root of each image's RGB histogram, 4 x 4 x 4 bins, red slowest.

    Roots of shares have unit length, and their Euclidean distance is the Hellinger distance, so linear and
    cosine probes compare distributions properly (Arandjelovic and Zisserman 2012).

    Args:
        images: 8-bit pictures of any sizes, or one array ``[N H W 3]``.
    """
    rows = [_counts(image) / (image.shape[0] * image.shape[1]) for image in images]
    shares = np.array(rows, np.float32).reshape(-1, WIDTH)
    return np.sqrt(shares)


def _counts(image: UInt8[np.ndarray, "_ _ 3"]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pixels per bin."""
    level = image >> 6
    code = level[..., 0] * np.uint8(16) + level[..., 1] * np.uint8(4) + level[..., 2]
    return np.bincount(code.ravel(), minlength=WIDTH)
