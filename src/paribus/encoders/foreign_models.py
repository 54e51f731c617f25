"""Encoders that are run by the library they were published with: transformers', timm's and open_clip's.

What is compared is the class token where there is one, else what the model itself pools, else the mean over
all places; of a layer the class token, else the mean.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paribus.encoders.eye import EyeAbout, Pictures, Sight
from paribus.encoders.folders import read_json, read_tensors
from paribus.encoders.foreign import IMAGENET, Pixels
from paribus.encoders.foreign_open_clip import is_timm
from paribus.encoders.foreign_open_clip import pixels_of as open_clip_pixels
from paribus.encoders.foreign_timm import pixels_of as timm_pixels
from paribus.encoders.foreign_transformers import pixels_of as transformers_pixels
from paribus.encoders.published import evaluate, transform_words
from paribus.encoders.weights import load_model
from paribus.errors import UserError
from paribus.peers import mend_torchvision

OPEN_CLIP = "open_clip_config.json"
CLASS = ("cls_token", "class_embedding")
"""What libraries call a class token's parameter."""


def _reason(error: Exception) -> str:
    """What another library says, in a part of a sentence."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _has_class_token(model: nn.Module) -> bool:
    return any(name.split(".")[-1] in CLASS for name, _ in model.named_parameters())


class _Foreign:
    """A model of another library, and how its pictures are prepared."""

    about: EyeAbout

    def __init__(self, model: nn.Module, pixels: Pixels) -> None:
        self.model, self.pixels = model.eval(), pixels
        self.classed = _has_class_token(model)
        self.mean, self.std = (torch.tensor(each).view(1, 3, 1, 1) for each in (pixels.mean, pixels.std))

    def prepare(self, pictures: Pictures) -> Float[Tensor, "B 3 S S"]:
        """As it was published."""
        return evaluate(self.pixels, pictures)

    def to(self, device: torch.device) -> "_Foreign":
        """On a device."""
        self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def look(self, pixels: Float[Tensor, "B 3 S S"], *, layers: bool, patches: bool = False) -> Sight:
        """What it says of pictures."""
        seen = self._look((pixels - self.mean) / self.std, layers)
        return seen if patches else seen._replace(patches=None)

    def _look(self, pixels: Float[Tensor, "B 3 S S"], layers: bool) -> Sight:
        raise NotImplementedError

    def _described(self, folder: Path, form: str, notes: tuple[str, ...]) -> EyeAbout:
        """What it is, tried on a grey picture.

        Raises:
            UserError: it cannot be run on pictures alone.
        """
        size = self.pixels.image_size
        try:
            with torch.no_grad():
                tried = self._look(torch.zeros(1, 3, size, size), layers=False).vector
        except Exception as error:  # whatever another library raises of what it was not made for
            name = type(self.model).__name__
            raise UserError(
                f"{folder}: {name} cannot be run on pictures alone ({_reason(error)})."
            ) from error
        return EyeAbout(
            where=str(folder),
            format=form,
            model=type(self.model).__name__,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            width=tried.shape[1],
            size=size,
            prepared=transform_words(self.pixels),
            read="class token" if self.classed else "pooled places",
            notes=notes,
        )


class TransformersEye(_Foreign):
    """A folder of transformers' that holds an image model, or a model of two towers."""

    def __init__(self, folder: Path) -> None:
        whole: Any = load_model(folder, dtype=torch.float32)
        path = folder / "preprocessor_config.json"
        said = read_json(path) if path.is_file() else {}
        notes = () if said else (f"no {path.name}: prepared as is usual, with ImageNet's mean",)
        pixels = transformers_pixels(said, _size(whole.config), IMAGENET | {"interpolation": "bicubic"}, path)
        super().__init__(getattr(whole, "vision_model", whole), pixels)
        self.about = self._described(folder, "transformers", notes)

    def _look(self, pixels: Float[Tensor, "B 3 S S"], layers: bool) -> Sight:
        out: Any = self.model(pixel_values=pixels, output_hidden_states=layers)
        last, pooled = out.last_hidden_state, getattr(out, "pooler_output", None)
        vector = self._at(last) if self.classed or pooled is None else pooled.flatten(1)
        places = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last[:, self._lead() :]
        if not layers:
            return Sight(vector, (), places)
        below = tuple(self._at(state) for state in out.hidden_states[:-1])
        # The last state is not normalised, and what is compared is.
        return Sight(vector, (*below, vector), places)

    def _lead(self) -> int:
        """Tokens before the patches: the class token, and registers (DINOv2's and v3's)."""
        return int(self.classed) + int(getattr(self.model.config, "num_register_tokens", 0) or 0)

    def _at(self, state: Tensor) -> Float[Tensor, "B _"]:
        """A vector for each picture out of a state: [B T D], or a map [B D H W]."""
        if state.ndim == 4:
            return state.mean(dim=(2, 3))
        return state[:, 0] if self.classed else state.mean(dim=1)


