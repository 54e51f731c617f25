"""Checkpoint folders: read from whatever published layout they are in, written in any of four.

    paribus       encoder.json, encoder.safetensors; a finished stage of a study is read too
    transformers  config.json, model.safetensors, preprocessor_config.json
    timm          config.json with timm's architecture, model.safetensors
    open_clip     open_clip_config.json, open_clip_model.safetensors

Which one a folder is in is told by its files, never by its name. Sharded safetensors are read, and
pytorch_model.bin without running what is pickled in it. No class of those libraries is needed.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paribus.encoders import foreign_open_clip, foreign_timm, foreign_transformers
from paribus.encoders.exchange import (
    State,
    blank,
    contiguous,
    found_prefix,
    own_state,
    read_encoder,
    refuse_faults,
    register_positions,
    to_layout,
)
from paribus.encoders.layouts import OPEN_VISION, Layout
from paribus.encoders.vision import EncoderConfig, VisionEncoder, load_weights, save_weights
from paribus.errors import UserError
from paribus.files import sha256, whole_folder, write_json
from paribus.types import Config

Settings = dict[str, Any]

SHOWN = ("objective", "recipe", "budget", "precision", "captions")
"""What of a stage's config is told of its encoder."""


class Trained(Config):
    """What is known of how an encoder came to be."""

    objective: str | None = None
    samples: int | None = None
    data: str | None = None
    order: str | None = None
    study: str | None = None
    arm: str | None = None
    seed: int | None = None
    settings: Settings = Field(default_factory=dict)


class About(Config):
    """What a checkpoint is besides its weights."""

    format: str
    where: str
    trained: Trained | None = None
    notes: tuple[str, ...] = ()


class Loaded(NamedTuple):
    """An encoder out of a folder, and what the folder says of it."""

    encoder: VisionEncoder
    about: About


def read_json(path: Path) -> Settings:
    """A JSON object.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): a checkpoint needs it.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): fetch the checkpoint again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: fetch the checkpoint again.")
    return found


READ = (
    *("config.json", "preprocessor_config.json", "encoder.json", "record.json", "open_clip_config.json"),
    *("*.safetensors", "*pytorch_model*.bin", "*.index.json"),
)
"""What of a folder is read here."""


def read_files(folder: Path) -> list[Path]:
    """The files of a folder that are read; not notes, checksums, or what a file manager left there."""
    found = {path for part in READ for path in folder.glob(part) if path.is_file()}
    return sorted(path for path in found if not path.name.startswith("."))


def read_tensors(folder: Path, stem: str = "model", pickled: str = "pytorch_model") -> State:
    """All tensors of a checkpoint: one file or shards, safetensors before pickles.

    Raises:
        UserError: there are none, or a file is damaged or missing.
    """
    for name, load in ((f"{stem}.safetensors", load_file), (f"{pickled}.bin", _unpickled)):
        if (folder / name).is_file():
            return _tensors(folder / name, load)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index, load)
    raise UserError(f"{folder} holds no weights: it has neither {stem}.safetensors nor {pickled}.bin.")


def _shards(index: Path, load: Callable[[Path], State]) -> State:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(Path(str(name)).name == name for name in places.values()):
        raise UserError(f"{index} has no weight_map of files beside it: fetch the checkpoint again.")
    out: State = {}
    for name in sorted(set(places.values())):
        out |= _tensors(index.parent / name, load)
    return out


def _tensors(path: Path, load: Callable[[Path], State]) -> State:
    try:
        return load(path)
    except Exception as error:  # zip, pickle and safetensors all have their own
        why = "missing" if isinstance(error, FileNotFoundError) else "damaged or holds more than tensors"
        raise UserError(f"{path} is {why}: fetch the checkpoint again.") from error


def _unpickled(path: Path) -> State:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise SafetensorError("more than tensors")
    return dict(found)


def _described(make: Callable[[], EncoderConfig], path: Path) -> EncoderConfig:
    """A config out of a foreign one.

    Raises:
        UserError: a field is missing, or what it describes is no encoder of ours.
    """
    try:
        return make()
    except KeyError as error:
        raise UserError(f"{path} has no field {error}: it is no checkpoint of an encoder.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path} describes no encoder that Paribus has: {field}: {said}.") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{path} describes no encoder that Paribus has: {said}.") from error


# Reading.


def read_transformers(folder: Path, fallback: Settings | None = None) -> Loaded:
    """A folder of transformers': ViTModel, CLIPVisionModel, SiglipVisionModel, or what contains one.

    Args:
        folder: with config.json and weights.
        fallback: preprocessing, in the words of ``EncoderConfig``, where the folder says nothing of it.
    """
    path = folder / "config.json"
    tower, kind = foreign_transformers.tower_of(read_json(path), path)
    pixels = folder / "preprocessor_config.json"
    notes: tuple[str, ...] = ()
    transform = dict(fallback or kind.pixels)
    if pixels.is_file():
        said = read_json(pixels)
        transform = foreign_transformers.read_pixels(said, kind.pixels, pixels)
    elif fallback is None:
        notes = (f"no {pixels.name}: the pictures are taken to be prepared as {kind.layout.title} does",)
    size = _described(
        lambda: foreign_transformers.read_config(tower, kind, transform), folder / "config.json"
    )
    encoder = read_encoder(read_tensors(folder), kind.layout, size, str(folder))
    return Loaded(encoder, About(format="transformers", where=str(folder), notes=notes))


def read_timm(folder: Path) -> Loaded:
    """A folder of timm's: a VisionTransformer."""
    path = folder / "config.json"
    config = read_json(path)
    size = _described(lambda: foreign_timm.read_config(config, path), path)
    return Loaded(_timm(read_tensors(folder), size, folder), About(format="timm", where=str(folder)))


