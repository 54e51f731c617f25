"""dino.txt: a text tower aligned to a frozen, trained encoder; what words add to a representation.

Paper: Jose et al. 2024, "DINOv2 Meets Text" (arXiv 2412.16334); code facebookresearch/dinov3, train_dinotxt.
The encoder does not move. Two trainable transformer blocks stand on its normalised tokens; a picture is the
class token beside the mean patch. In pseudo-code:

    tokens = norm(blocks(frozen(picture)));   x = W [tokens.cls | mean(tokens.patches)];   y = text tower
    loss = CLIP's, between x and y

Deviations: the vocabulary is the corpus' own; stochastic depth in the new blocks is off by default (theirs
0.3 belongs to 50,000 steps).
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.text import Material
from paribus.encoders.vision import Block, VisionEncoder, init_linear
from paribus.objectives.contrastive import info_nce
from paribus.objectives.joint import ImageText, ImageTextConfig
from paribus.objectives.residuals import keep_residuals
from paribus.rng import torch_seed
from paribus.types import Batch, Confound

CODE = "facebookresearch/dinov3 train_dinotxt"


class DinoTxt(ImageText):
    """A frozen encoder, some blocks on it, and a text tower."""

    class Config(ImageTextConfig):
        """dino.txt's own settings."""

        kind: Literal["dinotxt"] = "dinotxt"
        embed: int = Field(2048, ge=1, description="width of the joint space")
        blocks: int = Field(2, ge=0, description="trainable blocks on the frozen encoder")
        drop_path: float = Field(0.0, ge=0, lt=1, description="of the trainable blocks")
        temperature: float = Field(0.07, gt=0, description="initial; learnt, clamped to at least 0.01")

        trains_encoder: ClassVar[bool] = False
        departures: ClassVar[tuple[Confound, ...]] = (
            Confound(path="recipe.weight_decay", value=1e-4, why="dino.txt's published decay", source=CODE),
            Confound(path="recipe.betas", value=(0.9, 0.99), why="dino.txt's AdamW", source=CODE),
        )

    kind = "dinotxt"
    largest_scale = 100.0
    config: "DinoTxt.Config"

    def __init__(
        self, config: "DinoTxt.Config", encoder: VisionEncoder, material: Material, seed: int
    ) -> None:
        scale, sizes = 1.0 / config.temperature, encoder.config
        super().__init__(config, encoder, material, seed, scale=scale, width=2 * sizes.width)
        encoder.requires_grad_(False)
        with torch_seed(seed, "blocks", self.kind):
            self.blocks = nn.ModuleList(
                Block(sizes.width, sizes.heads, sizes.mlp_ratio) for _ in range(config.blocks)
            )
            self.norm = nn.LayerNorm(sizes.width, eps=1e-6)
            init_linear(self.blocks, 0.02 * (768 / sizes.width) ** 0.5)

    def features(self, batch: Batch, name: str) -> Float[Tensor, "B W"]:
        """The class token beside the mean patch, after the trainable blocks."""
        with torch.no_grad():
            frozen = self.image(batch.views[name][:, 0])
        x = torch.cat([frozen.cls[:, None], frozen.patches], dim=1)
        keep = keep_residuals(batch, name, 1, self.config.blocks, self.config.drop_path, x)
        for number, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[number])
        x = self.norm(x)
        return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)

    def pair(self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """InfoNCE over the whole batch."""
        return info_nce(image, text, self.scale_log.exp())
