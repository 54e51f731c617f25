"""The batched linear probe against torch.optim.AdamW and scikit-learn, and against leaking."""

import dataclasses
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from paribus.errors import UserError
from paribus.probes import heads as stack
from paribus.probes import linear
from paribus.probes.heads import Heads, accuracies, mean_ious, train_heads
from paribus.probes.linear import Grid, fit_choices, fit_grid, held_out

QUICK = Grid(epochs=2, min_steps=40, batch=64)


@cache
def digits():
    """Handwritten digits, 1,200 to train and 597 to test, every three neighbours in the file one group."""
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    x, y = x[rows].astype(np.float32), y[rows].astype(np.int64)
    return (x[:1200], y[:1200], rows[:1200] // 3), (x[1200:], y[1200:])


def digit_probe(grid=QUICK, seed=0):
    (x, y, groups), _ = digits()
    return fit_grid(x, y, groups, 10, grid, seed)


def reference_head(x, y, classes, lr, weight_decay, grid, seed):
    """One head in a plain loop: nn.Linear, torch's AdamW (no decay on the bias), LambdaLR by global step."""
    head = torch.nn.Linear(x.shape[1], classes, dtype=x.dtype)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    groups = [
        {"params": [head.weight], "weight_decay": weight_decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    order = list(stack.batches(len(x), stack.epochs_of(len(x), grid), grid.batch, seed))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: stack.rate(step, len(order), grid.warmup)
    )
    for rows in order:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return head


def test_heads_equal_torch_adamw_one_by_one():
    (x, y, _), _ = digits()
    x, y = torch.from_numpy(x[:500]).double(), torch.from_numpy(y[:500])
    x = stack.Standard.of(x)(x)
    grid = Grid(epochs=3, batch=64, min_steps=60)
    settings = [(1e-3, 0.0), (1e-2, 1.0), (3e-2, 0.1)]
    heads, steps = train_heads(x, y, 10, settings, grid, 5)
    assert steps == 64
    for g, (lr, weight_decay) in enumerate(settings):
        head = reference_head(x, y, 10, lr, weight_decay, grid, 5)
        torch.testing.assert_close(heads.weight[g], head.weight.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(heads.bias[g], head.bias.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("decays", [(0.0, 1.0), (0.3, 0.1)])
def test_large_heads_equal_torch_adamw_one_by_one(monkeypatch, decays):
    """What is too large for one product goes head by head, with the same outcome."""
    (x, y, _), _ = digits()
    x, y = torch.from_numpy(x[:500]).double(), torch.from_numpy(y[:500])
    x = stack.Standard.of(x)(x)
    grid = Grid(epochs=3, batch=64, min_steps=60)
    settings = [(1e-3, decays[0]), (1e-2, decays[1])]
    together, _ = train_heads(x, y, 10, settings, grid, 5)
    monkeypatch.setattr(stack, "TOGETHER", 0)
    apart, _ = train_heads(x, y, 10, settings, grid, 5)
    torch.testing.assert_close(apart.weight, together.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(apart.bias, together.bias, rtol=0, atol=1e-9)


def test_gradients_in_bfloat16_are_close_to_float64():
    """Within the rounding of eight bits, of a head and of samples that are not easy."""
    rng = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(1, 20, 64, generator=rng, dtype=torch.float64)
    bias = torch.randn(1, 20, generator=rng, dtype=torch.float64)
    x = torch.randn(500, 64, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 20, (500,), generator=rng)
    exact = stack.head_gradients(stack.Heads(weight, bias), x, y)
    rounded = stack.head_gradients(stack.Heads(weight, bias).to(torch.bfloat16), x.bfloat16(), y)
    for ours, wanted in zip(rounded, exact, strict=True):
        assert float((ours.double() - wanted).norm() / wanted.norm()) < 0.01


def test_gradients_equal_autograd():
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    x = torch.randn(11, 7, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 5, (11,), generator=rng)
    loss = sum(torch.nn.functional.cross_entropy(x @ weight[g].T + bias[g], y) for g in range(3))
    expected = torch.autograd.grad(loss, (weight, bias))
    with torch.no_grad():
        ours = stack.head_gradients(stack.Heads(weight, bias), x, y)
    torch.testing.assert_close(ours, expected)


def test_schedule_steps_globally():
    """One rise and one fall over the whole run, not one per epoch (the published probe's defect)."""
    rates = [stack.rate(step, 200, 0.1) for step in range(200)]
    assert np.argmax(rates) == 20
    assert rates[20] == 1.0
    assert np.all(np.diff(rates[:21]) > 0)
    assert np.all(np.diff(rates[20:]) < 0)
    assert rates[-1] < 1e-3
    assert stack.rate(0, 10, 0.0) == 1.0


def test_every_epoch_sees_every_sample_once():
    parts = list(stack.batches(103, 3, 25, 0))
    assert [len(part) for part in parts[:5]] == [21, 21, 21, 20, 20]
    epochs = [np.concatenate(parts[start : start + 5]) for start in (0, 5, 10)]
    assert all(np.array_equal(np.sort(epoch), np.arange(103)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_accuracy_is_close_to_scikit_learn():
    """On digits: within two points of the best of its regularisations, chosen with hindsight."""
    (x, y, _), (test_x, test_y) = digits()
    predicted = digit_probe(Grid()).predict(test_x)
    scaler = StandardScaler().fit(x)
    peers = [
        LogisticRegression(C=c, max_iter=500).fit(scaler.transform(x), y).predict(scaler.transform(test_x))
        for c in (0.01, 0.1, 1.0)
    ]
    best = max(peers, key=lambda peer: (peer == test_y).mean())
    assert (best == test_y).mean() > 0.95
    assert (predicted == test_y).mean() > (best == test_y).mean() - 0.02
    assert (predicted == best).mean() > 0.96


def test_shuffled_labels_give_chance():
    """Over 20 shuffles; pictures alike are answered alike, so the spread is taken over shuffles."""
    (x, y, groups), (test_x, test_y) = digits()
    rng = np.random.default_rng(1)
    probes = [fit_grid(x, rng.permutation(y), groups, 10, QUICK, 0) for _ in range(20)]
    scores = np.array([(probe.predict(test_x) == test_y).mean() for probe in probes])
    assert abs(scores.mean() - 0.1) < 3 * scores.std() / np.sqrt(20) < 0.03
    assert max(setting.score for probe in probes for setting in probe.grid) < 0.25


def test_the_chosen_setting_is_the_best_on_held_out_groups():
    """The record is reproduced from outside: split, standardise on the rest, train each head, count."""
    (x, y, groups), _ = digits()
    probe = digit_probe()
    held = held_out(y, groups, linear.numpy_rng(0, "probe", "validation"))
    assert probe.validation == held.sum()
    mean, std = x[~held].mean(0), x[~held].std(0)
    z = torch.from_numpy(np.where(std > 0, (x - mean) / np.where(std > 0, std, 1), 0).astype(np.float64))
    assert len(probe.grid) == 9
    for setting in probe.grid:
        head = reference_head(
            z[~held], torch.from_numpy(y[~held]), 10, setting.lr, setting.weight_decay, QUICK, 0
        )
        hits = (head(z[held]).argmax(1).numpy() == y[held]).mean()
        assert setting.score == pytest.approx(hits, abs=1.5 / held.sum())
    assert probe.chosen.score == max(setting.score for setting in probe.grid)


def test_ties_go_to_the_smaller_rate():
    """Two well separated classes: every setting is perfect."""
    x = np.repeat(np.array([[-9.0, 1.0], [9.0, 1.0]], np.float32), 50, axis=0)
    x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    y = np.repeat(np.arange(2), 50)
    probe = fit_grid(x, y, np.arange(100), 2, QUICK, 0)
    assert {setting.score for setting in probe.grid} == {1.0}
    assert (probe.chosen.lr, probe.chosen.weight_decay) == (min(QUICK.lrs), max(QUICK.weight_decays))


def test_test_samples_take_part_in_nothing():
    """A prediction depends on its own row only: no statistic of the test set, and no test label, enters."""
    _, (test_x, _) = digits()
    probe = digit_probe()
    together = probe.predict(test_x)
    alone = np.array([probe.predict(test_x[row : row + 1])[0] for row in range(50)])
    assert np.array_equal(together[:50], alone)
    moved = np.concatenate([test_x[:50], test_x[50:] * 1000 + 77])
    assert np.array_equal(probe.predict(moved)[:50], alone)


def test_final_head_is_trained_on_all_of_train():
    (x, y, _), _ = digits()
    probe = digit_probe()
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    z = torch.from_numpy(np.where(std > 0, (x - mean) / np.where(std > 0, std, 1), 0))
    head = reference_head(z, torch.from_numpy(y), 10, probe.chosen.lr, probe.chosen.weight_decay, QUICK, 0)
    torch.testing.assert_close(probe.heads.weight[0].double(), head.weight.detach(), rtol=0, atol=1e-4)


def test_held_out_takes_whole_groups_and_leaves_every_class():
    rng = np.random.default_rng(0)
    for trial in range(30):
        y = rng.integers(0, 20, 2000)
        groups = rng.integers(0, 5, 2000) + 5 * y
        held = held_out(y, groups, np.random.default_rng(trial))
        assert not set(groups[held]) & set(groups[~held])
        assert set(y[~held]) == set(y)
        assert 0.15 <= held.mean() < 0.22


def test_held_out_keeps_a_group_that_is_a_whole_class():
    y = np.repeat(np.array([0, 0, 0, 0, 1]), 20)
    groups = np.repeat(np.array(["a", "b", "c", "d", "only"]), 20)
    for seed in range(10):
        held = held_out(y, groups, np.random.default_rng(seed))
        assert held.sum() == 20
        assert "only" not in groups[held]


def test_groups_matter():
    """Eight copies of each picture, labels at random: a split that breaks groups looks perfect."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(150, 64)).astype(np.float32)
    y = np.repeat(rng.integers(0, 5, 150), 8)
    x = np.repeat(pictures, 8, axis=0)
    grid = Grid(epochs=20, lrs=(1e-2,), weight_decays=(0.01,))
    whole = fit_grid(x, y, np.repeat(np.arange(150), 8), 5, grid, 0)
    broken = fit_grid(x, y, np.arange(1200), 5, grid, 0)
    assert broken.chosen.score > 0.9
    assert whole.chosen.score < 0.45


def test_scale_of_features_does_not_matter():
    (x, y, groups), (test_x, _) = digits()
    scale = np.exp(np.random.default_rng(0).normal(size=64) * 3)
    probe = digit_probe()
    other = fit_grid(x.astype(np.float64) * scale + 5, y, groups, 10, QUICK, 0)
    assert (probe.predict(test_x) == other.predict(test_x.astype(np.float64) * scale + 5)).mean() > 0.995


def test_dimension_without_spread_is_ignored():
    (x, y, groups), (test_x, _) = digits()
    padded = fit_grid(np.pad(x, ((0, 0), (0, 3)), constant_values=7.1), y, groups, 10, QUICK, 0)
    wild = np.pad(test_x, ((0, 0), (0, 3)), constant_values=-1e6)
    assert np.array_equal(padded.predict(wild), digit_probe().predict(test_x))


def test_absent_classes_are_never_predicted():
    (x, y, groups), (test_x, _) = digits()
    keep = np.isin(y, [2, 5, 7])
    probe = fit_grid(x[keep], y[keep], groups[keep], 10, QUICK, 0)
    assert set(probe.predict(test_x)) == {2, 5, 7}


PROGRAM = """
import torch, numpy as np
from tests.probes.test_linear import digit_probe, fingerprint
torch.manual_seed(7); np.random.seed(7); torch.set_num_threads(3)
print(fingerprint(digit_probe()))
assert torch.get_num_threads() == 3
"""


def fingerprint(probe) -> str:
    return f"{probe.heads.weight.double().sum().item().hex()} {probe.heads.weight[0, 3, 30]!r} {probe.chosen}"


def test_same_result_in_any_process():
    """Bit for bit, whatever the global generators, the hash seed and the number of threads."""
    threads = torch.get_num_threads()
    here = fingerprint(digit_probe())
    assert torch.get_num_threads() == threads
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert there.stdout.strip() == here


def test_seed_decides_the_split():
    assert digit_probe().grid != digit_probe(seed=1).grid


def test_bad_input():
    (x, y, groups), _ = digits()
    with pytest.raises(UserError, match="two classes"):
        fit_grid(x, np.zeros_like(y), groups, 10, QUICK, 0)
    with pytest.raises(UserError, match="5 classes"):
        fit_grid(x, y, groups, 5, QUICK, 0)
    with pytest.raises(UserError, match="not finite"):
        fit_grid(np.where(x > 15, np.nan, x), y, groups, 10, QUICK, 0)
    with pytest.raises(UserError, match="groups can be held out"):
        fit_grid(x, y, y, 10, QUICK, 0)
    with pytest.raises(UserError, match="groups can be held out"):
        fit_grid(x, y, np.zeros(len(y)), 10, QUICK, 0)
    with pytest.raises(ValueError, match="one per sample"):
        fit_grid(x, y, groups[1:], 10, QUICK, 0)


# Several readings of the same pictures.


def readings():
    """Digits as they are, their upper half, and noise."""
    (x, _, _), _ = digits()
    noise = np.random.default_rng(3).normal(size=(len(x), 7)).astype(np.float32)
    return {"noise": noise, "upper": x[:, :32], "whole": x}


def choose(grid=QUICK, **given):
    (_, y, groups), _ = digits()
    return fit_choices(given.pop("train", readings()), y, groups, 10, grid, 0, **given)


def test_the_best_reading_is_chosen_and_all_are_on_record():
    (_, y, groups), (test_x, test_y) = digits()
    made = choose()
    assert made.choice == "whole"
    assert [one.choice for one in made.tried] == ["noise"] * 9 + ["upper"] * 9 + ["whole"] * 9
    for name, each in readings().items():
        alone = fit_grid(each, y, groups, 10, QUICK, 0)
        found = [(one.lr, one.weight_decay, one.score) for one in made.tried if one.choice == name]
        assert found == [(one.lr, one.weight_decay, one.score) for one in alone.grid]
    assert made.probe.chosen.score == max(one.score for one in made.tried)
    assert (made.probe.predict(test_x) == test_y).mean() > 0.9


def test_one_reading_is_fit_grid_bit_for_bit():
    (x, _, _), _ = digits()
    made = choose(train={"whole": x}).probe
    assert fingerprint(made) == fingerprint(digit_probe())
    assert made.grid == digit_probe().grid


def test_equal_readings_tie_to_the_first_named():
    (x, _, _), _ = digits()
    assert choose(train={"b": x, "a": x}).choice == "b"


def test_a_split_of_ones_own_is_chosen_on():
    """Groups play no part then, and the record is of exactly those samples."""
    (x, y, _), _ = digits()
    own = np.zeros(len(y), bool)
    own[100:300] = True
    made = fit_choices({"x": x}, y, np.zeros(len(y)), 10, QUICK, 0, validation=own)
    assert made.probe.validation == 200
    mean, std = x[~own].mean(0), x[~own].std(0)
    z = torch.from_numpy(np.where(std > 0, (x - mean) / np.where(std > 0, std, 1), 0).astype(np.float64))
    head = reference_head(z[~own], torch.from_numpy(y[~own]), 10, 5e-3, 1.0, QUICK, 0)
    hits = (head(z[own]).argmax(1).numpy() == y[own]).mean()
    (setting,) = [one for one in made.tried if (one.lr, one.weight_decay) == (5e-3, 1.0)]
    assert setting.score == pytest.approx(hits, abs=1.5 / 200)
    for none in (np.zeros(len(y), bool), np.ones(len(y), bool)):
        with pytest.raises(UserError, match="validation split has"):
            fit_choices({"x": x}, y, np.zeros(len(y)), 10, QUICK, 0, validation=none)


def setting(lr, weight_decay, score=0.5):
    return linear.Tried(lr=lr, weight_decay=weight_decay, score=score, choice="x")


@pytest.mark.parametrize(
    ("best", "edge"),
    [((2, 1.0), False), ((1, 1.0), True), ((3, 1.0), True), ((2, 2.0), True), ((2, 0.0), False)],
)
def test_the_border_of_the_grid_is_told(best, edge):
    tried = tuple(setting(lr, decay) for lr in (1, 2, 3) for decay in (0.0, 1.0, 2.0))
    probe = dataclasses.replace(digit_probe(), chosen=setting(*best))
    assert linear.ChosenProbe("x", probe, tried).edge is edge
    alone = linear.ChosenProbe("x", probe, (setting(*best),))
    assert not alone.edge


def test_nothing_to_choose_from():
    with pytest.raises(UserError, match="no reading"):
        choose(train={})


def test_probabilities_are_a_softmax_in_the_order_of_labels():
    (x, y, groups), (test_x, _) = digits()
    keep = np.isin(y, [2, 5, 7])
    probe = fit_grid(x[keep], y[keep], groups[keep], 10, QUICK, 0)
    shares = probe.probabilities(test_x)
    assert shares.shape == (len(test_x), 3)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert np.array_equal(probe.labels[shares.argmax(1)], probe.predict(test_x))
    z = (test_x - probe.standard.mean.numpy()) * probe.standard.inverse.numpy()
    logits = z @ probe.heads.weight[0].numpy().T + probe.heads.bias[0].numpy()
    np.testing.assert_allclose(shares, scipy.special.softmax(logits, axis=1), atol=1e-5)


def test_principal_axes_decorrelate_and_are_turned_back():
    """The head is a head of the features as given: it answers like one trained on turned features."""
    (x, y, _), _ = digits()
    z = stack.Standard.of(torch.from_numpy(x).double())(torch.from_numpy(x).double())
    turn, variance = linear.principal_axes(z)
    torch.testing.assert_close(turn.T @ turn, torch.eye(64, dtype=z.dtype), rtol=0, atol=1e-10)
    covariance = turn.T @ z.T @ z @ turn / len(z)
    torch.testing.assert_close(covariance, variance.diag(), rtol=0, atol=1e-10)
    made = choose(train={"x": x.astype(np.float64)}, axes="principal").probe
    best = [(made.chosen.lr, made.chosen.weight_decay)]
    heads, _ = train_heads(z @ turn, torch.from_numpy(y), 10, best, QUICK, 0)
    torch.testing.assert_close(made.heads.logits(z), heads.logits(z @ turn), rtol=0, atol=1e-8)


def test_principal_axes_need_fewer_epochs():
    """Digits in a badly conditioned mixture, two epochs: as good in principal axes as without the mixture."""
    (x, _, _), (test_x, test_y) = digits()
    mix = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    given, turned = (choose(train={"x": x @ mix}, axes=axes) for axes in ("given", "principal"))
    given, turned = (((one.probe.predict(test_x @ mix) == test_y).mean()) for one in (given, turned))
    assert turned > given - 0.01
    assert turned > 0.9


def test_a_search_in_bfloat16_chooses_as_well():
    """What it chooses is within noise of the best in float32, and the final training is in float32."""
    exact, rounded = choose(), choose(precision="bfloat16")
    assert rounded.choice == exact.choice
    scores = {(one.choice, one.lr, one.weight_decay): one.score for one in exact.tried}
    chosen = scores[rounded.choice, rounded.probe.chosen.lr, rounded.probe.chosen.weight_decay]
    assert chosen >= exact.probe.chosen.score - 0.02
    (x, y, groups), _ = digits()
    best = Grid(
        **{**QUICK.model_dump(), "lrs": (rounded.probe.chosen.lr,)}
        | {"weight_decays": (rounded.probe.chosen.weight_decay,)}
    )
    again = fit_grid(x, y, groups, 10, best, 0)
    assert rounded.probe.heads.weight.dtype == torch.float32
    torch.testing.assert_close(rounded.probe.heads.weight, again.heads.weight, rtol=0, atol=0)


def test_mean_iou_of_each_head_is_that_of_its_answers():
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(700, 5)).astype(np.float32), rng.integers(0, 4, 700)
    y[y == 2] = 0  # a class that does not occur is not averaged over, though it may be said
    heads = Heads(torch.randn(3, 4, 5), torch.randn(3, 4))
    found = mean_ious(heads, torch.from_numpy(x), torch.from_numpy(y))
    said = heads.logits(torch.from_numpy(x)).argmax(2).numpy()
    peer = [jaccard_score(y, each, labels=[0, 1, 3], average="macro") for each in said.T]
    assert (said == 2).any() and found == pytest.approx(peer, abs=1e-12)


def test_what_a_probe_is_told_by_decides():
    """One class is rare: always the frequent one is right most often, and its mean IoU is poor."""
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.06).astype(np.int64)
    x = (rng.normal(size=(4000, 4)) + 1.2 * y[:, None]).astype(np.float32)
    grid = Grid(lrs=(1e-2,), weight_decays=(0.0, 30.0), epochs=4, min_steps=200)
    asked = (x, y, np.arange(4000), 2, grid, 0)
    by_score = {
        score: fit_choices({"": asked[0]}, *asked[1:], score=score) for score in (accuracies, mean_ious)
    }
    for made in by_score.values():
        assert made.probe.chosen.score == max(one.score for one in made.tried)
    tried = {score: [one.score for one in made.tried] for score, made in by_score.items()}
    assert tried[accuracies] != tried[mean_ious], "they are other numbers of the same heads"
    assert by_score[mean_ious].probe.chosen.weight_decay == 0.0
