"""Retrieval between pictures and their captions: Recall@k in both directions, every query's outcome kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from paribus.errors import UserError

RANKS = (1, 5, 10)
"""Depths at which recall is usually told."""

BLOCK = 2**24
"""Similarities held at once."""


@dataclass(frozen=True)
class Retrieval:
    """For every query and every depth, whether a match is among so many first."""

    ranks: tuple[int, ...]
    image_to_text: Bool[np.ndarray, "N K"]
    text_to_image: Bool[np.ndarray, "M K"]


def retrieve(
    images: Float[np.ndarray, "N D"],
    texts: Float[np.ndarray, "M D"],
    image_of: Int64[np.ndarray, " captions"],
    *,
    ranks: Sequence[int] = RANKS,
    device: str = "cpu",
) -> Retrieval:
    """Rank all captions for each picture and all pictures for each caption, by cosine similarity.

    A picture is right at k if any of its captions is among the k first, a caption if its one picture is
    (Karpathy and Fei-Fei 2015; CLIP_benchmark's zeroshot_retrieval). The rank of the best match is the number
    of non-matching candidates that are at least as similar, so a tie counts against. Similarities are taken
    in float64 and compared in float32, so that equal vectors tie wherever they stand.

    Args:
        images: pictures in the joint space; length does not matter.
        texts: captions in it.
        image_of: the row of each caption's picture.
        ranks: depths k.
        device: where to compute.

    Raises:
        UserError: a picture without a caption, a caption of no picture, or a vector that is not finite.
    """
    if len(texts) != len(image_of):
        raise ValueError(f"{len(texts)} captions, {len(image_of)} rows of pictures: one per caption")
    _matched(len(images), image_of)
    x, t, owner = _unit(images, device), _unit(texts, device), torch.from_numpy(image_of).to(device)
    depths = torch.tensor(list(ranks), device=x.device)
    rows = torch.arange(len(x), device=x.device)
    to_text = _worse(x, rows, t, owner)
    to_image = _worse(t, owner, x, rows)
    return Retrieval(
        tuple(ranks),
        (to_text[:, None] < depths).cpu().numpy(),
        (to_image[:, None] < depths).cpu().numpy(),
    )


def _matched(images: int, image_of: Int64[np.ndarray, " M"]) -> None:
    if not images or not len(image_of):
        raise UserError("Retrieval has no pictures or no captions: choose another data set or split.")
    if image_of.min() < 0 or image_of.max() >= images:
        raise UserError(
            f"Captions belong to pictures {image_of.min()} to {image_of.max()}, but there are {images}: "
            "number the pictures from 0."
        )
    counts = np.bincount(image_of, minlength=images)
    if not counts.all():
        raise UserError(
            f"Picture {int(np.argmin(counts))} has no caption ({int((counts == 0).sum())} have none): leave "
            "such pictures out."
        )


def _unit(x: Float[np.ndarray, "N D"], device: str) -> Float64[Tensor, "N D"]:
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(device).double()
    if not bool(torch.isfinite(tensor).all()):
        raise UserError("A vector is not finite: the training diverged, so run it again at a lower rate.")
    return F.normalize(tensor, dim=1)


def _worse(
    queries: Float64[Tensor, "Q D"],
    query: Int64[Tensor, " Q"],
    candidates: Float64[Tensor, "P D"],
    candidate: Int64[Tensor, " P"],
) -> Int64[Tensor, " Q"]:
    """For each query, non-matching candidates at least as similar as its best match; equal names match."""
    rows = max(1, BLOCK // len(candidates))
    counts = []
    for block, names in zip(torch.split(queries, rows), torch.split(query, rows), strict=True):
        similarity: Float32[Tensor, "q P"] = (block @ candidates.T).float()
        match = names[:, None] == candidate
        best = similarity.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
        counts.append(((similarity >= best) & ~match).sum(1))
    return torch.cat(counts)
