"""``fit``: the only training loop. It mentions no modality and no objective."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from paribus.errors import UserError
from paribus.objectives.base import Objective
from paribus.progress import progress as progress_bar
from paribus.train.optim import build_optimizer, clip_gradients, learning_rate, set_rates, trainable
from paribus.train.split import backward
from paribus.train.state import Progress, load_state, save_state
from paribus.types import Batch, Budget, Clock, Recipe, Runtime

Batches = Callable[[int, int], Iterator[Batch]]
"""Batches of steps ``start`` to ``stop - 1``."""


@dataclass(frozen=True)
class Fit:
    """What a finished training says of itself."""

    order: str
    seconds: float
    history: list[dict[str, float]]


def fit(
    objective: Objective,
    batches: Batches,
    *,
    recipe: Recipe,
    budget: Budget,
    precision: str,
    folder: Path,
    runtime: Runtime,
    label: str,
) -> Fit:
    """Train ``objective`` for the whole budget, from the newest checkpoint in ``folder`` if there is one.

    Killed at any moment and called again, it ends with the same weights, bit for bit on CPU.

    Args:
        objective: on its device already; trained in place.
        batches: the data, by step.
        recipe: optimiser and schedules.
        budget: samples and batch.
        precision: ``bf16`` (autocast) or ``fp32``.
        folder: where checkpoints lie.
        runtime: chunk, device and how often to checkpoint; cannot change the result.
        label: for the progress bar.

    Raises:
        UserError: the loss is not finite, or a checkpoint is damaged.
    """
    optimizer = build_optimizer(objective, recipe)
    state = load_state(folder, objective, optimizer)
    parameters = list(trainable(objective).values())
    started, saved = time.monotonic() - state.seconds, time.monotonic()
    objective.train()
    whole = budget.steps * budget.batch
    bar: tqdm[None] = progress_bar(label=label, total=whole, unit="img", initial=state.step * budget.batch)
    with bar:
        for batch in batches(state.step, budget.steps):
            clock = Clock(state.step, state.step * budget.batch, whole)
            set_rates(optimizer, recipe, clock)
            losses = backward(objective, batch.to(runtime.torch_device), clock, runtime.chunk, precision)
            clip_gradients(parameters, recipe)
            objective.before_step(clock)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            objective.after_step(clock)

            state.step += 1
            state.order = chain(state.order, batch)
            state.seconds = time.monotonic() - started
            log(state, losses.total, losses.parts, recipe, clock, label)
            bar.update(len(batch))
            if time.monotonic() - saved > runtime.checkpoint_seconds:
                save_state(folder, state, objective, optimizer)
                saved = time.monotonic()
    return Fit(state.order, state.seconds, state.history)


def chain(digest: str, batch: Batch) -> str:
    """Extend the digest of the order really consumed by one batch."""
    return hashlib.sha256(digest.encode() + batch.ids.tobytes()).hexdigest()


def log(
    state: Progress, total: Tensor, parts: dict[str, Tensor], recipe: Recipe, clock: Clock, label: str
) -> None:
    """Add a line to the history; refuse to go on with a loss that is not a number."""
    value = float(total)
    if not math.isfinite(value):
        raise UserError(
            f"The loss of {label} is {value} at step {clock.step}: lower recipe.lr or set recipe.clip; "
            "the last checkpoint is kept."
        )
    line = {"seen": float(clock.seen), "loss": value, "lr": learning_rate(recipe, clock)}
    state.history.append(line | {name: float(part) for name, part in parts.items()})
