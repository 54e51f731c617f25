"""The boundary: per task, which supervision leads and with what certainty.

Encoders are compared on the same units (concepts, words, scenes), so every difference is paired. Two
families of tests are each corrected by Holm's method: the steps between two sides, over all tasks; and the
leader's lead over each other encoder, over all tasks and encoders. Intervals are over the tasks' units; of
other training seeds they say nothing.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from paribus.results import AbilityMap, Boundary, Interval, MapRow
from paribus.stats import from_draws, holm
from paribus.study.abilities import Ability, Asked
from paribus.study.control import Treatment
from paribus.study.tasks import LEANING

LANGUAGE, VISION = "language", "vision alone"
CERTAIN = 0.05
"""Adjusted p-values below are differences."""


class Sides(NamedTuple):
    """Two groups of encoders, and what they are called."""

    one: str = ""
    two: str = ""
    members: Mapping[str, str] = {}
    """Encoder -> its side; those on none are absent."""

    def of(self, side: str, names: Sequence[str]) -> list[str]:
        """Members of a side, in order."""
        return [name for name in names if side and self.members.get(name) == side]


Draws = Float[np.ndarray, " draws"]


def sides_of(arms: Mapping[str, Treatment]) -> Sides:
    """Arms by what taught their encoders: language, or vision alone.

    On no side are hybrids, and arms that begin with another's encoder.
    """
    members = {}
    for name, arm in arms.items():
        told, alone = arm.objective.reads_text, arm.objective.looks_alone
        if arm.after is None and told != alone:
            members[name] = LANGUAGE if told else VISION
    return Sides(LANGUAGE, VISION, members)


class _Task(NamedTuple):
    """One task, by all encoders that were asked."""

    about: Ability
    values: dict[str, Ability]
    drawn: dict[str, Draws]
    """On the same resamples for all encoders."""

    def differ(self, a: Sequence[str], b: Sequence[str]) -> "_Step":
        """The mean of some encoders minus that of others."""
        value = np.mean([self.values[name].value for name in a])
        value -= np.mean([self.values[name].value for name in b])
        drawn = np.mean([self.drawn[name] for name in a], axis=0)
        drawn -= np.mean([self.drawn[name] for name in b], axis=0)
        return _Step(float(value), drawn[np.isfinite(drawn)], self.about.n)


class _Step(NamedTuple):
    """A difference, and its draws."""

    value: float
    drawn: Draws
    n: int

    @property
    def interval(self) -> Interval:
        found = from_draws(self.value, self.drawn, 0)
        return Interval(value=found.value, low=found.low, high=found.high)

    @property
    def error(self) -> float:
        """The standard error, of as few units as there are."""
        return float(self.drawn.std(ddof=1) * (self.n / (self.n - 1)) ** 0.5)

    @property
    def p(self) -> float:
        """That the truth is no difference: a t-test with the bootstrap's standard error."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * student.sf(abs(self.value) / self.error, self.n - 1))

    def p_same(self, margin: float) -> float:
        """That the truth is a difference beyond the margin: two one-sided tests (Schuirmann 1987).

        Where no unit differs, up to three in their number still could (the rule of three).
        """
        if self.error == 0:
            return float(abs(self.value) + 3 / self.n >= margin)
        above = student.sf((self.value + margin) / self.error, self.n - 1)
        below = student.cdf((self.value - margin) / self.error, self.n - 1)
        return float(max(above, below))


def ability_map(encoders: Mapping[str, Asked], sides: Sides, margin: float, seed: int) -> AbilityMap:
    """The map of encoders that were put through the same tasks.

    Args:
        encoders: name -> what it did.
        sides: which supervision each belongs to.
        margin: sides that differ by less are the same.
        seed: of the bootstrap.
    """
    tasks = _tasks(encoders, seed)
    names, asked = list(encoders), {task: list(found.values) for task, found in tasks.items()}
    one, two = (sides.of(side, names) for side in (sides.one, sides.two))
    leaders = {
        task: max(found.values, key=lambda name: found.values[name].value) for task, found in tasks.items()
    }
    ties = _ties(tasks, leaders)
    steps = {
        task: found.differ(_there(one, found), _there(two, found))
        for task, found in tasks.items()
        if _there(one, found) and _there(two, found)
    }
    adjusted = dict(zip(steps, holm(np.array([step.p for step in steps.values()])), strict=True))
    rows = [
        _row(found, leaders[task], ties[task], steps.get(task), float(adjusted.get(task, 1.0)), margin)
        for task, found in tasks.items()
    ]
    return AbilityMap(
        one=sides.one if steps else "",
        two=sides.two if steps else "",
        sides={sides.one: one, sides.two: two} if steps else {},
        others=[name for name in names if name not in {*one, *two}],
        margin=margin,
        seed=seed,
        rows=rows,
        left_out={task: absent for task in tasks if (absent := [n for n in names if n not in asked[task]])},
    )


def _tasks(encoders: Mapping[str, Asked], seed: int) -> dict[str, _Task]:
    found: dict[str, _Task] = {}
    for name, asked in encoders.items():
        for result in asked.results:
            task = found.setdefault(result.task, _Task(result, {}, {}))
            task.values[name], task.drawn[name] = result, asked.tallies[result.task].draws(seed=seed)
    return found


def _there(names: Sequence[str], task: _Task) -> list[str]:
    return [name for name in names if name in task.values]


def _ties(tasks: Mapping[str, _Task], leaders: Mapping[str, str]) -> dict[str, list[str]]:
    """Those that cannot be told from each task's leader."""
    pairs = [(task, *pair) for task, found in tasks.items() for pair in combinations(found.values, 2)]
    # The leader is known from the same data, so every pair could have been the one that is looked at.
    adjusted = holm(np.array([tasks[task].differ([a], [b]).p for task, a, b in pairs]))
    ties: dict[str, list[str]] = {task: [] for task in tasks}
    for (task, a, b), p in zip(pairs, adjusted, strict=True):
        if p >= CERTAIN and leaders[task] in (a, b):
            ties[task].append(b if a == leaders[task] else a)
    return ties


def _row(
    task: _Task, leader: str, tied: list[str], step: _Step | None, p_holm: float, margin: float
) -> MapRow:
    about = task.about
    row = MapRow(
        task=about.task,
        metric=about.metric,
        n=about.n,
        unit=about.unit,
        chance=about.chance,
        values={
            name: Interval(value=one.value, low=one.low, high=one.high) for name, one in task.values.items()
        },
        leader=leader,
        tied=tied,
        merit=about.metric != LEANING,
    )
    if step is None:
        return row
    same = step.p_same(margin)
    told = {"step": step.interval, "p": step.p, "p_holm": p_holm, "p_same": same}
    return row.model_copy(update={**told, "verdict": _verdict(step.value, p_holm, same)})


def _verdict(value: float, p_holm: float, p_same: float) -> Boundary:
    """A difference that is certain, though it may be smaller than the margin, is told as one."""
    if p_holm < CERTAIN:
        return "one leads" if value > 0 else "two leads"
    return "the same" if p_same < CERTAIN else "no difference can be claimed"
