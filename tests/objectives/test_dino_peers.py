"""DINO equals lightly's loss, centre, temperature, teacher, head and frozen layer, and loops over scalars.

lightly 1.6 means over the same pairs of views as ours: all but those of a view with itself.
"""

import copy
import math

import peers  # noqa: F401 - before lightly
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.modules.center import Center
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule

from paribus.objectives.dino import Head, dino_loss
from paribus.types import Clock

from . import in_float64, tiny_loader, tiny_objective

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm:FutureWarning"
)  # lightly's head has the old one

OUT, BOTTLENECK = 24, 8
"""Of ``tiny_objective``'s head."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def single(value):
    """lightly rounds temperatures to float32 whatever the logits are; ours is given the same value."""
    return torch.tensor(value, dtype=torch.float32).item()


def close(ours, theirs, tolerance=1e-12):
    """Within ``tolerance`` of the largest value, which has to be one."""
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0, "nothing to compare"
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def at(step, steps, batch=6):
    """The clock as training has it when ``step`` begins."""
    return Clock(step, step * batch, steps * batch)


def encodings(count, locals_, seed=0):
    """What ``encode`` returns, unit bottlenecks; with a mean that is not zero, so that the centre moves."""
    views, mean = {"student": 2 + locals_, "teacher": 2}, normal(BOTTLENECK, seed=99)
    return {
        name: F.normalize(mean + normal(count, number, BOTTLENECK, seed=seed + number), dim=-1)
        for name, number in views.items()
    }


def distiller(**changes):
    """A tiny DINO in float64 whose teacher is not its student and whose logits are far from uniform."""
    objective = tiny_objective("dino", drop_path=0.0, **changes).double()
    with torch.no_grad():
        for seed, p in enumerate(objective.teacher_head.parameters()):
            p.add_(0.5 * normal(*p.shape, seed=100 + seed))
        objective.teacher_head.gain.fill_(1.0)
    return objective


# The loss and the centre.


def loss_module(dims, **settings):
    return DINOLoss(dims, **settings).double()


@pytest.mark.parametrize("temperature", [0.04, 0.055, 0.07, 1.0])
@pytest.mark.parametrize("locals_", [0, 1, 8])
@pytest.mark.parametrize(("count", "dims"), [(1, 2), (3, 17), (16, 65)])
def test_the_loss_and_its_gradients_equal_lightlys(count, dims, locals_, temperature):
    student, teacher = normal(count, 2 + locals_, dims, seed=1), normal(count, 2, dims, seed=2)
    theirs = loss_module(dims)
    theirs.center = normal(1, 1, dims, seed=3)
    a, b = (student.clone().requires_grad_() for _ in range(2))
    ours = dino_loss(a, teacher, theirs.center.flatten().clone(), single(temperature))
    expected = theirs([*teacher.unbind(1)], [*b.unbind(1)], teacher_temp=temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    ours.backward()
    expected.backward()
    assert close(a.grad, b.grad)


def test_one_teacher_view_has_pairs_with_all_others_in_both():
    """Not what DINO trains with, but where a wrong count of pairs shows most."""
    student, teacher, centre = normal(4, 3, 9, seed=1), normal(4, 1, 9, seed=2), torch.zeros(9).double()
    expected = loss_module(9)([*teacher.unbind(1)], [*student.unbind(1)], teacher_temp=1.0)
    assert dino_loss(student, teacher, centre, 1.0).item() == pytest.approx(expected.item(), rel=1e-12)
    wrong = dino_loss(student.flip(1), teacher, centre, 1.0)
    assert wrong.item() != pytest.approx(expected.item(), rel=1e-3), "the first view is the one left out"


@pytest.mark.parametrize(("count", "locals_"), [(5, 0), (5, 3), (300, 2)])
@pytest.mark.parametrize("momentum", [0.9, 0.0, 0.5])
def test_losses_gradients_and_centres_over_six_steps_equal_lightlys(count, locals_, momentum):
    """Center on its own, and DINOLoss, which moves its centre inside the call where ours waits for the step.

    Three hundred samples are more than any tile may hold at once.
    """
    settings = {"temperature_warmup": 0.0, "temperature": single(0.07), "centre_momentum": momentum}
    objective, steps = distiller(norm_last=False, **settings), 6
    centre = Center(size=(1, 1, OUT), momentum=momentum).double()
    whole = loss_module(OUT, teacher_temp=0.07, center_momentum=momentum)
    last = objective.head.last, objective.head.gain
    for step in range(steps):
        encoded = encodings(count, locals_, seed=10 * step)
        inputs = [encoded["student"].requires_grad_(), *last]
        with torch.no_grad():
            teacher = objective.teacher_head.logits(encoded["teacher"])
        expected = whole([*teacher.unbind(1)], [*objective.head.logits(inputs[0]).unbind(1)])
        slopes = torch.autograd.grad(expected, inputs)
        before = objective.centre.clone()
        losses = objective.loss(encoded, at(step, steps))
        losses.total.backward()
        assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)
        for value, slope in zip(inputs, slopes, strict=True):
            assert close(value.grad, slope, 1e-11)
            value.grad = None
        assert torch.equal(objective.centre, before), "the loss is of the centre before this batch"
        objective.after_step(at(step, steps))
        centre.update(teacher)
        assert close(objective.centre, centre.value.flatten())
        assert close(objective.centre, whole.center.flatten())
    assert objective.centre.norm() > 0.1


# The teacher's temperature.


def test_the_temperature_equals_lightlys_where_epochs_begin():
    """n epochs of warm-up are the fraction (n - 1) / epochs: its linspace ends at the last of the n.

    At every first step of an epoch both agree; within one, lightly's stands still and ours goes on.
    """
    epochs, warm, per_epoch = 12, 5, 4
    theirs = loss_module(9, teacher_temp=0.07, warmup_teacher_temp_epochs=warm)
    objective = tiny_objective("dino", temperature_warmup=(warm - 1) / epochs)
    student, teacher = normal(4, 3, 9, seed=1), normal(4, 2, 9, seed=2)
    between = []
    for step in range(epochs * per_epoch):
        epoch = step // per_epoch
        ours, theirs.center = objective.temperature(at(step, epochs * per_epoch)), torch.zeros(1, 1, 9)
        said = theirs.teacher_temp_schedule[epoch].item() if epoch < warm else theirs.teacher_temp
        if step % per_epoch:
            between.append(ours - said)
            continue
        assert ours == pytest.approx(said, rel=1e-6)
        expected = theirs([*teacher.unbind(1)], [*student.unbind(1)], epoch=epoch).item()
        loss = dino_loss(student, teacher, torch.zeros(9).double(), ours).item()
        assert loss == pytest.approx(expected, rel=1e-6)
    line = 0.03 / (warm - 1)
    expected = [
        line * k / per_epoch if epoch < warm - 1 else 0.0
        for epoch in range(epochs)
        for k in range(1, per_epoch)
    ]
    assert between == pytest.approx(expected, abs=1e-8)


def test_with_the_plain_fraction_the_temperature_lags_by_less_than_a_step_of_lightlys():
    """As ``temperature_warmup`` is used, n / epochs: equal at the start and from epoch n on.

    In between theirs is higher by the rise times e / n / (n - 1): at most a n-th of the rise, at e = n - 1.
    """
    epochs, warm = 12, 5
    theirs = DINOLoss(9, teacher_temp=0.07, warmup_teacher_temp_epochs=warm).teacher_temp_schedule
    objective = tiny_objective("dino", temperature_warmup=warm / epochs)
    for epoch in range(epochs):
        said = theirs[epoch].item() if epoch < warm else 0.07
        lag = 0.03 * epoch / (warm * (warm - 1)) if epoch < warm else 0.0
        assert said - objective.temperature(at(epoch, epochs)) == pytest.approx(lag, abs=1e-8)
    assert theirs[warm - 1].item() - objective.temperature(at(warm - 1, epochs)) == pytest.approx(0.03 / warm)


@pytest.mark.parametrize(("warm", "fraction"), [(0, 0.0), (1, 1 / 12)])
def test_the_shortest_warm_ups_of_the_temperature_equal_lightlys(warm, fraction):
    """One epoch of it is a linspace of one value, the cold one; ours needs 1 / epochs for that, not 0."""
    theirs = loss_module(9, teacher_temp=0.07, warmup_teacher_temp_epochs=warm)
    objective = tiny_objective("dino", temperature_warmup=fraction)
    student, teacher = normal(4, 3, 9, seed=1), normal(4, 2, 9, seed=2)
    for epoch in range(12):
        ours = objective.temperature(at(epoch, 12))
        assert ours == pytest.approx(0.04 if epoch < warm else 0.07, rel=1e-12)
        theirs.center = torch.zeros(1, 1, 9)
        expected = theirs([*teacher.unbind(1)], [*student.unbind(1)], epoch=epoch).item()
        loss = dino_loss(student, teacher, torch.zeros(9).double(), ours)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


# The teacher's weights.


def momentum_of(objective, clock):
    """What ``after_step`` takes: a teacher of zeros under a student of ones ends at one minus it."""
    with torch.no_grad():
        for slow, fast in ((objective.teacher, objective.student), (objective.teacher_head, objective.head)):
            for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                p.zero_()
                q.fill_(1.0)
    objective.after_step(clock)
    modules = objective.teacher, objective.teacher_head
    values = torch.cat([p.flatten() for module in modules for p in module.parameters()])
    assert values.min() == values.max(), "one momentum for all weights"
    return 1.0 - values[0].item()


@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.9, 0.99), (0.99, 0.99)])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_momentum_is_lightlys_of_one_step_more(steps, start, end):
    """lightly divides by ``max_steps - 1`` and so reaches the end in the last step; we divide by the budget.

    Step s of T of ours is step s of T + 1 of theirs. The closed form is facebookresearch/dino's.
    """
    objective = distiller(momentum=start, final_momentum=end)
    for step in {0, 1, steps // 2, steps - 1, steps} & set(range(steps + 1)):
        ours = momentum_of(objective, at(step, steps))
        assert ours == pytest.approx(cosine_schedule(step, steps + 1, start, end), rel=1e-12)
        closed = end - (end - start) * (math.cos(math.pi * step / steps) + 1) / 2
        assert ours == pytest.approx(closed, rel=1e-12)


def test_the_last_step_still_moves_the_teacher_and_lightlys_does_not():
    """Of T steps in both, theirs is ahead, most at 65% of the way: by 0.91 (end - start) / (T - 1)."""
    steps, objective = 100, distiller(momentum=0.9)
    assert cosine_schedule(steps - 1, steps, 0.9, 1.0) == 1.0
    assert 0 < 1.0 - momentum_of(objective, at(steps - 1, steps)) < 1e-4
    gaps = [
        cosine_schedule(step, steps, 0.9, 1.0) - momentum_of(objective, at(step, steps))
        for step in range(steps)
    ]
    assert all(gap >= -1e-15 for gap in gaps)
    assert max(gaps) == pytest.approx(0.91 * 0.1 / (steps - 1), rel=0.02)
    assert gaps.index(max(gaps)) == pytest.approx(0.65 * steps, abs=1)


def test_the_teacher_after_every_step_equals_lightlys():
    """The student wanders; encoder and head follow, through a whole budget of eight steps."""
    objective, steps = distiller(momentum=0.7), 8
    teacher, head = copy.deepcopy(objective.teacher), copy.deepcopy(objective.teacher_head)
    for step in range(steps):
        with torch.no_grad():
            for seed, p in enumerate([*objective.student.parameters(), objective.head.last]):
                p.add_(normal(*p.shape, seed=1000 * step + seed))
        objective.after_step(at(step, steps))
        momentum = cosine_schedule(step, steps + 1, 0.7, 1.0)
        update_momentum(objective.student, teacher, momentum)
        update_momentum(objective.head, head, momentum)
        for ours, theirs in ((objective.teacher, teacher), (objective.teacher_head, head)):
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    apart = objective.teacher.blocks[0].attn.qkv.weight - objective.student.blocks[0].attn.qkv.weight
    assert apart.abs().max() > 0.1


# The head and its last layer.


def lightlys_head(head, freeze=-1):
    """lightly's with our weights: ``weight_v`` are the rows of any length, ``weight_g`` their gains."""
    out, bottleneck = head.last.shape
    peer = DINOProjectionHead(
        head.mlp[0].in_features,
        head.mlp[0].out_features,
        bottleneck,
        out,
        batch_norm=False,
        freeze_last_layer=freeze,
        norm_last_layer=not head.gain.requires_grad,
    ).to(head.last.dtype)
    assert torch.equal(peer.last_layer.weight_g, torch.ones_like(head.gain)), "gains start at one in both"
    peer.layers.load_state_dict(head.mlp.state_dict())
    peer.last_layer.weight_v.data.copy_(head.last.detach())
    peer.last_layer.weight_g.data.copy_(head.gain.detach())
    return peer


