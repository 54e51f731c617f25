"""The linear probe: multinomial logistic regression on frozen features, its whole grid trained at once.

Hyper-parameters, and the reading of the pictures where there are several, are chosen on a validation part
that shares no group with the rest of the training set, and features are standardised by training statistics;
the test set takes part in nothing. How the heads are trained: ``heads``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from paribus.errors import UserError
from paribus.probes.heads import (
    Affine,
    Heads,
    Precision,
    Score,
    Standard,
    accuracies,
    as_tensor,
    few_threads,
    train_heads,
)
from paribus.probes.heads import Grid as Grid
from paribus.rng import numpy_rng
from paribus.types import Config

VALIDATION = 0.15
"""Share of the training samples held out, by whole groups, to choose the setting."""

GRID = Grid(lrs=(3e-3, 1e-2, 3e-2, 1e-1), weight_decays=(0.0, 0.3, 3.0), epochs=10, batch=512, min_steps=300)
"""Twelve settings for principal axes, where few epochs do."""

Axes = Literal["given", "principal"]
"""In which AdamW, which scales every axis by itself, sees the features: as they are, or decorrelated."""


class Setting(Config):
    """One point of the grid, and how well it did on the validation part."""

    lr: float
    weight_decay: float
    score: float = Field(description="accuracy, unless something else was to decide")


class Tried(Setting):
    """A setting, and which reading of the pictures it was tried on."""

    choice: str


@dataclass(frozen=True)
class Probe(Affine):
    """A trained linear probe, and the record of how its setting was chosen."""

    chosen: Setting
    grid: tuple[Setting, ...]
    steps: int
    validation: int
    """Samples on which the setting was chosen."""


@dataclass(frozen=True)
class ChosenProbe:
    """The best reading of the pictures, its probe, and the record of all that was tried."""

    choice: str
    probe: Probe
    tried: tuple[Tried, ...]

    @property
    def edge(self) -> bool:
        """Whether the chosen setting lies on the border of the grid, so that a better one may lie beyond.

        Beyond a weight decay of zero lies nothing, and a value that was not varied was not searched.
        """
        rates = sorted({each.lr for each in self.tried})
        decays = sorted({each.weight_decay for each in self.tried})
        chosen = self.probe.chosen
        of_decay = chosen.weight_decay in (decays[0], decays[-1]) and chosen.weight_decay > 0
        return (len(rates) > 1 and chosen.lr in (rates[0], rates[-1])) or (len(decays) > 1 and of_decay)


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
    return fit_choices({"": train_x}, train_y, groups, classes, grid, seed, device=device).probe


def fit_choices(
    train: Mapping[str, Float[np.ndarray, "N _"]],
    train_y: Int64[np.ndarray, " N"],
    groups: NDArray[Any],
    classes: int,
    grid: Grid,
    seed: int,
    *,
    validation: Bool[np.ndarray, " N"] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    axes: Axes = "given",
    score: Score = accuracies,
) -> ChosenProbe:
    """``fit_grid`` over several readings of the same pictures: the best one is chosen like a setting.

    Every reading meets every setting on the same batches and the same validation part; the best is retrained
    on all. Ties go as in ``fit_grid``, then to the reading named first.

    Args:
        train: features by the name of the reading (e.g. class token, mean patch), of any widths.
        train_y: as in ``fit_grid``, and so are groups, classes, grid, seed and device.
        groups: not asked where ``validation`` is given.
        classes: how many there are.
        grid: settings and budget.
        seed: decides the held-out groups and the batches.
        validation: the samples to choose on, where a data set brings its own split.
        device: where to compute.
        precision: of the matrix products of the search; the final training is in the features' own.
        axes: in principal axes AdamW needs far fewer epochs where features are correlated. Weight decay
            means the same in both, for a rotation does not change a length; the probe is rotated back.
        score: what of the held-out part decides: that which the probe will be told by.

    Raises:
        UserError: as ``fit_grid``; there is no reading, or a validation split that is all or nothing.
    """
    if not train:
        raise UserError("There is no reading of the pictures to choose from: give at least one.")
    labels, held = parted(next(iter(train.values())), train_y, groups, classes, seed, validation)
    y = torch.from_numpy(np.searchsorted(labels, train_y)).to(device)
    tried: list[Tried] = []
    widest = max(x.shape[1] for x in train.values())
    with few_threads(grid.batch * len(grid.lrs) * len(grid.weight_decays) * len(labels) * widest):
        trainer = _Trainer(y, len(labels), grid, seed, axes, score)
        for name, each in train.items():
            x = as_tensor(each, torch.device(device))
            tried += trainer.search(name, x, torch.from_numpy(held).to(device), precision)
        best = max(tried, key=lambda one: (one.score, -one.lr, one.weight_decay))
        x = as_tensor(train[best.choice], torch.device(device))
        standard, heads, steps = trainer.train(x, y, [(best.lr, best.weight_decay)], "float32")
    record = tuple(_setting(one) for one in tried if one.choice == best.choice)
    probe = Probe(standard, heads, labels, _setting(best), record, steps, int(held.sum()))
    return ChosenProbe(best.choice, probe, tuple(tried))


def _setting(tried: Tried) -> Setting:
    return Setting(lr=tried.lr, weight_decay=tried.weight_decay, score=tried.score)


@dataclass(frozen=True)
class _Trainer:
    """What all readings share."""

    y: Int64[Tensor, " N"]
    classes: int
    grid: Grid
    seed: int
    axes: Axes
    score: Score

    def search(
        self, name: str, x: Float[Tensor, "N D"], held: Bool[Tensor, " N"], precision: Precision
    ) -> list[Tried]:
        """Every setting's score on the held-out part, after training on the rest."""
        settings = [(lr, decay) for lr in self.grid.lrs for decay in self.grid.weight_decays]
        standard, heads, _ = self.train(x[~held], self.y[~held], settings, precision)
        scores = self.score(heads, standard(x[held]), self.y[held])
        return [
            Tried(lr=lr, weight_decay=decay, score=score, choice=name)
            for (lr, decay), score in zip(settings, scores, strict=True)
        ]

    def train(
        self,
        x: Float[Tensor, "M D"],
        y: Int64[Tensor, " M"],
        settings: list[tuple[float, float]],
        precision: Precision,
    ) -> tuple[Standard, Heads, int]:
        """Heads on the features standardised by their own statistics, and the steps it took."""
        standard = Standard.of(x)
        z = standard(x)
        turn = principal_axes(z)[0] if self.axes == "principal" else None
        seen = z if turn is None else z @ turn
        heads, steps = train_heads(seen, y, self.classes, settings, self.grid, self.seed, precision=precision)
        return standard, heads if turn is None else replace(heads, weight=heads.weight @ turn.T), steps


