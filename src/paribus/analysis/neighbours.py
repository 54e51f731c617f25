"""What an image shares with its nearest neighbour: the plainest reading of what an encoder puts together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from paribus.analysis.factors import Factors, check_factors, shares
from paribus.analysis.similarity import unit
from paribus.errors import UserError
from paribus.stats import Estimate, bootstrap_mean

_CELLS = 1 << 22
"""Most distances held at once."""


@dataclass(frozen=True)
class Neighbours:
    """Shares per factor, and the hits behind them.

    ``hits[factor]`` is ``[N]``, NaN where an image is left out; that depends on factors and exclusion only,
    so two arms' hits pair image by image. ``chance`` is the share among all allowed neighbours. A factor with
    fewer than two clusters of usable images has hits and counts, but no line in ``table``.
    """

    table: dict[str, Estimate]
    hits: dict[str, Float[np.ndarray, " N"]]
    chance: dict[str, float]
    left_out: dict[str, int]


def neighbour_table(
    features: Float[np.ndarray, "N D"],
    factors: Factors,
    *,
    exclude: Shaped[np.ndarray, "..."] | None = None,
    clusters: Shaped[np.ndarray, " N"],
    seed: int,
    draws: int = 2000,
) -> Neighbours:
    """The share of images whose nearest other image by cosine has the same factor, for each factor.

    ``exclude`` forbids neighbours: a label per image ``[N]`` (no neighbour of the same label, such as the
    same style; the empty label forbids nothing) or a boolean ``[N N]`` matrix (True: forbidden). Left out and
    counted: images without the factor, and images with no allowed neighbour that shares it. Several equally
    near neighbours count by the share of them that hits, so the order of the images cannot matter and a
    collapsed encoder scores chance. The interval resamples ``clusters`` (concepts).

    Raises:
        UserError: lengths that differ, a factor that is numbers of pairs, or an ``exclude`` of another shape
            or kind.
    """
    n = len(features)
    check_factors(factors, n)
    _check_labels(factors)
    _check_exclude(exclude, n)
    rows = unit(features.astype(np.float64))
    block = max(1, _CELLS // n)
    parts = [_block(rows, factors, exclude, slice(start, start + block)) for start in range(0, n, block)]
    out = Neighbours({}, {}, {}, {})
    for name in factors:
        hits, chance = (np.concatenate([part[name][at] for part in parts]) for at in (0, 1))
        usable = np.isfinite(hits)
        out.hits[name], out.left_out[name] = hits, int(n - usable.sum())
        if len(np.unique(clusters[usable])) > 1:
            out.chance[name] = float(chance[usable].mean())
            out.table[name] = bootstrap_mean(hits[usable], clusters=clusters[usable], seed=seed, draws=draws)
    return out


def _check_labels(factors: Factors) -> None:
    for name, values in factors.items():
        if values.ndim != 1:
            raise UserError(
                f"Factor {name!r} is numbers of pairs, which no two share: give a label for each."
            )


_Row = Float[np.ndarray, " rows"]


def _block(
    unit_rows: Float[np.ndarray, "N D"],
    factors: Factors,
    exclude: Shaped[np.ndarray, "..."] | None,
    block: slice,
) -> dict[str, tuple[_Row, _Row]]:
    """Hits and chances of a block of images, NaN where an image is left out."""
    allowed = _allowed(exclude, len(unit_rows), block)
    nearest = _nearest(unit_rows, allowed, block)
    out = {}
    for name, labels in factors.items():
        possible = shares(labels, block) & allowed
        usable = possible.any(axis=1)
        hits = (nearest & possible).sum(axis=1) / nearest.sum(axis=1).clip(1)
        chance = possible.sum(axis=1) / allowed.sum(axis=1).clip(1)
        out[name] = (np.where(usable, hits, np.nan), np.where(usable, chance, np.nan))
    return out


def _check_exclude(exclude: Shaped[np.ndarray, "..."] | None, n: int) -> None:
    if exclude is None or exclude.shape == (n,) or (exclude.shape == (n, n) and exclude.dtype == np.bool_):
        return
    raise UserError(
        f"exclude has shape {exclude.shape} for {n} images: give a label per image or booleans [N, N]."
    )


def _allowed(exclude: Shaped[np.ndarray, "..."] | None, n: int, block: slice) -> Bool[np.ndarray, "rows N"]:
    """Which images may be the neighbours of the block's; never oneself."""
    at = np.arange(n)
    allowed: Bool[np.ndarray, "rows N"] = at[block, None] != at
    if exclude is not None:
        allowed &= ~(shares(exclude.astype(np.str_), block) if exclude.ndim == 1 else exclude[block])
    return allowed


def _nearest(
    unit_rows: Float[np.ndarray, "N D"], allowed: Bool[np.ndarray, "rows N"], block: slice
) -> Bool[np.ndarray, "rows N"]:
    """Each image's nearest allowed neighbour, or all that tie with it to within float32 rounding."""
    distance = np.where(allowed, 1.0 - unit_rows[block] @ unit_rows.T, np.inf)
    best = distance.min(axis=1, keepdims=True)
    found: Bool[np.ndarray, "rows N"] = (distance <= best * (1 + 1e-6) + 1e-12) & allowed
    return found
