"""The record format, the pinned prompts, and questions as samples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.types import Source
from paribus.vqa.benchmark import PROMPTS, Asked, Question, lists_options, prompt, worded

IMAGE = np.zeros((4, 4, 3), np.uint8)


def _question(**changes):
    fields = {
        "index": 0, "question": "What is {this}?", "options": ("cat", "dog", "{A}", "bell"), "answer": "B",
        "category": "General", "image": IMAGE, "source": "thing", "key": "k",
    }  # fmt: skip
    return Question(**{**fields, **changes})


def _yes_no(**changes):
    return _question(question="Is it?", options=("Yes", "No"), answer="No", lettered=False, **changes)


WORDED = {
    "vmcbench": (
        "What is {this}?\nA. cat\nB. dog\nC. {A}\nD. bell\n"
        "Answer with the option's letter from the given choices directly."
    ),
    "vlmevalkit": (
        "Question: What is {this}?\nOptions:\nA. cat\nB. dog\nC. {A}\nD. bell\n"
        "Answer with the option's letter from the given choices directly. \n"
    ),
    "lmms-eval": (
        "Question: What is {this}?\nOptions:\nA. cat\nB. dog\nC. {A}\nD. bell\n"
        "Answer with the option's letter from the given choices directly.\n"
    ),
    "short": "What is {this}?\nA. cat\nB. dog\nC. {A}\nD. bell",
    "words": "What is {this}?",
}
"""What every template makes of the question, byte for byte."""


@pytest.mark.parametrize("template", PROMPTS)
def test_prompts_are_word_for_word(template):
    assert prompt(_question(), template) == WORDED[template]
    assert WORDED.keys() == PROMPTS.keys()


def test_the_harnesses_differ_by_one_space():
    assert prompt(_question(), "vlmevalkit").replace(". \n", ".\n") == prompt(_question(), "lmms-eval")


@pytest.mark.parametrize("template", PROMPTS)
def test_yes_no_questions_are_worded_as_llava_does(template):
    words = "\nAnswer the question using a single word or phrase." if lists_options(template) else ""
    assert prompt(_yes_no(), template) == f"Is it?{words}"


def test_without_a_list_the_options_are_said_themselves():
    question = _question()
    asked = worded(question, "words")
    assert asked.says == question.options and asked.answer == question.options["ABCD".index(question.answer)]
    assert worded(question, "short") is question and worded(_yes_no(), "words") == _yes_no()
    assert worded(replace(question, answer=""), "words").answer == "", "as where answers are not published"
    twice = replace(question, options=("cat", "dog", "cat", "bell"), answer="C")
    assert worded(twice, "words").says == ("cat", "dog", "bell") and worded(twice, "words").answer == "cat"


def test_what_an_answer_says():
    assert _question().says == ("A", "B", "C", "D")
    assert _yes_no().says == ("Yes", "No")
    assert _question(options=("one", "two"), answer="").says == ("A", "B")


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_any_number_of_options_is_listed(count):
    options = tuple(f"option {number}" for number in range(count))
    question = _question(options=options, answer="ABCDEFGHIJ"[count - 1])
    assert prompt(question, "short").splitlines()[1:] == [
        f"{'ABCDEFGHIJ'[number]}. option {number}" for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 11])
def test_too_few_or_too_many_options_are_refused(count):
    with pytest.raises(UserError, match=f"Question k has {count} options: give from 2 to 10"):
        _question(options=("x",) * count)


@pytest.mark.parametrize("answer", ["E", "AB", "a", "dog"])
def test_an_answer_that_is_no_letter_is_refused(answer):
    with pytest.raises(UserError, match=f"answer '{answer}': give one of A, B, C or D"):
        _question(answer=answer)


@pytest.mark.parametrize("answer", ["yes", "A", "Maybe"])
def test_an_answer_that_is_no_option_is_refused(answer):
    with pytest.raises(UserError, match="give one of Yes or No"):
        _question(options=("Yes", "No"), answer=answer, lettered=False)


def test_unpublished_answers_are_empty():
    assert _question(answer="").answer == ""


def test_unknown_templates_are_refused():
    with pytest.raises(UserError, match=", ".join(PROMPTS)):
        prompt(_question(), "long")
    with pytest.raises(UserError, match="'long'"):
        Asked(Listed((_question(),)), "long")


# As samples.


@dataclass(frozen=True)
class Listed:
    """A benchmark in memory."""

    questions: tuple[Question, ...]
    digest: str = "0" * 64

    def __len__(self):
        return len(self.questions)

    def question(self, index, /):
        return self.questions[index]


def test_asked_questions_are_a_source():
    asked = Asked(Listed((_question(), _yes_no(index=1, key="second"))), "short")
    assert isinstance(asked, Source)
    assert len(asked) == 2
    first, second = asked[0], asked[1]
    assert (first.key, first.text, second.key, second.text) == ("k", "B", "second", "No")
    assert first.turns == ((f"<image>\n{WORDED['short']}", "B"),)
    assert second.turns == (("<image>\nIs it?\nAnswer the question using a single word or phrase.", "No"),)
    assert first.factors == {"category": "General", "source": "thing"}
    np.testing.assert_array_equal(first.image, IMAGE)


def test_the_template_is_part_of_what_is_asked():
    digests = {Asked(Listed((_question(),)), template).digest for template in PROMPTS}
    assert len(digests) == len(PROMPTS)
    assert Asked(Listed((_question(),), "1" * 64)).digest not in digests
