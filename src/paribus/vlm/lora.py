"""LoRA: a frozen linear layer learns a correction of low rank (Hu et al. 2022).

    y = W x + c + (alpha / rank) B A x,    A [rank, inputs] random, B [outputs, rank] zero at first

As in peft and in LLaVA's LoRA recipe, but without dropout, of which LLaVA takes 0.05: a batch that is split
over chunks must give the same gradients as the whole one.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.errors import UserError
from paribus.rng import torch_seed
from paribus.types import Config
from paribus.vlm.language import PreTrainedModel


class LoRAConfig(Config):
    """Rank, scale and place of the corrections; the defaults are LLaVA's."""

    rank: int = Field(128, ge=1)
    alpha: float = Field(256.0, gt=0, description="the correction counts alpha / rank times")
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description="ends of names of linear layers, e.g. [q_proj, v_proj]; None: all but the output head",
    )


class Factors(nn.Module):
    """The two factors of a correction.

    They are float32 at least: what is learnt at a small rate would be rounded away in half precision.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        a = torch.empty(rank, layer.in_features, dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        # Drawn on the CPU, so that every device begins alike.
        self.a = nn.Parameter(a.to(layer.weight.device))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, dtype=dtype, device=layer.weight.device))

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Down to the rank and up again."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b)


class LoRALinear(nn.Module):
    """A linear layer that is frozen, and its correction.

    The factors' names have ``lora`` for a component, so that ``Recipe.rates`` can address them.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora = Factors(base, rank)
        self.scale = alpha / rank

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """The layer's output, corrected."""
        out: Tensor = self.base(x)
        correction: Tensor = self.scale * self.lora(x)
        return out + correction.to(out.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The layer itself, with the correction added to its weights."""
        product = self.scale * self.lora.b @ self.lora.a
        self.base.weight.copy_(self.base.weight + product)
        return self.base


def linear_names(model: PreTrainedModel) -> list[str]:
    """Every linear layer of a language model but its output head.

    The head is never corrected: where it is tied to the word embeddings, merging would change those too.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name, module in layers if module is not head]


def _matches(name: str, target: str) -> bool:
    """Whether a target is the end of a name, in whole components, as in peft."""
    return f".{name}".endswith(f".{target}")


def add_lora(model: PreTrainedModel, config: LoRAConfig, seed: int) -> list[str]:
    """Give the target layers their corrections, in place, and freeze everything else.

    Args:
        model: a transformers causal language model; its output does not change yet.
        config: rank, scale and place.
        seed: the study's root seed; the factors come from their own stream.

    Returns:
        Names of the layers that have a correction now.

    Raises:
        UserError: a target is not the name of any linear layer.
        ValueError: the model has LoRA already.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("the model has LoRA already: merge it first")
    names = linear_names(model)
    if config.targets is not None:
        _check_targets(names, config.targets)
        names = [name for name in names if any(_matches(name, target) for target in config.targets)]
    model.requires_grad_(False)
    with torch_seed(seed, "lora"):
        for name in names:
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            model.set_submodule(name, LoRALinear(base, config.rank, config.alpha))
    return names


def _check_targets(names: list[str], targets: tuple[str, ...]) -> None:
    missing = [target for target in targets if not any(_matches(name, target) for name in names)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise UserError(
            f"vlm.lora.targets: no linear layer that LoRA may correct is called {', '.join(missing)}; "
            f"there are {', '.join(known)}."
        )


def merge_lora(model: PreTrainedModel) -> None:
    """Fold the corrections into the weights and put the linear layers back: an ordinary model remains.

    What was frozen stays frozen. Without LoRA nothing happens.
    """
    corrected = [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    for name, module in corrected:
        model.set_submodule(name, module.merged())
