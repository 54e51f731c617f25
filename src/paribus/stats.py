"""Intervals, paired tests and verdicts: every number that a report states passes through here.

The bootstrap resamples *independent units*: values, or whole clusters where values depend on each other
(the pictures of one concept, the questions about one image). Draws are keyed by (seed, number of units), so
two arms measured on the same items are resampled alike and their differences are paired. Where several
training seeds answer the same items, seeds and items are resampled both.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student

from paribus.errors import UserError
from paribus.results import Verdict
from paribus.rng import numpy_rng, stream

_LEVELS = (2.5, 97.5)
_TWO_SIDED = float(norm.ppf(0.975))
_FOUND = _TWO_SIDED + float(norm.ppf(0.8))
"""Standard errors that a true difference must be away from zero to be found 4 times in 5 at 5%."""
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


def proportion(right: Bool[np.ndarray, " n"]) -> Estimate:
    """The share of independent items that are right, with Wilson's (1927) interval: none or all have one too.

    Raises:
        UserError: there is no item.
    """
    if not len(right):
        raise UserError("A share of nothing was asked for: give at least one item.")
    found = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, "wilson")
    return Estimate(float(right.mean()), float(found.low), float(found.high), len(right))


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


def detectable(
    a: Shaped[np.ndarray, " n"],
    b: Shaped[np.ndarray, " m"],
    *,
    clusters: Shaped[np.ndarray, " k"] | None = None,
) -> float:
    """The smallest true paired difference that a sample like this one finds 4 times in 5, tested at 5%.

    It follows from how much the two arms disagree item by item, not from how far they are apart: 2.8
    standard errors of the mean difference. 0 where the arms differ by the same everywhere.

    Raises:
        UserError: as ``bootstrap_mean``.
    """
    units = _linear(_paired(a, b), clusters)
    return _FOUND * _error(units)


class Crossed(NamedTuple):
    """A difference over training seeds and questions, and how much of its noise is whose.

    ``seed``, ``question`` and ``rest`` are the variance components of one seed's difference on one question
    (or on one cluster of them); ``error`` is the standard error of the mean that they make.
    """

    estimate: Estimate
    seed: float
    question: float
    rest: float
    error: float

    @property
    def detectable(self) -> float:
        """As the function ``detectable``: another run with as many seeds and questions finds it 4 in 5."""
        return _FOUND * self.error


def crossed_difference(
    one: Shaped[np.ndarray, "S Q"],
    two: Shaped[np.ndarray, "T R"],
    *,
    clusters: Shaped[np.ndarray, " k"] | None = None,
    seed: int,
    draws: int = 2000,
) -> Crossed:
    """The mean difference of two arms whose every training seed answered the same questions.

    Seeds and questions are both resampled (the pigeonhole bootstrap: Owen 2007), so the interval is about
    other seeds and other questions. By itself that counts the interaction three times, and few seeds too
    little, so the draws are stretched about the value until their spread is ``error`` times t over z, with
    Satterthwaite's degrees of freedom. One seed says nothing of other seeds: it gives the question bootstrap,
    all variance is the questions'.

    Args:
        one: numbers or booleans, a row a seed; row s of both arms is one training seed.
        two: the other arm's.
        clusters: a label a question, as in ``bootstrap_mean``.
        seed: of the bootstrap.
        draws: how many.

    Raises:
        UserError: the arms differ in seeds or questions, or as ``bootstrap_mean``.
    """
    if one.shape != two.shape:
        raise UserError(
            f"The arms have {len(one)} and {len(two)} seeds of {one.shape[1]} and {two.shape[1]} questions: "
            "measure both on the same."
        )
    rows = [_paired(a, b) for a, b in zip(one, two, strict=True)]
    if not rows:
        raise UserError("There are no seeds to average over: train at least one.")
    units = np.stack([_linear(row, clusters) for row in rows])
    if len(units) == 1:
        estimate = bootstrap_mean(rows[0], clusters=clusters, seed=seed, draws=draws)
        return Crossed(estimate, 0.0, float(units[0].var(ddof=1)), 0.0, _error(units[0]))
    parts = components(units)
    means = pigeonhole(units, seed=seed, draws=draws)
    value = float(units.mean())
    stretched = value + _stretch(units, parts) * (means - value)
    return Crossed(from_draws(value, stretched, units.shape[1]), *parts.variances, parts.error)


class Components(NamedTuple):
    """Variances of seeds, questions and the rest; and of their mean squares, each over the number of cells.

    In the mean over all cells, ``seeds`` and ``questions`` each hold the rest's share, which counts once.
    """

    seeds: float
    questions: float
    rest: float
    shape: tuple[int, int]

    @property
    def variances(self) -> tuple[float, float, float]:
        """The components, none below zero (analysis of variance: Searle, Casella and McCulloch 1992)."""
        seeds, questions = self.shape
        of_seeds, of_questions = max(self.seeds, self.rest), max(self.questions, self.rest)
        rest = self.rest * seeds * questions
        return (of_seeds - self.rest) * seeds, (of_questions - self.rest) * questions, rest

    @property
    def error(self) -> float:
        """The standard error of the mean over seeds and questions."""
        seeds, questions = self.shape
        by_seed, by_question, rest = self.variances
        return float(np.sqrt(by_seed / seeds + by_question / questions + rest / (seeds * questions)))

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of ``error``, of the mean squares that it is made of."""
        seeds, questions = self.shape[0] - 1, self.shape[1] - 1
        noise = self.rest**2 / (seeds * questions)
        noise += self.seeds**2 / seeds if self.seeds > self.rest else 0.0
        noise += self.questions**2 / questions if self.questions > self.rest else 0.0
        return float(self.error**4 / noise)


