"""What every image-text objective is made of: two towers, and a space in which they meet."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.projection import build_projection
from paribus.encoders.text import Material, TextConfig, TowerConfig
from paribus.encoders.towers import AnyTower, build_tower
from paribus.encoders.vision import VisionEncoder, widen
from paribus.objectives.base import Joint, Objective, ObjectiveConfig
from paribus.objectives.collapse import COLLAPSED, spread
from paribus.rng import torch_seed
from paribus.types import Batch, Clock, Encoded, Features, Losses, ViewSpec

OWN = ViewSpec(name="image", scale=(0.9, 1.0))


class ImageTextConfig(ObjectiveConfig):
    """Settings of all image-text objectives."""

    embed: int = Field(512, ge=1, description="width of the joint space")
    text: AnyTower = TextConfig()
    crop: tuple[float, float] = Field((0.9, 1.0), description="share of the image that its own view keeps")
    reads: tuple[str, ...] = Field(
        (), description="in a hybrid: views of other parts to read instead of its own"
    )

    least_batch: ClassVar[int] = 2

    def views(self) -> tuple[ViewSpec, ...]:
        """One nearly whole view, or none if those of other parts are read."""
        return () if self.reads else (OWN.model_copy(update={"scale": self.crop}),)

    def tower(self) -> TowerConfig:
        """The text tower."""
        return self.text

    @property
    def names(self) -> tuple[str, ...]:
        """The views that are read."""
        return self.reads or (OWN.name,)


class JointSpace(Joint):
    """A text tower, the two projections into the space where captions meet pictures, and its scale.

    All that is kept beside an encoder to tell its pictures in words.

    Args:
        config: text tower and width of the space.
        width: of the image features.
        material: what the text tower is built from.
        seed: the study's root seed.
        kind: names the stream of the projections' initial weights.
        scale: initial factor of the cosines.
        bias: initial term beside them, where the loss has one.
    """

    def __init__(
        self,
        config: ImageTextConfig,
        width: int,
        material: Material,
        seed: int,
        kind: str,
        *,
        scale: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.scale_log = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.text = build_tower(config.text, material, seed)
        with torch_seed(seed, "heads", kind):
            self.image_proj = build_projection("linear", width, config.embed)
            self.text_proj = build_projection(config.text.projection, self.text.width, config.embed)

    def represent(self, features: Features) -> Float[Tensor, "B W"]:
        """What of an encoder's features is projected."""
        return features.cls

    def see(self, features: Features) -> Float[Tensor, "B D"]:
        """An encoder's features as unit vectors."""
        return self.place(self.represent(features))

    def place(self, represented: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """What is projected, projected, as unit vectors."""
        return F.normalize(widen(self.image_proj(represented)), dim=-1)

    def read(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Captions as unit vectors."""
        return F.normalize(widen(self.text_proj(self.text(texts))), dim=-1)


class ImageText(Objective):
    """An image tower, a text tower, and a learnt scale; subclasses say what pairs them.

    Several views of a picture are each paired with its caption, and the losses are averaged (SILC, Naeem et
    al. 2023: the caption supervises each global view).
    """

    largest_scale: ClassVar[float] = math.inf
    kind: ClassVar[str]

    def __init__(
        self,
        config: ImageTextConfig,
        encoder: VisionEncoder,
        material: Material,
        seed: int,
        *,
        scale: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.config, self.image = config, encoder
        self.joint = self.space(material, seed, scale, bias)

    def space(self, material: Material, seed: int, scale: float, bias: float | None) -> JointSpace:
        """A new joint space on this encoder."""
        width = self.image.config.width
        return JointSpace(self.config, width, material, seed, self.kind, scale=scale, bias=bias)

    @property
    def scale_log(self) -> nn.Parameter:
        """The logarithm of the learnt scale."""
        return self.joint.scale_log

    def look(self, batch: Batch, name: str) -> Float[Tensor, "B D"]:
        """One view's pictures as unit vectors."""
        return self.joint.place(self.image.summary(batch.views[name][:, 0]))

    def encode(self, batch: Batch) -> Encoded:
        """Unit vectors: ``image`` ``[B V D]`` for the views that are read, ``text`` ``[B D]``."""
        images = [self.look(batch, name) for name in self.config.names]
        return {"image": torch.stack(images, dim=1), "text": self.joint.read(batch.texts)}

    @abstractmethod
    def pair(self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """The loss of one view's images and the captions, in the same order."""

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """Mean over the views of the loss over the whole batch."""
        del clock
        images, text = encoded["image"], encoded["text"]
        total = torch.stack([self.pair(image, text) for image in images.unbind(dim=1)]).mean()
        scale = self.scale_log.detach().exp()
        parts = {self.kind: total.detach(), "temperature": 1.0 / scale}
        return Losses(total, parts | {"image_spread": spread(images), "text_spread": spread(text)})

    def symptoms(self, line: Mapping[str, float], clock: Clock) -> dict[str, str]:
        """A tower that gives everything one vector: nothing can be learnt from it."""
        del clock
        towers = (("image_spread", "image tower", "pictures"), ("text_spread", "text tower", "captions"))
        return {
            f"collapse of the {tower}": f"the {tower} gives all {what} one vector "
            f"(spread {line[name]:.1g} of 1)"
            for name, tower, what in towers
            if line[name] < COLLAPSED
        }

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        """Keep the scale in [1, largest_scale]."""
        del clock
        self.scale_log.clamp_(0.0, math.log(self.largest_scale))

    def looks(self) -> dict[tuple[str, str], float]:
        """One forward a view."""
        return {("encoder", name): 1.0 for name in self.config.names}

    def joint_space(self) -> JointSpace:
        """Both projections and the text tower."""
        return self.joint

    def encoder(self) -> VisionEncoder:
        """The image tower's last weights."""
        return self.image
