"""From answers to numbers: option likelihoods, a strict parser, and accuracies with intervals.

VMCBench's own harness answers at random, unseeded, where it cannot parse a text, and lets the first letter
win where it meant the last (``compat`` does so too). Here a text that does not name exactly one option is
*unparsed*: wrong, and counted apart.

Shapes: Q questions, C options of the question that has most, N questions in all their rotations, S seeds.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from paribus import stats
from paribus.errors import UserError
from paribus.results import Difference, Measure
from paribus.rng import numpy_rng
from paribus.vqa.benchmark import CATEGORIES, LETTERS, Question

DRAWS = 2000
MICRO = "accuracy (micro)"
"""The share of a task's questions that are answered rightly."""
MACRO = "accuracy (macro)"
"""The mean of the accuracies of a task's sources: each source weighs the same."""
CATEGORY_MEAN = "accuracy (mean over categories)"
"""The mean of the categories' micro accuracies."""
GROUPS = "accuracy (all of a group)"
"""The share of groups of which every question is answered rightly (MMVP's pairs, NaturalBench's G-Acc)."""

BLIND = {
    "majority": "the most frequent answer, always",
    "no-image": "the model without the picture",
    "wrong-image": "the model with another question's picture",
}
"""What answers without seeing the picture, by its name."""

Correct = Bool[np.ndarray, " Q"]


# Options by their likelihood.


def score(scores: Float[np.ndarray, "Q C"], questions: Sequence[Question]) -> Correct:
    """Which questions are answered rightly by the most likely of their options.

    A right option that only ties for the highest score is not preferred, so it counts as wrong: a model that
    says the same of all options gets nothing, not the share of the first.

    Args:
        scores: the model's logits (or log-likelihoods) of what each option says; -inf where there is none.
        questions: of a row each.

    Raises:
        UserError: there are not as many questions as rows, an option has no finite score or one that is not
            there has one, or an answer is not published.
    """
    places = _places(questions)
    _present(scores, questions)
    right = np.take_along_axis(scores, places[:, None], axis=1)[:, 0]
    others = scores.copy()
    np.put_along_axis(others, places[:, None], -np.inf, axis=1)
    correct: Correct = right > others.max(axis=1)
    return correct


def likelihood(scores: Float[np.ndarray, "Q C"], questions: Sequence[Question]) -> Float[np.ndarray, " Q"]:
    """The right option's probability among the options: a softmax over them.

    Raises:
        UserError: as ``score``.
    """
    places = _places(questions)
    _present(scores, questions)
    wide = scores.astype(np.float64)
    shares = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen: Float[np.ndarray, " Q"] = np.take_along_axis(shares, places[:, None], axis=1)[:, 0]
    return chosen


def likeliest(scores: Float[np.ndarray, "Q C"], questions: Sequence[Question]) -> list[str]:
    """What the most likely option of each question says; of equals the first, since one must be given.

    Raises:
        UserError: as ``score``, but for answers that are not published.
    """
    _present(scores, questions)
    places = scores.argmax(axis=1).tolist()
    return [question.says[place] for question, place in zip(questions, places, strict=True)]


def _places(questions: Sequence[Question]) -> Int[np.ndarray, " Q"]:
    """Where each question's answer stands among its options."""
    hidden = next((question.key for question in questions if not question.answer), None)
    if hidden is not None:
        raise UserError(f"Question {hidden} has no published answer: score a split that has its answers.")
    return np.array([question.says.index(question.answer) for question in questions], dtype=np.int64)


def _present(scores: Float[np.ndarray, "Q C"], questions: Sequence[Question]) -> Bool[np.ndarray, "Q C"]:
    """Which scores belong to an option."""
    if len(scores) != len(questions):
        raise UserError(
            f"{len(scores)} rows of scores for {len(questions)} questions: score one benchmark at a time."
        )
    counts = np.array([len(question.options) for question in questions], dtype=np.int64)
    if counts.size and counts.max() > scores.shape[1]:
        raise UserError(f"A question has {counts.max()} options but {scores.shape[1]} scores: score each.")
    present: Bool[np.ndarray, "Q C"] = np.arange(scores.shape[1]) < counts[:, None]
    broken = np.flatnonzero((present & ~np.isfinite(scores)).any(axis=1))
    if broken.size:
        key = questions[int(broken[0])].key
        raise UserError(f"The scores of question {key} are not finite: the model diverged; retrain it.")
    extra = np.flatnonzero((~present & (scores != -np.inf)).any(axis=1))
    if extra.size:
        key = questions[int(extra[0])].key
        raise UserError(f"Question {key} has a score for an option that it does not have: make it -inf.")
    return present


