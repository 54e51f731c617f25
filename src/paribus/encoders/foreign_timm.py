"""Encoder configs in timm's words, both ways: VisionTransformer, CLIP's and SigLIP's too."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from paribus.encoders.exchange import ratio
from paribus.encoders.foreign import INTERPOLATIONS, Pixels, Settings, inverse, known
from paribus.encoders.layouts import TIMM, Layout
from paribus.encoders.vision import Activation, EncoderConfig
from paribus.errors import UserError


@dataclass(frozen=True)
class Family:
    """What a timm name says beyond its size."""

    eps: float = 1e-6
    activation: Activation = "gelu"
    pre_norm: bool = False
    pool: str = "cls"


SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (192, 12, 3, 768),
    "xsmall": (256, 10, 4, 1024),
    "small": (384, 12, 6, 1536),
    "medium": (512, 12, 8, 2048),
    "betwixt": (640, 12, 10, 2560),
    "base": (768, 12, 12, 3072),
    "base_plus": (896, 12, 14, 3584),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "huge": (1280, 32, 16, 5120),
    "giant": (1408, 40, 16, 6144),
    "giantopt": (1536, 40, 16, 6144),
    "gigantic": (1664, 48, 16, 8192),
}
"""Word in the name -> width, depth, heads, hidden units."""

FAMILIES: dict[str, Family] = {
    "": Family(),
    "clip_": Family(eps=1e-5, pre_norm=True),
    "clip_quickgelu_": Family(eps=1e-5, pre_norm=True, activation="quick_gelu"),
    "siglip_": Family(pool="map"),
}
NAME = re.compile(
    r"vit_([a-z0-9]+)_patch(\d+)_(plus_)?(clip_quickgelu_|clip_|siglip_|)(\d+)(?:_miil)?(?:\..*)?"
)
TANH = re.compile(
    r"vit_(?:base_patch32|giantopt_patch16|so400m_patch16|large_patch16(?=_siglip_512))_siglip_\d+"
)
"""SigLIP's models of timm that have the tanh approximation; the others were published with exact GELU."""

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
}
POOLS = {"token": "cls", "map": "map"}


def read_config(said: Settings, where: Path) -> EncoderConfig:
    """An encoder's config out of a timm folder's config.json: what the name says, and model_args over it."""
    pixels, args = said.get("pretrained_cfg", said), said.get("model_args") or {}
    (width, depth, heads, hidden), patch, native, family = _named(said["architecture"], where)
    if "norm_layer" in args:  # a name says which class, and its eps is timm's own default
        family = replace(family, eps=known({"layernorm": 1e-6}, args["norm_layer"], "norm_layer", where))
    if "act_layer" in args:
        family = replace(family, activation=known(ACTIVATIONS, args["act_layer"], "act_layer", where))
    pooled = args.get("global_pool") or said.get("global_pool") or inverse(POOLS, family.pool)
    pool = known(POOLS, pooled, "global_pool", where)
    image = args.get("img_size") or (pixels.get("input_size") or (3, native))[1]
    image = image[0] if isinstance(image, list) else image
    return EncoderConfig(
        patch=args.get("patch_size", patch),
        width=args.get("embed_dim", width),
        depth=args.get("depth", depth),
        heads=args.get("num_heads", heads),
        mlp_ratio=args.get("mlp_ratio", ratio(width, hidden)),
        registers=args.get("reg_tokens", 0),
        image_size=image,
        activation=family.activation,
        eps=family.eps,
        pre_norm=args.get("pre_norm", family.pre_norm),
        pool=pool,
        **read_pixels(pixels, image, where),
    )


def is_plain(said: Settings) -> bool:
    """Whether an architecture is one of those that ``read_config`` reads."""
    found = NAME.fullmatch(str(said.get("architecture")))
    return found is not None and found[1] + ("_plus" if found[3] else "") in SIZES


def pixels_of(said: Settings, where: Path) -> Pixels:
    """How pictures are prepared for a model that is run by timm itself.

    Raises:
        UserError: the config does not say it, or what it says is not known.
    """
    pixels = said.get("pretrained_cfg", said)
    try:
        size = int(pixels["input_size"][1])
        return Pixels(image_size=size, **read_pixels(pixels, size, where))
    except (KeyError, TypeError, IndexError, ValidationError) as error:
        raise UserError(f"{where} does not say how pictures are prepared ({error}).") from error


def _named(name: str, where: Path) -> tuple[tuple[int, int, int, int], int, int, Family]:
    """Sizes, patch, image size and family out of a timm architecture's name.

    Raises:
        UserError: it is no plain VisionTransformer.
    """
    found = NAME.fullmatch(name)
    word = "" if found is None else found[1] + ("_plus" if found[3] else "")
    if found is None or word not in SIZES:
        raise UserError(
            f"{where} says architecture {name!r}, which Paribus does not know: it reads timm's plain ones, "
            f"vit_SIZE_patchN_224 and their clip and siglip variants, SIZE one of {', '.join(SIZES)}."
        )
    family = FAMILIES[found[4]]
    if TANH.fullmatch(name.split(".")[0]):
        family = replace(family, activation="gelu_tanh")
    return SIZES[word], int(found[2]), int(found[5]), family


def read_pixels(said: Settings, image: int, where: Path) -> Settings:
    """Mean, std, interpolation, resize and squash out of a pretrained_cfg."""
    modes = {"center": False, "squash": True}
    resize = math.floor(image / said.get("crop_pct", 0.875))
    return {
        "mean": tuple(said["mean"]),
        "std": tuple(said["std"]),
        "interpolation": known(INTERPOLATIONS, said.get("interpolation", "bicubic"), "interpolation", where),
        "squash": known(modes, said.get("crop_mode") or "center", "crop_mode", where),
        "resize": None if resize == image else resize,
    }


def layout_of(config: EncoderConfig) -> Layout:
    """Timm's layout: a model with a norm before its blocks has no bias in its patches."""
    return replace(TIMM, bare=frozenset({"patch_embed"})) if config.pre_norm else TIMM


def write_config(config: EncoderConfig) -> Settings:
    """A timm folder's config.json.

    Raises:
        UserError: timm cannot say this eps, which it has in no argument but only in its names.
    """
    names = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
    if config.eps not in names:
        raise UserError(
            f"timm's VisionTransformer has eps 1e-6 or 1e-5 in its norms and not {config.eps}: "
            "export to transformers or to paribus instead."
        )
    size = [config.image_size, config.image_size]
    pixels = {
        "input_size": [3, *size],
        "fixed_input_size": True,
        "interpolation": config.interpolation,
        "crop_pct": crop_share(config),
        "crop_mode": "squash" if config.squash else "center",
        "mean": list(config.mean),
        "std": list(config.std),
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    args = {
        "img_size": size,
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "class_token": config.pool == "cls",
        "reg_tokens": config.registers,
        "pre_norm": config.pre_norm,
        "act_layer": inverse(ACTIVATIONS, config.activation),
        "global_pool": inverse(POOLS, config.pool),
        "num_classes": 0,
    }
    return {
        "architecture": names[config.eps],
        "num_classes": 0,
        "num_features": config.width,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": pixels,
    }


def crop_share(config: EncoderConfig) -> float:
    """Timm's crop_pct, such that its floor(size / crop_pct) is exactly our ``resize``."""
    size, resize = config.image_size, config.resize or config.image_size
    share = size / resize
    return share if math.floor(size / share) == resize else size / (resize + 0.5)
