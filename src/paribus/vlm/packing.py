"""Samples of different lengths in one row, without padding to speak of and without seeing each other.

A batch of conversations is uneven: LLaVA-1.5's mix has from 10 to 2,048 tokens a sample, and padding each to
the longest spends most of the work on nothing. Here samples are sorted by length and laid one after another
in a single row, in groups whose members are padded to the group's longest; the groups are cut so that padding
is a few percent (``cut``). Everything but attention works on tokens one by one and does not mind; attention
is told the groups and looks at each sample by itself, as views of the row, so that no mask is made at all.

transformers calls it by the name ``PACKED``, for every model that leaves attention to its interface.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from paribus.encoders.vision import attend
from paribus.errors import UserError

PACKED = "paribus_packed"

GROUP_COST = 48
"""Tokens of padding that are worth one group less: what a group costs in calls."""


class Pack(NamedTuple):
    """Where samples stand in the row.

    ``groups`` are (samples, tokens of each) in row order. ``order`` are the samples in row order, ``starts``
    where each sample begins, by sample. T is the length of the row, padding and all.
    """

    groups: tuple[tuple[int, int], ...]
    order: Int64[np.ndarray, " B"]
    starts: Int64[np.ndarray, " B"]
    positions: Int64[Tensor, " T"]


def cut(lengths: Int64[np.ndarray, " B"]) -> list[int]:
    """Where to cut sorted lengths into groups: the ends, of least padding plus ``GROUP_COST`` a group.

    Exact, by dynamic programming over where the last group begins.
    """
    total = len(lengths)
    best = np.full(total + 1, np.inf)
    best[0], came = 0.0, np.zeros(total + 1, dtype=np.int64)
    for end in range(1, total + 1):
        starts = np.arange(end)
        cost = best[:end] + lengths[end - 1] * (end - starts) + GROUP_COST
        came[end] = int(cost.argmin())
        best[end] = cost[came[end]]
    ends = [total]
    while came[ends[-1]] > 0:
        ends.append(int(came[ends[-1]]))
    return ends[::-1]


def pack(lengths: Sequence[int]) -> Pack:
    """Lay samples of these lengths into a row."""
    given = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(given, kind="stable")
    groups, starts, row, begin = [], np.empty(len(given), dtype=np.int64), 0, 0
    for end in cut(given[order]):
        count, longest = end - begin, int(given[order[end - 1]])
        starts[order[begin:end]] = row + longest * np.arange(count)
        groups.append((count, longest))
        row, begin = row + count * longest, end
    positions = torch.cat([torch.arange(longest).repeat(count) for count, longest in groups])
    return Pack(tuple(groups), order, starts, positions)


def places(packed: Pack, lengths: Sequence[int]) -> Int64[np.ndarray, " tokens"]:
    """Row positions of all samples' own tokens, sample by sample in the order they were given."""
    own = [np.arange(length) + start for length, start in zip(lengths, packed.starts.tolist(), strict=True)]
    return np.concatenate(own)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads T d"],
    key: Float[Tensor, "1 shared T d"],
    value: Float[Tensor, "1 shared T d"],
    attention_mask: Bool[Tensor, "..."] | None,
    *,
    scaling: float | None = None,
    groups: tuple[tuple[int, int], ...] = (),
    **others: Any,
) -> tuple[Float[Tensor, "1 T heads d"], None]:
    """Causal attention within each sample of a packed row; the signature is transformers' own."""
    del module
    odd = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if not groups or attention_mask is not None or odd:
        raise ValueError(f"packed attention needs groups, no mask, and no {', '.join(odd) or 'extras'}")
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves rotated ones in float32
    usual = query.shape[-1] ** -0.5
    if scaling is not None and scaling != usual:
        query = query * (scaling / usual)
    repeats, sizes = query.shape[1] // key.shape[1], [count * length for count, length in groups]
    parts = zip(*(torch.split(rows[0], sizes, dim=1) for rows in (query, key, value)), strict=True)
    out = [
        _attended(q, k, v, group, repeats).transpose(1, 2).flatten(0, 1)
        for group, (q, k, v) in zip(groups, parts, strict=True)
    ]
    return torch.cat(out).unsqueeze(0), None


def _attended(
    q: Float[Tensor, "heads rows d"],
    k: Float[Tensor, "shared rows d"],
    v: Float[Tensor, "shared rows d"],
    group: tuple[int, int],
    repeats: int,
) -> Float[Tensor, "samples heads length d"]:
    """One group; where queries share keys, these are repeated."""
    q, k, v = (x.unflatten(1, group).transpose(0, 1) for x in (q, k, v))  # type: ignore[no-untyped-call]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    return attend(q, k, v, causal=True)


def use_packed(model: Any, name: str, context: int) -> None:
    """Have a transformers model attend so.

    Args:
        model: a causal language model.
        name: what to call it in a complaint.
        context: the longest sample it will be given.

    Raises:
        UserError: its attention cannot be replaced, or looks at a shorter window than the context.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(
            f"The language model {name} ({type(model).__name__}) keeps its attention to itself, so samples "
            "cannot be packed: use one of the Llama, Qwen or Mistral families."
        )
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < context:
        raise UserError(
            f"The language model {name} attends to {window} tokens and the context is {context}: "
            f"lower vlm.context to {window}."
        )
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)
