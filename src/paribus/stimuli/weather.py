"""Weather, as in ImageNet-C, but for the frost, which is drawn by rule."""

import math

import cv2
import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from paribus.stimuli.blurs import moving, smoothed, zoomed
from paribus.stimuli.severities import Number, Numbers

Picture = Float64[np.ndarray, "H W 3"]
Plane = Float64[np.ndarray, "H W"]

_LUMA = np.array([0.299, 0.587, 0.114])
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
FOLDS = 5
"""So many ridges from the lowest to the highest place of a surface."""
ICE_DARK, ICE_LIGHT = np.array([0.16, 0.24, 0.34]), np.array([0.86, 0.93, 1.0])


def snow(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Flakes in motion, and the same upside down, over a whitened picture."""
    mean, deviation, size, least, length, sigma, kept = strength
    flakes = zoomed(rng.normal(mean, deviation, image.shape[:2]), max(size, 1.0))
    flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    flakes = np.rint(moving(flakes, length, sigma, rng.uniform(-135, -45)) * 255) / 255
    pale = np.maximum(image, (image @ _LUMA)[..., None] * 1.5 + 0.5)
    snowed: Picture = kept * image + (1 - kept) * pale + (flakes + np.rot90(flakes, 2))[..., None]
    return snowed


def fog(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """A fractal mist, scaled so that the brightest value stays what it was."""
    density, decay = strength
    brightest = image.max()
    mist = _plasma_over(image, decay, rng)
    fogged: Picture = (image + density * mist[..., None]) * brightest / (brightest + density)
    return fogged


def _plasma_over(image: Picture, decay: Number, rng: np.random.Generator) -> Plane:
    height, width = image.shape[:2]
    return plasma(2 ** math.ceil(math.log2(max(height, width))), decay, rng)[:height, :width]


def plasma(side: int, decay: Number, rng: np.random.Generator) -> Float64[np.ndarray, "n n"]:
    """A fractal surface in [0, 1] that wraps around, by diamonds and squares (Fournier et al. 1982).

    Args:
        side: a power of two.
        decay: the greater, the smoother.
        rng: what is drawn from.
    """
    surface, step, rough = np.zeros((side, side)), side, 100.0

    def bent(total: NDArray[np.float64]) -> NDArray[np.float64]:
        # The published code multiplies by the roughness twice over.
        return total / 4 + rough * rng.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corners = surface[::step, ::step]
        right, below = np.roll(corners, -1, axis=1), np.roll(corners, -1, axis=0)
        middles = bent(corners + right + below + np.roll(right, -1, axis=0))
        surface[half::step, half::step] = middles
        surface[::step, half::step] = bent(middles + np.roll(middles, 1, axis=0) + corners + right)
        surface[half::step, ::step] = bent(middles + np.roll(middles, 1, axis=1) + corners + below)
        step, rough = half, rough / decay
    surface -= surface.min()
    scaled: Float64[np.ndarray, "n n"] = surface / surface.max()
    return scaled


def frost(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Ice over a dimmed picture. The mixing is published; the ice is drawn, not photographed."""
    return strength[0] * image + strength[1] * ice(image, rng)


def ice(image: Picture, rng: np.random.Generator) -> Picture:
    """Bluish frost: needles along the ridges of a fractal surface, in patches, on dark glass."""
    patches = _plasma_over(image, 2.5, rng)
    ridges = np.zeros(image.shape[:2])
    first, side = rng.uniform(0, 180), min(image.shape[:2])
    for turn in (0, 60, 120):
        # Ice grows along three axes.
        crest = 1 - np.abs((FOLDS * _plasma_over(image, 1.8, rng)) % 2 - 1)
        ridges = np.maximum(ridges, moving(crest**3, 0.02 * side, 0.02 * side, first + turn))
    rime = (0.3 + 0.7 * patches) * ridges / ridges.max()
    covered: Picture = ICE_DARK + rime[..., None] * (ICE_LIGHT - ICE_DARK)
    return covered


def spatter(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Drops of water, or from the fourth severity on, of mud."""
    mean, deviation, blur, least, last, muddy = strength
    drops = smoothed(rng.normal(mean, deviation, image.shape[:2]), blur)
    drops[drops < least] = 0
    if not muddy:
        wet: Picture = image + last * _wet(drops)[..., None] * WATER
        return wet
    cover = smoothed((drops > least).astype(np.float64), last)
    cover[cover < 0.8] = 0
    muddied: Picture = image * (1 - cover[..., None]) + cover[..., None] * MUD
    return muddied


def _wet(drops: Plane) -> Plane:
    """How bright each drop is: lit from one side, and darker towards its rim."""
    liquid = np.clip(drops * 255, 0, 255).astype(np.uint8)
    rim = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    height = cv2.equalizeHist(cv2.blur(np.minimum(rim, 20), (3, 3)).astype(np.uint8))
    lit = cv2.filter2D(height, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    shine: Plane = liquid * cv2.blur(lit, (3, 3)).astype(np.float64)
    return shine / max(float(shine.max()), 1.0)
