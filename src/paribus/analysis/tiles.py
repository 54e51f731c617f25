"""Which pairs of images are looked at: all, or those of random blocks, in tiles that fit in memory."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import Field

from paribus.rng import numpy_rng
from paribus.types import Config


class Blocks(Config):
    """Random blocks of images against each other or themselves, in place of all pairs.

    Images are cut at random, by the seed, into blocks of ``size``, and ``count`` pairs of blocks are drawn
    without replacement; so no pair is looked at twice, and enough of them are all pairs.
    """

    size: int = Field(ge=8, description="images in a block")
    count: int = Field(ge=1, description="pairs of blocks")


class Tile(NamedTuple):
    """Rows against columns, as positions in the plan; on the diagonal its upper triangle alone."""

    rows: slice
    columns: slice

    @property
    def triangle(self) -> bool:
        """It lies on the diagonal."""
        return bool(self.rows == self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def pairs(self) -> int:
        """How many pairs are looked at."""
        rows, columns = self.shape
        return rows * (rows - 1) // 2 if self.triangle else rows * columns


class Plan(NamedTuple):
    """What is looked at: the images that take part, in the order of their positions, and tiles of them."""

    images: Int[np.ndarray, " n"]
    tiles: list[Tile]

    @property
    def pairs(self) -> int:
        """How many pairs are looked at."""
        return sum(tile.pairs for tile in self.tiles)

    @property
    def population(self) -> int:
        """How many pairs there are of the images that take part."""
        return len(self.images) * (len(self.images) - 1) // 2


def plan(n: int, tile: int, blocks: Blocks | None, seed: int) -> Plan:
    """Tiles of at most ``tile`` rows and columns over all pairs of n images, or over random blocks."""
    if blocks is None:
        return Plan(np.arange(n), list(_tiles(range(n), range(n), tile)))
    rng = numpy_rng(seed, "disagreement", "blocks")
    parts = np.array_split(rng.permutation(n), -(-n // blocks.size))
    ends = np.cumsum(np.arange(len(parts), 0, -1))  # of the pairs (p, p), (p, p + 1), ... in one row of all
    drawn = rng.choice(ends[-1], min(blocks.count, int(ends[-1])), replace=False)
    first = np.searchsorted(ends, drawn, side="right")
    second = len(parts) - (ends[first] - drawn)
    images: list[Int[np.ndarray, " size"]] = []
    places: dict[int, range] = {}
    start = 0
    for part in np.union1d(first, second).tolist():
        images.append(np.sort(parts[part]))
        places[part] = range(start, start := start + len(parts[part]))
    chosen = zip(first.tolist(), second.tolist(), strict=True)
    tiles = [each for p, q in chosen for each in _tiles(places[p], places[q], tile)]
    return Plan(np.concatenate(images), tiles)


def _tiles(rows: range, columns: range, size: int) -> Iterator[Tile]:
    """Some positions against others; against themselves, the upper triangle."""
    across = _slices(columns, size)
    for at, down in enumerate(_slices(rows, size)):
        yield from (Tile(down, each) for each in (across[at:] if rows == columns else across))


def _slices(positions: range, size: int) -> list[slice]:
    return [slice(at, min(at + size, positions.stop)) for at in positions[::size]]
