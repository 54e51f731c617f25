"""A language model's eyes: one vision encoder or several, and what turns their features into words.

Looking and projecting are two calls. What frozen encoders see in an image never changes, so one tensor an
image can be kept on disk; the connector is what is trained.

Shapes: B images, N positions of width D (all encoders' together), M word embeddings of width H.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.errors import UserError
from paribus.rng import stream
from paribus.types import Config, Features
from paribus.vlm.connector import AnyConnector, Connector, MLPConfig, build_connector


class Seen(NamedTuple):
    """The shape of what the encoders give of one image."""

    tokens: int
    width: int


class EyesConfig(Config):
    """What is read from the encoders, how several are merged, and what joins them to the language model.

    merge, where there are several encoders:
        channel: features of the same place side by side, one connector (Prismatic, Karamcheti et al. 2024;
            Cambrian-1, Tong et al. 2024).
        interleave: a connector for each, and their words in turns (Interleaved-MoF of "Eyes Wide Shut",
            Tong et al. 2024).
    """

    connector: AnyConnector = MLPConfig()
    layer: int = Field(
        -2, le=-1, description="-1: the encoder's output; LLaVA reads the second-to-last block"
    )
    tokens: Literal["patches", "all"] = Field(
        "patches", description="all: class token and registers before the patches, if the encoder has any"
    )
    merge: Literal["channel", "interleave"] = "channel"

    @property
    def whole(self) -> bool:
        """Whether the whole sequence is read, not the patches alone."""
        return self.tokens != "patches"

    def seen(self, encoders: Sequence[EncoderConfig]) -> Seen:
        """What these encoders give of one image.

        Raises:
            UserError: they cannot be read so.
        """
        self._check(encoders)
        first = encoders[0]
        tokens = first.tokens(first.image_size) if self.whole else first.grid**2
        return Seen(tokens, sum(encoder.width for encoder in encoders))

    def widths(self, encoders: Sequence[EncoderConfig]) -> list[int]:
        """Widths that connectors are needed for: one, or one an encoder."""
        widths = [encoder.width for encoder in encoders]
        return widths if self.merge == "interleave" else [sum(widths)]

    def words(self, encoders: Sequence[EncoderConfig]) -> int:
        """Word embeddings of one image."""
        return len(self.widths(encoders)) * self.connector.tokens(self.seen(encoders).tokens)

    def parameters(self, encoders: Sequence[EncoderConfig], hidden: int) -> int:
        """Numbers of all connectors."""
        return sum(self.connector.parameters(width, hidden) for width in self.widths(encoders))

    def flops(self, encoders: Sequence[EncoderConfig], hidden: int) -> float:
        """FLOPs of projecting one image; looking is not among them."""
        tokens = self.seen(encoders).tokens
        return sum(self.connector.flops(width, hidden, tokens) for width in self.widths(encoders))

    def _check(self, encoders: Sequence[EncoderConfig]) -> None:
        if not encoders:
            raise UserError("vlm.eyes needs an encoder: name at least one.")
        if self.whole and len(encoders) > 1:
            raise UserError(
                "vlm.eyes.tokens is all, but of several encoders only patches belong together: say patches."
            )
        depth = min(encoder.depth for encoder in encoders)
        if -self.layer > depth:
            raise UserError(
                f"vlm.eyes.layer is {self.layer}, but an encoder has {depth} blocks: take {-depth} to -1."
            )


class Interleaved(Connector):
    """A connector for each encoder, and their words in turns: everyone's first, then everyone's second.

    Args:
        connectors: one an encoder, in order.
        widths: what each encoder adds to the width of what is seen.
    """

    def __init__(self, connectors: Sequence[Connector], widths: Sequence[int]) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(connectors)
        self.widths = list(widths)

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B M H"]:
        """Project each encoder's features by its own connector."""
        parts = torch.split(patches, self.widths, dim=-1)
        words = [connector(part) for connector, part in zip(self.connectors, parts, strict=True)]
        return torch.stack(words, dim=2).flatten(1, 2)

    def tokens(self, patches: int) -> int:
        """All connectors' together."""
        return sum(cast(Connector, connector).tokens(patches) for connector in self.connectors)


