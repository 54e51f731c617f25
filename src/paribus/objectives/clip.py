"""CLIP: symmetric InfoNCE between images and captions.

Paper: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", §2.3 and
figure 3; recipe as in open_clip 2.30 (params.py, train.py). In pseudo-code, for unit vectors x_i, y_j:

    logits[i, j] = exp(s) * <x_i, y_j>
    loss = (mean_i -log softmax(logits[i, :])[i] + mean_j -log softmax(logits[:, j])[j]) / 2

Deviations: none in the loss; the logits of a large batch are never held whole. The vocabulary of a text tower
from scratch is trained on the corpus.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.objectives.contrastive import info_nce
from paribus.objectives.joint import ImageText, ImageTextConfig
from paribus.types import Confound

LARGEST_SCALE = 100.0


class Clip(ImageText):
    """An image tower, a text tower and a temperature."""

    class Config(ImageTextConfig):
        """CLIP's own settings."""

        kind: Literal["clip"] = "clip"
        temperature: float = Field(0.07, gt=0, description="initial; learnt, clamped to at least 0.01")

        departures: ClassVar[tuple[Confound, ...]] = (
            Confound(path="recipe.weight_decay", value=0.2, why="CLIP's published decay", source="open_clip"),
        )

    kind = "clip"
    largest_scale = LARGEST_SCALE

    def __init__(self, config: "Clip.Config", encoder: VisionEncoder, material: Material, seed: int) -> None:
        super().__init__(config, encoder, material, seed, scale=1.0 / config.temperature)

    def pair(self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """InfoNCE over the whole batch."""
        return info_nce(image, text, self.scale_log.exp())
