"""Parameter groups, and schedules as pure functions of the clock."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from paribus.errors import UserError
from paribus.types import Clock, Recipe, cosine


def learning_rate(recipe: Recipe, clock: Clock) -> float:
    """Linear warm-up from zero, then half a cosine to ``final_lr``."""
    if clock.fraction < recipe.warmup:
        return recipe.lr * clock.fraction / recipe.warmup
    return cosine(recipe.lr, recipe.final_lr, (clock.fraction - recipe.warmup) / (1.0 - recipe.warmup))


def weight_decay(recipe: Recipe, clock: Clock) -> float:
    """Constant, or half a cosine to ``final_weight_decay``."""
    if recipe.final_weight_decay is None:
        return recipe.weight_decay
    return cosine(recipe.weight_decay, recipe.final_weight_decay, clock.fraction)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that move, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """The part, of those named in ``Recipe.rates``, that a parameter belongs to: a component of its path."""
    return next((part for part in parts if part in name.split(".")), None)


def check_rates(module: nn.Module, recipe: Recipe) -> None:
    """See that what has a rate of its own is there.

    Raises:
        UserError: a part named in ``recipe.rates`` has no trainable parameter.
    """
    missing = set(recipe.rates) - {part_of(name, recipe.rates) for name in trainable(module)}
    if missing:
        known = sorted({word for name in trainable(module) for word in name.split(".")[:-1]})
        raise UserError(
            f"recipe.rates: nothing that trains is called {', '.join(sorted(missing))}; "
            f"there are {', '.join(word for word in known if not word.isdigit())}."
        )


Groups = list[dict[str, Any]]


def _adamw(groups: Groups, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


def _adamw8bit(groups: Groups, recipe: Recipe) -> torch.optim.Optimizer:
    # It complains of a kernel for CPUs that nothing here needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        from paribus.train.eightbit import AdamW8bit
    except ImportError as error:
        raise UserError(
            "recipe.optimizer adamw8bit needs bitsandbytes: pip install 'paribus[quant]'."
        ) from error
    return AdamW8bit(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps)


OPTIMIZERS: dict[str, Callable[[Groups, Recipe], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
}
"""By ``Recipe.optimizer``."""


def build_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); no decay on biases, norms, scales and other vectors.

    Parameters of a part named in ``recipe.rates`` follow the same schedule from their own peak.

    Raises:
        UserError: a part named in ``recipe.rates`` has no trainable parameter, or a package is missing.
    """
    by_part: dict[str | None, list[nn.Parameter]] = {}
    for name, parameter in trainable(module).items():
        by_part.setdefault(part_of(name, recipe.rates), []).append(parameter)
    check_rates(module, recipe)
    groups: Groups = [
        {"params": chosen, "decays": decays, "scale": 1.0 if part is None else recipe.rates[part] / recipe.lr}
        for part, parameters in by_part.items()
        for decays, chosen in (
            (True, [p for p in parameters if p.ndim >= 2]),
            (False, [p for p in parameters if p.ndim < 2]),
        )
        if chosen
    ]
    return OPTIMIZERS[recipe.optimizer](groups, recipe)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, clock: Clock) -> None:
    """Write this step's learning rate and weight decay into the optimiser."""
    rate, decay = learning_rate(recipe, clock), weight_decay(recipe, clock)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
        group["weight_decay"] = decay if group["decays"] else 0.0


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], recipe: Recipe) -> None:
    """Clip by the global norm, or each tensor by its own norm as DINO does (utils.clip_gradients)."""
    if recipe.clip is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if recipe.clip_by == "global":
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        return
    norms = torch._foreach_norm(gradients)
    for gradient, norm in zip(gradients, norms, strict=True):
        gradient.mul_((recipe.clip / (norm + 1e-6)).clamp(max=1.0))
