"""What stands between an encoder's patches and a language model's words.

Shapes: B images, N patches of width D, M word embeddings of the language model's width H, Q queries.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.vision import attend, init_linear, perceptron
from paribus.errors import UserError
from paribus.rng import torch_seed
from paribus.types import Config

EPS = 1e-6


class ConnectorSettings(Config, ABC):
    """What every kind of connector says of itself before it is built."""

    def tokens(self, patches: int) -> int:
        """Word embeddings that an image becomes: one a patch, unless a kind says otherwise."""
        return patches

    @abstractmethod
    def parameters(self, width: int, hidden: int) -> int:
        """Trainable numbers."""

    @abstractmethod
    def flops(self, width: int, hidden: int, patches: int) -> float:
        """FLOPs of one image's forward pass, two a multiply-add."""


class LinearConfig(ConnectorSettings):
    """One linear layer, as in the first LLaVA (Liu et al. 2023)."""

    kind: Literal["linear"] = "linear"

    def parameters(self, width: int, hidden: int) -> int:
        """Weight and bias."""
        return _linear(width, hidden)

    def flops(self, width: int, hidden: int, patches: int) -> float:
        """One matrix."""
        return 2.0 * patches * width * hidden


class MLPConfig(ConnectorSettings):
    """LLaVA-1.5's ``mlp2x_gelu`` (Liu et al. 2024): two linear layers with a GELU between them."""

    kind: Literal["mlp"] = "mlp"

    def parameters(self, width: int, hidden: int) -> int:
        """Both layers."""
        return _linear(width, hidden) + _linear(hidden, hidden)

    def flops(self, width: int, hidden: int, patches: int) -> float:
        """Two matrices."""
        return 2.0 * patches * hidden * (width + hidden)


class ResamplerConfig(ConnectorSettings):
    """Learnt queries that read the patches: as many words as queries, however many the patches.

    Like the Q-Former (BLIP-2, Li et al. 2023) and the perceiver resampler (Flamingo, Alayrac et al. 2022),
    and simpler than both. The Q-Former is a BERT, whose queries also attend to each other and to text; here
    they attend to patches alone, and all weights begin at random. Flamingo's blocks are these, but that its
    queries are among the keys and values too, that its layers have no biases, and that its images have time.
    """

    kind: Literal["resampler"] = "resampler"
    queries: int = Field(64, ge=1, description="word embeddings of one image")
    depth: int = Field(2, ge=1)
    heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)

    def tokens(self, patches: int) -> int:
        """One a query."""
        del patches
        return self.queries

    def parameters(self, width: int, hidden: int) -> int:
        """Queries, blocks with three norms each, last norm, last layer."""
        inner = int(width * self.mlp_ratio)
        attention = _linear(width, width) + _linear(width, 2 * width) + _linear(width, width)
        block = attention + 3 * 2 * width + _linear(width, inner) + _linear(inner, width)
        return self.queries * width + self.depth * block + 2 * width + _linear(width, hidden)

    def flops(self, width: int, hidden: int, patches: int) -> float:
        """Projections of queries and patches, attention, MLP; at the end the last layer."""
        inner = int(width * self.mlp_ratio)
        projections = 2 * self.queries * width**2 + 2 * patches * width**2
        attention = 2 * self.queries * patches * width
        block = projections + attention + 2 * self.queries * width * inner
        return 2.0 * (self.depth * block + self.queries * width * hidden)


AnyConnector = Annotated[LinearConfig | MLPConfig | ResamplerConfig, Field(discriminator="kind")]


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


class Connector(nn.Module, ABC):
    """Patches to word embeddings."""

    @abstractmethod
    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B M H"]:
        """Project an image's patches."""

    def tokens(self, patches: int) -> int:
        """Word embeddings that come out of so many patches: one a patch, unless a kind says otherwise."""
        return patches


class LinearConnector(Connector):
    """``LinearConfig``, built; it starts as torch starts a linear layer, as LLaVA does."""

    def __init__(self, config: LinearConfig, width: int, hidden: int) -> None:
        super().__init__()
        del config
        self.layer = nn.Linear(width, hidden)

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Project each patch."""
        out: Tensor = self.layer(patches)
        return out


class TwoLayerConnector(Connector):
    """``MLPConfig``, built; its layers start as torch starts linear layers, as LLaVA's do."""

    def __init__(self, config: MLPConfig, width: int, hidden: int) -> None:
        super().__init__()
        del config
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Project each patch."""
        out: Tensor = self.layers(patches)
        return out


class CrossAttention(nn.Module):
    """Queries attend over patches, with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B Q D"], patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        """Each query's weighted sum of the patches' values."""
        parts = (self.q(x), *self.kv(patches).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        out: Tensor = self.proj(attend(q, k, v, causal=False).transpose(1, 2).flatten(2))
        return out


class ResamplerBlock(nn.Module):
    """Pre-norm cross-attention and a perceptron, each with its residual; the patches stay as they are."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_patches = nn.LayerNorm(width, eps=EPS)
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = perceptron(width, mlp_ratio, "gelu")

    def forward(self, x: Float[Tensor, "B Q D"], patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        """Read the patches, then think."""
        x = x + self.attn(self.norm1(x), self.norm_patches(patches))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Resampler(Connector):
    """``ResamplerConfig``, built.

    Linear layers start as the encoder's. Queries start with standard deviation 1, as in Flamingo's public
    versions. With 0.02 they drown in what the first block adds, which is much the same for all of them: the
    words of one image then differ by 1% of the variance.

    Raises:
        UserError: the width does not divide into the heads.
    """

    def __init__(self, config: ResamplerConfig, width: int, hidden: int) -> None:
        super().__init__()
        if width % config.heads:
            raise UserError(
                f"vlm.eyes.connector.heads is {config.heads}, but what it reads is {width} wide: "
                "choose a number that divides it."
            )
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.blocks = nn.ModuleList(
            ResamplerBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.out = nn.Linear(width, hidden)
        init_linear(self, 0.02 * (768 / width) ** 0.5)
        nn.init.normal_(self.queries)

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q H"]:
        """Read an image's patches."""
        x = self.queries.expand(len(patches), -1, -1)
        for block in self.blocks:
            x = block(x, patches)
        out: Tensor = self.out(self.norm(x))
        return out

    def tokens(self, patches: int) -> int:
        """One a query."""
        del patches
        return len(self.queries)


CONNECTORS: dict[type[ConnectorSettings], Any] = {
    LinearConfig: LinearConnector,
    MLPConfig: TwoLayerConnector,
    ResamplerConfig: Resampler,
}
"""Which module each config asks for; all are built from (config, width, hidden)."""


def build_connector(config: AnyConnector, width: int, hidden: int, seed: int) -> Connector:
    """A connector with new weights.

    Args:
        config: which kind.
        width: of the patches.
        hidden: the language model's width.
        seed: the study's root seed; weights come from their own stream.

    Raises:
        UserError: the kind cannot be built at this width.
    """
    with torch_seed(seed, "connector"):
        connector: Connector = CONNECTORS[type(config)](config, width, hidden)
    return connector


ConnectorConfig = MLPConfig


class MLPConnector(TwoLayerConnector):
    """The default connector from its own stream; ``build_connector`` is the way to any kind."""

    def __init__(self, width: int, hidden: int, seed: int) -> None:
        with torch_seed(seed, "connector"):
            super().__init__(MLPConfig(), width, hidden)
