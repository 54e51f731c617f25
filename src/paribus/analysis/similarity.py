"""Similarity of two representations of the same images, and the shape of one; features are rows [N D]."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from paribus.errors import UserError

_CELLS = 1 << 23
"""Most similarities held at once."""
_ROWS = 4_096


def unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows scaled to length one, in the input's precision (norms in float64); rows of zeros stay zero.

    Raises:
        UserError: a row that is not finite.
    """
    scaled: Float[np.ndarray, "N D"] = np.empty_like(x)
    for at in range(0, len(x), _ROWS):  # in float64 the whole would take twice its memory, twice
        part = x[at : at + _ROWS].astype(np.float64)
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            row = at + int(np.flatnonzero(~np.isfinite(norms[:, 0]))[0])
            raise UserError(
                f"The features of image {row} are not finite: the encoder diverged, so train it again."
            )
        scaled[at : at + _ROWS] = part / np.where(norms > 0, norms, 1.0)
    return scaled


def centred_unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """``unit`` after the mean feature is taken off: what anisotropy adds to every cosine goes with it."""
    centred: Float[np.ndarray, "N D"] = (x - x.mean(axis=0, dtype=np.float64)).astype(x.dtype)
    return unit(centred)


def linear_cka(a: Float[np.ndarray, "N Da"], b: Float[np.ndarray, "N Db"]) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) with the unbiased HSIC of Song et al. (2012).

    1 for features equal up to rotation and scale; about 0 (also below) for unrelated ones, at any N and D,
    where the biased estimator grows with D / N.

    Raises:
        UserError: fewer than four images, or features that do not vary.
    """
    both, one, other = hsic_terms(a, b)
    if not one * other > 0:
        raise UserError("CKA got features that are the same for all images: that encoder has collapsed.")
    return float(both / np.sqrt(one * other))


def hsic_terms(a: Float[np.ndarray, "N Da"], b: Float[np.ndarray, "N Db"]) -> tuple[float, float, float]:
    """Unbiased HSIC of a with b, of a with itself and of b with itself.

    Raises:
        UserError: fewer than four images.
    """
    if len(a) < 4:
        raise UserError(f"CKA needs at least 4 images but got {len(a)}: measure more images.")
    x, y = (z.astype(np.float64) - z.mean(axis=0, dtype=np.float64) for z in (a, b))
    return _hsic(x, y), _hsic(x, x), _hsic(y, y)


def mutual_neighbours(
    a: Float[np.ndarray, "N Da"], b: Float[np.ndarray, "N Db"], *, k: int = 10
) -> Float[np.ndarray, " N"]:
    """For each image, the share of its k nearest neighbours (cosine) that both encoders agree on.

    The mean over images is the mutual k-NN alignment of Huh et al. (2024); chance is k / (N - 1).

    Raises:
        UserError: k outside 1 .. N - 1.
    """
    if not 1 <= k < len(a):
        raise UserError(
            f"k={k} neighbours of {len(a)} images cannot be found: give a k from 1 to {len(a) - 1}."
        )
    ours, theirs = _nearest(a, k), _nearest(b, k)
    common = (ours[:, :, None] == theirs[:, None, :]).any(axis=2)
    share: Float[np.ndarray, " N"] = common.mean(axis=1)
    return share


def uniformity(x: Float[np.ndarray, "N D"], *, t: float = 2.0) -> float:
    """Log mean Gaussian potential of all pairs of unit rows (Wang and Isola 2020): 0 if collapsed."""
    rows = unit(x.astype(np.float64))
    total = sum(float(np.exp(2 * t * (rows[block] @ rows.T - 1)).sum()) for block in _blocks(len(x)))
    itself = float(np.exp(2 * t * ((rows**2).sum(axis=1) - 1)).sum())
    return float(np.log((total - itself) / (len(x) * (len(x) - 1))))


def alignment(x: Float[np.ndarray, "N D"], altered: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """Wang and Isola's (2020) alignment, picture by picture: squared distance of unit vectors of two views.

    0 is the same direction, 2 a right angle.
    """
    step = unit(x.astype(np.float64)) - unit(altered.astype(np.float64))
    values: Float[np.ndarray, " N"] = (step**2).sum(axis=1)
    return values


def effective_rank(x: Float[np.ndarray, "N D"]) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007), 1 to min(N, D).

    Rows are taken as they are; centre them first to ask about the covariance.
    """
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _hsic(x: Float[np.ndarray, "N Dx"], y: Float[np.ndarray, "N Dy"]) -> float:
    """Unbiased HSIC of linear kernels from [Dx Dy] products, never forming the zero-diagonal kernels."""
    n = len(x)
    diagonal_x, diagonal_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    rows_x, rows_y = x @ x.sum(axis=0) - diagonal_x, y @ y.sum(axis=0) - diagonal_y
    trace = ((x.T @ y) ** 2).sum() - diagonal_x @ diagonal_y
    spread = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return float((trace + spread - 2 * (rows_x @ rows_y) / (n - 2)) / (n * (n - 3)))


def _nearest(x: Float[np.ndarray, "N D"], k: int) -> Int[np.ndarray, "N k"]:
    """The k nearest other rows by cosine, in no order."""
    rows = unit(x)
    found = []
    for block in _blocks(len(x)):
        similar = rows[block] @ rows.T
        similar[np.arange(len(similar)), np.arange(block.start, block.start + len(similar))] = -np.inf
        found.append(np.argpartition(-similar, k - 1, axis=1)[:, :k])
    return np.concatenate(found)


def _blocks(n: int) -> Iterator[slice]:
    step = max(1, _CELLS // n)
    return (slice(start, start + step) for start in range(0, n, step))
