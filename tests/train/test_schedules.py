"""Learning rate, weight decay and momentum equal closed forms, transformers', DINO's and lightly's schedules.

Ours are read when a step begins: step s of T is the fraction s / T, so that the final value is that of
step T, which is never taken; the last step stands one short of it.
"""

import math

import peers  # noqa: F401 - before lightly
import pytest
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from objectives import tiny_loader, tiny_objective
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_cosine_with_min_lr_schedule_with_warmup

from paribus.train.loop import fit
from paribus.train.optim import build_optimizer, learning_rate, set_rates, weight_decay
from paribus.types import Budget, Clock, Recipe, Runtime

PEAK = 3e-3
BUDGETS = [(40, 0), (40, 4), (40, 20), (40, 39), (37, 5), (200, 1), (2, 1), (1, 0)]
"""Steps, and steps of warm-up."""


def at(step, steps, batch=8):
    return Clock(step, step * batch, steps * batch)


def rates_of(recipe, steps, stop=None):
    """The learning rate as every step begins."""
    return [learning_rate(recipe, at(step, steps)) for step in range(steps if stop is None else stop)]


def alike(ours, theirs, tolerance=1e-12):
    """Closer than ``tolerance`` of the largest; lists of equal length that are not all zero."""
    assert len(ours) == len(theirs)
    scale = max(map(abs, theirs))
    return all(abs(a - b) <= tolerance * scale for a, b in zip(ours, theirs, strict=True))


# Closed forms.


def loop_rates(peak, final, warm, steps):
    """A line from zero that would be at its peak in step ``warm``, from where half a cosine goes down."""
    out = []
    for step in range(steps):
        if step < warm:
            out.append(peak * step / warm)
        else:
            angle = math.pi * (step - warm) / (steps - warm)
            out.append(final + (peak - final) * (1 + math.cos(angle)) / 2)
    return out


@pytest.mark.parametrize(("steps", "warm"), [*BUDGETS, (40, 0.5), (40, 2.5), (7, 2.1), (1, 0.05), (1, 0.9)])
@pytest.mark.parametrize("final", [0.0, 1e-6, 1e-3, 5e-3])
def test_the_learning_rate_is_the_loop(steps, warm, final):
    """Also where the warm-up ends between two steps, and where the rate rises to its end."""
    recipe = Recipe(lr=PEAK, final_lr=final, warmup=warm / steps)
    expected = loop_rates(PEAK, final, warm, steps)
    ours = rates_of(recipe, steps)
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert learning_rate(recipe, at(steps, steps)) == pytest.approx(final, rel=1e-12, abs=1e-18)
    assert learning_rate(recipe, at(steps + 3, steps)) == pytest.approx(final, rel=1e-12, abs=1e-18)


def test_without_a_warm_up_the_first_step_has_the_whole_rate():
    assert rates_of(Recipe(lr=PEAK, warmup=0.0), 5)[0] == PEAK
    assert rates_of(Recipe(lr=PEAK, warmup=0.2), 5)[:2] == [0.0, PEAK]


def test_a_budget_of_one_step_is_its_first_step():
    """With any warm-up that is a step at rate zero, as in transformers and in DINO's own schedule."""
    assert rates_of(Recipe(lr=PEAK, warmup=0.0, final_lr=1e-6), 1) == [PEAK]
    assert rates_of(Recipe(lr=PEAK, warmup=0.05, final_lr=1e-6), 1) == [0.0]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=1, num_training_steps=1)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert dino_schedule(PEAK, 1e-6, epochs=1, niter_per_ep=1, warmup_epochs=1) == [0.0]
    rising = Recipe(weight_decay=0.04, final_weight_decay=0.4)
    assert weight_decay(rising, at(0, 1)) == pytest.approx(0.04, rel=1e-12)
    assert momentum_of(0.996, 1.0, at(0, 1)) == pytest.approx(0.996, rel=1e-12)


