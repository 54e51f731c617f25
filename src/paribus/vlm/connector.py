"""What stands between an encoder's patches and a language model's words."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from paribus.rng import torch_seed
from paribus.types import Config


class ConnectorConfig(Config):
    """LLaVA-1.5's ``mlp2x_gelu``: two linear layers with a GELU between them."""

    kind: Literal["mlp"] = "mlp"


class MLPConnector(nn.Module):
    """Patches to word embeddings, one for one.

    Args:
        width: the encoder's.
        hidden: the language model's.
        seed: the study's root seed; weights come from their own stream.
    """

    def __init__(self, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        with torch_seed(seed, "connector"):
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Project each patch."""
        out: Tensor = self.layers(patches)
        return out
