"""Splitting a batch where it is hardest: dropout, empty shares, and what the caller gets back.

That loss and gradients do not depend on the chunk is tested over the registry in objectives/test_contract.py.
"""

import itertools

import numpy as np
import pytest
import torch
from objectives import gradients, relative
from torch import nn

from paribus.objectives.base import Objective
from paribus.train.split import backward, balanced, rows_of
from paribus.types import Batch, Clock, Losses, Turn

from .words import BATCH, Words, batch_of

CLOCK = Clock(0, 0, 1)


class Noisy(Objective):
    """Encodings with dropout, met in a loss that is no sum over samples; keeps what was drawn."""

    def __init__(self, additive=False):
        super().__init__()
        self.additive = additive
        self.layer, self.dropout = nn.Linear(12, 6).double(), nn.Dropout(0.5)
        self.calls = []

    def encode(self, batch):
        x = self.dropout(batch.views["x"].flatten(1).double())
        self.calls.append((torch.is_grad_enabled(), x.detach().clone()))
        return {"z": self.layer(x), "row": torch.from_numpy(batch.ids.astype(np.int64))}

    def loss(self, encoded, clock):
        z = encoded["z"]
        total = z.square().mean() if self.additive else (z @ z.T).logsumexp(dim=1).sum()
        return Losses(total, {"rows": encoded["row"].double().mean()})

    def encoder(self):
        return self.layer


