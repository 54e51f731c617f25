"""Stochastic depth whose draws belong to the sample and the step, so that no chunking changes them."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paribus.rng import stream, uniforms
from paribus.types import Batch


def keep_residuals(
    batch: Batch, name: str, views: int, depth: int, rate: float, like: Tensor
) -> Float[Tensor, "depth rows 2"] | None:
    """Residual scales per block, view and branch (Huang et al. 2016); None if nothing is ever dropped.

    Args:
        batch: whose samples and step key the draws.
        name: of the view.
        views: crops a sample.
        depth: number of blocks; the chance to be dropped rises linearly over them, to ``rate``.
        rate: the last block's chance.
        like: gives device and dtype.
    """
    if not rate:
        return None
    draws = uniforms(stream(batch.seed, "drop-path", name), batch.ids, views * depth * 2)
    chance = draws.reshape(len(batch) * views, depth, 2).transpose(1, 0, 2)
    rates = np.linspace(0.0, rate, depth)[:, None, None]
    keep = (chance >= rates) / (1.0 - rates)
    return torch.from_numpy(keep).to(like.device, like.dtype)
