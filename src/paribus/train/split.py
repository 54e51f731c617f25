"""Gradients of a batch that does not fit, exactly: the double cut at work.

If the loss is additive, chunks add up. Otherwise (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup"): encode all chunks without gradient, take the loss on the joined encodings,
then encode each chunk again with gradient and push the cached encoding gradient through it. Random state is
put back before the second pass, so both passes are the same function. Several processes are one more cut of
the same kind: see ``distributed``.
"""

import torch
from torch import Tensor

from paribus.objectives.base import Objective
from paribus.train import distributed
from paribus.types import Batch, Clock, Encoded, Losses, device_of


def backward(objective: Objective, batch: Batch, clock: Clock, chunk: int | None, precision: str) -> Losses:
    """Add the batch's gradients to ``.grad`` and return its losses; ``chunk`` changes them by rounding only.

    Where several processes train as one, ``batch`` is this one's rows and gradients must be empty before;
    loss and gradients are those of all rows together, in every process.
    """
    size = chunk or len(batch)
    chunks = [batch[start : start + size] for start in range(0, len(batch), size)]
    alone = distributed.share().size == 1
    if alone and len(chunks) == 1:
        losses = _losses(objective, batch, clock, precision)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return losses._replace(total=losses.total.detach())
    split = _added if objective.additive else _replayed
    losses = split(objective, chunks, clock, precision)
    distributed.add_gradients(objective)
    return losses


def _encode(objective: Objective, batch: Batch, precision: str) -> Encoded:
    if precision == "fp32":  # apart, because meta tensors, on which costs are counted, know no autocast
        return objective.encode(batch)
    with torch.autocast(device_of(objective).type, torch.bfloat16):
        return objective.encode(batch)


def _losses(objective: Objective, batch: Batch, clock: Clock, precision: str) -> Losses:
    return objective.loss(_encode(objective, batch, precision), clock)


def _added(objective: Objective, chunks: list[Batch], clock: Clock, precision: str) -> Losses:
    terms = [objective.terms(chunk) for chunk in chunks]
    whole = torch.tensor(sum(terms))
    distributed.add([whole])
    if not int(whole):
        raise ValueError("the batch has no term to learn from")
    parts: dict[str, Tensor] = {}
    total: Tensor | None = None
    for chunk, own in zip(chunks, terms, strict=True):
        if own == 0:
            continue
        share = own / int(whole)
        losses = _losses(objective, chunk, clock, precision)
        (losses.total * share).backward()  # type: ignore[no-untyped-call]
        part = losses.total.detach() * share
        total = part if total is None else total + part
        for name, value in losses.parts.items():
            parts[name] = parts.get(name, torch.zeros_like(value)) + value * share
    if total is None:
        raise ValueError("this process's rows have no term to learn from")
    distributed.add([total, *parts.values()])
    return Losses(total, parts)


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
