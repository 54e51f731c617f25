"""From answers to numbers: option likelihoods, a strict parser, and accuracies with intervals.

VMCBench's own harness answers at random, unseeded, where it cannot parse a text, and lets the first letter
win where it meant the last. Here a text that does not name exactly one option is *unparsed*: wrong, and
counted apart.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from paribus import stats
from paribus.errors import UserError
from paribus.results import Difference, Measure
from paribus.vqa.benchmark import CATEGORIES, LETTERS, Question

DRAWS = 2000
CHANCE = 1 / len(LETTERS)

Correct = Bool[np.ndarray, " Q"]


class Parsed(NamedTuple):
    """Generated answers, read: which are right, and which name no option or several."""

    correct: Bool[np.ndarray, " Q"]
    unparsed: Bool[np.ndarray, " Q"]


def letter_index(answers: Sequence[str]) -> np.ndarray:
    """The place of each answer letter in A to D, ``[Q]`` int64.

    Raises:
        UserError: if an answer is not one of the four letters.
    """
    wrong = [answer for answer in answers if answer not in tuple(LETTERS)]
    if wrong:
        raise UserError(f"The answer {wrong[0]!r} is not a letter from A to D: give one letter a question.")
    return np.array([LETTERS.index(answer) for answer in answers], dtype=np.int64)


def score(logits_by_letter: Float[np.ndarray, "Q 4"], answers: Sequence[str]) -> Correct:
    """Which questions are answered rightly by the most likely of the four letters.

    A right letter that only ties for the highest logit is not preferred, so it counts as wrong: a model that
    says the same of all four gets nothing, not the share of A.

    Args:
        logits_by_letter: the model's logits (or log-likelihoods) of the tokens A to D after the prompt.
        answers: the right letters.

    Raises:
        UserError: if there are not as many answers as rows, or a logit is not finite.
    """
    right = _right_first(logits_by_letter, answers)
    correct: Correct = right[:, 0] > right[:, 1:].max(axis=1)
    return correct


def likelihood(logits_by_letter: Float[np.ndarray, "Q 4"], answers: Sequence[str]) -> Float[np.ndarray, " Q"]:
    """The right letter's probability among the four letters: a softmax over A to D.

    Raises:
        UserError: as ``score``.
    """
    right = _right_first(logits_by_letter, answers).astype(np.float64)
    shifted = np.exp(right - right.max(axis=1, keepdims=True))
    share: Float[np.ndarray, " Q"] = shifted[:, 0] / shifted.sum(axis=1)
    return share


def _right_first(logits: Float[np.ndarray, "Q 4"], answers: Sequence[str]) -> Float[np.ndarray, "Q 4"]:
    """The logits with the right letter's in front."""
    if len(logits) != len(answers):
        raise UserError(
            f"{len(logits)} rows of logits for {len(answers)} answers: score one benchmark at a time."
        )
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise UserError(
            f"The letter logits of question {row} are not finite: the model diverged; retrain it."
        )
    order = (letter_index(answers)[:, None] + np.arange(len(LETTERS))) % len(LETTERS)
    return np.take_along_axis(logits, order, axis=1)


_EDGE = " \t\r\n,.!?;:'\"`*()[]"
_MARKED = re.compile(r"\(([A-D])\)|(?<![A-Za-z0-9])([A-D])(?=[.):](?:\s|$))")
_CLAIMED = re.compile(r"(?i:answer is|answer:|option|choice)\s*[\"'(*]*([A-D])(?![A-Za-z0-9'])")


def parse(text: str, options: Sequence[str] = ()) -> str | None:
    """The one letter that a generated text names, or None.

    Read in this order: the whole text is a letter; letters marked as options, "(B)", "B." or "B:", or
    claimed, "the answer is B"; the whole text is one option's words. Two different letters are no answer. A
    bare "A" within a sentence is an article, not an answer.

    Args:
        text: what the model wrote.
        options: the four option texts, to accept an answer in words.
    """
    bare = text.strip(_EDGE)
    if bare in tuple(LETTERS):
        return bare
    found = {first or second for first, second in _MARKED.findall(text)} | set(_CLAIMED.findall(text))
    if found:
        return found.pop() if len(found) == 1 else None
    same = [
        letter for letter, option in zip(LETTERS, options, strict=False) if _plain(option) == _plain(bare)
    ]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.strip(_EDGE).casefold().split())


def score_texts(
    texts: Sequence[str], answers: Sequence[str], options: Sequence[Sequence[str]] | None = None
) -> Parsed:
    """Read generated texts; an unparsed one is wrong.

    Args:
        texts: what the model wrote, one a question.
        answers: the right letters.
        options: the four option texts of each question, to accept answers in words.

    Raises:
        UserError: if the lengths differ.
    """
    given = options if options is not None else [()] * len(texts)
    if not len(texts) == len(answers) == len(given):
        raise UserError(f"{len(texts)} texts for {len(answers)} answers: score one benchmark at a time.")
    letter_index(answers)
    letters = [parse(text, choice) for text, choice in zip(texts, given, strict=True)]
    correct = np.array(
        [letter == answer for letter, answer in zip(letters, answers, strict=True)], dtype=bool
    )
    return Parsed(correct, np.array([letter is None for letter in letters], dtype=bool))


