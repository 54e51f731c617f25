"""Gradients of a batch that does not fit, exactly: the double cut at work.

If the loss is additive, chunks add up. Otherwise (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup"): encode all chunks without gradient, take the loss on the joined encodings,
then encode each chunk again with gradient and push the cached encoding gradient through it. Random state is
put back before the second pass, so both passes are the same function.
"""

import torch
from torch import Tensor

from paribus.objectives.base import Objective
from paribus.types import Batch, Clock, Encoded, Losses, device_of


def backward(objective: Objective, batch: Batch, clock: Clock, chunk: int | None, precision: str) -> Losses:
    """Add the batch's gradients to ``.grad`` and return its losses; ``chunk`` cannot change either."""
    if chunk is None or chunk >= len(batch):
        losses = _losses(objective, batch, clock, precision)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return losses._replace(total=losses.total.detach())
    chunks = [batch[start : start + chunk] for start in range(0, len(batch), chunk)]
    if objective.additive:
        return _added(objective, batch, chunks, clock, precision)
    return _replayed(objective, chunks, clock, precision)


def _encode(objective: Objective, batch: Batch, precision: str) -> Encoded:
    if precision == "fp32":  # apart, because meta tensors, on which costs are counted, know no autocast
        return objective.encode(batch)
    with torch.autocast(device_of(objective).type, torch.bfloat16):
        return objective.encode(batch)


def _losses(objective: Objective, batch: Batch, clock: Clock, precision: str) -> Losses:
    return objective.loss(_encode(objective, batch, precision), clock)


def _added(objective: Objective, batch: Batch, chunks: list[Batch], clock: Clock, precision: str) -> Losses:
    whole = objective.terms(batch)
    parts: dict[str, Tensor] = {}
    total: Tensor | None = None
    for chunk in chunks:
        share = objective.terms(chunk) / whole
        if share == 0.0:
            continue
        losses = _losses(objective, chunk, clock, precision)
        (losses.total * share).backward()  # type: ignore[no-untyped-call]
        part = losses.total.detach() * share
        total = part if total is None else total + part
        for name, value in losses.parts.items():
            parts[name] = parts.get(name, torch.zeros_like(value)) + value * share
    if total is None:
        raise ValueError("the batch has no term to learn from")
    return Losses(total, parts)


def _replayed(objective: Objective, chunks: list[Batch], clock: Clock, precision: str) -> Losses:
    states, encodings = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(torch.get_rng_state())
            encodings.append(_encode(objective, chunk, precision))
    joined = {name: torch.cat([e[name] for e in encodings]) for name in encodings[0]}
    leaves = {name: value.requires_grad_(value.is_floating_point()) for name, value in joined.items()}
    losses = objective.loss(leaves, clock)
    losses.total.backward()  # type: ignore[no-untyped-call]
    after = torch.get_rng_state()
    start = 0
    for chunk, state in zip(chunks, states, strict=True):
        torch.set_rng_state(state)
        again = _encode(objective, chunk, precision)
        rows = slice(start, start + len(chunk))
        start += len(chunk)
        live = [(value, leaves[name].grad) for name, value in again.items() if value.requires_grad]
        pushed = [(value, grad[rows]) for value, grad in live if grad is not None]
        torch.autograd.backward([value for value, _ in pushed], [grad for _, grad in pushed])
    torch.set_rng_state(after)
    return losses._replace(total=losses.total.detach())