def principal_axes(z: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "D D"], Float64[Tensor, " D"]]:
    """The eigenvectors of the covariance of centred features, as columns, and the variance along each."""
    variance, vectors = torch.linalg.eigh((z.T @ z).double() / len(z))
    # An eigenvector's sign is the library's whim.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    turned: Float64[Tensor, "D D"] = vectors * largest.sign()
    return turned.to(z.dtype), variance.clamp_min(0.0)


def parted(
    x: Float[np.ndarray, "N _"],
    y: Int64[np.ndarray, " N"],
    groups: NDArray[Any],
    classes: int,
    seed: int,
    validation: Bool[np.ndarray, " N"] | None = None,
) -> tuple[Int64[np.ndarray, " C"], Bool[np.ndarray, " N"]]:
    """The classes that occur, and the samples to choose on: those given, or else carved by whole groups."""
    if not len(x) == len(y) == len(groups):
        raise ValueError(f"{len(x)} features, {len(y)} labels, {len(groups)} groups: one per sample")
    labels = labels_of(y, classes)
    if validation is None:
        return labels, held_out(np.searchsorted(labels, y), groups, numpy_rng(seed, "probe", "validation"))
    if not 0 < validation.sum() < len(y):
        raise UserError(
            f"The validation split has {validation.sum()} of {len(y)} samples: give some to choose on and "
            "some to train on."
        )
    return labels, validation


def labels_of(y: Int64[np.ndarray, " N"], classes: int) -> Int64[np.ndarray, " C"]:
    """The classes that occur, in order."""
    labels = np.unique(y)
    if len(labels) < 2:
        raise UserError(f"A probe needs two classes, but its training set has {len(labels)}: choose another.")
    if labels[0] < 0 or labels[-1] >= classes:
        raise UserError(
            f"Labels from {labels[0]} to {labels[-1]} do not fit a task of {classes} classes: mend them."
        )
    return labels


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
