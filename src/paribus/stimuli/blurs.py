"""Blur, as in ImageNet-C, without ImageMagick."""

import math

import cv2
import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy import ndimage

from paribus.stimuli.severities import Numbers

Picture = Float64[np.ndarray, "H W 3"]


def smoothed(image: Float64[np.ndarray, "H W *C"], sigma: float) -> Float64[np.ndarray, "H W *C"]:
    """scikit-image's Gaussian: edges repeated, cut off at four standard deviations."""
    sigmas = (sigma, sigma, 0)[: image.ndim]
    blurred: Float64[np.ndarray, "H W *C"] = ndimage.gaussian_filter(image, sigmas, mode="nearest")
    return blurred


def gaussian(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """A Gaussian."""
    return smoothed(image, strength[0])


def defocus(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """A disc, its edge smoothed a little."""
    kernel = disc(*strength)
    blurred: Picture = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def disc(radius: float, soft: float) -> Float64[np.ndarray, "k k"]:
    """The kernel: up to a radius of 8 on 17 x 17 pixels, larger ones on as many as they need."""
    reach, window = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    places = np.arange(-reach, reach + 1)
    disc = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
    kernel: Float64[np.ndarray, "k k"] = cv2.GaussianBlur(disc / disc.sum(), (window, window), sigmaX=soft)
    return kernel


def glass(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Frosted glass: blurred, pixels taken from near by, blurred again.

    Paper and code speak of swapping pixels; the published code copies instead, because the second half of its
    swap reads what the first half has written. What made ImageNet-C is followed here.
    """
    sigma, reach, rounds = strength[0], max(1, round(strength[1])), max(1, round(strength[2]))
    eight = np.floor(smoothed(image, sigma) * 255 + 1e-9) / 255
    height, width = image.shape[:2]
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    moves = rng.integers(-reach, reach, (rounds, len(rows), len(columns), 2)).tolist()
    taken = list(range(height * width))
    for each in moves:
        for row, line in zip(rows, each, strict=True):
            for column, (dx, dy) in zip(columns, line, strict=True):
                taken[row * width + column] = taken[(row + dy) * width + column + dx]
    shuffled = eight.reshape(-1, 3)[np.array(taken)].reshape(image.shape)
    return smoothed(shuffled, sigma)


def motion(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Movement in a direction within 45 degrees of the horizontal."""
    return moving(image, *strength, angle=rng.uniform(-45, 45))


def moving(
    image: Float64[np.ndarray, "H W *C"], length: float, sigma: float, angle: float
) -> Float64[np.ndarray, "H W *C"]:
    """ImageMagick's motion blur, which trails to one side: half a Gaussian along a line; edges are repeated.

    Args:
        image: the picture.
        length: of the line, in pixels: 2 * length + 1 taps.
        sigma: standard deviation of the taps' weights, in pixels.
        angle: degrees from the horizontal.
    """
    taps = np.arange(2 * max(1, round(length)) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    offsets = [
        np.ceil(taps * part(math.radians(angle)) - 0.5).astype(np.intp) for part in (math.sin, math.cos)
    ]
    reach = int(max(np.abs(each).max() for each in offsets))
    kernel: NDArray[np.float64] = np.zeros((2 * reach + 1, 2 * reach + 1))
    np.add.at(kernel, (reach + offsets[0], reach + offsets[1]), weights / weights.sum())
    blurred: Float64[np.ndarray, "H W *C"] = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return blurred


def zoom(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """The mean of the picture and of ever closer views of its middle."""
    factors = np.arange(1, *strength)
    return (image + sum(zoomed(image, factor) for factor in factors)) / (len(factors) + 1)


def zoomed(image: Float64[np.ndarray, "H W *C"], factor: float) -> Float64[np.ndarray, "H W *C"]:
    """The middle of a picture, enlarged to its size with linear interpolation."""
    sides = image.shape[:2]
    kept = [math.ceil(side / factor) for side in sides]
    top, left = ((side - inner) // 2 for side, inner in zip(sides, kept, strict=True))
    middle = image[top : top + kept[0], left : left + kept[1]]
    large = ndimage.zoom(middle, (factor, factor, 1)[: image.ndim], order=1)
    top, left = ((outer - side) // 2 for outer, side in zip(large.shape, sides, strict=False))
    enlarged: Float64[np.ndarray, "H W *C"] = large[top : top + sides[0], left : left + sides[1]]
    return enlarged
