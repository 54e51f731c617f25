"""The vision transformer equals transformers' ViTModel on the same weights, at any size and layer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import ENCODER, MATERIAL, tiny_objective
from reference.positions import resize
from reference.towers import vit_of

from paribus.encoders.text import TextConfig, TextTower
from paribus.encoders.vision import (
    EncoderConfig,
    VisionEncoder,
    in_unit,
    load_weights,
    parameters,
    preset,
    save_weights,
    weights_digest,
)
from paribus.errors import UserError
from paribus.objectives import OBJECTIVES
from paribus.vlm.connector import MLPConnector

DEEP = ENCODER.model_copy(update={"depth": 3, "mean": (0.48, 0.45, 0.4), "std": (0.26, 0.27, 0.28)})


@pytest.fixture
def encoder():
    """Weights far from their start, so that no term of the sum is too small to be seen."""
    made = VisionEncoder(DEEP, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def pictures(height=16, width=16, count=3):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def normalised(images):
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (DEEP.mean, DEEP.std))
    return (images - mean) / std


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_equals_vitmodel(encoder):
    ours = encoder(pictures())
    theirs = vit_of(encoder)(normalised(pictures())).last_hidden_state
    assert ours.registers is None
    assert ours.patches.shape == (3, 16, 16)
    assert close(ours.cls, theirs[:, 0])
    assert close(ours.patches, theirs[:, 1:])


def test_bytes_are_divided_by_255_in_float32():
    """All 256, in the two ways in which views lie in memory; floats are left alone."""
    every = np.arange(256, dtype=np.uint8)
    expected = every.astype(np.float32) / np.float32(255)
    assert np.array_equal(in_unit(torch.from_numpy(every)).numpy(), expected)
    turned = torch.from_numpy(np.resize(every, (2, 8, 8, 3))).permute(0, 3, 1, 2)
    assert np.array_equal(in_unit(turned).numpy(), expected[turned.numpy()])
    given = pictures().double()
    assert in_unit(given) is given


@torch.no_grad()
def test_bytes_and_their_floats_are_one_picture(encoder):
    given = (pictures() * 255).to(torch.uint8)
    before = given.clone()
    for one, other in zip(encoder(given), encoder(in_unit(given)), strict=True):
        assert one is other or torch.equal(one, other)
    assert torch.equal(encoder.classes(given), encoder.classes(in_unit(given)))
    assert torch.equal(given, before)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, -3])
def test_lower_layers_are_its_hidden_states(encoder, layer):
    ours = encoder(pictures(), layer=layer)
    theirs = vit_of(encoder)(normalised(pictures()), output_hidden_states=True).hidden_states
    assert len(theirs) == DEEP.depth + 1
    assert close(ours.cls, theirs[layer][:, 0])
    assert close(ours.patches, theirs[layer][:, 1:])


@pytest.mark.parametrize("more", [{}, {"registers": 3, "pre_norm": True}, {"pool": "map", "mlp_ratio": 2.5}])
def test_weights_are_counted_without_memory(more):
    config = EncoderConfig(patch=4, image_size=16, width=32, depth=2, heads=2, **more)
    assert parameters(config) == sum(weight.numel() for weight in VisionEncoder(config).parameters())


def test_layers_that_are_not_there_are_refused(encoder):
    for layer in (0, 1, -4):
        with pytest.raises(ValueError, match="layer"):
            encoder(pictures(), layer=layer)


def test_gradients_equal_vitmodels(encoder):
    peer = vit_of(encoder)
    weight = torch.randn(3, 17, 16, generator=torch.Generator().manual_seed(5))
    out = encoder(pictures())
    (torch.cat([out.cls[:, None], out.patches], dim=1) * weight).sum().backward()
    (peer(normalised(pictures())).last_hidden_state * weight).sum().backward()
    theirs = peer.get_parameter("embeddings.patch_embeddings.projection.weight").grad
    assert close(encoder.patch_embed.weight.grad, theirs, 1e-4)
    assert close(encoder.pos_embed.grad, peer.get_parameter("embeddings.position_embeddings").grad, 1e-4)
    qkv = [peer.get_parameter(f"layers.1.attention.{part}_proj.weight").grad for part in "qkv"]
    assert close(encoder.blocks[1].attn.qkv.weight.grad, torch.cat(qkv), 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 20), (32, 32), (8, 24), (4, 4)])
def test_other_sizes_equal_vitmodels(encoder, height, width):
    images = pictures(height, width)
    ours = encoder(images)
    theirs = vit_of(encoder)(normalised(images), interpolate_pos_encoding=True).last_hidden_state
    assert ours.patches.shape == (3, height * width // 16, 16)
    assert close(ours.cls, theirs[:, 0])
    assert close(ours.patches, theirs[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(2, 2), (5, 5), (7, 3), (9, 9), (1, 1)])
def test_positions_equal_bicubic_convolution_in_loops(encoder, height, width):
    ours = encoder.positions(height, width)[0].numpy()
    square = encoder.pos_embed[0, 1:].reshape(4, 4, 16).double().numpy()
    assert np.allclose(ours[0], encoder.pos_embed[0, 0], atol=0)
    assert np.allclose(ours[1:].reshape(height, width, 16), resize(square, height, width), atol=1e-5)


@torch.no_grad()
def test_positions_differ_from_dinos_only_by_its_rounding_guard():
    """DINO scales by (6 + 0.1) / 14 for its local crops, Paribus by 6 / 14.

    On embeddings as smooth as trained ones are, that moves no position by more than 4% of their range.
    """
    y, x = np.mgrid[0:14, 0:14] / 14
    square = np.stack([np.sin(3 * x + 2 * y), np.cos(4 * y), x * y, x - y], axis=-1)
    ours, theirs = resize(square, 6, 6), resize(square, 6, 6, dino_scale=True)
    planes = torch.from_numpy(square).permute(2, 0, 1)[None]
    published = F.interpolate(planes, scale_factor=(6.1 / 14, 6.1 / 14), mode="bicubic")[0].permute(1, 2, 0)
    assert np.allclose(theirs, published, atol=1e-12), "the reference is what DINO does"
    moved = np.abs(ours - theirs).max(axis=(0, 1)) / np.ptp(square, axis=(0, 1))
    assert 0.005 < moved.max() < 0.04
    encoder = VisionEncoder(EncoderConfig(patch=16, width=8, depth=2, heads=2))
    wide = np.concatenate([square, square], axis=-1)
    encoder.pos_embed[0, 1:] = torch.from_numpy(wide.reshape(196, 8)).float()
    made = encoder.positions(6, 6)[0, 1:].reshape(6, 6, 8)
    assert np.allclose(made, np.concatenate([ours, ours], axis=-1), atol=1e-5)


@torch.no_grad()
def test_positions_are_not_rounded_under_autocast(encoder):
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder.positions(7, 5)
    assert torch.equal(rounded, encoder.positions(7, 5))


@torch.no_grad()
def test_the_trained_size_takes_the_positions_as_they_are(encoder):
    assert encoder.positions(4, 4) is encoder.pos_embed


@torch.no_grad()
def test_registers_are_read_and_have_no_position():
    config = DEEP.model_copy(update={"registers": 3})
    encoder = VisionEncoder(config, seed=0).eval()
    out = encoder(pictures())
    assert (out.cls.shape, out.registers.shape, out.patches.shape) == ((3, 16), (3, 3, 16), (3, 16, 16))
    assert config.tokens(16) == 20
    for layer in (-1, -2):
        before = encoder(pictures(), layer=layer)
        order = torch.tensor([2, 0, 1])
        encoder.register_tokens.copy_(encoder.register_tokens[:, order])
        after = encoder(pictures(), layer=layer)
        assert close(before.cls, after.cls), "tokens without position may change places"
        assert close(before.patches, after.patches)
        assert close(before.registers[:, order], after.registers)
    encoder.register_tokens.mul_(3)
    assert not close(encoder(pictures()).cls, out.cls)


@torch.no_grad()
def test_a_sample_does_not_see_its_batch(encoder):
    whole = encoder(pictures(count=5))
    alone = encoder(pictures(count=5)[3:4])
    assert close(whole.cls[3:4], alone.cls)
    assert close(whole.patches[3:4], alone.patches)


@torch.no_grad()
def test_keep_scales_each_residual(encoder):
    """Zero for both residuals of every block leaves the embedded patches; ones change nothing."""
    ones = torch.ones(3, 3, 2)
    assert torch.equal(encoder(pictures(), keep=ones).cls, encoder(pictures()).cls)
    bare = encoder(pictures(), keep=torch.zeros(3, 3, 2))
    expected = encoder.norm(encoder.cls_token[:, 0] + encoder.pos_embed[:, 0])
    assert close(bare.cls, expected.expand(3, -1))
    only = torch.ones(3, 3, 2)
    only[1, 2, 0] = 0.0
    mixed = encoder(pictures(), keep=only)
    assert close(mixed.cls[:2], encoder(pictures()).cls[:2])
    assert not close(mixed.cls[2], encoder(pictures()).cls[2])


@torch.no_grad()
def test_keep_equals_a_block_written_out(encoder):
    block = encoder.blocks[0]
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    keep = torch.tensor([[0.0, 2.0], [1.5, 0.0]])
    middle = x + keep[:, 0].view(2, 1, 1) * block.attn(block.norm1(x))
    expected = middle + keep[:, 1].view(2, 1, 1) * block.mlp(block.norm2(middle))
    assert close(block(x, keep), expected)


# Initial weights.


def test_initial_weights_do_not_depend_on_what_else_is_built():
    digest = weights_digest(VisionEncoder(ENCODER, 0))
    torch.manual_seed(1234)
    TextTower(TextConfig(context=8, vocabulary=320, width=16, depth=1, heads=2), MATERIAL, 0)
    MLPConnector(16, 32, 0)
    assert weights_digest(VisionEncoder(ENCODER, 0)) == digest
    assert weights_digest(VisionEncoder(ENCODER, 1)) != digest
    for kind in OBJECTIVES:
        assert weights_digest(tiny_objective(kind).encoder()) == digest, kind


def test_heads_of_an_objective_do_not_move_each_other():
    """A wider joint space or another text tower leaves the rest of the initial weights as they were."""
    small, large = tiny_objective("clip", embed=8), tiny_objective("clip", embed=12)
    assert weights_digest(small.joint.text) == weights_digest(large.joint.text)
    assert weights_digest(small.image) == weights_digest(large.image)


@pytest.mark.parametrize(("width", "std"), [(768, 0.02), (192, 0.04), (48, 0.08)])
def test_weights_are_truncated_normals_and_biases_are_zero(width, std):
    """timm's and DINO's 0.02 at ViT-B's width; narrower ones keep the size of the signals."""
    encoder = VisionEncoder(EncoderConfig(patch=8, width=width, depth=2, heads=4, image_size=48))
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            assert torch.all(parameter == (1.0 if name.endswith("weight") else 0.0)), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.1 * std, name