def loop_cosine(start, end, steps):
    """Half a cosine over all steps, by the half-angle: no cosine of ours stands in it."""
    return [start + (end - start) * math.sin(math.pi * step / steps / 2) ** 2 for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize(("start", "end"), [(0.04, 0.4), (0.4, 0.04), (0.0, 0.1), (0.1, 0.0), (0.2, 0.2)])
def test_the_weight_decay_is_the_loop_whatever_the_warm_up(steps, start, end):
    recipe = Recipe(weight_decay=start, final_weight_decay=end, warmup=0.5)
    ours = [weight_decay(recipe, at(step, steps)) for step in range(steps)]
    assert ours == pytest.approx(loop_cosine(start, end, steps), rel=1e-12, abs=1e-16)
    assert weight_decay(recipe, at(steps, steps)) == pytest.approx(end, rel=1e-12, abs=1e-16)


def test_a_final_decay_of_zero_is_one():
    """Not the same as none, which holds the decay where it is."""
    assert weight_decay(Recipe(weight_decay=0.2, final_weight_decay=0.0), at(5, 10)) == pytest.approx(0.1)
    assert weight_decay(Recipe(weight_decay=0.2, final_weight_decay=None), at(5, 10)) == 0.2


def momentum_of(start, end, clock):
    """What a DINO teacher of zeros has kept after one step under a student of ones."""
    objective = tiny_objective("dino", momentum=start, final_momentum=end).double()
    with torch.no_grad():
        objective.teacher.norm.bias.zero_()
        objective.student.norm.bias.fill_(1.0)
    objective.after_step(clock)
    return 1.0 - objective.teacher.norm.bias[0].item()


@pytest.mark.parametrize("steps", [2, 9])
@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.9, 0.5), (0.99, 0.99)])
def test_the_momentum_is_the_loop(steps, start, end):
    ours = [momentum_of(start, end, at(step, steps)) for step in range(steps)]
    assert ours == pytest.approx(loop_cosine(start, end, steps), rel=1e-12)
    assert momentum_of(start, end, at(steps, steps)) == pytest.approx(end, rel=1e-12)


# transformers.


def stepped(scheduler_of, steps, peak=PEAK):
    """The rates that a scheduler of torch's kind puts into an optimiser, read before each of its steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler, seen = scheduler_of(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("steps", "warm"), BUDGETS)
def test_the_learning_rate_equals_transformers(steps, warm):
    """The same steps and steps of warm-up, read before each step; and the value after the last."""
    theirs = stepped(lambda o: get_cosine_schedule_with_warmup(o, warm, steps), steps + 1)
    assert alike(rates_of(Recipe(lr=PEAK, warmup=warm / steps), steps, steps + 1), theirs)


@pytest.mark.parametrize(("steps", "warm"), BUDGETS)
def test_the_learning_rate_with_a_floor_equals_transformers(steps, warm):
    """Its floor holds for the cosine alone, as ours does: the warm-up begins at zero."""
    theirs = stepped(
        lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, warm, steps, min_lr=1e-4), steps + 1
    )
    assert alike(rates_of(Recipe(lr=PEAK, final_lr=1e-4, warmup=warm / steps), steps, steps + 1), theirs)


def test_the_optimizer_of_a_training_has_transformers_rates_when_it_steps(tmp_path, monkeypatch):
    """Through ``fit``, ten steps: every group's rate at the moment of its step, and its decay."""
    seen, step_of = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        seen.append([(group["lr"], group["weight_decay"], group["decays"]) for group in self.param_groups])
        return step_of(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    recipe = Recipe(lr=PEAK, warmup=0.3, weight_decay=0.04, final_weight_decay=0.4, rates={"head": 1e-4})
    result = fit(
        tiny_objective("dino"),
        tiny_loader("dino"),
        recipe=recipe,
        budget=Budget(samples=63, batch=6),  # three samples more than ten steps take
        precision="fp32",
        folder=tmp_path,
        runtime=Runtime(device="cpu", checkpoint_seconds=1e9),
        label="dino",
    )
    theirs = stepped(lambda o: get_cosine_schedule_with_warmup(o, 3, 10), 10)
    decays = loop_cosine(0.04, 0.4, 10)
    assert len(seen) == 10
    assert alike([line["lr"] for line in result.history], theirs)
    for groups, rate, decay in zip(seen, theirs, decays, strict=True):
        assert len(groups) == 4
        for got, expected in zip(groups, [rate, rate, rate / 30, rate / 30], strict=True):
            assert got[0] == pytest.approx(expected, rel=1e-12)
            assert got[1] == pytest.approx(decay if got[2] else 0.0, rel=1e-12)


# facebookresearch/dino.


def dino_schedule(base, final, epochs, niter_per_ep, warmup_epochs=0, start_warmup_value=0.0):
    """``utils.cosine_scheduler``, written anew as a loop.

    Its warm-up is a linspace, which includes its end: the peak comes in the last step of the warm-up, and
    again in the first of the cosine, whose angle is pi times i over the number of steps left.
    """
    warm = int(warmup_epochs * niter_per_ep)
    left = epochs * niter_per_ep - warm
    done = [step / (warm - 1) if warm > 1 else 0.0 for step in range(warm)]
    line = [start_warmup_value + share * (base - start_warmup_value) for share in done]
    return line + [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / left)) for i in range(left)]


@pytest.mark.parametrize(("epochs", "each", "warm"), [(10, 4, 1), (10, 4, 3), (5, 1, 2), (20, 3, 10)])
@pytest.mark.parametrize("final", [0.0, 1e-6])
def test_the_learning_rate_is_dinos_without_its_second_peak(epochs, each, warm, final):
    """W of T steps of ours are W + 1 of T + 1 of DINO's, of which one repeats the peak."""
    steps, ramp = epochs * each, warm * each
    ours = rates_of(Recipe(lr=PEAK, final_lr=final, warmup=ramp / steps), steps)
    theirs = dino_schedule(PEAK, final, steps + 1, 1, ramp + 1)
    assert theirs[ramp] == theirs[ramp + 1] == PEAK
    assert alike(ours, theirs[: ramp + 1] + theirs[ramp + 2 :])


