"""Tiles look at every pair once, and random blocks at what they say."""

import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from paribus.analysis.tiles import Blocks, Plan, plan


def looked_at(found: Plan) -> list[tuple[int, int]]:
    """Pairs of images, one by one."""
    pairs = []
    for tile in found.tiles:
        for i, j in itertools.product(range(*tile.rows.indices(10**6)), range(*tile.columns.indices(10**6))):
            if not tile.triangle or i < j:
                pairs.append(tuple(sorted((int(found.images[i]), int(found.images[j])))))
    assert len(pairs) == found.pairs
    return pairs


@pytest.mark.parametrize(("n", "tile"), [(3, 2048), (20, 1), (23, 7), (24, 8), (24, 24), (25, 24)])
def test_all_pairs_are_looked_at_once(n, tile):
    found = plan(n, tile, None, 0)
    assert sorted(looked_at(found)) == list(itertools.combinations(range(n), 2))
    assert found.population == found.pairs
    assert max(max(each.shape) for each in found.tiles) <= tile


@pytest.mark.parametrize(
    ("n", "size", "count"), [(40, 8, 1), (40, 8, 4), (43, 10, 7), (43, 9, 15), (9, 20, 3)]
)
@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_whole_and_drawn_once(n, size, count, seed):
    found = plan(n, 5, Blocks(size=size, count=count), seed)
    pairs = looked_at(found)
    assert len(set(pairs)) == len(pairs)
    assert sorted({image for pair in pairs for image in pair}) == sorted(found.images.tolist())
    assert found.population == len(found.images) * (len(found.images) - 1) // 2
    parts = -(-n // size)
    small, large = n // parts, -(-n // parts)
    assert large <= size
    drawn = min(count, parts * (parts + 1) // 2)
    assert drawn * small * (small - 1) // 2 <= len(pairs) <= drawn * large**2
    if drawn < count:
        assert sorted(pairs) == list(itertools.combinations(range(n), 2))
    again = plan(n, 11, Blocks(size=size, count=count), seed)
    assert sorted(looked_at(again)) == sorted(pairs)


def test_every_pair_of_blocks_is_as_likely_and_seeds_differ():
    """Of 4 blocks there are 10 pairs of blocks, and of 4 in 10 one is with itself."""
    found = [plan(32, 8, Blocks(size=8, count=1), seed) for seed in range(300)]
    alone = sum(len(each.images) == 8 for each in found)
    assert 300 * 0.4 - 45 < alone < 300 * 0.4 + 45
    assert len({tuple(each.images.tolist()) for each in found}) > 250


def test_blocks_too_small_to_rank_in_are_refused():
    with pytest.raises(ValidationError, match="size"):
        Blocks(size=2, count=1)
    assert min(len(plan(n, 99, Blocks(size=8, count=1), 0).images) for n in range(3, 60)) >= 3


def test_images_of_a_block_keep_their_order():
    found = plan(50, 100, Blocks(size=25, count=1), 3)
    for tile in found.tiles:
        for part in (tile.rows, tile.columns):
            assert (np.diff(found.images[part]) > 0).all()