class _Task(NamedTuple):
    """One number to report: the mean of ``weigh``-ed correctness over some questions."""

    name: str
    metric: str
    rows: np.ndarray
    strata: np.ndarray | None


def summarise(
    correct_by_arm: Mapping[str, Correct], questions: Sequence[Question], seed: int
) -> tuple[list[Measure], list[Difference]]:
    """Accuracies of every arm and paired differences of every two arms.

    Tasks: each source, each category (micro: over its questions), ``overall`` micro (over all questions) and
    ``overall`` macro (the mean over sources, as VMCBench's leaderboard averages). Differences carry McNemar's
    exact p, Holm-corrected over all of them; the macro mean is no count of right answers and has none.

    Args:
        correct_by_arm: arm -> which questions it answers rightly, in the order of ``questions``.
        questions: the questions.
        seed: the study's seed, for the bootstrap and for the record.

    Raises:
        UserError: if there are no questions, or an arm answered another number of them.
    """
    _check(correct_by_arm, questions)
    tasks = list(_tasks(questions))
    measures = [
        _measure(task, arm, correct, seed) for arm, correct in correct_by_arm.items() for task in tasks
    ]
    pairs = list(itertools.combinations(correct_by_arm.items(), 2))
    differences = [_difference(task, *one, *other, seed) for one, other in pairs for task in tasks]
    tested = [i for i, row in enumerate(differences) if row.p is not None]
    corrected = stats.holm(np.array([differences[i].p for i in tested], dtype=np.float64))
    for i, value in zip(tested, corrected, strict=True):
        differences[i] = differences[i].model_copy(update={"p_holm": float(value)})
    return measures, differences


def _check(correct_by_arm: Mapping[str, Correct], questions: Sequence[Question]) -> None:
    if not questions:
        raise UserError("There are no questions to summarise: check the benchmark's folder and split.")
    for arm, correct in correct_by_arm.items():
        if len(correct) != len(questions):
            raise UserError(
                f"Arm {arm!r} answered {len(correct)} of {len(questions)} questions: make it answer all."
            )


def _tasks(questions: Sequence[Question]) -> Iterable[_Task]:
    sources = np.array([question.source for question in questions])
    categories = np.array([question.category for question in questions])
    for name in dict.fromkeys(sources.tolist()):
        rows = np.flatnonzero(sources == name)
        yield _Task(f"{categories[rows[0]]}/{name}", "accuracy", rows, None)
    known = [name for name in CATEGORIES if name in categories]
    for name in dict.fromkeys([*known, *categories.tolist()]):
        yield _Task(name, "accuracy", np.flatnonzero(categories == name), None)
    everything = np.arange(len(questions))
    yield _Task("overall", "accuracy (micro)", everything, None)
    yield _Task("overall", "accuracy (macro)", everything, sources)


def _values(task: _Task, correct: Correct) -> Float[np.ndarray, " n"]:
    values = correct[task.rows].astype(np.float64)
    return values if task.strata is None else influence(values, task.strata)


def influence(values: Float[np.ndarray, " n"], strata: np.ndarray) -> Float[np.ndarray, " n"]:
    """Values whose mean is the mean of the strata's means, and whose bootstrap is the stratified one.

    Each is the macro mean plus that value's own influence on it, n / (strata x its stratum's n) times its
    distance from its stratum's mean, so that an ordinary resampling of questions carries the variance of
    resampling within sources (the infinitesimal jackknife: Efron and Tibshirani 1993, chapter 21).

    Args:
        values: one number a question.
        strata: the source of each question.
    """
    _, place = np.unique(strata, return_inverse=True)
    sizes = np.bincount(place)
    means = np.bincount(place, weights=values) / sizes
    weight = len(values) / (len(sizes) * sizes)
    spread: Float[np.ndarray, " n"] = means.mean() + weight[place] * (values - means[place])
    return spread


def _measure(task: _Task, arm: str, correct: Correct, seed: int) -> Measure:
    estimate = stats.bootstrap_mean(_values(task, correct), seed=seed, draws=DRAWS)
    return Measure(
        section="vqa",
        task=task.name,
        metric=task.metric,
        arm=arm,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        unit="questions",
        seed=seed,
        chance=CHANCE,
    )


def _difference(task: _Task, arm: str, one: Correct, other: str, two: Correct, seed: int) -> Difference:
    estimate = stats.bootstrap_difference(_values(task, one), _values(task, two), seed=seed, draws=DRAWS)
    return Difference(
        section="vqa",
        task=task.name,
        metric=task.metric,
        arm=arm,
        other=other,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        unit="questions",
        seed=seed,
        p=stats.mcnemar(one[task.rows], two[task.rows]) if task.strata is None else None,
    )
