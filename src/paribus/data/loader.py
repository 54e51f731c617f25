"""Decode, crop and collate in the background, in exactly the order that ``Order`` says."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64
from torch import Tensor

from paribus.data.order import Order
from paribus.data.views import make_views
from paribus.rng import key_id, stream
from paribus.types import Batch, Sample, Share, Source, ViewSpec


class Loader:
    """Batches of a source for a range of steps; what step k holds depends on (seed, k) only.

    Args:
        source: where the samples come from.
        views: the crops to make of each image.
        image_size: the encoder's side in pixels, of which a view's ``size`` is a fraction.
        batch: samples a step.
        seed: the study's root seed, for order and views.
        workers: threads that decode and crop; OpenCV and the decoders release the interpreter lock.
        ahead: batches made before they are asked for.
        share: which rows of every batch are made here.
    """

    def __init__(
        self,
        source: Source,
        views: Sequence[ViewSpec],
        *,
        image_size: int,
        batch: int,
        seed: int,
        workers: int = 2,
        ahead: int = 2,
        share: Share = Share(),  # noqa: B008 - immutable
    ) -> None:
        self.source, self.views, self.image_size = source, tuple(views), image_size
        self.batch, self.seed, self.workers, self.ahead, self.share = batch, seed, workers, ahead, share
        self.order: Callable[..., tuple[Any, Any]] = Order(len(source), seed)

    def make(self, step: int) -> Batch:
        """The batch of one step, or this process's rows of it."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)
        positions = positions[self.share.rows(self.batch)]
        indices, epochs = self.order(positions)
        samples = self.fetch(indices)
        ids = np.array([key_id(sample.key) for sample in samples], dtype=np.uint64)
        views = self.look(samples, ids, indices, epochs)
        texts, turns = [sample.text for sample in samples], [sample.conversation() for sample in samples]
        return Batch(ids, views, texts, turns, seed=stream(self.seed, "step", step))

    def fetch(self, indices: Int64[np.ndarray, " B"]) -> list[Sample]:
        """The samples of a batch."""
        return [self.source[int(index)] for index in indices]

    def look(
        self,
        samples: Sequence[Sample],
        ids: UInt64[np.ndarray, " B"],
        indices: Int64[np.ndarray, " B"],
        epochs: Int64[np.ndarray, " B"],
    ) -> Mapping[str, Tensor]:
        """What an objective sees of them; here random crops."""
        del indices
        images = [sample.image for sample in samples]
        return make_views(images, ids, self.views, image_size=self.image_size, seed=self.seed, epoch=epochs)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps ``start`` to ``stop - 1``, made ahead of time in threads."""
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for step in range(start, stop):
                    waiting.append(pool.submit(self.make, step))
                    if len(waiting) > self.ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
