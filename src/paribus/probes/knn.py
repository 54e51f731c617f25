"""The nearest-neighbour probe: DINO's weighted vote, which needs no training and has nothing to choose."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from paribus.errors import UserError

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""DINO's best k, and its temperature."""

BLOCK = 2**25
"""Similarities held at once."""


def knn_predict(
    train_x: Float[np.ndarray, "N D"],
    train_y: Int64[np.ndarray, " N"],
    test_x: Float[np.ndarray, "M D"],
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    device: str = "cpu",
) -> Int64[np.ndarray, " M"]:
    """Classify by the k most cosine-similar training samples, each voting exp(similarity / temperature).

    Follows ``knn_classifier`` of facebookresearch/dino (eval_knn.py; Wu et al. 2018). Ties go to the lower
    class.

    Args:
        train_x: features; their length does not matter.
        train_y: classes, from 0.
        test_x: features of the samples to classify.
        neighbours: k; all training samples vote where there are fewer.
        temperature: how sharply similarity weighs.
        device: where to compute.

    Raises:
        UserError: the training set is empty, or a feature is not finite.
    """
    if not len(train_x):
        raise UserError("The nearest-neighbour probe has no training sample: choose another task or split.")
    keys, y = _unit(train_x, device), torch.from_numpy(train_y).to(device)
    classes, k = int(train_y.max()) + 1, min(neighbours, len(train_x))
    blocks = torch.split(_unit(test_x, device), max(1, BLOCK // len(train_x)))
    voted = [_vote(block @ keys.T, y, classes, k, temperature).argmax(1) for block in blocks]
    return torch.cat(voted).cpu().numpy()


def _unit(x: Float[np.ndarray, "N D"], device: str) -> Float[Tensor, "N D"]:
    """Rows of length one; rows of zeros stay zero."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise UserError("A feature is not finite: the encoder diverged, so train it again at a lower rate.")
    return F.normalize(tensor, dim=1)


def _vote(
    similarity: Float[Tensor, "M N"], y: Int64[Tensor, " N"], classes: int, k: int, temperature: float
) -> Float[Tensor, "M {classes}"]:
    """The weight of each class among the k nearest."""
    nearest, rows = similarity.topk(k, dim=1)
    # Only ratios count, and exp(1 / temperature) overflows float32 at temperatures below 0.012.
    weight = ((nearest - nearest[:, :1]) / temperature).exp()
    return weight.new_zeros(len(similarity), classes).scatter_add_(1, y[rows], weight)
