"""Questions with a closed set of answers, and the protocol that every benchmark keeps.

The record is VMCBench's (arXiv 2501.03225): index, question, options A to D, answer, category, image. There
``category`` names the source data set, and a map groups sources into General, Reasoning, OCR and Doc & Chart;
here a question carries both, ``source`` and ``category``. Other benchmarks have other numbers of options, are
answered by yes or no, or count pairs that must both be right (``group``).
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from paribus.errors import UserError
from paribus.types import IMAGE, Sample, Turn

LETTERS = "ABCDEFGHIJ"
CATEGORIES = ("General", "Reasoning", "OCR", "Doc & Chart")

_LETTER = "Answer with the option's letter from the given choices directly."
PROMPTS: dict[str, str] = {
    # VLMEvalKit's LLaVA wrapper, word for word (vlmeval/vlm/llava/llava.py).
    "vmcbench": f"{{question}}\n{{options}}\n{_LETTER}",
    # VLMEvalKit's generic one for this benchmark, and lmms-eval's: the same but for a space at the end.
    "vlmevalkit": f"Question: {{question}}\nOptions:\n{{options}}\n{_LETTER} \n",
    "lmms-eval": f"Question: {{question}}\nOptions:\n{{options}}\n{_LETTER}\n",
    "short": "{question}\n{options}",
    "words": "{question}",
}
"""Pinned prompt templates: two harnesses word the same question in two ways, so the wording is a setting.

One that lists no options has them said themselves, as a cloze (OLMES, Gu et al. 2024): a small language model
learns what stands in a picture long before it learns which letter stands for it.
"""

YES_NO = "{question}\nAnswer the question using a single word or phrase."
"""How LLaVA-1.5 asks what is answered by yes or no (its POPE questions)."""


@dataclass(frozen=True)
class Question:
    """One question on one image, with options of which one is right.

    ``answer`` is one of ``says``, or empty where the benchmark does not publish it. Questions of one
    ``group`` may have to be right together. Where options are not ``lettered`` they are said themselves.
    """

    index: int
    question: str
    options: tuple[str, ...]
    answer: str
    category: str
    image: UInt8[np.ndarray, "H W 3"]
    source: str
    key: str
    group: str = ""
    lettered: bool = True

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS):
            raise UserError(
                f"Question {self.key} has {len(self.options)} options: give from 2 to {len(LETTERS)}."
            )
        if self.answer and self.answer not in self.says:
            *most, last = self.says
            raise UserError(
                f"Question {self.key} has the answer {self.answer!r}: "
                f"give one of {', '.join(most)} or {last}."
            )

    @property
    def says(self) -> tuple[str, ...]:
        """What an answer says, option by option: its letter, or the option itself."""
        return tuple(LETTERS[: len(self.options)]) if self.lettered else self.options


def check_template(name: str) -> None:
    """See that a prompt template is known.

    Raises:
        UserError: it is not.
    """
    if name not in PROMPTS:
        raise UserError(f"No prompt template is called {name!r}: choose one of {', '.join(PROMPTS)}.")


def lists_options(template: str) -> bool:
    """Whether a template shows the options, so that their letters can be said.

    Raises:
        UserError: there is no such template.
    """
    check_template(template)
    return "{options}" in PROMPTS[template]


def worded(question: Question, template: str) -> Question:
    """The question as a template asks it: with options that are said themselves, where it lists none.

    Raises:
        UserError: there is no such template.
    """
    if lists_options(template) or not question.lettered:
        return question
    answer = question.options[LETTERS.index(question.answer)] if question.answer else ""
    said = tuple(dict.fromkeys(question.options))  # two options of the same words are one answer
    return replace(question, options=said, lettered=False, answer=answer)


def prompt(question: Question, template: str = "vmcbench") -> str:
    """What the language model is asked.

    Args:
        question: the question.
        template: a name in ``PROMPTS``; one that lists options does not matter where these have no letters.

    Raises:
        UserError: if there is no such template.
    """
    if not lists_options(template):
        return PROMPTS[template].format(question=question.question)
    if not question.lettered:
        return YES_NO.format(question=question.question)
    listed = "\n".join(
        f"{letter}. {text}" for letter, text in zip(question.says, question.options, strict=True)
    )
    return PROMPTS[template].format(question=question.question, options=listed)


@runtime_checkable
class Benchmark(Protocol):
    """A set of questions."""

    def __len__(self) -> int: ...

    def question(self, index: int, /) -> Question:
        """The question at a position; its ``index`` is that position."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over all that a question holds: equal digests mean equal questions."""
        ...


@dataclass(frozen=True)
class Asked:
    """A benchmark's questions as samples: a picture, the prompt and the answer (a ``types.Source``).

    Args:
        benchmark: where they come from.
        template: a name in ``PROMPTS``.

    Raises:
        UserError: if there is no such template.
    """

    benchmark: Benchmark
    template: str = "vmcbench"

    def __post_init__(self) -> None:
        check_template(self.template)

    def __len__(self) -> int:
        return len(self.benchmark)

    def __getitem__(self, index: int, /) -> Sample:
        question = worded(self.benchmark.question(index), self.template)
        factors = {"category": question.category, "source": question.source}
        turn = Turn(f"{IMAGE}\n{prompt(question, self.template)}", question.answer)
        return Sample(question.key, question.image, question.answer, factors, (turn,))

    @property
    def digest(self) -> str:
        """SHA-256 of the benchmark, and the template itself."""
        return f"{self.benchmark.digest} {PROMPTS[self.template]}"
