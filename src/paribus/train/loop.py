"""``fit``: the only training loop. It mentions no modality and no objective."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from paribus.errors import UserError
from paribus.objectives.base import Objective
from paribus.progress import progress as progress_bar
from paribus.train import distributed
from paribus.train.health import Health, Throughput
from paribus.train.metrics import Metrics
from paribus.train.optim import build_optimizer, clip_gradients, learning_rate, set_rates, trainable
from paribus.train.sharding import shard
from paribus.train.split import backward
from paribus.train.state import load_state, save_state
from paribus.types import Batch, Budget, Clock, Losses, Recipe, Runtime

SAVING = 0.02
"""The largest share of the time that is spent on checkpoints."""

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
    log: Path | None = None,
) -> Fit:
    """Train ``objective`` for the whole budget, from the newest checkpoint in ``folder`` if there is one.

    Killed at any moment and called again, it ends with the same weights, bit for bit on CPU. Several
    processes that call it together (see ``distributed``) train one model; the first of them keeps the
    checkpoints, which all must be able to read. If their weights are cut meanwhile (see ``sharding``), every
    process has the whole objective again when training ends.

    Args:
        objective: on its device already; trained in place.
        batches: the data, by step; of several processes, each one's own rows.
        recipe: optimiser and schedules.
        budget: samples and batch.
        precision: ``bf16`` (autocast) or ``fp32``.
        folder: where checkpoints lie.
        runtime: chunk, recomputing, compiling, cutting, device, how often to checkpoint; a result changes by
            rounding at most.
        label: for the progress bar.
        log: where every step is logged as it is taken, without suffix (see ``metrics``); None: nowhere.

    Raises:
        UserError: the loss is not finite, something collapsed or throughput fell for too long (see
            ``health``), a checkpoint is damaged, a batch has fewer samples than there are processes, these do
            not see the same checkpoints, or what is to be cut cannot be.
    """
    share = distributed.share()
    if budget.batch < share.size:
        raise UserError(f"A batch of {budget.batch} cannot be shared by {share.size} processes: start fewer.")
    if runtime.recompute:
        objective.economise()
    if runtime.compile:
        objective.hasten()
    shards = shard(objective) if runtime.shard else None
    optimizer = build_optimizer(objective, recipe)
    state = load_state(folder, objective, optimizer)
    if len(set(distributed.counts_of(state.step))) > 1:
        raise UserError(f"The processes do not begin at one step: all must see the same folder {folder}.")
    distributed.check_same(objective)
    parameters = list(trainable(objective).values())
    started, saved, wait = time.monotonic() - state.seconds, time.monotonic(), runtime.checkpoint_seconds
    objective.train()
    whole = budget.steps * budget.batch
    bar: tqdm[None] = progress_bar(
        label=label, total=whole, unit="img", initial=state.step * budget.batch, silent=not share.first
    )
    record = Metrics(log if share.first else None, state.step, tensorboard=runtime.tensorboard)
    health, throughput = Health(runtime.patience, label), Throughput(objective.phases())
    taken = time.monotonic()
    with bar, record:
        for batch in batches(state.step, budget.steps):
            clock = Clock(state.step, state.step * budget.batch, whole)
            set_rates(optimizer, recipe, clock)
            objective.begin_step(clock)
            losses = backward(objective, batch.to(runtime.torch_device), clock, runtime.chunk, precision)
            if shards is not None:
                shards.drop_unused()
            clip_gradients(parameters, recipe)
            objective.before_step(clock)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            objective.after_step(clock)

            state.step += 1
            state.order = chain(state.order, every_id(batch))
            state.seconds = time.monotonic() - started
            line = logged(losses, recipe, clock, label)
            state.history.append(line)
            rate, taken = budget.batch / max(time.monotonic() - taken, 1e-9), time.monotonic()
            record.write(clock.step, line | {"images_per_second": round(rate, 2)})
            bar.update(budget.batch)
            slow = throughput.symptoms(rate, clock.fraction)
            health.see(objective.symptoms(line, clock) | slow, clock.step)
            due = share.first and time.monotonic() - saved > wait
            if shards is not None:
                due = distributed.agreed(due)  # all have rows to give
            if due:
                begun = time.monotonic()
                save_state(folder, state, objective, optimizer, runtime.checkpoints)
                saved = time.monotonic()
                wait = until_next(saved - begun, runtime)
    distributed.check_same(objective)
    if shards is not None:
        del optimizer, parameters  # room for the whole
        shards.join()
    return Fit(state.order, state.seconds, state.history)


def until_next(cost: float, runtime: Runtime) -> float:
    """Seconds until the next checkpoint is due, after one that took ``cost`` seconds."""
    return max(runtime.checkpoint_seconds, cost / SAVING) if runtime.checkpoint_seconds else 0.0


def every_id(batch: Batch) -> NDArray[np.uint64]:
    """The ids of the whole batch, of which this process may have a part only."""
    counts = distributed.counts_of(len(batch))
    ids = distributed.gather(torch.from_numpy(batch.ids.view(np.int64)), counts)
    return ids.numpy().view(np.uint64)


def chain(digest: str, ids: NDArray[np.uint64]) -> str:
    """Extend the digest of the order really consumed by the ids of one batch."""
    return hashlib.sha256(digest.encode() + ids.tobytes()).hexdigest()


def logged(losses: Losses, recipe: Recipe, clock: Clock, label: str) -> dict[str, float]:
    """A step's line of the history; refuses to go on with a loss that is not a number."""
    total, *parts = torch.stack(
        [v.detach().double() for v in (losses.total, *losses.parts.values())]
    ).tolist()
    if not math.isfinite(total):
        raise UserError(
            f"The loss of {label} is {total} at step {clock.step}: lower recipe.lr or set recipe.clip; "
            "the last checkpoint is kept."
        )
    line = {"seen": float(clock.seen), "loss": total, "lr": learning_rate(recipe, clock)}
    return line | dict(zip(losses.parts, parts, strict=True))
