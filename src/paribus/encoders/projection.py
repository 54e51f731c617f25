"""From a tower's width to the joint space of pictures and captions."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from paribus.encoders.text import Projection

ADAPTOR_BLOCKS = 4
EXPANSION = 2


class Residual(nn.Module):
    """LayerNorm, Linear to twice the width, GELU, Linear back; with its residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width)
        )

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """One block."""
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class Adaptor(nn.Module):
    """LLM2CLIP's adaptor (Huang et al. 2024, microsoft/LLM2CLIP): unit input, four blocks, norm, Linear."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(ADAPTOR_BLOCKS)))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, embed)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
        """From the language model's vectors."""
        out: Tensor = self.out(self.norm(self.blocks(F.normalize(x, dim=-1))))
        return out


def _linear(width: int, embed: int) -> nn.Module:
    """CLIP's: no bias, standard deviation ``width ** -0.5``."""
    layer = nn.Linear(width, embed, bias=False)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


def _mlp(width: int, embed: int) -> nn.Module:
    """open_clip 2.30's for pretrained text towers: a hidden layer half-way between the widths, no biases."""
    hidden = (width + embed) // 2
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed, bias=False)
    )


PROJECTIONS = {"linear": _linear, "mlp": _mlp, "adaptor": Adaptor}


def build_projection(kind: Projection, width: int, embed: int) -> nn.Module:
    """A projection by name; its weights come from torch's generator, which the caller seeds."""
    return PROJECTIONS[kind](width, embed)
