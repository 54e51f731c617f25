"""The text that the small language model learns from: its own variants of real questions, and captions."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from objectives import CAPTIONS, TOKENIZER
from scipy.stats import chisquare

from paribus.data.loader import Loader
from paribus.types import IMAGE, Turn
from paribus.vlm.conversation import PICTURE as PATCH
from paribus.vlm.conversation import TEMPLATES, Chat
from paribus.vlm.texts import CAPTIONS as CAPTION_SHARE
from paribus.vlm.texts import VARIANTS, Texts
from paribus.vqa.benchmark import LETTERS, Question, prompt

PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)


def question(number):
    words = [f"{colour}{number}" for colour in ("red", "blue", "green", "grey")]
    text, answer = f"Which one is it, {number}?", LETTERS[number % 4]
    return Question(number, text, tuple(words), answer, "General", PICTURE, "toy", f"q{number}")


QUESTIONS = [question(number) for number in range(50)]


@pytest.fixture
def texts():
    return Texts(list(CAPTIONS), QUESTIONS, "short", seed=3, digest="abc")


def parse(sample):
    """What was named, and the question as asked: options by letter."""
    (turn,) = sample.turns
    named, *lines = turn.ask.split("\n")
    given = {line[0]: line[3:] for line in lines[1:5]}
    return named.strip(), lines[0], given


def test_every_position_is_a_pure_function_of_the_seed(texts):
    again = Texts(list(CAPTIONS), QUESTIONS, "short", seed=3, digest="abc")
    for index in [700, 3, 3, 0, len(texts) - 1]:
        a, b = texts[index], again[index]
        assert (a.key, a.text, a.turns) == (b.key, b.text, b.turns)
    other = Texts(list(CAPTIONS), QUESTIONS, "short", seed=4, digest="abc")
    assert sum(other[i].turns != texts[i].turns for i in range(100)) > 80


def test_one_in_twelve_says_a_caption_again(texts):
    assert len(texts) == VARIANTS * len(QUESTIONS)
    captions = [texts[i] for i in range(0, len(texts), CAPTION_SHARE)]
    for sample in captions:
        assert sample.turns == (Turn(f" {sample.text}", sample.text),)
        assert sample.text in CAPTIONS
        assert sample.key.startswith("caption/")
    assert len({sample.text for sample in captions}) > 25


def test_questions_name_the_right_option_first(texts):
    for index in range(len(texts)):
        if index % CAPTION_SHARE == 0:
            continue
        sample, source = texts[index], QUESTIONS[index % len(QUESTIONS)]
        named, asked, given = parse(sample)
        assert asked == source.question
        assert sorted(given.values()) == sorted(source.options), "the same options in other places"
        assert given[sample.text] == named
        words = prompt(replace(source, options=tuple(given.values()), answer=sample.text), "short")
        assert sample.turns == (Turn(f" {named}\n{words}", sample.text),)


def test_letters_and_named_options_are_even(texts):
    """No letter, and no option, is right more often than another, and neither tells of the other."""
    asked = [i for i in range(len(texts)) if i % CAPTION_SHARE]
    letters = Counter(texts[i].text for i in asked)
    assert set(letters) == set(LETTERS[:4])
    assert chisquare(list(letters.values())).pvalue > 1e-4
    original = Counter(QUESTIONS[i % len(QUESTIONS)].options.index(parse(texts[i])[0]) for i in asked)
    assert chisquare(list(original.values())).pvalue > 1e-4


def test_keys_differ(texts):
    assert len({texts[i].key for i in range(len(texts))}) == len(texts)


def test_what_is_named_stands_where_a_picture_will(texts):
    """Before the question, after the same token and before the same new line."""
    chat = Chat(TOKENIZER, TEMPLATES["bare"], 500, picture=3)
    sample = texts[5]
    named, _, _ = parse(sample)
    (turn,) = sample.turns
    seen = (Turn(turn.ask.replace(f" {named}", IMAGE, 1), turn.reply),)
    told, shown = (chat.speak([turns])[0].ids.tolist() for turns in (sample.turns, seen))
    first = shown.index(PATCH)
    assert told[:first] == shown[:first]
    assert told[first + len(TOKENIZER.encode(f" {named}").ids) :] == shown[first + 3 :]


def test_a_loader_takes_them_without_pictures(texts):
    batch = Loader(texts, (), image_size=1, batch=8, seed=0).make(0)
    assert batch.views == {}
    assert len(batch.texts) == len(batch.turns) == 8
