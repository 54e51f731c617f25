"""Stacked linear classifiers: many settings trained at once, on the same batches.

Small heads share one matrix product, and AdamW (Loshchilov and Hutter 2019) is written out for the stack,
with one learning rate and weight decay per head. Large heads are trained one after the other within each
step, so that a head's logits stay in the processor's cache, by torch's fused AdamW.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor

from paribus.errors import UserError
from paribus.rng import numpy_rng
from paribus.types import Config, cosine

BETAS, EPS = (0.9, 0.999), 1e-8

TOGETHER = 2**22
"""Logits a step up to which all heads share one matrix product."""

SMALL = 500_000_000
"""Multiplications a step below which one processor thread does it all."""

ROWS = 8192
"""Rows that are answered at once."""

Precision = Literal["float32", "bfloat16"]
"""Of the matrix products; weights, sums and the optimiser's state keep the features' own."""


class Grid(Config):
    """The settings tried and the budget of each; every learning rate meets every weight decay."""

    lrs: tuple[float, ...] = Field((1e-3, 5e-3, 3e-2), min_length=1)
    weight_decays: tuple[float, ...] = Field((0.1, 1.0, 3.0), min_length=1)
    epochs: int = Field(30, gt=0)
    batch: int = Field(512, gt=0)
    min_steps: int = Field(800, gt=0, description="small training sets get more epochs, to reach this")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps in which the rate rises")


@dataclass(frozen=True)
class Heads:
    """G linear classifiers over standardised features."""

    weight: Float[Tensor, "G C D"]
    bias: Float[Tensor, "G C"]

    def logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N G C"]:
        """One matrix product for all heads."""
        g, c, d = self.weight.shape
        return torch.addmm(self.bias.view(1, -1), x, self.weight.view(-1, d).T).view(len(x), g, c)

    def each(self) -> list["Heads"]:
        """The heads one by one, sharing memory with these."""
        return [Heads(self.weight[g : g + 1], self.bias[g : g + 1]) for g in range(self.weight.shape[0])]

    def to(self, dtype: torch.dtype) -> "Heads":
        """Converted; the same where nothing is to convert."""
        return Heads(self.weight.to(dtype), self.bias.to(dtype))


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
class Affine:
    """Linear outputs on standardised features: what every fitted classifier here comes to."""

    standard: Standard
    heads: Heads
    labels: Int64[np.ndarray, " C"]
    """The class of each output: only those that occur in the training set."""

    def predict(self, x: Float[np.ndarray, "N D"]) -> Int64[np.ndarray, " N"]:
        """The most likely class of each row.

        Raises:
            UserError: a feature is not finite.
        """
        parts = torch.split(as_tensor(x, self.heads.weight.device), ROWS)
        outputs = torch.cat([self._logits(part).argmax(1) for part in parts]).cpu().numpy()
        return np.take(self.labels, outputs)

    def probabilities(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N C"]:
        """Each row's softmax over the classes ``labels``, in that order.

        Raises:
            UserError: a feature is not finite.
        """
        parts = torch.split(as_tensor(x, self.heads.weight.device), ROWS)
        return torch.cat([self._logits(part).softmax(1) for part in parts]).cpu().numpy()

    def _logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        return self.heads.logits(self.standard(x.to(self.heads.weight.dtype)))[:, 0]


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
    *,
    precision: Precision = "float32",
) -> tuple[Heads, int]:
    """Train one head per (learning rate, weight decay), all from zero and on the same batches.

    The loss is convex, so zero is as good a start as any and needs no draw. Biases do not decay.

    Returns:
        The heads and the number of steps each was trained for.
    """
    heads = Heads(x.new_zeros(len(settings), classes, x.shape[1]), x.new_zeros(len(settings), classes))
    together = min(grid.batch, len(x)) * heads.bias.numel() <= TOGETHER and precision == "float32"
    descend: Descend = Together(heads, settings) if together else Apart(heads, settings)
    seen = x.bfloat16() if precision == "bfloat16" else x
    epochs = epochs_of(len(x), grid)
    steps = epochs * math.ceil(len(x) / grid.batch)
    for step, rows in enumerate(batches(len(x), epochs, grid.batch, seed)):
        picked = torch.from_numpy(rows).to(x.device)
        descend.step(seen[picked], y[picked], rate(step, steps, grid.warmup))
    return heads, steps


def head_gradients(
    heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]
) -> tuple[Float[Tensor, "G C D"], Float[Tensor, "G C"]]:
    """Gradient of each head's mean cross-entropy: (softmax - one-hot)' x / N."""
    error = heads.logits(x).softmax(-1)
    error[torch.arange(len(x), device=x.device), :, y] -= 1.0
    error /= len(x)
    return (error.flatten(1).T @ x).view_as(heads.weight), error.sum(0)


class Descend(Protocol):
    """How all heads descend."""

    def step(self, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"], share: float) -> None:
        """Move the heads, in place, at a share of their peak learning rates."""


class Together:
    """All heads in one product: for heads so small that calls cost more than numbers."""

    def __init__(self, heads: Heads, settings: list[tuple[float, float]]) -> None:
        self.heads = heads
        self.lr, decay = heads.weight.new_tensor(settings).T
        self.optimizers = (
            StackedAdamW(heads.weight, decay),
            StackedAdamW(heads.bias, torch.zeros_like(decay)),
        )

    def step(self, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"], share: float) -> None:
        """As ``Descend``."""
        now = self.lr * share
        for optimizer, gradient in zip(self.optimizers, head_gradients(self.heads, x, y), strict=True):
            optimizer.step(gradient, now)


class Apart:
    """One head after the other, and torch's fused AdamW, which passes over memory once.

    Measured at 12 heads of 1,000 x 768 on two cores: an update takes 6 ms and ``StackedAdamW``'s 70 ms.
    """

    def __init__(self, heads: Heads, settings: list[tuple[float, float]]) -> None:
        self.heads, self.lrs = heads.each(), [lr for lr, decay in settings for _ in range(2)]
        groups = [
            {"params": [part], "weight_decay": decay if part is head.weight else 0.0}
            for head, (_, decay) in zip(self.heads, settings, strict=True)
            for part in (head.weight, head.bias)
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=True)

    def step(self, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"], share: float) -> None:
        """As ``Descend``."""
        for head in self.heads:
            gradients = head_gradients(head.to(x.dtype), x, y)
            head.weight.grad, head.bias.grad = (each.to(head.weight.dtype) for each in gradients)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * share
        self.optimizer.step()


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


Score = Callable[[Heads, Float[Tensor, "N D"], Int64[Tensor, " N"]], list[float]]
"""What a setting is chosen by: one number a head, of held-out rows and their classes; more is better."""


def accuracies(heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]) -> list[float]:
    """Share of rows that each head gets right."""
    hits = [(said == true[:, None]).sum(0) for said, true in _answers(heads, x, y)]
    right: Float64[Tensor, " G"] = torch.stack(hits).sum(0).double() / len(x)
    return [float(share) for share in right]


def mean_ious(heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]) -> list[float]:
    """Each head's intersection over union, averaged over the classes that occur in ``y``."""
    count, classes = heads.bias.shape
    place = torch.arange(count, device=y.device) * classes**2
    cells = torch.zeros(count * classes**2, dtype=torch.int64, device=y.device)
    for said, true in _answers(heads, x, y):
        cells += torch.bincount(
            (place + true[:, None] * classes + said).flatten(), minlength=count * classes**2
        )
    table = cells.view(count, classes, classes).double()
    both = table.diagonal(dim1=1, dim2=2)
    either = table.sum(1) + table.sum(2) - both
    occurs = torch.bincount(y, minlength=classes) > 0
    found: list[float] = (both / either)[:, occurs].mean(1).tolist()
    return found


def _answers(
    heads: Heads, x: Float[Tensor, "N D"], y: Int64[Tensor, " N"]
) -> Iterator[tuple[Int64[Tensor, "n G"], Int64[Tensor, " n"]]]:
    """What each head says of some rows, and their classes, part by part."""
    rows = max(1, min(2048, TOGETHER * 4 // heads.bias.numel()))
    for part, true in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        yield heads.logits(part).argmax(2), true


@contextlib.contextmanager
def few_threads(work: int) -> Iterator[None]:
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


def as_tensor(x: Float[np.ndarray, "N D"], device: torch.device) -> Float[Tensor, "N D"]:
    """Features as a tensor, float64 or else float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise UserError("A feature is not finite: the encoder diverged, so train it again at a lower rate.")
    return tensor
