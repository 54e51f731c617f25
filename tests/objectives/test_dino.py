"""DINO equals the reference implementation: loss, centre, head, teacher, frozen layer, stochastic depth."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import dino as reference
from scipy.stats import binomtest

from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder, in_unit
from paribus.objectives import dino
from paribus.objectives.dino import Dino, Head, dino_loss
from paribus.objectives.residuals import keep_residuals
from paribus.train.loop import fit
from paribus.types import Batch, Budget, Clock, Recipe, Runtime

from . import ENCODER, Largest, in_float64, tiny_config, tiny_loader, tiny_objective


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def view_by_view(x):
    """``[B V K]`` as the reference wants it: ``[V * B, K]``."""
    return x.transpose(0, 1).flatten(0, 1)


def clock(fraction, total=1000):
    return Clock(step=0, seen=round(fraction * total), total=total)


# The loss.


@pytest.mark.parametrize(("count", "views", "dims"), [(1, 2, 5), (2, 4, 16), (5, 10, 33), (16, 3, 64)])
@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_loss_and_gradients_equal_the_reference(count, views, dims, temperature):
    student, teacher = normal(count, views, dims, seed=1), normal(count, 2, dims, seed=2)
    expected_of = reference.DinoLoss(dims, views)
    expected_of.centre = normal(1, dims, seed=3)
    mine, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    ours = dino_loss(mine, teacher, expected_of.centre[0].clone(), temperature)
    expected = expected_of(view_by_view(theirs), view_by_view(teacher), temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    ours.backward()
    expected.backward()
    assert torch.allclose(mine.grad, theirs.grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("tile", [1, 2, 3, 6])
def test_tiles_change_neither_loss_gradients_nor_centre_and_bound_what_is_held(monkeypatch, tile):
    batch = tiny_loader("dino", batch=6).make(0)
    objective, batch = in_float64(tiny_objective("dino", norm_last=False, out=1024), batch)
    objective.centre.copy_(normal(1024, seed=4))
    encoded = {name: value.detach().requires_grad_() for name, value in objective.encode(batch).items()}
    found = []
    for samples in (6, tile):
        monkeypatch.setattr(dino, "TILE", samples)
        objective.zero_grad()
        encoded["student"].grad = None
        with Largest() as watch:
            losses = objective.loss(encoded, clock(0.5))
            losses.total.backward()
        last = [encoded["student"].grad, objective.head.last.grad, objective.head.gain.grad]
        found.append([losses.total, *losses.parts.values(), objective.batch_centre.clone(), *last])
        assert watch.elements <= max(samples * 4, 8) * 1024
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-14) for a, b in zip(*found, strict=True))


def test_a_view_is_not_compared_with_itself():
    """Student views far from everything on their own place cost nothing; elsewhere they cost."""
    teacher = torch.zeros(1, 2, 3, dtype=torch.float64)
    teacher[0, 0, 0] = teacher[0, 1, 1] = 10.0
    crossed = teacher.flip(1)
    centre = torch.zeros(3, dtype=torch.float64)
    assert dino_loss(crossed, teacher, centre, 0.04).item() < 1e-6
    assert dino_loss(teacher, teacher, centre, 0.04).item() > 50.0


def test_the_teacher_gets_no_gradient():
    objective, batch = tiny_objective("dino"), tiny_loader("dino").make(0)
    objective.loss(objective.encode(batch), clock(0.5)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher_head.parameters())
    assert objective.head.last.grad is not None


# The head.


def test_the_head_equals_torchs_weight_norm_with_its_gain_at_one():
    head = Head(16, 24, 8, 40, norm_last=True).double()
    peer = reference.DinoHead(16, 24, 8, 40).double()
    peer.mlp.load_state_dict(head.mlp.state_dict())
    weight = peer.last_layer.parametrizations.weight
    weight.original1.data.copy_(head.last)
    x, target = normal(6, 16), normal(6, 40, seed=4)
    ours, theirs = head.logits(head(x)), peer(x)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    (ours * target).sum().backward()
    (theirs * target).sum().backward()
    assert torch.allclose(head.last.grad, weight.original1.grad, rtol=1e-9, atol=1e-13)
    for a, b in zip(head.mlp.parameters(), peer.mlp.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-13)
    assert not head.gain.requires_grad
    assert head.gain.grad is None


def test_the_gain_learns_where_it_is_not_fixed():
    head = Head(16, 24, 8, 40, norm_last=False).double()
    head.logits(head(normal(6, 16))).square().sum().backward()
    assert head.gain.grad.abs().min() > 0
    with torch.no_grad():
        before = head.logits(head(normal(6, 16)))
        head.gain.mul_(3.0)
        assert torch.allclose(head.logits(head(normal(6, 16))), 3.0 * before)


# Schedules, the centre and the teacher.


def test_the_temperature_warms_up_in_a_line():
    objective = tiny_objective("dino")
    for fraction in np.linspace(0, 1, 41):
        at = clock(fraction)
        expected = np.interp(at.fraction, [0, 0.3], [0.04, 0.07])
        assert objective.temperature(at) == pytest.approx(expected, rel=1e-12)
    still = Dino.Config(temperature_warmup=0.0)
    objective.config = still
    assert objective.temperature(clock(0.0)) == 0.07


def test_the_centre_after_k_steps_equals_the_reference():
    objective, batches = tiny_objective("dino"), list(tiny_loader("dino")(0, 5))
    expected = reference.DinoLoss(24, views=4)
    with torch.no_grad():
        for p in objective.teacher_head.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        for step, batch in enumerate(batches):
            encoded = objective.encode(batch)
            student, teacher = (
                objective.head.logits(encoded["student"]),
                objective.teacher_head.logits(encoded["teacher"]),
            )
            now = Clock(step, step, 5)
            losses = objective.loss(encoded, now)
            theirs = expected(view_by_view(student), view_by_view(teacher), objective.temperature(now))
            assert losses.total.item() == pytest.approx(theirs.item(), rel=1e-5)
            objective.after_step(now)
    assert objective.centre.norm() > 0.01
    assert torch.allclose(objective.centre.double(), expected.centre[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("step", [0, 3, 7, 9])
def test_the_teacher_follows_with_a_cosine_momentum(step):
    objective, batch = in_float64(tiny_objective("dino", momentum=0.9), tiny_loader("dino").make(0))
    objective.loss(objective.encode(batch), Clock(step, step, 10))
    with torch.no_grad():
        for number, p in enumerate(objective.student.parameters()):
            p.add_(normal(*p.shape, seed=number))
        objective.head.last.add_(1.0)
    before, before_head = copy.deepcopy(objective.teacher), copy.deepcopy(objective.teacher_head)
    momentum = reference.cosine_schedule(0.9, 1.0, 10)[step]
    reference.move_teacher(before, objective.student, momentum)
    reference.move_teacher(before_head, objective.head, momentum)
    objective.after_step(Clock(step, step, 10))
    for a, b in zip(objective.teacher.parameters(), before.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)
    for a, b in zip(objective.teacher_head.parameters(), before_head.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)


def test_student_and_teacher_start_alike_and_the_teacher_is_shipped():
    objective = tiny_objective("dino")
    assert objective.encoder() is objective.teacher
    for a, b in zip(objective.student.parameters(), objective.teacher.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr() or not a.numel()


@pytest.mark.parametrize("norm_last", [True, False])
def test_the_last_layer_stands_still_while_it_is_frozen(tmp_path, norm_last):
    """A quarter of twelve steps: three. Weight decay and momentum must not move it either."""
    seen = []

    class Watched(Dino):
        def after_step(self, clock):
            super().after_step(clock)
            seen.append((self.head.last.detach().clone(), self.head.gain.detach().clone()))

    config = tiny_config("dino", freeze_last=0.25, norm_last=norm_last)
    made = Watched(config, VisionEncoder(ENCODER), Material(), 0)
    start, gain = made.head.last.detach().clone(), made.head.gain.detach().clone()
    recipe = Recipe(lr=1e-2, warmup=0.0, weight_decay=0.5)
    fit(made, tiny_loader("dino"), **settings(tmp_path, recipe, steps=12))
    assert all(torch.equal(last, start) and torch.equal(g, gain) for last, g in seen[:3])
    assert not torch.equal(seen[3][0], start)
    assert torch.equal(seen[3][1], gain) == norm_last


def settings(folder, recipe, steps):
    return {
        "recipe": recipe,
        "budget": Budget(samples=6 * steps, batch=6),
        "precision": "fp32",
        "folder": folder / "checkpoints",
        "runtime": Runtime(device="cpu", checkpoint_seconds=1e9),
        "label": "dino",
    }


def test_ten_steps_of_training_equal_the_reference_loop(tmp_path):
    """train_one_epoch of main_dino.py on the same pixels: student, teacher, head and centre.

    In float64: attention is blind to the keys' bias, so its gradient is rounding alone, which Adam blows up.
    """
    steps = 10
    decays = {"weight_decay": 0.04, "final_weight_decay": 0.4}
    clips = {"clip": 0.05, "clip_by": "tensor"}
    recipe = Recipe(lr=2e-3, warmup=0.0, final_lr=1e-5, betas=(0.9, 0.999), eps=1e-8, **decays, **clips)
    objective = tiny_objective("dino", drop_path=0.0, freeze_last=0.3, momentum=0.9).double()
    start = copy.deepcopy(objective)
    student = torch.nn.ModuleList([copy.deepcopy(objective.student), weight_normed(objective.head)])
    teacher = copy.deepcopy(student)

    def batches(first, stop):
        for batch in tiny_loader("dino")(first, stop):
            yield replace(batch, views={name: in_unit(view).double() for name, view in batch.views.items()})

    fit(objective, batches, **settings(tmp_path, recipe, steps))
    centre = train_as_published(student, teacher, list(batches(0, steps)), recipe)
    pairs = [
        *zip(objective.student.parameters(), student[0].parameters(), strict=True),
        *zip(objective.teacher.parameters(), teacher[0].parameters(), strict=True),
        *zip(objective.head.mlp.parameters(), student[1].mlp.parameters(), strict=True),
        (objective.head.last, student[1].last_layer.parametrizations.weight.original1),
        (objective.teacher_head.last, teacher[1].last_layer.parametrizations.weight.original1),
        (objective.centre, centre[0]),
    ]
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    moved = objective.student.blocks[0].attn.qkv.weight - start.student.blocks[0].attn.qkv.weight
    assert moved.abs().max() > 3e-3, "ten steps must be something to compare"
    assert not torch.equal(objective.head.last, start.head.last)


def weight_normed(head):
    peer = reference.DinoHead(16, 16, 8, 24).double()
    peer.mlp.load_state_dict(head.mlp.state_dict())
    peer.last_layer.parametrizations.weight.original1.data.copy_(head.last.detach())
    return peer


def train_as_published(student, teacher, batches, recipe):
    """The reference's loop; its schedules are arrays over steps. Returns the centre."""
    steps = len(batches)
    rates = reference.cosine_schedule(recipe.lr, recipe.final_lr, steps)
    decays = reference.cosine_schedule(recipe.weight_decay, recipe.final_weight_decay, steps)
    momenta = reference.cosine_schedule(0.9, 1.0, steps)
    temperatures = reference.temperature_schedule(0.04, 0.07, 0.3 * steps, steps)
    loss_of = reference.DinoLoss(24, views=4)
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if name.endswith(".bias") or p.ndim == 1]
    decayed = [p for name, p in named if not (name.endswith(".bias") or p.ndim == 1)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], betas=recipe.betas, eps=recipe.eps
    )
    for step, batch in enumerate(batches):
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = rates[step]
            if number == 0:
                group["weight_decay"] = decays[step]
        globals_ = [batch.views["global1"][:, 0], batch.views["global2"][:, 0]]
        crops = [*globals_, *batch.views["local"].unbind(1)]
        with torch.no_grad():
            targets = torch.cat([teacher[1](teacher[0](crop).cls) for crop in globals_])
        outputs = torch.cat([student[1](student[0](crop).cls) for crop in crops])
        loss = loss_of(outputs, targets, temperatures[step])
        optimizer.zero_grad()
        loss.backward()
        reference.clip_gradients([p for _, p in named], recipe.clip)
        if step < 0.3 * steps:
            reference.cancel_last_layer(named)
        optimizer.step()
        reference.move_teacher(teacher, student, momenta[step])
    return loss_of.centre


