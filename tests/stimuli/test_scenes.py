"""Scenes whose masks must say what is seen, whatever lies over what."""

import numpy as np

from paribus.stimuli.pool import GROUPS
from paribus.stimuli.scenes import CLASSES, LEAST_SEEN, scene
from stimuli.conftest import PLAIN


def test_a_mask_says_what_is_seen(plain_pool):
    """Each drawing has a colour that nothing else has, so the picture itself says where it is seen."""
    overlaps = 0
    for seed in range(60):
        made = scene(plain_pool, 64, np.random.default_rng(seed))
        shown = np.zeros(made.mask.shape, np.uint8)
        for row in range(len(GROUPS)):
            shown[(made.image == PLAIN[row]).all(axis=-1)] = row + 1
        np.testing.assert_array_equal(made.mask, shown)
        assert {f"square-{label - 1}" for label in np.unique(made.mask)[1:]} == set(made.concepts)
        overlaps += any((made.mask == k).sum() not in {0, *(s * s for s in range(65))} for k in range(1, 10))
    assert overlaps > 10


def test_two_to_three_things_on_small_scenes_and_up_to_four_on_large_ones(plain_pool):
    small = {len(scene(plain_pool, 48, np.random.default_rng(seed)).concepts) for seed in range(80)}
    large = {len(scene(plain_pool, 128, np.random.default_rng(seed)).concepts) for seed in range(80)}
    assert small == {2, 3}
    assert large == {2, 3, 4}


def test_little_is_hidden(plain_pool, monkeypatch):
    from paribus.stimuli import scenes

    calls = []
    placed = scenes._placed

    def spied(owner, thing, rng):
        before = owner.copy()
        top, left = placed(owner, thing, rng)
        window = before[top : top + thing.shape[0], left : left + thing.shape[1]]
        calls.extend((window == k).sum() / (before == k).sum() for k in np.unique(before) if k >= 0)
        return top, left

    monkeypatch.setattr(scenes, "_placed", spied)
    for seed in range(60):
        scene(plain_pool, 64, np.random.default_rng(seed))
    assert len(calls) > 60
    # Squares as large as the scene allows sometimes find no such place.
    assert np.mean(np.array(calls) <= 1 - LEAST_SEEN) > 0.95
    assert max(calls) > 0.1


def test_classes_are_the_groups_after_the_background(corpus):
    groups = set(corpus.columns["group"][corpus.columns["kind"] == "emoji"])
    assert set(CLASSES) == {"background"} | groups
    assert CLASSES[0] == "background"
