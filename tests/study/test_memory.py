"""Predicted memory: activations against what autograd really keeps, weights and states by arithmetic."""

import re

import pytest
import torch
from objectives import ENCODER, TOKENIZER
from vlm import tiny_batch

from paribus.encoders.vision import VisionEncoder
from paribus.study.memory import _block_bytes, predict
from paribus.study.study import load_study
from paribus.types import Clock, Runtime
from paribus.vlm.conversation import Chat
from paribus.vlm.eyes import EyesConfig, build_eyes
from paribus.vlm.language import LanguageConfig, build_language_model
from paribus.vlm.model import VisionLanguage
from study import ROOT

HIDDEN = 64


def config_of(layers):
    return LanguageConfig(
        kind="llama", hidden=HIDDEN, layers=layers, heads=4, mlp_ratio=2.67, context=80, vocabulary=320
    )


def kept_by_autograd(layers, half):
    """Bytes that a forward pass keeps for the backward pass, parameters apart; and its tokens."""
    config = config_of(layers)
    language = build_language_model(config, TOKENIZER.get_vocab_size(), 0, torch.device("cpu"))
    eyes = build_eyes(EyesConfig(), [VisionEncoder(ENCODER, 0)], HIDDEN, 0)
    chat = Chat(TOKENIZER, config.wording(), config.context, eyes.tokens)
    model = VisionLanguage(language, chat, eyes=eyes, trained=("connector", "language"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found, alive, batch = {}, [], tiny_batch(batch=32)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or its place would be given to the next one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            encoded = model.encode(batch)
        model.loss(encoded, Clock(0, 0, 10))
    return sum(found.values()), sum(model.lengths(batch))


@pytest.mark.parametrize("half", [True, False])
def test_activations_are_about_what_autograd_keeps(half):
    """A block's share, from models of two depths; casts of weights are a few percent of it."""
    few, tokens = kept_by_autograd(2, half)
    many, _ = kept_by_autograd(6, half)
    assert (many - few) / 4 / tokens == pytest.approx(_block_bytes(config_of(2).shape(), half), rel=0.2)


@pytest.fixture(scope="module")
def lessons():
    study = load_study(ROOT / "studies" / "language_models.yaml")
    return {branch.name: branch.answers[0].vlm for branch in study.branches()}


def test_seven_billion_weights_are_counted(lessons):
    instruct = lessons["clip-datacomp-12m-16"]
    alone = predict(instruct, Runtime())
    vicuna = 6_738_415_616  # lmsys/vicuna-7b-v1.5's own count, norms and all
    assert alone.weights == pytest.approx(6 * vicuna, rel=0.03)  # float32, and a cast to bf16
    assert alone.gradients == pytest.approx(4 * vicuna, rel=0.01)
    assert alone.optimiser == pytest.approx(8 * vicuna, rel=0.01)
    eight = predict(instruct, Runtime(shard=True, recompute=True, chunk=4), 8)
    assert eight.optimiser == alone.optimiser / 8 and eight.gradients == alone.gradients / 8
    assert eight.total == eight.whole == pytest.approx(4 * vicuna, rel=0.03), "while it is read, it is whole"
    assert eight.activations < predict(instruct, Runtime(shard=True, chunk=4), 8).activations / 8


def test_what_stays_still_has_no_state(lessons):
    full, frozen, lora = (
        lessons[f"clip{rest}"] for rest in ("-datacomp-12m-16", ", Vicuna frozen", ", Vicuna LoRA")
    )
    needs = [predict(each, Runtime()) for each in (full, frozen, lora)]
    assert needs[1].optimiser < needs[2].optimiser < needs[0].optimiser / 15
    small = full.changed(recipe=full.recipe.model_copy(update={"optimizer": "adamw8bit"}))
    assert predict(small, Runtime()).optimiser == needs[0].optimiser / 4


MODELS = [("clip-datacomp-12m-16", "Vicuna-7B"), ("clip, Qwen2-7B", "Qwen2-7B")]


@pytest.mark.parametrize(("name", "title"), MODELS)
def test_the_documented_figures_are_the_predicted_ones(lessons, name, title):
    """docs/vlm.md's table of the runs on 8 GPUs."""
    (row,) = re.findall(rf"^\| {title}.*", (ROOT / "docs" / "vlm.md").read_text("utf-8"), re.MULTILINE)
    instruct, runtime = lessons[name], Runtime(shard=True, recompute=True)
    flops = [stage.flops() for stage in (instruct.align, instruct)]
    assert f"{flops[0]:.1e}, {flops[1]:.1e}".replace("e+", "e") in row
    assert "{:.1f} + {:.1f}".format(*(f / 350e12 / 3600 / 8 for f in flops)) in row
    needs = [predict(stage, runtime, 8) for stage in (instruct.align, instruct)]
    steady = [sum(need) - need.whole for need in needs]
    assert f"{needs[1].whole / 1e9:.0f} GB while it is read" in row
    assert f"then {steady[0] / 1e9:.0f} and {steady[1] / 1e9:.0f} GB" in row