def calibrated(scores: Float[np.ndarray, "Q C"], prior: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "Q C"]:
    """Scores less what the model says of the same options without the picture, option by option.

    What is left is how much the picture speaks for an option (contextual calibration: Zhao et al. 2021;
    pointwise mutual information: Holtzman et al. 2021).

    Args:
        scores: log-likelihoods with the picture; -inf where there is no option.
        prior: the same questions' without it.

    Raises:
        UserError: the two are not about the same options.
    """
    if scores.shape != prior.shape or (np.isfinite(scores) != np.isfinite(prior)).any():
        raise UserError("The scores and their prior are about other options: ask the same questions.")
    found = np.full_like(scores, -np.inf)
    np.subtract(scores, prior, out=found, where=np.isfinite(scores))
    return found


# Every option in every place.


def rotations(question: Question) -> list[Question]:
    """The question with its options moved on in a circle, the answer with them, as asked first.

    Where options are said themselves their order is not shown, so there is only the question itself.
    """
    if not question.lettered:
        return [question]
    return [_rotated(question, step) for step in range(len(question.options))]


def _rotated(question: Question, step: int) -> Question:
    if step == 0:
        return question
    count = len(question.options)
    moved = question.answer and LETTERS[(LETTERS.index(question.answer) - step) % count]
    options = question.options[step:] + question.options[:step]
    return replace(question, options=options, answer=moved, key=f"{question.key}-rotated-{step}")


def circular(correct: Bool[np.ndarray, " N"], questions: Sequence[Question]) -> Correct:
    """Which questions are answered rightly in every rotation (CircularEval: Liu et al. 2024, MMBench).

    Args:
        correct: of each question all its ``rotations``, one after the other.
        questions: as asked first.

    Raises:
        UserError: there are not as many answers as rotations.
    """
    spans = _spans(len(correct), questions)
    return np.array([correct[span].all() for span in spans], dtype=bool)


def rotated_mean(scores: Float[np.ndarray, "N C"], questions: Sequence[Question]) -> Float[np.ndarray, "Q C"]:
    """Each option's mean score over the places that it stood in, in the order of options as asked first.

    A liking for a place adds the same to every option, so it is gone, and nothing else is lost.

    Args:
        scores: log-likelihoods of each question in all its ``rotations``, one after the other.
        questions: as asked first.

    Raises:
        UserError: there are not as many rows as rotations.
    """
    means = np.full((len(questions), scores.shape[1]), -np.inf, dtype=scores.dtype)
    for row, (span, question) in enumerate(zip(_spans(len(scores), questions), questions, strict=True)):
        count = len(question.options)
        steps = np.arange(span.stop - span.start)
        stood = (np.arange(count) - steps[:, None]) % count
        means[row, :count] = np.take_along_axis(scores[span], stood, axis=1).mean(axis=0)
    return means


def _spans(rows: int, questions: Sequence[Question]) -> list[slice]:
    """Where the rotations of each question stand."""
    counts = [len(question.options) if question.lettered else 1 for question in questions]
    ends = list(itertools.accumulate(counts))
    if rows != sum(counts):
        raise UserError(
            f"{rows} answers for {sum(counts)} rotations of {len(questions)} questions: ask every rotation."
        )
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


# What is answered without a picture.


def majority(questions: Sequence[Question]) -> Float[np.ndarray, "Q C"]:
    """Scores of a predictor that always gives the most frequent place of the answer, the first of equals.

    Raises:
        UserError: there are no questions, or an answer is not published.
    """
    if not questions:
        raise UserError("There are no questions to find the most frequent answer of: check the benchmark.")
    place = int(np.bincount(_places(questions)).argmax())
    counts = np.array([len(question.options) for question in questions], dtype=np.int64)
    order = np.arange(counts.max())
    return np.where(order < counts[:, None], np.where(order == place, 1.0, 0.0), -np.inf)


