"""The one vision transformer that every arm trains.

Follows ViT (Dosovitskiy et al. 2021) as DINO and timm build it: pre-norm blocks, bias on the joint qkv
projection, GELU, LayerNorm eps 1e-6, a class token, learned positions that are interpolated for other image
sizes (Caron et al. 2021), optional registers without position (Darcet et al. 2024). It normalises its own
input, so that no caller can hand it wrongly normalised pixels.

Its options are what published encoders of this family differ in, so that ``exchange`` can bring their
weights in and out without loss: CLIP's LayerNorm before the blocks, QuickGELU, SigLIP's attention-pooling
head. What other layouts call by other names:

    Features.cls      transformers' ViT: last_hidden_state[:, 0]; CLIP and SigLIP: pooler_output;
                      timm and open_clip: the pooled output, before any projection
    Features.patches  transformers' ViT: last_hidden_state[:, 1:]; SigLIP: last_hidden_state;
                      CLIP: post_layernorm(last_hidden_state[:, 1:]), because its last_hidden_state comes
                      before that norm, which it gives to the class token alone and we to every token;
                      open_clip: the tokens; timm: forward_features without its prefix tokens
    layer=-2          hidden_states[-2] of any of transformers'
"""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from paribus.errors import UserError
from paribus.files import whole_file
from paribus.rng import torch_seed
from paribus.types import Config, Features

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Interpolation = Literal["bicubic", "bilinear"]
Crop = Literal["torchvision", "transformers"]
Size = Literal["tiny", "small", "base"]
SIZES: dict[Size, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}


class QuickGELU(nn.Module):
    """OpenAI CLIP's approximation of GELU: x * sigmoid(1.702 x)."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
}


class EncoderConfig(Config):
    """The architecture, shared by all arms; ``preset("base", 16)`` is ViT-B/16.

    ``interpolation``, ``resize``, ``squash`` and ``crop`` are the transform that pictures of other sizes go
    through before they are encoded (``published.evaluate``); they do not touch the forward pass.
    """

    patch: int = Field(16, ge=1)
    width: int = Field(768, ge=8)
    depth: int = Field(12, ge=2)
    heads: int = Field(12, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    registers: int = Field(0, ge=0)
    image_size: int = Field(224, ge=1)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    activation: Activation = "gelu"
    eps: float = Field(1e-6, gt=0, description="of every LayerNorm")
    pre_norm: bool = Field(False, description="a LayerNorm before the blocks, as in CLIP")
    pool: Literal["cls", "map"] = Field(
        "cls", description="cls: a class token; map: none, SigLIP's attention-pooling head instead"
    )
    interpolation: Interpolation = "bicubic"
    resize: int | None = Field(
        None, ge=1, description="shorter side before the centre crop; None: image_size"
    )
    squash: bool = Field(False, description="resize to a square whatever the proportions, nothing cropped")
    crop: Crop = Field("torchvision", description="whose rounding where the margins of a crop are odd")

    @model_validator(mode="after")
    def _divisible(self) -> "EncoderConfig":
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @property
    def grid(self) -> int:
        """Patches along one side of a full-size image."""
        return self.image_size // self.patch

    @property
    def lead(self) -> int:
        """Class tokens: one, or none where a head pools."""
        return 1 if self.pool == "cls" else 0

    def tokens(self, size: int) -> int:
        """Sequence length for a square image of ``size`` pixels."""
        return (size // self.patch) ** 2 + self.lead + self.registers


def preset(size: Size, patch: int, image_size: int = 224) -> EncoderConfig:
    """The usual widths: tiny, small and base, at any patch."""
    width, depth, heads = SIZES[size]
    return EncoderConfig(patch=patch, width=width, depth=depth, heads=heads, image_size=image_size)


@functools.cache
def parameters(config: EncoderConfig) -> int:
    """How many weights an encoder has, counted without memory for them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in VisionEncoder(config).parameters())


