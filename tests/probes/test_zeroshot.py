"""Zero-shot classification against scipy's nearest by cosine distance."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from paribus.errors import UserError
from paribus.probes.zeroshot import choose


def vectors(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 12)) * np.arange(1, count + 1)[:, None]


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_equals_the_nearest_by_cosine_whatever_the_lengths(block):
    pictures, captions = vectors(50, 0), vectors(9, 1)
    assert np.array_equal(
        choose(pictures, captions, block), cdist(pictures, captions, "cosine").argmin(axis=1)
    )


def test_ties_go_to_the_earlier_caption():
    assert (
        choose(np.ones((3, 2)), np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [1.0, 1.0]])).tolist()
        == [2] * 3
    )


def test_nothing_to_see_is_no_error_and_nothing_to_say_is():
    assert choose(np.empty((0, 4)), np.ones((2, 4))).shape == (0,)
    with pytest.raises(UserError, match="no caption to choose from"):
        choose(np.ones((2, 4)), np.empty((0, 4)))
    with pytest.raises(UserError, match="not finite"):
        choose(np.full((2, 4), np.nan), np.ones((2, 4)))
