"""SigLIP: every image-caption pair of the batch is a yes-or-no question.

Paper: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", algorithm 1; code open_clip 2.30
(SigLipLoss, main.py --siglip). In pseudo-code, for unit vectors x_i, y_j:

    logits[i, j] = exp(s) * <x_i, y_j> + b;   z[i, j] = +1 if i = j else -1
    loss = -sum_ij log sigmoid(z[i, j] * logits[i, j]) / B

Deviations: none in the loss; the logits of a large batch are never held whole. As in the study's arm
(open_clip's --siglip on the plain architecture) the encoder keeps its class token, so that only the loss
differs from CLIP.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.objectives.contrastive import sigmoid_loss
from paribus.objectives.joint import ImageText, ImageTextConfig
from paribus.types import Clock, Confound, Encoded, Losses


class SigLip(ImageText):
    """An image tower, a text tower, a temperature and a bias."""

    class Config(ImageTextConfig):
        """SigLIP's own settings."""

        kind: Literal["siglip"] = "siglip"
        scale: float = Field(10.0, gt=0, description="initial; learnt")
        bias: float = Field(-10.0, description="initial; learnt")

        departures: ClassVar[tuple[Confound, ...]] = (
            Confound(path="recipe.weight_decay", value=0.2, why="open_clip's decay", source="open_clip"),
        )

    kind = "siglip"
    largest_scale = 100.0  # open_clip clamps the scale whatever the loss (train.py)

    def __init__(
        self, config: "SigLip.Config", encoder: VisionEncoder, material: Material, seed: int
    ) -> None:
        super().__init__(config, encoder, material, seed, scale=config.scale, bias=config.bias)

    @property
    def bias(self) -> nn.Parameter:
        """The learnt term beside the cosines."""
        assert self.joint.bias is not None
        return self.joint.bias

    def pair(self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """Sigmoid loss over all pairs of the batch."""
        return sigmoid_loss(image, text, self.scale_log.exp(), self.bias)

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """As for all image-text objectives; the bias is logged too."""
        losses = super().loss(encoded, clock)
        return losses._replace(parts=losses.parts | {"bias": self.bias.detach().clone()})