def _timm(tensors: State, size: EncoderConfig, folder: Path) -> VisionEncoder:
    layout = foreign_timm.layout_of(size)
    prefix = found_prefix(tensors, layout)
    inner = {name.removeprefix(prefix or ""): value for name, value in tensors.items()}
    if f"{prefix}pos_embed" in tensors:
        inner = register_positions(inner, size, add=False)
    return read_encoder(inner, layout, size, str(folder))


def read_open_clip(folder: Path) -> Loaded:
    """A folder of open_clip's: the image tower, whether open_clip's own or timm's."""
    path = folder / "open_clip_config.json"
    config, tensors = read_json(path), read_tensors(folder, "open_clip_model", "open_clip_pytorch_model")
    size = _described(lambda: foreign_open_clip.read_config(config, path), path)
    about = About(format="open_clip", where=str(folder))
    if foreign_open_clip.is_timm(config):
        trunk = {name: value for name, value in tensors.items() if name.startswith("visual.trunk.")}
        return Loaded(_timm(trunk, size, folder), about)
    inner = {name: value for name, value in tensors.items() if name.startswith("visual.")}
    return Loaded(read_encoder(inner or tensors, OPEN_VISION, size, str(folder)), about)


def read_paribus(folder: Path) -> Loaded:
    """A folder that ``write_paribus`` wrote."""
    path = folder / "encoder.json"
    said = read_json(path)
    config = _described(lambda: EncoderConfig.model_validate(said["encoder"]), path)
    try:
        trained = None if said.get("trained") is None else Trained.model_validate(said["trained"])
    except ValidationError as error:
        raise UserError(f"{path} is damaged at trained: {error.errors()[0]['msg']}.") from error
    return Loaded(_own(config, folder), About(format="paribus", where=str(folder), trained=trained))


def read_stage(folder: Path) -> Loaded:
    """A finished stage of a study that left an encoder: record.json and encoder.safetensors."""
    path = folder / "record.json"
    said = read_json(path)
    config = _described(lambda: EncoderConfig.model_validate(said["config"]["encoder"]), path)
    settings, record = said["config"], said.get("record", {})
    check_stage_file(folder, "encoder.safetensors")
    trained = Trained(
        objective=settings.get("objective", {}).get("kind"),
        samples=record.get("samples"),
        data=record.get("data"),
        order=record.get("order"),
        seed=settings.get("seed"),
        settings={name: settings[name] for name in SHOWN if name in settings},
    )
    return Loaded(_own(config, folder), About(format="stage", where=str(folder), trained=trained))


def check_stage_file(folder: Path, name: str) -> None:
    """See that a file of a finished stage is the one that its record names.

    Raises:
        UserError: it is another.
    """
    told, path = read_json(folder / "record.json").get("files", {}).get(name), folder / name
    if told is not None and path.is_file() and sha256(path) != told:
        raise UserError(f"{path} is not what record.json says: delete its folder and run the study again.")


