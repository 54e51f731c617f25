"""The linear probe: multinomial logistic regression on frozen features, its whole grid trained at once.

All heads of the grid see the same batches, so their logits are one matrix product and their gradients
another; AdamW (Loshchilov and Hutter 2019) is written out for the stacked heads, with one learning rate and
weight decay per head. Hyper-parameters are chosen on a validation part that shares no group with the rest of
the training set, and features are standardised by training statistics; the test set takes part in nothing.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from paribus.errors import UserError
from paribus.rng import numpy_rng
from paribus.types import Config, cosine

VALIDATION = 0.15
"""Share of the training samples held out, by whole groups, to choose the setting."""

BETAS, EPS = (0.9, 0.999), 1e-8

SMALL = 500_000_000
"""Multiplications a step below which one processor thread does it all."""


class Grid(Config):
    """The settings tried and the budget of each; every learning rate meets every weight decay."""

    lrs: tuple[float, ...] = Field((1e-3, 5e-3, 3e-2), min_length=1)
    weight_decays: tuple[float, ...] = Field((0.1, 1.0, 3.0), min_length=1)
    epochs: int = Field(30, gt=0)
    batch: int = Field(512, gt=0)
    min_steps: int = Field(800, gt=0, description="small training sets get more epochs, to reach this")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the rate rises")


class Setting(Config):
    """One point of the grid, and how well it did on the validation part."""

    lr: float
    weight_decay: float
    accuracy: float


@dataclass(frozen=True)
class Heads:
    """G linear classifiers over standardised features."""

    weight: Float[Tensor, "G C D"]
    bias: Float[Tensor, "G C"]

    def logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N G C"]:
        """One matrix product for all heads."""
        g, c, d = self.weight.shape
        return torch.addmm(self.bias.view(1, -1), x, self.weight.view(-1, d).T).view(len(x), g, c)


@dataclass(frozen=True)
class Standard:
    """Per-dimension standardisation; a dimension without spread carries nothing and becomes zero."""

    mean: Float[Tensor, " D"]
    inverse: Float[Tensor, " D"]

    @classmethod
    def of(cls, x: Float[Tensor, "N D"]) -> "Standard":
        """Statistics of ``x``, taken in float64."""
        mean, std = x.double().mean(0), x.double().std(0, correction=0)
        flat = std <= 1e-6 * std.max()
        inverse = torch.where(flat, 0.0, 1.0 / torch.where(flat, 1.0, std))
        return cls(mean.to(x.dtype), inverse.to(x.dtype))

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Centred and scaled."""
        return (x - self.mean) * self.inverse


@dataclass(frozen=True)
class Probe:
    """A trained linear probe, and the record of how its setting was chosen."""

    standard: Standard
    heads: Heads
    labels: Int64[np.ndarray, " C"]
    """The class of each output: only those that occur in the training set."""
    chosen: Setting
    grid: tuple[Setting, ...]
    steps: int
    validation: int
    """Samples on which the setting was chosen."""

    def predict(self, x: Float[np.ndarray, "N D"]) -> Int64[np.ndarray, " N"]:
        """The most likely class of each row.

        Raises:
            UserError: a feature is not finite.
        """
        parts = torch.split(_tensor(x, self.heads.weight.device), 8192)
        outputs = torch.cat([self._predict(part) for part in parts]).cpu().numpy()
        return np.take(self.labels, outputs)

    def _predict(self, x: Float[Tensor, "N D"]) -> Int64[Tensor, " N"]:
        return self.heads.logits(self.standard(x.to(self.heads.weight.dtype)))[:, 0].argmax(1)


