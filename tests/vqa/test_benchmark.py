"""The record format and the pinned prompts."""

from pathlib import Path

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.benchmark import PROMPTS, Question, open_benchmark, options, prompt

IMAGE = np.zeros((4, 4, 3), np.uint8)


def _question(**changes):
    fields = {
        "index": 0, "question": "What is {this}?", "A": "cat", "B": "dog", "C": "{A}", "D": "bell",
        "answer": "B", "category": "General", "image": IMAGE, "source": "thing", "key": "k",
    }  # fmt: skip
    return Question(**{**fields, **changes})


def test_the_vmcbench_prompt_is_vlmevalkits_word_for_word():
    expected = (
        "What is {this}?\nA. cat\nB. dog\nC. {A}\nD. bell\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt(_question()) == expected


def test_the_short_prompt_drops_the_last_sentence():
    assert prompt(_question(), "short") == "What is {this}?\nA. cat\nB. dog\nC. {A}\nD. bell"
    assert prompt(_question(), "vmcbench").startswith(prompt(_question(), "short") + "\n")


def test_options_are_in_the_letters_order():
    assert options(_question()) == ("cat", "dog", "{A}", "bell")


@pytest.mark.parametrize("answer", ["E", "", "AB", "a"])
def test_an_answer_that_is_no_letter_is_refused(answer):
    with pytest.raises(UserError, match="one of the letters"):
        _question(answer=answer)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=", ".join(PROMPTS)):
        prompt(_question(), "long")
    with pytest.raises(UserError, match="glyphqa"):
        open_benchmark("vqav9", Path("nowhere"), "test")
