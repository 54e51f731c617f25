"""Connectors equal transformers' and torch's own modules on the same weights; cost and size are counted."""

import math

import peers  # noqa: F401 - before transformers, which imports torchvision
import pytest
import torch
import torch.nn.functional as F
from objectives import relative, same_bits
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from paribus.encoders.vision import weights_digest
from paribus.errors import UserError
from paribus.rng import torch_seed
from paribus.vlm.connector import (
    CONNECTORS,
    AnyConnector,
    Connector,
    ConnectorConfig,
    LinearConfig,
    MLPConfig,
    MLPConnector,
    ResamplerConfig,
    build_connector,
)

WIDTH, HIDDEN, PATCHES = 12, 20, 9
SMALL = ResamplerConfig(queries=5, depth=2, heads=3, mlp_ratio=2.5)
CONFIGS = [LinearConfig(), MLPConfig(), ResamplerConfig(queries=3, heads=2), SMALL]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def patches(batch=4, dtype=torch.float64, width=WIDTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, PATCHES, width, generator=generator, dtype=dtype)


def lively(connector):
    """In float64, with norms and biases that are not what they start as."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in connector.double().parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return connector


def test_every_kind_is_registered_and_tested():
    assert set(CONNECTORS) == {type(config) for config in CONFIGS}
    assert {config.kind for config in CONFIGS} == {"linear", "mlp", "resampler"}


@each_config
def test_a_kind_is_told_by_its_name(config):
    adapter = TypeAdapter(AnyConnector)
    assert adapter.validate_python(config.model_dump()) == config


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "qformer"}, "does not match any of the expected tags"),
        ({"kind": "mlp", "queries": 8}, "Extra inputs are not permitted"),
        ({"kind": "resampler", "queries": 0}, "greater than or equal to 1"),
        ({"kind": "resampler", "mlp_ratio": 0}, "greater than 0"),
        ({}, "Unable to extract tag"),
    ],
)
def test_bad_settings_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(AnyConnector).validate_python(settings)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match=r"connector.heads is 5, but what it reads is 12 wide"):
        build_connector(ResamplerConfig(heads=5), WIDTH, HIDDEN, 0)


# Weights.


@each_config
def test_weights_come_from_a_stream_of_their_own(config):
    torch.manual_seed(5)
    one = build_connector(config, WIDTH, HIDDEN, 0)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn, "building moves no other stream"
    same, other = build_connector(config, WIDTH, HIDDEN, 0), build_connector(config, WIDTH, HIDDEN, 1)
    assert same_bits(one.state_dict(), same.state_dict())
    assert weights_digest(one) != weights_digest(other)


def test_the_mlp_starts_as_torchs_layers_do():
    with torch_seed(3, "connector"):
        layers = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 10))
    expected = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    assert list(expected) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert same_bits(build_connector(MLPConfig(), 6, 10, 3).state_dict(), expected)
    assert same_bits(MLPConnector(6, 10, 3).state_dict(), expected)
    assert ConnectorConfig is MLPConfig


@each_config
def test_size_is_as_said(config):
    connector = build_connector(config, WIDTH, HIDDEN, 0)
    assert config.parameters(WIDTH, HIDDEN) == sum(p.numel() for p in connector.parameters())


@each_config
def test_cost_is_as_torch_counts_it(config):
    connector = build_connector(config, WIDTH, HIDDEN, 0)
    counter = FlopCounterMode(display=False)
    with counter:
        connector(patches(4, torch.float32))
    assert config.flops(WIDTH, HIDDEN, PATCHES) == counter.get_total_flops() / 4


@each_config
def test_tokens_are_as_said(config):
    connector = build_connector(config, WIDTH, HIDDEN, 0)
    out = connector(patches(2, torch.float32))
    assert out.shape == (2, connector.tokens(PATCHES), HIDDEN)
    assert connector.tokens(PATCHES) == config.tokens(PATCHES)


# What they compute.


def test_linear_is_one_product():
    connector = lively(build_connector(LinearConfig(), WIDTH, HIDDEN, 0))
    x = patches()
    expected = torch.einsum("bnd,hd->bnh", x, connector.layer.weight) + connector.layer.bias
    assert relative(connector(x), expected) < 1e-14


def test_mlp_equals_transformers_projector():
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    text = LlamaConfig(hidden_size=HIDDEN, num_attention_heads=2, num_hidden_layers=1, vocab_size=8)
    config = LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-2, projector_hidden_act="gelu"
    )
    ours, theirs = (
        lively(build_connector(MLPConfig(), WIDTH, HIDDEN, 0)),
        LlavaMultiModalProjector(config).double(),
    )
    theirs.linear_1.load_state_dict(ours.layers[0].state_dict())
    theirs.linear_2.load_state_dict(ours.layers[2].state_dict())
    x = patches()
    assert relative(ours(x), theirs(x)) < 1e-14


def by_hand(resampler, x, heads):
    """The resampler of one image: torch's layers, and attention as loops over heads and queries."""
    q = resampler.queries
    for block in resampler.blocks:
        weight, bias = block.attn.kv.weight, block.attn.kv.bias
        y = block.norm_patches(x)
        keys, values = y @ weight[:WIDTH].T + bias[:WIDTH], y @ weight[WIDTH:].T + bias[WIDTH:]
        asked = block.attn.q(block.norm1(q))
        read, size = torch.empty_like(q), WIDTH // heads
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            for number in range(len(q)):
                scores = torch.stack([asked[number, own] @ key[own] for key in keys]) / math.sqrt(size)
                shares = scores.exp() / scores.exp().sum()
                read[number, own] = sum(s * v[own] for s, v in zip(shares, values, strict=True))
        q = q + block.attn.proj(read)
        inner, _, outer = block.mlp
        hidden = inner(block.norm2(q))
        q = q + outer(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))
    return resampler.out(resampler.norm(q))


