"""A whole CLIP in other libraries' layouts: both towers, both projections, the temperature, the tokenizer.

To transformers goes a CLIPModel where the image tower has CLIP's norm before its blocks, and a
VisionTextDualEncoderModel otherwise: it joins a ViTModel to CLIP's text tower, and its pooler, given identity
weights and no activation, hands on the class token. To open_clip goes its CLIP either way.

transformers finds the end of a text by the end token's id, except where that id is 2: then it takes the
largest id in the text, an old mistake it keeps for old checkpoints. Ours is 2, so what is written for
transformers has ids 2 and 3 exchanged, in the weights and in the tokenizer, and reading exchanges them back.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import ValidationError
from tokenizers import Tokenizer, processors
from torch import Tensor

from paribus.encoders import foreign_open_clip, foreign_transformers
from paribus.encoders.exchange import (
    State,
    found_prefix,
    from_layout,
    own_state,
    refuse_faults,
    to_layout,
)
from paribus.encoders.folders import (
    check_stage_file,
    read_json,
    read_open_clip,
    read_stage,
    read_tensors,
    read_transformers,
    write_tensors,
)
from paribus.encoders.foreign import Settings, inverse, known
from paribus.encoders.layouts import HF_TEXT, OPEN_TEXT, OPEN_VISION, VIT, Layout
from paribus.encoders.text import (
    END,
    PAD,
    START,
    Material,
    TextConfig,
    TextTower,
    load_tokenizer,
    save_tokenizer,
    special,
)
from paribus.encoders.vision import ACTIVATIONS, Activation, VisionEncoder
from paribus.errors import UserError
from paribus.files import whole_folder, write_json

EPS = 1e-5
"""Of every norm in the text tower."""
SWAP = (2, 3)
"""The ids that are exchanged for transformers."""


class Joint(NamedTuple):
    """The parts of a CLIP; ``bias`` is SigLIP's."""

    image: VisionEncoder
    text: TextTower
    image_proj: Float[Tensor, "E D"]
    text_proj: Float[Tensor, "E T"]
    scale_log: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None


# The text tower.


def activation_of(tower: TextTower) -> Activation:
    """The activation in a text tower's perceptrons."""
    said = repr(next(iter(tower.blocks)).get_submodule("mlp.1"))
    return next(name for name, make in ACTIVATIONS.items() if repr(make()) == said)


def with_activation(tower: TextTower, activation: Activation) -> TextTower:
    """The tower with another activation in its perceptrons: its config has no word for it."""
    for block in tower.blocks:
        block.get_submodule("mlp").register_module("1", ACTIVATIONS[activation]())
    return tower


