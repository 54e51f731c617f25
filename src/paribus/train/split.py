"""Gradients of a batch that does not fit, exactly: the double cut at work.

If the loss is additive, chunks add up; where samples differ in length, chunks are made equal in tokens,
because memory follows those. Otherwise (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup"): encode all chunks without gradient, take the loss on the joined encodings, then encode
each chunk again with gradient and push the cached encoding gradient through it. Random state is put back
before the second pass, so both passes are the same function. Several processes are one more cut of the same
kind: see ``distributed``.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paribus.objectives.base import Objective
from paribus.train import distributed
from paribus.types import Batch, Clock, Encoded, Losses, device_of


def backward(objective: Objective, batch: Batch, clock: Clock, chunk: int | None, precision: str) -> Losses:
    """Add the batch's gradients to ``.grad`` and return its losses; ``chunk`` changes them by rounding only.

    Where several processes train as one, ``batch`` is this one's rows and gradients must be empty before;
    loss and gradients are those of all rows together, in every process.
    """
    chunks = _chunks(objective, batch, chunk)
    if distributed.share().size == 1 and len(chunks) == 1:
        losses = _losses(objective, batch, clock, precision)
        _descend(losses.total)
        return losses._replace(total=losses.total.detach())
    split = _added if objective.additive else _replayed
    losses = split(objective, chunks, clock, precision)
    if not distributed.holds_cut(objective):  # whose gradients were summed on the way
        distributed.add_gradients(objective)
    return losses


def _chunks(objective: Objective, batch: Batch, chunk: int | None) -> list[Batch]:
    size = chunk or len(batch)
    lengths = objective.lengths(batch) if objective.additive and size < len(batch) else None
    if lengths is None:
        return [batch[start : start + size] for start in range(0, len(batch), size)]
    return [rows_of(batch, rows) for rows in balanced(lengths, -(-len(batch) // size))]


def balanced(lengths: Sequence[int], parts: int) -> list[NDArray[np.int64]]:
    """Rows in ``parts`` groups of nearly equal total length, none of them empty.

    The longest first, each to the group with the least so far (Graham 1969): no total is above 4/3 of the
    best possible largest one.
    """
    groups: list[list[int]] = [[] for _ in range(parts)]
    least = [(0, 0, number) for number in range(parts)]
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        total, count, number = heapq.heappop(least)
        groups[number].append(row)
        heapq.heappush(least, (total + lengths[row], count + 1, number))
    return [np.array(sorted(group), dtype=np.int64) for group in groups]


def rows_of(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Some rows of a batch, in the order given; what is no row for each sample stays."""
    return replace(batch, **{f.name: _picked(getattr(batch, f.name), rows) for f in fields(batch)})


def _picked(value: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(value, Mapping):
        return {name: _picked(inner, rows) for name, inner in value.items()}
    if isinstance(value, Tensor):
        return value[torch.from_numpy(rows)]
    if isinstance(value, np.ndarray):
        return value[rows]
    if isinstance(value, Sequence):
        return [value[row] for row in rows]
    return value


def _encode(objective: Objective, batch: Batch, precision: str) -> Encoded:
    if precision == "fp32":  # apart, because meta tensors, on which costs are counted, know no autocast
        return objective.encode(batch)
    cached = not distributed.holds_cut(objective)  # or casts of all blocks would be kept at once
    with torch.autocast(device_of(objective).type, torch.bfloat16, cache_enabled=cached):
        return objective.encode(batch)


def _losses(objective: Objective, batch: Batch, clock: Clock, precision: str) -> Losses:
    return objective.loss(_encode(objective, batch, precision), clock)


def _descend(loss: Tensor) -> None:
    """Add its gradients; it has none if it reaches nothing trained, as text where only a connector is."""
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]


def _added(objective: Objective, chunks: list[Batch], clock: Clock, precision: str) -> Losses:
    terms = [objective.terms(chunk) for chunk in chunks]
    everyone = distributed.counts_of(sum(terms))
    whole = sum(everyone)
    if not whole:
        raise ValueError("the batch has no term to learn from")
    sums: dict[str, Tensor] = {}
    for chunk, own in _passes(objective, chunks, terms):
        if own == 0:
            _attend(_encode(objective, chunk, precision))
            continue
        losses = _losses(objective, chunk, clock, precision)
        _descend(losses.total * (own / whole))
        for name, value in {TOTAL: losses.total.detach(), **losses.parts}.items():
            part = value * (own / whole)
            sums[name] = sums[name] + part if name in sums else part
    if len(everyone) > 1:
        sums = _over_processes(sums, complete=min(everyone) > 0, device=device_of(objective))
    return Losses(sums.pop(TOTAL), sums)


TOTAL = ""
"""The loss itself among its parts, which have names."""


def _passes(objective: Objective, chunks: list[Batch], terms: list[int]) -> list[tuple[Batch, int]]:
    """Which chunks to go through, and how many terms each has.

    Those without any are left out; but where weights are cut, all processes must make as many passes, or
    some would wait for ever for the rows of others.
    """
    if not distributed.holds_cut(objective):
        return [(chunk, own) for chunk, own in zip(chunks, terms, strict=True) if own]
    idle = max(distributed.counts_of(len(chunks))) - len(chunks)
    return [*zip(chunks, terms, strict=True), *[(chunks[0][:1], 0)] * idle]


def _attend(encoded: Encoded) -> None:
    """A backward pass that adds nothing. The loss of no terms may be no number, so it is not asked for."""
    live = [value for value in encoded.values() if value.requires_grad]
    torch.autograd.backward(live, [torch.zeros_like(value) for value in live])


def _over_processes(sums: dict[str, Tensor], *, complete: bool, device: torch.device) -> dict[str, Tensor]:
    """The sums of all processes, also in one whose rows had no term and which knows no names."""
    known = list(sums) if complete else distributed.names(sums)
    zero = torch.zeros((), device=device, dtype=torch.float64)
    added = torch.stack([sums[name].double() if name in sums else zero for name in known])
    distributed.add([added])
    return dict(zip(known, added, strict=True))


def _replayed(objective: Objective, chunks: list[Batch], clock: Clock, precision: str) -> Losses:
    kept = len(chunks) == 1  # what is encoded at once needs no second pass
    states, encodings = [], []
    with torch.set_grad_enabled(kept):
        for chunk in chunks:
            states.append(torch.get_rng_state())
            encodings.append(_encode(objective, chunk, precision))
    counts = distributed.counts_of(sum(map(len, chunks)))
    joined = {
        name: distributed.gather(torch.cat([e[name] for e in encodings]), counts) for name in encodings[0]
    }
    leaves = {name: value.requires_grad_(value.is_floating_point()) for name, value in joined.items()}
    losses = objective.loss(leaves, clock)
    losses.total.backward()  # type: ignore[no-untyped-call]
    if not distributed.share().first:  # every process has the loss's own gradients, and they count once
        for parameter in objective.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
    after = torch.get_rng_state()
    start = sum(counts[: distributed.share().rank])
    for number, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        torch.set_rng_state(state)
        again = encodings[number] if kept else _encode(objective, chunk, precision)
        rows = slice(start, start + len(chunk))
        start += len(chunk)
        live = [(value, leaves[name].grad) for name, value in again.items() if value.requires_grad]
        pushed = [(value, grad[rows]) for value, grad in live if grad is not None]
        torch.autograd.backward([value for value, _ in pushed], [grad for _, grad in pushed])
    torch.set_rng_state(after)
    return losses._replace(total=losses.total.detach())
