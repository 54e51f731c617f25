"""What memory a lesson will need on each device, predicted from its configs alone.

Weights are kept and moved in float32, as in every other stage; bf16 copies are made as autocast makes them.
Activations are counted tensor by tensor for a gated decoder block. The framework's own few hundred MB, and
what an allocator wastes, are not among it.
"""

from typing import NamedTuple

from paribus.study.downstream import Taught
from paribus.types import Runtime
from paribus.vlm.language import Shape

FULL, HALF = 4.0, 2.0
"""Bytes of a number."""


class Memory(NamedTuple):
    """Bytes on one device."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    whole: float
    """Of all weights before they are cut, and when they are put together at the end."""

    @property
    def total(self) -> float:
        """The most at any time."""
        return max(self.whole, self.weights + self.gradients + self.optimiser + self.activations)


def predict(lesson: Taught, runtime: Runtime, processes: int = 1) -> Memory:
    """Memory of a lesson on one of several devices that train together."""
    shape, sizes = lesson.mind().config.shape(), lesson.sizes()
    moved = set(lesson.lesson.trained)
    learnt = sum(size for name, size in sizes.items() if name in moved)
    if lesson.lesson.lora is not None:
        sides = 8 * shape.hidden + 3 * (shape.hidden + shape.inner)  # of the seven maps of a block
        learnt += float(lesson.lesson.lora.rank * shape.layers * sides)
    cut = processes if runtime.shard else 1
    half = lesson.precision == "bf16"
    copies = 0.0 if not half else HALF * (shape.block_parameters if cut > 1 else sizes["language"])
    gathered = 2 * FULL * shape.block_parameters if cut > 1 else 0.0  # this block's, and the next one's
    state = 2.0 if lesson.recipe.optimizer == "adamw8bit" else 8.0
    return Memory(
        weights=FULL * sum(sizes.values()) / cut + copies + gathered,
        gradients=FULL * learnt / cut,
        optimiser=state * learnt / cut,
        activations=_activations(lesson, shape, runtime, processes),
        whole=FULL * sum(sizes.values()),
    )


def _activations(lesson: Taught, shape: Shape, runtime: Runtime, processes: int) -> float:
    """Of the largest chunk, kept for the backward pass or made again block by block."""
    own = -(-lesson.budget.batch // processes)
    samples = min(own, runtime.chunk or own)
    configs = [stage.encoder for stage in lesson.looks()]
    tokens = samples * (lesson.eyes().words(configs) + lesson.lesson.words)
    half = lesson.precision == "bf16"
    block = tokens * _block_bytes(shape, half)
    stream = FULL * tokens * shape.hidden
    inside = shape.layers * stream + block if runtime.recompute else shape.layers * block
    words = (
        3 * FULL * samples * lesson.lesson.targets * shape.vocabulary
    )  # logits, their softmax, its gradient
    return inside + words


def _block_bytes(shape: Shape, half: bool) -> float:
    """A token's bytes that the backward pass of one block needs."""
    number = HALF if half else FULL
    keys = shape.hidden * shape.shared / shape.heads
    attention = 3 * shape.hidden + 4 * keys  # queries, keys and values, turned and not; what attention gives
    perceptron = 4 * shape.inner  # gate, up, the gate's nonlinearity, their product
    norms = 2 * (FULL + FULL + (HALF if half else 0.0)) * shape.hidden
    return norms + number * (attention + perceptron + 2 * shape.hidden)
