"""Screening decides as float64 does: the bounds hold, and what is near a threshold is compared exactly."""

import math

import numpy as np
import pytest
import torch

from paribus.analysis import screen
from paribus.analysis.disagreement import Cosines, Mined, Percentiles, mine
from paribus.analysis.screen import Bounds, Rows
from paribus.analysis.tiles import plan
from paribus.errors import UserError

_BF16_PAYS = screen._bf16_pays
both = pytest.mark.parametrize("low", [True, False], ids=["bf16", "float32"])


@pytest.fixture(autouse=True)
def _bf16(monkeypatch):
    monkeypatch.setattr(screen, "_bf16_pays", lambda device: True)


def rows_of(kind: str, n: int = 90, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, width))
    if kind == "offset":
        return x + 4.0
    if kind == "heavy":
        return x * np.exp(3 * rng.normal(size=x.shape))
    if kind == "positive":
        return np.abs(x) ** 4
    if kind == "unlucky":  # all entries round the same way, and all errors add up
        x = np.where(rng.random(x.shape) < 0.5, 1.0, 1.0 + 2.0**-8 - 2.0**-12)
        return x * np.sign(rng.normal(size=(n, 1)))
    if kind == "scales":
        x *= 10.0 ** rng.integers(-30, 30, size=(n, 1))
        x[5] = 0.0
    return x


def exact(x: np.ndarray) -> np.ndarray:
    """Cosines of all pairs in extended precision."""
    wide = x.astype(np.longdouble)
    norms = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    wide = wide / np.where(norms > 0, norms, 1)
    return (wide @ wide.T).astype(np.float64)


