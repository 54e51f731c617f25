"""Counting: as many things as it says, none touching, and nothing to learn from how much ink there is."""

import cv2
import numpy as np
import pytest

from paribus.stimuli import counting
from paribus.stimuli.counting import INK, MOST, counted
from paribus.stimuli.pool import Pool


@pytest.fixture(scope="module")
def made(corpus):
    """Real counting pictures, and what was laid on each."""
    laid, ground, pool = [], counting.ground, Pool(corpus, "train")

    def spied(rng, side, things):
        laid.append(things)
        return ground(rng, side, things)

    with pytest.MonkeyPatch().context() as context:
        context.setattr(counting, "ground", spied)
        pictures = [counted(pool, 48, np.random.default_rng(seed)) for seed in range(600)]
    return list(zip(pictures, laid, strict=True))


@pytest.mark.parametrize("measure", [lambda alpha: alpha.sum(), lambda alpha: (alpha >= 0.5).sum()])
def test_ink_does_not_tell_the_number(made, measure):
    counts = np.array([picture.things for picture, _ in made])
    ink = np.array([sum(measure(thing[..., 3]) for thing in things) for _, things in made]) / 48**2
    assert abs(np.corrcoef(counts, ink)[0, 1]) < 0.12
    means = [ink[counts == count].mean() for count in range(1, MOST + 1)]
    assert max(means) - min(means) < 0.02
    assert ink.std() > 0.015
    assert INK[0] < min(means) < max(means) < INK[1]


def test_all_numbers_are_as_likely(made):
    counts = np.bincount([picture.things for picture, _ in made], minlength=MOST + 1)
    assert counts[0] == 0
    assert counts[1:].min() > 600 / MOST / 2


def test_there_are_as_many_as_it_says(plain_pool):
    for seed in range(80):
        each = counted(plain_pool, 64, np.random.default_rng(seed))
        row = int(each.concept.removeprefix("square-"))
        colour = plain_pool.cutout(row)[0, 0, :3] * 255
        solid = (each.image == colour.astype(np.uint8)).all(axis=-1).astype(np.uint8)
        # Connected corner to corner too: things that touched would be one.
        pieces, _ = cv2.connectedComponents(solid, connectivity=8)
        assert pieces - 1 == each.things
        assert solid.mean() == pytest.approx(sum(INK) / 2, abs=(INK[1] - INK[0]) / 2 + 0.03)


def test_sizes_differ(plain_pool, monkeypatch):
    seen = []
    sized = counting._sized

    def spied(drawings, ink, rng):
        things = sized(drawings, ink, rng)
        seen.append([thing.shape[0] for thing in things])
        return things

    monkeypatch.setattr(counting, "_sized", spied)
    for seed in range(40):
        counted(plain_pool, 64, np.random.default_rng(seed))
    assert np.mean([len(set(sides)) > 1 for sides in seen if len(sides) > 3]) > 0.9


def test_what_falls_apart_is_not_counted():
    pair = np.zeros((20, 20, 4), np.float32)
    pair[2:18, 1:9] = pair[2:18, 11:19] = 1
    assert not counting._is_compact(pair)
    pair[9:11] = 1
    assert counting._is_compact(pair)
    assert not counting._is_compact(pair[:, :9])
