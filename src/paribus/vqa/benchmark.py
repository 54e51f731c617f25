"""Four-option questions in VMCBench's record format, and the protocol that every benchmark keeps.

A record is (index, question, A, B, C, D, answer, category, image), as in VMCBench (arXiv 2501.03225). There
``category`` names the source data set, and a map groups sources into General, Reasoning, OCR and Doc & Chart;
here a question carries both, ``source`` and ``category``.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from paribus.errors import UserError

LETTERS = "ABCD"
CATEGORIES = ("General", "Reasoning", "OCR", "Doc & Chart")

_SHORT = "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}"
PROMPTS = {
    # VLMEvalKit's LLaVA wrapper, word for word; its generic prompt has "Question:" and "Options:" besides.
    "vmcbench": f"{_SHORT}\nAnswer with the option's letter from the given choices directly.",
    "short": _SHORT,
}
"""Pinned prompt templates: two harnesses word the same question in two ways, so the wording is a setting."""


@dataclass(frozen=True)
class Question:
    """One question on one image, with four options of which one is right."""

    index: int
    question: str
    A: str
    B: str
    C: str
    D: str
    answer: str
    category: str
    image: UInt8[np.ndarray, "H W 3"]
    source: str
    key: str

    def __post_init__(self) -> None:
        if self.answer not in tuple(LETTERS):
            raise UserError(
                f"Question {self.key} has the answer {self.answer!r}: give one of the letters A, B, C or D."
            )


def options(question: Question) -> tuple[str, str, str, str]:
    """The four option texts, A to D."""
    return question.A, question.B, question.C, question.D


def prompt(question: Question, template: str = "vmcbench") -> str:
    """What the language model is asked.

    Args:
        question: the question.
        template: a name in ``PROMPTS``.

    Raises:
        UserError: if there is no such template.
    """
    if template not in PROMPTS:
        raise UserError(f"No prompt template is called {template!r}: choose one of {', '.join(PROMPTS)}.")
    a, b, c, d = options(question)
    return PROMPTS[template].format(question=question.question, A=a, B=b, C=c, D=d)


@runtime_checkable
class Benchmark(Protocol):
    """A set of four-option questions."""

    def __len__(self) -> int: ...

    def question(self, index: int, /) -> Question:
        """The question at a position; its ``index`` is that position."""
        ...

    def prompt(self, index: int, /) -> str:
        """That question as the benchmark's template words it."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over keys, pixels, texts and template: equal digests mean equal questions."""
        ...


BENCHMARKS = {
    "glyphqa": "paribus.vqa.glyphqa:GlyphQA",
}
"""Name -> where the class is; it is called with (folder, split, prompts)."""


def open_benchmark(name: str, folder: Path, split: str, prompts: str = "vmcbench") -> Benchmark:
    """Open a benchmark by its registered name.

    Args:
        name: a name in ``BENCHMARKS``.
        folder: where its files are.
        split: which questions, e.g. ``"test"``.
        prompts: the prompt template, a name in ``PROMPTS``.

    Raises:
        UserError: if there is no such benchmark, split or template, or its files are damaged.
    """
    if name not in BENCHMARKS:
        raise UserError(f"No benchmark is called {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    # Imported on demand: the registry must not make every benchmark's libraries a cost of the protocol.
    kind = cast(Callable[[Path, str, str], Benchmark], pkgutil.resolve_name(BENCHMARKS[name]))
    return kind(folder, split, prompts)