def _size(config: Any) -> int | None:
    """The picture's side in a model's config, wherever it stands."""
    inner = getattr(config, "vision_config", config)
    size = getattr(inner, "image_size", None)
    return size[0] if isinstance(size, list | tuple) else size


class TimmEye(_Foreign):
    """A folder of timm's, of an architecture that Paribus has not."""

    def __init__(self, folder: Path) -> None:
        path = folder / "config.json"
        said = read_json(path)
        pixels = timm_pixels(said, path)
        super().__init__(_timm_model(said, folder), pixels)
        self.about = self._described(folder, "timm", ())

    def _look(self, pixels: Float[Tensor, "B 3 S S"], layers: bool) -> Sight:
        model: Any = self.model
        seen = model.forward_features(pixels)
        vector, places = model.forward_head(seen, pre_logits=True), _places(model, seen)
        if not layers or not hasattr(model, "forward_intermediates"):
            return Sight(vector, (vector,) if layers else (), places)
        prefixed = self.classed and getattr(model, "num_prefix_tokens", 0) > 0
        more = {"return_prefix_tokens": True} if prefixed else {}
        states = model.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW", **more)
        below = tuple(state[1][:, 0] if prefixed else state.mean(dim=(2, 3)) for state in states[:-1])
        return Sight(vector, (*below, vector), places)


def _places(model: Any, seen: Tensor) -> Float[Tensor, "B P _"] | None:
    """What timm's model says of each place: tokens without the leading ones, or a map in either layout."""
    if seen.ndim == 3:
        return seen[:, getattr(model, "num_prefix_tokens", 0) :]
    if seen.ndim != 4:
        return None
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    return seen.flatten(1, 2) if last else seen.flatten(2).transpose(1, 2)


def _timm_model(said: dict[str, Any], folder: Path) -> nn.Module:
    """A timm model with a folder's weights and without its classifier.

    Raises:
        UserError: timm is not installed, does not know the architecture, or the weights do not fit.
    """
    mend_torchvision()
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"{folder} is a {said['architecture']} of timm's: run `pip install 'paribus[timm]'`."
        ) from error
    try:
        settings = {**(said.get("model_args") or {}), "num_classes": 0}  # nobody compares classifiers
        made = timm.create_model(said["architecture"], **settings)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{folder} cannot be built by timm {timm.__version__}: {_reason(error)}.") from error
    model: nn.Module = made
    _fill(model, read_tensors(folder), folder)
    return model


def _fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Load weights; there may be more than the model has, such as a classifier's.

    Raises:
        UserError: they do not fit, or some are missing.
    """
    try:
        told = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"{folder} is not the model that its config describes: {_reason(error)}.") from error
    if told.missing_keys:
        raise UserError(
            f"{folder} is not the model that its config describes: {told.missing_keys[0]} is missing "
            f"({len(told.missing_keys)} in all)."
        )


class OpenClipEye(_Foreign):
    """A folder of open_clip's whose image tower Paribus has not: a ResNet, a CoCa, timm's ConvNeXt.

    Compared is what timm's part pools; of towers of open_clip's own what they give, which is projected.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / OPEN_CLIP
        said = read_json(path)
        super().__init__(_image_tower(said["model_cfg"], folder), open_clip_pixels(said, path))
        self.classed, self.trunk = False, is_timm(said)
        self.about = self._described(folder, "open_clip", ())

    def _look(self, pixels: Float[Tensor, "B 3 S S"], layers: bool) -> Sight:
        model: Any = self.model
        out = (model.trunk if self.trunk else model)(pixels)
        vector: Tensor = out[0] if isinstance(out, tuple) else out
        if not layers:
            return Sight(vector, ())
        states = model.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]
        return Sight(vector, (*(state.mean(dim=(2, 3)) for state in states[:-1]), vector))


def _image_tower(said: dict[str, Any], folder: Path) -> nn.Module:
    """open_clip's image tower with a folder's weights; nothing is downloaded.

    Raises:
        UserError: open_clip is not installed, does not know the architecture, or the weights do not fit.
    """
    mend_torchvision()
    try:
        import open_clip
        from open_clip.model import _build_vision_tower  # the text tower may be one of the hub's
    except ImportError as error:
        raise UserError(
            f"{folder} is no plain ViT of open_clip's: run `pip install 'paribus[open_clip]'`."
        ) from error
    tower = {**said["vision_cfg"], "timm_model_pretrained": False}
    try:
        model: nn.Module = _build_vision_tower(said["embed_dim"], tower, said.get("quick_gelu", False))
    except (RuntimeError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} cannot be built by open_clip {open_clip.__version__}: {_reason(error)}."
        ) from error
    tensors = read_tensors(folder, "open_clip_model", "open_clip_pytorch_model")
    _fill(model, {name.removeprefix("visual."): value for name, value in tensors.items()}, folder)
    return model
