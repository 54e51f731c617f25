"""Published encoders by name or folder, and the transform that each was published with.

The seven that came with "Data or Language Supervision: What Makes CLIP Better than DINO?" (arXiv 2510.11835)
are known by name: what they were trained with, and how pictures are prepared where their folder does not say.
Nothing is fetched: their folders are put under ``root`` by whoever has the right to them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from paribus.encoders.folders import Loaded, Trained, read_folder, read_transformers, recognised
from paribus.encoders.foreign import IMAGENET, OPENAI, Pixels, Settings
from paribus.encoders.vision import Crop, EncoderConfig, Interpolation
from paribus.errors import UserError
from paribus.types import Config

RESAMPLE: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


CROPS: dict[Crop, Callable[[int], int]] = {
    "torchvision": lambda margins: round(margins / 2),
    "transformers": lambda margins: margins // 2,
}
"""Pixels that are cut from the left or the top, of those that are cut from both sides."""


class Entry(Config):
    """A released encoder: where it is published, what taught it, and how its pictures are prepared."""

    repo: str
    taught: str
    patch: int
    pixels: Settings


_CLIP = {"pixels": OPENAI | {"interpolation": "bicubic"}}
_DINO = {"pixels": IMAGENET | {"interpolation": "bicubic", "resize": 256}}
_DATA = "about 10M images of DataComp-12M, 20 epochs"


def _entry(name: str, patch: int, taught: str, pixels: Settings) -> tuple[str, Entry]:
    return name, Entry(repo=f"Leonardo6/{name}", taught=f"{taught}; {_DATA}", patch=patch, **pixels)


PUBLISHED: dict[str, Entry] = dict(
    [
        _entry("dino-datacomp-12m-16", 16, "DINO", _DINO),
        _entry("clip-datacomp-12m-16", 16, "CLIP, its text tower from scratch", _CLIP),
        _entry("clip-datacomp-12m-32", 32, "CLIP, its text tower from scratch", _CLIP),
        _entry("siglip-datacomp-12m-16", 16, "CLIP with SigLIP's sigmoid loss", _CLIP),
        _entry("clip-roberta10-datacomp-12m-16", 16, "CLIP, ten layers of RoBERTa unfrozen", _CLIP),
        _entry("clip-roberta4-datacomp-12m-16", 16, "CLIP, four layers of RoBERTa unfrozen", _CLIP),
        _entry("clip-vicuna", 16, "CLIP, captions read by Vicuna", _CLIP),
    ]
)
"""Name -> entry. All are ViT-B at 224 pixels; DINO's is published as a ViTModel, the others as CLIP's."""


def load(name_or_folder: str | Path, *, root: Path | None = None) -> Loaded:
    """An encoder: a folder in any format that ``folders`` reads, or a published one by its name.

    Args:
        name_or_folder: a folder, or a name out of ``PUBLISHED``.
        root: where folders of published encoders lie, each under its name.

    Raises:
        UserError: there is no such folder or name, or it does not hold what it should.
    """
    entry = PUBLISHED.get(str(name_or_folder))
    if entry is None:
        return _folder(Path(name_or_folder))
    folder = (root or Path()) / str(name_or_folder)
    if not folder.is_dir():
        raise UserError(
            f"{name_or_folder} is published, but {folder} is not there: download the repository {entry.repo} "
            "from huggingface.co into it, or say with --root where it lies."
        )
    loaded = read_transformers(folder, entry.pixels)
    if loaded.encoder.config.patch != entry.patch:
        raise UserError(
            f"{folder} has patches of {loaded.encoder.config.patch} pixels and {name_or_folder} has "
            f"{entry.patch}: it is another encoder."
        )
    about = loaded.about.model_copy(update={"trained": Trained(objective=entry.taught, study="2510.11835")})
    return Loaded(loaded.encoder, about)


def _folder(folder: Path) -> Loaded:
    if not folder.exists():
        listed = ", ".join(PUBLISHED)
        raise UserError(f"{folder} is neither a folder nor a published encoder, which are {listed}.")
    recognised(folder)
    return read_folder(folder)


Fit = Literal["crop", "pad"]
"""How a picture that is no square becomes one: its centre, or all of it on a square of the mean colour."""


def evaluate(
    config: EncoderConfig | Pixels, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], fit: Fit = "crop"
) -> Float[Tensor, "B 3 S S"]:
    """Pictures of any size as the encoder's input in [0, 1], prepared as it was published.

    Resize (the shorter side, or to a square), then crop the centre; both as torchvision's ``Resize`` and
    ``CenterCrop`` do on PIL pictures, which open_clip and timm call, or as transformers does: it rounds odd
    margins down, and torchvision to even. The encoder normalises by itself. With ``pad`` nothing is cropped:
    LLaVA-1.5's ``expand2square``.
    """
    prepare = {"crop": _prepared, "pad": _padded}[fit]
    made = [
        picture if _fits(config, picture, fit) else prepare(config, Image.fromarray(picture))
        for picture in pictures
    ]
    pixels = torch.from_numpy(np.stack(made))
    return pixels.permute(0, 3, 1, 2).float() / 255


def _fits(config: EncoderConfig | Pixels, picture: UInt8[np.ndarray, "_ _ 3"], fit: Fit) -> bool:
    """Whether nothing is to be done."""
    size = config.image_size
    return picture.shape[:2] == (size, size) and (fit == "pad" or config.resize in (None, size))


def _prepared(config: EncoderConfig | Pixels, picture: Image.Image) -> UInt8[np.ndarray, "S S 3"]:
    size, (width, height) = config.image_size, picture.size
    side, shorter = config.resize or size, min(picture.size)
    to = (side, side) if config.squash else (int(side * width / shorter), int(side * height / shorter))
    resized = picture.resize(to, RESAMPLE[config.interpolation])
    left, top = (CROPS[config.crop](long - size) for long in to)
    return np.array(resized.crop((left, top, left + size, top + size)))


def _padded(config: EncoderConfig | Pixels, picture: Image.Image) -> UInt8[np.ndarray, "S S 3"]:
    side, size = max(picture.size), (config.image_size, config.image_size)
    red, green, blue = (int(255 * value) for value in config.mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.array(square.resize(size, RESAMPLE[config.interpolation]))


def transform_words(config: EncoderConfig | Pixels) -> str:
    """What ``evaluate`` does, in words."""
    side = config.resize or config.image_size
    what = f"both sides to {side}" if config.squash else f"the shorter side to {side}"
    crop = "" if config.squash and side == config.image_size else f", crop the centre {config.image_size}"
    return f"resize {what} ({config.interpolation}){crop}"
