"""Similarity measures against loop-form float64 programs."""

import numpy as np
import pytest

from paribus.analysis.similarity import (
    alignment,
    centred_unit,
    effective_rank,
    linear_cka,
    mutual_neighbours,
    uniformity,
    unit,
)
from paribus.errors import UserError

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 7)).astype(np.float32)
B = (A[:, :5] @ RNG.normal(size=(5, 9)) + RNG.normal(size=(30, 9))).astype(np.float32)


def loop_unbiased_hsic(k: np.ndarray, h: np.ndarray) -> float:
    """Song et al. 2012, equation 5, as sums over distinct indices."""
    n = len(k)
    trace = sum(k[i, j] * h[j, i] for i in range(n) for j in range(n) if i != j)
    k_sum = sum(k[i, j] for i in range(n) for j in range(n) if i != j)
    h_sum = sum(h[i, j] for i in range(n) for j in range(n) if i != j)
    middle = sum(k[i, j] * h[j, m] for i in range(n) for j in range(n) for m in range(n) if i != j and j != m)
    return (trace + k_sum * h_sum / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)) / (n * (n - 3))


def loop_cka(a: np.ndarray, b: np.ndarray) -> float:
    k, h = a.astype(float) @ a.T.astype(float), b.astype(float) @ b.T.astype(float)
    return loop_unbiased_hsic(k, h) / np.sqrt(loop_unbiased_hsic(k, k) * loop_unbiased_hsic(h, h))


def test_cka_is_the_loop():
    assert linear_cka(A, B) == pytest.approx(loop_cka(A, B), rel=1e-9)


def test_cka_ignores_rotation_scale_and_shift():
    rotation = np.linalg.qr(RNG.normal(size=(7, 7)))[0]
    assert linear_cka(A, (3 * A @ rotation + 5).astype(np.float32)) == pytest.approx(1.0, abs=1e-5)


def test_cka_of_unrelated_features_is_near_zero_even_when_wide():
    wide = [np.random.default_rng(s).normal(size=(60, 2000)).astype(np.float32) for s in (1, 2)]
    assert abs(linear_cka(*wide)) < 0.05


def test_unit_and_centred_unit():
    rows = unit(A)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows[3], A[3] / np.sqrt(sum(v * v for v in A[3].tolist())), rtol=1e-6)
    shifted = centred_unit((A + 100).astype(np.float32))
    np.testing.assert_allclose(shifted, unit(A - A.mean(axis=0)), atol=1e-4)
    np.testing.assert_array_equal(unit(np.zeros((2, 3))), np.zeros((2, 3)))


def test_mutual_neighbours_are_the_loop():
    def nearest(x: np.ndarray, i: int, k: int) -> set[int]:
        cosine = [
            x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) if j != i else -2 for j in range(len(x))
        ]
        return set(sorted(range(len(x)), key=lambda j: -cosine[j])[:k])

    a, b = A.astype(float), B.astype(float)
    expected = [len(nearest(a, i, 4) & nearest(b, i, 4)) / 4 for i in range(len(a))]
    np.testing.assert_allclose(mutual_neighbours(A, B, k=4), expected)
    np.testing.assert_array_equal(mutual_neighbours(A, A, k=4), np.ones(30))


def test_uniformity_is_the_loop():
    x = A.astype(float) / np.linalg.norm(A.astype(float), axis=1, keepdims=True)
    potentials = [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(30) for j in range(30) if i != j]
    assert uniformity(A) == pytest.approx(np.log(np.mean(potentials)), rel=1e-9)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-12)


def test_effective_rank():
    values = np.linalg.svd(A.astype(float))[1]
    share = values / values.sum()
    assert effective_rank(A) == pytest.approx(np.exp(-sum(p * np.log(p) for p in share)), rel=1e-9)
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    assert effective_rank(np.outer(np.arange(1.0, 5), np.ones(3))) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: unit(np.array([[1.0, 2.0], [np.nan, 0.0]])), "image 1"),
        (lambda: linear_cka(A[:3], B[:3]), "at least 4"),
        (lambda: linear_cka(np.ones((9, 2)), B[:9]), "collapsed"),
        (lambda: mutual_neighbours(A, B, k=30), "k=30"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(UserError, match=names):
        call()


def test_alignment_is_twice_what_the_cosine_lacks():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 30, 7)).astype(np.float32)
    cosines = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(alignment(a, b), 2 - 2 * np.array(cosines), rtol=1e-5)
    np.testing.assert_allclose(alignment(a, 3 * a), 0, atol=1e-12)
