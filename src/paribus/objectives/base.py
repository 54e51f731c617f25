"""What an objective is: two cuts, ``encode`` per sample and ``loss`` across samples.

The cut is what lets one loop train everything and split any batch exactly: encodings of chunks join into
the encodings of the batch, and only ``loss`` sees samples together.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from paribus.types import Batch, Clock, Config, Confound, Encoded, Losses, ViewSpec


class ObjectiveConfig(Config):
    """What every objective's config says besides its own settings."""

    departures: ClassVar[tuple[Confound, ...]] = ()
    """How the published recipe departs from the control: applied at level ``recipe`` only, and disclosed."""

    published_views: ClassVar[tuple[ViewSpec, ...]] = ()
    """The crops of the published recipe."""

    reads_text: ClassVar[bool] = False
    """Whether captions are part of the supervision."""

    def views(self) -> tuple[ViewSpec, ...]:
        """The published crops, with this config's own numbers of crops."""
        return self.published_views


class Objective(nn.Module, ABC):
    """A supervision signal on an encoder. It knows nothing of loops, optimisers or data."""

    additive: bool = False
    """True if ``loss`` is a mean over independent terms, so that chunks simply add up."""

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Per-sample encodings; sample i's depend on sample i alone. Runs under autocast."""

    @abstractmethod
    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """The loss of the joined encodings, in float32; the only place where samples meet."""

    @abstractmethod
    def encoder(self) -> nn.Module:
        """The weights to ship."""

    def terms(self, batch: Batch) -> int:
        """How many terms an additive loss averages over in this batch."""
        return len(batch)

    def image_forwards(self) -> float:
        """Full-size image forwards through an encoder for one sample, counted by tokens."""
        return 1.0

    def before_step(self, clock: Clock) -> None:
        """Between backward and the optimiser's step: the place to freeze what must not move yet."""

    def after_step(self, clock: Clock) -> None:
        """After the optimiser's step: EMA teachers, centres, clamps."""
        del clock
