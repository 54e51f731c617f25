"""A plan by measured throughput: the real loop for a few steps, kept, and told beside what is assumed."""

import re

import pytest
import torch

from paribus.errors import UserError
from paribus.study import measuring
from paribus.study.measuring import (
    TIMED,
    WARM,
    Rate,
    _mean,
    keep_rates,
    key,
    known_rates,
    measure,
    rates_file,
)
from paribus.study.plan import arm_costs, measure_arms, plan, spell
from paribus.study.study import load_study
from paribus.types import Runtime
from study import paribus


@pytest.fixture
def study(tiny_study):
    return load_study(tiny_study)


@pytest.fixture
def stage(study):
    return {arm.name: arm.encoder for arm in study.all_arms()}["dino"]


def test_a_rate_is_that_of_the_loop(stage, tmp_path, monkeypatch):
    """Every step but the first ones counts, at the batch that is trained; FLOPs are those of the plan."""
    asked = []
    real = measuring.fit

    def seen(objective, batches, **settings):
        asked.append((settings["budget"], settings["precision"], settings["recipe"]))
        return real(objective, batches, **settings)

    monkeypatch.setattr(measuring, "fit", seen)
    rate = measure(stage, Runtime(cache=tmp_path / "cache", device="cpu"), "dino")
    ((budget, precision, recipe),) = asked
    assert (budget.steps, budget.batch) == (WARM + TIMED, stage.budget.batch)
    assert (precision, recipe) == (stage.precision, stage.recipe)
    assert rate.samples == stage.budget.batch
    each = stage.flops() / (stage.budget.steps * stage.budget.batch)
    assert rate.flops_per_second == pytest.approx(rate.images_per_second * each)
    assert rate.inputs_per_second > 0 and rate.device.endswith("threads")
    assert not (tmp_path / "cache").exists()


def test_what_is_encoded_twice_counts_twice(stage, tmp_path, monkeypatch):
    steps = ([6 / 100.0] * 5, (0.0,))
    monkeypatch.setattr(measuring, "_steps", lambda *_: steps)
    rate = measure(stage, Runtime(cache=tmp_path, device="cpu", chunk=3), "dino")
    assert (rate.samples, rate.images_per_second) == (6, pytest.approx(100.0))


def test_a_part_that_joins_late_counts_for_its_share():
    seconds = [9.0, 9.0, *[1.0] * 18, 9.0, 9.0, 3.0, 3.0, 3.0]
    assert _mean(seconds, (0.0, 0.8)) == pytest.approx(0.8 * 1.0 + 0.2 * 3.0)


def test_how_a_step_is_taken_has_a_rate_of_its_own(study, stage):
    here = Runtime(device="cpu")
    keys = {key(arm.encoder, here) for arm in study.all_arms()}
    keys |= {
        key(stage, here.model_copy(update={"chunk": 4})),
        key(stage, Runtime(device="cpu", recompute=True)),
    }
    assert len(keys) == len(study.all_arms()) + 2
    assert key(stage, here) == key(stage.changed(seed=5), here)


def test_rates_are_kept_and_measured_once(study, tmp_path, monkeypatch):
    runtime = Runtime(cache=tmp_path, device="cpu")
    assert all(cost.rate is None and cost.hours == 0.0 for cost in arm_costs(study, runtime))
    measure_arms(study, runtime)
    costs = arm_costs(study, runtime)
    assert [cost.rate for cost in costs] == [
        known_rates(tmp_path)[key(a.encoder, runtime)] for a in study.all_arms()
    ]
    for cost in costs:
        assert cost.hours == pytest.approx(cost.samples / cost.rate.images_per_second / 3600)
    monkeypatch.setattr("paribus.study.plan.measure", None)
    measure_arms(study, runtime)
    trained = {stage.address: stage for stage in plan(study.stages(), runtime, 1.0)}
    for arm, cost in zip(study.all_arms(), costs, strict=True):
        assert trained[arm.encoder.address()].seconds == pytest.approx(cost.hours * 3600)
    told = spell("", costs, [], [], [], runtime, 1)
    assert re.search(r"measured\s+seed\s+a step\s+images/s\s+TFLOP/s\s+hours\s+inputs/s\s+cores", told)
    assert f"(on one {costs[0].rate.device};" in told


def test_what_is_no_rate_is_measured_again(tmp_path):
    rate = Rate(
        device="x", samples=1, images_per_second=1, flops_per_second=1, peak_memory_mb=1, inputs_per_second=1
    )
    keep_rates(tmp_path, {"a": rate})
    keep_rates(tmp_path, {"b": rate})
    assert known_rates(tmp_path) == {"a": rate, "b": rate}
    for damage in ("", "{", "[]", '{"a": 3}'):
        rates_file(tmp_path).write_text(damage)
        assert known_rates(tmp_path) == {}


def test_what_does_not_fit_is_told(stage, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measuring, "fit", full)
    with pytest.raises(UserError, match=r"dino: 16 samples do not fit the device at once: give --chunk"):
        measure(stage, Runtime(cache=tmp_path, device="cpu"), "dino")


def test_the_command_measures_when_asked(tmp_path, tiny_study, tiny_cache):
    line = ("plan", tiny_study, "--cache", tiny_cache)
    assert "images/s" not in paribus(tmp_path, *line).out
    assert "images/s" in paribus(tmp_path, *line, "--measure").out
    assert "images/s" in paribus(tmp_path, *line).out
