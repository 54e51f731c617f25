"""The order by kind: every sample once an epoch, batches of one kind, nothing remembered."""

import numpy as np
import pytest

from paribus.data.grouping import Grouped


def mixed(pictures, texts, seed=0):
    shown = np.array([True] * pictures + [False] * texts)
    return np.random.default_rng(seed).permutation(shown)


def batches(order, first, count):
    """Kinds of the samples of some batches: [count, batch]."""
    positions = np.arange(first * order.batch, (first + count) * order.batch)
    indices, _ = order(positions)
    return order.pictured[indices].reshape(count, order.batch)


SIZES = [
    (1, 0),
    (0, 1),
    (3, 2),
    (40, 0),
    (0, 40),
    (64, 16),
    (61, 19),
    (63, 33),
    (7, 100),
    (50, 3),
    (31, 31),
    (8, 8),
]


@pytest.mark.parametrize("batch", [1, 4, 16, 100])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_sample_comes_once_an_epoch(sizes, batch):
    order = Grouped(mixed(*sizes), batch, seed=5)
    total = sum(sizes)
    for epoch in range(5):
        indices, epochs = order(np.arange(epoch * total, (epoch + 1) * total))
        assert sorted(indices.tolist()) == list(range(total))
        assert (epochs == epoch).all()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("batch", [4, 16])
def test_batches_are_of_one_kind_but_for_a_remainder(sizes, batch):
    order = Grouped(mixed(*sizes), batch, seed=1)
    total, epochs = sum(sizes), 6
    kinds = batches(order, 0, epochs * total // batch)
    pure = (kinds.all(axis=1) | ~kinds.any(axis=1)).sum()
    whole = sum(size // batch for size in sizes)
    # Of every epoch, one batch may be mixed of remainders, one is shared with the next, and that one may
    # need what a whole batch held.
    assert pure >= epochs * max(0, whole - 1)
    first = kinds[: total // batch]
    assert (first.all(axis=1) | ~first.any(axis=1)).sum() >= whole


def test_what_llava_does_with_remainders():
    kinds = batches(Grouped(mixed(61, 19), 16, seed=0), 0, 5)
    assert kinds.sum(axis=1).tolist()[0] == 13, "13 pictures and 3 texts are left, and come first"
    assert sorted(kinds.sum(axis=1).tolist()[1:]) == [0, 16, 16, 16]


def test_both_kinds_are_shuffled_together_and_anew():
    order = Grouped(mixed(640, 640), 16, seed=0)
    runs = [batches(order, epoch * 80, 80)[:, 0] for epoch in range(3)]
    for run in runs:
        assert 20 < np.count_nonzero(run[1:] != run[:-1]) < 60
    assert (runs[0] != runs[1]).any()
    first, second = (order(np.arange(1280) + 1280 * epoch)[0] for epoch in range(2))
    assert np.mean(first == second) < 0.02
    assert np.abs(np.corrcoef(first, np.arange(1280))[0, 1]) < 0.15


def test_a_position_decides_alone():
    order = Grouped(mixed(61, 19), 16, seed=3)
    positions = np.arange(400)
    indices, epochs = order(positions)
    shuffled = np.random.default_rng(0).permutation(400)
    found, when = Grouped(mixed(61, 19), 16, seed=3)(positions[shuffled])
    assert np.array_equal(found, indices[shuffled])
    assert np.array_equal(when, epochs[shuffled])
    assert indices.dtype == epochs.dtype == np.int64
    one = [int(order(np.array([p]))[0][0]) for p in (0, 17, 399)]
    assert one == indices[[0, 17, 399]].tolist()


def test_the_seed_decides():
    orders = [Grouped(mixed(61, 19), 16, seed=seed)(np.arange(80))[0].tolist() for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize(("pictured", "batch"), [([], 4), ([True], 0)])
def test_nothing_cannot_be_ordered(pictured, batch):
    with pytest.raises(ValueError, match="at least one"):
        Grouped(np.array(pictured, bool), batch, 0)


def test_no_positions_give_no_samples():
    indices, epochs = Grouped(mixed(3, 2), 2, 0)(np.empty(0, np.int64))
    assert len(indices) == len(epochs) == 0
