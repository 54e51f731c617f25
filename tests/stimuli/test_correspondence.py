"""Pairs: points must be where they are said to be, to a small part of a pixel."""

import math

import numpy as np
import pytest

from paribus.stimuli.correspondence import APART, POINTS, moved, pair, rendered, similarity
from paribus.stimuli.pool import Pool


def centroid(image):
    """Of the light, in pixels from the corner of the frame."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


@pytest.mark.parametrize("degrees", [-30.0, 0.0, 17.0])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_light_lands_where_points_are_said_to(degrees, factor):
    rng = np.random.default_rng(0)
    for _ in range(5):
        row, column = rng.integers(4, 36, 2)
        spot = np.zeros((40, 40, 4), np.float32)
        spot[row - 1 : row + 2, column - 1 : column + 2] = 1
        matrix = similarity((20.0, 20.0), factor, degrees, np.array([33.0, 30.5]))
        shown = rendered(np.zeros((64, 64, 3), np.float32), spot, matrix)
        expected = moved(matrix, np.array([[column + 0.5, row + 0.5]]))[0]
        np.testing.assert_allclose(centroid(shown[..., 0]), expected, atol=0.06)


def test_a_similarity_turns_scales_and_moves_its_middle():
    matrix = similarity((3.0, 4.0), 2.0, 90.0, np.array([10.0, 20.0]))
    places = moved(matrix, np.array([[3.0, 4.0], [4.0, 4.0]]))
    np.testing.assert_allclose(places, [[10, 20], [10, 22]], atol=1e-12)


@pytest.fixture(scope="module")
def made(corpus):
    pool = Pool(corpus, "test")
    return [pair(pool, 48, np.random.default_rng(seed)) for seed in range(60)]


def test_points_are_inside_both_frames_and_apart(made):
    for each in made:
        assert each.points.shape == each.matches.shape == (POINTS, 2)
        both = np.stack([each.points, each.matches])
        assert both.min() >= 1
        assert both.max() <= 47
        gaps = np.linalg.norm(each.points[:, None] - each.points, axis=-1) + 99 * np.eye(POINTS)
        assert gaps.min() >= APART * 48 - 1e-4


def test_points_follow_one_similarity_within_its_bounds(made):
    turns = []
    for each in made:
        before = (each.points - each.points.mean(axis=0)) @ [1, 1j]
        after = (each.matches - each.matches.mean(axis=0)) @ [1, 1j]
        ratio = (after * before.conj()).sum() / (np.abs(before) ** 2).sum()
        np.testing.assert_allclose(after, ratio * before, atol=1e-3)
        assert 0.8 - 1e-4 <= abs(ratio) <= 1.25 + 1e-4
        turns.append(math.degrees(np.angle(ratio)))
    assert np.abs(turns).max() <= 30.001
    assert np.std(turns) > 10


def colours(image, points):
    """The colours at points, interpolated between the middles of pixels."""
    x, y = (points - 0.5).T
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = (x - left)[:, None], (y - top)[:, None]
    lines = [image[top + k, left] * (1 - a) + image[top + k, left + 1] * a for k in (0, 1)]
    return lines[0] * (1 - b) + lines[1] * b


def test_matches_show_the_same_paint_in_other_light(made):
    """The target's light is the same for all points: one gain and one offset a channel explain it."""

    def unexplained(source, target):
        left = 0.0
        for channel in range(3):
            design = np.stack([source[:, channel], np.ones(POINTS)], axis=1)
            fit = design @ np.linalg.lstsq(design, target[:, channel], rcond=None)[0]
            left += np.square(target[:, channel] - fit).sum()
        return left

    rng, right, wrong = np.random.default_rng(0), 0.0, 0.0
    for each in made:
        source, target = colours(each.source, each.points), colours(each.target, each.matches)
        right += unexplained(source, target)
        wrong += unexplained(source, rng.permutation(target))
    assert right < 0.2 * wrong


def test_ground_and_light_change(made):
    corners = [(each.source[0, 0].astype(int), each.target[0, 0].astype(int)) for each in made]
    assert np.mean([np.abs(a - b).max() > 20 for a, b in corners]) > 0.9
