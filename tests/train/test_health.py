"""A training that is not well is told of at once, and ended with a sentence after some patience."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import pytest
from objectives import CAPTIONS, tiny_loader, tiny_objective

from paribus.errors import UserError
from paribus.train.health import CALM, SETTLED, Health, Throughput
from paribus.train.loop import fit
from paribus.train.state import checkpoints
from paribus.types import Budget, Runtime, Sample

from . import BATCH, RECIPE

STEPS = 30


@dataclass(frozen=True)
class Alike:
    """Forty samples with one black picture, which no jitter changes, or with one caption."""

    pictures: bool
    digest: str = "alike"

    def __len__(self):
        return len(CAPTIONS)

    def __getitem__(self, index, /):
        if self.pictures:
            return Sample(f"piece/{index}", np.zeros((40, 30, 3), np.uint8), CAPTIONS[index])
        noise = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        return Sample(f"piece/{index}", noise, CAPTIONS[0])


def train(kind, folder, source=None, *, patience, batches=None):
    loader = tiny_loader(kind, batch=BATCH, source=source)
    return fit(
        tiny_objective(kind),
        loader if batches is None else batches(loader),
        recipe=RECIPE,
        budget=Budget(samples=STEPS * BATCH, batch=BATCH),
        precision="fp32",
        folder=folder,
        runtime=Runtime(device="cpu", checkpoint_seconds=0.0, patience=patience),
        label=f"pretrain {kind}",
    )


@pytest.mark.parametrize(
    ("kind", "pictures", "step", "said"),
    [
        ("dino", True, 7, "the teacher gives all pictures one target"),
        ("clip", False, 4, "the text tower gives all captions one vector"),
        ("clip", True, 4, "the image tower gives all pictures one vector"),
        ("simclr", True, 4, "all pictures have one vector"),
    ],
)
def test_a_collapse_ends_the_run_after_the_patience(kind, pictures, step, said, tmp_path, caplog):
    """Of DINO the first tenth of the budget is let pass."""
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as told:
        train(kind, tmp_path, Alike(pictures), patience=5)
    sentence = f"pretrain {kind} was ended at step {step}: {said}"
    assert str(told.value).startswith(sentence)
    assert "for 5 steps in a row; the last checkpoint is kept, and --patience N goes on" in str(told.value)
    warned = [record.message for record in caplog.records if said in record.message]
    assert len(warned) == 1 and warned[0].startswith(f"pretrain {kind}, step {step - 4}: {said}")
    assert checkpoints(tmp_path)[-1].name == f"step-{step:08d}"


def test_with_patience_it_goes_on_from_where_it_was_ended(tmp_path):
    with pytest.raises(UserError, match="was ended at step 4"):
        train("clip", tmp_path, Alike(False), patience=5)
    ended = train("clip", tmp_path, Alike(False), patience=STEPS + 1)
    whole = train("clip", tmp_path / "whole", Alike(False), patience=STEPS + 1)
    assert ended.order == whole.order and ended.history == whole.history


def test_fallen_throughput_ends_the_run(tmp_path):
    def slower(loader):
        def batches(start, stop):
            for number, batch in enumerate(loader(start, stop)):
                if number > SETTLED + 2:
                    time.sleep(1.5)
                yield batch

        return batches

    with pytest.raises(UserError, match=r"was ended at step 2\d: throughput has fallen to .* images/s from"):
        train("clip", tmp_path, patience=3, batches=slower)


def test_only_steps_in_a_row_count():
    health = Health(3, "x")
    for step, ill in enumerate([1, 1, 0, 1, 1]):
        health.see({"a": "a is wrong"} if ill else {}, step)
    with pytest.raises(UserError, match="x was ended at step 5: a is wrong, for 3 steps in a row"):
        health.see({"a": "a is wrong", "b": "b is wrong"}, 5)


def test_what_flickers_is_told_once_until_it_has_stayed_away(caplog):
    health, end = Health(3, "x"), 2 * CALM
    with caplog.at_level(logging.WARNING):
        for step in range(end):
            health.see({"a": "a is wrong"} if step % 3 else {}, step)
        last = end - 1 if (end - 1) % 3 else end - 2
        for step in range(end, last + CALM):
            health.see({}, step)
        assert [record.message for record in caplog.records] == ["x, step 1: a is wrong"]
        health.see({}, last + CALM)
        health.see({"a": "a is wrong again"}, last + CALM + 1)
    assert [record.message for record in caplog.records[1:]] == [
        f"x, step {last + CALM}: no a since step {last}",
        f"x, step {last + CALM + 1}: a is wrong again",
    ]


def test_of_one_picture_at_a_time_no_collapse_is_told(tmp_path, caplog):
    """Views of one picture are to have one target, which is no collapse of the teacher."""
    budget = Budget(samples=STEPS, batch=1)
    how = {"recipe": RECIPE, "precision": "fp32", "folder": tmp_path, "label": "pretrain dino"}
    loader, runtime = tiny_loader("dino", batch=1), Runtime(device="cpu", patience=5)
    with caplog.at_level(logging.WARNING):
        done = fit(tiny_objective("dino"), loader, budget=budget, runtime=runtime, **how)
    assert len(done.history) == STEPS and not caplog.records
    assert not any("teacher_information" in line for line in done.history)


def test_a_rate_is_beside_the_usual_one():
    throughput = Throughput()
    assert not any(throughput.symptoms(rate, 0.5) for rate in [0.1, *[100.0] * SETTLED, 11.0])
    slow = {"slowness": "throughput has fallen to 9.0 images/s from 100.0"}
    assert all(throughput.symptoms(9.0, 0.5) == slow for _ in range(1000)), "slowness never becomes usual"


def test_a_part_that_joins_late_has_a_usual_rate_of_its_own():
    throughput = Throughput((0.0, 0.8))
    assert not any(throughput.symptoms(rate, 0.5) for rate in [100.0] * SETTLED)
    assert not any(throughput.symptoms(rate, 0.8) for rate in [5.0] * SETTLED)
    assert throughput.symptoms(0.4, 0.9)