def wrong_image_order(
    count: int, seed: int, pictures: Sequence[str] | None = None
) -> Int[np.ndarray, " count"]:
    """For each question another question's place, to show that one's picture; each is shown once.

    No question gets its own picture, nor one that is named the same, as far as there are enough others.

    Args:
        count: of questions.
        seed: of the choice.
        pictures: a name or digest of each question's picture; without, all are taken to differ.

    Raises:
        UserError: fewer than two questions, or another number of pictures.
    """
    if count < 2:
        raise UserError(f"Another question's picture needs at least 2 questions but there is {count}.")
    names = np.arange(count) if pictures is None else np.unique(pictures, return_inverse=True)[1]
    if len(names) != count:
        raise UserError(f"There are {len(names)} pictures for {count} questions: give one for each.")
    rng = numpy_rng(seed, "wrong image", count)
    # Questions of one picture stand together; a step as long as the longest such row leaves every row.
    mixed = rng.permutation(count)
    line = mixed[np.argsort(rng.permutation(count)[names[mixed]], kind="stable")]
    longest = int(np.bincount(names).max())
    order = np.empty(count, dtype=np.int64)
    order[line] = np.roll(line, -(longest if longest < count else 1))
    return order


# Generated texts.


class Parsed(NamedTuple):
    """Generated answers, read: which are right, and which name no option or several."""

    correct: Bool[np.ndarray, " Q"]
    unparsed: Bool[np.ndarray, " Q"]


_EDGE = " \t\r\n,.!?;:'\"`*()[]"


def parse(text: str, question: Question) -> str | None:
    """The one option that a generated text names, as the question ``says`` it, or None.

    Letters are read in this order: the whole text is a letter; letters marked as options, "(B)", "B." or
    "B:", or claimed, "the answer is B"; the whole text is one option's words. A bare "A" within a sentence is
    an article, not an answer. Options that are said themselves ("Yes") may stand anywhere in the text, as
    whole words in any case. What names two different options is no answer.
    """
    says = question.says
    if says != tuple(LETTERS[: len(says)]):
        return _said(text, says)
    bare = text.strip(_EDGE)
    if bare in says:
        return bare
    marked, claimed = _patterns(says[-1])
    found = {first or second for first, second in marked.findall(text)} | set(claimed.findall(text))
    if found:
        return found.pop() if len(found) == 1 else None
    same = [
        said for said, option in zip(says, question.options, strict=True) if _plain(option) == _plain(bare)
    ]
    return same[0] if len(same) == 1 else None


