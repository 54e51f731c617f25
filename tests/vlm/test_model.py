"""The vision-language model equals transformers' LLaVA on the same weights; chunks add; frozen parts stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives import ENCODER, TOKENIZER, Photos, gradients, in_float64, same_bits
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paribus.encoders.text import END, START
from paribus.encoders.vision import weights_digest
from paribus.train.loop import fit
from paribus.train.optim import trainable
from paribus.train.split import backward
from paribus.types import Batch, Budget, Clock, Recipe, Runtime
from paribus.vlm.connector import MLPConnector
from paribus.vlm.conversation import tokenize
from paribus.vlm.language import build_language_model

from . import LANGUAGE, tiny_batch, tiny_loader, tiny_vlm

CLOCK = Clock(0, 0, 10)
PATCHES = ENCODER.grid**2
PATCH_ID = TOKENIZER.encode("\x07").ids[0]
"""The bell, which no text here rings, stands for a patch in transformers' LLaVA."""
CPU = torch.device("cpu")
KINDS = ["qwen2", "llama"]
CHOICES = ("A", "B", "C", "D")


class Tower(nn.Module):
    """Our encoder where LLaVA expects CLIP's: all hidden states, class token first."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values, **_):
        depth = self.encoder.config.depth
        layers = [self.encoder(pixel_values, layer=layer) for layer in range(-depth, 0)]
        states = tuple(torch.cat([out.cls[:, None], out.patches], dim=1) for out in layers)
        return BaseModelOutputWithPooling(last_hidden_state=states[-1], hidden_states=states)


def llava_of(vlm):
    """transformers' LLaVA with a VLM's weights."""
    text = vlm.language.config
    words = vlm.language.get_input_embeddings().weight
    vision = CLIPVisionConfig(
        hidden_size=ENCODER.width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=ENCODER.image_size, patch_size=ENCODER.patch,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=PATCH_ID, projector_hidden_act="gelu",
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    peer = LlavaForConditionalGeneration(config).to(words.dtype)
    peer.model.vision_tower = Tower(vlm.eyes.encoder)
    first, _, second = vlm.eyes.connector.layers
    peer.model.multi_modal_projector.linear_1.load_state_dict(first.state_dict())
    peer.model.multi_modal_projector.linear_2.load_state_dict(second.state_dict())
    peer.model.language_model.load_state_dict(vlm.language.base_model.state_dict())
    peer.lm_head.load_state_dict({"weight": words})
    return peer.eval()


def with_patches(ids, fill):
    """Ids with ``PATCHES`` places before them."""
    return torch.cat([torch.full((len(ids), PATCHES), fill), ids], dim=1)


def llava_inputs(batch):
    """What transformers' LLaVA takes: placeholders, pixels, labels with -100 where nothing is learnt."""
    tokens = tokenize(TOKENIZER, batch.prompts, batch.texts, LANGUAGE.context)
    labels = tokens.ids.masked_fill(~tokens.target, -100)
    return {
        "input_ids": with_patches(tokens.ids, PATCH_ID),
        "labels": with_patches(labels, -100),
        "pixel_values": next(iter(batch.views.values()))[:, 0],
    }


