"""Any vision encoder behind one contract: what it sees in a picture, layer by layer, prepared its own way."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from paribus.types import Config

Pictures = Sequence[UInt8[np.ndarray, "_ _ 3"]]


class Sight(NamedTuple):
    """What is seen of some pictures: the encoder's own vector, one of each layer from the first on, patches.

    Patches are places of the last layer in rows from the top left, normalised if the encoder normalises
    them; None where they were not wanted, or the encoder has none.
    """

    vector: Float[Tensor, "B D"]
    layers: tuple[Float[Tensor, "B _"], ...]
    patches: Float[Tensor, "B P _"] | None = None


class EyeAbout(Config):
    """What an encoder is."""

    where: str
    format: str
    model: str
    parameters: int
    width: int
    size: int = Field(description="side of the prepared picture, in pixels")
    prepared: str = Field(description="how pictures are prepared, in words")
    read: str = Field(description="what of it is compared: a class token, a pooling head or a mean")
    taught: str = Field("", description="by which objective, if that is known")
    notes: tuple[str, ...] = ()


@runtime_checkable
class Eye(Protocol):
    """An encoder that can be compared with any other."""

    @property
    def about(self) -> EyeAbout:
        """What it is."""
        ...

    def prepare(self, pictures: Pictures) -> Float[Tensor, "B 3 S S"]:
        """Pictures of any size as its input in [0, 1]."""
        ...

    def look(self, pixels: Float[Tensor, "B 3 S S"], *, layers: bool, patches: bool = False) -> Sight:
        """What it sees; of its layers and patches nothing where they are not wanted."""
        ...

    def to(self, device: torch.device) -> "Eye":
        """The same on a device."""
        ...