def _own(config: EncoderConfig, folder: Path) -> VisionEncoder:
    path = folder / "encoder.safetensors"
    if not path.is_file():
        raise UserError(f"{folder} holds no weights: it has no encoder.safetensors.")
    refuse_faults(str(path), "encoder", _tensors(path, load_file), blank(config))
    encoder = VisionEncoder(config)
    load_weights(encoder, path)
    return encoder


def recognised(folder: Path) -> str:
    """The format of a folder, told by its files.

    Raises:
        UserError: it is none of those that are known.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a checkpoint.")
    marks = (("encoder.json", "paribus"), ("record.json", "stage"), ("open_clip_config.json", "open_clip"))
    for name, form in marks:
        if (folder / name).is_file():
            return form
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config: a checkpoint has encoder.json, record.json, config.json or "
            "open_clip_config.json beside its weights."
        )
    return "timm" if "architecture" in read_json(folder / "config.json") else "transformers"


READERS: dict[str, Callable[[Path], Loaded]] = {
    "paribus": read_paribus,
    "stage": read_stage,
    "transformers": read_transformers,
    "timm": read_timm,
    "open_clip": read_open_clip,
}


def read_folder(folder: Path) -> Loaded:
    """The encoder in a folder of any known format.

    Raises:
        UserError: the folder, its config or its weights are missing, damaged, unknown or do not fit.
    """
    return READERS[recognised(folder)](folder)


# Writing.


def write_paribus(encoder: VisionEncoder, out: Path, trained: Trained | None = None) -> None:
    """Our own folder; it also keeps what the encoder was trained with."""
    with whole_folder(out) as folder:
        save_weights(encoder, folder / "encoder.safetensors")
        said = None if trained is None else trained.model_dump(mode="json", exclude_none=True)
        write_json(
            folder / "encoder.json", {"encoder": encoder.config.model_dump(mode="json"), "trained": said}
        )


def write_transformers(encoder: VisionEncoder, out: Path, layout: Layout | None = None) -> None:
    """A folder for transformers' ``AutoModel.from_pretrained``.

    Args:
        encoder: a plain one becomes a ViTModel, one with CLIP's norm before its blocks a CLIPVisionModel, one
            with an attention-pooling head a SiglipVisionModel.
        out: the folder.
        layout: which of the three, where it is to be another; refused if it does not fit.
    """
    layout = layout or foreign_transformers.layout_of(encoder.config)
    tensors = to_layout(own_state(encoder), layout)
    config = foreign_transformers.write_config(encoder.config, layout)
    with whole_folder(out) as folder:
        write_tensors(tensors, folder / "model.safetensors")
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", foreign_transformers.write_pixels(encoder.config))


def write_timm(encoder: VisionEncoder, out: Path) -> None:
    """A folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""
    config = foreign_timm.write_config(encoder.config)
    layout = foreign_timm.layout_of(encoder.config)
    tensors = register_positions(to_layout(own_state(encoder), layout), encoder.config, add=True)
    with whole_folder(out) as folder:
        write_tensors(tensors, folder / "model.safetensors")
        write_json(folder / "config.json", config)


def write_open_clip(encoder: VisionEncoder, out: Path) -> None:
    """A folder in open_clip's words with the image tower alone; its projection is the identity.

    ``open_clip.model._build_vision_tower(embed_dim, vision_cfg)`` makes the tower of it; a whole CLIP, which
    ``open_clip.create_model`` loads, is ``towers_exchange.write_open_clip_joint``'s.
    """
    width = encoder.config.width
    tensors = to_layout(own_state(encoder), OPEN_VISION) | {"visual.proj": torch.eye(width)}
    config = foreign_open_clip.write_config(encoder.config, width)
    with whole_folder(out) as folder:
        write_tensors(tensors, folder / "open_clip_model.safetensors")
        write_json(folder / "open_clip_config.json", config)


WRITERS: dict[str, Callable[[VisionEncoder, Path], None]] = {
    "paribus": write_paribus,
    "transformers": write_transformers,
    "timm": write_timm,
    "open_clip": write_open_clip,
}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Safetensors, marked as PyTorch's, which transformers asks for."""
    save_file(contiguous(tensors), path, metadata={"format": "pt"})
