"""The sample order as a pure function of (seed, epoch, position): no state, no permutation in memory.

Each epoch is a keyed bijection of ``range(length)``: a balanced Feistel network over the next even number
of bits, walked until it lands inside the range (cycle walking, Black and Rogaway 2002). So any worker, rank
or resumed run knows which sample stands at which place, at any length.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paribus.rng import U64, mix, stream

ROUNDS = 6


@dataclass(frozen=True)
class Order:
    """Which sample stands at which position, epoch after epoch.

    Args:
        length: samples in one epoch; every epoch visits each exactly once.
        seed: the study's root seed.
    """

    length: int
    seed: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError("an order needs at least one sample")

    def __call__(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Map global positions ``[P]`` to sample indices ``[P]`` and epochs ``[P]``."""
        epochs, within = np.divmod(positions, self.length)
        half = max(1, math.ceil(math.log2(max(2, self.length)) / 2))
        key = mix(epochs.astype(np.uint64) ^ np.uint64(stream(self.seed, "order")))
        index = self._feistel(within.astype(np.uint64), key, half)
        outside = index >= self.length
        while outside.any():
            index[outside] = self._feistel(index[outside], key[outside], half)
            outside = index >= self.length
        return index.astype(np.int64), epochs

    @staticmethod
    def _feistel(values: U64, key: U64, half: int) -> U64:
        shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
        left, right = values >> shift, values & mask
        for round_ in range(ROUNDS):
            left, right = right, left ^ (mix(key ^ mix(right + np.uint64(round_ << 48))) & mask)
        out: U64 = (left << shift) | right
        return out
