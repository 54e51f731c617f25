"""The vision-language model equals transformers' LLaVA on the same weights; chunks add; frozen parts stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives import ENCODER, TOKENIZER, Photos, gradients, in_float64, same_bits
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paribus.encoders.text import START
from paribus.encoders.vision import weights_digest
from paribus.errors import UserError
from paribus.train.loop import fit
from paribus.train.optim import trainable
from paribus.train.split import backward
from paribus.types import IMAGE, Batch, Budget, Clock, Recipe, Runtime, Turn
from paribus.vlm.answering import ABSENT, first_words, option_scores, reply_scores, without_picture, write
from paribus.vlm.connector import MLPConfig, build_connector
from paribus.vlm.conversation import PICTURE
from paribus.vlm.language import build_language_model
from paribus.vlm.model import SEEN

from . import LANGUAGE, asked, tiny_batch, tiny_loader, tiny_vlm

CLOCK = Clock(0, 0, 10)
PATCHES = ENCODER.grid**2
PATCH_ID = TOKENIZER.encode("\x07").ids[0]
"""The bell, which no text here rings, stands for a patch in transformers' LLaVA."""
CPU = torch.device("cpu")
KINDS = ["qwen2", "llama"]
CHOICES = ("A", "B", "C", "D")


def choose(vlm, batch, choices=CHOICES):
    """Log-likelihood of each choice, for every question."""
    return option_scores(vlm, batch, first_words(vlm.chat, [choices] * len(batch)))


def answered(batch, replies):
    """The same questions with other answers."""
    return replace(
        batch,
        texts=replies,
        turns=[(turns[0]._replace(reply=r),) for turns, r in zip(batch.turns, replies, strict=True)],
    )


def padded(vlm, batch, cue=False):
    """Ids and targets padded on the right, as a plain program would lay them out."""
    spoken = vlm.chat.speak(batch.turns, cue=cue)
    longest = max(len(each.ids) for each in spoken)
    ids = torch.zeros(len(spoken), longest, dtype=torch.int64)
    target = torch.zeros(len(spoken), longest, dtype=torch.bool)
    for row, each in enumerate(spoken):
        ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
        target[row, : len(each.ids)] = torch.from_numpy(each.target)
    return ids, target


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
    peer.model.vision_tower = Tower(vlm.eyes.encoders[0])
    first, _, second = vlm.eyes.connector.layers
    peer.model.multi_modal_projector.linear_1.load_state_dict(first.state_dict())
    peer.model.multi_modal_projector.linear_2.load_state_dict(second.state_dict())
    peer.model.language_model.load_state_dict(vlm.language.base_model.state_dict())
    peer.lm_head.load_state_dict({"weight": words})
    return peer.eval()


def llava_inputs(vlm, batch, cue=False):
    """What transformers' LLaVA takes: placeholders, pixels, labels with -100 where nothing is learnt."""
    ids, target = padded(vlm, batch, cue)
    return {
        "input_ids": ids.masked_fill(ids == PICTURE, PATCH_ID),
        "labels": ids.masked_fill(~target, -100),
        "pixel_values": next(iter(batch.views.values())),
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
    theirs = llava_of(vlm)(**llava_inputs(vlm, batch)).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    dark = replace(batch, views={"eye0": torch.zeros_like(batch.views["eye0"])})
    assert abs(vlm.loss(vlm.encode(dark), CLOCK).total.item() - ours.item()) > 1e-3, "the picture matters"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_transformers_llava(kind):
    vlm, batch = lively(tiny_vlm(kind, trained=("connector", "language"))), tiny_batch()
    peer = llava_of(vlm)
    peer(**llava_inputs(vlm, batch)).loss.backward()
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
def test_loss_and_gradients_equal_transformers_llava_in_double_precision(kind):
    vlm, batch = in_float64(lively(tiny_vlm(kind, trained=("connector", "language"))), tiny_batch())
    peer = llava_of(vlm).double()
    peer.set_attn_implementation("sdpa")
    in_float64(peer, batch)
    given = llava_inputs(vlm, batch)
    labels = given.pop("labels")[:, 1:]
    logits = peer(**given).logits[:, :-1]  # its own loss is taken in float32
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    theirs.backward()
    ours = backward(vlm, batch, CLOCK, None, "fp32")
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-10)
    first, _, second = vlm.eyes.connector.layers
    projector = peer.model.multi_modal_projector
    for a, b in ((first.weight, projector.linear_1.weight), (second.weight, projector.linear_2.weight)):
        assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_choices_equal_the_logits_of_llava(kind):
    """The last place of each open conversation, read off transformers' LLaVA."""
    vlm, batch = lively(tiny_vlm(kind)), tiny_batch()
    ours = choose(vlm, batch)
    given = llava_inputs(vlm, batch, cue=True)
    given.pop("labels")
    with torch.no_grad():
        logits = llava_of(vlm)(**given).logits.log_softmax(dim=-1)
    ends = [len(each.ids) - 1 for each in vlm.chat.speak(batch.turns, cue=True)]
    words = [vlm.chat.first(choice) for choice in CHOICES]
    expected = torch.stack([logits[row, end, words] for row, end in enumerate(ends)])
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert ours.std(dim=0).min() > 1e-3, "questions differ in what they get"


