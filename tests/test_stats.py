"""Statistics against statsmodels and scipy, and the coverage of the intervals by simulation."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from paribus.errors import UserError
from paribus.stats import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mcnemar,
    resample_counts,
    resamples,
    tost,
    verdict,
)


def test_counts_are_multinomial_and_keyed():
    counts = resample_counts(40, seed=3, draws=5000)
    assert counts.shape == (5000, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert abs(counts.var() - (1 - 1 / 40)) < 0.02
    np.testing.assert_array_equal(counts, resample_counts(40, seed=3, draws=5000))
    assert (counts != resample_counts(40, seed=4, draws=5000)).any()


def test_blocks_stay_small_and_cover_all_draws():
    shapes = [block.shape for block in resamples(1 << 20, seed=0, draws=9)]
    assert sum(rows for rows, _ in shapes) == 9
    assert max(rows * units for rows, units in shapes) <= 1 << 22


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=300)
    ours = bootstrap_mean(values, seed=1, draws=20_000)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean(), abs=1e-12)
    assert ours.n == 300
    assert abs(ours.low - theirs.low) < 0.03 * width
    assert abs(ours.high - theirs.high) < 0.03 * width


def test_clustered_interval_is_the_loop_over_whole_clusters():
    rng = np.random.default_rng(1)
    clusters = np.array([f"c{c}" for c in rng.integers(0, 12, 80)])
    values = rng.normal(size=80)
    ours = bootstrap_mean(values, clusters=clusters, seed=7, draws=200)
    names = np.unique(clusters)
    means = []
    for counts in resample_counts(len(names), seed=7, draws=200):
        drawn = [
            v
            for name, c in zip(names, counts, strict=True)
            for _ in range(int(c))
            for v in values[clusters == name]
        ]
        means.append(np.mean(drawn))
    np.testing.assert_allclose([ours.low, ours.high], np.percentile(means, [2.5, 97.5]), rtol=1e-12)
    assert ours == (pytest.approx(values.mean()), ours.low, ours.high, len(names))


def test_difference_is_paired():
    rng = np.random.default_rng(2)
    item = rng.normal(scale=10, size=500)
    a, b = item + 0.2 + rng.normal(size=500) * 0.5, item + rng.normal(size=500) * 0.5
    paired = bootstrap_difference(a, b, seed=0)
    assert paired.low > 0
    assert paired.high - paired.low < 0.2
    assert paired.value == pytest.approx((a - b).mean())
    flipped = bootstrap_difference(b, a, seed=0)
    np.testing.assert_allclose(flipped[:3], [-paired.value, -paired.high, -paired.low], atol=1e-12)


def test_booleans_average_to_accuracy():
    hits = np.array([True] * 30 + [False] * 10)
    assert bootstrap_mean(hits, seed=0).value == 0.75
    assert bootstrap_difference(hits, ~hits, seed=0).value == 0.5


def _coverage(with_clusters: bool, runs: int = 400) -> float:
    rng = np.random.default_rng(11)
    covered = 0
    for run in range(runs):
        clusters = np.repeat(np.arange(50), 8)
        values = rng.normal(size=50)[clusters] + rng.normal(size=400)
        found = bootstrap_mean(values, clusters=clusters if with_clusters else None, seed=run, draws=400)
        covered += found.low <= 0 <= found.high
    return covered / runs


def test_clusters_cover_at_95_percent_and_the_naive_interval_does_not():
    assert 0.91 <= _coverage(with_clusters=True) <= 0.98
    assert _coverage(with_clusters=False) < 0.75


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_agrees_with_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.5
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b) == pytest.approx(sm_mcnemar(table, exact=True).pvalue, rel=1e-12)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_without_discordant_items_is_one():
    a = np.array([True, False, True])
    assert mcnemar(a, a) == 1.0


@pytest.mark.parametrize("values", [[0.01, 0.04, 0.03, 0.005, 0.8, 0.04, 1.0, 0.0], [0.03, 0.9, 0.2], [0.04]])
def test_holm_agrees_with_statsmodels(values):
    p = np.array(values)
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-14)
    assert holm(np.array([])).shape == (0,)


@pytest.mark.parametrize(("shift", "margin"), [(0.0, 0.3), (0.1, 0.3), (-0.25, 0.3), (0.5, 0.3), (0.0, 0.05)])
def test_tost_agrees_with_statsmodels(shift, margin):
    rng = np.random.default_rng(4)
    a = rng.normal(size=90)
    b = a - shift + rng.normal(scale=0.7, size=90)
    assert tost(a, b, margin) == pytest.approx(ttost_paired(a, b, -margin, margin)[0], rel=1e-9)


def test_tost_on_clusters_is_tost_on_cluster_means():
    rng = np.random.default_rng(5)
    clusters = rng.integers(0, 15, 200)
    a, b = rng.normal(size=200), rng.normal(size=200)
    means = [[x[clusters == c].mean() for c in np.unique(clusters)] for x in (a, b)]
    expected = ttost_paired(np.array(means[0]), np.array(means[1]), -0.4, 0.4)[0]
    assert tost(a, b, 0.4, clusters=clusters) == pytest.approx(expected, rel=1e-9)


def test_tost_of_constant_differences():
    a = np.ones(5)
    assert tost(a, a, 0.1) == 0.0
    assert tost(a, a - 0.5, 0.1) == 1.0


@pytest.mark.parametrize(
    ("low", "high", "sign", "expected"),
    [
        (0.1, 0.3, 1, "supported"),
        (0.1, 0.3, -1, "contradicted"),
        (-0.3, -0.1, 1, "contradicted"),
        (-0.3, -0.1, -1, "supported"),
        (-0.1, 0.3, 1, "not distinguishable"),
        (0.0, 0.3, 1, "not distinguishable"),
        (0.0, 0.0, -1, "not distinguishable"),
    ],
)
def test_verdict(low, high, sign, expected):
    assert verdict(Estimate((low + high) / 2, low, high, 100), sign) == expected


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: bootstrap_mean(np.array([]), seed=0), "no values"),
        (lambda: bootstrap_mean(np.array([1.0]), seed=0), "at least 2"),
        (lambda: bootstrap_mean(np.array([1.0, np.nan]), seed=0), "Item 1"),
        (lambda: bootstrap_mean(np.ones(4), clusters=np.array(list("aaaa")), seed=0), "at least 2"),
        (lambda: bootstrap_mean(np.ones(4), seed=0, draws=0), "draws=0"),
        (lambda: holm(np.array([0.5, 1.5])), "outside"),
        (lambda: tost(np.ones(3), np.ones(3), 0.0), "margin is 0"),
        (lambda: tost(np.ones(1), np.ones(1), 0.1), "at least 2"),
        (lambda: verdict(Estimate(0, -1, 1, 9), 0), "sign is 0"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(UserError, match=names):
        call()
