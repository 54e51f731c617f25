"""Losses over all pairs of a batch, whose matrix of logits is never held whole.

Rows go through tiles of ``TILE``; each tile's logits are made, reduced and dropped, and made again for the
gradient (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Memory grows with
``TILE * batch``, and value and gradients are those of the whole matrix.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
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


class _InfoNce(torch.autograd.Function):
    """Both directions from one pass over the tiles, with the gradient written out.

    With ``P`` and ``Q`` the softmax of the logits along rows and columns, the gradient with respect to the
    logits is ``(P + Q - 2 I) / 2B``; of ``P`` and ``Q`` only the normalisers are kept. That is four matrix
    products a step where differentiating each direction by itself takes eight.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, tile: int) -> Tensor:
        """The loss; keeps the logarithms of the rows' and columns' sums."""
        rows, columns = [], image.new_full((len(text),), -torch.inf)
        for start in range(0, len(image), tile):
            logits = scale * image[start : start + tile] @ text.T
            rows.append(logits.logsumexp(dim=1))
            columns = torch.logaddexp(columns, logits.logsumexp(dim=0))
        row = torch.cat(rows)
        ctx.save_for_backward(image, text, scale, row, columns)
        ctx.tile = tile
        return ((row + columns) / 2 - scale * (image * text).sum(dim=1)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients with respect to image, text and scale."""
        image, text, scale, row, columns = ctx.saved_tensors
        to_image, to_text = torch.empty_like(image), torch.zeros_like(text)
        weight = grad * scale / (2 * len(image))
        for start in range(0, len(image), ctx.tile):
            some = slice(start, start + ctx.tile)
            logits = scale * image[some] @ text.T
            slope = (logits - row[some, None]).exp_() + (logits - columns).exp_()
            slope.diagonal(start).sub_(2.0)
            to_image[some] = slope @ text
            to_text.addmm_(slope.T, image[some])
        to_image, to_text = to_image * weight, to_text * weight
        return to_image, to_text, (to_image * image).sum() / scale, None


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
    loss: Tensor = _InfoNce.apply(image, text, scale, tile)  # type: ignore[no-untyped-call]
    return loss


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
