"""Blur, as in ImageNet-C, without ImageMagick."""

import math

import cv2
import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy import ndimage

from paribus.stimuli.severities import Number, Numbers

Picture = Float64[np.ndarray, "H W 3"]


def smoothed(image: Float64[np.ndarray, "H W *C"], sigma: Number) -> Float64[np.ndarray, "H W *C"]:
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


def disc(radius: Number, soft: Number) -> Float64[np.ndarray, "k k"]:
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
    inner = (height - 2 * reach, width - 2 * reach)
    taken = np.arange(height * width)
    for moves in rng.integers(-reach, reach, (rounds, *inner, 2)):
        taken = taken[_copied((height, width), reach, moves[::-1, ::-1])]
    return smoothed(eight.reshape(-1, 3)[taken].reshape(image.shape), sigma)


def _copied(
    shape: tuple[int, int], reach: int, moves: Int64[np.ndarray, "h w 2"]
) -> Int64[np.ndarray, " pixels"]:
    """Whence each pixel comes, if from the last to the first each takes over what then is its move away.

    One pass over 50,000 pixels in Python would take a fifth of a second. A pixel that copies from one further
    on, which has copied already, takes that one's source: such chains are followed to their ends, in steps
    that double.
    """
    height, width = shape
    total = height * width
    rows, columns = np.mgrid[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    here = (rows * width + columns).ravel()
    there = ((rows + moves[..., 1]) * width + columns + moves[..., 0]).ravel()
    copies = np.zeros(total, bool)
    copies[here] = True
    # Nodes below ``total`` are pixels after the pass, the others pixels before it.
    link = np.tile(np.arange(total, 2 * total), 2)
    link[here] = np.where(copies[there] & (there > here), there, there + total)
    while not np.array_equal(further := link[link], link):
        link = further
    sources: Int64[np.ndarray, " pixels"] = link[:total] - total
    return sources


def motion(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Movement in a direction within 45 degrees of the horizontal."""
    length, sigma = strength
    return moving(image, length, sigma, rng.uniform(-45, 45))


def moving(
    image: Float64[np.ndarray, "H W *C"], length: Number, sigma: Number, angle: float
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
    views = sum((zoomed(image, factor) for factor in factors.tolist()), start=image)
    return views / (len(factors) + 1)


def zoomed(image: Float64[np.ndarray, "H W *C"], factor: Number) -> Float64[np.ndarray, "H W *C"]:
    """The middle of a picture, enlarged to its size with linear interpolation (SciPy's ``zoom``)."""
    return _stretched(_stretched(image, factor).swapaxes(0, 1), factor).swapaxes(0, 1)


def _stretched(image: Float64[np.ndarray, "H W *C"], factor: Number) -> Float64[np.ndarray, "H W *C"]:
    """The middle rows of a picture, enlarged to its height; first and last of them would stay in place."""
    height = image.shape[0]
    kept = math.ceil(height / factor)
    large = round(kept * factor)
    places = ((large - height) // 2 + np.arange(height)) * (kept - 1) / (large - 1)
    low = np.minimum(places.astype(np.intp), kept - 2)
    share = (places - low).reshape(-1, *[1] * (image.ndim - 1))
    first = (height - kept) // 2 + low
    stretched: Float64[np.ndarray, "H W *C"] = image[first] * (1 - share) + image[first + 1] * share
    return stretched
