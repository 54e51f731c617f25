"""The symbol test against loops over pairs, and what its numbers mean."""

import numpy as np
import pytest

from paribus.analysis.symbols import mean_cosine, symbol_difference, symbol_test
from paribus.errors import UserError
from paribus.stats import resample_counts


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y))


def loop(grid: np.ndarray, baseline: np.ndarray, w: np.ndarray, v: np.ndarray) -> list[float]:
    """The five numbers, symbols weighted by w and baseline images by v, as explicit weighted pairs."""
    symbols, styles, _ = grid.shape
    per_style = []
    for t in range(styles):
        pairs = [(i, j) for i in range(symbols) for j in range(symbols) if i != j]
        weights = [w[i] * w[j] for i, j in pairs]
        per_style.append(np.average([cosine(grid[i, t], grid[j, t]) for i, j in pairs], weights=weights))
    own = [
        np.mean([cosine(g[t], g[u]) for t in range(styles) for u in range(styles) if t != u]) for g in grid
    ]
    pairs = [(i, j) for i in range(len(baseline)) for j in range(i)]
    base = np.average(
        [cosine(baseline[i], baseline[j]) for i, j in pairs], weights=[v[i] * v[j] for i, j in pairs]
    )
    distinct, same = float(np.mean(per_style)), float(np.average(own, weights=w))
    return [distinct, same, float(base), (distinct - base) / (1 - base), (same - base) / (1 - base)]


RNG = np.random.default_rng(0)
GRID = RNG.normal(size=(8, 3, 6)) + 1.0
BASE = RNG.normal(size=(12, 6)) + 0.5


def test_values_are_the_loop():
    found = symbol_test(GRID.astype(np.float32), BASE.astype(np.float32), seed=0)
    expected = loop(GRID, BASE, np.ones(8), np.ones(12))
    np.testing.assert_allclose([estimate.value for estimate in found], expected, rtol=1e-5)
    assert [estimate.n for estimate in found] == [8, 8, 12, 8, 8]


def test_intervals_are_the_loop_over_draws():
    found = symbol_test(GRID, BASE, seed=3, draws=60)
    weights = zip(resample_counts(8, seed=3, draws=60), resample_counts(12, seed=3, draws=60), strict=True)
    draws = np.array([loop(GRID, BASE, w, v) for w, v in weights])
    expected = np.percentile(draws, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose([[e.low, e.high] for e in found], expected, rtol=1e-9)


def test_closed_form_mean_is_the_mean_of_off_diagonal_cosines():
    rows = BASE / np.linalg.norm(BASE, axis=1, keepdims=True)
    off = [cosine(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    assert mean_cosine(np.ones((1, 12)), rows)[0] == pytest.approx(np.mean(off), rel=1e-12)
    assert np.isnan(mean_cosine(np.eye(12)[:1] * 12, rows)[0])


def identity_and_style(identity: float, style: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    symbols, styles = rng.normal(size=(30, 1, 64)) * identity, rng.normal(size=(1, 4, 64)) * style
    return symbols + styles, rng.normal(size=(200, 64))


def test_an_encoder_of_style_finds_distinct_symbols_alike():
    seer, blind = identity_and_style(2.0, 0.5), identity_and_style(0.5, 2.0)
    reader, stylist = symbol_test(*seer, seed=0), symbol_test(*blind, seed=0)
    assert reader.distinct.high < stylist.distinct.low
    assert reader.same.low > stylist.same.high
    assert reader.same_contrast.low > reader.distinct_contrast.high
    difference = symbol_difference(*seer, *blind, seed=0)
    assert difference.distinct.high < 0 < difference.same.low
    assert difference.distinct.value == pytest.approx(reader.distinct.value - stylist.distinct.value)


def test_contrast_ignores_a_common_offset_that_raises_every_cosine():
    grid, baseline = identity_and_style(1.0, 1.0)
    offset = np.zeros(64)
    offset[0] = 20.0
    plain, shifted = (
        symbol_test(grid, baseline, seed=0),
        symbol_test(grid + offset, baseline + offset, seed=0),
    )
    assert shifted.distinct.value - plain.distinct.value > 0.3
    assert plain.baseline.value < 0.05 < 0.8 < shifted.baseline.value
    # The grid's rows are longer than the baseline's by sqrt(2), which the offset shrinks differently.
    assert abs(shifted.distinct_contrast.value) < 0.35 * shifted.distinct.value


def test_an_encoder_differs_from_itself_by_exactly_nothing():
    for estimate in symbol_difference(GRID, BASE, GRID, BASE, seed=0, draws=50):
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("grid", "baseline", "names"),
    [
        (GRID[:4], BASE, "4 symbols"),
        (GRID[:, :1], BASE, "1 styles"),
        (GRID, BASE[:2], "2 baseline"),
        (GRID, np.ones((9, 6)), "collapsed"),
    ],
)
def test_bad_input_is_named(grid, baseline, names):
    with pytest.raises(UserError, match=names):
        symbol_test(grid, baseline, seed=0)
