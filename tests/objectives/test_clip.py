"""CLIP's loss equals transformers' and a loop in float64; the temperature is clamped; towers meet rightly."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference.clip import info_nce
from reference.towers import clip_text_of, vit_of
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from paribus.encoders.vision import in_unit
from paribus.objectives.clip import Clip
from paribus.objectives.contrastive import info_nce as clip_loss
from paribus.types import Clock, Recipe

from . import tiny_loader, tiny_objective

NOW = Clock(0, 0, 100)


def unit_vectors(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize(
    ("count", "width", "scale"), [(1, 4, 14.3), (2, 4, 1.0), (9, 16, 14.3), (17, 8, 100.0)]
)
def test_loss_equals_a_loop_in_float64(count, width, scale):
    image, text = unit_vectors(count, width, 1), unit_vectors(count, width, 2)
    ours = clip_loss(image, text, torch.tensor(scale, dtype=torch.float64))
    assert float(ours) == pytest.approx(info_nce(image.tolist(), text.tolist(), scale), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("count", [2, 9, 33])
def test_loss_and_gradients_equal_transformers(count):
    mine = [unit_vectors(count, 8, 1), unit_vectors(count, 8, 2), torch.tensor(20.0, dtype=torch.float64)]
    theirs = [value.clone().requires_grad_() for value in mine]
    mine = [value.requires_grad_() for value in mine]
    ours = clip_loss(*mine)
    image, text, scale = theirs
    expected = image_text_contrastive_loss(text @ image.t() * scale)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    ours.backward()
    expected.backward()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-14)


def test_gradients_equal_finite_differences():
    values = (unit_vectors(4, 3, 1), unit_vectors(4, 3, 2), torch.tensor(7.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(clip_loss, [value.requires_grad_() for value in values])


def test_the_whole_objective_equals_transformers_towers():
    """Pixels and words to loss: ViTModel, CLIPTextModel and transformers' loss on the same weights."""
    objective, batch = tiny_objective("clip"), tiny_loader("clip").make(0)
    space = objective.joint
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.mul_(2.0)
        objective.scale_log.fill_(math.log(30.0))
        vision, (text, swap) = vit_of(objective.image), clip_text_of(objective.joint.text)
        pixels = (in_unit(batch.views["image"][:, 0]) - 0.5) / 0.5
        image = vision(pixels).last_hidden_state[:, 0] @ space.image_proj.weight.T
        words = text(swap[space.text.tokenize(batch.texts)]).pooler_output @ space.text_proj.weight.T
        image, words = image / image.norm(dim=1, keepdim=True), words / words.norm(dim=1, keepdim=True)
        expected = image_text_contrastive_loss(words @ image.t() * 30.0)
        losses = objective.loss(objective.encode(batch), NOW)
    assert float(losses.total) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses.parts["clip"]) == float(losses.total)
    assert float(losses.parts["temperature"]) == pytest.approx(1 / 30, rel=1e-6)


def test_the_temperature_starts_at_the_published_one_and_learns():
    objective, batch = tiny_objective("clip"), tiny_loader("clip").make(0)
    assert float(objective.scale_log.detach()) == pytest.approx(math.log(1 / 0.07))
    objective.loss(objective.encode(batch), NOW).total.backward()
    assert float(objective.scale_log.grad) != 0.0


@pytest.mark.parametrize(("before", "after"), [(5.0, math.log(100)), (-0.3, 0.0), (2.5, 2.5)])
def test_the_temperature_is_clamped_as_open_clip_clamps_it(before, after):
    objective = tiny_objective("clip")
    objective.scale_log.data.fill_(before)
    objective.after_step(NOW)
    assert float(objective.scale_log.detach()) == pytest.approx(after, rel=1e-6)
    assert objective.scale_log.requires_grad


def test_matching_pairs_have_the_lower_loss():
    image = unit_vectors(8, 16)
    scale = torch.tensor(20.0, dtype=torch.float64)
    assert float(clip_loss(image, image, scale)) < 0.1 < float(clip_loss(image, image.roll(1, 0), scale))


def test_the_published_recipe():
    """open_clip: learning rate aside, decay 0.2, betas 0.9 and 0.98, eps 1e-6, one crop of 0.9 to 1."""
    config = Clip.Config()
    (view,) = config.views()
    assert (view.count, view.size, view.scale) == (1, 1.0, (0.9, 1.0))
    assert view.flip == view.jitter == view.grayscale == view.blur == view.solarize == 0.0
    assert (config.embed, config.temperature) == (512, 0.07)
    text = config.text
    assert (text.context, text.vocabulary, text.width, text.depth, text.heads) == (77, 49_408, 512, 12, 8)
    recipe = Recipe().model_copy(
        update={confound.path.removeprefix("recipe."): confound.value for confound in config.departures}
    )
    assert (recipe.weight_decay, recipe.betas, recipe.eps, recipe.clip) == (0.2, (0.9, 0.98), 1e-6, None)
