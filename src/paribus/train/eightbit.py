"""AdamW with moments of eight bits (Dettmers et al. 2022), by the kernels of bitsandbytes.

A moment is kept in blocks of 256 values, each with its own scale. In bitsandbytes' own optimiser blocks run
on from row to row, so that what is rounded depends on how rows are dealt to processes. Here a block never
leaves its row: a matrix whose rows are no whole blocks keeps moments of 32 bits, as do small ones and
vectors. So the moments are the same for any number of processes, and have a row for each of theirs.
"""

import math
from collections.abc import Iterable
from typing import Any

import bitsandbytes.functional as kernels
import torch
from torch import Tensor

from paribus.train import distributed

BLOCK = 256
"""Values that share a scale; the kernels know no other number."""

LEAST = 4096
"""Values of the smallest matrix that is rounded, as in bitsandbytes."""


def blocks_of(parameter: Tensor) -> int:
    """How many blocks each row of the moments has; 0 if they keep 32 bits."""
    width = math.prod(parameter.shape[1:])
    rounded = parameter.ndim >= 2 and parameter.numel() >= LEAST and width % BLOCK == 0
    return width // BLOCK if rounded else 0


class AdamW8bit(torch.optim.Optimizer):
    """Decay apart from the gradient, as in ``torch.optim.AdamW``.

    Args:
        groups: parameter groups; ``weight_decay`` is each group's own.
        lr: learning rate.
        betas: decays of the moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._codes: list[Tensor] = [
            kernels.create_dynamic_map(signed=signed)  # type: ignore[no-untyped-call]
            for signed in (True, False)
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(_fresh(parameter))
        state["step"] += 1
        mine, slope = distributed.own(parameter), distributed.own(gradient).contiguous()
        if not mine.numel():  # more processes than rows
            return
        first, second = (distributed.own(state[key]) for key in ("exp_avg", "exp_avg_sq"))
        (beta1, beta2), eps, rate = group["betas"], group["eps"], group["lr"]
        decay, step = group["weight_decay"], state["step"]
        if "scale" not in state:
            moments = {"state2": second, "beta2": beta2, "weight_decay": decay}
            kernels.optimizer_update_32bit("adam", slope, mine, first, beta1, eps, step, rate, **moments)
            return
        self._codes = [code.to(mine.device) for code in self._codes]
        signed, unsigned = self._codes
        scale, scale_sq = (distributed.own(state[key]).view(-1) for key in ("scale", "scale_sq"))
        kernels.optimizer_update_8bit_blockwise(
            "adam", slope, mine, first, second, beta1, beta2, 0.0, 0.0, eps, step, rate,
            signed, unsigned, scale, scale_sq, decay,
        )  # fmt: skip


def _fresh(parameter: Tensor) -> dict[str, Any]:
    """Moments of zero."""
    blocks = blocks_of(parameter)
    dtype = torch.uint8 if blocks else torch.float32
    state: dict[str, Any] = {"step": 0}
    state |= {key: torch.zeros_like(parameter, dtype=dtype) for key in ("exp_avg", "exp_avg_sq")}
    if blocks:
        state |= {key: distributed.row_zeros(parameter, blocks) for key in ("scale", "scale_sq")}
    return state
