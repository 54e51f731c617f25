"""Opening any encoder as an ``Eye``, told by its files.

Architectures that ``VisionEncoder`` has (ViT, CLIP, SigLIP, MAE, of any library) are read into it. Others of
transformers' (DINOv2, DINOv3, ConvNeXt and whatever else AutoModel builds), of timm's and of open_clip's are
run by their own code, never by code out of the folder. How pictures are prepared is read from the files, and
told.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from paribus.encoders import foreign_open_clip, foreign_timm
from paribus.encoders.eye import Eye, EyeAbout, Pictures, Sight
from paribus.encoders.folders import About, read_json, recognised
from paribus.encoders.foreign_models import OPEN_CLIP, OpenClipEye, TimmEye, TransformersEye
from paribus.encoders.foreign_transformers import INSIDE, KINDS
from paribus.encoders.published import PUBLISHED, evaluate, load, transform_words
from paribus.encoders.vision import VisionEncoder


class OwnEye:
    """An encoder of an architecture that Paribus has."""

    def __init__(self, encoder: VisionEncoder, about: About) -> None:
        self.encoder, self.about = encoder.eval(), _about(encoder, about)

    def prepare(self, pictures: Pictures) -> Float[Tensor, "B 3 S S"]:
        """As it was published."""
        return evaluate(self.encoder.config, pictures)

    @torch.no_grad()
    def look(self, pixels: Float[Tensor, "B 3 S S"], *, layers: bool, patches: bool = False) -> Sight:
        """Its class token, or what its head pools."""
        if not layers:
            features = self.encoder(pixels)
            return Sight(features.cls, (), features.patches if patches else None)
        seen, features = self.encoder.survey(pixels)
        return Sight(features.cls, tuple(seen.unbind(1)), features.patches if patches else None)

    def to(self, device: torch.device) -> "OwnEye":
        """On a device."""
        self.encoder.to(device)
        return self


def _about(encoder: VisionEncoder, about: About) -> EyeAbout:
    config, trained = encoder.config, about.trained
    return EyeAbout(
        where=about.where,
        format=about.format,
        model=f"ViT of {config.depth} blocks, {config.width} wide, patches of {config.patch}",
        parameters=sum(weight.numel() for weight in encoder.parameters()),
        width=config.width,
        size=config.image_size,
        prepared=transform_words(config),
        read="class token" if config.pool == "cls" else "attention-pooling head",
        taught="" if trained is None else trained.objective or "",
        notes=about.notes,
    )


def open_eye(name: str, root: Path = Path()) -> Eye:
    """The encoder in a folder, or a released one by its name.

    Args:
        name: a folder in any layout that ``folders`` knows, or a name out of ``PUBLISHED``.
        root: where folders of released encoders lie.

    Raises:
        UserError: there is none, it is damaged, or nothing here can run it.
    """
    folder = Path(name).expanduser()
    if name in PUBLISHED or not folder.exists():
        return OwnEye(*load(name, root=root))
    form, path = recognised(folder), folder / "config.json"
    if form == "transformers" and read_json(path).get("model_type") not in KINDS | INSIDE:
        return TransformersEye(folder)
    if form == "timm" and not foreign_timm.is_plain(read_json(path)):
        return TimmEye(folder)
    if form == "open_clip" and not foreign_open_clip.is_plain(read_json(folder / OPEN_CLIP)):
        return OpenClipEye(folder)
    return OwnEye(*load(folder))
