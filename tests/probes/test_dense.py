"""Dense probes against loops over pixels, and on features that were planted."""

import numpy as np
import pytest
import torch

from paribus.errors import UserError
from paribus.probes.dense import Window, confusions, match, patch_labels

WHOLE = Window(0.0, 1.0)


def _masks(count=3, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (count, side, side)).astype(np.uint8)


@pytest.mark.parametrize("window", [WHOLE, Window(0.125, 0.875)])
def test_a_patch_is_what_most_of_its_pixels_are(window):
    masks, grid = _masks(), 4
    found = patch_labels(masks, grid, window)
    side, extent = masks.shape[1], window.high - window.low
    for picture, mask in enumerate(masks):
        votes = np.zeros((grid, grid, 4), int)
        for y in range(side):
            for x in range(side):
                row, column = (((p + 0.5) / side - window.low) / extent * grid for p in (y, x))
                if 0 <= row < grid and 0 <= column < grid:
                    votes[int(row), int(column), mask[y, x]] += 1
        np.testing.assert_array_equal(found[picture], votes.argmax(axis=2).ravel())


def test_confusions_count_pixels_of_logits_interpolated_by_a_loop():
    masks, grid, window = _masks(2, 10), 3, Window(0.1, 0.9)
    logits = torch.randn(2, grid * grid, 4, generator=torch.Generator().manual_seed(0))
    found = confusions(logits, masks, window)
    wanted = np.zeros((2, 4, 4), int)
    maps = logits.numpy().reshape(2, grid, grid, 4)
    for picture in range(2):
        for y in range(1, 9):
            for x in range(1, 9):
                v, u = (((p + 0.5) / 10 - 0.1) / 0.8 * grid - 0.5 for p in (y, x))
                top, left = int(np.floor(v)), int(np.floor(u))
                mixed = sum(
                    (1 - abs(v - row))
                    * (1 - abs(u - column))
                    * maps[picture, np.clip(row, 0, grid - 1), np.clip(column, 0, grid - 1)]
                    for row in (top, top + 1)
                    for column in (left, left + 1)
                )
                wanted[picture, masks[picture, y, x], mixed.argmax()] += 1
    np.testing.assert_array_equal(found, wanted)


def test_confusions_of_perfect_patches_are_diagonal():
    grid = 6
    blocks = np.random.default_rng(2).integers(0, 3, (4, grid, grid))
    masks = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    labels = patch_labels(masks, grid, WHOLE)
    np.testing.assert_array_equal(labels, blocks.reshape(4, -1))
    middle = confusions(50 * torch.eye(3)[torch.from_numpy(labels)], masks, WHOLE)
    assert np.trace(middle.sum(axis=0)) / middle.sum() > 0.8  # borders between patches are interpolated


def test_a_match_is_found_where_it_was_moved_to():
    rng = torch.Generator().manual_seed(1)
    whole = torch.randn(1, 32, 12, 12, generator=rng)
    source = whole[:, :, 2:10, 2:10].flatten(2).transpose(1, 2)
    target = whole[:, :, 4:12, 1:9].flatten(2).transpose(1, 2)  # all moves two rows up, one column right
    points = np.array([[[3.5, 4.5], [5.5, 6.5], [1.5, 2.5]]], np.float32) / 8
    found = match(source, target, points, WHOLE)
    np.testing.assert_allclose(found, points + np.array([1, -2], np.float32) / 8, atol=0.5 / 8)


def test_a_window_moves_points_with_it():
    patches = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(3))
    window = Window(0.25, 0.75)
    points = np.full((2, 1, 2), 0.25 + 0.5 * 1.5 / 4, np.float32)  # the middle of the second patch
    np.testing.assert_allclose(match(patches, patches, points, window), points, atol=0.5 * 0.5 / 4)


def test_patches_must_be_a_square():
    with pytest.raises(UserError, match="no square grid"):
        confusions(torch.zeros(1, 12, 2), np.zeros((1, 4, 4), np.uint8), WHOLE)