def test_choices_do_not_look_at_the_answer():
    vlm, batch = lively(tiny_vlm()), tiny_batch()
    for answers in (["D"] * 7, [""] * 7, ["a long answer that is wrong"] * 7):
        assert torch.allclose(choose(vlm, answered(batch, answers)), choose(vlm, batch), atol=1e-5)


def test_choices_that_begin_alike_are_refused():
    with pytest.raises(UserError, match="A, B, A begin with one token"):
        first_words(tiny_vlm().chat, [("A", "B", "A")])


def test_questions_may_have_different_numbers_of_options():
    vlm, batch = lively(tiny_vlm()), tiny_batch(batch=2)
    words = first_words(vlm.chat, [CHOICES, ("A", "B")])
    assert words[1].tolist()[2:] == [ABSENT, ABSENT]
    scores = option_scores(vlm, batch, words)
    assert torch.isinf(scores[1, 2:]).all()
    assert torch.allclose(scores[:, :2], choose(vlm, batch)[:, :2])


def test_without_eyes_it_is_the_language_model():
    vlm, batch = lively(tiny_vlm(eyes=False)), tiny_batch(pictures=False)
    ids, target = padded(vlm, batch)
    peer = build_language_model(LANGUAGE, TOKENIZER.get_vocab_size(), 0, CPU)
    peer.load_state_dict(vlm.language.state_dict())
    peer.set_attn_implementation("eager")
    theirs = peer(input_ids=ids, labels=ids.masked_fill(~target, -100)).loss
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
    assert vlm.terms(answered(batch, [""] * 7)) == 7, "an empty answer still has its end"