def parameters_of(head, peer):
    yield from zip(head.mlp.parameters(), peer.layers.parameters(), strict=True)
    yield head.last, peer.last_layer.weight_v
    yield head.gain, peer.last_layer.weight_g


@pytest.mark.parametrize("norm_last", [True, False])
def test_the_head_and_its_gradients_equal_lightlys(norm_last):
    head = Head(16, 24, 8, 40, norm_last=norm_last).double()
    if not norm_last:
        head.gain.data = normal(40, 1, seed=8).exp()
    peer = lightlys_head(head)
    a, b = (normal(6, 16).requires_grad_() for _ in range(2))
    weights = normal(6, 40, seed=4)
    ours, theirs = head.logits(head(a)), peer(b)
    assert close(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert close(a.grad, b.grad)
    for one, other in parameters_of(head, peer):
        assert one.requires_grad == other.requires_grad
        assert not other.requires_grad or close(one.grad, other.grad, 1e-11)
    assert (head.gain.grad is None) == norm_last == (peer.last_layer.weight_g.grad is None)


@pytest.mark.parametrize("norm_last", [True, False])
@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_the_last_layer_is_frozen_in_the_same_steps_as_lightlys(frozen, norm_last):
    """n of five epochs are the fraction n / 5: its gradients are gone, and no other's."""
    epochs, per_epoch = 5, 3
    objective = tiny_objective("dino", freeze_last=frozen / epochs, norm_last=norm_last)
    peer, seen = lightlys_head(objective.head, freeze=frozen), 0
    for step in range(epochs * per_epoch):
        for p in [*objective.parameters(), *peer.parameters()]:
            p.grad = torch.ones_like(p) if p.requires_grad else None
        objective.before_step(at(step, epochs * per_epoch))
        peer.cancel_last_layer_gradients(step // per_epoch)
        for one, other in parameters_of(objective.head, peer):
            assert (one.grad is None) == (other.grad is None)
        assert all(p.grad is not None for p in objective.student.parameters())
        assert all(p.grad is not None for p in objective.head.mlp.parameters())
        seen += objective.head.last.grad is None
    assert seen == frozen * per_epoch


# All of it.


@pytest.mark.parametrize("norm_last", [True, False])
def test_gradients_of_the_whole_objective_equal_lightlys(norm_last):
    """Crops to gradients of every weight of the student, with lightly's heads and loss on our encoder."""
    warm = {"warmup_temperature": single(0.055), "temperature": single(0.055)}
    objective, batch = in_float64(distiller(norm_last=norm_last, **warm), tiny_loader("dino").make(0))
    objective.centre = normal(OUT, seed=9)
    encoder, head = copy.deepcopy(objective.student), lightlys_head(objective.head)
    teacher_head = lightlys_head(objective.teacher_head)
    theirs = loss_module(OUT)
    theirs.center = objective.centre.clone().view(1, 1, OUT)
    globals_ = [batch.views[name][:, 0] for name in ("global1", "global2")]
    with torch.no_grad():
        targets = [teacher_head(objective.teacher(crop).cls) for crop in globals_]
    predictions = [head(encoder(crop).cls) for crop in [*globals_, *batch.views["local"].unbind(1)]]
    expected = theirs(targets, predictions, teacher_temp=0.055)
    expected.backward()
    losses = objective.loss(objective.encode(batch), at(1, 10))
    losses.total.backward()
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = zip(objective.student.parameters(), encoder.parameters(), strict=True)
    for one, other in [*weights, *parameters_of(objective.head, head)]:
        assert not other.requires_grad or not other.numel() or close(one.grad, other.grad, 1e-10)


def test_eight_steps_of_descent_equal_a_loop_of_lightlys_parts():
    """SGD, so that nothing but DINO is compared: freezing, warm-up, loss, centre and teacher, all moving."""
    steps, frozen, warm = 8, 2, 4
    settings = {"freeze_last": frozen / steps, "temperature_warmup": (warm - 1) / steps, "momentum": 0.8}
    objective, loader = distiller(**settings), tiny_loader("dino")
    encoder, teacher = copy.deepcopy(objective.student), copy.deepcopy(objective.teacher)
    head, teacher_head = lightlys_head(objective.head, freeze=frozen), lightlys_head(objective.teacher_head)
    theirs = loss_module(OUT, teacher_temp=0.07, warmup_teacher_temp_epochs=warm)
    mine = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.3)
    other = torch.optim.SGD([*encoder.parameters(), *(p for p in head.parameters() if p.requires_grad)], 0.3)
    start = objective.head.last.detach().clone()
    for step in range(steps):
        _, batch = in_float64(objective, loader.make(step))
        globals_ = [batch.views[name][:, 0] for name in ("global1", "global2")]
        with torch.no_grad():
            targets = [teacher_head(teacher(crop).cls) for crop in globals_]
        outputs = [head(encoder(crop).cls) for crop in [*globals_, *batch.views["local"].unbind(1)]]
        expected = theirs(targets, outputs, epoch=step)
        ours = objective.loss(objective.encode(batch), at(step, steps)).total
        assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
        for loss, optimizer in ((ours, mine), (expected, other)):
            optimizer.zero_grad()
            loss.backward()
        objective.before_step(at(step, steps))
        head.cancel_last_layer_gradients(step)
        mine.step()
        other.step()
        objective.after_step(at(step, steps))
        momentum = cosine_schedule(step, steps + 1, 0.8, 1.0)
        update_momentum(encoder, teacher, momentum)
        update_momentum(head, teacher_head, momentum)
        assert torch.equal(objective.head.last, start) == (step < frozen)
    assert close(objective.centre, theirs.center.flatten(), 1e-6)
    pairs = [
        *zip(objective.student.parameters(), encoder.parameters(), strict=True),
        *zip(objective.teacher.parameters(), teacher.parameters(), strict=True),
        *parameters_of(objective.head, head),
        *parameters_of(objective.teacher_head, teacher_head),
    ]
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(objective.student.pos_embed, objective.teacher.pos_embed, atol=1e-4)


# A program in loops over samples, views and classes.


def softmax(values):
    shift = max(values)
    powers = [math.exp(value - shift) for value in values]
    return [power / sum(powers) for power in powers]


def loop_logits(vectors, head):
    """The weight-normed last layer on nested lists of vectors: every row of unit length, times its gain."""
    if isinstance(vectors[0], list):
        return [loop_logits(vector, head) for vector in vectors]
    out = []
    for row, (gain,) in zip(head.last.tolist(), head.gain.tolist(), strict=True):
        length = math.sqrt(sum(weight * weight for weight in row))
        out.append(gain * sum(x * w for x, w in zip(vectors, row, strict=True)) / length)
    return out


def loop_dino(student, teacher, centre, temperature):
    """Algorithm 1 on lists of logits: the loss, its slope for every student logit, the teacher's entropy."""
    classes = range(len(centre))
    pairs = sum(s != t for t in range(len(teacher[0])) for s in range(len(student[0])))
    share = 1.0 / (pairs * len(student))
    total, entropy = 0.0, 0.0
    slopes = [[[0.0 for _ in classes] for _ in views] for views in student]
    for b, views in enumerate(student):
        for t, target in enumerate(teacher[b]):
            p = softmax([(target[k] - centre[k]) / temperature for k in classes])
            entropy -= sum(v * math.log(v) for v in p if v > 0) / len(student) / len(teacher[b])
            for s, view in enumerate(views):
                if s == t:
                    continue
                q = softmax([value / 0.1 for value in view])
                for k in classes:
                    total -= share * p[k] * math.log(q[k])
                    slopes[b][s][k] += share * (q[k] - p[k]) / 0.1
    return total, slopes, entropy


def loop_centre(centre, teacher, momentum):
    """The moving mean over samples and views."""
    count = len(teacher) * len(teacher[0])
    return [
        momentum * centre[k] + (1 - momentum) * sum(view[k] for views in teacher for view in views) / count
        for k in range(len(centre))
    ]


@pytest.mark.parametrize(("count", "locals_"), [(1, 0), (3, 2), (7, 4)])
def test_loss_slopes_entropy_and_centre_equal_loops(count, locals_):
    """Four steps through ``loss`` and ``after_step``; slopes down to the bottlenecks."""
    objective, steps, centre = distiller(norm_last=False), 4, [0.0] * OUT
    with torch.no_grad():
        objective.head.gain.copy_(normal(OUT, 1, seed=6).exp())
    axes = loop_logits(torch.eye(BOTTLENECK).tolist(), objective.head)
    for step in range(steps):
        encoded, clock = encodings(count, locals_, seed=10 * step), at(step, steps)
        student = loop_logits(encoded["student"].tolist(), objective.head)
        teacher = loop_logits(encoded["teacher"].tolist(), objective.teacher_head)
        temperature = 0.04 + 0.03 * min(1.0, step / steps / 0.3)
        expected, slopes, entropy = loop_dino(student, teacher, centre, temperature)
        down = [
            [[sum(k * w for k, w in zip(slope, axis, strict=True)) for axis in axes] for slope in views]
            for views in slopes
        ]
        encoded["student"].requires_grad_()
        losses = objective.loss(encoded, clock)
        losses.total.backward()
        assert losses.total.item() == pytest.approx(expected, rel=1e-11)
        assert losses.parts["dino"].item() == pytest.approx(expected, rel=1e-11)
        assert losses.parts["teacher_entropy"].item() == pytest.approx(entropy, rel=1e-8)
        length = math.sqrt(sum(value * value for value in centre))
        assert losses.parts["centre_norm"].item() == pytest.approx(length, rel=1e-11)
        assert close(encoded["student"].grad, torch.tensor(down, dtype=torch.float64), 1e-10)
        objective.after_step(clock)
        centre = loop_centre(centre, teacher, 0.9)
        assert close(objective.centre, torch.tensor(centre, dtype=torch.float64))
        with torch.no_grad():
            objective.teacher_head.last.add_(normal(OUT, BOTTLENECK, seed=step))
    assert objective.centre.norm() > 0.05