def components(units: Float[np.ndarray, "S Q"]) -> Components:
    """The two-way analysis of variance of a table with one number a cell, at least 2 by 2."""
    seeds, questions = units.shape
    centred = units - units.mean()
    rows, columns = centred.mean(axis=1), centred.mean(axis=0)
    rest = ((centred - rows[:, None] - columns) ** 2).sum() / ((seeds - 1) * (questions - 1))
    return Components(
        float(rows.var(ddof=1) / seeds),
        float(columns.var(ddof=1) / questions),
        float(rest / units.size),
        (seeds, questions),
    )


def pigeonhole(units: Float[np.ndarray, "S Q"], *, seed: int, draws: int) -> Float[np.ndarray, " draws"]:
    """Means of a table of which rows and columns are resampled, each by itself (Owen 2007)."""
    by_seed = resample_counts(len(units), seed=stream(seed, "training seeds"), draws=draws)
    done, means = 0, []
    for by_question in resamples(units.shape[1], seed=seed, draws=draws):
        block = by_seed[done : done + len(by_question)]
        means.append(((block @ units) * by_question).sum(axis=1) / units.size)
        done += len(by_question)
    return np.concatenate(means)


def pigeonhole_variance(units: Float[np.ndarray, "S Q"]) -> float:
    """What the variance of ``pigeonhole``'s means tends to with the number of draws."""
    seeds, questions = units.shape
    centred = units - units.mean()
    squares = (centred**2).sum()
    squares += (1 - 1 / questions) * (centred.sum(axis=1) ** 2).sum()
    squares += (1 - 1 / seeds) * (centred.sum(axis=0) ** 2).sum()
    return float(squares / units.size**2)


def _stretch(units: Float[np.ndarray, "S Q"], parts: Components) -> float:
    """By how much the pigeonhole bootstrap's draws are too narrow."""
    spread = np.sqrt(pigeonhole_variance(units))
    if parts.error == 0 or spread == 0:
        return 1.0
    return float(student.ppf(0.975, parts.freedom) / _TWO_SIDED * parts.error / spread)


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


def interval_p(value: float, low: float, high: float) -> float:
    """The p-value that the truth is 0, of a 95% interval, as if its draws were normal."""
    error = (high - low) / (2 * _TWO_SIDED)
    return float(2 * norm.sf(abs(value) / error)) if error > 0 else float(value == 0)


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


def _linear(
    values: Float[np.ndarray, " n"], clusters: Shaped[np.ndarray, " m"] | None
) -> Float[np.ndarray, " units"]:
    """A value a unit, with the mean of all values; of clusters, the ratio estimator made linear.

    Raises:
        UserError: fewer than two units.
    """
    sums, sizes = _totals(values, clusters)
    if len(sums) < 2:
        raise UserError(
            f"An interval needs at least 2 independent units but there is {len(sums)}: measure more."
        )
    mean = sums.sum() / sizes.sum()
    linear: Float[np.ndarray, " units"] = mean + (sums - mean * sizes) * (len(sums) / sizes.sum())
    return linear


def _error(units: Float[np.ndarray, " units"]) -> float:
    return float(units.std(ddof=1) / np.sqrt(len(units)))
