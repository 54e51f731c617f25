"""LoRA equals peft's on the same factors, merges without a trace, and touches nothing else."""

import copy
import math

import peers  # noqa: F401 - before transformers and peft, which import torchvision
import pytest
import torch
from objectives import relative, same_bits
from pydantic import ValidationError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from paribus.encoders.vision import weights_digest
from paribus.errors import UserError
from paribus.rng import torch_seed
from paribus.train.optim import build_optimizer, trainable
from paribus.types import Recipe
from paribus.vlm.lora import LoRAConfig, LoRALinear, add_lora, merge_lora

WORDS = 40
SMALL = LoRAConfig(rank=3, alpha=7)
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EVERY = {
    f"model.layers.{layer}.{'mlp' if part in PARTS[4:] else 'self_attn'}.{part}"
    for layer in (0, 1)
    for part in PARTS
}


def language(kind="llama", dtype=torch.float64, **settings):
    """A language model of two layers; qwen2 has biases in its attention, and ties its head here."""
    config = AutoConfig.for_model(
        kind, vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=kind == "qwen2",
        initializer_range=0.3, **settings,
    )  # fmt: skip
    with torch_seed(0, "test"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    return model


def stirred(model):
    """With second factors that are not zero, as after training."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora.b.copy_(torch.randn(module.lora.b.shape, generator=generator))
    return model


def corrected(kind="llama", config=SMALL, **settings):
    model = language(kind, **settings)
    add_lora(model, config, 0)
    return stirred(model)


def ids():
    return torch.randint(0, WORDS, (3, 11), generator=torch.Generator().manual_seed(3))


# Against peft.


def peft_of(ours, kind, targets):
    """peft's model with the same weights and factors."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=SMALL.rank, lora_alpha=SMALL.alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules="all-linear" if targets is None else list(targets),
    )  # fmt: skip
    theirs = peft.get_peft_model(language(kind), settings)
    layers = {
        name: module for name, module in theirs.base_model.model.named_modules() if hasattr(module, "lora_A")
    }
    mine = {name: module for name, module in ours.named_modules() if isinstance(module, LoRALinear)}
    assert layers.keys() == mine.keys()
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A["default"].weight.copy_(mine[name].lora.a)
            layer.lora_B["default"].weight.copy_(mine[name].lora.b)
    return theirs, layers, mine


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj"), ("mlp.up_proj", "layers.1.mlp.down_proj")])
def test_outputs_and_gradients_equal_pefts(kind, targets):
    ours = corrected(kind, SMALL.model_copy(update={"targets": targets}))
    theirs, layers, mine = peft_of(ours, kind, targets)
    given = {"input_ids": ids(), "labels": ids()}
    one, two = ours(**given), theirs(**given)
    assert relative(one.logits, two.logits) < 1e-10
    assert one.loss.item() == pytest.approx(two.loss.item(), rel=1e-10)
    assert (one.logits - language(kind)(ids()).logits).abs().max() > 0.1, "the corrections matter"
    one.loss.backward()
    two.loss.backward()
    for name, layer in layers.items():
        assert relative(mine[name].lora.a.grad, layer.lora_A["default"].weight.grad) < 1e-10
        assert relative(mine[name].lora.b.grad, layer.lora_B["default"].weight.grad) < 1e-10
    assert sum(p.requires_grad for p in ours.parameters()) == 2 * len(layers)
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_merged_weights_equal_pefts(kind):
    ours = corrected(kind)
    theirs, *_ = peft_of(ours, kind, None)
    merge_lora(ours)
    merged = theirs.merge_and_unload().state_dict()
    assert ours.state_dict().keys() == merged.keys()
    assert max(relative(value, merged[name]) for name, value in ours.state_dict().items()) < 1e-10


# Adding.


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_every_linear_layer_but_the_head_is_corrected(kind):
    model = language(kind)
    assert set(add_lora(model, SMALL, 0)) == EVERY
    assert type(model.lm_head) is nn.Linear
    for name in EVERY:
        assert isinstance(model.get_submodule(name), LoRALinear)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), {name for name in EVERY if name.endswith("q_proj")}),
        (("mlp.up_proj", "k_proj"), {name for name in EVERY if name.endswith(("up_proj", "k_proj"))}),
        (("model.layers.1.self_attn.o_proj",), {"model.layers.1.self_attn.o_proj"}),
    ],
)
def test_targets_are_ends_of_names(targets, expected):
    assert set(add_lora(language(), LoRAConfig(targets=targets), 0)) == expected


@pytest.mark.parametrize("targets", [("qkv",), ("q_proj", "qkv"), ("lm_head", "qkv")])
def test_targets_that_are_not_there_are_refused_and_nothing_changes(targets):
    model = language()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"is called .*qkv; there are down_proj, gate_proj, k_proj"):
        add_lora(model, LoRAConfig(targets=targets), 0)
    assert same_bits(model.state_dict(), before)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("target", ["lm_head", "proj", "embed_tokens", "self_attn"])
def test_head_halves_of_names_and_what_is_not_linear_are_no_targets(target):
    with pytest.raises(UserError, match=f"is called {target};"):
        add_lora(language("qwen2"), LoRAConfig(targets=(target,)), 0)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}, {"targets": ()}, {"dropout": 0.05}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        LoRAConfig(**settings)


def test_lora_is_added_once():
    model = corrected()
    with pytest.raises(ValueError, match="has LoRA already"):
        add_lora(model, SMALL, 0)
    merge_lora(model)
    assert set(add_lora(model, SMALL, 0)) == EVERY


