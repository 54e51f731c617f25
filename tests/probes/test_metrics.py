"""Metrics against scikit-learn and torchmetrics, their intervals against closed forms."""

import numpy as np
import peers  # noqa: F401 - mends torchvision, which torchmetrics imports
import pytest
import torch
from sklearn import metrics as peer
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_jaccard_index

from paribus import stats
from paribus.errors import UserError
from paribus.probes import metrics


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 7, 900)
    said = np.where(rng.random(900) < 0.6, truth, rng.integers(0, 8, 900))  # one class is never true
    return said, truth


def test_points_are_scikit_learns(answers):
    said, truth = answers
    assert metrics.accuracy(said == truth).point() == pytest.approx(peer.accuracy_score(truth, said))
    balanced = metrics.balanced_accuracy(said, truth).point()
    seen = np.isin(said, np.unique(truth))
    assert balanced == pytest.approx(peer.recall_score(truth, said, average="macro", labels=np.unique(truth)))
    assert metrics.balanced_accuracy(said[seen], truth[seen]).point() == pytest.approx(
        peer.balanced_accuracy_score(truth[seen], said[seen])
    )
    assert metrics.macro_f1(said, truth).point() == pytest.approx(peer.f1_score(truth, said, average="macro"))


def test_a_class_that_is_neither_true_nor_said_does_not_count():
    truth, said = np.array([0, 0, 4, 4]), np.array([0, 4, 4, 4])
    assert metrics.macro_f1(said, truth).point() == pytest.approx(peer.f1_score(truth, said, average="macro"))
    assert metrics.balanced_accuracy(said, truth).point() == pytest.approx(0.75)


def test_calibration_is_torchmetrics():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(500, 5))
    logits[:40] = np.eye(5)[rng.integers(0, 5, 40)] * 60.0  # probabilities of one
    given = torch.softmax(torch.from_numpy(logits), dim=1)
    truth = torch.from_numpy(rng.integers(0, 5, 500))
    confidence, said = given.max(dim=1)
    found = metrics.calibration_error(confidence.numpy(), (said == truth).numpy()).point()
    wanted = multiclass_calibration_error(given, truth, num_classes=5, n_bins=metrics.BINS, norm="l1")
    assert found == pytest.approx(float(wanted), abs=1e-6)


def test_iou_is_torchmetrics():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, (6, 20, 20))
    said = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, 4, truth.shape))
    each = np.stack(
        [
            peer.confusion_matrix(a.ravel(), b.ravel(), labels=range(4))
            for a, b in zip(truth, said, strict=True)
        ]
    )
    wanted = multiclass_jaccard_index(torch.from_numpy(said), torch.from_numpy(truth), num_classes=4)
    assert metrics.mean_iou(each).point() == pytest.approx(float(wanted), abs=1e-6)


def _loop(kind, said, truth, rows):
    """The metric on drawn rows, by scikit-learn."""
    if kind == "accuracy":
        return peer.accuracy_score(truth[rows], said[rows])
    if kind == "balanced":
        return peer.recall_score(truth[rows], said[rows], average="macro", labels=np.unique(truth[rows]))
    return peer.f1_score(truth[rows], said[rows], average="macro")


@pytest.mark.parametrize("kind", ["accuracy", "balanced", "f1"])
def test_draws_are_those_of_a_loop_over_resampled_rows(answers, kind):
    said, truth = (each[:60] for each in answers)
    made = {
        "accuracy": metrics.accuracy(said == truth),
        "balanced": metrics.balanced_accuracy(said, truth),
        "f1": metrics.macro_f1(said, truth),
    }[kind]
    counts = stats.resample_counts(60, seed=5, draws=50)
    wanted = [_loop(kind, said, truth, np.repeat(np.arange(60), row.astype(int))) for row in counts]
    np.testing.assert_allclose(made.draws(seed=5, draws=50), wanted, atol=1e-12)


def test_intervals_are_those_of_the_mean(answers):
    said, truth = answers
    right = said == truth
    clusters = np.arange(900) // 3
    found = metrics.estimate(metrics.accuracy(right, clusters), seed=0)
    np.testing.assert_allclose(found, stats.bootstrap_mean(right, clusters=clusters, seed=0), rtol=1e-12)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 900)
    free = metrics.estimate(metrics.accuracy(right), seed=0)
    assert (free.high - free.low) / 2 == pytest.approx(1.96 * error, rel=0.06)


def test_differences_are_paired(answers):
    said, truth = answers
    one, two = said == truth, np.where(np.arange(900) < 30, ~(said == truth), said == truth)
    found = metrics.difference(metrics.accuracy(one), metrics.accuracy(two), seed=1)
    np.testing.assert_allclose(found, stats.bootstrap_difference(one, two, seed=1), rtol=1e-9, atol=1e-12)
    apart = metrics.estimate(metrics.accuracy(one), seed=1)
    assert found.high - found.low < apart.high - apart.low
    nothing = metrics.difference(metrics.macro_f1(said, truth), metrics.macro_f1(said, truth), seed=0)
    assert nothing[:3] == (0, 0, 0)


def test_a_ratio_is_of_sums():
    over, under = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    assert metrics.ratio(over, under).point() == pytest.approx(2 / 3)


def test_what_cannot_be_scored_is_told(answers):
    said, truth = answers
    with pytest.raises(UserError, match="cannot be paired"):
        metrics.difference(metrics.accuracy(said == truth), metrics.accuracy(truth[:5] == 0), seed=0)
    with pytest.raises(UserError, match="outside"):
        metrics.calibration_error(np.array([1.5, 0.2]), np.array([True, False]))
    with pytest.raises(UserError, match="nothing to score"):
        metrics.accuracy(np.zeros(0, bool))


def test_intervals_of_many_small_classes_hold_the_truth():
    """Percentiles of macro-F1's resamples would hold it 1 time in 6 here."""
    held, classes, each = 0, 200, 10
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = np.repeat(np.arange(classes), each)
        said = np.where(rng.random(len(truth)) < 0.6, truth, rng.integers(0, classes, len(truth)))
        big = np.repeat(np.arange(classes), 400)
        said_big = np.where(rng.random(len(big)) < 0.6, big, rng.integers(0, classes, len(big)))
        found = metrics.estimate(metrics.macro_f1(said, truth), seed=seed, draws=300)
        assert found.low <= found.value <= found.high
        held += found.low <= metrics.macro_f1(said_big, big).point() <= found.high
    assert held >= 15


def test_what_chance_leaves_in_the_bins_is_taken_off_the_calibration_error():
    """Of answers that are calibrated the plug-in error is never 0; most of that goes."""
    plain, mended = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.2, 1.0, 1000)
        tally = metrics.calibration_error(confidence, rng.random(1000) < confidence)
        found = metrics.estimate(tally, seed=seed, draws=300)
        assert found.low <= found.value <= found.high
        plain.append(tally.point())
        mended.append(found.value)
    assert np.mean(mended) < 0.7 * np.mean(plain)


def test_a_share_of_nothing_is_told():
    nothing = np.zeros(5)
    with pytest.raises(UserError, match="no picture counts"):
        metrics.estimate(metrics.ratio(nothing, nothing), seed=0)
