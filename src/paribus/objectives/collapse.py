"""Whether encodings still tell samples apart: the two numbers by which a collapse is known."""

import torch
from jaxtyping import Float
from torch import Tensor

COLLAPSED = 0.01
"""A spread below which all samples have one vector: their cosines are above 0.9999 on average."""


@torch.no_grad()
def spread(units: Float[Tensor, "B *views D"]) -> Float[Tensor, ""]:
    """How far unit vectors lie apart over the batch, in [0, 1]; the mean over views.

    The square root of their total variance, which is 1 less the squared length of their mean: 0 if all are
    one vector, 1 if they point everywhere alike (Chen and He 2021, "Exploring Simple Siamese Representation
    Learning", figure 2, times the square root of the width).
    """
    return (1.0 - units.mean(dim=0).square().sum(dim=-1)).clamp_min(0.0).sqrt().mean()


def entropy(p: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """Of each distribution, in nats."""
    return -(p * p.clamp_min(1e-12).log()).sum(dim=-1)
