"""Multinomial logistic regression at its optimum: the linear probe with one thing to choose, how much L2.

The objective is scikit-learn's, ``strength * sum of cross-entropies + |W|^2 / 2``, biases free (Radford et
al. 2021 and Kornblith, Shlens and Le 2019 probe so), minimised by L-BFGS (Liu and Nocedal 1989). Variables
are scaled by the Kronecker approximation of the Hessian, (mean p(1 - p) of each class) x (variance of each
principal axis) + L2, in which the problem is close to round; this changes the way and not the optimum.
Strengths are fitted from the strongest regularisation to the weakest, each from where the last two point.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from paribus.errors import UserError
from paribus.probes.heads import Affine, Heads, Precision, Standard, accuracies, as_tensor, few_threads
from paribus.probes.linear import parted, principal_axes
from paribus.types import Config

STRENGTHS: tuple[float, ...] = tuple(float(c) for c in np.logspace(-6, 1, 12))
"""Inverse regularisation strengths that are tried if none are given."""

TOLERANCE, SEARCH_TOLERANCE = 1e-6, 1e-4
"""The ``Fit.gap`` that may be left: at the end, and while choosing."""

EVALUATIONS = 2000
"""After so many the fit ends where it is; the record tells what is left to gain."""

LOGITS = 2**22
"""Logits held at once."""


class Strength(Config):
    """A regularisation strength, and how well it did on the validation part."""

    strength: float
    accuracy: float
    evaluations: int


@dataclass(frozen=True)
class LogisticProbe(Affine):
    """A fitted regression, and the record of how its strength was chosen."""

    chosen: Strength
    tried: tuple[Strength, ...]
    validation: int
    """Samples on which the strength was chosen."""
    evaluations: int
    gap: float
    """What was left to gain where the last fit ended, as in ``Fit``."""

    @property
    def edge(self) -> bool:
        """Whether the chosen strength is the first or the last, so that a better one may lie beyond."""
        strengths = [each.strength for each in self.tried]
        return len(strengths) > 1 and self.chosen.strength in (min(strengths), max(strengths))


def fit_logistic(
    train_x: Float[np.ndarray, "N D"],
    train_y: Int64[np.ndarray, " N"],
    groups: NDArray[Any],
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    *,
    validation: Bool[np.ndarray, " N"] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    tolerance: float = TOLERANCE,
) -> LogisticProbe:
    """Fit every strength, choose on held-out groups, fit the chosen one on all to the optimum.

    Nothing is drawn but the held-out groups. Ties go to the stronger regularisation.

    Args:
        train_x: features; float64 is kept, everything else is computed in float32, summed in float64.
        train_y: classes, in ``[0, classes)``; those that do not occur are never predicted.
        groups: samples that are not independent share a group; not asked where ``validation`` is given.
        classes: how many classes the task has.
        strengths: weights of the summed loss (scikit-learn's C): the larger, the weaker the regularisation.
        seed: decides the held-out groups.
        validation: the samples to choose on, where a data set brings its own split.
        device: where to compute.
        precision: of the matrix products of the search; the final fit is in the features' own.
        tolerance: of the final fit.

    Raises:
        UserError: as ``fit_choices``; no strength, or one that is not positive.
    """
    if not strengths or not all(0 < each < np.inf for each in strengths):
        raise UserError(f"The regularisation strengths are {list(strengths)}: give positive numbers.")
    labels, held = parted(train_x, train_y, groups, classes, seed, validation)
    x, rest = as_tensor(train_x, torch.device(device)), torch.from_numpy(~held).to(device)
    y = torch.from_numpy(np.searchsorted(labels, train_y)).to(device)
    with few_threads(min(len(x), LOGITS // len(labels)) * len(labels) * x.shape[1]):
        tried, start = _search(x, y, rest, len(labels), sorted(strengths), precision)
        chosen = max(tried, key=lambda one: (one.accuracy, -one.strength))
        standard = Standard.of(x)
        last = Regression(standard(x), y, len(labels)).minimise(chosen.strength, start, tolerance)
    return LogisticProbe(
        standard, last.heads, labels, chosen, tried, int(held.sum()), last.evaluations, last.gap
    )


def _search(
    x: Float[Tensor, "N D"],
    y: Int64[Tensor, " N"],
    rest: Bool[Tensor, " N"],
    classes: int,
    strengths: list[float],
    precision: Precision,
) -> tuple[tuple[Strength, ...], Heads]:
    """Every strength's accuracy on the held-out part, and the heads of the best."""
    standard = Standard.of(x[rest])
    problem, seen = Regression(standard(x[rest]), y[rest], classes, precision), standard(x[~rest])
    tried: list[Strength] = []
    before = at = best = problem.zero()
    for strength in strengths:
        # Where the last two solutions point to saves an eighth to a fifth of the passes.
        ahead = Heads(2 * at.weight - before.weight, 2 * at.bias - before.bias) if len(tried) > 1 else at
        found = problem.minimise(strength, ahead, SEARCH_TOLERANCE)
        before, at = at, found.heads
        (accuracy,) = accuracies(at, seen, y[~rest])
        if all(accuracy > one.accuracy for one in tried):
            best = at
        tried.append(Strength(strength=strength, accuracy=accuracy, evaluations=found.evaluations))
    return tuple(tried), best


@dataclass(frozen=True)
class Fit:
    """Where a minimisation ended."""

    heads: Heads
    loss: float
    """The objective over (strength times samples): the mean loss and its share of the penalty."""
    gap: float
    """What is left to gain, half the gradient's squared length in scaled variables, where the Hessian is
    close to the identity: as a share of the loss, or of what was gained over knowing class frequencies
    alone, if that is less. Unlike the gradient's largest entry it means the same in problems of any size."""
    evaluations: int


class _Enough(Exception):  # noqa: N818 - no error
    """The way out of the minimiser, which has no such criterion."""


@dataclass(frozen=True)
class Slope:
    """The mean cross-entropy at a point, its gradient, and each class's mean p(1 - p)."""

    loss: float
    weight: Float64[Tensor, "C D"]
    bias: Float64[Tensor, " C"]
    spread: Float64[Tensor, " C"]


class Regression:
    """One data set's regressions, of whatever strengths."""

    def __init__(
        self,
        x: Float[Tensor, "N D"],
        y: Int64[Tensor, " N"],
        classes: int,
        precision: Precision = "float32",
    ) -> None:
        """Turn standardised features into their principal axes."""
        self.turn, self.variance = principal_axes(x)
        turned = x @ self.turn
        self.x = turned.bfloat16() if precision == "bfloat16" else turned
        self.y, self.classes, self.dtype = y, classes, x.dtype
        shares = torch.bincount(y, minlength=classes).double() / len(y)
        self.chance = float(torch.special.entr(shares).sum())

    def zero(self) -> Heads:
        """One head of zeros."""
        width = len(self.variance)
        zeros = self.variance.new_zeros(1, self.classes, width, dtype=self.dtype)
        return Heads(zeros, zeros[:, :, 0].clone())

    def minimise(self, strength: float, start: Heads, tolerance: float) -> Fit:
        """The optimum for a strength, looked for from ``start``; heads are of the features as given.

        Args:
            strength: scikit-learn's C.
            start: one head.
            tolerance: the ``Fit.gap`` at which it is enough.
        """
        weight, bias = (start.weight[0] @ self.turn).double(), start.bias[0].double()
        objective = _Objective(self, 1.0 / (strength * len(self.x)), weight, bias, tolerance)
        begin = (torch.cat([weight, bias[:, None]], dim=1) / objective.scale).flatten().cpu().numpy()
        # Where products are rounded to bfloat16, gradients and losses do not quite agree, and a line search
        # that is not content soon never will be.
        tries, most = 20 if self.x.dtype == self.dtype else 4, EVALUATIONS
        with contextlib.suppress(_Enough):
            flat, *_ = fmin_l_bfgs_b(
                objective, begin, factr=0.0, pgtol=0.0, maxfun=most, maxiter=most, maxls=tries
            )
            objective(flat)  # it gave up, and not where it looked last
        end = objective.at
        turned = (end[:, :-1] @ self.turn.T.double()).to(self.dtype)
        heads = Heads(turned[None], end[None, :, -1].to(self.dtype))
        return Fit(heads, objective.loss, objective.gap, objective.evaluations)

    def slope(self, weight: Float64[Tensor, "C D"], bias: Float64[Tensor, " C"]) -> Slope:
        """Evaluate in parts whose logits stay in the processor's cache; sums over parts are in float64."""
        w, b = weight.to(self.x.dtype), bias.to(self.dtype)
        total = Slope(0.0, torch.zeros_like(weight), torch.zeros_like(bias), torch.zeros_like(bias))
        loss, rows = 0.0, max(1, LOGITS // self.classes)
        for x, y in zip(torch.split(self.x, rows), torch.split(self.y, rows), strict=True):
            logits = (x @ w.T).to(self.dtype).add_(b)
            p = logits.softmax(1)
            loss += float(_surprise(logits, p, y).sum(dtype=torch.float64))
            total.spread.add_(p.sum(0) - p.square().sum(0))
            p[torch.arange(len(p), device=p.device), y] -= 1.0
            total.bias.add_(p.sum(0))
            total.weight.add_(p.to(x.dtype).T @ x)
        n = len(self.x)
        return Slope(loss / n, total.weight / n, total.bias / n, total.spread / n)


class _Objective:
    """The mean loss and its share of the penalty, as the minimiser sees it: flat, and scaled to be round."""

    def __init__(
        self,
        problem: Regression,
        penalty: float,
        weight: Float64[Tensor, "C D"],
        bias: Float64[Tensor, " C"],
        tolerance: float,
    ) -> None:
        """Scale by the curvature at the start."""
        self.problem, self.penalty, self.tolerance, self.evaluations = problem, penalty, tolerance, 1
        self.first: Slope | None = problem.slope(weight, bias)
        # A class that is surely right everywhere would have no curvature to scale by.
        spread = self.first.spread.clamp_min(1e-3 * float(self.first.spread.max()) + 1e-12)[:, None]
        self.scale: Float64[Tensor, "C E"] = torch.cat(
            [(spread * problem.variance + penalty).rsqrt(), spread.rsqrt()], dim=1
        )
        self.at, self.loss, self.gap = torch.zeros_like(self.scale), math.inf, math.inf

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The value and its gradient; the first point asked for is the start, which is known."""
        self.at = torch.from_numpy(flat).to(self.scale.device).view_as(self.scale) * self.scale
        weight = self.at[:, :-1]
        slope, self.first = self.first, None
        if slope is None:
            slope = self.problem.slope(weight, self.at[:, -1])
            self.evaluations += 1
        gradient = torch.cat([slope.weight + self.penalty * weight, slope.bias[:, None]], dim=1) * self.scale
        self.loss = slope.loss + 0.5 * self.penalty * float(weight.square().sum())
        gained = max(min(self.loss, self.problem.chance - self.loss), 1e-3 * self.loss)
        self.gap = 0.5 * float(gradient.square().sum()) / gained
        if self.gap <= self.tolerance:
            raise _Enough
        return self.loss, gradient.flatten().cpu().numpy()


def _surprise(
    logits: Float[Tensor, "N C"], p: Float[Tensor, "N C"], y: Int64[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Each row's cross-entropy; from its probability, where that has not sunk to nothing."""
    found = -p.gather(1, y[:, None])[:, 0].log()
    (lost,) = torch.nonzero(found > 50, as_tuple=True)
    if len(lost):
        found[lost] = logits[lost].logsumexp(1) - logits[lost, y[lost]]
    return found
