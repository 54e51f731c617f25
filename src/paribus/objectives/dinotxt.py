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
from paribus.encoders.vision import Block, EncoderConfig, VisionEncoder, init_linear
from paribus.objectives.contrastive import info_nce
from paribus.objectives.joint import ImageText, ImageTextConfig, JointSpace
from paribus.objectives.residuals import keep_residuals
from paribus.rng import torch_seed
from paribus.types import Batch, Confound, Features

CODE = "facebookresearch/dinov3 train_dinotxt"


class AlignedSpace(JointSpace):
    """A joint space with blocks of its own between the frozen encoder and the projection.

    Args:
        config: number of blocks, text tower, width of the space.
        encoder: sizes of the frozen encoder.
        material: what the text tower is built from.
        seed: the study's root seed.
        scale: initial factor of the cosines.
    """

    def __init__(
        self, config: "DinoTxt.Config", encoder: EncoderConfig, material: Material, seed: int, scale: float
    ) -> None:
        super().__init__(config, 2 * encoder.width, material, seed, config.kind, scale=scale)
        with torch_seed(seed, "blocks", config.kind):
            self.blocks = nn.ModuleList(
                Block(encoder.width, encoder.heads, encoder.mlp_ratio) for _ in range(config.blocks)
            )
            self.norm = nn.LayerNorm(encoder.width, eps=1e-6)
            init_linear(self.blocks, 0.02 * (768 / encoder.width) ** 0.5)

    def represent(
        self, features: Features, keep: Float[Tensor, "depth B 2"] | None = None
    ) -> Float[Tensor, "B W"]:
        """The class token beside the mean patch, after the blocks."""
        x = torch.cat([features.cls[:, None], features.patches], dim=1)
        for number, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[number])
        x = self.norm(x)
        return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)


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
    joint: AlignedSpace

    def __init__(
        self, config: "DinoTxt.Config", encoder: VisionEncoder, material: Material, seed: int
    ) -> None:
        super().__init__(config, encoder, material, seed, scale=1.0 / config.temperature)
        encoder.requires_grad_(False)

    def space(self, material: Material, seed: int, scale: float, bias: float | None) -> AlignedSpace:
        """A new joint space with blocks of its own."""
        del bias
        return AlignedSpace(self.config, self.image.config, material, seed, scale)

    def look(self, batch: Batch, name: str) -> Float[Tensor, "B D"]:
        """One view's pictures as unit vectors; nothing flows back into the encoder."""
        pixels = batch.views[name][:, 0]
        with torch.no_grad():
            frozen = self.image(pixels)
        keep = keep_residuals(batch, name, 1, self.config.blocks, self.config.drop_path, frozen.cls)
        return self.joint.place(self.joint.represent(frozen, keep))

    def pair(self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """InfoNCE over the whole batch."""
        return info_nce(image, text, self.scale_log.exp())
