"""Weights in other libraries' layouts: pure renamings and reshapes of our tensors, both ways.

A ``Layout`` says where transformers, timm or open_clip keep each tensor of ours. Nothing is computed but what
cannot change the function: a joint qkv falls apart into q, k and v, leading dimensions of size one come and
go, an absent bias is a zero bias, and a bias of the patches goes into the positions where a layout has no
place for it (their sum is the same, and so is the sum of interpolated positions, to rounding).

What a layout has no place for is refused rather than left out.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from paribus.encoders.layouts import STRUCTURE, Layout
from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.errors import UserError

State = dict[str, Tensor]

SHOWN = 5
"""How many mismatches one sentence lists; the rest is counted."""

LETTERS = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}
"""(width, depth) -> the letter of the published size."""


def _parsed(ours: str) -> tuple[str, str, str]:
    """A name of ours as (stem, block's number, kind): blocks.3.mlp.0.bias is (blocks.mlp.0, 3, bias)."""
    number = re.match(r"blocks\.(\d+)\.", ours)
    stem = "blocks." + ours[number.end() :] if number else ours
    stem, _, kind = stem.rpartition(".") if re.search(r"\.(weight|bias)$", stem) else (stem, "", "")
    return stem, number[1] if number else "", kind


def _sizes(total: int, parts: int) -> list[int]:
    """How the first dimension falls apart: into equal parts, or into q beside k and v together."""
    return {1: [total], 2: [total // 3, total - total // 3], 3: [total // 3] * 3}[parts]


def _part(stem: str) -> str:
    """The part of ``STRUCTURE`` that a stem belongs to, or the stem itself."""
    return stem if stem in STRUCTURE else stem.split(".")[0]


def refuse_misfits(layout: Layout, state: Mapping[str, Tensor]) -> None:
    """See that a layout has a place for all that a model has, and that the model has all that it wants.

    Raises:
        UserError: it is not so.
    """
    ours = {_part(_parsed(name)[0]) for name, value in state.items() if value.numel()}
    theirs = {_part(stem) for stem in layout.names}
    homeless = [noun for part, noun in STRUCTURE.items() if part in ours - theirs]
    wanted = [noun for part, noun in STRUCTURE.items() if part in theirs - ours - layout.free]
    if homeless:
        raise UserError(
            f"{layout.title} has no place for {homeless[0]}, which this encoder has: "
            "export it in another layout, such as timm or paribus."
        )
    if wanted:
        raise UserError(
            f"{layout.title} always has {wanted[0]}, and this encoder has none: export it in another layout."
        )


def to_layout(state: Mapping[str, Tensor], layout: Layout) -> State:
    """Our state in another layout's names and shapes; parts without an element are left out.

    Raises:
        UserError: the layout has no place for a part of it.
    """
    refuse_misfits(layout, state)
    out: State = {}
    for ours, value in fold_bias(state, layout).items():
        stem, number, kind = _parsed(ours)
        if not value.numel():
            continue
        places = [name.format(n=number, kind=kind) for name in layout.names[stem]]
        shaped = value.reshape(value.shape[layout.drops.get(stem, 0) :])
        parts = torch.split(shaped, _sizes(len(shaped), len(places))) if len(places) > 1 else [shaped]
        out |= {layout.prefix + place: part for place, part in zip(places, parts, strict=True)}
    return out


def fold_bias(state: Mapping[str, Tensor], layout: Layout) -> State:
    """The state without the patches' bias, added to their positions, where the layout has no place for it."""
    out = dict(state)
    for stem in layout.bare:
        bias = out.pop(f"{stem}.bias")
        if not bias.is_meta and bias.any():
            lead = out["cls_token"].shape[1]
            out["pos_embed"] = torch.cat(
                [out["pos_embed"][:, :lead], out["pos_embed"][:, lead:] + bias], dim=1
            )
    return out


def found_prefix(tensors: Iterable[str], layout: Layout, stem: str = "patch_embed") -> str | None:
    """What stands before a layout's names in a file; None if it is not in this layout."""
    (anchor,) = layout.names[stem]
    anchor = anchor.format(kind="weight")
    return min(
        (name.removesuffix(anchor) for name in tensors if name.endswith(anchor)), key=len, default=None
    )


def from_layout(
    tensors: Mapping[str, Tensor], layout: Layout, wanted: Mapping[str, Tensor], where: str, hint: str = ""
) -> State:
    """Our state out of another layout's, in float32.

    Args:
        tensors: theirs, the prefix removed.
        layout: theirs.
        wanted: our names and shapes, as the config has them; the values are not read.
        where: the file, for the sentence.
        hint: what the sentence ends with.

    Raises:
        UserError: a name or a shape does not fit.
    """
    shapes = {name.removeprefix(layout.prefix): value for name, value in to_layout(wanted, layout).items()}
    given = {name: value for name, value in tensors.items() if not re.match(layout.ignored, name)}
    refuse_faults(where, layout.title, given, shapes, _absent_biases(given, layout, wanted), hint)
    out: State = {}
    for ours, like in wanted.items():
        stem, number, kind = _parsed(ours)
        places = [name.format(n=number, kind=kind) for name in layout.names.get(stem, ())]
        if like.numel() and all(place in given for place in places):
            out[ours] = torch.cat([given[place].float() for place in places]).reshape(like.shape)
        else:
            out[ours] = torch.zeros(like.shape)
    return out


def refuse_faults(
    where: str,
    title: str,
    given: Mapping[str, Tensor],
    shapes: Mapping[str, Tensor],
    absent: Set[str] = frozenset(),
    hint: str = "",
) -> None:
    """See that names and shapes are those that a config describes.

    Raises:
        UserError: they are not; the first few are listed.
    """
    faults = _faults(given, shapes, absent)
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = ", ".join(faults[:SHOWN])
        raise UserError(f"{where} is not the {title} that its config describes: {listed}{more}{hint}.")


def _faults(given: Mapping[str, Tensor], shapes: Mapping[str, Tensor], absent: Set[str]) -> list[str]:
    """What of a file does not fit, shapes first, since they say more than names."""
    faults = [
        f"{name} is {list(given[name].shape)} and not {list(shape.shape)}"
        for name, shape in shapes.items()
        if name in given and given[name].shape != shape.shape
    ]
    faults += [f"{name} is missing" for name in shapes if name not in given and name not in absent]
    return faults + [f"{name} is unknown" for name in given if name not in shapes]


def _absent_biases(tensors: Mapping[str, Tensor], layout: Layout, wanted: Mapping[str, Tensor]) -> set[str]:
    """Names of the qkv biases, if the file has none at all: models without them are published too."""
    biases = {
        name.format(n=_parsed(ours)[1], kind="bias")
        for ours in wanted
        for name in layout.names.get("blocks.attn.qkv", ())
        if ours.endswith("attn.qkv.bias")
    }
    return set() if biases & set(tensors) else biases


def blank(config: EncoderConfig) -> State:
    """Names and shapes of an encoder's tensors, without values."""
    with torch.device("meta"):
        return dict(VisionEncoder(config).state_dict())


def read_encoder(
    tensors: Mapping[str, Tensor], layout: Layout, config: EncoderConfig, where: str
) -> VisionEncoder:
    """An encoder out of the tensors of a file, which may hold other things beside it.

    Raises:
        UserError: the tensors are not those of the config.
    """
    prefix = found_prefix(tensors, layout)
    if prefix is None:
        some = ", ".join(sorted(tensors)[:3])
        raise UserError(f"{where} holds no {layout.title}: it begins with {some}.")
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    state = from_layout(inner, layout, blank(config), where, looks_like(inner, layout, config))
    return filled(config, state)


def filled(config: EncoderConfig, state: Mapping[str, Tensor]) -> VisionEncoder:
    """An encoder with the given weights."""
    encoder = VisionEncoder(config)
    encoder.load_state_dict(dict(state))
    return encoder


def looks_like(tensors: Mapping[str, Tensor], layout: Layout, config: EncoderConfig) -> str:
    """The size that the tensors have, if it is not the config's: the end of a sentence."""
    (name,) = layout.names["patch_embed"]
    shape = tensors[name.format(kind="weight")].shape
    if len(shape) != 4 or (shape[0], shape[-1]) == (config.width, config.patch):
        return ""
    width, patch = int(shape[0]), int(shape[-1])
    nearest = min(LETTERS, key=lambda size: abs(size[0] - width))
    exact = "" if nearest[0] == width else "nearest to "
    return f"; it looks like {exact}ViT-{LETTERS[nearest]}/{patch} (width {width}, patch {patch})"


def size_name(config: EncoderConfig) -> str | None:
    """ViT-B/16 and its like; None for a size that nobody has named."""
    letter = LETTERS.get((config.width, config.depth))
    return None if letter is None else f"ViT-{letter}/{config.patch}"


def ratio(width: int, hidden: int) -> float:
    """The ``mlp_ratio`` that makes a perceptron of exactly ``hidden`` units, whatever the rounding."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else (hidden + 0.5) / width


def register_positions(tensors: State, config: EncoderConfig, *, add: bool) -> State:
    """Registers have positions in timm where the class token has one; ours have none, which is a zero.

    Added, they are zeros; removed, they go into the registers themselves: only the sum is ever used.
    """
    out, lead, registers = dict(tensors), config.lead, config.registers
    positions = out["pos_embed"]
    if add:
        zeros = positions.new_zeros(1, registers, config.width)
        out["pos_embed"] = torch.cat([positions[:, :lead], zeros, positions[:, lead:]], dim=1)
        return out
    extra = positions.shape[1] - config.grid**2
    if extra == lead + registers and registers and "reg_token" in out:
        out["reg_token"] = out["reg_token"] + positions[:, lead:extra]
        out["pos_embed"] = torch.cat([positions[:, :lead], positions[:, extra:]], dim=1)
    elif extra == 0 and lead:  # timm's no_embed_class: the class token has no position either
        out["pos_embed"] = torch.cat([positions.new_zeros(1, lead, positions.shape[2]), positions], dim=1)
    return out


def contiguous(tensors: Mapping[str, Tensor]) -> State:
    """Tensors that safetensors can write: detached, on the CPU, each with its own memory."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def own_state(module: nn.Module) -> dict[str, Any]:
    """A module's state without its gradients."""
    return {name: value.detach() for name, value in module.state_dict().items()}
