"""The vision transformer has the values and gradients of timm's, at its own size and at others.

One thing differs: timm resamples positions with antialiasing, with Keys' a = -0.5, and lets taps beyond the
edge go. Plain bicubic, which transformers and DINO take and so do we, has a = -0.75 and repeats the edge.
"""

import peers  # noqa: F401 - before timm
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch.func import functional_call

from encoders.checkpoints import normalised, perturbed, photographs
from paribus.encoders.vision import EncoderConfig, VisionEncoder

CONFIG = EncoderConfig(patch=8, width=32, depth=3, heads=4, mlp_ratio=3.0, image_size=32)
NAMES = {
    "patch_embed": "patch_embed.proj",
    "register_tokens": "reg_token",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
SIZES = [(48, 48), (24, 24), (16, 40), (64, 16)]
"""The last has as many patches as the trained size."""
registers = pytest.mark.parametrize("registers", [0, 3])


def their_name(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def encoder_of(registers):
    config = CONFIG.model_copy(update={"registers": registers})
    return perturbed(VisionEncoder(config, seed=1)).double()


def pictures(height, width):
    return photographs(64, 4)[..., :height, :width].double()


def timm_of(config, size, **settings):
    """It returns all its tokens."""
    return VisionTransformer(
        img_size=size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        reg_tokens=config.registers,
        global_pool="",
        num_classes=0,
        **settings,
    ).double()


def by_timm(encoder, images, model, resample=lambda positions: positions):
    """Tokens of timm's model on copies of our weights; and the copies, by our names.

    timm's registers have positions of their own: zero here, they are none of our weights.
    """
    copies = {n: p.detach().clone().requires_grad_() for n, p in encoder.named_parameters() if p.numel()}
    weights = {their_name(name): copy for name, copy in copies.items()}
    cls, patches = copies["pos_embed"].split([1, CONFIG.grid**2], dim=1)
    none = torch.zeros(1, encoder.config.registers, CONFIG.width, dtype=cls.dtype)
    weights["pos_embed"] = torch.cat([cls, none, resample(patches)], dim=1)
    assert weights.keys() == dict(model.named_parameters()).keys(), "every weight of timm's is one of ours"
    return functional_call(model, weights, (normalised(images, encoder.config),)), copies


def by_us(encoder, images):
    out = encoder(images)
    tokens = [out.cls[:, None], out.patches] if out.registers is None else [out.cls[:, None], *out[1:]]
    return torch.cat(tokens, dim=1)


def apart(a, b):
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


def assert_same_values_and_gradients(encoder, ours, theirs, copies, tolerance):
    assert apart(ours, theirs) < tolerance
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=ours.dtype)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    compared = {name: p.grad for name, p in encoder.named_parameters() if p.numel()}
    assert compared.keys() == copies.keys()
    for name, grad in compared.items():
        assert copies[name].grad.abs().max() > 0.1, name
        assert apart(grad, copies[name].grad) < tolerance, name


@registers
def test_values_and_gradients_at_the_trained_size(registers):
    encoder, images = encoder_of(registers), pictures(32, 32)
    theirs, copies = by_timm(encoder, images, timm_of(encoder.config, 32))
    assert_same_values_and_gradients(encoder, by_us(encoder, images), theirs, copies, 1e-11)


@registers
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_at_another_size_with_its_plain_bicubic(registers, size):
    """timm's own resampling without antialiasing, gradients through it too; it rounds to float32."""
    encoder, images, grid = encoder_of(registers), pictures(*size), [side // CONFIG.patch for side in size]
    theirs, copies = by_timm(
        encoder,
        images,
        timm_of(encoder.config, size),
        lambda square: resample_abs_pos_embed(square, grid, num_prefix_tokens=0, antialias=False),
    )
    assert_same_values_and_gradients(encoder, by_us(encoder, images), theirs, copies, 1e-5)


def antialiased(line, count):
    """A line at ``count`` places: Keys' kernel, as wide as the step, a = -0.5, cut off at the edge."""
    step = len(line) / count
    wide, out = max(step, 1.0), []
    for place in range(count):
        centre = (place + 0.5) * step
        taps = [keys((i + 0.5 - centre) / wide) for i in range(len(line))]
        out.append(sum(tap * value for tap, value in zip(taps, line, strict=True)) / sum(taps))
    return torch.stack(out)


def keys(distance, a=-0.5):
    x = abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@registers
@pytest.mark.parametrize("size", SIZES)
def test_with_antialiased_positions_of_a_loop_ours_is_timms_as_it_comes(registers, size, monkeypatch):
    """``dynamic_img_size``: what timm does with a picture of another size, values and gradients."""
    encoder, images, grid = encoder_of(registers), pictures(*size), [side // CONFIG.patch for side in size]
    theirs, copies = by_timm(encoder, images, timm_of(encoder.config, 32, dynamic_img_size=True))
    plain = by_us(encoder, images)

    def positions(height, width):
        cls, patches = encoder.pos_embed.split([1, CONFIG.grid**2], dim=1)
        square = patches.reshape(CONFIG.grid, CONFIG.grid, CONFIG.width)
        rows = antialiased(square, height)
        made = antialiased(rows.transpose(0, 1), width).transpose(0, 1)
        return torch.cat([cls, made.reshape(1, height * width, CONFIG.width)], dim=1)

    moved = (positions(*grid) - encoder.positions(*grid)).abs().max()
    monkeypatch.setattr(encoder, "positions", positions)
    assert_same_values_and_gradients(encoder, by_us(encoder, images), theirs, copies, 1e-5)
    assert moved > 0.02 and apart(plain, theirs) > 1e-3, "shrunk or enlarged, the two ways are not the same"