def test_vit_b_16_has_the_published_size():
    """85,798,656 parameters: timm's vit_base_patch16_224 without its classifier."""
    with torch.device("meta"):
        encoder = VisionEncoder(preset("base", 16))
        small = VisionEncoder(preset("small", 16))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 85_798_656
    assert sum(parameter.numel() for parameter in small.parameters()) == 21_665_664


@pytest.mark.parametrize("broken", [{"image_size": 50}, {"heads": 3}, {"widht": 8}, {"depth": 1}])
def test_configurations_that_cannot_be_are_refused(broken):
    with pytest.raises(ValueError, match=next(iter(broken))):
        EncoderConfig(**{"patch": 8, "width": 32, "depth": 2, "heads": 2, "image_size": 48} | broken)


# Digest and files.


def test_the_digest_sees_one_bit_of_one_weight():
    encoder = VisionEncoder(ENCODER, 0)
    digest = weights_digest(encoder)
    raw = encoder.blocks[1].mlp[2].weight.data.view(torch.int32)
    raw[7, 3] ^= 1
    assert weights_digest(encoder) != digest
    raw[7, 3] ^= 1
    assert weights_digest(encoder) == digest
    wide = VisionEncoder(ENCODER, 0).double()
    digest = weights_digest(wide)
    wide.norm.bias.data.view(torch.int64)[0] ^= 1
    assert weights_digest(wide) != digest, "also a bit that float32 has no place for"