def fit_grid(
    train_x: Float[np.ndarray, "N D"],
    train_y: Int64[np.ndarray, " N"],
    groups: NDArray[Any],
    classes: int,
    grid: Grid,
    seed: int,
    *,
    device: str = "cpu",
) -> Probe:
    """Try every setting of the grid at once, choose on held-out groups, retrain the chosen one on all.

    The result depends on the arguments only, never on a global generator. Ties go to the smaller learning
    rate, then to the larger weight decay.

    Args:
        train_x: features; float64 is kept, everything else is computed in float32.
        train_y: classes, in ``[0, classes)``; those that do not occur are never predicted.
        groups: samples that are not independent share a group (e.g. one concept in many styles), ``[N]``.
        classes: how many classes the task has.
        grid: settings and budget.
        seed: the study's root seed: decides the held-out groups and the batches.
        device: where to compute.

    Raises:
        UserError: fewer than two classes, a label out of range, features that are not finite, or groups so
            few or so large that none can be held out.
    """
    if not len(train_x) == len(train_y) == len(groups):
        raise ValueError(
            f"{len(train_x)} features, {len(train_y)} labels, {len(groups)} groups: one per sample"
        )
    labels = _labels(train_y, classes)
    target = np.searchsorted(labels, train_y)
    x, y = _tensor(train_x, torch.device(device)), torch.from_numpy(target).to(device)
    held = held_out(target, groups, numpy_rng(seed, "probe", "validation"))
    settings = [(lr, decay) for lr in grid.lrs for decay in grid.weight_decays]
    with _few_threads(grid.batch * len(settings) * len(labels) * x.shape[1]):
        scores = _try_settings(x, y, torch.from_numpy(held).to(device), settings, grid, seed)
        record = tuple(
            Setting(lr=lr, weight_decay=decay, accuracy=score)
            for (lr, decay), score in zip(settings, scores, strict=True)
        )
        chosen = max(record, key=lambda setting: (setting.accuracy, -setting.lr, setting.weight_decay))
        standard = Standard.of(x)
        final = [(chosen.lr, chosen.weight_decay)]
        heads, steps = train_heads(standard(x), y, len(labels), final, grid, seed)
    return Probe(standard, heads, labels, chosen, record, steps, int(held.sum()))


def _try_settings(
    x: Float[Tensor, "N D"],
    y: Int64[Tensor, " N"],
    held: Bool[Tensor, " N"],
    settings: list[tuple[float, float]],
    grid: Grid,
    seed: int,
) -> list[float]:
    """Accuracy of every setting on the held-out part, after training on the rest."""
    standard = Standard.of(x[~held])
    heads, _ = train_heads(standard(x[~held]), y[~held], int(y.max()) + 1, settings, grid, seed)
    return accuracies(heads, standard(x[held]), y[held])


@contextlib.contextmanager
def _few_threads(work: int) -> Iterator[None]:
    """Use one thread for a small problem, and restore the number afterwards.

    Threads that share cores with other processes wait for each other at every small operation (measured:
    forty times slower on two busy cores), and sums would depend on how many there are.
    """
    before = torch.get_num_threads()
    try:
        if work < SMALL:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _labels(y: Int64[np.ndarray, " N"], classes: int) -> Int64[np.ndarray, " C"]:
    """The classes that occur, in order."""
    labels = np.unique(y)
    if len(labels) < 2:
        raise UserError(f"A probe needs two classes, but its training set has {len(labels)}: choose another.")
    if labels[0] < 0 or labels[-1] >= classes:
        raise UserError(
            f"Labels from {labels[0]} to {labels[-1]} do not fit a task of {classes} classes: mend them."
        )
    return labels


def _tensor(x: Float[np.ndarray, "N D"], device: torch.device) -> Float[Tensor, "N D"]:
    """Features as a tensor, float64 or else float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise UserError("A feature is not finite: the encoder diverged, so train it again at a lower rate.")
    return tensor


def held_out(
    y: Int64[np.ndarray, " N"], groups: NDArray[Any], rng: np.random.Generator, share: float = VALIDATION
) -> Bool[np.ndarray, " N"]:
    """Choose whole groups, in random order, until ``share`` of the samples is held out.

    A group stays if it holds the last samples of a class, or if it alone would hold out far too much (more
    than twice the share; where all are so large, more than half).

    Raises:
        UserError: no group can be held out.
    """
    names, group = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    for limit in (2 * share, 0.5):
        chosen = _choose_groups(y, group, order, math.ceil(share * len(y)), int(limit * len(y)))
        if chosen:
            return np.isin(group, chosen)
    raise UserError(
        f"None of the {len(names)} groups can be held out to choose the probe's setting, because each "
        "holds the last samples of a class or over half of all: give more or smaller groups."
    )


def _choose_groups(
    y: Int64[np.ndarray, " N"], group: Int64[np.ndarray, " N"], order: NDArray[Any], enough: int, limit: int
) -> list[int]:
    """Groups in ``order`` until ``enough`` samples, never over ``limit``, never a class's last samples."""
    left = np.bincount(y)
    rows = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    chosen: list[int] = []
    taken = 0
    for name in order.tolist():
        members = y[rows[ends[name - 1] if name else 0 : ends[name]]]
        present, counts = np.unique(members, return_counts=True)
        if taken + len(members) > limit or np.any(left[present] == counts):
            continue
        left[present] -= counts
        chosen.append(name)
        taken += len(members)
        if taken >= enough:
            break
    return chosen