# Stochastic depth.


def many(count, seed=0):
    ids = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
    return Batch(ids, {}, [""] * count, [()] * count, seed)


def keep_of(objective, batch, name, views):
    depth, rate = objective.student.config.depth, objective.config.drop_path
    return keep_residuals(batch, name, views, depth, rate, objective.head.last)


def test_drop_rates_rise_in_a_line_over_depth():
    """Block 0 is never dropped; every residual's rate is the reference's, and survivors are scaled up."""
    objective, depth = tiny_objective("dino", drop_path=0.4), 2
    keep = keep_of(objective, many(4000), "global", 2)
    assert keep.shape == (depth, 8000, 2)
    for block, rate in enumerate(reference.drop_rates(0.4, depth)):
        for residual in (0, 1):
            values = keep[block, :, residual]
            assert set(values.unique().tolist()) <= {0.0, float(np.float32(1 / (1 - rate)))}
            dropped = int((values == 0).sum())
            assert dropped == 0 if rate == 0 else binomtest(dropped, 8000, rate).pvalue > 1e-4


def test_drops_are_keyed_by_sample_view_block_residual_and_step():
    objective = tiny_objective("dino", drop_path=0.5)
    keep = keep_of(objective, many(2000), "global", 2)[1]
    assert torch.equal(keep, keep_of(objective, many(2000), "global", 2)[1])
    halves = [
        keep_of(objective, many(2000)[rows], "global", 2)[1] for rows in (slice(0, 700), slice(700, 2000))
    ]
    assert torch.equal(torch.cat(halves), keep)
    first, second = keep.unflatten(0, (2000, 2)).unbind(1)
    others = {
        "view": (first[:, 0], second[:, 0]),
        "residual": (keep[:, 0], keep[:, 1]),
        "crop kind": (keep, keep_of(objective, many(2000), "local", 2)[1]),
        "step": (keep, keep_of(objective, many(2000, seed=1), "global", 2)[1]),
        "sample": (keep[:-2], keep[2:]),
    }
    for name, (a, b) in others.items():
        same = int((a == b).sum())
        assert binomtest(same, a.numel(), 0.5).pvalue > 1e-4, name