@both
@pytest.mark.parametrize("kind", ["plain", "offset", "heavy", "positive", "unlucky", "scales"])
def test_cosines_lie_in_their_intervals_and_reach_misses_none(kind, low, monkeypatch):
    monkeypatch.setattr(screen, "_bf16_pays", lambda device: low)
    x = rows_of(kind)
    rows, tile = Rows(x, np.arange(len(x))), plan(len(x), 100, None, 0).tiles[0]
    seen = screen._Screen(rows, Bounds(-1.0, 1.0), len(x) ** 2, "cpu")
    seen.look(tile)
    assert seen.digits == (8 if low else 24)
    cosine = exact(x).ravel()
    between = seen.interval(torch.arange(len(cosine)))
    assert (between[:, 0] <= cosine).all() and (cosine <= between[:, 1]).all()
    assert (between[:, 1] - between[:, 0]).max() < (0.03 if low else 1e-3)
    for bound in [-1.0, -0.3, -1e-3, 0.0, 1e-6, 0.004, 0.3, 0.95, *cosine[:: len(cosine) // 50]]:
        found = seen.reach(float(bound)).numpy()
        assert set(np.flatnonzero(cosine >= bound)) <= set(found)
        assert (between[found, 1] >= bound - (0.03 if low else 1e-3)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_cosine_has_the_same_bits_in_any_company(dtype):
    x = rows_of("plain", 300, 77).astype(dtype)
    images = np.random.default_rng(0).permutation(300)[:200]
    rows = Rows(x, images)
    i, j = np.triu_indices(200, 1)
    found = rows.cosines(i, j)
    for at in np.random.default_rng(1).integers(0, len(i), 60):
        assert rows.cosines(i[at : at + 1], j[at : at + 1])[0] == found[at]
        assert rows.cosines(j[at : at + 1], i[at : at + 1])[0] == found[at]
    np.testing.assert_allclose(found, exact(x[images])[i, j], atol=4e-16)


def encoders(n: int, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32, as encoders give; ``copies`` has rows that are the same or nearly, so that cosines tie."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 8))
    a, b = (
        np.concatenate([common, rng.normal(size=(n, 8))], axis=1) @ rng.normal(size=(16, w)) for w in (48, 33)
    )
    if kind == "offset":
        a, b = a + 12.0, b - 7.0
    if kind == "copies":
        a, b = a[rng.integers(0, n // 3, n)], b[rng.integers(0, n // 3, n)]
        b[::5] += 1e-6 * rng.normal(size=b[::5].shape)
    return a.astype(np.float32), b.astype(np.float32)


def unscreened(a: np.ndarray, b: np.ndarray, thresholds: Cosines) -> list[int]:
    """Pairs beyond both thresholds by float64 cosines of each pair, a's and b's."""
    i, j = np.triu_indices(len(a), 1)
    one, other = (Rows(x, np.arange(len(x))).cosines(i, j) for x in (a, b))
    return [
        int(((hot >= h[1]) & (cold <= c[0])).sum())
        for hot, cold, h, c in ((one, other, *thresholds), (other, one, *thresholds[::-1]))
    ]


def candidates(found: Mined) -> list[int]:
    return [found.counts["a_high_candidates"], found.counts["b_high_candidates"]]


def same(one: Mined, other: Mined) -> None:
    """To the last bit."""
    assert (one.counts, one.thresholds, one.pairs) == (other.counts, other.thresholds, other.pairs)
    for ours, theirs in zip([*one.a_high, *one.b_high], [*other.a_high, *other.b_high], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@both
@pytest.mark.parametrize("kind", ["plain", "offset", "copies"])
@pytest.mark.parametrize("pool", [30, 1 << 18])
def test_screened_decisions_are_those_of_float64(kind, low, pool, monkeypatch):
    monkeypatch.setattr(screen, "_bf16_pays", lambda device: low)
    monkeypatch.setattr("paribus.analysis.search._POOL", pool)
    a, b = encoders(260, kind)
    found = mine(a, b, thresholds=Percentiles(60.0, 85.0), keep=70, per_image=4, tile=64)
    at = Cosines(*found.thresholds.values())  # of some pair to the last bit
    assert candidates(found) == unscreened(a, b, at)
    assert min(candidates(found)) > 100
    monkeypatch.setattr("paribus.analysis.search._POOL", 1 << 18)
    monkeypatch.setattr(screen._Screen, "reach", lambda self, bound: torch.arange(self.tile.numel()))
    monkeypatch.setattr(
        screen._Screen, "interval", lambda self, at: np.tile([-math.inf, math.inf], (len(at), 1))
    )  # nothing is decided without float64
    same(found, mine(a, b, thresholds=Percentiles(60.0, 85.0), keep=70, per_image=4, tile=100))
    sampled = mine(a, b, thresholds=at, keep=70, sample=2_000)
    assert candidates(sampled) == candidates(found)


def test_thresholds_that_are_near_are_screened_in_float32():
    x = rows_of("plain").astype(np.float32)
    assert screen._Screen(Rows(x, np.arange(90)), Bounds(0.9, 0.91), 1, "cpu").digits == 24
    assert screen._Screen(Rows(x, np.arange(90)), Bounds(0.5, 0.7), 1, "cpu").digits == 8


def test_products_that_are_not_as_good_as_they_should_be_are_noticed(monkeypatch):
    really = torch.mm

    def wrong(x, y, out):
        return out.copy_(really(x, y) + 0.05)

    monkeypatch.setattr(torch, "mm", wrong)
    with pytest.raises(UserError, match="less exact than they should be"):
        mine(*encoders(100, "plain"), thresholds=Percentiles(60.0, 85.0), keep=5)


def test_precision_that_others_have_set_is_not_used_and_comes_back(monkeypatch):
    really, seen = torch.mm, set()

    def seeing(x, y, out):
        seen.add(torch.get_float32_matmul_precision())
        return really(x, y, out=out)

    monkeypatch.setattr(torch, "mm", seeing)
    monkeypatch.setattr(screen, "_bf16_pays", lambda device: False)
    torch.set_float32_matmul_precision("medium")
    try:
        mine(*encoders(120, "plain"), keep=9)
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_bf16_is_for_cpus_that_are_fast_at_it():
    assert not _BF16_PAYS("cuda") and not _BF16_PAYS("mps")
    assert _BF16_PAYS("cpu") in (True, False)


def test_features_may_lie_in_any_order():
    a, b = encoders(120, "plain")
    odd = np.zeros((240, 33), np.float32)[::2]
    odd[:] = b
    same(mine(a, b, keep=9), mine(np.asfortranarray(a), odd, keep=9))
    assert not Rows(odd, np.arange(120)).features.strides[0] > 33 * 4


def test_features_that_are_not_finite_are_named():
    a, b = encoders(40, "plain")
    b[17, 3] = np.nan
    with pytest.raises(UserError, match="image 17 are not finite"):
        mine(a, b, keep=5)