def test_resampler_equals_loops():
    connector = lively(build_connector(SMALL, WIDTH, HIDDEN, 0))
    x = patches()
    with torch.no_grad():
        expected = torch.stack([by_hand(connector, image, SMALL.heads) for image in x])
        assert relative(connector(x), expected) < 1e-13


def test_cross_attention_equals_torchs_and_so_do_its_gradients():
    ours = lively(build_connector(SMALL, WIDTH, HIDDEN, 0)).blocks[0].attn
    theirs = nn.MultiheadAttention(WIDTH, SMALL.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    queries, x = patches(seed=1)[:, :5].requires_grad_(), patches().requires_grad_()
    results = [ours(queries, x), theirs(queries, x, x, need_weights=False)[0]]
    assert relative(*results) < 1e-13
    first, second = (torch.autograd.grad(out.square().sum(), (queries, x)) for out in results)
    assert max(relative(a, b) for a, b in zip(first, second, strict=True)) < 1e-12


def test_a_resampler_does_not_mind_the_order_of_patches():
    connector = lively(build_connector(SMALL, WIDTH, HIDDEN, 0))
    x = patches()
    assert relative(connector(x[:, torch.randperm(PATCHES)]), connector(x)) < 1e-12
    assert (
        relative(build_connector(MLPConfig(), WIDTH, HIDDEN, 0).double()(x)[:, 0], connector(x)[:, 0]) > 0.1
    )


def test_a_resamplers_words_differ_from_the_start():
    """Of their variance over words and images, more than a tenth lies between the words of one image."""
    connector = build_connector(ResamplerConfig(), 64, 64, 0)
    words = connector(patches(16, torch.float32, width=64) + patches(16, torch.float32, width=64)[:, :1])
    assert words.mean(0).var(0).mean() > 0.1 * words.var(dim=(0, 1)).mean()


@each_config
def test_images_do_not_mix(config):
    connector = lively(build_connector(config, WIDTH, HIDDEN, 0))
    x = patches()
    alone = torch.cat([connector(image[None]) for image in x])
    assert relative(connector(x), alone) < 1e-13


@each_config
def test_every_weight_and_the_patches_hear_the_gradient(config):
    connector = lively(build_connector(config, WIDTH, HIDDEN, 0))
    x = patches().requires_grad_()
    connector(x).square().sum().backward()
    silent = [name for name, p in connector.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert x.grad.abs().amax(dim=(1, 2)).min() > 0


@each_config
def test_half_precision_is_near(config):
    """Under autocast, as in training on CPU; queries and norms are float32 there."""
    connector = build_connector(config, WIDTH, HIDDEN, 0)
    x = patches(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = connector(x)
    assert half.dtype == torch.bfloat16
    assert F.mse_loss(half.float(), connector(x)) < 1e-4 * connector(x).square().mean()


def test_a_connector_must_say_what_it_does():
    with pytest.raises(TypeError, match="abstract"):
        Connector()
