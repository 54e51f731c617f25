"""What was said of each picture of a labelled dataset, by whatever said it, and how that is scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64
from pydantic import Field

from paribus import stats
from paribus.files import whole_file
from paribus.probes.metrics import (
    Tally,
    accuracy,
    balanced_accuracy,
    calibration_error,
    difference,
    estimate,
    macro_f1,
)
from paribus.results import Interval
from paribus.study.stage import Stage
from paribus.types import Config, Runtime


class Score(Config):
    """One metric on one set."""

    metric: str
    value: float
    low: float
    high: float


class SetScores(Config):
    """What is said of one set: the dataset's own test part, or one that it is shifted to."""

    name: str
    pictures: int
    chance: float = Field(description="what always the most frequent class of train gives")
    scores: list[Score]


class JudgeRecord(Config):
    """How labels could be read off."""

    sets: list[SetScores]
    learnt: int
    classes: int
    notes: list[str]


class Answered(NamedTuple):
    """Each picture of one set."""

    keys: list[str]
    truth: Int64[np.ndarray, " N"]
    answers: Int64[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"] | None

    def tallies(self) -> dict[str, Tally]:
        """Every metric that can be computed of them."""
        right = self.answers == self.truth
        found = {
            "accuracy": accuracy(right),
            "balanced accuracy": balanced_accuracy(self.answers, self.truth),
            "macro-F1": macro_f1(self.answers, self.truth),
        }
        if self.confidence is not None:
            found["calibration error"] = calibration_error(self.confidence, right)
        return found


class Asked(Stage[JudgeRecord]):
    """A stage that was asked of every test picture, and left what it said in ``answers.parquet``."""

    seed: int = 0

    def answered(self, runtime: Runtime) -> dict[str, Answered]:
        """Every set's outcomes, picture by picture."""
        table = pq.read_table(self.folder(runtime) / "answers.parquet")
        names = table["set"].to_pylist()
        found = {}
        for name in dict.fromkeys(names):
            rows = table.filter(pa.array([each == name for each in names]))
            confidence = rows["confidence"].to_numpy()
            found[name] = Answered(
                rows["key"].to_pylist(),
                rows["truth"].to_numpy().astype(np.int64),
                rows["answer"].to_numpy().astype(np.int64),
                None if np.isnan(confidence).any() else confidence,
            )
        return found


def keep_answers(sets: Sequence[tuple[str, Answered]], folder: Path) -> None:
    """Leave what was said of each picture of the sets, by their names."""
    with whole_file(folder / "answers.parquet") as path:
        pq.write_table(pa.concat_tables([_table(name, answered) for name, answered in sets]), path)


def scores_of(name: str, answered: Answered, chance: float, seed: int) -> SetScores:
    """Every metric of one set with its interval."""
    scores = []
    for metric, tally in answered.tallies().items():
        # Pictures are independent here, and Wilson's interval has a width at 0 and 100% too.
        right = answered.answers == answered.truth
        found = stats.proportion(right) if metric == "accuracy" else estimate(tally, seed=seed)
        scores.append(Score(metric=metric, value=found.value, low=found.low, high=found.high))
    return SetScores(name=name, pictures=len(answered.keys), chance=chance, scores=scores)


def _table(name: str, answered: Answered) -> pa.Table:
    confidence = answered.confidence
    unknown = np.full(len(answered.keys), np.nan)
    return pa.table(
        {
            "set": [name] * len(answered.keys),
            "key": answered.keys,
            "truth": answered.truth,
            "answer": answered.answers,
            "confidence": unknown if confidence is None else confidence,
        }
    )


class Beside(NamedTuple):
    """Two encoders on the same test pictures: each metric's difference, and two tests of accuracy."""

    steps: dict[str, Interval]
    p: float
    """McNemar's, that both are right equally often."""
    p_same: float
    """TOST's, that their accuracy differs by the margin or more."""

    def verdict(self, margin: float) -> str:
        """In words."""
        if self.p < 0.05:
            return "a difference in accuracy is certain"
        if self.p_same < 0.05:
            return f"accuracy is the same within {100 * margin:g} points"
        return "no difference in accuracy can be claimed, and no sameness"


def beside(a: Answered, b: Answered, margin: float, seed: int) -> Beside:
    """What differs between two encoders that were asked of the same pictures."""
    if a.keys != b.keys:
        raise RuntimeError("two encoders were asked of different pictures")
    one, two = a.tallies(), b.tallies()
    steps = {}
    for metric in one:
        if metric in two:
            found = difference(one[metric], two[metric], seed=seed)
            steps[metric] = Interval(value=found.value, low=found.low, high=found.high)
    right, other = a.answers == a.truth, b.answers == b.truth
    if np.array_equal(right, other):  # then as many could differ as three hundred per cent over their number
        return Beside(steps, 1.0, float(margin < 3 / len(right)))
    return Beside(steps, stats.mcnemar(right, other), stats.tost(right, other, margin))