def widen(x: Tensor) -> Tensor:
    """Half precision to float32, for what must not be rounded; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


Pixels = UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
"""Images in bytes, or in floats in [0, 1]."""


def in_unit(images: UInt8[Tensor, "..."] | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Bytes as float32 in [0, 1], on their device; floats stay as they are.

    The only place that makes floats of views: what is not being encoded stays in bytes.
    """
    if images.is_floating_point():
        return images
    # By a tensor of the device, because CUDA multiplies by the rounded inverse of a plain number.
    return images.to(torch.float32).div_(torch.full((), 255.0, device=images.device))


def attend(
    q: Float[Tensor, "B heads Q d"],
    k: Float[Tensor, "B heads T d"],
    v: Float[Tensor, "B heads T d"],
    causal: bool,
) -> Float[Tensor, "B heads Q d"]:
    """Softmax attention, by the fused kernel where it is the faster one.

    On CPU the fused kernel's backward in bf16 takes ten times as long as plain products at these lengths
    (torch 2.13, 256 x 4 heads x 37 tokens x 32: 160 against 13 ms, forward and backward).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with torch.autocast("cpu", enabled=False):  # autocast would copy the scores to float32 and back
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        out: Tensor = scores.softmax(dim=-1) @ v
    return out


def ask(
    qkv: nn.Linear, heads: int, queries: Float[Tensor, "_ Q D"], x: Float[Tensor, "B T D"]
) -> Float[Tensor, "B Q D"]:
    """Some queries, each sample's or one for all, over all tokens, which give keys and values alone."""
    width = x.shape[-1]
    of_query, of_tokens = torch.split(qkv.weight, [width, 2 * width])
    query_bias, token_bias = torch.split(qkv.bias, [width, 2 * width])
    q = F.linear(queries, of_query, query_bias).expand(len(x), -1, -1)
    k, v = F.linear(x, of_tokens, token_bias).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # type: ignore[no-untyped-call]
    return attend(q, k, v, causal=False).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention with a joint qkv projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B T D"], causal: bool = False, first: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Attend over all tokens, or over earlier ones only; ``first``: for so many tokens alone."""
        batch, tokens, width = x.shape
        if first is not None:
            led: Tensor = self.proj(ask(self.qkv, self.heads, x[:, :first], x))
            return led
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = attend(q, k, v, causal)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class Block(nn.Module):
    """A pre-norm transformer block; ``keep`` scales each sample's residual (stochastic depth)."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, eps: float = 1e-6, activation: Activation = "gelu"
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = perceptron(width, mlp_ratio, activation)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        keep: Float[Tensor, "B 2"] | None = None,
        causal: bool = False,
        first: int | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Attention, then the perceptron; each with its residual. ``first``: for so many tokens alone."""
        attended = self.attn(self.norm1(x), causal, first)
        if first is not None:
            x = x[:, :first]
        x = x + (attended if keep is None else attended * keep[:, :1, None])
        hidden = self.mlp(self.norm2(x))
        out: Tensor = x + (hidden if keep is None else hidden * keep[:, 1:, None])
        return out


def perceptron(width: int, ratio: float, activation: Activation) -> nn.Sequential:
    """A block's two-layer perceptron."""
    hidden = int(width * ratio)
    return nn.Sequential(nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width))


class MapHead(nn.Module):
    """SigLIP's attention pooling (Zhai et al. 2023; Zhai et al. 2022 call it MAP).

    One learnt query attends over the patches; a perceptron with a residual follows. As in big_vision and in
    transformers' SiglipMultiheadAttentionPoolingHead.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.eps)
        self.mlp = perceptron(width, config.mlp_ratio, config.activation)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Pool normalised patches into one vector."""
        pooled = self.proj(ask(self.qkv, self.heads, self.probe, x).flatten(1))
        out: Tensor = pooled + self.mlp(self.norm(pooled))
        return out


