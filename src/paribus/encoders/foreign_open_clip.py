"""Encoder configs in open_clip's words, both ways: its own VisionTransformer, and timm's inside it."""

from pathlib import Path

from paribus.encoders import foreign_timm
from paribus.encoders.foreign import INTERPOLATIONS, OPENAI, Pixels, Settings, known
from paribus.encoders.vision import Activation, EncoderConfig
from paribus.errors import UserError


def is_timm(said: Settings) -> bool:
    """Whether the image tower is one of timm's."""
    return bool(said["model_cfg"]["vision_cfg"].get("timm_model_name"))


def is_plain(said: Settings) -> bool:
    """Whether the image tower is a ViT that Paribus has: not a ResNet, nor one with a pooler of its own."""
    tower = said["model_cfg"]["vision_cfg"]
    if is_timm(said):
        return foreign_timm.is_plain({"architecture": tower["timm_model_name"]})
    listed = isinstance(tower.get("layers", 12), list)
    return not (listed or tower.get("attentional_pool")) and tower.get("pool_type", "tok") == "tok"


def pixels_of(said: Settings, where: Path) -> Pixels:
    """How pictures are prepared for a tower that Paribus has not."""
    size = said["model_cfg"]["vision_cfg"].get("image_size", 224)
    side = size[0] if isinstance(size, list) else size
    return Pixels(image_size=side, **read_pixels(said.get("preprocess_cfg") or {}, where))


def read_config(said: Settings, where: Path) -> EncoderConfig:
    """An encoder's config out of an open_clip_config.json."""
    model, pixels = said["model_cfg"], said.get("preprocess_cfg") or {}
    tower = model["vision_cfg"]
    transform = read_pixels(pixels, where)
    if is_timm(said):
        args = {"img_size": tower.get("image_size", 224), "global_pool": tower.get("timm_pool", "avg")}
        named = {"architecture": tower["timm_model_name"], "model_args": args, "pretrained_cfg": transform}
        return foreign_timm.read_config(named, where).model_copy(update=transform)
    if isinstance(tower.get("layers", 12), list) or tower.get("attentional_pool"):
        raise ValueError("its image tower is no plain VisionTransformer")
    if tower.get("pool_type", "tok") != "tok":
        raise ValueError(f"pool_type {tower['pool_type']!r} and not tok")
    width, tanh = tower.get("width", 768), (tower.get("act_kwargs") or {}).get("approximate") == "tanh"
    activation: Activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return EncoderConfig(
        patch=tower.get("patch_size", 16),
        width=width,
        depth=tower.get("layers", 12),
        heads=width // tower.get("head_width", 64),
        mlp_ratio=tower.get("mlp_ratio", 4.0),
        image_size=tower.get("image_size", 224),
        activation="gelu_tanh" if tanh else activation,
        eps=(tower.get("norm_kwargs") or {}).get("eps", 1e-5),
        pre_norm=not tower.get("no_ln_pre", False),
        **transform,
    )


def read_pixels(said: Settings, where: Path) -> Settings:
    """Mean, std, interpolation and squash out of a preprocess_cfg."""
    modes = {"shortest": False, "squash": True}
    return {
        "mean": tuple(said.get("mean") or OPENAI["mean"]),
        "std": tuple(said.get("std") or OPENAI["std"]),
        "interpolation": known(INTERPOLATIONS, said.get("interpolation", "bicubic"), "interpolation", where),
        "squash": known(modes, said.get("resize_mode", "shortest"), "resize_mode", where),
    }


def write_config(config: EncoderConfig, embed: int) -> Settings:
    """An open_clip_config.json with the image tower alone.

    Raises:
        UserError: open_clip has no place for a part of the config.
    """
    if config.resize not in (None, config.image_size):
        raise UserError(
            f"open_clip resizes pictures to the crop's size and not to {config.resize}: "
            "set resize to null in encoder.json, or export to timm or transformers."
        )
    tower = {
        "image_size": config.image_size,
        "layers": config.depth,
        "width": config.width,
        "head_width": config.width // config.heads,
        "mlp_ratio": config.mlp_ratio,
        "patch_size": config.patch,
        "no_ln_pre": not config.pre_norm,
        "norm_kwargs": {"eps": config.eps},
    } | ({"act_kwargs": {"approximate": "tanh"}} if config.activation == "gelu_tanh" else {})
    return {
        "model_cfg": {
            "embed_dim": embed,
            "quick_gelu": config.activation == "quick_gelu",
            "vision_cfg": tower,
        },
        "preprocess_cfg": {
            "size": config.image_size,
            "mode": "RGB",
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": config.interpolation,
            "resize_mode": "squash" if config.squash else "shortest",
        },
    }
