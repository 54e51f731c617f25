"""Encoder configs in transformers' words, both ways: ViTModel, CLIPVisionModel, SiglipVisionModel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.encoders.exchange import ratio
from paribus.encoders.foreign import HALF, IMAGENET, OPENAI, Pixels, Settings, inverse, known
from paribus.encoders.layouts import CLIP_VISION, SIGLIP_VISION, VIT, Layout
from paribus.encoders.vision import Activation, EncoderConfig, Interpolation
from paribus.errors import UserError


@dataclass(frozen=True)
class Kind:
    """One of transformers' image towers: its layout and the defaults of its config and image processor."""

    layout: Layout
    model_type: str
    architecture: str
    defaults: Mapping[str, Any]
    pixels: Mapping[str, Any]


_TOWER = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
_VIT = Kind(
    VIT,
    "vit",
    "ViTModel",
    _TOWER | {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    HALF | {"interpolation": "bilinear", "squash": True},
)
_CLIP = Kind(
    CLIP_VISION,
    "clip_vision_model",
    "CLIPVisionModel",
    _TOWER | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    OPENAI | {"interpolation": "bicubic", "squash": False},
)
_SIGLIP = Kind(
    SIGLIP_VISION,
    "siglip_vision_model",
    "SiglipVisionModel",
    _TOWER | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    HALF | {"interpolation": "bicubic", "squash": True},
)
_MAE = Kind(
    VIT,
    "vit_mae",
    "ViTMAEModel",
    _VIT.defaults,
    IMAGENET | {"interpolation": "bicubic", "squash": True},
)
KINDS = {kind.model_type: kind for kind in (_VIT, _CLIP, _SIGLIP, _MAE)}
INSIDE = {"clip": _CLIP, "siglip": _SIGLIP, "vision-text-dual-encoder": None}
"""model_type of a model of two towers -> its image tower, None where the inner config says."""

HF_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
HF_RESAMPLE: dict[int, Interpolation] = {3: "bicubic", 2: "bilinear"}


def tower_of(config: Settings, where: Path) -> tuple[Settings, Kind]:
    """The image tower's part of a config.json, and what kind of tower it is.

    Raises:
        UserError: the model_type is none of those that Paribus reads.
    """
    kind = known(KINDS | INSIDE, config.get("model_type"), "model_type", where)
    if config["model_type"] in KINDS:
        return config, kind
    inner: Settings = config.get("vision_config") or {}
    return inner, kind or known(KINDS, inner.get("model_type"), "model_type", where)


def read_config(tower: Settings, kind: Kind, transform: Mapping[str, Any]) -> EncoderConfig:
    """An encoder's config out of transformers'."""
    said = dict(kind.defaults) | tower
    if said.get("num_channels", 3) != 3:
        raise ValueError(f"num_channels {said['num_channels']} and not 3")
    for name in _TOWER:
        if not isinstance(said[name], int):
            raise ValueError(f"{name} {said[name]!r} is no whole number")
    activation = said["hidden_act"]
    if activation not in HF_ACTIVATIONS:
        raise ValueError(f"hidden_act {activation!r} is none of {', '.join(HF_ACTIVATIONS)}")
    return EncoderConfig(
        patch=said["patch_size"],
        width=said["hidden_size"],
        depth=said["num_hidden_layers"],
        heads=said["num_attention_heads"],
        mlp_ratio=ratio(said["hidden_size"], said["intermediate_size"]),
        image_size=said["image_size"],
        activation=HF_ACTIVATIONS[activation],
        eps=said["layer_norm_eps"],
        pre_norm="norm_pre" in kind.layout.names,
        pool="cls" if "cls_token" in kind.layout.names else "map",
        **transform,
    )


def pixels_of(said: Settings, size: int | None, usual: Mapping[str, Any], where: Path) -> Pixels:
    """How pictures are prepared for a model that is run by transformers itself.

    Args:
        said: its preprocessor_config.json.
        size: the picture's side that the model's config names, if any.
        usual: what holds where nothing is said.
        where: the file.
    """
    found = read_pixels(said, {"squash": False} | dict(usual), where)
    named, crop = said.get("size") or {}, said.get("crop_size") if said.get("do_center_crop", True) else None
    named = named if isinstance(named, dict) else {"shortest_edge": named}
    shorter = named.get("shortest_edge")
    cropped = crop.get("height") if isinstance(crop, dict) else crop
    if shorter and "crop_pct" in said:  # ConvNeXt's: below 384 pixels a larger picture is cropped
        squash = shorter >= 384
        found |= {"squash": squash, "resize": None if squash else int(shorter / said["crop_pct"])}
        cropped = shorter
    return Pixels(image_size=cropped or named.get("height") or shorter or size or 224, **found)


def read_pixels(said: Settings, usual: Mapping[str, Any], where: Path) -> Settings:
    """Mean, std, interpolation, resize and squash out of a preprocessor_config.json."""
    scale = said.get("rescale_factor", 1 / 255)
    if not math.isclose(scale, 1 / 255, rel_tol=1e-3) or not said.get("do_rescale", True):
        raise UserError(f"{where} scales pixels by {scale} and not by 1/255, which Paribus does not do.")
    resample = said.get("resample", inverse(HF_RESAMPLE, usual["interpolation"]))
    plain = not said.get("do_normalize", True)
    size = said.get("size") or {}
    shorter = size.get("shortest_edge") if isinstance(size, dict) else size
    square = size.get("height") if isinstance(size, dict) else None
    crop = said.get("crop_size")
    cropped = (crop.get("height") if isinstance(crop, dict) else crop) or shorter
    side = square or shorter
    centred = said.get("do_center_crop", not usual["squash"])
    return {
        "mean": (0.0,) * 3 if plain else tuple(said.get("image_mean") or usual["mean"]),
        "std": (1.0,) * 3 if plain else tuple(said.get("image_std") or usual["std"]),
        "interpolation": known(HF_RESAMPLE, resample, "resample", where),
        "squash": square is not None or (side is None and usual["squash"]),
        "resize": side if centred and side != cropped else None,
        "crop": "transformers",
    }


def layout_of(config: EncoderConfig) -> Layout:
    """The tower of transformers' that an encoder fits."""
    plain = CLIP_VISION if config.pre_norm else VIT
    return SIGLIP_VISION if config.pool == "map" else plain


def write_config(config: EncoderConfig, layout: Layout) -> Settings:
    """A config.json."""
    kind = next(kind for kind in KINDS.values() if kind.layout is layout)
    return {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": 3,
        "hidden_act": inverse(HF_ACTIVATIONS, config.activation),
        "layer_norm_eps": config.eps,
        "dtype": "float32",
    } | ({"qkv_bias": True, "hidden_dropout_prob": 0.0} if layout is VIT else {})


def write_pixels(config: EncoderConfig) -> Settings:
    """A preprocessor_config.json; CLIP's processor does all that we do, whatever the model."""
    side, size = config.resize or config.image_size, config.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side} if config.squash else {"shortest_edge": side},
        "resample": inverse(HF_RESAMPLE, config.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }
