"""Losses over all pairs of a batch, whose matrix of logits is never held whole.

Rows go through tiles of ``TILE``; each tile's logits are made, reduced and dropped, and made again for the
gradient (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Memory grows with
``TILE * batch``, and value and gradients are those of the whole matrix.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE = 1024
"""Rows of logits that are held at once: 1024 x 32,768 floats are 128 MB."""


def tiled(
    function: Callable[..., Tensor], rows: Float[Tensor, " B *rest"], *others: Tensor, tile: int = TILE
) -> Float[Tensor, " results *out"]:
    """``function(some rows, start, *others)`` for all rows, joined; what it makes inside is not kept.

    Args:
        function: gives one result a row, or one for all it is given; ``start`` is the first row's place.
        rows: what is cut.
        others: handed over whole.
        tile: rows at a time.
    """
    if len(rows) <= tile:
        return function(rows, 0, *others)
    parts = [
        checkpoint(
            function,
            rows[start : start + tile],
            start,
            *others,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, len(rows), tile)
    ]
    return torch.cat(parts)


def _surprise(a: Float[Tensor, "R D"], start: int, b: Float[Tensor, "B D"], scale: Tensor) -> Tensor:
    """Of each row: -log softmax of its own place among all, ``[R]``."""
    logits = scale * a @ b.T
    own = torch.arange(start, start + len(a), device=a.device)
    return F.cross_entropy(logits, own, reduction="none")


def info_nce(
    image: Float[Tensor, "B D"], text: Float[Tensor, "B D"], scale: Float[Tensor, ""], tile: int = TILE
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over cosine logits times ``scale``; inputs must have unit length.

    Radford et al. 2021, figure 3; open_clip's ``ClipLoss``.
    """
    if len(image) <= tile:
        logits = scale * image @ text.T
        own = torch.arange(len(image), device=image.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    forward = tiled(_surprise, image, text, scale, tile=tile)
    backward = tiled(_surprise, text, image, scale, tile=tile)
    return (forward.mean() + backward.mean()) / 2


def _doubts(
    a: Float[Tensor, "R D"], start: int, b: Float[Tensor, "B D"], scale: Tensor, bias: Tensor
) -> Tensor:
    """Of each row: -log sigmoid(+-logit) summed over all, ``[R]``."""
    logits = scale * a @ b.T + bias
    place = torch.arange(len(a), device=a.device)
    own = logits[place, start + place]
    # The matching pair's sign is the other one: softplus(-x) = softplus(x) - x.
    return F.softplus(logits).sum(dim=1) - own


def sigmoid_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    tile: int = TILE,
) -> Float[Tensor, ""]:
    """Every pair as a yes-or-no question, summed over pairs and divided by the batch.

    Zhai et al. 2023, algorithm 1; open_clip's ``SigLipLoss``.
    """
    return tiled(_doubts, image, text, scale, bias, tile=tile).sum() / len(image)


def _twin(a: Float[Tensor, "R D"], start: int, b: Float[Tensor, "N D"], temperature: Tensor) -> Tensor:
    """Of each of 2B rows: -log softmax of its twin (B places on), itself left out, ``[R]``."""
    logits = a @ b.T / temperature
    place = torch.arange(start, start + len(a), device=a.device)
    itself = torch.zeros_like(logits, dtype=torch.bool)
    itself[place - start, place] = True
    twin = (place + len(b) // 2) % len(b)
    return F.cross_entropy(logits.masked_fill(itself, float("-inf")), twin, reduction="none")


def nt_xent(views: Float[Tensor, "B 2 D"], temperature: float, tile: int = TILE) -> Float[Tensor, ""]:
    """SimCLR's loss: among all other views of the batch, find the same picture's; inputs have unit length.

    Chen et al. 2020, equation 1.
    """
    flat = views.transpose(0, 1).flatten(0, 1)
    return tiled(_twin, flat, flat, flat.new_tensor(temperature), tile=tile).mean()
