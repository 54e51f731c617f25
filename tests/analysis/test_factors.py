"""Factor effects against statsmodels on the table of pairs, and the bootstrap against a slow loop."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm

from paribus.analysis.factors import factor_difference, factor_effects, shares, subsample
from paribus.errors import UserError
from paribus.stats import resample_counts


def world(n: int = 48, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features of concept, subgroup and style; concepts are nested, and few images have a text."""
    rng = np.random.default_rng(seed)
    concept, style = rng.integers(0, 12, n), rng.integers(0, 4, n)
    codes = {"c": rng.normal(size=(12, 16)), "g": rng.normal(size=(4, 16)), "s": rng.normal(size=(4, 16))}
    features = codes["c"][concept] + 0.7 * codes["g"][concept // 3] + 0.8 * codes["s"][style]
    factors = {
        "concept": np.array([f"c{c}" for c in concept]),
        "subgroup": np.array([f"g{c // 3}" for c in concept]),
        "style": np.array([f"s{s}" for s in style]),
        "text": np.array([f"t{t}" if t < 3 else "" for t in rng.integers(0, 8, n)]),
    }
    return (features + rng.normal(size=(n, 16)) + 1.0).astype(np.float32), factors


def pair_table(
    features: np.ndarray, factors: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, indicators and image indices of all pairs, one by one."""
    cosines, indicators, indices = [], [], []
    for i, j in itertools.combinations(range(len(features)), 2):
        x, y = features[i].astype(float), features[j].astype(float)
        cosines.append(x @ y / np.sqrt((x @ x) * (y @ y)))
        indicators.append([labels[i] == labels[j] and labels[i] != "" for labels in factors.values()])
        indices.append((i, j))
    return np.array(cosines), np.array(indicators, float), np.array(indices)


def reference(
    cosine: np.ndarray, indicators: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Standardised coefficients, drop-one R2 and R2 by statsmodels' weighted least squares."""
    mean = np.average(cosine, weights=weights)
    y = (cosine - mean) / np.sqrt(np.average((cosine - mean) ** 2, weights=weights))
    full = sm.WLS(y, sm.add_constant(indicators), weights=weights).fit()
    without = [
        sm.WLS(y, sm.add_constant(np.delete(indicators, f, axis=1)), weights=weights).fit().rsquared
        for f in range(indicators.shape[1])
    ]
    return full.params[1:], full.rsquared - np.array(without), full.rsquared


def values(estimates: dict) -> list[float]:
    return [estimate.value for estimate in estimates.values()]


def test_coefficients_and_r2_are_those_of_ols_on_the_pair_table():
    features, factors = world()
    found = factor_effects(features, factors, seed=0, draws=20)
    cosine, indicators, _ = pair_table(features, factors)
    coefficient, unique, r2 = reference(cosine, indicators, np.ones(len(cosine)))
    assert list(found.coefficient) == list(factors)
    np.testing.assert_allclose(values(found.coefficient), coefficient, rtol=1e-9)
    np.testing.assert_allclose(values(found.unique_r2), unique, rtol=1e-7)
    assert found.r2.value == pytest.approx(r2, rel=1e-9)
    assert (found.images, found.pairs) == (48, 48 * 47 // 2)
    assert list(found.shared.values()) == indicators.sum(axis=0).astype(int).tolist()
    assert found.coefficient["style"].n == 48


def assert_ends(found: dict, draws: list | np.ndarray, coefficient: dict | None = None) -> None:
    """Ends of intervals are percentiles of draws, but that unique R2 begins at 0 with its coefficient."""
    expected = np.percentile(np.array(draws), [2.5, 97.5], axis=0).T
    for row, estimate in zip(expected, (coefficient or {}).values(), strict=False):
        row[0] = 0 if estimate.low <= 0 <= estimate.high else row[0]
    ends = [[e.low, e.high] for e in found.values()]
    np.testing.assert_allclose(ends, expected, rtol=1e-6, atol=1e-9)


def test_the_bootstrap_is_the_slow_loop_over_images():
    features, factors = world()
    found = factor_effects(features, factors, seed=5, draws=40)
    cosine, indicators, indices = pair_table(features, factors)
    coefficients, uniques = [], []
    for counts in resample_counts(48, seed=5, draws=40):
        weights = counts[indices[:, 0]] * counts[indices[:, 1]]
        drawn = weights > 0
        coefficient, unique, _ = reference(cosine[drawn], indicators[drawn], weights[drawn])
        coefficients.append(coefficient)
        uniques.append(unique)
    assert_ends(found.coefficient, coefficients)
    assert_ends(found.unique_r2, uniques, found.coefficient)


def test_difference_uses_the_same_draws():
    features, factors = world()
    other = features[:, ::-1] ** 2
    found = factor_difference(features, other, factors, seed=1, draws=50)
    a, b = (factor_effects(x, factors, seed=1, draws=50) for x in (features, other))
    assert found.a == a
    assert found.b == b
    np.testing.assert_allclose(
        values(found.coefficient), np.subtract(values(a.coefficient), values(b.coefficient)), atol=1e-12
    )
    same = factor_difference(features, features * 3, factors, seed=1, draws=50)
    for estimate in [*same.coefficient.values(), *same.unique_r2.values()]:
        np.testing.assert_allclose(estimate[:3], 0, atol=1e-6)


def test_nested_concept_adds_only_what_is_beyond_its_subgroup():
    rng = np.random.default_rng(3)
    concept = np.repeat(np.arange(24), 6)
    factors = {"concept": concept.astype(str), "subgroup": (concept // 4).astype(str)}
    coarse = rng.normal(size=(6, 32))[concept // 4] + 0.6 * rng.normal(size=(144, 32))
    fine = coarse + rng.normal(size=(24, 32))[concept]
    only_subgroup = factor_effects(coarse, factors, seed=0, draws=200).coefficient
    both = factor_effects(fine, factors, seed=0, draws=200).coefficient
    assert only_subgroup["concept"].low < 0 < only_subgroup["concept"].high
    assert only_subgroup["subgroup"].low > 1
    assert both["concept"].low > 1


def test_interval_covers_the_population_value():
    """Pairs within a resample are dependent; resampling images, not pairs, must still cover at about 95%."""

    def draw(n: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        style = rng.integers(0, 4, n)
        centres = np.random.default_rng(99).normal(size=(4, 6))
        return centres[style] + rng.normal(size=(n, 6)), {"style": style.astype(str)}

    features, factors = draw(1500, 12345)
    truth = factor_effects(features, factors, seed=0, draws=2, limit=1500).coefficient["style"].value
    covered = 0
    for run in range(150):
        features, factors = draw(80, run)
        found = factor_effects(features, factors, seed=run, draws=200).coefficient["style"]
        covered += found.low <= truth <= found.high
    assert covered / 150 >= 0.91


def test_empty_values_are_never_shared():
    same = shares(np.array(["a", "", "a", "", "b"]))
    assert np.argwhere(same).tolist() == [[0, 2], [2, 0]]
    np.testing.assert_array_equal(shares(np.array(["a", "", "a", "", "b"]), slice(2, 4)), same[2:4])


def test_useless_factors_are_left_out_with_a_reason():
    features, factors = world()
    factors = {
        **factors,
        "none": np.full(48, ""),
        "all": np.full(48, "x"),
        "copy": factors["style"].copy(),
        "unique": np.arange(48).astype(str),
    }
    found = factor_effects(features, factors, seed=0, draws=10)
    assert list(found.coefficient) == ["concept", "subgroup", "style", "text"]
    assert found.left_out["none"] == found.left_out["unique"] == "no pair shares it"
    assert found.left_out["all"] == "every pair shares it"
    assert "determined by" in found.left_out["copy"]


def test_a_factor_too_rare_for_some_draws_still_has_an_interval():
    features, factors = world()
    rare = np.full(48, "", dtype="<U3")
    rare[:2] = "x"
    found = factor_effects(features, {**factors, "rare": rare}, seed=0, draws=200).coefficient["rare"]
    assert found.value != 0
    assert found.low <= 0 <= found.high  # most draws miss the only pair, and then say nothing


def test_subsample_keeps_whole_concepts():
    concept = np.repeat([f"c{c:03}" for c in range(300)], 10)
    rows = subsample({"concept": concept}, limit=400, seed=0)
    _, sizes = np.unique(concept[rows], return_counts=True)
    assert len(rows) == 400
    assert (sizes == 4).all()  # 400 / 100 concepts
    rows = subsample({"style": np.tile(["a", "b"], 1500), "concept": concept}, limit=1200, seed=0)
    _, sizes = np.unique(concept[rows], return_counts=True)
    assert (sizes == 10).all()
    assert len(sizes) == 120
    assert (rows != subsample({"concept": concept}, limit=1200, seed=1)).any()
    np.testing.assert_array_equal(subsample({"concept": concept}, limit=3000, seed=0), np.arange(3000))


def test_subsample_of_few_large_concepts_has_all_of_them():
    concept = np.repeat(list("abcdefghij"), 500)
    rows = subsample({"concept": concept}, limit=1200, seed=0)
    _, sizes = np.unique(concept[rows], return_counts=True)
    assert (sizes == 120).all()
    assert len(np.unique(rows)) == 1200
    alone = subsample({"concept": np.full(50, "")}, limit=20, seed=0)
    assert len(np.unique(alone)) == 20


def test_effects_run_on_the_subsample():
    features, factors = world(n=200)
    rows = subsample(factors, limit=60, seed=2)
    small = factor_effects(features[rows], {f: v[rows] for f, v in factors.items()}, seed=2, draws=30)
    assert factor_effects(features, factors, seed=2, draws=30, limit=60) == small


# Factors that are numbers of pairs.


def with_numbers(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The world, its labels, and two numbers of each pair: one that matters and one that does not."""
    features, labels = world(seed=seed)
    rng = np.random.default_rng(seed + 50)
    places = rng.normal(size=(2, len(features), 3))
    distances = [-np.linalg.norm(x[:, None] - x[None], axis=2) for x in places]
    moved = np.concatenate([features, 2 * places[0]], axis=1).astype(np.float32)
    return moved, labels, {"near": 40 * distances[0] + 7, "noise": distances[1]}


def slow_loop(features: np.ndarray, labels: dict, numbers: dict, seed: int, draws: int) -> np.ndarray:
    """Coefficients, betas and unique R2 of every draw by weighted least squares over the pairs drawn."""
    cosine, indicators, indices = pair_table(features, labels)
    values = np.array([[alike[i, j] for alike in numbers.values()] for i, j in indices])
    out = []
    for counts in resample_counts(len(features), seed=seed, draws=draws):
        weights = counts[indices[:, 0]] * counts[indices[:, 1]]
        drawn = weights > 0
        w, columns = weights[drawn], np.concatenate([indicators, values], axis=1)[drawn]
        step = columns - np.average(columns, axis=0, weights=w)
        spread = np.sqrt(np.average(step**2, axis=0, weights=w))
        coefficient, unique, _ = reference(cosine[drawn], columns, w)
        beta = coefficient * spread
        out.append([np.append(coefficient[: len(labels)], beta[len(labels) :]), beta, unique])
    return np.array(out)


def test_the_bootstrap_of_numbers_is_the_slow_loop_over_images():
    features, labels, numbers = with_numbers()
    other = features[:, ::-1] ** 2
    found = factor_difference(features, other, {**labels, **numbers}, seed=5, draws=40)
    a, b = (slow_loop(x, labels, numbers, 5, 40) for x in (features, other))
    for side, draws in ((found.a, a), (found.b, b), (found, a - b)):
        assert_ends(side.coefficient, draws[:, 0])
        assert_ends(side.beta, draws[:, 1])
        assert_ends(side.unique_r2, draws[:, 2], None if side is found else side.coefficient)


def test_numbers_have_no_unit_and_leave_labels_as_they_were():
    features, labels, numbers = with_numbers()
    found = factor_effects(features, {**labels, **numbers}, seed=1, draws=50)
    scaled = {name: 1000 * alike - 3 for name, alike in numbers.items()}
    again = factor_effects(features, {**labels, **scaled}, seed=1, draws=50)
    for name in found.coefficient:
        np.testing.assert_allclose(again.coefficient[name], found.coefficient[name], atol=1e-9)
    for name in numbers:
        assert found.coefficient[name] == pytest.approx(found.beta[name])
    assert set(found.shared) == set(labels)
    assert found.beta["near"].low > 0.1 > found.beta["noise"].value
    told = factor_effects(features, labels, seed=1, draws=50)
    constant = factor_effects(features, {**labels, "flat": np.ones((48, 48))}, seed=1, draws=50)
    assert constant.coefficient == told.coefficient and constant.unique_r2 == told.unique_r2
    assert constant.left_out == {"flat": "all pairs are equally alike in it"}


@pytest.mark.parametrize("count", [4, 8])
def test_of_few_images_intervals_are_finite(count):
    """Draws that hold one image, or one pair, among them."""
    rng = np.random.default_rng(0)
    features, alike = rng.normal(size=(count, 5)), rng.normal(size=(count, count))
    factors = {"near": alike + alike.T, "half": np.where(np.arange(count) < count // 2, "a", "b")}
    for seed in range(20):
        found = factor_effects(features, factors, seed=seed)
        estimates = [*found.beta.values(), *found.coefficient.values(), *found.unique_r2.values(), found.r2]
        assert np.isfinite(estimates).all()
        assert max(abs(e.low) for e in estimates) < 1e3


def test_unique_r2_reaches_zero_where_the_coefficient_does():
    features, labels, numbers = with_numbers()
    found = factor_effects(features, {**labels, **numbers}, seed=2, draws=200)
    assert found.coefficient["noise"].low < 0 < found.coefficient["noise"].high
    assert found.unique_r2["noise"].low == 0 < found.unique_r2["noise"].value
    assert found.unique_r2["near"].low > 0


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (np.ones((4, 5)), r"shape \[4, 5\]"),
        (np.ones((4, 4), dtype=int), "int64"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.triu(np.ones((4, 4))), "not the same both ways"),
    ],
)
def test_bad_numbers_are_named(numbers, names):
    with pytest.raises(UserError, match=names):
        factor_effects(np.eye(4), {"colour": numbers}, seed=0, draws=5)


@pytest.mark.parametrize(
    ("features", "factors", "names"),
    [
        (np.ones((4, 2)), {}, "no factors"),
        (np.ones((4, 2)), {"style": np.array(["a"] * 3)}, "'style' has 3 values for 4"),
        (np.ones((4, 2)), {"style": np.arange(4)}, "'style' holds int64"),
        (np.eye(4), {"style": np.array(list("abcd"))}, "style: no pair shares it"),
        (np.ones((4, 2)), {"style": np.array(list("aabb"))}, "collapsed"),
    ],
)
def test_bad_input_is_named(features, factors, names):
    with pytest.raises(UserError, match=names):
        factor_effects(features, factors, seed=0, draws=5)