def test_only_the_student_drops():
    objective, batch = tiny_objective("dino", drop_path=0.9), tiny_loader("dino").make(0)
    objective.train()
    with torch.no_grad():
        encoded = objective.encode(batch)
        crops = [batch.views[name][:, 0] for name in ("global1", "global2")]
        for view, crop in enumerate(crops):
            plain = objective.teacher_head(objective.teacher(crop).cls)
            assert torch.allclose(encoded["teacher"][:, view], plain, atol=1e-6)
            bare = objective.head(objective.student(crop).cls)
            assert not torch.allclose(encoded["student"][:, view], bare, atol=1e-3)
    calm = tiny_objective("dino", drop_path=0.0)
    with torch.no_grad():
        encoded = calm.encode(batch)
        locals_ = batch.views["local"]
        expected = [calm.head(calm.student(locals_[:, view]).cls) for view in range(2)]
    assert torch.allclose(encoded["student"][:, 2:], torch.stack(expected, dim=1), atol=1e-6)


def test_unit_bottlenecks_globals_first():
    objective, batch = tiny_objective("dino"), tiny_loader("dino").make(0)
    encoded = objective.encode(batch)
    assert encoded["student"].shape == (6, 4, 8)
    assert encoded["teacher"].shape == (6, 2, 8)
    for value in encoded.values():
        assert torch.allclose(value.norm(dim=-1), torch.ones(value.shape[:-1]), atol=1e-6)


