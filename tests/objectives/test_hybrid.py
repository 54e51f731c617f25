"""Hybrids are the weighted sum of their parts, share what they look at, and let parts join late."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from paribus.encoders.vision import weights_digest
from paribus.objectives import AnyObjective
from paribus.objectives.hybrid import Hybrid, Part, since
from paribus.objectives.presets import PRESETS, merged
from paribus.train.cost import training_flops
from paribus.train.loop import fit
from paribus.train.split import backward
from paribus.types import Budget, Clock, Recipe, Runtime

from . import PARTS, gradients, in_float64, relative, same_bits, tiny_config, tiny_loader, tiny_objective

CLOCK = Clock(step=5, seen=30, total=100)


def late(**changes):
    return {
        "siglip": {"objective": ("siglip", {})},
        "dino": {"objective": ("dino", {"drop_path": 0.0}), "start": 0.5, "weight": 0.25},
    } | changes


def test_the_loss_is_the_weighted_sum_of_the_parts_alone():
    """Each part, built by itself on the same encoder weights, gives its own loss; gradients add up too."""
    hybrid, batch = in_float64(tiny_objective("hybrid"), tiny_loader("hybrid").make(1))
    whole = backward(hybrid, batch, CLOCK, None, "fp32")
    expected, pushed = 0.0, None
    for name, part in PARTS.items():
        kind, settings = part["objective"]
        alone, _ = in_float64(tiny_objective(kind, **settings), batch)
        losses = backward(alone, batch, CLOCK, None, "fp32")
        weight = part.get("weight", 1.0)
        expected += weight * float(losses.total)
        assert float(whole.parts[f"{name}/{kind}"]) == pytest.approx(float(losses.parts[kind]), rel=1e-12)
        trained = alone.student if hasattr(alone, "student") else alone.image
        flow = {key: weight * value for key, value in gradients(trained).items()}
        pushed = flow if pushed is None else {key: pushed[key] + flow[key] for key in flow}
    assert float(whole.total) == pytest.approx(expected, rel=1e-12)
    got = gradients(hybrid.shared)
    assert {name for name in got if relative(got[name], pushed[name]) > 1e-10} == set()


def test_parts_that_look_at_the_same_view_share_the_forward():
    hybrid, batch = tiny_objective("hybrid"), tiny_loader("hybrid").make(0)
    seen = []
    hybrid.shared.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    hybrid.encode(batch)
    rows = len(batch)
    assert sorted(seen) == sorted([rows] * 4 + [2 * rows]), "two globals, two of SimCLR, two locals at once"


def test_a_late_part_costs_nothing_before_and_begins_with_the_encoder_as_it_then_is():
    hybrid, batch = tiny_objective("hybrid", parts=late()), tiny_loader("hybrid", parts=late()).make(0)
    dino = hybrid.parts["dino"]
    hybrid.begin_step(Clock(0, 0, 100))
    assert set(hybrid.encode(batch)) == {"siglip/image", "siglip/text"}
    with torch.no_grad():
        for parameter in hybrid.shared.parameters():
            parameter.add_(0.01)
    stale = weights_digest(dino.teacher)
    hybrid.begin_step(Clock(49, 49, 100))
    assert weights_digest(dino.teacher) == stale
    hybrid.begin_step(Clock(50, 50, 100))
    assert weights_digest(dino.teacher) == weights_digest(hybrid.shared)
    assert {name.split("/")[0] for name in hybrid.encode(batch)} == {"siglip", "dino"}
    with torch.no_grad():
        for parameter in hybrid.shared.parameters():
            parameter.add_(0.01)
    again = tiny_objective("hybrid", parts=late())
    again.load_state_dict(hybrid.state_dict())
    again.begin_step(Clock(60, 60, 100))
    assert weights_digest(again.parts["dino"].teacher) != weights_digest(again.shared), "it joins only once"


def test_a_late_parts_time_is_its_own():
    assert since(Clock(5, 80, 100), 0.8) == Clock(5, 0, 20)
    assert since(Clock(5, 90, 100), 0.8).fraction == 0.5
    assert since(Clock(5, 30, 100), 0.0) == Clock(5, 30, 100)


def test_costs_are_means_over_the_budget():
    hybrid = tiny_objective("hybrid", parts=late())
    siglip, dino = tiny_objective("siglip"), tiny_objective("dino", drop_path=0.0)
    assert hybrid.phases() == (0.0, 0.5)
    assert hybrid.image_forwards() == pytest.approx(siglip.image_forwards() + 0.5 * dino.image_forwards())


def refused(**parts):
    with pytest.raises(ValidationError) as raised:
        Hybrid.Config(parts=parts)
    return str(raised.value)


def part(kind, weight=1.0, start=0.0, **changes):
    return Part(objective=tiny_config(kind, **changes), weight=weight, start=start)


def test_what_cannot_be_a_hybrid_is_refused_in_a_sentence():
    assert "all weights are zero (clip, simclr)" in refused(
        clip=part("clip", 0.0), simclr=part("simclr", 0.0)
    )
    assert "no part starts at 0" in refused(clip=part("clip", start=0.5))
    assert "part b asks for another view called 'image'" in refused(
        a=part("clip"), b=part("siglip", crop=(0.5, 1.0))
    )
    assert "part a reads global1, but the views are ssl1, ssl2" in refused(
        a=part("clip", reads=("global1",)), b=part("simclr")
    )
    assert "freezes the encoder" in refused(a=part("clip"), b=part("dinotxt"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_configs(name):
    config = TypeAdapter(AnyObjective).validate_python({"preset": name})
    assert config.kind == PRESETS[name]["kind"]


def test_changes_reach_into_a_preset_and_unknown_ones_are_named():
    adapter = TypeAdapter(AnyObjective)
    changed = {"preset": "slip", "parts": {"simclr": {"weight": 0.5, "objective": {"out": 64}}}}
    slip = adapter.validate_python(changed)
    assert (slip.parts["simclr"].weight, slip.parts["simclr"].objective.out) == (0.5, 64)
    assert slip.parts["clip"].objective.crop == (0.5, 1.0)
    with pytest.raises(ValidationError, match="there is no preset 'clap': choose one of clip-"):
        adapter.validate_python({"preset": "clap"})
    assert merged({"a": {"kind": "x", "n": 1}}, {"a": {"kind": "y"}}) == {"a": {"kind": "y"}}


# Late parts, in a real training.

LATE = {
    "clip": {"objective": ("clip", {"reads": ("global1", "global2")})},
    "dino": {"objective": ("dino", {"drop_path": 0.0}), "start": 0.5},
}


def train(folder, stop=None, seen=None):
    """Eight steps with a checkpoint after each; the objective and the logged lines."""
    objective = tiny_objective("hybrid", parts=LATE)
    loader = tiny_loader("hybrid", batch=6, parts=LATE)
    training_flops(objective, loader.make(0)[:2])  # counting costs must leave no trace in what is trained

    def batches(start, end):
        for number, batch in enumerate(loader(start, end), start):
            if number == stop:
                raise InterruptedError
            if seen is not None and number == 4:
                seen.update({name: v.clone() for name, v in objective.shared.state_dict().items()})
            yield batch

    result = fit(
        objective,
        batches,
        recipe=Recipe(lr=5e-3, warmup=0.0),
        budget=Budget(samples=48, batch=6),
        precision="fp32",
        folder=folder,
        runtime=Runtime(device="cpu", checkpoint_seconds=0.0),
        label="late",
    )
    return objective, result.history


def test_a_late_part_joins_when_its_time_comes_and_not_before(tmp_path):
    seen = {}
    objective, history = train(tmp_path, seen=seen)
    logged = ["dino/dino" in line for line in history]
    assert logged == [False] * 4 + [True] * 4
    assert objective.joined.tolist() == [1, 1]
    first = tiny_objective("hybrid", parts=LATE).shared.state_dict()
    assert not same_bits(seen, dict(first)), "the encoder was trained before the teacher became its copy"


@pytest.mark.parametrize("stop", [3, 4, 5, 7])
def test_a_training_that_is_cut_around_the_joining_ends_alike(tmp_path, stop):
    whole, history = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", stop=stop)
    resumed, again = train(tmp_path / "cut")
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert again == history
