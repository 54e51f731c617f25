"""What an objective is: two cuts, ``encode`` per sample and ``loss`` across samples.

The cut is what lets one loop train everything and split any batch exactly, over chunks and over processes:
encodings of parts join into the encodings of the batch, and only ``loss`` sees samples together.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from paribus.encoders.text import TowerConfig
from paribus.encoders.vision import Block
from paribus.types import Batch, Clock, Config, Confound, Encoded, Features, Losses, ViewSpec


class ObjectiveConfig(Config):
    """What every objective's config says besides its own settings."""

    kind: str = ""
    """The name in the registry; every objective narrows it to its own."""

    departures: ClassVar[tuple[Confound, ...]] = ()
    """How the published recipe departs from the control: applied at level ``recipe`` only, and disclosed."""

    published_views: ClassVar[tuple[ViewSpec, ...]] = ()
    """The crops of the published recipe."""

    least_batch: ClassVar[int] = 1
    """The smallest batch from which there is something to learn."""

    trains_encoder: ClassVar[bool] = True
    """False if the encoder is frozen and something is aligned to it; such an arm follows another."""

    def views(self) -> tuple[ViewSpec, ...]:
        """The published crops, with this config's own numbers of crops."""
        return self.published_views

    def tower(self) -> TowerConfig | None:
        """The text tower, if captions are part of the supervision."""
        return None

    @property
    def reads_text(self) -> bool:
        """Whether captions are part of the supervision."""
        return self.tower() is not None

    @property
    def looks_alone(self) -> bool:
        """Whether pictures alone are part of the supervision of the encoder."""
        return not self.reads_text

    def recipe(self) -> tuple[Confound, ...]:
        """All departures of this config's published recipe."""
        return self.departures


class Joint(nn.Module, ABC):
    """A space where an encoder's pictures meet words."""

    @abstractmethod
    def see(self, features: Features) -> Float[Tensor, "B D"]:
        """An encoder's features as unit vectors."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Captions as unit vectors."""


class Objective(nn.Module, ABC):
    """A supervision signal on an encoder. It knows nothing of loops, optimisers, processes or data."""

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

    def joint_space(self) -> Joint | None:
        """Text tower and projections, to be kept beside the encoder, where pictures are told in words."""
        return None

    def terms(self, batch: Batch) -> int:
        """How many terms an additive loss averages over in this batch; some samples may have none."""
        return len(batch)

    def lengths(self, batch: Batch) -> Sequence[int] | None:
        """Tokens of each sample, which chunks of an additive loss are made equal by. None: all cost alike."""
        del batch
        return None

    def blocks(self) -> Sequence[nn.Module]:
        """The repeated blocks that hold most of the weights, to be spread over processes one by one.

        Every sample goes through each of them once, by its ``forward``: processes meet in every block.
        """
        return ()

    def economise(self) -> None:
        """Recompute activations in the backward pass from now on: memory for time, the result unchanged."""

    def hasten(self) -> None:
        """Compile every transformer block that encodes pictures or captions, by itself and in place.

        Blocks of one shape share what is compiled, and names of weights stay, so that a run may be compiled
        or not from one checkpoint to the next. Results change by rounding. A language model's blocks are
        transformers' and stay as they are.
        """
        for module in self.modules():
            if isinstance(module, Block):
                module.compile()

    def looks(self) -> dict[tuple[str, str], float]:
        """(network, view) -> forwards of a full-size image for one sample, counted by tokens.

        Two objectives on one encoder that both look at a view with network ``encoder`` share the forward.
        """
        return {}

    def image_forwards(self) -> float:
        """Full-size image forwards through an encoder for one sample, counted by tokens."""
        return sum(self.looks().values())

    def phases(self) -> tuple[float, ...]:
        """Fractions of the budget at which the work for a sample changes, 0 first."""
        return (0.0,)

    def join(self) -> None:
        """Called once, before the first step that this objective takes part in.

        Others may have trained the encoder until then.
        """

    def symptoms(self, line: Mapping[str, float], clock: Clock) -> dict[str, str]:
        """What a step's logged parts show to be wrong with what is learnt: name -> a clause.

        Asked at every step, and to be answered from the numbers alone: every process must answer alike.
        """
        del line, clock
        return {}

    def begin_step(self, clock: Clock) -> None:
        """Before anything of a step is encoded."""
        del clock

    def before_step(self, clock: Clock) -> None:
        """Between backward and the optimiser's step: the place to freeze what must not move yet."""
        del clock

    def after_step(self, clock: Clock) -> None:
        """After the optimiser's step: EMA teachers, centres, clamps."""
        del clock