def test_the_digest_sees_names_and_shapes():
    a, b = torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 4, bias=False)
    b.weight.data = a.weight.data.reshape(4, 6)
    assert weights_digest(a) != weights_digest(b)
    one, two = torch.nn.ModuleDict({"a": a}), torch.nn.ModuleDict({"b": a})
    assert weights_digest(one) != weights_digest(two)


def test_weights_come_back_from_their_file_bit_for_bit(tmp_path, encoder):
    save_weights(encoder, tmp_path / "encoder.safetensors")
    other = VisionEncoder(DEEP, seed=9)
    load_weights(other, tmp_path / "encoder.safetensors")
    assert weights_digest(other) == weights_digest(encoder)


def test_files_that_are_missing_cut_or_of_another_encoder_are_named(tmp_path, encoder):
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(UserError, match=r"encoder\.safetensors is missing or damaged"):
        load_weights(encoder, path)
    save_weights(encoder, path)
    wide = VisionEncoder(DEEP.model_copy(update={"width": 32}))
    with pytest.raises(UserError, match=r"encoder\.safetensors holds the weights of another architecture"):
        load_weights(wide, path)
    deep = VisionEncoder(DEEP.model_copy(update={"depth": 4}))
    with pytest.raises(UserError, match="another architecture"):
        load_weights(deep, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"encoder\.safetensors is missing or damaged"):
        load_weights(encoder, path)