# What the log says, and the recipe.


def test_the_log_tells_collapse():
    """Teacher entropy is log K for a teacher that tells nothing apart, and near zero for a sharp one."""
    objective = tiny_objective("dino")
    flat = {"student": normal(5, 4, 8).float(), "teacher": torch.zeros(5, 2, 8)}
    parts = objective.loss(flat, clock(0.5)).parts
    assert parts["teacher_entropy"].item() == pytest.approx(np.log(24), rel=1e-5)
    sharp = flat | {"teacher": F.normalize(objective.teacher_head.last[:1], dim=-1).expand(5, 2, 8) * 50}
    assert objective.loss(sharp, clock(0.5)).parts["teacher_entropy"].item() < 0.05
    objective.after_step(clock(0.5))
    assert objective.loss(sharp, clock(0.5)).parts["centre_norm"].item() > 0.1


def test_without_local_crops_two_views_remain():
    config = Dino.Config(local_crops=0)
    assert [view.name for view in config.views()] == ["global1", "global2"]
    assert tiny_objective("dino", local_crops=0).image_forwards() == 4.0


def test_the_published_recipe():
    """facebookresearch/dino, main_dino.py: its defaults, with fractions for epochs."""
    config = Dino.Config()
    assert (config.out, config.hidden, config.bottleneck, config.norm_last) == (65_536, 2048, 256, True)
    assert (config.momentum, config.centre_momentum, config.drop_path) == (0.996, 0.9, 0.1)
    assert (config.warmup_temperature, config.temperature, config.temperature_warmup) == (0.04, 0.07, 0.3)
    first, second, local = config.views()
    assert (first.scale, second.scale, local.scale) == ((0.4, 1.0), (0.4, 1.0), (0.05, 0.4))
    assert (first.count, second.count, local.count) == (1, 1, 8)
    assert (first.size, second.size, round(local.size * 224)) == (1.0, 1.0, 96)
    assert (first.blur, second.blur, local.blur) == (1.0, 0.1, 0.5)
    assert (first.solarize, second.solarize, local.solarize) == (0.0, 0.2, 0.0)
    for view in (first, second, local):
        assert (view.flip, view.jitter, view.grayscale) == (0.5, 0.8, 0.2)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert view.ratio == (3 / 4, 4 / 3)
    changes = {confound.path.removeprefix("recipe."): confound.value for confound in config.departures}
    recipe = Recipe().model_copy(update=changes)
    assert (recipe.weight_decay, recipe.final_weight_decay) == (0.04, 0.4)
    assert (recipe.clip, recipe.clip_by, recipe.final_lr, recipe.warmup) == (3.0, "tensor", 1e-6, 0.1)
    assert (recipe.betas, recipe.eps) == ((0.9, 0.999), 1e-8)
