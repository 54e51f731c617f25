"""What is learnt is the answer and its end, token for token, whatever stands before it and beside it."""

import random
import unicodedata

import pytest
import torch
from objectives import CAPTIONS, TOKENIZER

from paribus.encoders.text import END, PAD, START
from paribus.errors import UserError
from paribus.vlm.conversation import tokenize

START_ID, END_ID, PAD_ID = (TOKENIZER.token_to_id(token) for token in (START, END, PAD))


def conversations(count=60):
    """Prompts and answers of all lengths, empty ones and other scripts among them."""
    rng = random.Random(0)
    pieces = [*CAPTIONS[:6], "A", "B.", "", " leading", "trailing ", "naïve 猫 🐈", "two\nlines", "1,234.5%"]
    return [rng.choice(pieces) for _ in range(count)], [rng.choice(pieces) for _ in range(count)]


def test_the_targets_decode_to_exactly_the_answer_and_the_end():
    prompts, answers = conversations()
    tokens = tokenize(TOKENIZER, prompts, answers, 200)
    for ids, target, answer in zip(tokens.ids, tokens.target, answers, strict=True):
        learnt = ids[target].tolist()
        assert learnt[-1] == END_ID
        assert learnt.count(END_ID) == 1
        assert TOKENIZER.decode(learnt[:-1], skip_special_tokens=False) == unicodedata.normalize(
            "NFKC", answer
        )


def test_what_stands_before_the_targets_is_start_and_prompt_and_after_them_padding():
    prompts, answers = conversations()
    tokens = tokenize(TOKENIZER, prompts, answers, 200)
    for ids, target, prompt in zip(tokens.ids.tolist(), tokens.target, prompts, strict=True):
        places = target.nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1)), "one unbroken piece"
        assert ids[0] == START_ID
        head = TOKENIZER.decode(ids[1 : places[0]], skip_special_tokens=False)
        assert head == unicodedata.normalize("NFKC", prompt)
        assert set(ids[places[-1] + 1 :]) <= {PAD_ID}
    lengths = tokens.target.shape[1] - tokens.ids.flip(1).ne(PAD_ID).int().argmax(dim=1)
    assert int(lengths.max()) == tokens.ids.shape[1], "no wider than the longest"


def test_an_answer_has_the_same_tokens_after_any_prompt():
    """Encoded as one string, "is" and "land" could fuse to "island" and the mask would be off by one."""
    together = TOKENIZER.encode("mostly" + "mostly red").ids
    alone = tokenize(TOKENIZER, ["", "mostly", "the flower is"], ["mostly red"] * 3, 200)
    learnt = {tuple(ids[target].tolist()) for ids, target in zip(alone.ids, alone.target, strict=True)}
    assert len(learnt) == 1
    assert list(next(iter(learnt)))[:-1] == TOKENIZER.encode("mostly red").ids
    assert len(together) <= len(TOKENIZER.encode("mostly").ids) + len(TOKENIZER.encode("mostly red").ids)


def test_neighbours_only_add_padding():
    prompts, answers = conversations(20)
    whole = tokenize(TOKENIZER, prompts, answers, 200)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = tokenize(TOKENIZER, [prompt], [answer], 200)
        length = alone.ids.shape[1]
        assert torch.equal(whole.ids[row, :length], alone.ids[0])
        assert torch.equal(whole.target[row, :length], alone.target[0])
        assert not whole.target[row, length:].any()


def test_a_conversation_beyond_the_context_is_refused_and_not_cut():
    need = tokenize(TOKENIZER, ["what is it?"], ["a flower"], 100).ids.shape[1]
    assert tokenize(TOKENIZER, ["what is it?"], ["a flower"], need).ids.shape[1] == need
    with pytest.raises(UserError, match=rf"has {need} tokens.*context is {need - 1}.*language\.context"):
        tokenize(TOKENIZER, ["a", "what is it?"], ["b", "a flower"], need - 1)