def batch(count=7):
    x = torch.randn(count, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return Batch(np.arange(count, dtype=np.uint64), {"x": x}, [""] * count, [()] * count)


def test_both_passes_draw_the_same_dropout_and_the_generator_goes_on():
    model = Noisy()
    torch.manual_seed(3)
    backward(model, batch(), CLOCK, 3, "fp32")
    first = [x for live, x in model.calls if not live]
    second = [x for live, x in model.calls if live]
    assert [len(x) for x in first] == [3, 3, 1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    after = torch.rand(1)
    torch.manual_seed(3)
    for x in first:
        nn.functional.dropout(torch.ones_like(x), 0.5)
    assert torch.equal(after, torch.rand(1)), "as if each sample had been drawn for once"


class NoisyLoss(Noisy):
    """The loss draws too."""

    def loss(self, encoded, clock):
        total, parts = super().loss(encoded, clock)
        return Losses(total * torch.rand(()), parts)


def test_what_the_loss_draws_is_drawn_once():
    """After a step the generator stands where the loss left it, not where the last replayed chunk did."""
    model = NoisyLoss()
    torch.manual_seed(3)
    backward(model, batch(), CLOCK, 3, "fp32")
    after = torch.rand(1)
    torch.manual_seed(3)
    for size in (3, 3, 1):
        nn.functional.dropout(torch.ones(size, 12).double(), 0.5)
    torch.rand(())
    assert torch.equal(after, torch.rand(1))


def test_the_gradient_is_that_of_the_drawn_dropout():
    model = Noisy()
    torch.manual_seed(3)
    losses = backward(model, batch(), CLOCK, 2, "fp32")
    got = gradients(model)
    model.zero_grad(set_to_none=True)
    x = torch.cat([x for live, x in model.calls if live])
    z = model.layer(x)
    expected = (z @ z.T).logsumexp(dim=1).sum()
    expected.backward()
    assert relative(losses.total, expected.detach()) < 1e-12
    assert all(relative(got[name], value) < 1e-10 for name, value in gradients(model).items())
    assert losses.parts["rows"].item() == 3.0, "whole-number encodings reach the loss too"


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_returned_loss_holds_no_graph(additive, chunk):
    losses = backward(Noisy(additive), batch(), CLOCK, chunk, "fp32")
    assert not losses.total.requires_grad
    assert not any(part.requires_grad for part in losses.parts.values())


class Weighted(Noisy):
    """Additive, with as many terms per sample as its id says; samples 0 to 2 have none."""

    def __init__(self):
        super().__init__(additive=True)
        self.dropout = nn.Identity()

    def terms(self, batch):
        return int(np.maximum(batch.ids.astype(int) - 2, 0).sum())

    def loss(self, encoded, clock):
        weight = (encoded["row"] - 2).clamp_min(0).double()
        total = (encoded["z"].square().sum(dim=1) * weight).sum() / weight.sum()
        return Losses(total, {"twice": 2 * total.detach()})


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_additive_chunks_weigh_by_their_terms_and_empty_ones_are_left_out(chunk):
    """A chunk without a term would be 0 / 0."""
    model = Weighted()
    whole = backward(model, batch(), CLOCK, None, "fp32")
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    losses = backward(model, batch(), CLOCK, chunk, "fp32")
    assert relative(losses.total, whole.total) < 1e-12
    assert relative(losses.parts["twice"], whole.parts["twice"]) < 1e-12
    assert all(relative(value, expected[name]) < 1e-10 for name, value in gradients(model).items())


def test_a_batch_without_any_term_is_refused():
    with pytest.raises((ValueError, ZeroDivisionError)):
        backward(Weighted(), batch(3), CLOCK, 1, "fp32")


def test_chunks_hold_one_graph_at_a_time():
    """The point of it: at most one chunk is encoded with gradient at once."""
    model = Noisy()
    backward(model, batch(), CLOCK, 2, "fp32")
    assert [(live, len(x)) for live, x in model.calls] == [
        *((False, n) for n in (2, 2, 2, 1)),
        *((True, n) for n in (2, 2, 2, 1)),
    ]


# Chunks by length.


@pytest.mark.parametrize("rows", [1, 2, 6, 64])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_rows_are_dealt_so_that_totals_are_nearly_equal(rows, spread):
    """Graham's bounds, the tighter one against the best of all ways to deal few rows."""
    lengths = np.random.default_rng(rows).lognormal(4.0, spread, rows).astype(int).tolist()
    for parts in range(1, rows + 1):
        groups = balanced(lengths, parts)
        assert sorted(row for group in groups for row in group) == list(range(rows))
        assert len(groups) == parts
        assert min(map(len, groups)) > 0
        totals = [sum(lengths[row] for row in group) for group in groups]
        assert max(totals) - min(totals) <= max(lengths)
        if rows < 7:
            assert max(totals) <= 4 / 3 * least_possible(lengths, parts)
        assert [group.tolist() for group in balanced(lengths, parts)] == [group.tolist() for group in groups]


def least_possible(lengths, parts):
    """The smallest largest total."""
    ways = np.array(list(itertools.product(range(parts), repeat=len(lengths))))
    return min(np.max([(ways == part) @ lengths for part in range(parts)], axis=0))


def test_rows_without_length_are_dealt_too():
    assert sorted(map(len, balanced([0, 0, 0, 5], 3))) == [1, 1, 2]


def test_rows_of_a_batch_keep_all_that_belongs_to_them():
    """Every field that has an entry for each sample, and the seed."""
    turns = [(Turn(f"ask {row}", "reply"),) for row in range(4)]
    views = {"a": torch.arange(8.0).reshape(4, 2), "b": torch.arange(4)[:, None].float()}
    whole = Batch(np.arange(4, dtype=np.uint64), views, tuple("abcd"), turns, seed=7)
    some = rows_of(whole, np.array([2, 0]))
    assert some.ids.tolist() == [2, 0]
    assert some.views["a"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert some.views["b"].tolist() == [[2.0], [0.0]]
    assert list(some.texts) == ["c", "a"]
    assert list(some.turns) == [turns[2], turns[0]]
    assert some.seed == 7


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_chunks_by_length_change_rounding_only(chunk, step):
    """Also where samples have nothing to learn from (step 1), or no picture (step 2)."""
    model, batch = Words(), batch_of(step)
    whole = backward(model, batch, CLOCK, None, "fp32")
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    seen = []
    encode = model.encode
    model.encode = lambda rows: (seen.append(rows), encode(rows))[1]
    losses = backward(model, batch, CLOCK, chunk, "fp32")
    assert relative(losses.total, whole.total) < 1e-12
    got = gradients(model)
    assert got.keys() == expected.keys()
    assert all(relative(got[name], value) < 1e-12 for name, value in expected.items())
    assert len(seen) <= -(-BATCH // chunk)
    totals = [sum(model.lengths(rows)) for rows in seen]
    assert step == 1 or max(totals) - min(totals) <= max(model.lengths(batch))


def test_what_reaches_nothing_trained_adds_nothing():
    """Text alone while only the connector is trained: a loss, and no gradient."""
    model = Words(frozen=("language",))
    losses = backward(model, batch_of(2), CLOCK, None, "fp32")
    assert losses.total > 0
    assert gradients(model) == {}
