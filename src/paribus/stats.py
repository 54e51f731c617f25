"""Intervals, paired tests and verdicts: every number that a report states passes through here.

The bootstrap resamples *independent units*: values, or whole clusters where values depend on each other
(the pictures of one concept, the questions about one image). Draws are keyed by (seed, number of units), so
two arms measured on the same items are resampled alike and their differences are paired.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import binom
from scipy.stats import t as student

from paribus.errors import UserError
from paribus.results import Verdict
from paribus.rng import numpy_rng

_LEVELS = (2.5, 97.5)
_CELLS = 1 << 22
"""Most cells of one block of resampling counts: 32 MB as float64."""


class Estimate(NamedTuple):
    """A value, its 95% interval, and the number of independent units behind the interval."""

    value: float
    low: float
    high: float
    n: int


def resamples(units: int, *, seed: int, draws: int) -> Iterator[Float[np.ndarray, "block units"]]:
    """How often each unit is drawn in each resample (multinomial counts), in blocks of bounded memory.

    Raises:
        UserError: fewer than two units, or no draws.
    """
    if units < 2:
        raise UserError(f"An interval needs at least 2 independent units but there is {units}: measure more.")
    if draws < 1:
        raise UserError(f"The bootstrap got draws={draws}: give at least 1, better 1000 or more.")
    rng = numpy_rng(seed, "bootstrap", units)
    block = max(1, _CELLS // units)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        cells = rng.integers(0, units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows * units)
        yield counts.reshape(rows, units).astype(np.float64)


def resample_counts(units: int, *, seed: int, draws: int) -> Float[np.ndarray, "draws units"]:
    """All of ``resamples`` in one array, for statistics that need every draw at once."""
    return np.concatenate(list(resamples(units, seed=seed, draws=draws)))


def from_draws(value: float, draws: Float[np.ndarray, " draws"], n: int) -> Estimate:
    """A value and the percentile interval of its bootstrap draws."""
    low, high = np.percentile(draws, _LEVELS)
    return Estimate(float(value), float(low), float(high), n)


def bootstrap_mean(
    values: Shaped[np.ndarray, " n"],
    *,
    clusters: Shaped[np.ndarray, " n"] | None = None,
    seed: int,
    draws: int = 2000,
) -> Estimate:
    """The mean of all values and its 95% percentile bootstrap interval (Efron 1979).

    ``values`` are numbers or booleans. With ``clusters`` (a label per value) whole clusters are resampled and
    each draw is the mean over the values it holds, so that large clusters weigh more, as in the value itself.
    Percentile intervals are somewhat too narrow below about 20 units, and have no width at all where the
    values do not vary; ``mcnemar`` is exact there.

    Raises:
        UserError: no values, values that are not finite, fewer than two units, lengths that differ.
    """
    sums, sizes = _totals(_numbers(values, "values"), clusters)
    means = [(w @ sums) / (w @ sizes) for w in resamples(len(sums), seed=seed, draws=draws)]
    return from_draws(sums.sum() / sizes.sum(), np.concatenate(means), len(sums))


def bootstrap_difference(
    a: Shaped[np.ndarray, " n"],
    b: Shaped[np.ndarray, " n"],
    *,
    clusters: Shaped[np.ndarray, " n"] | None = None,
    seed: int,
    draws: int = 2000,
) -> Estimate:
    """The mean paired difference a - b over the same items, and its interval as in ``bootstrap_mean``.

    Raises:
        UserError: as ``bootstrap_mean``.
    """
    return bootstrap_mean(_paired(a, b), clusters=clusters, seed=seed, draws=draws)


def mcnemar(a_correct: Bool[np.ndarray, " n"], b_correct: Bool[np.ndarray, " n"]) -> float:
    """McNemar's exact two-sided p-value that two arms answer the same items equally well (McNemar 1947).

    A binomial test on the items that exactly one arm answers rightly; 1 where there are none.

    Raises:
        UserError: the arms answer different numbers of items, or none.
    """
    _paired(a_correct, b_correct)
    only_a = int((a_correct & ~b_correct).sum())
    only_b = int((~a_correct & b_correct).sum())
    return min(1.0, 2.0 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: Shaped[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Holm's step-down adjusted p-values of one family, in the order given (Holm 1979); empty stays empty.

    Raises:
        UserError: a value outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError("holm got a p-value outside [0, 1]: pass probabilities only.")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def tost(
    a: Shaped[np.ndarray, " n"],
    b: Shaped[np.ndarray, " n"],
    margin: float,
    clusters: Shaped[np.ndarray, " n"] | None = None,
) -> float:
    """The p-value that two arms are equivalent: their mean paired difference lies within ±margin.

    Schuirmann's (1987) two one-sided paired t-tests on a - b; the larger of both p-values, so a small value
    *supports* equality. With ``clusters`` the tests run on the clusters' mean differences, each cluster one
    observation. Differences that do not vary decide by themselves: 0 inside the margin, 1 outside.

    Raises:
        UserError: a margin that is not positive, or input as in ``bootstrap_mean``.
    """
    if not margin > 0:
        raise UserError(
            f"The equivalence margin is {margin}: give a positive one, in the unit of the metric."
        )
    sums, sizes = _totals(_paired(a, b), clusters)
    means = sums / sizes
    n = len(means)
    if n < 2:
        raise UserError(
            f"An equivalence test needs at least 2 independent units but there is {n}: measure more."
        )
    mean, error = means.mean(), means.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return float(abs(mean) >= margin)
    above = student.sf((mean + margin) / error, n - 1)
    below = student.cdf((mean - margin) / error, n - 1)
    return float(max(above, below))


def verdict(estimate: Estimate, expected_sign: int) -> Verdict:
    """What an interval says of a claim about a sign: the whole interval must lie on one side of zero.

    Raises:
        UserError: an expected sign other than 1 or -1 (equality is ``tost``'s question).
    """
    if expected_sign not in (1, -1):
        raise UserError(f"The expected sign is {expected_sign}: give 1 or -1, and use tost for equality.")
    low, high = sorted((expected_sign * estimate.low, expected_sign * estimate.high))
    if low > 0:
        return "supported"
    return "contradicted" if high < 0 else "not distinguishable"


def _numbers(values: Shaped[np.ndarray, " n"], name: str) -> Float[np.ndarray, " n"]:
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        raise UserError(f"There are no {name} to average: check that the task has items.")
    if not np.isfinite(numbers).all():
        at = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise UserError(
            f"Item {at} of the {name} is {numbers[at]}: leave out what has no finite value first."
        )
    return numbers


def _paired(a: Shaped[np.ndarray, " na"], b: Shaped[np.ndarray, " nb"]) -> Float[np.ndarray, " n"]:
    if len(a) != len(b):
        raise UserError(
            f"A paired comparison got {len(a)} and {len(b)} values: measure both arms on the same items."
        )
    difference: Float[np.ndarray, " n"] = _numbers(a, "first arm's values") - _numbers(
        b, "second arm's values"
    )
    return difference


def _totals(
    values: Float[np.ndarray, " n"], clusters: Shaped[np.ndarray, " m"] | None
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """Sum and size of each independent unit, clusters in sorted order."""
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise UserError(
            f"There are {len(values)} values and {len(clusters)} cluster labels: give one label each."
        )
    _, inverse = np.unique(clusters, return_inverse=True)
    return np.bincount(inverse, values), np.bincount(inverse).astype(np.float64)