class Eyes(nn.Module):
    """Encoders and what joins them to a language model; ``build_eyes`` makes them.

    Args:
        config: what is read, and how.
        encoders: in the order of the images that ``look`` takes.
        connector: the part that is trained and saved.
    """

    def __init__(self, config: EyesConfig, encoders: Sequence[VisionEncoder], connector: Connector) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(encoders)
        self.connector = connector
        self.seen_tokens, self.width = config.seen([encoder.config for encoder in encoders])

    @property
    def tokens(self) -> int:
        """Word embeddings of one image."""
        return self.connector.tokens(self.seen_tokens)

    def look(self, images: Sequence[Float[Tensor, "B 3 _ _"]]) -> Float[Tensor, "B N D"]:
        """Features of all encoders, side by side, on the first one's grid.

        Args:
            images: in [0, 1]; for each encoder the same ones, at its own size.

        Raises:
            ValueError: a number of images or a size that is not the encoders'.
        """
        encoders = [cast(VisionEncoder, encoder) for encoder in self.encoders]
        seen = [self._read(encoder, view) for encoder, view in zip(encoders, images, strict=True)]
        return torch.cat(seen, dim=-1)

    def project(self, seen: Float[Tensor, "B N D"]) -> Float[Tensor, "B M H"]:
        """What was seen, as word embeddings."""
        words: Tensor = self.connector(seen)
        return words

    def forward(self, images: Sequence[Float[Tensor, "B 3 _ _"]]) -> Float[Tensor, "B M H"]:
        """Look, then project."""
        return self.project(self.look(images))

    def _read(self, encoder: VisionEncoder, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        size = encoder.config.image_size
        if images.shape[-2:] != (size, size):
            raise ValueError(f"images of {tuple(images.shape[-2:])} for an encoder of {size} pixels")
        learns = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            features: Features = encoder(images, layer=self.config.layer)
            return self._chosen(features, encoder.config.lead)

    def _chosen(self, features: Features, lead: int) -> Float[Tensor, "B N D"]:
        """The tokens asked for; several encoders' patches on one grid."""
        if self.config.whole:
            front = [] if features.registers is None else [features.registers]
            # Where a head pools there is no class token: ``cls`` is no position of the sequence then.
            front = [features.cls[:, None], *front] if lead else front
            return torch.cat([*front, features.patches], dim=1)
        return regrid(features.patches, math.isqrt(self.seen_tokens))


def regrid(patches: Float[Tensor, "B N D"], side: int) -> Float[Tensor, "B M D"]:
    """Bring the patches of a square grid to another of ``side`` x ``side``, by bilinear interpolation."""
    given = math.isqrt(patches.shape[1])
    if given == side:
        return patches
    square = patches.transpose(1, 2).reshape(*patches.shape[::2], given, given)
    resized = F.interpolate(square, size=(side, side), mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


def build_eyes(config: EyesConfig, encoders: Sequence[VisionEncoder], hidden: int, seed: int) -> Eyes:
    """Eyes with frozen encoders and a new connector.

    Args:
        config: what is read, and how.
        encoders: one or several; they are frozen in place.
        hidden: the language model's width.
        seed: the study's root seed. A connector's first weights depend on it, its kind and its widths alone;
            further encoders do not move the first one's.

    Raises:
        UserError: the encoders cannot be read so.
    """
    described = [encoder.config for encoder in encoders]
    config.seen(described)  # complains before anything is built
    widths = config.widths(described)
    connectors = [
        build_connector(config.connector, width, hidden, seed if not place else stream(seed, "eye", place))
        for place, width in enumerate(widths)
    ]
    for encoder in encoders:
        encoder.requires_grad_(False)
    connector = connectors[0] if len(connectors) == 1 else Interleaved(connectors, widths)
    return Eyes(config, encoders, connector)
