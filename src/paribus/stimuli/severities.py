"""How strong each corruption is at each severity, as published, and at sizes nobody published.

The numbers are those of ImageNet-C for pictures of 224 pixels (hendrycks/robustness, make_imagenet_c.py) and
of CIFAR-10-C for pictures of 32 (make_cifar_c.py). At these two sides they are exactly the published ones. In
between, a number is interpolated linearly in the logarithm of the side, a length as a share of the side, an
area as a share of its square; beyond them the nearer set holds, so that lengths scale with the side. What
counts pixels is then rounded, to no less than one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

SMALL, LARGE = 32, 224

Number = int | float
Numbers = tuple[Number, ...]


class Published(NamedTuple):
    """The numbers of one corruption, one tuple a severity.

    ``powers`` says of each number whether it is plain (0), a length in pixels (1) or scales as an area (2).
    """

    powers: tuple[int, ...]
    cifar: tuple[Numbers, ...]
    imagenet: tuple[Numbers, ...]


def _plain(cifar: Sequence[Number], imagenet: Sequence[Number], power: int = 0) -> Published:
    """A corruption of one number."""
    return Published((power,), tuple((value,) for value in cifar), tuple((value,) for value in imagenet))


PUBLISHED: dict[str, Published] = {
    # Standard deviation.
    "gaussian_noise": _plain((0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # Photons of full white.
    "shot_noise": _plain((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    # Share of the values replaced.
    "impulse_noise": _plain((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    # Standard deviation, as a share of the value.
    "speckle_noise": _plain((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    # Radius of the disc, and standard deviation of its edge.
    "defocus_blur": Published(
        (1, 0),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # Standard deviation of the blur, how far pixels go, how often.
    "glass_blur": Published(
        (1, 1, 0),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # Length and standard deviation.
    "motion_blur": Published(
        (1, 1),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    # Where the factors stop, and their step.
    "zoom_blur": Published(
        (0, 0),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # Standard deviation.
    "gaussian_blur": _plain((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), power=1),
    # Mean and deviation of the flakes' noise, their size, the least that is a flake, length and deviation of
    # their motion, share of the picture that is not whitened.
    "snow": Published(
        (0, 0, 1, 0, 1, 1, 0),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # Shares of the picture and of the frost.
    "frost": Published(
        (0, 0),
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    # Density, and how fast detail fades.
    "fog": Published(
        (0, 0),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # Added to the value.
    "brightness": _plain((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # Mean and deviation of the drops' noise, its blur, the least that is a drop, strength (of water) or blur
    # (of mud), whether it is mud. A blurred noise is weaker the wider the blur, so its deviation is a length.
    "spatter": Published(
        (0, 1, 1, 0, 0, 0),
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    # Share of each value's distance from the mean that is left.
    "contrast": _plain((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # How far pixels go before that is averaged (which makes it less, the wider the blur: an area), the blur,
    # how far the corners go. Published as shares of 32 and of 244, which should have been 224.
    "elastic_transform": Published(
        (2, 1, 1),
        tuple(
            (32 * far, 32 * wide, 32 * corners)
            for far, wide, corners in (
                (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
            )
        ),
        tuple(
            (244 * far, 244 * wide, 244 * corners)
            for far, wide, corners in (
                (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
            )
        ),
    ),
    # The smaller picture's side as a share.
    "pixelate": _plain((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    # Quality.
    "jpeg_compression": _plain((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    # The saturation's factor and offset.
    "saturate": Published(
        (0, 0),
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}  # fmt: skip
"""Corruption -> its numbers."""


def numbers(name: str, severity: int, side: int) -> Numbers:
    """A corruption's numbers at a severity from 1 to 5, for pictures of this side; see the module's rule."""
    powers, cifar, imagenet = PUBLISHED[name]
    share = min(max(math.log(side / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return tuple(
        (1 - share) * low * (side / SMALL) ** power + share * high * (side / LARGE) ** power
        for power, low, high in zip(powers, cifar[severity - 1], imagenet[severity - 1], strict=True)
    )
