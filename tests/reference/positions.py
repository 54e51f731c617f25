"""Position embeddings for another grid: bicubic convolution (Keys 1981, a = -0.75), in float64 loops.

This is PyTorch's ``F.interpolate(size=..., mode="bicubic", align_corners=False)``, the size-based form that
transformers' ViTModel uses too. facebookresearch/dino passes ``scale_factor = (size + 0.1) / grid`` instead,
a guard against float rounding (issue 8 there), which shrinks the sampling step by 0.1 in ``size``;
``dino_scale`` reproduces that, so that a test can bound what the difference is.
"""

import math

import numpy as np


def resize(square, height, width, dino_scale=False):
    """``square`` is ``[grid, grid, D]``; returns ``[height, width, D]``."""
    grid = len(square)
    guard = 0.1 if dino_scale else 0.0
    rows = [_resample_weights(grid, y, grid / (height + guard)) for y in range(height)]
    columns = [_resample_weights(grid, x, grid / (width + guard)) for x in range(width)]
    out = np.zeros((height, width, square.shape[-1]))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            for i, a in row:
                for j, b in column:
                    out[y, x] += a * b * square[i, j]
    return out


def _resample_weights(grid, place, step):
    """Four taps around the centre of output pixel ``place``, edges repeated."""
    centre = (place + 0.5) * step - 0.5
    first = math.floor(centre)
    return [(min(max(first + k, 0), grid - 1), _cubic(centre - first - k)) for k in range(-1, 3)]


def _cubic(distance, a=-0.75):
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0