def batches(n: int, epochs: int, batch: int, seed: int) -> Iterator[Int64[np.ndarray, " M"]]:
    """Rows of every step: each epoch a new permutation, cut into parts that differ by one row at most."""
    parts = math.ceil(n / batch)
    for epoch in range(epochs):
        yield from np.array_split(numpy_rng(seed, "probe", "order", epoch).permutation(n), parts)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a global step: a linear rise, then half a cosine to zero."""
    rise = math.ceil(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return cosine(1.0, 0.0, (step - rise) / (steps - rise))


def epochs_of(n: int, grid: Grid) -> int:
    """Passes over ``n`` samples: the grid's, or as many as give ``min_steps``."""
    return max(grid.epochs, math.ceil(grid.min_steps / math.ceil(n / grid.batch)))


def train_heads(
    x: Float[Tensor, "N D"],
    y: Int64[Tensor, " N"],
    classes: int,
    settings: list[tuple[float, float]],
    grid: Grid,
    seed: int,
) -> tuple[Heads, int]:
    """Train one head per (learning rate, weight decay), all from zero and on the same batches.

    The loss is convex, so zero is as good a start as any and needs no draw. Biases do not decay.

    Returns:
        The heads and the number of steps each was trained for.
    """
    heads = Heads(x.new_zeros(len(settings), classes, x.shape[1]), x.new_zeros(len(settings), classes))
    lr, decay = x.new_tensor(settings).T
    optimizers = (StackedAdamW(heads.weight, decay), StackedAdamW(heads.bias, torch.zeros_like(decay)))
    epochs = epochs_of(len(x), grid)
    steps = epochs * math.ceil(len(x) / grid.batch)
    for step, rows in enumerate(batches(len(x), epochs, grid.batch, seed)):
        picked = torch.from_numpy(rows).to(x.device)
        gradients = head_gradients(heads, x[picked], y[picked])
        now = lr * rate(step, steps, grid.warmup)
        for optimizer, gradient in zip(optimizers, gradients, strict=True):
            optimizer.step(gradient, now)
    return heads, steps


def head_gradients(
    heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]
) -> tuple[Float[Tensor, "G C D"], Float[Tensor, "G C"]]:
    """Gradient of each head's mean cross-entropy: (softmax - one-hot)' x / N."""
    error = heads.logits(x).softmax(-1)
    error[torch.arange(len(x), device=x.device), :, y] -= 1.0
    error /= len(x)
    return (error.flatten(1).T @ x).view_as(heads.weight), error.sum(0)


class StackedAdamW:
    """AdamW over a stack of parameters ``[G ...]``, each with its own learning rate and weight decay.

    Term for term ``torch.optim.AdamW``, which has one rate per parameter group and so would need a loop.
    """

    def __init__(self, parameter: Float[Tensor, "G ..."], decay: Float[Tensor, " G"]) -> None:
        self.parameter = parameter
        self.shape = (-1, *[1] * (parameter.ndim - 1))
        self.decay = decay.view(self.shape)
        self.first, self.second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.count = 0

    def step(self, gradient: Float[Tensor, "G ..."], lr: Float[Tensor, " G"]) -> None:
        """Descend in place."""
        self.count += 1
        lr = lr.view(self.shape)
        self.first.lerp_(gradient, 1.0 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
        denominator = self.second.sqrt().div_(math.sqrt(1.0 - BETAS[1] ** self.count)).add_(EPS)
        self.parameter.mul_(1.0 - lr * self.decay)
        self.parameter.sub_(self.first / denominator * (lr / (1.0 - BETAS[0] ** self.count)))


def accuracies(heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]) -> list[float]:
    """Share of rows that each head gets right."""
    parts = zip(torch.split(x, 2048), torch.split(y, 2048), strict=True)
    hits = [(heads.logits(a).argmax(2) == b[:, None]).sum(0) for a, b in parts]
    right: Float64[Tensor, " G"] = torch.stack(hits).sum(0).double() / len(x)
    return [float(share) for share in right]
