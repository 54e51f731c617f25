"""What a step costs, counted and not guessed."""

import resource
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paribus.objectives.base import Objective
from paribus.types import Batch, Clock

PARTS = 1_000_000
"""In how many parts a budget is cut to say when a phase begins."""


def training_flops(objective: Objective, batch: Batch) -> float:
    """FLOPs of forward and backward for one sample, counted by torch on the given (small) batch.

    Where the work changes in the course of training, the mean over the budget. Attention runs as plain matrix
    products while it is counted, because torch counts those on every device. Gradients are dropped
    afterwards and the state is put back.
    """
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    starts = objective.phases()
    total = 0.0
    for start, end in zip(starts, (*starts[1:], 1.0), strict=True):
        clock = Clock(0, round(start * PARTS), PARTS)
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            objective.begin_step(clock)
            objective.loss(objective.encode(batch), clock).total.backward()  # type: ignore[no-untyped-call]
        objective.zero_grad(set_to_none=True)
        total += (end - start) * float(counter.get_total_flops()) / len(batch)
    objective.load_state_dict(before)
    return total


def peak_memory_mb() -> float:
    """The process's largest resident set so far, or the device's allocation where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor
