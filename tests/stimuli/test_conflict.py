"""Conflicts: one thing's outline and the inside of another, and nothing else."""

import cv2
import numpy as np
import pytest

from paribus.errors import UserError
from paribus.stimuli.conflict import conflict, filled, shapes_of, telling, textured
from paribus.stimuli.pool import Pool


def drawn(shape, side=40):
    """A drawing of one shape in blue."""
    mask = np.zeros((side, side), np.uint8)
    shape(mask)
    return mask[..., None].astype(np.float32) * np.float32([0, 0, 1, 1])


DISC = drawn(lambda mask: cv2.circle(mask, (20, 20), 18, 1, -1))
SQUARE = drawn(lambda mask: cv2.rectangle(mask, (4, 4), (35, 35), 1, -1))
CROSS = np.maximum(
    drawn(lambda mask: cv2.rectangle(mask, (14, 0), (25, 39), 1, -1)),
    drawn(lambda mask: cv2.rectangle(mask, (0, 14), (39, 25), 1, -1)),
)
THIN = drawn(lambda mask: cv2.line(mask, (0, 0), (39, 39), 1, 1))


def test_only_outlines_that_say_something_are_shapes():
    assert telling(CROSS)
    assert not telling(DISC)
    assert not telling(SQUARE)
    assert not telling(THIN)


def test_the_shape_is_kept_and_all_inside_is_texture():
    rng = np.random.default_rng(0)
    patch = np.float32(rng.integers(0, 200, (9, 9, 3)) / 255)
    image = filled(CROSS, patch, 48)
    inside = (image != 255).any(axis=-1)
    expected = cv2.resize(CROSS[..., 3], (41, 41), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    np.testing.assert_array_equal(
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], expected > 1 / 255
    )
    known = {tuple(colour) for colour in np.rint(patch.reshape(-1, 3) * 255).astype(int).tolist()}
    solid = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert {tuple(colour) for colour in image[solid].tolist()} <= known


def test_tiles_are_mirrored_at_their_edges():
    ramp = np.float32(np.linspace(0, 0.5, 6))[None, :, None] * np.ones((6, 1, 3), np.float32)
    line = filled(SQUARE[4:36, 4:36], ramp, 48)[24, 4:44, 0].astype(int)
    steps = np.diff(line)
    # Up and down in turn, and never a jump back to the start.
    assert np.abs(steps).max() <= 27
    assert (steps > 0).any()
    assert (steps < 0).any()


def test_a_texture_is_a_lively_square_from_inside():
    rng = np.random.default_rng(1)
    striped = DISC.copy()
    striped[::4, :, :3] = 0
    patch = textured(striped, rng)
    assert patch is not None
    assert patch.shape[0] == patch.shape[1] >= 8
    assert set(np.unique(patch[..., 2])) == {0, 1}
    assert textured(DISC, rng) is None
    assert textured(THIN, rng) is None


def test_paper_is_no_texture():
    page = np.ones((40, 40, 4), np.float32)
    page[::4, :, :3] = 0
    assert textured(page, np.random.default_rng(0)) is None


@pytest.fixture(scope="module")
def made(corpus):
    pool = Pool(corpus, "test", coloured=True)
    shapes = shapes_of(pool)
    return [conflict(pool, shapes, 48, np.random.default_rng(seed)) for seed in range(150)]


def test_shape_and_texture_are_of_different_groups(made):
    assert all(each.shape != each.texture for each in made)
    assert all(each.shape_concept != each.texture_concept for each in made)
    assert len({each.texture for each in made}) == 9


def test_no_group_is_one_shape_over_and_over(made):
    """Flags are rectangles but for one, so they lend textures only."""
    concepts = {
        group: [e.shape_concept for e in made if e.shape == group] for group in {e.shape for e in made}
    }
    assert len(concepts) >= 7
    assert "Flags" not in concepts
    assert min(len(set(shown)) for shown in concepts.values()) >= 5


def test_a_pool_of_squares_has_no_shapes(plain_pool):
    with pytest.raises(UserError, match="too few telling outlines"):
        shapes_of(plain_pool)


def test_enough_of_the_picture_is_filled_and_its_corners_are_white(made):
    covered = np.array([(each.image.min(axis=-1) < 250).mean() for each in made])
    assert np.median(covered) > 0.25
    assert covered.min() > 0.04
    corners = np.stack([each.image[[0, 0, -1, -1], [0, -1, 0, -1]] for each in made])
    assert (corners == 255).all()