@pytest.mark.parametrize(
    ("epochs", "each", "warm"), [(10, 4, 0), (10, 4, 3), (5, 1, 2), (20, 3, 10), (9, 1, 1)]
)
def test_with_the_same_epochs_only_the_slope_of_dinos_warm_up_differs(epochs, each, warm):
    """Theirs rises by base / (W - 1) a step and ours by base / W; from step W on they are equal."""
    steps, ramp = epochs * each, warm * each
    ours = rates_of(Recipe(lr=PEAK, final_lr=1e-6, warmup=warm / epochs), steps)
    theirs = dino_schedule(PEAK, 1e-6, epochs, each, warm)
    assert alike(ours[ramp:], theirs[ramp:])
    assert ours[:ramp] == pytest.approx([rate * (ramp - 1) / ramp for rate in theirs[:ramp]], rel=1e-12)
    if ramp > 1:
        assert theirs[ramp - 1] - ours[ramp - 1] == pytest.approx(PEAK / ramp), "at most one step of the ramp"


@pytest.mark.parametrize(("epochs", "each"), [(10, 4), (7, 1), (1, 1), (1, 5)])
def test_weight_decay_and_momentum_equal_dinos(epochs, each):
    """They have no warm-up: the same steps, the same values, and 0.4 and 1 just not reached."""
    steps = epochs * each
    recipe = Recipe(weight_decay=0.04, final_weight_decay=0.4)
    ours = [weight_decay(recipe, at(step, steps)) for step in range(steps)]
    assert alike(ours, dino_schedule(0.04, 0.4, epochs, each))
    kept = [momentum_of(0.996, 1.0, at(step, steps)) for step in range(steps)]
    theirs = dino_schedule(0.996, 1.0, epochs, each)
    assert alike(kept, theirs)
    assert ours[-1] < 0.4 and kept[-1] < 1.0


# lightly.


@pytest.mark.parametrize(("steps", "warm"), [(40, 0), (40, 4), (40, 20), (37, 5), (200, 1), (2, 1)])
@pytest.mark.parametrize("final", [0.0, 1e-6])
def test_the_learning_rate_equals_lightlys_from_the_second_step_to_the_end(steps, warm, final):
    """Its warm-up skips zero, it has the peak twice as DINO does, and its last step has the final rate.

    T + 1 steps of theirs are steps 1 to W and W to T of ours, of which the last is the end that we never
    take. Its values are factors of the optimiser's rate.
    """
    theirs = stepped(
        lambda o: CosineWarmupScheduler(o, warm, steps + 1, start_value=1.0, end_value=final / PEAK),
        steps + 1,
    )
    ours = rates_of(Recipe(lr=PEAK, final_lr=final, warmup=warm / steps), steps, steps + 1)
    assert alike(ours[1 : warm + 1] + ours[warm:], theirs)
    assert theirs[-1] == pytest.approx(final, rel=1e-12, abs=1e-18)


# One schedule for all groups, and no memory of the steps before.


def test_groups_with_their_own_peak_follow_the_same_curve():
    model = nn.ModuleDict({"text": nn.Linear(3, 3), "image": nn.Linear(3, 3)})
    recipe = Recipe(lr=PEAK, warmup=0.25, weight_decay=0.3, rates={"text": 5e-5})
    optimizer = build_optimizer(model, recipe)
    for step in (0, 3, 10, 25, 39):
        set_rates(optimizer, recipe, at(step, 40))
        for group in optimizer.param_groups:
            text = any(p is q for p in group["params"] for q in model["text"].parameters())
            expected = loop_rates(5e-5 if text else PEAK, 0.0, 10, 40)[step]
            assert group["lr"] == pytest.approx(expected, rel=1e-12)
            assert group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0.0)


def test_rates_do_not_depend_on_the_order_in_which_they_are_asked_for():
    """A resumed run begins in the middle."""
    layer = nn.Linear(2, 2)
    recipe = Recipe(lr=PEAK, warmup=0.25, weight_decay=0.04, final_weight_decay=0.4)
    fresh, used = build_optimizer(layer, recipe), build_optimizer(layer, recipe)
    for step in (3, 39, 0, 11):
        set_rates(used, recipe, at(step, 40))
    set_rates(fresh, recipe, at(11, 40))
    for a, b in zip(fresh.param_groups, used.param_groups, strict=True):
        assert (a["lr"], a["weight_decay"]) == (b["lr"], b["weight_decay"])
