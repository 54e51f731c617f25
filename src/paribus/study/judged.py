"""What a study's encoders know of labelled datasets, as measures and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from paribus import stats
from paribus.results import Difference, Measure, Section
from paribus.study.claims import PROBE
from paribus.study.judging import How, Judge, beside
from paribus.types import Runtime

SECTIONS: dict[How, tuple[Section, str]] = {"linear": ("probe", PROBE), "knn": ("knn", "kNN accuracy")}
"""How labels are read -> the section, and what accuracy is called in it."""


class Judged(NamedTuple):
    """One encoder under one seed, and how it is judged on one dataset."""

    arm: str
    seed: int
    dataset: str
    judge: Judge


def measures_of(judged: Sequence[Judged], runtime: Runtime) -> list[Measure]:
    """Every metric of every set."""
    return [row for one in judged for row in _measures(one, runtime)]


def _measures(one: Judged, runtime: Runtime) -> Iterator[Measure]:
    section, metric = SECTIONS[one.judge.how]
    for place, found in enumerate(one.judge.run(runtime).sets):
        for score in found.scores:
            yield Measure(
                section=section,
                task=_task(one.dataset, found.name, place),
                metric=metric if score.metric == "accuracy" else score.metric,
                arm=one.arm,
                value=score.value,
                low=score.low,
                high=score.high,
                n=found.pictures,
                unit="pictures",
                seed=one.seed,
                chance=found.chance if score.metric == "accuracy" else None,
            )


def _task(dataset: str, name: str, place: int) -> str:
    return dataset if place == 0 else f"{dataset}, shifted to {name}"


def differences_of(
    judged: Sequence[Judged], pairs: Sequence[tuple[str, str]], margin: float, runtime: Runtime
) -> list[Difference]:
    """Of every two arms, each metric's paired difference; McNemar's test, corrected over a section."""
    by_name = {(one.arm, one.seed, one.dataset, one.judge.how): one for one in judged}
    out: list[Difference] = []
    for arm, seed, dataset, how in by_name:
        for one, other in pairs:
            if arm == one and (other, seed, dataset, how) in by_name:
                a, b = by_name[arm, seed, dataset, how], by_name[other, seed, dataset, how]
                out += _differences(a, b, margin, runtime)
    return _corrected(out)


def _differences(a: Judged, b: Judged, margin: float, runtime: Runtime) -> Iterator[Difference]:
    section, metric = SECTIONS[a.judge.how]
    one, two = a.judge.answered(runtime), b.judge.answered(runtime)
    for place, name in enumerate(one):
        found = beside(one[name], two[name], margin, a.seed)
        for each, step in found.steps.items():
            main = each == "accuracy"
            yield Difference(
                section=section,
                task=_task(a.dataset, name, place),
                metric=metric if main else each,
                arm=a.arm,
                other=b.arm,
                value=step.value,
                low=step.low,
                high=step.high,
                n=len(one[name].keys),
                unit="pictures",
                seed=a.seed,
                p=found.p if main else None,
                p_same=found.p_same if main else None,
            )


def _corrected(rows: Sequence[Difference]) -> list[Difference]:
    """With Holm's correction over the tests of each section and seed."""
    families: dict[tuple[str, int], list[int]] = {}
    for place, row in enumerate(rows):
        if row.p is not None:
            families.setdefault((row.section, row.seed), []).append(place)
    adjusted: Mapping[int, float] = {
        place: float(p)
        for places in families.values()
        for place, p in zip(places, stats.holm(np.array([rows[at].p for at in places])), strict=True)
    }
    return [row.model_copy(update={"p_holm": adjusted.get(place)}) for place, row in enumerate(rows)]
