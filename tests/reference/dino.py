"""DINO as facebookresearch/dino trains it: main_dino.py, utils.py and vision_transformer.DINOHead, in loops.

Written anew from their semantics in plain PyTorch: one view at a time, one parameter at a time.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations


class DinoLoss:
    """``DINOLoss``: views lie one after the other along the batch; the centre moves inside the call."""

    def __init__(self, out, views, centre_momentum=0.9, student_temperature=0.1):
        self.views, self.momentum, self.student_temperature = views, centre_momentum, student_temperature
        self.centre = torch.zeros(1, out, dtype=torch.float64)

    def __call__(self, student, teacher, temperature):
        """``student`` is ``[V * B, K]``, ``teacher`` ``[2 * B, K]``, both view by view."""
        predicted = (student / self.student_temperature).chunk(self.views)
        shifted = (teacher - self.centre.to(teacher)) / temperature
        targets = shifted.softmax(dim=-1).detach().chunk(2)
        losses = []
        for place, target in enumerate(targets):
            for view, logits in enumerate(predicted):
                if view != place:
                    losses.append(-(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean())
        mean = teacher.detach().double().sum(dim=0, keepdim=True) / len(teacher)
        self.centre = self.centre * self.momentum + mean * (1 - self.momentum)
        return sum(losses) / len(losses)


class DinoHead(nn.Module):
    """``DINOHead``: three linear layers, unit length, a weight-normed last layer with its gain at one."""

    def __init__(self, width, hidden, bottleneck, out):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = parametrizations.weight_norm(nn.Linear(bottleneck, out, bias=False))
        gain = self.last_layer.parametrizations.weight.original0
        gain.data.fill_(1.0)
        gain.requires_grad = False

    def forward(self, x):
        x = self.mlp(x)
        return self.last_layer(x / x.norm(dim=-1, keepdim=True))


def cosine_schedule(base, final, steps):
    """``utils.cosine_scheduler`` without warm-up."""
    steps_ = np.arange(steps)
    return final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps_ / steps))


def temperature_schedule(start, end, warmup, steps):
    """``teacher_temp_schedule``, with the step of the run as its unit and not the epoch."""
    return np.interp(np.arange(steps), [0, warmup], [start, end])


def clip_gradients(parameters, clip):
    """``utils.clip_gradients``: every tensor by its own norm."""
    for parameter in parameters:
        if parameter.grad is not None:
            norm = math.sqrt(float((parameter.grad.double() ** 2).sum()))
            if clip / (norm + 1e-6) < 1:
                parameter.grad.mul_(clip / (norm + 1e-6))


def cancel_last_layer(named_parameters):
    """``utils.cancel_gradients_last_layer``."""
    for name, parameter in named_parameters:
        if "last_layer" in name:
            parameter.grad = None


@torch.no_grad()
def move_teacher(teacher, student, momentum):
    """The EMA of ``train_one_epoch``."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.mul_(momentum).add_((1 - momentum) * fast)


def drop_rates(largest, depth):
    """``dpr`` of the vision transformer."""
    return [float(rate) for rate in torch.linspace(0, largest, depth)]
