"""The nearest-neighbour probe against scikit-learn and against DINO's loop."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from paribus.errors import UserError
from paribus.probes import knn
from paribus.probes.knn import knn_predict


def split(dtype=np.float64):
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    x, y = x[rows].astype(dtype), y[rows].astype(np.int64)
    return x[:1200], y[:1200], x[1200:], y[1200:]


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (5, 0.07), (50, 0.02), (20, 1.0)])
def test_equals_scikit_learn(k, temperature):
    x, y, test_x, test_y = split()
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1.0 - d) / temperature)).fit(
        x, y
    )
    ours = knn_predict(x, y, test_x, neighbours=k, temperature=temperature)
    assert np.array_equal(ours, peer.predict(test_x))
    assert (ours == test_y).mean() > 0.9


def dino_knn_classifier(train_features, train_labels, test_features, k, temperature, num_classes):
    """facebookresearch/dino eval_knn.py, one chunk; features are normalised beforehand there."""
    train_features = torch.nn.functional.normalize(train_features).t()
    distances, indices = torch.mm(torch.nn.functional.normalize(test_features), train_features).topk(k)
    retrieved = torch.gather(train_labels.view(1, -1).expand(len(test_features), -1), 1, indices)
    one_hot = torch.zeros(len(test_features) * k, num_classes, dtype=distances.dtype)
    one_hot.scatter_(1, retrieved.view(-1, 1), 1)
    weights = distances.clone().div_(temperature).exp_()
    probs = torch.sum(one_hot.view(len(test_features), -1, num_classes) * weights.view(-1, k, 1), 1)
    return probs.sort(1, True)[1][:, 0].numpy()


def test_equals_dino():
    x, y, test_x, _ = split()
    expected = dino_knn_classifier(*map(torch.from_numpy, (x, y, test_x)), 20, 0.07, 10)
    assert np.array_equal(knn_predict(x, y, test_x), expected)


def test_blocks_do_not_matter(monkeypatch):
    x, y, test_x, _ = split()
    whole = knn_predict(x, y, test_x)
    monkeypatch.setattr(knn, "BLOCK", 5000)
    assert np.array_equal(knn_predict(x, y, test_x), whole)


def test_low_temperature_is_the_nearest_neighbour_in_float32():
    x, y, test_x, _ = split(np.float32)
    peer = KNeighborsClassifier(1, metric="cosine").fit(x.astype(np.float64), y)
    ours = knn_predict(x, y, test_x, temperature=1e-5)
    assert (ours == peer.predict(test_x.astype(np.float64))).mean() > 0.99


def test_length_of_features_does_not_matter():
    x, y, test_x, _ = split()
    lengths = np.exp(np.random.default_rng(0).normal(size=(len(x), 1)))
    assert np.array_equal(knn_predict(x * lengths, y, test_x * 7), knn_predict(x, y, test_x))


def test_few_samples_all_vote():
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32)
    assert knn_predict(x, np.array([3, 3, 1]), x).tolist() == [3, 3, 1]
    assert knn_predict(x, np.array([3, 3, 1]), x[:0]).shape == (0,)


def test_shuffled_labels_give_chance():
    x, y, test_x, test_y = split()
    correct = (knn_predict(x, np.random.default_rng(0).permutation(y), test_x) == test_y).sum()
    assert abs(correct - len(test_y) / 10) < 4 * np.sqrt(len(test_y) * 0.09)


def test_bad_input():
    x, y, test_x, _ = split()
    with pytest.raises(UserError, match="no training sample"):
        knn_predict(x[:0], y[:0], test_x)
    with pytest.raises(UserError, match="not finite"):
        knn_predict(x, y, np.where(test_x > 15, np.inf, test_x))
