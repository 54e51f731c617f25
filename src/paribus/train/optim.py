"""Parameter groups, and schedules as pure functions of the clock."""

import torch
from torch import nn

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


def build_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); no decay on biases, norms, scales and other vectors."""
    parameters = list(trainable(module).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, clock: Clock) -> None:
    """Write this step's learning rate and weight decay into the optimiser."""
    rate, decay = learning_rate(recipe, clock), weight_decay(recipe, clock)
    for group in optimizer.param_groups:
        group["lr"] = rate
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
