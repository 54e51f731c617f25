"""The published linear probe, its defects included: to say how far a published number is from a fair one.

Repeats the final recipe of leo1oel/ViT-linear-probing (src/trainer.py at 02d453d, src/utils/data_utils.py at
10d0b5e); ``DEFECTS`` says what is wrong with it. For everything else use ``linear``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from paribus.errors import UserError
from paribus.probes.heads import as_tensor
from paribus.probes.linear import Setting, labels_of
from paribus.rng import numpy_rng, torch_seed
from paribus.types import Config, cosine

DEFECTS: tuple[str, ...] = (
    "The learning rate and the weight decay are chosen on the test set.",
    "The epoch that is reported is the best one on the test set.",
    "The schedule counts batches within the epoch: after one step at the full rate the learning rate climbs "
    "the first part of its warm-up again in every epoch, never above a tenth of the full rate, and never "
    "decays.",
    "Settings are compared after a few epochs at a constant rate, and the chosen one is then trained on "
    "another schedule.",
)


class Recipe(Config):
    """The published numbers."""

    lrs: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3)
    weight_decays: tuple[float, ...] = (0.0, 1e-6, 1e-3)
    quick_epochs: int = 5
    epochs: int = 50
    warmup_epochs: int = 10
    batch: int = 1024


@dataclass(frozen=True)
class Published:
    """What the recipe reports, and what it passed over."""

    correct: Bool[np.ndarray, " M"]
    """Each test sample's outcome at the reported epoch."""
    answers: Int64[np.ndarray, " M"]
    """The class that each is told to be."""
    epoch: int
    """The epoch that is reported, from 1."""
    by_epoch: tuple[float, ...]
    """Accuracy on the test set after every epoch."""
    chosen: Setting
    tried: tuple[Setting, ...]
    """With accuracies on the test set."""
    rates: tuple[float, ...]
    """The learning rate of every step of the final training."""

    @property
    def accuracy(self) -> float:
        """The number that is reported."""
        return float(self.correct.mean())


def fit_as_published(
    train_x: Float[np.ndarray, "N D"],
    train_y: Int64[np.ndarray, " N"],
    test_x: Float[np.ndarray, "M D"],
    test_y: Int64[np.ndarray, " M"],
    classes: int,
    seed: int,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
) -> Published:
    """Run the published recipe; print ``DEFECTS`` beside what it reports.

    Args:
        train_x: features.
        train_y: classes, in ``[0, classes)``.
        test_x: features that the recipe selects on and reports.
        test_y: their classes.
        classes: how many outputs the head has.
        seed: decides initial weights and batches, which the published code leaves to chance.
        recipe: the published numbers if none are given.
        device: where to compute.

    Raises:
        UserError: fewer than two classes, a label out of range, no test sample, or a feature is not finite.
    """
    recipe = recipe or Recipe()
    labels_of(train_y, classes)
    if not len(test_y):
        raise UserError("The published recipe selects on the test set, which has no sample: give some.")
    x, test = _standardised(as_tensor(train_x, torch.device(device)), as_tensor(test_x, torch.device(device)))
    data = _Data(x, torch.from_numpy(train_y).to(device), test, test_y, classes, recipe.batch, seed)
    tried = tuple(
        Setting(lr=lr, weight_decay=decay, score=_quick(data, lr, decay, recipe))
        for lr in recipe.lrs
        for decay in recipe.weight_decays
    )
    chosen = max(tried, key=lambda setting: setting.score)  # the first of the best, as published
    return _final(data, chosen, tried, recipe)


@dataclass(frozen=True)
class _Data:
    x: Float[Tensor, "N D"]
    y: Int64[Tensor, " N"]
    test_x: Float[Tensor, "M D"]
    test_y: Int64[np.ndarray, " M"]
    classes: int
    batch: int
    seed: int

    @property
    def steps(self) -> int:
        """Batches an epoch; the last one may be small."""
        return math.ceil(len(self.x) / self.batch)

    def batches(self, *stream: str | int) -> Iterator[tuple[Float[Tensor, "B D"], Int64[Tensor, " B"]]]:
        """One epoch, shuffled."""
        order = torch.from_numpy(numpy_rng(self.seed, "as published", *stream).permutation(len(self.x)))
        for rows in torch.split(order.to(self.x.device), self.batch):
            yield self.x[rows], self.y[rows]

    def answers(self, head: torch.nn.Linear) -> Int64[np.ndarray, " M"]:
        """What a head says of the test samples."""
        with torch.no_grad():
            return np.asarray(head(self.test_x).argmax(1).cpu().numpy())

    def right(self, head: torch.nn.Linear) -> Bool[np.ndarray, " M"]:
        """Which test samples a head gets right."""
        right: Bool[np.ndarray, " M"] = self.answers(head) == self.test_y
        return right

    def head(self, *stream: str | int) -> torch.nn.Linear:
        """A new classifier."""
        with torch_seed(self.seed, "as published", *stream):
            head = torch.nn.Linear(self.x.shape[1], self.classes, dtype=self.x.dtype)
            torch.nn.init.kaiming_normal_(head.weight, mode="fan_out")
        torch.nn.init.zeros_(head.bias)
        return head.to(self.x.device)


def _standardised(
    train: Float[Tensor, "N D"], test: Float[Tensor, "M D"]
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
    mean, std = train.mean(0), train.std(0, correction=0) + 1e-5
    return (train - mean) / std, (test - mean) / std


def _step(head: torch.nn.Linear, optimizer: torch.optim.AdamW, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(head(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _quick(data: _Data, lr: float, decay: float, recipe: Recipe) -> float:
    """Accuracy on the test set after a few epochs at a constant rate."""
    head = data.head("quick", str(lr), str(decay))
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=decay)
    for epoch in range(recipe.quick_epochs):
        for x, y in data.batches("quick", str(lr), str(decay), epoch):
            _step(head, optimizer, x, y)
    return float(data.right(head).mean())


def scheduled(step: int, peak: float, warmup: int, steps: int) -> float:
    """The published warm-up and cosine at a step; what goes wrong is which step is asked for."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(peak, 0.0, (step - warmup) / (steps - warmup))


def _final(data: _Data, chosen: Setting, tried: tuple[Setting, ...], recipe: Recipe) -> Published:
    """The long training, its schedule set after each step by the number of the batch within the epoch."""
    head = data.head("final")
    optimizer = torch.optim.AdamW(head.parameters(), lr=chosen.lr, weight_decay=chosen.weight_decay)
    warmup, steps = recipe.warmup_epochs * data.steps, recipe.epochs * data.steps
    answers: list[Int64[np.ndarray, " M"]] = []
    rates: list[float] = []
    for epoch in range(recipe.epochs):
        for index, (x, y) in enumerate(data.batches("final", epoch)):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            _step(head, optimizer, x, y)
            optimizer.param_groups[0]["lr"] = scheduled(index, chosen.lr, warmup, steps)
        answers.append(data.answers(head))
    by_epoch = tuple(float((said == data.test_y).mean()) for said in answers)
    best = int(np.argmax(by_epoch))
    right = answers[best] == data.test_y
    return Published(right, answers[best], best + 1, by_epoch, chosen, tried, tuple(rates))