def lively(vlm, seed=0):
    """Weights large enough that pictures and prompts matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in vlm.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return vlm


@pytest.mark.parametrize("kind", KINDS)
def test_loss_equals_transformers_llava(kind):
    vlm, batch = lively(tiny_vlm(kind)), tiny_batch()
    ours = vlm.loss(vlm.encode(batch), CLOCK).total
    theirs = llava_of(vlm)(**llava_inputs(batch)).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    dark = replace(batch, views={"image": torch.zeros_like(batch.views["image"])})
    assert abs(vlm.loss(vlm.encode(dark), CLOCK).total.item() - ours.item()) > 1e-3, "the picture matters"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_transformers_llava(kind):
    vlm, batch = lively(tiny_vlm(kind, trained=("connector", "language"))), tiny_batch()
    peer = llava_of(vlm)
    peer(**llava_inputs(batch)).loss.backward()
    backward(vlm, batch, CLOCK, None, "fp32")
    first, _, second = vlm.eyes.connector.layers
    theirs = peer.model.multi_modal_projector
    pairs = [(first.weight, theirs.linear_1.weight), (second.bias, theirs.linear_2.bias)]
    ours = dict(vlm.language.base_model.named_parameters())
    pairs += [
        (ours[name], p)
        for name, p in peer.model.language_model.named_parameters()
        if not name.startswith("embed_tokens")
    ]
    assert len(pairs) > 15
    for a, b in pairs:
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5 * float(b.grad.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_choices_equal_a_full_forward_with_labels(kind):
    """Each choice's first token appended to the conversation, its log-likelihood read off LLaVA's loss."""
    vlm, batch = lively(tiny_vlm(kind)), tiny_batch()
    peer = llava_of(vlm)
    ours = vlm.choose(batch, CHOICES)
    assert ours.shape == (len(batch), 4)
    expected = torch.empty(len(batch), 4)
    start = TOKENIZER.token_to_id(START)
    for row in range(len(batch)):
        head = [start, *TOKENIZER.encode(batch.prompts[row]).ids]
        for place, choice in enumerate(CHOICES):
            ids = torch.tensor([[*head, TOKENIZER.encode(choice).ids[0]]])
            labels = torch.full_like(ids, -100)
            labels[0, -1] = ids[0, -1]
            given = {
                "input_ids": with_patches(ids, PATCH_ID),
                "labels": with_patches(labels, -100),
                "pixel_values": batch.views["image"][row : row + 1, 0],
            }
            with torch.no_grad():
                expected[row, place] = -peer(**given).loss
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert ours.std(dim=0).min() > 1e-3, "questions differ in what they get"


def test_choices_do_not_look_at_the_answer():
    vlm, batch = lively(tiny_vlm()), tiny_batch()
    for answers in (["D"] * 7, [""] * 7, ["a long answer that is wrong"] * 7):
        other = replace(batch, texts=answers)
        assert torch.allclose(vlm.choose(other, CHOICES), vlm.choose(batch, CHOICES), atol=1e-5)


def test_choices_that_begin_alike_are_refused():
    with pytest.raises(ValueError, match="do not differ in their first token"):
        tiny_vlm().choose(tiny_batch(), ("A", "B", "A"))


def test_without_eyes_it_is_the_language_model():
    vlm, batch = lively(tiny_vlm(eyes=False)), tiny_batch(pictures=False)
    tokens = tokenize(TOKENIZER, batch.prompts, batch.texts, LANGUAGE.context)
    labels = tokens.ids.masked_fill(~tokens.target, -100)
    theirs = vlm.language(input_ids=tokens.ids, labels=labels).loss
    assert vlm.loss(vlm.encode(batch), CLOCK).total.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_loss_is_the_mean_over_target_tokens_and_not_over_samples():
    vlm, batch = tiny_vlm(), tiny_batch()
    encoded = vlm.encode(batch)
    count = [len(TOKENIZER.encode(text).ids) + 1 for text in batch.texts]
    assert encoded["terms"].tolist() == count
    assert len(set(count)) > 1
    assert vlm.terms(batch) == sum(count)
    expected = encoded["nll"].sum().item() / sum(count)
    assert vlm.loss(encoded, CLOCK).total.item() == pytest.approx(expected, rel=1e-6)
    untold = replace(batch, texts=[""] * 7)
    assert vlm.terms(untold) == 7, "an empty answer still has its end"


@pytest.mark.parametrize("eyes", [True, False])
def test_padding_cannot_change_a_loss(eyes):
    """A neighbour ten times as long pads everybody else; their own losses stay."""
    vlm, batch = in_float64(lively(tiny_vlm(eyes=eyes)), tiny_batch(pictures=eyes))
    plain = vlm.encode(batch)["nll"]
    long = [*batch.texts[:-1], "the flower in the sun of a temple roof " * 3]
    padded = vlm.encode(replace(batch, texts=long))["nll"]
    assert (
        tokenize(TOKENIZER, batch.prompts, long, 64).ids.shape[1]
        > 1.3 * (tokenize(TOKENIZER, batch.prompts, batch.texts, 64).ids.shape[1])
    )
    assert torch.allclose(plain[:-1], padded[:-1], rtol=1e-12)


@pytest.mark.parametrize("word", ["prompt", "answer"])
def test_what_stands_in_a_padding_place_is_never_seen(word):
    """The embedding of the padding token may be anything."""
    vlm, batch = lively(tiny_vlm()), tiny_batch()
    before = vlm.encode(batch)["nll"], vlm.choose(batch, CHOICES)
    hook = vlm.language.get_input_embeddings().register_forward_hook(
        lambda _module, ids, out: out.masked_fill(ids[0].eq(0)[..., None], 1e3)
    )
    after = vlm.encode(batch)["nll"], vlm.choose(batch, CHOICES)
    hook.remove()
    assert torch.allclose(before[word == "answer"], after[word == "answer"], rtol=1e-5)


def test_patches_are_read_without_the_class_token_from_the_layer_asked_for():
    vlm = tiny_vlm(layer=-1)
    images = tiny_batch().views["image"][:, 0]
    expected = vlm.eyes.connector(vlm.eyes.encoder(images).patches)
    assert torch.allclose(vlm.eyes(images), expected)
    assert vlm.eyes(images).shape == (7, PATCHES, LANGUAGE.hidden)
    assert not torch.allclose(tiny_vlm(layer=-2).eyes(images), expected)


# Training.


def trained_parts(tmp_path, trained, **changes):
    """A VLM trained for six steps, and its parts' digests before and after."""
    vlm = tiny_vlm(trained=trained, **changes)
    parts = {"encoder": vlm.eyes.encoder, "connector": vlm.eyes.connector, "language": vlm.language}
    before = {name: weights_digest(part) for name, part in parts.items()}
    fit(
        vlm, tiny_loader(6), recipe=Recipe(lr=1e-2, weight_decay=0.5), budget=Budget(samples=36, batch=6),
        precision="bf16", folder=tmp_path, runtime=Runtime(device="cpu"), label="align",
    )  # fmt: skip
    return {name for name, part in parts.items() if weights_digest(part) != before[name]}


