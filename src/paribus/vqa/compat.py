"""The two harnesses that VMCBench is scored with elsewhere, rule by rule, so that numbers can be compared.

VLMEvalKit (``vmcbench.py``) and lmms-eval (``tasks/vmcbench/utils.py``) read a text by the same rules, slips
included: what names no option is answered at random, and of several letters written "B. " the first in the
alphabet wins. They draw from Python's unseeded generator; here a seed is given. They differ in how they
average. Use ``scoring`` for numbers to believe.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from paribus.errors import UserError
from paribus.vqa.benchmark import Question

MISSING = frozenset(("", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")) | {
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>")
}
"""Option texts that VLMEvalKit loses, as pandas reads them from its TSV as missing."""

_STRIPPED = ",.!?;:'"
_WORDY = 5
"""A text of more words than this may name an option by its words."""

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_NO_ANSWER = "Failed to obtain answer via API"
_BLANKED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


class Read(NamedTuple):
    """What a harness makes of generated texts.

    ``letters`` are its answers, "" where it gives none; ``drawn`` says which of them it made up.
    """

    letters: tuple[str, ...]
    correct: Bool[np.ndarray, " Q"]
    drawn: Bool[np.ndarray, " Q"]


def vlmevalkit(texts: Sequence[str], questions: Sequence[Question], seed: int) -> Read:
    """As VLMEvalKit's VMCBench reads them, up to nine options.

    Options whose text is ``MISSING`` are none, and a question whose first option is missing is wrong unread.

    Args:
        texts: what the model wrote, one a question.
        questions: in the order of the published index, in which draws are made.
        seed: of the draws.

    Raises:
        UserError: the lengths differ, or a question is not one that this harness reads.
    """
    return _read(texts, questions, seed, _kept, most=9)


def lmms_eval(texts: Sequence[str], questions: Sequence[Question], seed: int) -> Read:
    """As lmms-eval's VMCBench reads them: always four options, each as it is. Arguments as ``vlmevalkit``."""
    return _read(texts, questions, seed, _all, least=4, most=4)


def _kept(question: Question) -> dict[str, str]:
    options = {letter: text for letter, text in _all(question).items() if text not in MISSING}
    return options if "A" in options else {}


def _all(question: Question) -> dict[str, str]:
    return dict(zip(question.says, question.options, strict=True))


def _read(
    texts: Sequence[str],
    questions: Sequence[Question],
    seed: int,
    offered: Callable[[Question], dict[str, str]],
    most: int,
    least: int = 2,
) -> Read:
    if len(texts) != len(questions):
        raise UserError(f"{len(texts)} texts for {len(questions)} questions: score one benchmark at a time.")
    rng = random.Random(seed)
    letters, drawn = [], []
    for text, question in zip(texts, questions, strict=True):
        _check(question, least, most)
        options = offered(question)
        found = named(text, options) if options else ""
        drawn.append(found is None)
        letters.append(rng.choice(list(options)) if found is None else found)
    correct = [letter == question.answer for letter, question in zip(letters, questions, strict=True)]
    return Read(tuple(letters), np.array(correct, dtype=bool), np.array(drawn, dtype=bool))


def _check(question: Question, least: int, most: int) -> None:
    if not question.lettered or not least <= len(question.options) <= most:
        raise UserError(
            f"Question {question.key} does not have {least} to {most} lettered options, which is all that "
            "this harness reads: use paribus.vqa.scoring."
        )
    if not question.answer:
        raise UserError(
            f"Question {question.key} has no published answer: score a split that has its answers."
        )


