"""What is learnt is the reply and its end, token for token, whatever the template; none ever changes."""

import random

import numpy as np
import pytest
from objectives import CAPTIONS, TOKENIZER
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from paribus.errors import UserError
from paribus.types import IMAGE, Turn
from paribus.vlm.conversation import PICTURE, TEMPLATES, Chat, pictured, specials, worded

PATCHES = 4
NAMES = sorted(TEMPLATES)
PIECES = [*CAPTIONS[:6], "A", "B.", "naïve 猫 🐈", "two\nlines", "1,234.5%", "  spaced  out  ", "\n\nnew"]


def byte_level(specials, trim=False):
    """Like GPT-2's, Qwen2's, Llama 3's and SmolLM2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*CAPTIONS, "USER: what? ASSISTANT: A", "assistant\n\nuser\n"] * 3, trainer)
    return made


def metaspace(specials):
    """Like Llama 1 and 2's and so Vicuna's: a space before the first word, spaces as part of words."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", *specials, *bytes_], show_progress=False
    )
    made.train_from_iterator([*CAPTIONS, "USER: what? ASSISTANT: A"] * 3, trainer)
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    return made


TOKENIZERS = {"byte level": byte_level, "trimmed": lambda s: byte_level(s, trim=True), "metaspace": metaspace}


def chat_of(name, kind="byte level", **settings):
    template = TEMPLATES[name]
    made = TOKENIZERS[kind](specials(template) or ["<pad>"])
    return Chat(made, template, settings.pop("context", 5000), PATCHES, **settings)


def conversations(count=40, rounds=3):
    rng = random.Random(0)
    made = []
    for number in range(count):
        turns = [Turn(rng.choice(PIECES), rng.choice(PIECES)) for _ in range(1 + number % rounds)]
        if number % 4:
            turns[0] = turns[0]._replace(ask=f"{IMAGE}\n{turns[0].ask}")
        made.append(tuple(turns))
    return made


def runs(mask):
    """Unbroken pieces of a mask, as slices."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("name", NAMES)
def test_the_targets_decode_to_exactly_the_replies_and_their_ends(name, kind):
    """LLaVA's masks were off for Qwen2 and Llama 3, and a loss of 0 was all that told of it."""
    chat, template = chat_of(name, kind), TEMPLATES[name]
    if name == "plain":
        template = template.model_copy(update={"ask": IMAGE})
    for turns in conversations(rounds=1 if name == "plain" else 3):
        if name == "plain" and not pictured(turns):
            continue
        (spoken,) = chat.speak([turns])
        learnt = runs(spoken.target)
        assert len(learnt) == len(turns)
        for piece, turn in zip(learnt, turns, strict=True):
            said = chat.tokenizer.decode(spoken.ids[piece].tolist(), skip_special_tokens=False)
            wanted = template.reply.replace("{}", turn.reply)
            if kind == "metaspace":  # decoding strips the space that stands for the beginning of a text
                said, wanted = said.strip(" "), wanted.strip(" ")
            assert said == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_stands_before_the_last_reply(name):
    chat = chat_of(name)
    for turns in conversations(20):
        if name == "plain" and not pictured(turns):
            continue
        (whole,), (open_,) = chat.speak([turns]), chat.speak([turns], cue=True)
        assert whole.ids[: len(open_.ids)].tolist() == open_.ids.tolist()
        assert runs(whole.target)[-1].start == len(open_.ids)
        assert len(runs(open_.target)) == len(turns) - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_stands_where_it_is_asked_about_and_once(name):
    chat = chat_of(name)
    for turns in conversations(20):
        (spoken,) = chat.speak([turns])
        places = np.flatnonzero(spoken.ids == PICTURE)
        if not pictured(turns):
            assert not len(places) or name == "plain"
            continue
        assert len(places) == PATCHES
        assert places[-1] - places[0] == PATCHES - 1
        assert not spoken.target[places].any()
        before = "".join(text for text, _ in worded(TEMPLATES[name], turns)).split(IMAGE)[0]
        assert chat.tokenizer.decode(spoken.ids[: places[0]].tolist(), skip_special_tokens=False) == before


def test_a_reply_that_mentions_the_marker_is_words():
    chat = chat_of("qwen2")
    (spoken,) = chat.speak([(Turn(f"{IMAGE}\nwhat?", f"say {IMAGE}"),)])
    assert (spoken.ids == PICTURE).sum() == PATCHES
    (alone,) = chat.speak([(Turn("what?", f"say {IMAGE}"),)])
    assert not (alone.ids == PICTURE).any()
    assert chat.tokenizer.decode(alone.ids[alone.target].tolist(), skip_special_tokens=False) == (
        f"say {IMAGE}<|im_end|>"
    )


def test_templates_are_pinned_byte_for_byte():
    turns = (Turn(f"{IMAGE}\nQ1", "A1"), Turn("Q2", "A2"))
    told = {name: "".join(text for text, _ in worded(TEMPLATES[name], turns)) for name in NAMES}
    vicuna = (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>"
    )
    body = (
        "<|im_start|>user\n<image>\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n"
    )
    llama = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and "
        "vision assistant. You are able to understand the visual content that the user provides, and assist "
        "the user with a variety of tasks using natural language.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA2<|eot_id|>"
    )
    smol = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert told == {
        "bare": "<start><image>\nQ1<start>A1<end><start>Q2<start>A2<end>",
        "llama3": llama,
        "plain": "<image>A1\n<image>A2\n",
        "qwen2": f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{body}",
        "smollm2": f"<|im_start|>system\n{smol}<|im_end|>\n{body}",
        "vicuna_v1": vicuna,
    }


def test_what_is_too_long_loses_its_end():
    whole, short = chat_of("bare"), chat_of("bare", context=20)
    turns = (Turn(f"{IMAGE}\nwhat is it?", "a flower in the sun of a temple roof " * 4),)
    (long,), (cut,) = whole.speak([turns]), short.speak([turns])
    assert len(cut.ids) == 20
    assert cut.ids.tolist() == long.ids[:20].tolist()
    assert cut.target.any()


def test_a_context_without_room_beside_the_picture_is_refused():
    with pytest.raises(UserError, match=r"A picture has 4 tokens, 5 with.*context is 12.*resampler"):
        chat_of("bare", context=12)
    assert chat_of("bare", context=13)


def test_a_tokenizer_that_lacks_a_templates_token_is_refused():
    with pytest.raises(UserError, match=r"has no token <\|im_start\|>.*template"):
        Chat(TOKENIZER, TEMPLATES["qwen2"], 100)


def test_conversations_are_remembered_and_forgotten(monkeypatch):
    monkeypatch.setattr("paribus.vlm.conversation.REMEMBERED", 5)
    chat = chat_of("bare")
    asked = conversations(30)
    first = [spoken.ids.tolist() for spoken in chat.speak(asked)]
    assert len(chat._kept) == 5
    assert [spoken.ids.tolist() for spoken in chat.speak(asked)] == first
    assert chat.first("A") == chat.tokenizer.encode("A").ids[0]


def test_what_shows_no_picture_names_none():
    """LLaVA's plain wording is of a picture alone; a text in such a mix is its reply alone."""
    chat = Chat(TOKENIZER, TEMPLATES["plain"], 100, picture=3)
    (spoken,) = chat.speak([(Turn("what is it?", "a red flower"),)])
    assert TOKENIZER.decode(spoken.ids.tolist()) == "a red flower\n"
    assert PICTURE not in spoken.ids
