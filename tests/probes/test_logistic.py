"""Logistic regression against scikit-learn's optimum, and against leaking."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression

from paribus.errors import UserError
from paribus.probes import logistic
from paribus.probes.heads import Standard
from paribus.probes.logistic import Regression, fit_logistic

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    x, y = x[rows], y[rows].astype(np.int64)
    return (x[:1200], y[:1200], np.arange(1200)), (x[1200:], y[1200:])


def digit_probe(**given):
    (x, y, groups), _ = digits()
    return fit_logistic(x, y, groups, 10, STRENGTHS, 0, **given)


def problem(name):
    """Standardised features in float64, and classes: digits, more classes than width, no overlap, noise."""
    rng = np.random.default_rng(0)
    if name == "digits":
        x, y = digits()[0][:2]
    elif name == "many classes":
        x, y = make_blobs(900, 6, centers=30, cluster_std=3.0, random_state=0)
    elif name == "separable":
        x, y = make_blobs(300, 5, centers=4, cluster_std=0.2, random_state=1)
    elif name == "wide":
        x, y = rng.normal(size=(80, 200)), rng.integers(0, 5, 80)
    elif name == "unbalanced":
        y = np.repeat(np.arange(4), [500, 50, 10, 2])
        x = rng.normal(size=(562, 8)) @ rng.normal(size=(8, 8)) + y[:, None]
    else:
        x, y = rng.normal(size=(300, 12)), rng.integers(0, 3, 300)
    z = torch.from_numpy(np.ascontiguousarray(x))
    return Standard.of(z)(z), torch.from_numpy(y.astype(np.int64))


def objective(x, y, weight, bias, strength):
    """scikit-learn's, over (strength times samples), by torch."""
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    return float(loss + 0.5 * weight.square().sum() / (strength * len(x)))


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", ["digits", "many classes", "separable", "wide", "unbalanced", "noise"])
def test_reaches_scikit_learns_optimum(name, strength):
    x, y = problem(name)
    classes = int(y.max()) + 1
    peer = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000).fit(x.numpy(), y.numpy())
    regression = Regression(x, y, classes)
    ours = regression.minimise(strength, regression.zero(), 1e-12)
    weight, bias = ours.heads.weight[0], ours.heads.bias[0]
    theirs = objective(x, y, torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_), strength)
    assert objective(x, y, weight, bias, strength) == pytest.approx(ours.loss, abs=1e-12)
    assert abs(ours.loss - theirs) < 1e-8
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-4 * np.abs(peer.coef_).max() + 1e-6)


def test_two_classes_are_scikit_learns_at_twice_the_strength():
    """Its one vector w is our (-w / 2, w / 2), whose penalty is half of w's."""
    x, y = problem("noise")
    x, y = x[y < 2], y[y < 2]
    peer = LogisticRegression(C=0.2, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    regression = Regression(x, y, 2)
    ours = regression.minimise(0.1, regression.zero(), 1e-13)
    np.testing.assert_allclose(ours.heads.weight[0, 1], peer.coef_[0] / 2, atol=1e-6)
    np.testing.assert_allclose(ours.heads.weight[0, 0], -peer.coef_[0] / 2, atol=1e-6)
    halves = torch.from_numpy(np.concatenate([-peer.coef_, peer.coef_]) / 2)
    bias = torch.from_numpy(np.array([-1, 1]) * peer.intercept_ / 2)
    assert abs(ours.loss - objective(x, y, halves, bias, 0.1)) < 1e-10


def test_slope_equals_autograd(monkeypatch):
    x, y = problem("many classes")
    regression = Regression(x, y, 30)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(30, generator=rng, dtype=torch.float64, requires_grad=True)
    logits = regression.x @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, y)
    wanted = torch.autograd.grad(loss, (weight, bias))
    p = logits.detach().softmax(1)
    for held in (logistic.LOGITS, 30 * 7):
        monkeypatch.setattr(logistic, "LOGITS", held)
        ours = regression.slope(weight.detach(), bias.detach())
        assert ours.loss == pytest.approx(loss.item(), abs=1e-12)
        torch.testing.assert_close((ours.weight, ours.bias), wanted)
        torch.testing.assert_close(ours.spread, (p * (1 - p)).mean(0))