@functools.cache
def _patterns(last: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What marks and what claims a letter from A to ``last``; "I am" is a pronoun."""
    marked = rf"\(([A-{last}])\)|(?<![A-Za-z0-9])([A-{last}])(?=[.):](?:\s|$))"
    lead = r"(?i:answer is|answer:|option|choice)\s*[\"'(*]*"
    return re.compile(marked), re.compile(rf"{lead}(?!I\s+[a-z])([A-{last}])(?![A-Za-z0-9'])")


def _said(text: str, says: Sequence[str]) -> str | None:
    """The one option whose words occur; the longer of two where one is part of the other."""
    plain = [_plain(option) for option in says]
    longest = sorted(filter(None, plain), key=len, reverse=True)
    words = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)"
    found = set(re.findall(words, _plain(text))) if longest else set()
    same = [said for said, option in zip(says, plain, strict=True) if option in found]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.strip(_EDGE).casefold().split())


def score_texts(texts: Sequence[str], questions: Sequence[Question]) -> Parsed:
    """Read generated texts; an unparsed one is wrong.

    Args:
        texts: what the model wrote, one a question.
        questions: that it was asked.

    Raises:
        UserError: the lengths differ, or an answer is not published.
    """
    if len(texts) != len(questions):
        raise UserError(f"{len(texts)} texts for {len(questions)} questions: score one benchmark at a time.")
    _places(questions)
    said = [parse(text, question) for text, question in zip(texts, questions, strict=True)]
    correct = [answer == question.answer for answer, question in zip(said, questions, strict=True)]
    return Parsed(np.array(correct, dtype=bool), np.array([answer is None for answer in said], dtype=bool))


# Accuracies and their differences.


@dataclass(frozen=True)
class _Task:
    """A number to report: the mean of some units' values, made of which questions are answered rightly."""

    name: str
    metric: str
    rows: Int[np.ndarray, " n"]
    strata: np.ndarray | None = None
    """Labels of the rows: the number is the mean of their means."""
    clusters: np.ndarray | None = None
    """Labels of the rows that depend on each other, and are resampled together."""
    joint: np.ndarray | None = None
    """Labels of the rows that only count together."""

    @property
    def unit(self) -> str:
        """What is resampled."""
        return "questions" if self.clusters is None and self.joint is None else "groups"

    @property
    def tested(self) -> bool:
        """Whether units are independent, and right or wrong, so that McNemar's test applies."""
        return self.strata is None and self.clusters is None

    def values(self, right: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " u"]:
        """A value a unit, of each question's correctness, or of its chance."""
        chosen = right[self.rows]
        if self.joint is not None:
            return together(chosen, self.joint)
        return chosen if self.strata is None else influence(chosen, self.strata)


def together(values: Float[np.ndarray, " n"], groups: np.ndarray) -> Float[np.ndarray, " g"]:
    """The product of each group's values, groups in sorted order: 1 if all are right; the chance of that."""
    names, place = np.unique(groups, return_inverse=True)
    product = np.ones(len(names))
    np.multiply.at(product, place, values)
    return product


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


def summarise(
    correct_by_arm: Mapping[str, Correct], questions: Sequence[Question], seed: int
) -> tuple[list[Measure], list[Difference]]:
    """Accuracies of every arm and paired differences of every two arms.

    Tasks: each source, each category and ``overall``, all ``MICRO``; each category and ``overall`` also
    ``MACRO``, over sources (VMCBench's leaderboard); ``overall`` as ``CATEGORY_MEAN``; and where questions
    carry a group, each category that has some as ``GROUPS``, and ``overall`` if several have. (NaturalBench's
    Q-Acc and I-Acc are other groupings of the same questions, and are not given.)

    Questions of one group share pictures, so groups are resampled whole, and ``n`` counts them. Differences
    carry McNemar's exact p where units are independent and right or wrong, Holm-corrected over all of them,
    and the smallest true difference that would have been found.

    Args:
        correct_by_arm: arm -> which questions it answers rightly, in the order of ``questions``.
        questions: the questions.
        seed: the study's seed, for the bootstrap and for the record.

    Raises:
        UserError: if there are no questions, or an arm answered another number of them.
    """
    _check({arm: len(correct) for arm, correct in correct_by_arm.items()}, questions)
    chance = np.array([1 / len(question.options) for question in questions])
    right = {arm: correct.astype(np.float64) for arm, correct in correct_by_arm.items()}
    tasks = list(_tasks(questions))
    measures = [_measure(task, arm, one, chance, seed) for arm, one in right.items() for task in tasks]
    pairs = list(itertools.combinations(right.items(), 2))
    differences = [_difference(task, *one, *other, seed) for one, other in pairs for task in tasks]
    return measures, _corrected(differences)


def summarise_seeds(
    correct_by_arm: Mapping[str, Bool[np.ndarray, "S Q"]], questions: Sequence[Question], seed: int
) -> list[Difference]:
    """Paired differences of every two arms over all training seeds, which are resampled as questions are.

    Tasks are those of ``summarise``, each metric with ``over_seeds``. There is no p: McNemar's test knows of
    no seeds.

    Args:
        correct_by_arm: arm -> a row a training seed: which questions it answers rightly.
        questions: the questions.
        seed: of the bootstrap, and for the record.

    Raises:
        UserError: if there are no questions, or an arm has another number of them or of seeds.
    """
    _check({arm: correct.shape[1] for arm, correct in correct_by_arm.items()}, questions)
    counts = {len(correct) for correct in correct_by_arm.values()}
    if len(counts) > 1:
        raise UserError(f"Arms have {min(counts)} to {max(counts)} seeds: train all with the same seeds.")
    right = {arm: correct.astype(np.float64) for arm, correct in correct_by_arm.items()}
    tasks = list(_tasks(questions))
    pairs = list(itertools.combinations(right.items(), 2))
    return [_crossed(task, *one, *other, seed) for one, other in pairs for task in tasks]


def over_seeds(metric: str, seeds: int) -> str:
    """The name of a metric that is averaged over training seeds."""
    return f"{metric} over {seeds} seed{'s' if seeds != 1 else ''}"


def _check(answered: Mapping[str, int], questions: Sequence[Question]) -> None:
    if not questions:
        raise UserError("There are no questions to summarise: check the benchmark's folder and split.")
    for arm, count in answered.items():
        if count != len(questions):
            raise UserError(
                f"Arm {arm!r} answered {count} of {len(questions)} questions: make it answer all."
            )


def _tasks(questions: Sequence[Question]) -> Iterator[_Task]:
    sources = np.array([question.source for question in questions])
    categories = np.array([question.category for question in questions])
    groups = np.array([question.group for question in questions])
    parts = [np.flatnonzero(sources == name) for name in dict.fromkeys(sources.tolist())]
    known = [name for name in CATEGORIES if name in categories]
    names = dict.fromkeys([*known, *categories.tolist()])
    wholes = {name: np.flatnonzero(categories == name) for name in names}
    wholes["overall"] = np.arange(len(questions))
    for rows in parts:
        yield _Task(
            f"{categories[rows[0]]}/{sources[rows[0]]}", MICRO, rows, clusters=_clusters(groups, rows)
        )
    for metric, strata in ((MICRO, None), (MACRO, sources)):
        for name, rows in wholes.items():
            labels = None if strata is None else strata[rows]
            yield _Task(name, metric, rows, strata=labels, clusters=_clusters(groups, rows))
    rows = wholes["overall"]
    yield _Task("overall", CATEGORY_MEAN, rows, strata=categories, clusters=_clusters(groups, rows))
    grouped = {name: rows[groups[rows] != ""] for name, rows in wholes.items()}
    several = sum(len(grouped[name]) > 0 for name in names) > 1
    for name, rows in grouped.items():
        if len(rows) and (several or name in names):
            yield _Task(name, GROUPS, rows, joint=groups[rows])


def _clusters(groups: np.ndarray, rows: Int[np.ndarray, " n"]) -> np.ndarray | None:
    """The rows' groups, a row without one by itself; None where there are none."""
    if not (groups[rows] != "").any():
        return None
    return np.array([groups[row] or f"\0{row}" for row in rows])


def _measure(
    task: _Task, arm: str, right: Float[np.ndarray, " Q"], chance: Float[np.ndarray, " Q"], seed: int
) -> Measure:
    estimate = stats.bootstrap_mean(task.values(right), clusters=task.clusters, seed=seed, draws=DRAWS)
    return Measure(
        section="vqa",
        task=task.name,
        metric=task.metric,
        arm=arm,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        unit=task.unit,
        seed=seed,
        chance=float(task.values(chance).mean()),
    )


def _difference(
    task: _Task, arm: str, one: Float[np.ndarray, " Q"], other: str, two: Float[np.ndarray, " Q"], seed: int
) -> Difference:
    a, b = task.values(one), task.values(two)
    return Difference(
        section="vqa",
        task=task.name,
        metric=task.metric,
        arm=arm,
        other=other,
        **stats.bootstrap_difference(a, b, clusters=task.clusters, seed=seed, draws=DRAWS)._asdict(),
        unit=task.unit,
        seed=seed,
        p=stats.mcnemar(a > 0.5, b > 0.5) if task.tested else None,
        detectable=stats.detectable(a, b, clusters=task.clusters),
    )


def _crossed(
    task: _Task, arm: str, one: Float[np.ndarray, "S Q"], other: str, two: Float[np.ndarray, "S Q"], seed: int
) -> Difference:
    a, b = (np.stack([task.values(row) for row in rows]) for rows in (one, two))
    found = stats.crossed_difference(a, b, clusters=task.clusters, seed=seed, draws=DRAWS)
    return Difference(
        section="vqa",
        task=task.name,
        metric=over_seeds(task.metric, len(one)),
        arm=arm,
        other=other,
        **found.estimate._asdict(),
        unit=task.unit,
        seed=seed,
        detectable=found.detectable,
    )


def _corrected(differences: list[Difference]) -> list[Difference]:
    """The same, their p-values taken as one family (Holm)."""
    tested = [row.p for row in differences if row.p is not None]
    corrected = iter(stats.holm(np.array(tested, dtype=np.float64)).tolist())
    return [
        row if row.p is None else row.model_copy(update={"p_holm": next(corrected)}) for row in differences
    ]


# In words.


def sentence(difference: Difference) -> str:
    """What a difference of two accuracies says, with its interval, in points of a hundred.

    "clip beats dino on OCR by 7.5 points (95% interval 3.4 to 11.6; n = 800)"; where the interval holds zero,
    that they are not distinguishable, and what would have been. Any metric but ``MICRO`` is named.
    """
    better, worse = difference.arm, difference.other
    value, low, high = difference.value, difference.low, difference.high
    if value < 0 and high < 0:
        better, worse, value, low, high = worse, better, -value, -high, -low
    count = f"n = {difference.n}" + ("" if difference.unit == "questions" else f" {difference.unit}")
    where = "overall" if difference.task == "overall" else f"on {difference.task}"
    if difference.metric != MICRO:
        where += f" in {difference.metric}"
    if low > 0:
        interval = f"95% interval {_points(low)} to {_points(high)}"
        return f"{better} beats {worse} {where} by {_points(value)} points ({interval}; {count})"
    found = f"difference {_points(value)} points, {_points(low)} to {_points(high)}; {count}"
    if difference.detectable:
        found += f"; a difference of {_points(difference.detectable)} would have been found 4 times in 5"
    return f"{better} and {worse} are not distinguishable {where} ({found})"


def _points(share: float) -> str:
    """With one decimal; what rounds to nothing has no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f}"
