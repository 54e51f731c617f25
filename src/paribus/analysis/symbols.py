"""The symbol test (the paper's Appendix B): does an encoder tell symbols apart, or see only their style?

The paper reports one raw number per encoder, the mean pairwise cosine of distinct symbols. Raw cosines of
two encoders cannot be compared, so each is also given relative to the encoder's own baseline.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from paribus.analysis.similarity import unit
from paribus.errors import UserError
from paribus.stats import Estimate, from_draws, resample_counts

_FEWEST = 5


class SymbolTest(NamedTuple):
    """Mean cosines and their contrasts (similarity - baseline) / (1 - baseline); ``n`` counts symbols.

    ``distinct``: different symbols in the same style (Appendix B's number; lower: identities are told apart).
    ``same``: one symbol across styles (higher: style is looked through). ``baseline``: all pairs of the
    baseline images, whose number is its ``n``. A contrast of 1 means identical, 0 no more alike than any
    two images.
    """

    distinct: Estimate
    same: Estimate
    baseline: Estimate
    distinct_contrast: Estimate
    same_contrast: Estimate


def symbol_test(
    grid: Float[np.ndarray, "S T D"], baseline: Float[np.ndarray, "M D"], *, seed: int, draws: int = 2000
) -> SymbolTest:
    """Mean off-diagonal cosines over a grid of S symbols in T styles, with bootstrap intervals over symbols.

    A draw weighs a pair of symbols w_i w_j and never pairs a symbol with its own copy. Baseline images are
    resampled on their own, so a contrast's interval holds the baseline's uncertainty too.

    Raises:
        UserError: fewer than five symbols or baseline images, one style, or baseline images all alike.
    """
    return _summary(_draws(grid, baseline, seed, draws), grid.shape[0], len(baseline))


def symbol_difference(
    grid_a: Float[np.ndarray, "S T Da"],
    baseline_a: Float[np.ndarray, "M Da"],
    grid_b: Float[np.ndarray, "S T Db"],
    baseline_b: Float[np.ndarray, "M Db"],
    *,
    seed: int,
    draws: int = 2000,
) -> SymbolTest:
    """The first minus the second encoder in every number of ``symbol_test``, on the same items and draws.

    Raises:
        UserError: as ``symbol_test``.
    """
    a, b = _draws(grid_a, baseline_a, seed, draws), _draws(grid_b, baseline_b, seed, draws)
    return _summary(a - b, grid_a.shape[0], len(baseline_a))


def mean_cosine(
    weights: Float[np.ndarray, "draws N"], rows: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, " draws"]:
    """Mean cosine over pairs i != j of unit rows, a pair weighing w_i w_j, without forming the pairs.

    The sum over all ordered pairs is the squared length of the weighted sum of rows; the diagonal is taken
    off. NaN where a draw holds one row only.
    """
    squares = weights**2
    total = ((weights @ rows) ** 2).sum(axis=1) - squares @ (rows**2).sum(axis=1)
    pairs = weights.sum(axis=1) ** 2 - squares.sum(axis=1)
    mean: Float[np.ndarray, " draws"] = np.full(len(weights), np.nan)
    np.divide(total, pairs, out=mean, where=pairs > 0)
    return mean


def _draws(
    grid: Float[np.ndarray, "S T D"], baseline: Float[np.ndarray, "M D"], seed: int, draws: int
) -> Float[np.ndarray, "5 rows"]:
    """The five numbers in ``SymbolTest``'s order; column 0 is the sample itself, the others are draws."""
    symbols, styles, width = grid.shape
    if min(symbols, len(baseline)) < _FEWEST or styles < 2:
        raise UserError(
            f"The symbol test got {symbols} symbols in {styles} styles and {len(baseline)} baseline images: "
            f"give at least {_FEWEST} symbols, 2 styles and {_FEWEST} baseline images."
        )
    cells = unit(grid.reshape(-1, width).astype(np.float64)).reshape(grid.shape)
    weights = _with_sample(symbols, seed, draws)
    distinct = np.mean([mean_cosine(weights, cells[:, t]) for t in range(styles)], axis=0)
    own = np.array([mean_cosine(np.ones((1, styles)), cell)[0] for cell in cells])
    same = weights @ own / weights.sum(axis=1)
    base = mean_cosine(_with_sample(len(baseline), seed, draws), unit(baseline.astype(np.float64)))
    if not 1.0 - base[0] > 1e-9:
        raise UserError("All baseline images are alike to the encoder: it has collapsed, so leave it out.")
    room = np.where(base < 1.0, 1.0 - base, np.nan)
    return np.stack([distinct, same, base, (distinct - base) / room, (same - base) / room])


def _with_sample(units: int, seed: int, draws: int) -> Float[np.ndarray, "rows units"]:
    return np.concatenate([np.ones((1, units)), resample_counts(units, seed=seed, draws=draws)])


def _summary(draws: Float[np.ndarray, "5 rows"], symbols: int, baseline: int) -> SymbolTest:
    """Intervals over the draws that have a value: with five symbols, all but a few in a thousand."""
    usable = draws[:, 1:][:, np.isfinite(draws[:, 1:]).all(axis=0)]
    counts = (symbols, symbols, baseline, symbols, symbols)
    return SymbolTest(
        *(from_draws(row[0], use, n) for row, use, n in zip(draws, usable, counts, strict=True))
    )