def test_a_probability_that_sank_to_nothing_has_its_loss():
    x = torch.tensor([[1.0], [-1.0]])
    found = Regression(x, torch.tensor([1, 0]), 2).slope(
        torch.tensor([[300.0], [-300.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    )
    assert found.loss == pytest.approx(600.0)


def test_start_does_not_matter():
    x, y = problem("digits")
    regression = Regression(x, y, 10)
    cold = regression.minimise(0.1, regression.zero(), 1e-12)
    warm = regression.minimise(0.1, regression.minimise(10.0, regression.zero(), 1e-3).heads, 1e-12)
    assert abs(cold.loss - warm.loss) < 1e-10


def test_float32_and_the_standard_tolerance_are_close_to_the_optimum():
    (x, y, _), _ = digits()
    made = digit_probe()
    z = Standard.of(torch.from_numpy(x))(torch.from_numpy(x))
    regression = Regression(z, torch.from_numpy(y), 10)
    best = regression.minimise(made.chosen.strength, regression.zero(), 1e-12).loss
    for found in (made, fit_logistic(x.astype(np.float32), y, np.arange(1200), 10, STRENGTHS, 0)):
        weight, bias = found.heads.weight[0].double(), found.heads.bias[0].double()
        assert objective(z, torch.from_numpy(y), weight, bias, made.chosen.strength) - best < 1e-6
        assert found.gap <= 1e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_choice_and_accuracy(precision):
    """Scores of the search are those of scikit-learn's fits on the same part."""
    (x, y, _), (test_x, test_y) = digits()
    made = digit_probe(precision=precision)
    held = logistic.parted(x, y, np.arange(1200), 10, 0)[1]
    mean, std = x[~held].mean(0), x[~held].std(0)
    z = (x - mean) / np.where(std > 0, std, 1)
    for one in made.tried:
        peer = LogisticRegression(C=one.strength, max_iter=1000).fit(z[~held], y[~held])
        assert one.accuracy == pytest.approx(peer.score(z[held], y[held]), abs=2.5 / held.sum())
    assert made.chosen.accuracy == max(one.accuracy for one in made.tried)
    assert made.validation == held.sum()
    assert (made.predict(test_x) == test_y).mean() > 0.95
    assert made.edge == (made.chosen.strength in (STRENGTHS[0], STRENGTHS[-1]))
    shares = made.probabilities(test_x)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert np.array_equal(made.labels[shares.argmax(1)], made.predict(test_x))


def test_order_of_strengths_and_ties():
    (x, y, groups), _ = digits()
    turned = fit_logistic(x, y, groups, 10, STRENGTHS[::-1], 0)
    assert turned.tried == digit_probe().tried
    x = np.repeat(np.array([[-9.0, 1.0], [9.0, 1.0]]), 50, axis=0)
    x += np.random.default_rng(0).normal(size=x.shape)
    tied = fit_logistic(x, np.repeat(np.arange(2), 50), np.arange(100), 2, (1.0, 0.1), 0)
    assert {one.accuracy for one in tied.tried} == {1.0}
    assert tied.chosen.strength == 0.1


def test_shuffled_labels_give_chance():
    (x, y, groups), (test_x, test_y) = digits()
    rng = np.random.default_rng(1)
    probes = [fit_logistic(x, rng.permutation(y), groups, 10, (1e-3, 1e-2), 0) for _ in range(20)]
    scores = np.array([(probe.predict(test_x) == test_y).mean() for probe in probes])
    assert abs(scores.mean() - 0.1) < 3 * scores.std() / np.sqrt(20) < 0.03


def test_a_constant_feature_is_ignored():
    (x, y, groups), (test_x, _) = digits()
    padded = fit_logistic(np.pad(x, ((0, 0), (0, 2)), constant_values=3.3), y, groups, 10, STRENGTHS, 0)
    wild = np.pad(test_x, ((0, 0), (0, 2)), constant_values=-1e6)
    assert np.array_equal(padded.predict(wild), digit_probe().predict(test_x))


def test_bad_input():
    (x, y, groups), (test_x, _) = digits()
    with pytest.raises(UserError, match="positive numbers"):
        fit_logistic(x, y, groups, 10, (), 0)
    with pytest.raises(UserError, match="positive numbers"):
        fit_logistic(x, y, groups, 10, (0.1, 0.0), 0)
    with pytest.raises(UserError, match="not finite"):
        fit_logistic(np.where(x > 15, np.nan, x), y, groups, 10, STRENGTHS, 0)
    with pytest.raises(UserError, match="not finite"):
        digit_probe().predict(np.where(test_x > 15, np.nan, test_x))
    with pytest.raises(UserError, match="two classes"):
        fit_logistic(x, np.zeros_like(y), groups, 10, STRENGTHS, 0)
