"""Dense probes on patch tokens: which patch shows what, and which patch of another picture shows the same.

Segmentation is a linear probe on patches, each labelled by what most of its pixels show; its logits are
interpolated to pixels (the linear protocol of DINOv2, Oquab et al. 2024). Correspondence takes no training:
the place in the second picture whose feature is most cosine-similar (as in Amir et al. 2021, SPair's PCK).
An encoder's preparation may cut a picture's margins; ``Window`` says which part of it the patches cover.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from paribus.errors import UserError

ENLARGED = 4
"""Places along a side of a patch between which a match is sought."""


class Window(NamedTuple):
    """The part of a square picture that patches cover, in shares of its side."""

    low: float
    high: float


def grid_of(patches: int) -> int:
    """Patches along a side.

    Raises:
        UserError: they are no square.
    """
    side: int = round(patches**0.5)
    if side * side != patches:
        raise UserError(f"{patches} patches are no square grid: dense probes need one.")
    return side


def patch_labels(masks: UInt8[np.ndarray, "N H W"], grid: int, window: Window) -> Int64[np.ndarray, "N P"]:
    """What most pixels of each patch show; ties go to the lower label."""
    count, height, width = masks.shape
    down, across = _inside(height, window), _inside(width, window)
    rows = _patch_of(down, height, grid, window)[:, None] * grid + _patch_of(across, width, grid, window)
    classes = int(masks.max()) + 1
    seen = masks[:, down][:, :, across].reshape(count, -1).astype(np.int64)
    cells = (np.arange(count)[:, None] * grid * grid + rows.reshape(1, -1)) * classes + seen
    votes = np.bincount(cells.ravel(), minlength=count * grid * grid * classes)
    found: Int64[np.ndarray, "N P"] = votes.reshape(count, grid * grid, classes).argmax(axis=2)
    empty = votes.reshape(count, grid * grid, classes)[0].sum(axis=1) == 0
    if empty.any():  # patches smaller than a pixel take the one that they lie in
        middles = window.low + (np.arange(grid) + 0.5) / grid * (window.high - window.low)
        y, x = (np.clip((middles * side).astype(np.int64), 0, side - 1) for side in (height, width))
        found[:, empty] = masks[:, y][:, :, x].reshape(count, -1)[:, empty]
    return found


def confusions(
    logits: Float[Tensor, "N P C"], masks: UInt8[np.ndarray, "N H W"], window: Window
) -> Int64[np.ndarray, "N C C"]:
    """Pixels of each picture by truth and answer; logits are interpolated to pixels, those not seen left out.

    Args:
        logits: of patches, row by row.
        masks: labels of pixels, below C.
        window: what the patches cover.
    """
    count, patches, classes = logits.shape
    grid, (height, width) = grid_of(patches), masks.shape[1:]
    down, across = _inside(height, window), _inside(width, window)
    maps = logits.transpose(1, 2).reshape(count, classes, grid, grid).float()
    y, x = (_shares(some, side, window) * 2 - 1 for some, side in ((down, height), (across, width)))
    places = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1)).to(maps)
    spread = places.expand(count, -1, -1, -1)
    pixels = F.grid_sample(maps, spread, mode="bilinear", padding_mode="border", align_corners=False)
    said = pixels.argmax(dim=1).cpu().numpy().reshape(count, -1)
    true = masks[:, down][:, :, across].reshape(count, -1).astype(np.int64)
    cells = (np.arange(count)[:, None] * classes + true) * classes + said
    return np.bincount(cells.ravel(), minlength=count * classes**2).reshape(count, classes, classes)


def match(
    source: Float[Tensor, "N P D"],
    target: Float[Tensor, "N P D"],
    points: Float32[np.ndarray, "N K 2"],
    window: Window,
) -> Float32[np.ndarray, "N K 2"]:
    """Where in the target each point of the source is found, in shares of the picture's side (x, y).

    Both feature maps are read with bilinear interpolation, the target four times as finely as it has patches.

    Args:
        source: patches, row by row.
        target: of the other pictures.
        points: in shares of the picture's side.
        window: what the patches cover.
    """
    grid = grid_of(source.shape[1])
    maps = [each.transpose(1, 2).reshape(*each.shape[::2], grid, grid).float() for each in (source, target)]
    extent = window.high - window.low
    inside = torch.from_numpy((points - window.low) / extent * 2 - 1).to(maps[0])
    wanted = F.grid_sample(maps[0], inside[:, :, None], padding_mode="border", align_corners=False)[..., 0]
    fine = F.interpolate(maps[1], scale_factor=ENLARGED, mode="bilinear", align_corners=False)
    likeness = F.normalize(wanted, dim=1).transpose(1, 2) @ F.normalize(fine.flatten(2), dim=1)
    best = likeness.argmax(dim=2).cpu().numpy()
    side = grid * ENLARGED
    found = np.stack([best % side, best // side], axis=-1).astype(np.float32)
    shares: Float32[np.ndarray, "N K 2"] = np.float32(window.low) + np.float32(extent / side) * (
        found + np.float32(0.5)
    )
    return shares


def _centres(side: int) -> Float[np.ndarray, " side"]:
    """Middles of pixels, in shares of the side."""
    return (np.arange(side) + 0.5) / side


def _inside(side: int, window: Window) -> Int64[np.ndarray, " s"]:
    """Pixels of a side that the window covers."""
    centres = _centres(side)
    return np.flatnonzero((centres >= window.low) & (centres < window.high))


def _shares(pixels: Int64[np.ndarray, " s"], side: int, window: Window) -> Float[np.ndarray, " s"]:
    """Middles of pixels, in shares of the window."""
    centres = _centres(side)[pixels]
    shares: Float[np.ndarray, " s"] = (centres - window.low) / (window.high - window.low)
    return shares


def _patch_of(
    pixels: Int64[np.ndarray, " s"], side: int, grid: int, window: Window
) -> Int64[np.ndarray, " s"]:
    return np.minimum((_shares(pixels, side, window) * grid).astype(np.int64), grid - 1)
