"""The nineteen corruptions of ImageNet-C (Hendrycks and Dietterich 2019), generated here, never downloaded.

Fifteen are standard, in four families; four are extra. What is added, blurred and moved, and how strongly,
is published (see ``severities``); two members differ from the published code. ``motion_blur`` (and snow's) is
the same one-sided kernel without ImageMagick. ``frost`` mixes in ice that is drawn by rule, because the
original's photographs cannot be generated: it is ours, and its results compare with no published ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8

from paribus.errors import UserError
from paribus.rng import numpy_rng
from paribus.stimuli import blurs, digital, noise, weather
from paribus.stimuli.severities import Numbers, numbers

Family = Literal["noise", "blur", "weather", "digital"]
Picture = Float64[np.ndarray, "H W 3"]
SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 16


@dataclass(frozen=True)
class Corruption:
    """What is done to a picture in [0, 1], of what family it is, and whether it is one of the extra four."""

    family: Family
    apply: Callable[[Picture, Numbers, np.random.Generator], Picture]
    extra: bool = False


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": Corruption("noise", noise.gaussian),
        "shot_noise": Corruption("noise", noise.shot),
        "impulse_noise": Corruption("noise", noise.impulse),
        "defocus_blur": Corruption("blur", blurs.defocus),
        "glass_blur": Corruption("blur", blurs.glass),
        "motion_blur": Corruption("blur", blurs.motion),
        "zoom_blur": Corruption("blur", blurs.zoom),
        "snow": Corruption("weather", weather.snow),
        "frost": Corruption("weather", weather.frost),
        "fog": Corruption("weather", weather.fog),
        "brightness": Corruption("weather", digital.brightness),
        "contrast": Corruption("digital", digital.contrast),
        "elastic_transform": Corruption("digital", digital.elastic),
        "pixelate": Corruption("digital", digital.pixelate),
        "jpeg_compression": Corruption("digital", digital.jpeg),
        "speckle_noise": Corruption("noise", noise.speckle, extra=True),
        "gaussian_blur": Corruption("blur", blurs.gaussian, extra=True),
        "spatter": Corruption("weather", weather.spatter, extra=True),
        "saturate": Corruption("digital", digital.saturate, extra=True),
    }
)
"""In the published order: fifteen standard ones, then four extra."""

STANDARD = tuple(name for name, corruption in CORRUPTIONS.items() if not corruption.extra)


def corrupt(
    image: UInt8[np.ndarray, "H W 3"], name: str, severity: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """A corrupted copy of a picture; values are cut to whole numbers, as published.

    Args:
        image: the picture; its shorter side decides how long a length is.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        rng: what is drawn from; see ``corruption_rng``.

    Raises:
        UserError: there is no such corruption or severity, or the picture is smaller than 16 pixels.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"Unknown corruption {name!r}: choose among {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise UserError(f"There is no severity {severity}: choose a whole number from 1 to 5.")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise UserError(
            f"A picture of {image.shape[0]} x {image.shape[1]} pixels is too small to corrupt: use pictures "
            f"of {LEAST_SIDE} or more a side."
        )
    strength = numbers(name, severity, min(image.shape[:2]))
    changed = CORRUPTIONS[name].apply(image / 255.0, strength, rng)
    # A hair is added, so that a value which nothing changed does not fall by one on its way through floats.
    cut: UInt8[np.ndarray, "H W 3"] = (np.clip(changed, 0, 1) * 255 + 1e-4).astype(np.uint8)
    return cut


def corruption_rng(seed: int, key: str, name: str, severity: int) -> np.random.Generator:
    """The generator of one picture's corruption, so that all encoders see the same pixels."""
    return numpy_rng(seed, "corruption", name, severity, key)