def test_a_model_says_the_same_until_it_is_trained():
    plain, model = language(), language()
    add_lora(model, SMALL, 0)
    assert torch.equal(model(ids()).logits, plain(ids()).logits)


def test_everything_else_is_frozen_and_hears_nothing():
    model = corrected()
    assert set(trainable(model)) == {f"{name}.lora.{factor}" for name in EVERY for factor in "ab"}
    model(input_ids=ids(), labels=ids()).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trainable(model))
    assert all(p.grad.any() for p in trainable(model).values())


def test_a_rate_of_its_own_reaches_it():
    """Together with another part, as in LLaVA's recipe: 2e-4 for LoRA, 2e-5 for the projector."""
    both = nn.ModuleDict({"language": corrected(), "connector": nn.Linear(3, 3)})
    optimizer = build_optimizer(both, Recipe(lr=2e-5, rates={"lora": 2e-4}))
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert {scales[id(p)] for p in both["connector"].parameters()} == {1.0}
    assert [scales[id(p)] for p in trainable(both["language"]).values()] == pytest.approx([10.0] * 28)


# First factors.


def test_factors_start_as_pefts_do():
    model = language()
    names = add_lora(model, SMALL, 4)
    with torch_seed(4, "lora"):
        for name in names:
            layer = model.get_submodule(name)
            expected = torch.empty(3, layer.base.in_features, dtype=torch.float64)
            nn.init.kaiming_uniform_(expected, a=math.sqrt(5))
            assert torch.equal(layer.lora.a, expected)
            assert layer.lora.a.abs().max() <= layer.base.in_features**-0.5
            assert not layer.lora.b.any()


def test_factors_come_from_their_own_stream():
    models = []
    for torchs, seed in ((5, 0), (6, 0), (5, 1)):
        model = language()
        torch.manual_seed(torchs)
        add_lora(model, SMALL, seed)
        models.append(model)
    digests = [weights_digest(model) for model in models]
    assert digests[0] == digests[1] != digests[2]


# Merging.


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_merged_says_what_unmerged_said_and_is_an_ordinary_model(kind):
    model, plain = corrected(kind), language(kind)
    before = model(ids()).logits
    head = copy.deepcopy(model.get_input_embeddings().weight)
    merge_lora(model)
    assert relative(model(ids()).logits, before) < 1e-12
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in plain.named_modules()}
    assert torch.equal(model.get_input_embeddings().weight, head)
    assert set(model.state_dict()) == set(plain.state_dict())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (kind == "qwen2")


def test_the_merged_weight_is_the_sum_by_its_definition():
    model, plain = corrected(config=LoRAConfig(rank=2, alpha=3, targets=("k_proj",))), language()
    layer = model.model.layers[1].self_attn.k_proj
    a, b = layer.lora.a.detach(), layer.lora.b.detach()
    expected = plain.model.layers[1].self_attn.k_proj.weight.detach().clone()
    for row in range(expected.shape[0]):
        for column in range(expected.shape[1]):
            expected[row, column] += 3 / 2 * sum(b[row, k] * a[k, column] for k in range(2))
    merge_lora(model)
    assert relative(model.model.layers[1].self_attn.k_proj.weight, expected) < 1e-14


def test_without_lora_there_is_nothing_to_merge():
    model = language()
    merge_lora(model)
    assert same_bits(model.state_dict(), language().state_dict())


def test_a_saved_merged_model_opens_without_us(tmp_path):
    model = corrected(dtype=torch.float32)
    merge_lora(model)
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.allclose(opened(ids()).logits, model(ids()).logits, atol=1e-5)


# Precision.


def layer(dtype):
    """A corrected layer in a precision, an input, and what comes out in float64."""
    generator = torch.Generator().manual_seed(4)
    base = nn.Linear(64, 48).to(dtype)
    made = stirred(nn.ModuleList([LoRALinear(base, 4, 2.0)]))[0]
    x = torch.randn(5, 64, generator=generator).to(dtype)
    correction = x.double() @ made.lora.a.double().T @ made.lora.b.double().T
    exact = x.double() @ base.weight.double().T + base.bias.double() + 2 / 4 * correction
    assert correction.abs().mean() > 0.3 * exact.abs().mean()
    return made, x, exact


def test_factors_of_half_precision_models_are_float32():
    """What AdamW adds at a rate of 2e-4 would be lost in bfloat16."""
    model = corrected(dtype=torch.bfloat16)
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    loss = model(input_ids=ids(), labels=ids()).loss
    loss.backward()
    assert {p.grad.dtype for p in trainable(model).values()} == {torch.float32}
    merge_lora(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_half_precision_rounds_once_or_twice_and_no_more():
    made, x, exact = layer(torch.bfloat16)
    assert made(x).dtype == torch.bfloat16
    assert relative(made(x).double(), exact) < 2**-7
    assert relative(made.merged()(x).double(), exact) < 2**-7


def test_autocast_is_near():
    made, x, exact = layer(torch.float32)
    assert relative(made(x).double(), exact) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        half = made(x)
    assert half.dtype == torch.bfloat16
    assert relative(half.double(), exact) < 2**-6


def test_a_batch_in_parts_gives_the_gradients_of_the_whole():
    whole, parts = corrected(), corrected()
    whole(input_ids=ids(), labels=ids()).loss.backward()
    for row in ids():
        (parts(input_ids=row[None], labels=row[None]).loss / 3).backward()
    pairs = zip(trainable(whole).values(), trainable(parts).values(), strict=True)
    assert max(relative(b.grad, a.grad) for a, b in pairs) < 1e-10