def named(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that both harnesses take a text to name, or None where they draw one.

    Each mark is stripped from the ends once, in this order, so "A,." keeps its comma. Then letters written
    "(A)" or "A. "; else letters that stand alone; else, in a text of over five words, options whose text
    occurs. Of several the one that stands last is meant, but letters are only looked for as "(A)": of those
    written "A. " alone, all stand nowhere and the first option wins.

    Args:
        text: what the model wrote.
        options: letter -> text, in order.
    """
    for mark in _STRIPPED:
        text = text.strip(mark)
    padded = f" {text} "
    marked = [letter for letter in options if f"({letter})" in padded or f"{letter}. " in padded]
    if marked:
        return max(marked, key=lambda letter: padded.rfind(f"({letter})"))
    alone = [letter for letter in options if f" {letter} " in padded]
    if alone:
        return max(alone, key=lambda letter: padded.rfind(f" {letter} "))
    plain = padded.lower()
    if len(padded.split()) <= _WORDY:
        return None
    worded = [letter for letter, option in options.items() if option.lower() in plain]
    return max(worded, key=lambda letter: plain.rfind(options[letter].lower()), default=None)


def can_infer(text: str, options: Mapping[str, str]) -> str | None:
    """The letter by VLMEvalKit's general rule for options (``can_infer``), "Z" for a refusal, or None.

    Its VMCBench does not go by this; its other multiple-choice benchmarks do, before they ask a judge. The
    one letter that stands alone once punctuation is blanked; else the one option whose text occurs. Later
    versions also want the letter among the last four words and the text not much longer than the options.

    Args:
        text: what the model wrote.
        options: letter -> text, in order.
    """
    if _NO_ANSWER not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return "Z"
        words = text.translate(_BLANKED).split()
        alone = [letter for letter in options if letter in words]
        if len(alone) == 1:
            return alone[0]
        if not alone and "Z" in words:
            return "Z"
    worded = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return worded[0] if len(worded) == 1 else None


# How they average.


def vlmevalkit_report(correct: Bool[np.ndarray, " Q"], questions: Sequence[Question]) -> dict[str, float]:
    """VLMEvalKit's table, in percent to two decimals.

    ``Overall`` is micro, over questions; a category is macro, over its sources; then the sources.
    """
    by_source = _by_source(correct, questions)
    means = {
        "Overall": float(correct.mean()),
        **_macro(by_source, questions),
        **{source: float(hits.mean()) for source, hits in by_source.items()},
    }
    return {name: float(np.round(100 * mean, 2)) for name, mean in means.items()}


LMMS_EVAL_NAMES = {"General": "general", "Reasoning": "reason", "OCR": "ocr", "Doc & Chart": "doc"}


def lmms_eval_report(correct: Bool[np.ndarray, " Q"], questions: Sequence[Question]) -> dict[str, float]:
    """lmms-eval's metrics, as shares: categories and ``average`` are all micro, over questions."""
    _answered(correct, questions)
    categories = np.array([question.category for question in questions])
    means = {
        LMMS_EVAL_NAMES.get(name, name): float(correct[categories == name].mean())
        for name in dict.fromkeys(categories.tolist())
    }
    return {**means, "average": float(correct.mean())}


def leaderboard_report(correct: Bool[np.ndarray, " Q"], questions: Sequence[Question]) -> dict[str, float]:
    """VMCBench's leaderboard, in percent: categories and ``Avg`` are all macro, over sources."""
    by_source = _by_source(correct, questions)
    average = float(np.mean([hits.mean() for hits in by_source.values()]))
    means = {**_macro(by_source, questions), "Avg": average}
    return {name: 100 * mean for name, mean in means.items()}


def _answered(correct: Bool[np.ndarray, " Q"], questions: Sequence[Question]) -> None:
    if len(correct) != len(questions) or not questions:
        raise UserError(
            f"{len(correct)} answers for {len(questions)} questions: report one benchmark at a time."
        )


def _by_source(
    correct: Bool[np.ndarray, " Q"], questions: Sequence[Question]
) -> dict[str, Bool[np.ndarray, " n"]]:
    _answered(correct, questions)
    sources = np.array([question.source for question in questions])
    return {name: correct[sources == name] for name in dict.fromkeys(sources.tolist())}


def _macro(
    by_source: Mapping[str, Bool[np.ndarray, " n"]], questions: Sequence[Question]
) -> dict[str, float]:
    """The mean over a category's sources, for each category."""
    category = {question.source: question.category for question in questions}
    means: dict[str, list[float]] = {}
    for source, hits in by_source.items():
        means.setdefault(category[source], []).append(float(hits.mean()))
    return {name: float(np.mean(found)) for name, found in means.items()}