def exchanged(tokenizer: Tokenizer, one: int, other: int) -> Tokenizer:
    """The tokenizer with two ids exchanged."""
    said = json.loads(tokenizer.to_str())
    swap = {one: other, other: one}
    vocabulary = {token: swap.get(number, number) for token, number in said["model"]["vocab"].items()}
    said["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    for token in said["added_tokens"]:
        token["id"] = swap.get(token["id"], token["id"])
    said["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(said))


def _swapped(state: Mapping[str, Tensor]) -> State:
    """A text tower's state with the embeddings of the two ids exchanged."""
    out = dict(state)
    order = torch.arange(len(out["token_embed.weight"]))
    order[list(SWAP)] = torch.tensor(SWAP[::-1])
    out["token_embed.weight"] = out["token_embed.weight"][order]
    return out


def write_tokenizer(tokenizer: Tokenizer, context: int, folder: Path) -> None:
    """tokenizer.json and what AutoTokenizer needs beside it; start and end are put around texts."""
    framed = Tokenizer.from_str(tokenizer.to_str())
    ends = [(token, special(framed, token)) for token in (START, END)]
    framed.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    save_tokenizer(framed, folder / "tokenizer.json")
    named = {"bos_token": START, "eos_token": END, "pad_token": PAD, "model_max_length": context}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | named)


def _read_tokenizer(path: Path) -> tuple[Tokenizer, bool]:
    """A tokenizer with our special tokens, without the frame around texts; whether ids were exchanged back.

    Raises:
        UserError: it is missing or damaged, or has other special tokens.
    """
    tokenizer = load_tokenizer(path)
    absent = [token for token in (PAD, START, END) if tokenizer.token_to_id(token) is None]
    if absent:
        raise UserError(
            f"{path} has no token {absent[0]}: Paribus reads whole CLIPs with its own tokenizer only; "
            "import the image tower alone."
        )
    said = json.loads(tokenizer.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
    plain = Tokenizer.from_str(json.dumps(said))
    exported = plain.token_to_id(PAD), plain.token_to_id(START), plain.token_to_id(END)
    swapped = exported == (0, 1, SWAP[1])
    return (exchanged(plain, *SWAP) if swapped else plain), swapped


def _read_text(
    tensors: Mapping[str, Tensor], layout: Layout, config: TextConfig, folder: Path, activation: Activation
) -> TextTower:
    tokenizer, swapped = _read_tokenizer(folder / "tokenizer.json")
    tower = TextTower(config, Material(tokenizer=tokenizer))
    prefix = found_prefix(tensors, layout, "token_embed")
    if prefix is None:
        raise UserError(f"{folder} holds no {layout.title}.")
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    state = from_layout(inner, layout, own_state(tower), str(folder))
    tower.load_state_dict(_swapped(state) if swapped else state)
    return with_activation(tower, activation)


def _text_config(path: Path, **said: Any) -> TextConfig:
    hidden, eps = said.pop("hidden"), said.pop("eps")
    if hidden != 4 * said["width"] or eps != EPS:
        raise UserError(
            f"{path} describes a text tower with {hidden} hidden units and eps {eps}: Paribus has "
            f"{4 * said['width']} and {EPS}."
        )
    try:
        return TextConfig(**said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "text tower"
        raise UserError(f"{path} describes no text tower of ours: {where}: {first['msg']}.") from error


# A finished stage of a study.


def read_stage_joint(folder: Path) -> Joint:
    """A whole CLIP or SigLIP out of the folder of an arm that read captions with a tower from scratch.

    Raises:
        UserError: as ``folders.read_stage``, or the arm has no such tower.
    """
    image = read_stage(folder).encoder
    found = _reader(read_json(folder / "record.json")["config"].get("objective") or {})
    if found is None or not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder} holds no CLIP of ours: only an arm that read captions with a text tower from scratch, "
            "with nothing between encoder and projection, can be written whole; write its encoder alone."
        )
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tower = TextTower(TextConfig.model_validate(found), Material(tokenizer=tokenizer))
    check_stage_file(folder, "joint.safetensors")
    tensors = read_tensors(folder, "joint")
    words = {name.removeprefix("text."): value for name, value in tensors.items() if name.startswith("text.")}
    refuse_faults(str(folder / "joint.safetensors"), "text tower", words, own_state(tower))
    tower.load_state_dict(words)
    names = ("image_proj.weight", "text_proj.weight", "scale_log")
    image_proj, text_proj, scale = (_found(tensors, name, folder) for name in names)
    return Joint(image, tower, image_proj, text_proj, scale, tensors.get("bias"))


def _reader(objective: Mapping[str, Any]) -> dict[str, Any] | None:
    """The text tower from scratch of an objective, or of the part of a hybrid that reads."""
    tower = objective.get("text")
    if isinstance(tower, dict):  # blocks on a frozen encoder have no place in any other library
        return tower if tower.get("kind") == "scratch" and "blocks" not in objective else None
    parts = (part["objective"] for part in objective.get("parts", {}).values() if part.get("weight", 1) > 0)
    return next((found for part in parts if (found := _reader(part)) is not None), None)


# transformers.


def write_transformers_joint(joint: Joint, out: Path) -> None:
    """A folder for transformers' CLIPModel or VisionTextDualEncoderModel, with its tokenizer.

    Raises:
        UserError: a part has no place there.
    """
    if joint.bias is not None:
        raise UserError("transformers' CLIPModel has no place for a bias of the logits: export to open_clip.")
    layout = foreign_transformers.layout_of(joint.image.config)
    vision = to_layout(own_state(joint.image), layout)
    if layout is VIT:
        width = joint.image.config.width
        vision = {f"vision_model.{name}": value for name, value in vision.items()}
        vision |= {"vision_model.pooler.dense.weight": torch.eye(width)}
        vision |= {"vision_model.pooler.dense.bias": torch.zeros(width)}
    tensors = vision | to_layout(_swapped(own_state(joint.text)), HF_TEXT)
    tensors |= {
        "visual_projection.weight": joint.image_proj,
        "text_projection.weight": joint.text_proj,
        "logit_scale": joint.scale_log,
    }
    config = _hf_settings(joint, layout)
    with whole_folder(out) as folder:
        write_tensors(tensors, folder / "model.safetensors")
        write_json(folder / "config.json", config)
        pixels = foreign_transformers.write_pixels(joint.image.config)
        write_json(folder / "preprocessor_config.json", pixels)
        swapped = exchanged(joint.text.tokenizer, *SWAP)
        write_tokenizer(swapped, joint.text.config.context, folder)


def _hf_settings(joint: Joint, layout: Layout) -> Settings:
    """A config.json of both towers."""
    image = foreign_transformers.write_config(joint.image.config, layout)
    embed, text = len(joint.image_proj), joint.text
    words = {
        "model_type": "clip_text_model",
        "vocab_size": len(text.token_embed.weight),
        "hidden_size": text.config.width,
        "intermediate_size": 4 * text.config.width,
        "num_hidden_layers": text.config.depth,
        "num_attention_heads": text.config.heads,
        "max_position_embeddings": text.config.context,
        "hidden_act": inverse(foreign_transformers.HF_ACTIVATIONS, activation_of(text)),
        "layer_norm_eps": EPS,
        "pad_token_id": special(text.tokenizer, PAD),
        "bos_token_id": special(text.tokenizer, START),
        "eos_token_id": dict([SWAP, SWAP[::-1]]).get(special(text.tokenizer, END)),
        "projection_dim": embed,
    }
    model = ("clip", "CLIPModel")
    if layout is VIT:
        model = ("vision-text-dual-encoder", "VisionTextDualEncoderModel")
        image |= {"pooler_act": "linear", "pooler_output_size": joint.image.config.width}
    return {
        "architectures": [model[1]],
        "model_type": model[0],
        "projection_dim": embed,
        "dtype": "float32",
        "vision_config": image | {"projection_dim": embed},
        "text_config": words,
    }


def read_transformers_joint(folder: Path) -> Joint:
    """A whole CLIP out of a transformers folder: CLIPModel or VisionTextDualEncoderModel.

    Raises:
        UserError: as ``folders.read_transformers``, or its text tower or tokenizer is none of ours.
    """
    path = folder / "config.json"
    image, tensors, said = read_transformers(folder).encoder, read_tensors(folder), read_json(path)
    joining = ("visual_projection.weight", "text_projection.weight", "logit_scale")
    image_proj, text_proj, scale = (_found(tensors, name, folder).float() for name in joining)
    words = {
        "vocab_size": 49_408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": EPS,
    } | (said.get("text_config") or {})
    config = _text_config(
        path,
        context=words["max_position_embeddings"],
        vocabulary=words["vocab_size"],
        width=words["hidden_size"],
        depth=words["num_hidden_layers"],
        heads=words["num_attention_heads"],
        hidden=words["intermediate_size"],
        eps=words["layer_norm_eps"],
    )
    activation = known(foreign_transformers.HF_ACTIVATIONS, words["hidden_act"], "hidden_act", path)
    inner = {name: value for name, value in tensors.items() if name.startswith("text_model.")}
    text = _read_text(inner, HF_TEXT, config, folder, activation)
    return Joint(image, text, image_proj, text_proj, scale.reshape(()))


def _found(tensors: Mapping[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in tensors:
        raise UserError(f"{folder} holds no {name}: it is no whole CLIP; import its image tower alone.")
    return tensors[name]


# open_clip.


def write_open_clip_joint(joint: Joint, out: Path) -> None:
    """A folder for ``open_clip.create_model("local-dir:FOLDER")`` and its ``get_tokenizer``.

    Raises:
        UserError: a part has no place there.
    """
    config, image, text = joint.image.config, joint.image, joint.text
    quick = {config.activation == "quick_gelu", activation_of(text) == "quick_gelu"}
    if len(quick) > 1 or activation_of(text) == "gelu_tanh":
        raise UserError(
            f"open_clip has one activation for both towers, and these have {config.activation} for pictures "
            f"and {activation_of(text)} for texts: export to transformers."
        )
    tensors = to_layout(own_state(image), OPEN_VISION) | to_layout(own_state(text), OPEN_TEXT)
    tensors |= {
        "visual.proj": joint.image_proj.T,
        "text_projection": joint.text_proj.T,
        "logit_scale": joint.scale_log,
    }
    said = foreign_open_clip.write_config(config, len(joint.image_proj))
    if joint.bias is not None:
        tensors["logit_bias"] = joint.bias
        said["model_cfg"]["init_logit_bias"] = float(joint.bias)
    said["model_cfg"]["text_cfg"] = {
        "context_length": text.config.context,
        "vocab_size": len(text.token_embed.weight),
        "width": text.config.width,
        "heads": text.config.heads,
        "layers": text.config.depth,
        "norm_kwargs": {"eps": EPS},
        "pool_type": "eos",
        "pad_id": special(text.tokenizer, PAD),
        "eos_id": special(text.tokenizer, END),
        "hf_tokenizer_name": "tokenizer.json",
    }
    with whole_folder(out) as folder:
        write_tensors(tensors, folder / "open_clip_model.safetensors")
        write_json(folder / "open_clip_config.json", said)
        write_tokenizer(text.tokenizer, text.config.context, folder)


def read_open_clip_joint(folder: Path) -> Joint:
    """A whole CLIP out of an open_clip folder.

    Raises:
        UserError: as ``folders.read_open_clip``, or its text tower or tokenizer is none of ours.
    """
    path = folder / "open_clip_config.json"
    image, model = read_open_clip(folder).encoder, read_json(path)["model_cfg"]
    tensors, words = read_tensors(folder, "open_clip_model", "open_clip_pytorch_model"), model["text_cfg"]
    pooled = words.get("pool_type", "argmax")
    if pooled != "eos":
        raise UserError(f"{path} reads texts at {pooled} and not at eos: import its image tower alone.")
    width = words.get("width", 512)
    config = _text_config(
        path,
        context=words.get("context_length", 77),
        vocabulary=words.get("vocab_size", 49_408),
        width=width,
        depth=words.get("layers", 12),
        heads=words.get("heads", 8),
        hidden=int(width * words.get("mlp_ratio", 4.0)),
        eps=(words.get("norm_kwargs") or {}).get("eps", EPS),
    )
    inner = {name: value for name, value in tensors.items() if not name.startswith("visual.")}
    text = _read_text(inner, OPEN_TEXT, config, folder, "quick_gelu" if model.get("quick_gelu") else "gelu")
    bias = tensors.get("logit_bias")
    return Joint(
        image,
        text,
        _found(tensors, "visual.proj", folder).float().T.contiguous(),
        _found(inner, next((n for n in inner if n.endswith("text_projection")), "text_projection"), folder)
        .float()
        .T.contiguous(),
        _found(tensors, "logit_scale", folder).float().reshape(()),
        None if bias is None else bias.float().reshape(()),
    )


WHOLE = {"transformers": write_transformers_joint, "open_clip": write_open_clip_joint}
"""Format -> what writes a whole CLIP in it."""
