"""The numbers by which a collapse is known, against loops, and what objectives make of them."""

import math

import pytest
import torch
import torch.nn.functional as F

from objectives import tiny_loader, tiny_objective
from paribus.objectives.collapse import COLLAPSED, entropy, spread
from paribus.types import Clock

MIDDLE = Clock(5, 50, 100)


def units(*shape):
    torch.manual_seed(0)
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_spread_is_the_root_of_the_total_variance():
    vectors = units(7, 2, 5)
    roots = []
    for view in range(2):
        variances = [
            sum((float(vectors[i, view, d]) - float(vectors[:, view, d].mean())) ** 2 for i in range(7)) / 7
            for d in range(5)
        ]
        roots.append(math.sqrt(sum(variances)))
    assert spread(vectors).item() == pytest.approx(sum(roots) / 2, rel=1e-12)


def test_spread_is_nought_for_one_vector_and_one_for_opposites():
    one = units(1, 8)
    assert spread(one.expand(6, 8)).item() == pytest.approx(0.0, abs=1e-7)
    assert spread(torch.cat([one, -one])).item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("p", [[1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [1 / 3] * 3])
def test_entropy_is_that_of_its_definition(p):
    expected = -sum(x * math.log(x) for x in p if x)
    assert entropy(torch.tensor([p], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)


def information(objective, teacher, centre, temperature):
    """Picture and prototype's mutual information by a loop over pictures."""
    logits = objective.teacher_head.logits(teacher).detach()
    targets = [torch.softmax((row - centre) / temperature, dim=-1).double() for row in logits.flatten(0, 1)]
    mean = sum(targets) / len(targets)
    return sum(float((p * (p / mean).log()).sum()) for p in targets) / len(targets)


def test_information_is_the_mean_divergence_from_the_mean_target():
    objective = tiny_objective("dino")
    teacher = F.normalize(torch.randn(9, 2, 8), dim=-1)
    encoded = {"student": F.normalize(torch.randn(9, 4, 8), dim=-1), "teacher": teacher}
    told = objective.loss(encoded, MIDDLE).parts["teacher_information"].item()
    expected = information(objective, teacher, objective.centre, objective.temperature(MIDDLE))
    assert told == pytest.approx(expected, rel=1e-4)
    assert told > 0.01


@pytest.mark.parametrize("sharp", [False, True])
def test_a_teacher_that_tells_all_the_same_is_a_collapse_whether_flat_or_sharp(sharp):
    objective = tiny_objective("dino")
    one = objective.teacher_head.last[:1] * 50 if sharp else torch.zeros(1, 8)
    encoded = {"student": torch.randn(5, 4, 8), "teacher": one.expand(5, 2, 8)}
    line = {name: float(value) for name, value in objective.loss(encoded, MIDDLE).parts.items()}
    assert list(objective.symptoms(line, MIDDLE)) == ["collapse of the teacher"]
    assert not objective.symptoms(line, Clock(0, 5, 100)), "an untrained teacher tells nothing apart either"


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinotxt", "simclr", "dino", "hybrid"])
def test_what_is_untrained_and_well_shows_no_collapse(kind):
    objective = tiny_objective(kind)
    clock = Clock(0, 0, 100)
    objective.begin_step(clock)
    losses = objective.loss(objective.encode(tiny_loader(kind, batch=12).make(0)), clock)
    line = {name: float(value) for name, value in losses.parts.items()}
    assert objective.symptoms(line, clock) == {}


@pytest.mark.parametrize(
    ("kind", "encoding", "named"),
    [
        ("clip", "text", "collapse of the text tower"),
        ("siglip", "text", "collapse of the text tower"),
        ("dinotxt", "image", "collapse of the image tower"),
        ("simclr", "views", "collapse of the encoder"),
    ],
)
def test_one_vector_for_everything_is_a_collapse(kind, encoding, named):
    objective = tiny_objective(kind)
    encoded = objective.encode(tiny_loader(kind, batch=12).make(0))
    encoded[encoding] = encoded[encoding][:1].expand_as(encoded[encoding])
    line = {name: float(value) for name, value in objective.loss(encoded, MIDDLE).parts.items()}
    assert list(objective.symptoms(line, MIDDLE)) == [named]


def test_a_hybrid_names_the_part():
    objective = tiny_objective("hybrid")
    objective.begin_step(MIDDLE)
    encoded = objective.encode(tiny_loader("hybrid", batch=12).make(0))
    encoded["siglip/text"] = encoded["siglip/text"][:1].expand_as(encoded["siglip/text"])
    line = {name: float(value) for name, value in objective.loss(encoded, MIDDLE).parts.items()}
    found = objective.symptoms(line, MIDDLE)
    assert list(found) == ["siglip: collapse of the text tower"]
    assert "captions one vector" in next(iter(found.values()))
    assert line["siglip/text_spread"] < COLLAPSED