class VisionEncoder(nn.Module):
    """A ViT that returns ``Features``.

    Args:
        config: the architecture.
        seed: the study's root seed; weights come from its own stream, whatever else is built.

    ``memo`` is what ``remembering`` keeps: None outside of it, and never part of the state.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        width = config.width
        with torch_seed(seed, "encoder"):
            self.patch_embed = nn.Conv2d(3, width, config.patch, stride=config.patch)
            self.cls_token = nn.Parameter(torch.empty(1, config.lead, width))
            self.register_tokens = nn.Parameter(torch.empty(1, config.registers, width))
            self.pos_embed = nn.Parameter(torch.empty(1, config.lead + config.grid**2, width))
            self.norm_pre = nn.LayerNorm(width, eps=config.eps) if config.pre_norm else None
            self.blocks = nn.ModuleList(
                Block(width, config.heads, config.mlp_ratio, config.eps, config.activation)
                for _ in range(config.depth)
            )
            self.norm = nn.LayerNorm(width, eps=config.eps)
            self.head = MapHead(config) if config.pool == "map" else None
            std = 0.02 * (768 / width) ** 0.5
            init_linear(self, std)
            for token in (self.cls_token, self.register_tokens, self.pos_embed):
                nn.init.trunc_normal_(token, std=std)
            if self.head is not None:
                nn.init.trunc_normal_(self.head.probe, std=std)
        self.memo: dict[Hashable, tuple[Tensor, Any]] | None = None
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(
        self,
        images: Pixels,
        *,
        layer: int = -1,
        keep: Float[Tensor, "depth B 2"] | None = None,
    ) -> Features:
        """Encode images: bytes, or floats in [0, 1].

        Args:
            images: any multiple of the patch size, positions are interpolated.
            layer: -1 is the normalised output; -2 the second-to-last block's output without the final
                norm, which is what LLaVA reads (``hidden_states[-2]``), and so on downwards.
            keep: residual scales per block and sample, for stochastic depth.

        Where a head pools, it reads the patches of any layer through the final norm (registers never).
        """
        if keep is not None:
            return self._forward(images, layer, keep)
        found: Features = self._remembered(images, layer, lambda: self._forward(images, layer, None))
        return found

    def summary(
        self, images: Pixels, *, keep: Float[Tensor, "depth B 2"] | None = None
    ) -> Float[Tensor, "B D"]:
        """``Features.cls`` alone, to rounding: the last block makes no other token, and costs a sixth.

        For objectives that read nothing else. Where a head pools, every token is needed and made.
        """
        if keep is not None:
            return self._summary(images, keep)
        found: Tensor = self._remembered(images, "summary", lambda: self._summary(images, None))
        return found

    def _remembered(self, images: Tensor, what: Hashable, make: Callable[[], Any]) -> Any:
        if self.memo is None:
            return make()
        key = (_place(images), what, torch.is_grad_enabled(), _autocast(images.device.type))
        if key not in self.memo:  # the pixels are kept too: else other ones could come to lie at their place
            self.memo[key] = (images, make())
        return self.memo[key][1]

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """Within the block, a second forward of the same pixels and layer gives the first one's ``Features``.

        For objectives that share an encoder and look at the same views. The gradients of all uses add up in
        the one graph, so call backward once for all of them, and do not change the weights within the block.
        """
        outer, self.memo = self.memo, {}
        try:
            yield
        finally:
            self.memo = outer

    def _forward(self, images: Pixels, layer: int, keep: Float[Tensor, "depth B 2"] | None) -> Features:
        if not -self.config.depth <= layer <= -1:
            raise ValueError(f"layer {layer} is not in [-{self.config.depth}, -1]")
        wanted = self.config.depth + 1 + layer
        x = next(itertools.islice(self._states(images, keep), wanted, None))
        return self._read(x, last=layer == -1)

    def _summary(self, images: Pixels, keep: Float[Tensor, "depth B 2"] | None) -> Float[Tensor, "B D"]:
        if self.head is not None:
            return self._forward(images, -1, keep).cls
        x = next(itertools.islice(self._states(images, keep), self.config.depth - 1, None))
        x = self.blocks[-1](x, None if keep is None else keep[-1], first=1)
        out: Tensor = self.norm(x)[:, 0]
        return out

    def classes(self, images: Pixels) -> Float[Tensor, "B layers D"]:
        """``Features.cls`` before the first block and after each one; the last is normalised, as always."""
        return self.survey(images)[0]

    def survey(self, images: Pixels) -> tuple[Float[Tensor, "B layers D"], Features]:
        """``classes``, and all that is said at the end, in one pass."""
        seen = []
        for number, x in enumerate(self._states(images, None)):
            features = self._read(x, last=number == self.config.depth)
            seen.append(features.cls)
        return torch.stack(seen, 1), features

    def _states(
        self, images: Pixels, keep: Float[Tensor, "depth B 2"] | None
    ) -> Iterator[Float[Tensor, "B T D"]]:
        """All tokens before the first block and after each one, made as they are asked for."""
        height, width = (side // self.config.patch for side in images.shape[-2:])
        positions, lead = self.positions(height, width), self.config.lead
        x = self.embed((in_unit(images) - self.mean) / self.std, height, width) + positions[:, lead:]
        cls = (self.cls_token + positions[:, :lead]).expand(len(x), -1, -1)
        x = torch.cat([cls, self.register_tokens.expand(len(x), -1, -1), x], dim=1)
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        yield x
        for number, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[number])
            yield x

    def _read(self, x: Float[Tensor, "B T D"], *, last: bool) -> Features:
        """What is said of a layer's tokens; the last layer's are normalised."""
        if last:
            x = self.norm(x)
        lead = self.config.lead
        prefix = lead + self.config.registers
        registers = x[:, lead:prefix] if self.config.registers else None
        if self.head is None:
            return Features(x[:, 0], registers, x[:, prefix:])
        patches = x[:, prefix:]
        return Features(self.head(patches if last else self.norm(patches)), registers, patches)

    def embed(self, images: Float[Tensor, "B 3 H W"], height: int, width: int) -> Float[Tensor, "B N D"]:
        """The patch convolution as one matrix product: its stride is its size, and on CPU this is faster."""
        patch, weight = self.config.patch, self.patch_embed.weight.flatten(1)
        cut = images[..., : height * patch, : width * patch]
        rows = cut.unflatten(-1, (width, patch))  # type: ignore[no-untyped-call]
        cells: Tensor = rows.unflatten(-3, (height, patch))
        return F.linear(
            cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight, self.patch_embed.bias
        )

    def positions(self, height: int, width: int) -> Float[Tensor, "1 tokens D"]:
        """Position embeddings for a grid of patches, bicubic where it is not the trained one."""
        grid, lead = self.config.grid, self.config.lead
        if (height, width) == (grid, grid):
            return self.pos_embed
        square = self.pos_embed[:, lead:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :lead], resized.flatten(2).transpose(1, 2)], dim=1)


def _place(tensor: Tensor) -> Hashable:
    """Where a tensor's values lie, and their version: equal for two views of the same values only.

    By the storage itself rather than by its address, which is 0 for everything on the meta device.
    """
    storage, version = tensor.untyped_storage()._cdata, 0 if tensor.is_inference() else tensor._version
    return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, version)


def _autocast(device: str) -> bool:
    """Whether autocast is on; the meta device, where cost is counted, has none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def init_linear(module: nn.Module, std: float) -> None:
    """Truncated normal weights and zero biases in every linear layer below ``module``.

    DINO and timm take std 0.02 at ViT-B's width 768. Narrower models need more for signals of the same size,
    so callers scale it by the root of the width; at 768 nothing changes.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors, whole or not at all; tied weights are written once."""
    with whole_file(path) as temporary:
        save_model(module, str(temporary))


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from safetensors.

    Raises:
        UserError: the file is missing, damaged, or belongs to another architecture.
    """
    try:
        load_model(module, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged: delete its folder and run again.") from error
    except RuntimeError as error:
        raise UserError(f"{path} holds the weights of another architecture: delete its folder.") from error
