"""SimCLR: among all other views of the batch, find the other view of the same picture.

Papers: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"; head, views
and temperature as in SLIP (Mu et al. 2021, facebookresearch/SLIP), for whose hybrid it is here. In
pseudo-code, for unit vectors z_1 ... z_2B, where i and t(i) show the same picture:

    loss = mean_i  -log( exp(<z_i, z_t(i)> / 0.1) / sum over j != i of exp(<z_i, z_j> / 0.1) )

Deviation: LayerNorm stands in the head where SLIP has SyncBatchNorm. With BatchNorm a sample's encoding would
depend on its neighbours, and no batch could be split over chunks or processes without changing the result.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder, init_linear, widen
from paribus.objectives.base import Objective, ObjectiveConfig
from paribus.objectives.collapse import COLLAPSED, spread
from paribus.objectives.contrastive import nt_xent
from paribus.rng import torch_seed
from paribus.types import Batch, Clock, Encoded, Losses, ViewSpec

NAMES = ("ssl1", "ssl2")


def _view(name: str) -> ViewSpec:
    return ViewSpec(
        name=name, scale=(0.08, 1.0), flip=0.5, jitter=0.8, saturation=0.4, grayscale=0.2, blur=0.5
    )


class SimClr(Objective):
    """An encoder and a projection head."""

    class Config(ObjectiveConfig):
        """SimCLR's own settings."""

        kind: Literal["simclr"] = "simclr"
        hidden: int = Field(4096, ge=1)
        out: int = Field(256, ge=1)
        temperature: float = Field(0.1, gt=0)

        least_batch: ClassVar[int] = 2
        published_views: ClassVar[tuple[ViewSpec, ...]] = tuple(map(_view, NAMES))

    def __init__(
        self, config: "SimClr.Config", encoder: VisionEncoder, material: Material, seed: int
    ) -> None:
        super().__init__()
        del material
        self.config, self.image = config, encoder
        with torch_seed(seed, "heads", "simclr"):
            self.head = nn.Sequential(
                nn.Linear(encoder.config.width, config.hidden),
                nn.LayerNorm(config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, config.hidden),
                nn.LayerNorm(config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, config.out),
            )
            init_linear(self.head, 0.02 * (4096 / config.hidden) ** 0.5)

    def encode(self, batch: Batch) -> Encoded:
        """Unit vectors ``views`` ``[B 2 D]``."""
        seen = [self.head(self.image.summary(batch.views[name][:, 0])) for name in NAMES]
        return {"views": F.normalize(widen(torch.stack(seen, dim=1)), dim=-1)}

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """NT-Xent over the whole batch."""
        del clock
        total = nt_xent(encoded["views"], self.config.temperature)
        return Losses(total, {"simclr": total.detach(), "spread": spread(encoded["views"])})

    def symptoms(self, line: Mapping[str, float], clock: Clock) -> dict[str, str]:
        """An encoder that gives all pictures one vector."""
        del clock
        if line["spread"] >= COLLAPSED:
            return {}
        told = f"all pictures have one vector (spread {line['spread']:.1g} of 1)"
        return {"collapse of the encoder": told}

    def looks(self) -> dict[tuple[str, str], float]:
        """One forward a view."""
        return {("encoder", name): 1.0 for name in NAMES}

    def encoder(self) -> VisionEncoder:
        """The encoder's last weights."""
        return self.image
