"""The order of LLaVA-1.5's stage 2: batches of pictures and batches of text, as a pure function.

LLaVA (``group_by_modality_length``, ``llava/train/llava_trainer.py``) shuffles each kind, cuts it into global
batches, takes the last one of each kind aside, shuffles the others together, and puts what was taken aside
first (as much as fills a batch) and last (the rest). Inside a batch it sorts by length, to even out
processes and padding; here chunks are evened out elsewhere.

Two things differ. Only a remainder is mixed: LLaVA takes a kind's last batch aside even if it is whole. And
an epoch rarely ends with a batch: the batch that two epochs share gets remainders of both, so that batches
stay of one kind in every epoch.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from paribus.data.order import Order
from paribus.rng import stream


class _Plan(NamedTuple):
    """How an epoch is laid out: samples before its first whole batch, mixed batches, batches of each kind."""

    lead: int
    mixed: int
    whole: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Grouped:
    """Which sample stands at which position, epoch after epoch; called as ``Order`` is.

    Args:
        pictured: which samples are about a picture; every epoch visits each sample exactly once.
        batch: samples of a global batch; position ``p`` is in batch ``p // batch``.
        seed: the study's root seed.
    """

    pictured: Bool[np.ndarray, " N"]
    batch: int
    seed: int
    kinds: tuple[NDArray[np.int64], NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.pictured) < 1 or self.batch < 1:
            raise ValueError("an order needs at least one sample, and a batch at least one")
        object.__setattr__(self, "kinds", (np.flatnonzero(self.pictured), np.flatnonzero(~self.pictured)))

    def __len__(self) -> int:
        return len(self.pictured)

    def __call__(
        self, positions: Int64[np.ndarray, " P"]
    ) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
        """Map global positions to sample indices and epochs."""
        epochs, within = np.divmod(positions, len(self))
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = self._epoch(epoch, within[here])
        return indices, epochs

    def _plan(self, epoch: int) -> _Plan:
        lead = min(-epoch * len(self) % self.batch, len(self))
        batches = (len(self) - lead) // self.batch
        pictures, texts = (len(kind) // self.batch for kind in self.kinds)
        # The lead may take what the remainders do not hold: then one batch less is of one kind.
        if pictures + texts > batches:
            pictures, texts = (pictures - 1, texts) if pictures >= texts else (pictures, texts - 1)
        return _Plan(lead, batches - pictures - texts, (pictures, texts))

    def _epoch(self, epoch: int, within: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        """Sample indices of positions in an epoch."""
        plan = self._plan(epoch)
        first = plan.lead + plan.mixed * self.batch
        block, place = np.divmod(within - first, self.batch)
        pure = (block >= 0) & (block < sum(plan.whole))
        rank = np.where(block < 0, within, within - sum(plan.whole) * self.batch)  # among the remainders
        left = len(self.kinds[0]) - plan.whole[0] * self.batch
        is_text = rank >= left
        rank = np.where(is_text, rank - left + plan.whole[1] * self.batch, rank + plan.whole[0] * self.batch)
        if pure.any():
            shuffle = Order(sum(plan.whole), stream(self.seed, "batches", epoch))
            chosen, _ = shuffle(block[pure])
            is_text[pure] = chosen >= plan.whole[0]
            chosen -= np.where(is_text[pure], plan.whole[0], 0)
            rank[pure] = chosen * self.batch + place[pure]
        return self._members(epoch, is_text, rank)

    def _members(
        self, epoch: int, is_text: Bool[np.ndarray, " P"], rank: Int64[np.ndarray, " P"]
    ) -> Int64[np.ndarray, " P"]:
        """The samples that stand at ranks of their kinds, shuffled in every epoch."""
        indices = np.empty_like(rank)
        for name, members, here in zip(("pictures", "texts"), self.kinds, (~is_text, is_text), strict=True):
            if here.any():
                order = Order(len(members), stream(self.seed, name))
                places, _ = order(rank[here] + epoch * len(members))
                indices[here] = members[places]
        return indices
