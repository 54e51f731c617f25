"""Few-shot classification against a loop of its own."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from paribus.errors import UserError
from paribus.probes.fewshot import few_shot
from paribus.rng import numpy_rng


def split():
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    x, y = x[rows].astype(np.float32), y[rows].astype(np.int64)
    return x[:1200], y[:1200], x[1200:1400], y[1200:1400]


def drawn(y, shots, seed, draw):
    """Rows by class: the first of each class in one shuffle of all."""
    order = numpy_rng(seed, "few-shot", draw).permutation(len(y))
    return {label: [row for row in order if y[row] == label][:shots] for label in sorted(set(y.tolist()))}


def loop(x, y, test_x, test_y, shots, seed, draws):
    """SimpleShot's CL2N, sample by sample."""
    out = []
    for draw in range(draws):
        rows = drawn(y, shots, seed, draw)
        centre = np.mean([x[row].astype(float) for picked in rows.values() for row in picked], axis=0)

        def unit(v, centre=centre):
            return (v.astype(float) - centre) / np.linalg.norm(v.astype(float) - centre)

        means = {label: np.mean([unit(x[row]) for row in picked], axis=0) for label, picked in rows.items()}
        said = [min(means, key=lambda label: np.linalg.norm(unit(v) - means[label])) for v in test_x]
        out.append(np.array(said) == test_y)
    return np.array(out)


@pytest.mark.parametrize("shots", [1, 2, 16])
def test_equals_a_loop(shots):
    given = split()
    ours = few_shot(*given, shots, 3)
    assert ours.shape == (5, 200)
    assert ours.dtype == bool
    assert np.array_equal(ours, loop(*given, shots, 3, 5))


def test_more_shots_know_more():
    scores = [few_shot(*split(), shots, 0).mean() for shots in (1, 4, 16)]
    assert 0.3 < scores[0] < scores[1] < scores[2]
    assert scores[2] > 0.8


def test_draws_are_nested_and_seeded():
    _, y, _, _ = split()
    for draw in range(3):
        small, large = drawn(y, 2, 0, draw), drawn(y, 4, 0, draw)
        assert all(large[label][:2] == small[label] for label in small)
    assert np.array_equal(few_shot(*split(), 2, 0), few_shot(*split(), 2, 0))
    assert not np.array_equal(few_shot(*split(), 2, 0), few_shot(*split(), 2, 1))
    assert np.array_equal(few_shot(*split(), 2, 0, draws=2), few_shot(*split(), 2, 0)[:2])


def test_classes_need_not_be_dense():
    x, y, test_x, test_y = split()
    assert np.array_equal(few_shot(x, 10 * y + 3, test_x, 10 * test_y + 3, 4, 0), few_shot(*split(), 4, 0))


def test_shuffled_labels_give_chance():
    x, y, test_x, test_y = split()
    rng, scores = np.random.default_rng(0), np.empty(40)
    for seed in range(40):
        said = rng.permutation(test_y)
        scores[seed] = few_shot(x, rng.permutation(y), test_x, said, 4, seed, draws=1).mean()
    assert abs(scores.mean() - 0.1) < 3 * scores.std() / np.sqrt(40) < 0.02


def test_bad_input():
    x, y, test_x, test_y = split()
    few = np.flatnonzero((y != 7) | (np.cumsum(y == 7) <= 3))
    with pytest.raises(UserError, match=r"Class 7 has 3 training pictures but 4 a class"):
        few_shot(x[few], y[few], test_x, test_y, 4, 0)
    with pytest.raises(UserError, match="The class 'seven' has 3"):
        names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        few_shot(x[few], y[few], test_x, test_y, 4, 0, names=names)
    with pytest.raises(UserError, match=r"Class 7 has 0"):
        few_shot(x[y != 7], y[y != 7], test_x, test_y, 1, 0)
    with pytest.raises(UserError, match=r"9 more of 10 classes"):
        few_shot(x, y, test_x, test_y, 1000, 0)
    with pytest.raises(UserError, match="not finite"):
        few_shot(np.where(x > 15, np.nan, x), y, test_x, test_y, 1, 0)
    with pytest.raises(UserError, match="no test sample"):
        few_shot(x, y, test_x[:0], test_y[:0], 1, 0)