def test_the_first_stage_moves_the_connector_alone(tmp_path):
    assert trained_parts(tmp_path, ("connector",)) == {"connector"}


def test_the_second_stage_moves_connector_and_language_but_never_the_encoder(tmp_path):
    assert trained_parts(tmp_path, ("connector", "language")) == {"connector", "language"}


@pytest.mark.parametrize("trained", [("connector",), ("language",), ("connector", "language"), ()])
def test_what_is_frozen_is_not_counted_as_trainable(trained):
    places = {"connector": "eyes.connector.", "language": "language."}
    vlm = tiny_vlm(trained=trained)
    expected = {n for n, _ in vlm.named_parameters() if n.startswith(tuple(places[part] for part in trained))}
    assert set(trainable(vlm)) == expected
    assert sum(name.startswith("eyes.encoder") for name, _ in vlm.named_parameters()) > 10


def test_the_connector_hears_through_a_frozen_language_model():
    vlm, batch = tiny_vlm(trained=("connector",)), tiny_batch()
    backward(vlm, batch, CLOCK, 3, "fp32")
    assert set(gradients(vlm)) == {
        f"eyes.connector.layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")
    }
    assert all(gradient.abs().max() > 0 for gradient in gradients(vlm).values())


def test_it_learns_what_only_the_picture_tells(tmp_path):
    """One question, two answers: the roof is A, the flower is B. Blind, that is a coin."""

    class Asked(Photos):
        def __getitem__(self, index, /):
            return replace(super().__getitem__(index), text="AB"[index >= 20], prompt=" which?")

    vlm = tiny_vlm(trained=("connector", "language"))
    made = tiny_loader(20, source=Asked())
    fit(
        vlm, made, recipe=Recipe(lr=1e-2, warmup=0.1), budget=Budget(samples=1600, batch=20),
        precision="fp32", folder=tmp_path, runtime=Runtime(device="cpu"), label="instruct",
    )  # fmt: skip
    batches = [made.make(0), made.make(1)]
    right = [
        vlm.choose(batch, ("A", "B")).argmax(1).eq(torch.tensor([t == "B" for t in batch.texts]))
        for batch in batches
    ]
    assert torch.cat(right).float().mean() > 0.9
    blind = [replace(batch, views={"image": torch.zeros_like(batch.views["image"])}) for batch in batches]
    assert len({int(c) for batch in blind for c in vlm.choose(batch, ("A", "B")).argmax(1)}) == 1


# Building.


@pytest.mark.parametrize("kind", KINDS)
def test_language_models_come_from_their_own_stream(kind):
    config = LANGUAGE.model_copy(update={"kind": kind})
    torch.manual_seed(5)
    one = build_language_model(config, 320, 0, CPU)
    torch.manual_seed(6)
    MLPConnector(16, 16, 0)
    same, other = build_language_model(config, 320, 0, CPU), build_language_model(config, 320, 1, CPU)
    assert same_bits(one.state_dict(), same.state_dict())
    assert weights_digest(one) != weights_digest(other)
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    assert one.config.model_type == kind


def test_the_kernel_of_attention_changes_speed_and_not_the_loss():
    vlm, batch = lively(tiny_vlm()), tiny_batch()
    losses = []
    for kernel in ("eager", "sdpa"):
        vlm.language.set_attn_implementation(kernel)
        losses.append(vlm.loss(vlm.encode(batch), CLOCK).total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_connector_is_llavas_two_layers():
    connector = MLPConnector(6, 10, 0)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    first, _, second = connector.layers
    hidden = x @ first.weight.T + first.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    assert torch.allclose(connector(x), hidden @ second.weight.T + second.bias, atol=1e-6)
    assert same_bits(connector.state_dict(), MLPConnector(6, 10, 0).state_dict())


def test_flops_count_six_operations_a_weight_and_token():
    """The blocks' matrices of the model itself, embeddings and vectors aside."""
    model = build_language_model(LANGUAGE, 320, 0, CPU)
    layers = [p.numel() for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    assert LANGUAGE.flops(tokens=50) == 6 * 50 * sum(layers)


def test_a_batch_of_words_alone_has_no_views():
    batch = Batch(np.arange(2, dtype=np.uint64), {}, ["a", "b"], ["", ""])
    encoded = tiny_vlm(eyes=False).encode(batch)
    assert encoded["nll"].shape == (2,)
    assert END not in batch.texts
