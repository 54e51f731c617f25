"""Statistics against statsmodels and scipy, and the coverage of the intervals by simulation."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from paribus.errors import UserError
from paribus.stats import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    components,
    crossed_difference,
    detectable,
    holm,
    interval_p,
    mcnemar,
    pigeonhole,
    pigeonhole_variance,
    proportion,
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


# The smallest difference that would be found.


def test_detectable_has_the_power_that_statsmodels_says():
    rng = np.random.default_rng(6)
    a, b = rng.random(400) < 0.6, rng.random(400) < 0.5
    spread = (a.astype(float) - b).std(ddof=1)
    expected = TTestPower().solve_power(nobs=400, alpha=0.05, power=0.8) * spread
    assert detectable(a, b) == pytest.approx(expected, rel=0.01)
    assert detectable(a, b) == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * spread / 20, rel=1e-12)
    assert detectable(b, a) == detectable(a, b)
    assert detectable(a, a) == 0


def test_a_difference_of_that_size_is_found_four_times_in_five():
    rng = np.random.default_rng(7)
    size, found, smallest = 500, 0, []
    for run in range(600):
        # Of the items 20% are answered rightly by one arm alone; the true difference is 0.056.
        only = rng.random(size)
        a, b = only < 0.128, (only >= 0.128) & (only < 0.2)
        smallest.append(detectable(a, b))
        found += bootstrap_difference(a, b, seed=run, draws=300).low > 0
    assert np.mean(smallest) == pytest.approx(0.056, abs=0.002)
    assert 0.75 < found / 600 < 0.85


def test_detectable_of_clusters_follows_the_clustered_interval():
    rng = np.random.default_rng(8)
    clusters = rng.integers(0, 60, 600)
    a = rng.normal(size=60)[clusters] + rng.normal(size=600)
    found = bootstrap_mean(a, clusters=clusters, seed=0, draws=4000)
    error = (found.high - found.low) / (2 * norm.ppf(0.975))
    assert detectable(a, 0 * a, clusters=clusters) == pytest.approx(2.8016 * error, rel=0.06)
    assert detectable(a, 0 * a) < 0.8 * detectable(a, 0 * a, clusters=clusters)
    each = rng.permutation(600)
    assert detectable(a, 0 * a, clusters=each) == pytest.approx(detectable(a, 0 * a), rel=1e-12)


# Training seeds and questions.


def table(rng, seeds, questions, by_seed, by_question, rest, shape=()):
    """A crossed random-effects table, or many."""
    size = (*shape, seeds, questions)
    effects = (
        rng.normal(size=(*shape, seeds, 1)) * by_seed + rng.normal(size=(*shape, 1, questions)) * by_question
    )
    return effects + rng.normal(size=size) * rest


def test_components_are_the_analysis_of_variance_of_statsmodels():
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    units = table(np.random.default_rng(9), 4, 12, 0.5, 1.0, 0.7)
    frame = pd.DataFrame(
        [(s, q, value) for (s, q), value in np.ndenumerate(units)], columns=["seed", "question", "value"]
    )
    squares = anova_lm(ols("value ~ C(seed) + C(question)", frame).fit())["mean_sq"]
    seeds, questions, rest = squares["C(seed)"], squares["C(question)"], squares["Residual"]
    found = components(units)
    assert found.variances == pytest.approx(((seeds - rest) / 12, (questions - rest) / 4, rest), rel=1e-9)
    assert found.error**2 == pytest.approx((seeds + questions - rest) / 48, rel=1e-9)


def test_components_and_error_are_those_of_the_model_on_average():
    many = table(np.random.default_rng(10), 5, 40, 0.3, 0.8, 1.1, shape=(2000,))
    found = [components(units) for units in many]
    mean = np.mean([f.variances for f in found], axis=0)
    np.testing.assert_allclose(mean, [0.09, 0.64, 1.21], rtol=0.05)
    # The closed form of a crossed random-effects mean, which is also how far the 2000 means are spread.
    variance = 0.09 / 5 + 0.64 / 40 + 1.21 / 200
    assert np.mean([f.error**2 for f in found]) == pytest.approx(variance, rel=0.05)
    assert many.mean(axis=(1, 2)).var() == pytest.approx(variance, rel=0.08)


def test_a_component_is_never_negative():
    rng = np.random.default_rng(11)
    found = [components(rng.normal(size=(3, 6))) for _ in range(300)]
    assert min(min(f.variances) for f in found) == 0.0
    assert all(f.error > 0 and f.freedom > 0 for f in found)


def test_pigeonhole_resamples_rows_and_columns_in_a_loop():
    units = table(np.random.default_rng(12), 3, 8, 1.0, 1.0, 1.0)
    rng = np.random.default_rng(13)
    loop = []
    for _ in range(6000):
        seeds, questions = rng.integers(0, 3, 3), rng.integers(0, 8, 8)
        loop.append(np.mean([units[s, q] for s in seeds for q in questions]))
    ours = pigeonhole(units, seed=1, draws=20_000)
    assert ours.mean() == pytest.approx(units.mean(), abs=0.03)
    assert ours.var() == pytest.approx(pigeonhole_variance(units), rel=0.04)
    assert np.var(loop) == pytest.approx(pigeonhole_variance(units), rel=0.06)
    np.testing.assert_allclose(np.percentile(ours, [5, 50, 95]), np.percentile(loop, [5, 50, 95]), atol=0.12)


def test_as_many_seeds_as_questions_are_drawn_apart():
    # Alike, a seed that is drawn twice would meet its own question twice: 0.31.
    assert pigeonhole(np.eye(6), seed=0, draws=20_000).mean() == pytest.approx(1 / 6, abs=0.003)


def test_pigeonhole_counts_the_interaction_three_times():
    """Owen 2007, which is why the draws are not used as they are."""
    many = table(np.random.default_rng(14), 30, 60, 0.0, 0.0, 1.0, shape=(200,))
    expected = np.mean([pigeonhole_variance(units) for units in many])
    assert expected == pytest.approx(3 / 1800, rel=0.08)


def crossed_coverage(seeds, by_seed, runs=600):
    many = table(np.random.default_rng(15), seeds, 200, by_seed, 0.3, 0.5, shape=(runs,))
    nothing = np.zeros((seeds, 200))
    found = [crossed_difference(one, nothing, seed=i, draws=300) for i, one in enumerate(many)]
    plain = [np.percentile(pigeonhole(one, seed=i, draws=300), [2.5, 97.5]) for i, one in enumerate(many)]
    return (
        np.mean([f.estimate.low <= 0 <= f.estimate.high for f in found]),
        np.mean([low <= 0 <= high for low, high in plain]),
    )


@pytest.mark.parametrize("by_seed", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_other_seeds_and_other_questions(seeds, by_seed):
    covered, plain = crossed_coverage(seeds, by_seed)
    assert 0.90 <= covered <= 0.98
    # As drawn they are too narrow where seeds matter most.
    assert plain < 0.90 or by_seed < 0.2


def test_two_seeds_are_few_but_better_than_one():
    covered, plain = crossed_coverage(2, 0.2)
    assert covered > 0.83 and plain < 0.75
    rng = np.random.default_rng(16)
    alone = [
        crossed_difference(table(rng, 1, 200, 0.2, 0.3, 0.5), np.zeros((1, 200)), seed=i, draws=200).estimate
        for i in range(200)
    ]
    assert np.mean([low <= 0 <= high for _, low, high, _ in alone]) < 0.5


def test_one_seed_is_the_question_bootstrap():
    rng = np.random.default_rng(17)
    a, b = rng.random((1, 80)) < 0.6, rng.random((1, 80)) < 0.4
    clusters = rng.integers(0, 30, 80)
    found = crossed_difference(a, b, seed=3)
    assert found.estimate == bootstrap_difference(a[0], b[0], seed=3)
    assert found.detectable == pytest.approx(detectable(a[0], b[0]), rel=1e-12)
    together = crossed_difference(a, b, clusters=clusters, seed=3)
    assert together.estimate == bootstrap_difference(a[0], b[0], clusters=clusters, seed=3)


def test_equal_seeds_are_one_seed():
    rng = np.random.default_rng(18)
    a, b = rng.random(300) < 0.6, rng.random(300) < 0.5
    found = crossed_difference(np.tile(a, (4, 1)), np.tile(b, (4, 1)), seed=0, draws=4000)
    alone = bootstrap_difference(a, b, seed=0, draws=4000)
    assert (found.seed, found.rest) == pytest.approx((0, 0), abs=1e-12)
    np.testing.assert_allclose(found.estimate[:3], alone[:3], atol=0.004)
    assert found.detectable == pytest.approx(detectable(a, b), rel=1e-9)


def test_crossed_clusters_are_resampled_whole():
    rng = np.random.default_rng(19)
    clusters = np.repeat(np.arange(40), 5)
    units = table(rng, 4, 40, 0.1, 1.0, 0.2)
    a = np.repeat(units, 5, axis=1)
    whole = crossed_difference(a, 0 * a, clusters=clusters, seed=0)
    small = crossed_difference(units, 0 * units, seed=0)
    np.testing.assert_allclose(whole.estimate, small.estimate, rtol=1e-9)
    assert whole.estimate.n == 40
    assert (whole.seed, whole.question, whole.rest) == pytest.approx((small.seed, small.question, small.rest))
    apart = crossed_difference(a, 0 * a, seed=0)
    assert apart.error < 0.7 * whole.error


def test_seeds_that_do_not_differ_make_no_interval():
    found = crossed_difference(np.full((3, 9), 0.75), np.full((3, 9), 0.5), seed=0)
    assert found.estimate == Estimate(0.25, 0.25, 0.25, 9)
    assert (found.error, found.detectable) == (0, 0)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: detectable(np.ones(3), np.ones(4)), "3 and 4 values"),
        (lambda: detectable(np.ones(1), np.ones(1)), "at least 2"),
        (lambda: crossed_difference(np.ones((2, 5)), np.ones((3, 5)), seed=0), "2 and 3 seeds"),
        (lambda: crossed_difference(np.ones((2, 5)), np.ones((2, 4)), seed=0), "5 and 4 questions"),
        (lambda: crossed_difference(np.ones((0, 5)), np.ones((0, 5)), seed=0), "no seeds"),
        (lambda: crossed_difference(np.ones((2, 1)), np.ones((2, 1)), seed=0), "at least 2"),
        (lambda: crossed_difference(np.full((2, 3), np.nan), np.ones((2, 3)), seed=0), "Item 0"),
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


@pytest.mark.parametrize(("right", "of"), [(0, 12), (12, 12), (7, 40), (1, 1)])
def test_a_proportion_is_statsmodels_wilson(right, of):
    found = proportion(np.arange(of) < right)
    assert found[1:3] == pytest.approx(proportion_confint(right, of, method="wilson"), abs=1e-12)
    assert found.value == right / of and found.n == of and found.low < found.high


def test_a_proportion_of_nothing_is_refused():
    with pytest.raises(UserError, match="A share of nothing"):
        proportion(np.zeros(0, dtype=bool))


def test_the_p_value_of_an_interval():
    assert interval_p(1.959963984540054, 0.0, 2 * 1.959963984540054) == pytest.approx(0.05)
    assert interval_p(0.0, -1.0, 1.0) == 1.0 == interval_p(0.0, 0.0, 0.0) and interval_p(1.0, 1.0, 1.0) == 0.0
