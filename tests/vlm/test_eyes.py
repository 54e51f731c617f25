"""Eyes see what their encoders give, in the order that is said; what is frozen stays so."""

import pytest
import torch
import torch.nn.functional as F
from objectives import ENCODER, relative, same_bits
from pydantic import ValidationError

from paribus.encoders.vision import EncoderConfig, VisionEncoder, weights_digest
from paribus.errors import UserError
from paribus.vlm.connector import LinearConfig, ResamplerConfig, build_connector
from paribus.vlm.eyes import EyesConfig, build_eyes, regrid

HIDDEN = 12
FIRST = ENCODER
"""16 wide, a grid of 4 x 4."""
FINE = EncoderConfig(patch=2, width=8, depth=3, heads=2, mlp_ratio=2.0, image_size=12, pool="map")
"""8 wide, a grid of 6 x 6, no class token."""
COARSE = EncoderConfig(patch=8, width=24, depth=2, heads=2, mlp_ratio=2.0, image_size=16, registers=3)
"""24 wide, a grid of 2 x 2, registers."""
RESAMPLER = ResamplerConfig(queries=5, heads=2, depth=1)

SETS = [(FIRST,), (FINE,), (COARSE,), (FIRST, FINE), (FIRST, COARSE), (COARSE, FINE, FIRST)]
each_set = pytest.mark.parametrize("encoders", SETS, ids=lambda s: "-".join(str(e.grid) for e in s))


def pictures(encoders, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(batch, 3, e.image_size, e.image_size, generator=generator).to(dtype) for e in encoders]


def opened(encoders, seed=0, hidden=HIDDEN, **settings):
    """Eyes in float64 with encoders whose every weight matters."""
    built = [VisionEncoder(encoder, place) for place, encoder in enumerate(encoders)]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for encoder in built:
            for p in encoder.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return build_eyes(EyesConfig(**settings), built, hidden, seed).double()


# One encoder.


@pytest.mark.parametrize("encoder", [FIRST, FINE, COARSE])
@pytest.mark.parametrize("layer", [-1, -2])
def test_patches_are_read_alone_from_the_layer_asked_for(encoder, layer):
    eyes, images = opened((encoder,), layer=layer), pictures((encoder,))
    expected = eyes.encoders[0](images[0], layer=layer).patches
    assert torch.equal(eyes.look(images), expected)
    other = eyes.encoders[0](images[0], layer=-3 - layer).patches
    assert not torch.allclose(other, expected)


def test_the_default_layer_is_before_the_last_block_and_norm():
    """By hooks on the encoder's own blocks."""
    eyes, states = opened((FINE,)), []
    for block in eyes.encoders[0].blocks:
        block.register_forward_hook(lambda _module, _given, out: states.append(out))
    seen = eyes.look(pictures((FINE,)))
    assert len(states) == 2, "of three blocks the last is not even computed"
    assert torch.equal(seen, states[-1])


@pytest.mark.parametrize(("encoder", "front"), [(FIRST, 1), (FINE, 0), (COARSE, 4)])
def test_all_tokens_are_the_sequence_as_the_blocks_have_it(encoder, front):
    """Class token, registers, patches; of a head that pools, patches alone."""
    eyes, states = opened((encoder,), tokens="all"), []
    eyes.encoders[0].blocks[-2].register_forward_hook(lambda _module, _given, out: states.append(out))
    images = pictures((encoder,))
    seen = eyes.look(images)
    assert torch.equal(seen, states[0])
    assert seen.shape == (2, front + encoder.grid**2, encoder.width)
    assert eyes.seen_tokens == seen.shape[1]
    patches = opened((encoder,)).look(images)
    assert torch.equal(seen[:, front:], patches)


# Several.


@each_set
@pytest.mark.parametrize("merge", ["channel", "interleave"])
@pytest.mark.parametrize("connector", [LinearConfig(), RESAMPLER])
def test_shapes_and_costs_are_as_said(encoders, merge, connector):
    eyes = opened(encoders, merge=merge, connector=connector)
    seen = eyes.look(pictures(encoders))
    assert seen.shape == (2, eyes.seen_tokens, eyes.width)
    assert (eyes.seen_tokens, eyes.width) == (encoders[0].grid ** 2, sum(e.width for e in encoders))
    words = eyes.project(seen)
    assert words.shape == (2, eyes.tokens, HIDDEN)
    assert torch.equal(eyes(pictures(encoders)), words)
    assert eyes.config.words(encoders) == eyes.tokens
    assert eyes.config.parameters(encoders, HIDDEN) == sum(p.numel() for p in eyes.connector.parameters())


