"""Packed is unpacked: no sample sees another, whatever the lengths, and padding stays small."""

import itertools

import numpy as np
import pytest
import torch
from objectives import TOKENIZER

from paribus.errors import UserError
from paribus.vlm.language import build_language_model
from paribus.vlm.packing import GROUP_COST, cut, pack, packed_attention, places, use_packed

from . import LANGUAGE

CPU = torch.device("cpu")


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [1, 60], [7, 2, 90, 33, 34, 35, 2], list(range(1, 40))])
def test_every_token_has_a_place_of_its_own(lengths):
    packed = pack(lengths)
    own = places(packed, lengths)
    assert len(set(own.tolist())) == sum(lengths)
    assert own.max() < len(packed.positions)
    assert packed.positions[torch.from_numpy(own)].tolist() == [t for n in lengths for t in range(n)]
    assert sum(count for count, _ in packed.groups) == len(lengths)
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    assert [lengths[i] for i in packed.order] == sorted(lengths)


def test_groups_are_cut_as_well_as_can_be():
    """Against every way of cutting."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = np.sort(rng.integers(1, 300, size=9))
        best = min(
            sum(lengths[b - 1] * (b - a) + GROUP_COST for a, b in itertools.pairwise([0, *inner, 9]))
            for size in range(9)
            for inner in itertools.combinations(range(1, 9), size)
        )
        ends = cut(lengths)
        found = sum(lengths[b - 1] * (b - a) + GROUP_COST for a, b in itertools.pairwise([0, *ends]))
        assert found == best


def test_little_is_padded_of_an_uneven_batch():
    lengths = np.random.default_rng(0).lognormal(5, 1, size=128).clip(10, 2048).astype(int)
    assert len(pack(lengths.tolist()).positions) < 1.1 * lengths.sum()
    assert lengths.max() * 128 > 4 * lengths.sum(), "padded to the longest it would be four times as much"


@pytest.mark.parametrize("shared", [1, 2, 4])
def test_a_row_equals_each_sample_alone(shared):
    """In float64, against torch's own attention, sample by sample, gradients too."""
    lengths, heads, width = [5, 9, 1, 30, 8], 4, 6
    packed = pack(lengths)
    total = len(packed.positions)
    q, k, v = (torch.randn(1, n, total, width, dtype=torch.float64) for n in (heads, shared, shared))
    for x in (q, k, v):
        x.requires_grad_()
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, groups=packed.groups)
    rows = torch.from_numpy(places(packed, lengths))
    grown = torch.randn(len(rows), heads, width, dtype=torch.float64)
    ours = torch.autograd.grad((out[0][rows] * grown).sum(), (q, k, v))
    start, expected = 0, torch.zeros(())
    for length in lengths:
        mine = rows[start : start + length]
        part = torch.nn.functional.scaled_dot_product_attention(
            q[:, :, mine], k[:, :, mine], v[:, :, mine], is_causal=True, scale=0.3, enable_gqa=True
        )
        assert torch.allclose(out[0][mine], part[0].transpose(0, 1), atol=1e-12)
        expected = expected + (part[0].transpose(0, 1) * grown[start : start + length]).sum()
        start += length
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_packed_model_equals_the_padded_one(kind):
    """transformers' own model with padding on the right and a mask, in float64."""
    model = build_language_model(LANGUAGE.model_copy(update={"kind": kind}), 320, 0, CPU).double()
    peer = build_language_model(LANGUAGE.model_copy(update={"kind": kind}), 320, 0, CPU).double()
    peer.set_attn_implementation("sdpa")
    lengths = [4, 17, 9, 30]
    ids = [torch.randint(3, 320, (n,)) for n in lengths]
    packed = pack(lengths)
    row = torch.zeros(len(packed.positions), dtype=torch.int64)
    rows = torch.from_numpy(places(packed, lengths))
    row[rows] = torch.cat(ids)
    ours = model(input_ids=row[None], position_ids=packed.positions[None], groups=packed.groups).logits[0]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    theirs = peer(input_ids=padded, attention_mask=mask).logits[mask.bool()]
    assert torch.allclose(ours[rows], theirs, atol=1e-6), "transformers' norms round to float32 inside"


def test_what_cannot_be_packed_says_so():
    model = build_language_model(LANGUAGE, TOKENIZER.get_vocab_size(), 0, CPU)
    model.config.sliding_window = 16
    with pytest.raises(UserError, match=r"attends to 16 tokens and the context is 80.*context to 16"):
        use_packed(model, "qwen2", 80)
    with pytest.raises(UserError, match=r"\(Linear\) keeps its attention to itself"):
        use_packed(torch.nn.Linear(2, 2), "linear", 80)
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="softcap"):
        packed_attention(torch.nn.Identity(), q, q, q, None, groups=((1, 3),), softcap=30.0)
