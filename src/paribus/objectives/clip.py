"""CLIP: symmetric InfoNCE between images and captions.

Paper: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", §2.3 and
figure 3; recipe as in open_clip 2.30 (params.py, train.py). In pseudo-code, for unit vectors x_i, y_j:

    logits[i, j] = exp(s) * <x_i, y_j>
    loss = (mean_i -log softmax(logits[i, :])[i] + mean_j -log softmax(logits[:, j])[j]) / 2

Deviations: none in the loss. The text tower's vocabulary is trained on the corpus.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn

from paribus.encoders.text import TextConfig, TextTower
from paribus.encoders.vision import VisionEncoder, widen
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.rng import torch_seed
from paribus.types import Batch, Clock, Confound, Encoded, Losses, ViewSpec

MAX_SCALE = math.log(100.0)


def clip_loss(
    image: Float[Tensor, "B D"], text: Float[Tensor, "B D"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over cosine logits times ``scale``; inputs must have unit length."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Clip(Objective):
    """An image tower, a text tower and a temperature."""

    class Config(ObjectiveConfig):
        """CLIP's own settings."""

        kind: Literal["clip"] = "clip"
        embed: int = Field(512, ge=1, description="width of the joint space")
        text: TextConfig = TextConfig()
        temperature: float = Field(0.07, gt=0, description="initial; learnt, clamped to at least 0.01")

        reads_text: ClassVar[bool] = True
        published_views: ClassVar[tuple[ViewSpec, ...]] = (ViewSpec(name="image", scale=(0.9, 1.0)),)
        departures: ClassVar[tuple[Confound, ...]] = (
            Confound(path="recipe.weight_decay", value=0.2, why="CLIP's published decay", source="open_clip"),
        )

    scale_log: nn.Parameter

    def __init__(
        self, config: "Clip.Config", encoder: VisionEncoder, tokenizer: Tokenizer | None, seed: int
    ) -> None:
        super().__init__()
        if tokenizer is None:
            raise ValueError("CLIP reads captions and needs a tokenizer")
        self.config, self.image = config, encoder
        self.text = TextTower(config.text, tokenizer, seed)
        with torch_seed(seed, "heads"):
            self.image_proj = nn.Linear(encoder.config.width, config.embed, bias=False)
            self.text_proj = nn.Linear(self.text.width, config.embed, bias=False)
            nn.init.normal_(self.image_proj.weight, std=encoder.config.width**-0.5)
            nn.init.normal_(self.text_proj.weight, std=self.text.width**-0.5)
        self.scale_log = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def encode(self, batch: Batch) -> Encoded:
        """Unit vectors ``image`` and ``text``, each ``[B D]``."""
        (view,) = batch.views.values()
        image = self.image_proj(self.image(view[:, 0]).cls)
        text = self.text_proj(self.text(batch.texts))
        return {"image": F.normalize(widen(image), dim=-1), "text": F.normalize(widen(text), dim=-1)}

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """InfoNCE over the whole batch."""
        del clock
        total = clip_loss(encoded["image"], encoded["text"], self.scale_log.exp())
        return Losses(total, {"clip": total.detach(), "temperature": (-self.scale_log.detach()).exp()})

    def after_step(self, clock: Clock) -> None:
        """Clamp the temperature: the scale stays in [1, 100], as open_clip holds it."""
        del clock
        with torch.no_grad():
            self.scale_log.clamp_(0.0, MAX_SCALE)

    def encoder(self) -> VisionEncoder:
        """The image tower's last weights."""
        return self.image
