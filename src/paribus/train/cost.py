"""What a step costs, counted and not guessed."""

import resource
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paribus.objectives.base import Objective
from paribus.train.split import backward
from paribus.types import Batch, Clock


def training_flops(objective: Objective, batch: Batch) -> float:
    """FLOPs of forward and backward for one sample, counted by torch on the given (small) batch.

    Attention runs as plain matrix products while it is counted, because torch counts those on every device.
    Gradients are dropped afterwards; the objective is unchanged.
    """
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        backward(objective, batch, Clock(0, 0, 1), None, "fp32")
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(batch)


def peak_memory_mb() -> float:
    """The process's largest resident set so far, or the device's allocation where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor
