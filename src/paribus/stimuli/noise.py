"""Noise, as in ImageNet-C: each value of each pixel by itself."""

import numpy as np
from jaxtyping import Float64

from paribus.stimuli.severities import Numbers

Picture = Float64[np.ndarray, "H W 3"]


def gaussian(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Low light: normal noise."""
    return image + rng.normal(0, strength[0], image.shape)


def shot(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Few photons: Poisson noise."""
    return rng.poisson(image * strength[0]) / strength[0]


def impulse(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Bit errors: values put to black or white, as often the one as the other (scikit-image's ``s&p``)."""
    hit = rng.random(image.shape) <= strength[0]
    white = rng.random(image.shape) <= 0.5
    return np.where(hit, white.astype(np.float64), image)


def speckle(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Normal noise in proportion to the value."""
    return image + image * rng.normal(0, strength[0], image.shape)