@pytest.mark.parametrize(("merge", "flops"), [("channel", 16 * 24 * 12), ("interleave", 16 * (16 + 8) * 12)])
def test_cost_is_that_of_all_connectors(merge, flops):
    config = EyesConfig(merge=merge, connector=LinearConfig())
    assert config.flops((FIRST, FINE), HIDDEN) == 2 * flops


def bilinear(grid, side):
    """A grid ``[h w D]`` at ``side`` x ``side`` points, by definition: centres of cells, edges clamped."""
    given, out = len(grid), torch.empty(side, side, grid.shape[-1], dtype=grid.dtype)
    for row in range(side):
        for column in range(side):
            at = [min(max((i + 0.5) * given / side - 0.5, 0.0), given - 1.0) for i in (row, column)]
            low = [int(a) for a in at]
            high = [min(i + 1, given - 1) for i in low]
            (down, right), (top, left), (bottom, end) = (
                [a - i for a, i in zip(at, low, strict=True)],
                low,
                high,
            )
            above = (1 - right) * grid[top, left] + right * grid[top, end]
            below = (1 - right) * grid[bottom, left] + right * grid[bottom, end]
            out[row, column] = (1 - down) * above + down * below
    return out


@pytest.mark.parametrize(("given", "side"), [(6, 4), (2, 4), (4, 4), (3, 7), (5, 1)])
def test_a_grid_is_brought_to_another_by_bilinear_interpolation(given, side):
    patches = torch.randn(2, given**2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([bilinear(one.reshape(given, given, 3), side) for one in patches])
    assert relative(regrid(patches, side), expected.reshape(2, side**2, 3)) < 1e-14


@pytest.mark.parametrize("merge", ["channel", "interleave"])
def test_what_is_seen_is_everyones_patches_side_by_side(merge):
    encoders = (FIRST, FINE, COARSE)
    eyes, images = opened(encoders, merge=merge), pictures(encoders)
    parts = eyes.look(images).split([16, 8, 24], dim=-1)
    for encoder, image, part in zip(eyes.encoders, images, parts, strict=True):
        own = encoder(image, layer=-2).patches
        side = encoder.config.grid
        expected = torch.stack([bilinear(one.reshape(side, side, -1), 4) for one in own])
        assert relative(part, expected.flatten(1, 2)) < 1e-13


def test_one_connector_reads_all_channels():
    eyes = opened((FIRST, COARSE), connector=LinearConfig())
    seen = eyes.look(pictures((FIRST, COARSE)))
    weight = eyes.connector.layer.weight
    expected = seen[..., :16] @ weight[:, :16].T + seen[..., 16:] @ weight[:, 16:].T
    assert relative(eyes.project(seen), expected + eyes.connector.layer.bias) < 1e-13


@pytest.mark.parametrize("connector", [LinearConfig(), RESAMPLER])
def test_words_come_in_turns(connector):
    encoders = (FIRST, COARSE, FINE)
    eyes = opened(encoders, merge="interleave", connector=connector)
    seen = eyes.look(pictures(encoders))
    words = eyes.project(seen)
    parts = seen.split([16, 24, 8], dim=-1)
    own = [one(part) for one, part in zip(eyes.connector.connectors, parts, strict=True)]
    for place in range(words.shape[1]):
        assert torch.equal(words[:, place], own[place % 3][:, place // 3])


def test_a_single_encoder_needs_no_turns():
    one, other = (opened((FIRST,), merge=merge) for merge in ("channel", "interleave"))
    assert same_bits(one.state_dict(), other.state_dict())
    assert torch.equal(one(pictures((FIRST,))), other(pictures((FIRST,))))


# Weights and gradients.


@pytest.mark.parametrize("merge", ["channel", "interleave"])
def test_the_connector_depends_on_the_seed_alone(merge):
    settings = {"merge": merge, "connector": RESAMPLER}
    torch.manual_seed(5)
    one = opened((FIRST, COARSE), **settings)
    torch.manual_seed(6)
    built = [VisionEncoder(FIRST, 7), VisionEncoder(COARSE, 8)]
    same = build_eyes(EyesConfig(**settings, layer=-1), built, HIDDEN, 0).double()
    assert same_bits(one.connector.state_dict(), same.connector.state_dict())
    other = opened((FIRST, COARSE), seed=1, **settings)
    assert weights_digest(one.connector) != weights_digest(other.connector)


def test_connectors_of_equal_eyes_differ_and_the_first_is_as_if_alone():
    eyes = opened((FIRST, FIRST), merge="interleave")
    first, second = eyes.connector.connectors
    assert same_bits(first.state_dict(), opened((FIRST,)).connector.state_dict())
    assert same_bits(
        first.state_dict(), build_connector(eyes.config.connector, 16, HIDDEN, 0).double().state_dict()
    )
    assert not torch.allclose(first.layers[0].weight, second.layers[0].weight)


def heard(module):
    return {name for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("merge", ["channel", "interleave"])
def test_the_connector_learns_and_frozen_encoders_do_not(merge):
    eyes = opened((FIRST, FINE), merge=merge)
    seen = eyes.look(pictures((FIRST, FINE)))
    assert not seen.requires_grad
    assert seen.grad_fn is None
    eyes.project(seen).square().sum().backward()
    assert heard(eyes.connector) == {name for name, _ in eyes.connector.named_parameters()}
    assert all(p.grad.any() for p in eyes.connector.parameters())
    assert not heard(eyes.encoders)
    assert not any(p.requires_grad for p in eyes.encoders.parameters())


def test_an_unfrozen_encoder_learns_and_its_frozen_neighbour_does_not():
    eyes, images = opened((FIRST, FINE)), pictures((FIRST, FINE))
    eyes.encoders[0].requires_grad_(True)
    eyes(images).square().sum().backward()
    assert not heard(eyes.encoders[1])
    unread = ("blocks.1.", "norm.", "register_tokens")  # after layer -2, and of no registers
    expected = {n for n, _ in eyes.encoders[0].named_parameters() if not n.startswith(unread)}
    assert expected <= heard(eyes.encoders[0])
    assert all(p.grad.any() for n, p in eyes.encoders[0].named_parameters() if n in expected)


@pytest.mark.parametrize(("frozen", "outside"), [(True, True), (False, True), (False, False)])
def test_an_encoder_keeps_a_graph_only_if_it_learns_and_the_caller_does(frozen, outside):
    eyes, images, seen = opened((FIRST,)), pictures((FIRST,)), []
    eyes.encoders.requires_grad_(not frozen)
    block = eyes.encoders[0].blocks[0]
    block.register_forward_hook(lambda _module, _given, out: seen.append(out.requires_grad))
    with torch.set_grad_enabled(outside):
        eyes.look([image.requires_grad_() for image in images])
    assert seen == [outside and not frozen]


def test_an_unfrozen_encoders_gradient_is_the_true_one():
    """A weight of the first block, by finite differences."""
    eyes, images = opened((FIRST, FINE), merge="interleave"), pictures((FIRST, FINE))
    eyes.encoders[0].requires_grad_(True)
    eyes(images).square().sum().backward()
    weight = eyes.encoders[0].blocks[0].mlp[0].weight
    losses = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight[1, 2] += step
            losses.append(eyes(images).square().sum())
            weight[1, 2] -= step
    assert weight.grad[1, 2].item() == pytest.approx(((losses[0] - losses[1]) / 2e-6).item(), rel=1e-5)


def test_training_mode_does_not_change_what_is_seen():
    eyes, images = opened((FIRST, COARSE)), pictures((FIRST, COARSE))
    assert torch.equal(eyes.train().look(images), eyes.eval().look(images))


def test_what_is_saved_has_names_that_rates_can_address():
    eyes = opened((FIRST, FINE), merge="interleave", connector=LinearConfig())
    assert {name for name, p in eyes.named_parameters() if p.requires_grad} == {
        f"connector.connectors.{place}.layer.{kind}" for place in (0, 1) for kind in ("weight", "bias")
    }


# Bad input.


@pytest.mark.parametrize(
    ("encoders", "settings", "complaint"),
    [
        ((FIRST, FINE), {"tokens": "all"}, r"vlm.eyes.tokens is all, but of several encoders"),
        ((), {}, "name at least one"),
        ((FINE, FIRST), {"layer": -3}, r"layer is -3, but an encoder has 2 blocks: take -2 to -1"),
        ((FIRST,), {"connector": ResamplerConfig(heads=5)}, "heads is 5, but what it reads is 16 wide"),
    ],
)
def test_encoders_that_cannot_be_read_so_are_refused(encoders, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        opened(encoders, **settings)


@pytest.mark.parametrize("settings", [{"layer": 0}, {"merge": "sum"}, {"tokens": "cls"}, {"layers": -2}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        EyesConfig(**settings)


def test_images_must_be_the_encoders():
    eyes, images = opened((FIRST, FINE)), pictures((FIRST, FINE))
    with pytest.raises(ValueError, match="zip"):
        eyes.look(images[:1])
    with pytest.raises(ValueError, match=r"images of \(12, 12\) for an encoder of 16 pixels"):
        eyes.look(images[::-1])


def test_half_precision_passes_through():
    """Under autocast, and where grids differ."""
    eyes = build_eyes(EyesConfig(), [VisionEncoder(FIRST, 0), VisionEncoder(FINE, 0)], HIDDEN, 0)
    images = pictures((FIRST, FINE), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = eyes(images)
    assert F.mse_loss(half.float(), eyes(images)) < 1e-3 * eyes(images).square().mean()
