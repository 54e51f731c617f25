"""Losses over all pairs of a batch, whose matrix of logits is not held whole where it is large.

Up to ``TILE`` pairs they are written as they are read. Beyond, the matrix goes by in tiles of ``TILE`` rows
and columns: each is made, reduced and dropped, and made again for the gradient, which is written out below.
So memory grows with the encodings alone, value and gradients are those of the whole matrix, and a step takes
four matrix products where differentiating each direction by itself takes eight.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096
"""Rows and columns of logits that are held at once: 4096 x 4096 floats are 64 MB."""

Hide = Callable[[Tensor, slice, slice], None]
"""Puts minus infinity where a pair does not count, in a tile of logits of these rows and columns."""


def _tiles(rows: int, columns: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, rows, tile):
        for column in range(0, columns, tile):
            yield slice(row, row + tile), slice(column, column + tile)


def _normalisers(
    a: Float[Tensor, "A D"], b: Float[Tensor, "B D"], scale: Tensor, tile: int, hide: Hide | None
) -> tuple[Float[Tensor, " A"], Float[Tensor, " B"]]:
    """Logarithms of the sums of exponentiated logits, along rows and along columns."""
    rows, columns = a.new_full((len(a),), -torch.inf), a.new_full((len(b),), -torch.inf)
    for row, column in _tiles(len(a), len(b), tile):
        logits = scale * a[row] @ b[column].T
        if hide is not None:
            hide(logits, row, column)
        rows[row] = torch.logaddexp(rows[row], logits.logsumexp(dim=1))
        columns[column] = torch.logaddexp(columns[column], logits.logsumexp(dim=0))
    return rows, columns


def _pulls(
    a: Float[Tensor, "A D"],
    b: Float[Tensor, "B D"],
    scale: Tensor,
    normalisers: tuple[Float[Tensor, " A"], Float[Tensor, " B"]],
    tile: int,
    hide: Hide | None,
) -> tuple[Float[Tensor, "A D"], Float[Tensor, "B D"]]:
    """``(P + Q) b`` and ``(P + Q)' a``, with P and Q the softmax of the logits along rows and columns."""
    rows, columns = normalisers
    to_a, to_b = torch.zeros_like(a), torch.zeros_like(b)
    for row, column in _tiles(len(a), len(b), tile):
        logits = scale * a[row] @ b[column].T
        if hide is not None:
            hide(logits, row, column)
        both = (logits - rows[row, None]).exp_() + (logits - columns[column]).exp_()
        to_a[row].addmm_(both, b[column])
        to_b[column].addmm_(both.T, a[row])
    return to_a, to_b


class _InfoNce(torch.autograd.Function):
    """The gradient with respect to the logits is ``(P + Q - 2 I) / 2B``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, tile: int) -> Tensor:
        rows, columns = _normalisers(image, text, scale, tile, None)
        ctx.save_for_backward(image, text, scale, rows, columns)
        ctx.tile = tile
        return ((rows + columns) / 2 - scale * (image * text).sum(dim=1)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, text, scale, rows, columns = ctx.saved_tensors
        to_image, to_text = _pulls(image, text, scale, (rows, columns), ctx.tile, None)
        weight = grad * scale / (2 * len(image))
        to_image, to_text = (to_image - 2 * text) * weight, (to_text - 2 * image) * weight
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


class _Sigmoid(torch.autograd.Function):
    """The gradient with respect to the logits is ``(sigmoid(logits) - I) / B``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, tile: int) -> Tensor:
        ctx.save_for_backward(image, text, scale, bias)
        ctx.tile = tile
        doubts = image.new_zeros(())
        for row, column in _tiles(len(image), len(text), tile):
            doubts += F.softplus(scale * image[row] @ text[column].T + bias).sum()
        own = scale * (image * text).sum(dim=1) + bias
        # The matching pair's sign is the other one: softplus(-x) = softplus(x) - x.
        return doubts / len(image) - own.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        image, text, scale, bias = ctx.saved_tensors
        to_image, to_text, to_bias = torch.zeros_like(image), torch.zeros_like(text), image.new_zeros(())
        for row, column in _tiles(len(image), len(text), ctx.tile):
            slope = (scale * image[row] @ text[column].T + bias).sigmoid_()
            to_image[row].addmm_(slope, text[column])
            to_text[column].addmm_(slope.T, image[row])
            to_bias += slope.sum()
        weight = grad * scale / len(image)
        to_image, to_text = (to_image - text) * weight, (to_text - image) * weight
        return to_image, to_text, (to_image * image).sum() / scale, grad * (to_bias / len(image) - 1), None


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
    if len(image) <= tile:
        logits = scale * image @ text.T + bias
        return (F.softplus(logits).sum(dim=1) - logits.diagonal()).sum() / len(image)
    loss: Tensor = _Sigmoid.apply(image, text, scale, bias, tile)  # type: ignore[no-untyped-call]
    return loss


def _hide_own(logits: Tensor, row: slice, column: slice) -> None:
    """A view is not compared with itself; the matrix's diagonal passes through some tiles only."""
    offset = row.start - column.start
    if -logits.shape[0] < offset < logits.shape[1]:
        logits.diagonal(offset).fill_(-torch.inf)


class _Twins(torch.autograd.Function):
    """The gradient with respect to a view is ``((P + P') z - 2 twin) / (views * temperature)``."""

    @staticmethod
    def forward(ctx: Any, views: Tensor, scale: Tensor, tile: int) -> Tensor:
        rows, _ = _normalisers(views, views, scale, tile, _hide_own)
        ctx.save_for_backward(views, scale, rows)
        ctx.tile = tile
        return (rows - scale * (views * _twins(views)).sum(dim=1)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        views, scale, rows = ctx.saved_tensors
        pulled, _ = _pulls(views, views, scale, (rows, rows), ctx.tile, _hide_own)
        return (pulled - 2 * _twins(views)) * (grad * scale / len(views)), None, None


def _twins(views: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Of each of 2B views, the same picture's other one, B places on."""
    return views.roll(len(views) // 2, dims=0)


def nt_xent(views: Float[Tensor, "B 2 D"], temperature: float, tile: int = TILE) -> Float[Tensor, ""]:
    """SimCLR's loss: among all other views of the batch, find the same picture's; inputs have unit length.

    Chen et al. 2020, equation 1.
    """
    flat = views.transpose(0, 1).flatten(0, 1)
    if len(flat) <= tile:
        itself = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
        twin = torch.arange(len(flat), device=flat.device).roll(len(views))
        logits = (flat @ flat.T / temperature).masked_fill(itself, float("-inf"))
        return F.cross_entropy(logits, twin)
    loss: Tensor = _Twins.apply(flat, flat.new_tensor(1.0 / temperature), tile)  # type: ignore[no-untyped-call]
    return loss
