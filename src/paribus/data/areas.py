"""Shrinking by area averages: the pixels of OpenCV's ``INTER_AREA`` in about half of its time.

Every axis is a sparse matrix times the picture: a row's few weights say how much of each source pixel falls
into a target pixel. OpenCV sums along the rows first, pixel by pixel, each sum waiting for the one before;
here a picture is turned, so that whole rows are added at once. Products and sums are the same float32
numbers in the same order, so the result is the same to the bit. That holds where neither library was built
to fuse products and sums; ``_same`` tries it once a process, and OpenCV is called where it does not hold.
"""

import functools
import threading
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from scipy.sparse import csr_array

LEAST = 5_000
"""Source pixels from which turning a picture pays."""

STRIP = 2**20
"""Numbers turned at a time, 4 MB, so that a large picture needs no more."""

TINY = 1e-3
"""A share of a source pixel that OpenCV passes over."""


class _Room(threading.local):
    """Memory of one thread that is used again: what is asked of the system anew costs more than the sums."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def take(self, name: str, dtype: type, *shape: int) -> NDArray[Any]:
        size = int(np.prod(shape))
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            kept = self._kept[name] = np.empty(size, dtype)
        return kept[:size].reshape(shape)


_room = _Room()


def shrink(image: Any, width: int, height: int) -> Any:
    """``cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)`` of an 8-bit picture ``[H W 3]``.

    Args:
        image: at least as large as what is asked for, along both axes.
        width: in pixels.
        height: in pixels.
    """
    h, w = image.shape[:2]
    whole = w % width == 0 and h % height == 0  # OpenCV has a faster way then, with sums of its own
    if whole or h * w < LEAST or not _same():
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.convertScaleAbs(_averages(image, width, height))


def _averages(image: Any, width: int, height: int) -> Float32[np.ndarray, "{height} {width} 3"]:
    """Before rounding: along rows, then along columns."""
    h, w = image.shape[:2]
    across = weights(w, width)
    narrow = _room.take("narrow", np.float32, h, width, 3)
    step = max(1, STRIP // (3 * w))
    for top in range(0, h, step):
        strip = image[top : top + step]
        rows = len(strip)
        turned = cv2.transpose(strip, _room.take("turned", np.uint8, w, rows, 3))
        exact = _room.take("exact", np.float32, w, rows * 3)
        exact[:] = turned.reshape(w, -1)
        summed = (across @ exact).reshape(width, rows, 3)
        cv2.transpose(summed, narrow[top : top + rows])
    out: Float32[np.ndarray, "H W 3"] = weights(h, height) @ narrow.reshape(h, -1)
    return out.reshape(height, width, 3)


@functools.lru_cache(2048)
def weights(source: int, target: int) -> csr_array:
    """How much of each source pixel falls into each target pixel, ``[target source]``.

    OpenCV's table (``computeResizeAreaTab`` of its resize.cpp); a row adds up to 1 but for rounding.
    """
    scale = 1.0 / (target / source)
    start = np.arange(target) * scale
    end = start + scale
    cell = np.minimum(scale, source - start)
    last = np.minimum(np.floor(end).astype(np.int64), source - 1)
    first = np.minimum(np.ceil(start).astype(np.int64), last)
    head, tail = first - start > TINY, end - last > TINY
    counts = head + (last - first) + tail
    bounds = np.concatenate([[0], np.cumsum(counts)])
    begins = bounds[:-1]
    places = np.repeat(first - head - begins, counts) + np.arange(bounds[-1])
    shares = np.repeat(1.0 / cell, counts)
    shares[begins[head]] = ((first - start) / cell)[head]
    shares[bounds[1:][tail] - 1] = (np.minimum(np.minimum(end - last, 1.0), cell) / cell)[tail]
    table = (shares.astype(np.float32), places.astype(np.int32), bounds.astype(np.int32))
    return csr_array(table, shape=(target, source))


@functools.cache
def _same() -> bool:
    """Whether both ways give the same float32 numbers here, before rounding could hide that they do not."""
    noise = np.random.default_rng(0).integers(0, 256, (149, 131, 3), dtype=np.uint8)
    theirs = cv2.resize(noise.astype(np.float32), (61, 67), interpolation=cv2.INTER_AREA)
    return np.array_equal(_averages(noise, 61, 67), theirs)
