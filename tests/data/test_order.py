"""The order is a bijection of every epoch, a function of the position alone, and looks random."""

import numpy as np
import pytest
from scipy.stats import chisquare, kendalltau

from paribus.data.order import Order

LENGTHS = [1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 100, 255, 256, 257, 1000, 4097, 16_384, 16_385]


def positions(start, stop):
    return np.arange(start, stop, dtype=np.int64)


def epoch_of(order, epoch):
    return order(positions(epoch * order.length, (epoch + 1) * order.length))[0]


@pytest.mark.parametrize("length", LENGTHS)
def test_every_epoch_visits_every_sample_once(length):
    for seed, epoch in [(0, 0), (0, 1), (0, 2), (5, 0), (2**40, 1000)]:
        assert np.array_equal(np.sort(epoch_of(Order(length, seed), epoch)), np.arange(length))


def test_a_bijection_for_any_length():
    rng = np.random.default_rng(0)
    for length in [*range(1, 70), *rng.integers(70, 5000, 60)]:
        seen = epoch_of(Order(int(length), int(rng.integers(2**62))), int(rng.integers(100)))
        assert np.array_equal(np.sort(seen), np.arange(length)), length


def test_epochs_are_told_and_differ():
    order = Order(100, 0)
    indices, epochs = order(positions(0, 300))
    assert np.array_equal(epochs, np.repeat([0, 1, 2], 100))
    parts = indices.reshape(3, 100)
    for a, b in [(0, 1), (1, 2), (0, 2)]:
        assert (parts[a] == parts[b]).mean() < 0.1


def test_seeds_differ():
    assert (epoch_of(Order(1000, 0), 0) == epoch_of(Order(1000, 1), 0)).mean() < 0.02


def test_a_position_means_the_same_whatever_it_is_asked_with():
    order = Order(97, 3)
    whole = order(positions(0, 500))[0]
    for size in (1, 7, 97, 250):
        pieces = [order(positions(at, min(at + size, 500)))[0] for at in range(0, 500, size)]
        assert np.array_equal(np.concatenate(pieces), whole)
    shuffled = np.random.default_rng(0).permutation(500)
    assert np.array_equal(order(shuffled)[0], whole[shuffled])


@pytest.mark.parametrize("length", [10, 48, 100])
def test_every_sample_is_as_likely_at_every_place(length):
    """First, middle and last place of 3000 epochs: each a fair die, and neighbours are independent."""
    order = Order(length, 11)
    epochs = order(positions(0, 3000 * length))[0].reshape(3000, length)
    for place in (0, length // 2, length - 1):
        assert chisquare(np.bincount(epochs[:, place], minlength=length)).pvalue > 1e-4
    steps = (epochs[:, 1] - epochs[:, 0]) % length
    counts = np.bincount(steps, minlength=length)
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 1e-4


def test_an_epoch_shows_no_trend():
    for epoch in range(3):
        seen = epoch_of(Order(4097, 0), epoch)
        assert kendalltau(np.arange(4097), seen).pvalue > 1e-3
        assert abs((np.diff(seen) > 0).mean() - 0.5) < 0.03
        assert abs(np.corrcoef(seen[:-1], seen[1:])[0, 1]) < 0.06


def test_a_billion_samples_need_no_permutation():
    order = Order(1_000_000_007, 0)
    at = np.array([0, 1, 999_999_999, 1_000_000_006, 1_000_000_007, 5_000_000_000], dtype=np.int64)
    indices, epochs = order(at)
    assert epochs.tolist() == [0, 0, 0, 0, 1, 4]
    assert ((indices >= 0) & (indices < order.length)).all()
    many = order(positions(10**9, 10**9 + 20_000))[0]
    assert len(np.unique(many)) == 20_000
    assert chisquare(np.bincount(many * 16 // order.length, minlength=16)).pvalue > 1e-4


def test_an_empty_order_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Order(0, 0)