@pytest.mark.parametrize("eyes", [True, False])
def test_a_neighbour_cannot_change_a_loss(eyes):
    """A neighbour ten times as long pads others of its group; their own losses stay."""
    vlm, batch = in_float64(lively(tiny_vlm(eyes=eyes)), tiny_batch(pictures=eyes))
    plain = vlm.encode(batch)["nll"]
    long = [*batch.texts[:-1], "the flower in the sun of a temple roof"]
    beside = vlm.encode(answered(batch, long))["nll"]
    assert torch.allclose(plain[:-1], beside[:-1], rtol=1e-12)
    alone = torch.cat([vlm.encode(batch[row : row + 1])["nll"] for row in range(7)])
    assert torch.allclose(plain, alone, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_add_up_to_the_whole(chunk):
    whole, parts = (
        in_float64(lively(tiny_vlm(trained=("connector", "language"))), tiny_batch()) for _ in "ab"
    )
    one = backward(*whole, CLOCK, None, "fp32")
    two = backward(*parts, CLOCK, chunk, "fp32")
    assert one.total.item() == pytest.approx(two.total.item(), rel=1e-12)
    for name, gradient in gradients(whole[0]).items():
        assert torch.allclose(gradient, gradients(parts[0])[name], rtol=1e-9, atol=1e-14), name


def test_tiles_of_targets_change_nothing(monkeypatch):
    whole, parts = (in_float64(lively(tiny_vlm()), tiny_batch()) for _ in "ab")
    backward(*whole, CLOCK, None, "fp32")
    monkeypatch.setattr("paribus.vlm.model.TILE", 5)
    backward(*parts, CLOCK, None, "fp32")
    for name, gradient in gradients(whole[0]).items():
        assert torch.allclose(gradient, gradients(parts[0])[name], rtol=1e-9, atol=1e-14), name


def test_recomputing_activations_changes_nothing():
    whole, again = (
        in_float64(lively(tiny_vlm(trained=("connector", "language"))), tiny_batch()) for _ in "ab"
    )
    again[0].economise()
    calls = []
    again[0].blocks()[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for vlm, batch in (whole, again):
        backward(vlm.train(), batch, CLOCK, None, "fp32")
    assert len(calls) == 2, "once forward, once more in the backward pass"
    for name, gradient in gradients(whole[0]).items():
        assert torch.allclose(gradient, gradients(again[0])[name], rtol=1e-10, atol=1e-15), name


def test_text_alone_stands_beside_pictures():
    """A batch of both: each sample as it would be alone."""
    vlm, batch = in_float64(lively(tiny_vlm()), tiny_batch())
    turns = [without_picture(t) if row in (1, 4) else t for row, t in enumerate(batch.turns)]
    mixed = vlm.encode(replace(batch, turns=turns))["nll"]
    blind = vlm.encode(replace(batch, turns=[without_picture(t) for t in batch.turns], views={}))["nll"]
    seen = vlm.encode(batch)["nll"]
    expected = torch.where(torch.tensor([row in (1, 4) for row in range(7)]), blind, seen)
    assert torch.allclose(mixed, expected, rtol=1e-12)
    assert not torch.allclose(blind, seen)


def test_kept_features_stand_in_for_pictures():
    vlm, batch = lively(tiny_vlm()), tiny_batch()
    kept = {SEEN: vlm.eyes.look(list(batch.views.values()))}
    assert torch.equal(vlm.encode(replace(batch, views=kept))["nll"], vlm.encode(batch)["nll"])


def test_several_turns_are_learnt_and_no_reply_sees_a_later_one():
    vlm = lively(tiny_vlm(eyes=False))
    two = (Turn("what is it?", "a flower"), Turn("what colour?", "red"))
    batch = Batch(
        np.arange(2, dtype=np.uint64), {}, ["", ""], [two, (*two[:1], two[1]._replace(reply="grey"))]
    )
    encoded = vlm.encode(batch)
    said = [len(TOKENIZER.encode(text).ids) + 1 for text in ("a flower", "red", "grey")]
    assert encoded["terms"].tolist() == [said[0] + said[1], said[0] + said[2]]
    alone = vlm.encode(replace(batch, turns=[two[:1], two[:1]]))["nll"]
    later = vlm.next_words(replace(batch, turns=[two, two]))[0]
    assert encoded["nll"][0] - alone[0] > -later[TOKENIZER.encode("red").ids[0]] - 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_is_what_is_likeliest_word_by_word(kind):
    """transformers' cache against a whole forward pass for every word."""
    vlm, batch = lively(tiny_vlm(kind), 3), tiny_batch(batch=4)
    written = write(vlm, batch, limit=6)
    stop = TOKENIZER.token_to_id(vlm.chat.template.stop)
    for row in range(4):
        said: list[int] = []
        (open_,) = vlm.chat.speak(batch.turns[row : row + 1], cue=True)
        seen = vlm.eyes([view[row : row + 1] for view in batch.views.values()])
        while len(said) < 6:
            ids = torch.from_numpy(np.concatenate([open_.ids, said])).long()
            words = vlm.embed(ids)
            words[ids == PICTURE] = seen[0]
            out = vlm.language.base_model(
                inputs_embeds=words[None], position_ids=torch.arange(len(ids))[None], groups=((1, len(ids)),)
            )
            word = int(vlm.language.get_output_embeddings()(out.last_hidden_state[0, -1]).argmax())
            if word == stop:
                break
            said.append(word)
        assert written[row] == TOKENIZER.decode(said).strip()
    assert vlm.encode(batch)["nll"].isfinite().all(), "and it attends as before"


def test_patches_are_read_without_the_class_token_from_the_layer_asked_for():
    vlm = tiny_vlm(layer=-1)
    images = tiny_batch().views["eye0"]
    expected = vlm.eyes.connector(vlm.eyes.encoders[0](images).patches)
    assert torch.allclose(vlm.eyes([images]), expected)
    assert vlm.eyes([images]).shape == (7, PATCHES, LANGUAGE.hidden)
    assert not torch.allclose(tiny_vlm(layer=-2).eyes([images]), expected)


# Training.


def trained_parts(tmp_path, trained, **changes):
    """A VLM trained for six steps, and its parts' digests before and after."""
    vlm = tiny_vlm(trained=trained, **changes)
    parts = {"encoder": vlm.eyes.encoders, "connector": vlm.eyes.connector, "language": vlm.language}
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
    assert sum(name.startswith("eyes.encoders") for name, _ in vlm.named_parameters()) > 10


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
            turns = (Turn(f"{IMAGE}\nwhich?", "AB"[index >= 20]),)
            return replace(super().__getitem__(index), text="AB"[index >= 20], turns=turns)

    vlm = tiny_vlm(trained=("connector", "language"))
    made = tiny_loader(20, source=Asked())
    fit(
        vlm, made, recipe=Recipe(lr=1e-2, warmup=0.1), budget=Budget(samples=3200, batch=20),
        precision="fp32", folder=tmp_path, runtime=Runtime(device="cpu"), label="instruct",
    )  # fmt: skip
    batches = [made.make(0), made.make(1)]
    right = [
        choose(vlm, batch, ("A", "B")).argmax(1).eq(torch.tensor([t == "B" for t in batch.texts]))
        for batch in batches
    ]
    assert torch.cat(right).float().mean() > 0.9
    blind = [replace(batch, views={"eye0": torch.zeros_like(batch.views["eye0"])}) for batch in batches]
    assert len({int(c) for batch in blind for c in choose(vlm, batch, ("A", "B")).argmax(1)}) == 1


# Building.


@pytest.mark.parametrize("kind", KINDS)
def test_language_models_come_from_their_own_stream(kind):
    config = LANGUAGE.model_copy(update={"kind": kind})
    torch.manual_seed(5)
    one = build_language_model(config, 320, 0, CPU)
    torch.manual_seed(6)
    build_connector(MLPConfig(), 16, 16, 0)
    same, other = build_language_model(config, 320, 0, CPU), build_language_model(config, 320, 1, CPU)
    assert same_bits(one.state_dict(), same.state_dict())
    assert weights_digest(one) != weights_digest(other)
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    assert one.config.model_type == kind


def test_flops_count_what_torch_counts():
    """The blocks' matrices and attention's two products over half the square, and the head at the targets."""
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = build_language_model(LANGUAGE, 320, 0, CPU), torch.zeros(1, 50, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=ids, position_ids=torch.arange(50)[None], groups=((1, 50),))
    half = LANGUAGE.layers * 4 * LANGUAGE.hidden * 50**2 / 2  # torch counts what a causal mask hides, too
    assert LANGUAGE.shape().forward(50.0, 50.0) == counter.get_total_flops() - half
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert LANGUAGE.model_copy(update={"vocabulary": 320}).shape().parameters == weights


def test_a_batch_of_words_alone_has_no_views():
    batch = Batch(np.arange(2, dtype=np.uint64), {}, ["a", "b"], asked(["", ""], ["a", "b"], False))
    encoded = tiny_vlm(eyes=False).encode(batch)
    assert encoded["nll"].shape == (2,)
    assert START not in batch.texts


def test_a_batch_whose_replies_do_not_fit_is_refused():
    model = tiny_vlm()
    model.chat.context = 18  # a picture's 16, and the start of what is asked
    with pytest.raises(UserError, match=r"No reply of a batch fits into the 18 tokens"):
        model.loss(model.encode(tiny_batch()), Clock(0, 0, 1))


@pytest.mark.parametrize("pictures", [True, False])
def test_whole_replies_are_as_likely_as_word_by_word(pictures):
    """Every option as the whole reply: the sum over its tokens, each asked for by itself."""
    model, batch = tiny_vlm().eval(), tiny_batch(pictures=pictures, batch=3)
    says = [("red", "the red flower"), ("temple roof", "blue", "flower"), ("a", "b")]
    with torch.no_grad():
        scores = reply_scores(model, batch, says)
        for row, options in enumerate(says):
            for place, said in enumerate(options):
                turns = (batch.turns[row][0]._replace(reply=said),)
                (whole,) = model.chat.speak([turns])
                (open_one,) = model.chat.speak([turns], cue=True)
                total, sight = 0.0, model.sight(batch[row : row + 1])
                for end in range(len(open_one.ids), len(whole.ids)):
                    words = model.embed(torch.from_numpy(whole.ids[:end]))
                    if sight is not None:
                        words[torch.from_numpy(whole.ids[:end] == PICTURE)] = sight[0]
                    out = model.language.base_model(
                        inputs_embeds=words[None],
                        position_ids=torch.arange(end)[None],
                        use_cache=False,
                        groups=((1, end),),
                    )
                    likely = model._words(out.last_hidden_state[0, -1:]).log_softmax(-1)
                    total += float(likely[0, whole.ids[end]])
                assert float(scores[row, place]) == pytest.approx(total, abs=1e-3)
    assert torch.isinf(scores[0, 2]) and torch.isinf(scores[2, 2]) and scores.shape == (3, 3)
