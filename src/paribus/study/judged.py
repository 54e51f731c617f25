"""What a study's encoders know of labelled and captioned datasets, as measures and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from paribus import stats
from paribus.probes.retrieval import RANKS
from paribus.results import Difference, Interval, Measure, Section
from paribus.stats import Estimate
from paribus.study.captioned import Prompted, Recall, Retrieved, words_of
from paribus.study.claims import PROBE
from paribus.study.judging import How, Judge
from paribus.study.labelled import Look, Photographs, labelled_of
from paribus.study.outcomes import Asked, Score, beside
from paribus.study.seeing import AnyLooker
from paribus.types import Runtime

LEARNT: dict[How, tuple[Section, str]] = {"linear": ("probe", PROBE), "knn": ("knn", "kNN accuracy")}
"""How labels are read -> the section, and what accuracy is called in it."""
PROMPTED: tuple[Section, str] = ("zeroshot", "zero-shot accuracy")
RETRIEVED: Section = "retrieval"


class Judged(NamedTuple):
    """One encoder under one seed, how it is asked of one dataset, and where the figures stand."""

    arm: str
    seed: int
    dataset: str
    stage: Asked | Retrieved
    section: Section
    metric: str


def judged_of(
    arm: str,
    encoder: AnyLooker,
    seed: int,
    datasets: Mapping[str, Photographs],
    precision: Literal["bf16", "fp32"],
) -> tuple[Judged, ...]:
    """All ways in which an encoder is asked of every dataset: with words, only one that has a text tower."""
    found: list[Judged] = []
    reads = bool(datasets) and words_of(encoder)
    for title, dataset in datasets.items():
        look, *shifted = (
            Look(encoder=encoder, dataset=labelled_of(each), precision=precision) for each in dataset.all()
        )
        ways = list[tuple[Asked | Retrieved, Section, str]]()
        if not dataset.captioned:
            ways += [
                (Judge(look=look, shifted=tuple(shifted), how=how, seed=seed), *named)
                for how, named in LEARNT.items()
            ]
            if reads:
                asked = Prompted(look=look, templates=dataset.templates, names=dataset.names, seed=seed)
                ways.append((asked, *PROMPTED))
        elif reads:
            ways.append((Retrieved(look=look, seed=seed), RETRIEVED, "Recall"))
        found += [Judged(arm, seed, title, *way) for way in ways]
    return tuple(found)


def measures_of(judged: Sequence[Judged], runtime: Runtime) -> list[Measure]:
    """Every metric of every set."""
    return [row for one in judged for row in _measures(one, runtime)]


def _measures(one: Judged, runtime: Runtime) -> Iterator[Measure]:
    if isinstance(one.stage, Retrieved):
        yield from _recalls(one, one.stage, runtime)
        return
    for place, found in enumerate(one.stage.run(runtime).sets):
        for score in found.scores:
            main = score.metric == "accuracy"
            task, metric = _task(one.dataset, found.name, place), one.metric if main else score.metric
            yield _measure(one, task, metric, score, found.pictures, found.chance if main else None)


def _recalls(one: Judged, stage: Retrieved, runtime: Runtime) -> Iterator[Measure]:
    record = stage.run(runtime)
    for each in record.recalls:
        task, metric = f"{one.dataset}, {each.way}", f"{one.metric}@{each.k}"
        yield _measure(one, task, metric, each, record.pictures)


def _measure(
    one: Judged, task: str, metric: str, found: Score | Recall, n: int, chance: float | None = None
) -> Measure:
    return Measure(
        section=one.section,
        task=task,
        metric=metric,
        arm=one.arm,
        value=found.value,
        low=found.low,
        high=found.high,
        n=n,
        unit="pictures",
        seed=one.seed,
        chance=chance,
    )


def _task(dataset: str, name: str, place: int) -> str:
    return dataset if place == 0 else f"{dataset}, shifted to {name}"


def differences_of(
    judged: Sequence[Judged], pairs: Sequence[tuple[str, str]], margin: float, runtime: Runtime
) -> list[Difference]:
    """Of every two arms, each metric's paired difference; McNemar's test, corrected over a section."""
    by_name = {(one.arm, one.seed, one.dataset, one.section): one for one in judged}
    out: list[Difference] = []
    for arm, seed, dataset, section in by_name:
        for one, other in pairs:
            if arm == one and (other, seed, dataset, section) in by_name:
                a, b = by_name[arm, seed, dataset, section], by_name[other, seed, dataset, section]
                out += _differences(a, b, margin, runtime)
    return _corrected(out)


def _differences(a: Judged, b: Judged, margin: float, runtime: Runtime) -> Iterator[Difference]:
    if isinstance(a.stage, Retrieved) and isinstance(b.stage, Retrieved):
        yield from _recall_differences(a, a.stage, b, b.stage, runtime)
    elif isinstance(a.stage, Asked) and isinstance(b.stage, Asked):
        yield from _score_differences(a, a.stage, b, b.stage, margin, runtime)


def _score_differences(
    a: Judged, one: Asked, b: Judged, other: Asked, margin: float, runtime: Runtime
) -> Iterator[Difference]:
    answered, others = one.answered(runtime), other.answered(runtime)
    for place, name in enumerate(answered):
        found = beside(answered[name], others[name], margin, a.seed)
        for each, step in found.steps.items():
            main = each == "accuracy"
            task, metric = _task(a.dataset, name, place), a.metric if main else each
            row = _difference(a, b, task, metric, step, len(answered[name].keys))
            yield row.model_copy(update={"p": found.p, "p_same": found.p_same}) if main else row


def _recall_differences(
    a: Judged, one: Retrieved, b: Judged, other: Retrieved, runtime: Runtime
) -> Iterator[Difference]:
    mine, others = one.outcomes(runtime), other.outcomes(runtime)
    for way, outcome in mine.items():
        for place, k in enumerate(RANKS):
            step = stats.bootstrap_difference(
                outcome.found[:, place].astype(np.float64),
                others[way].found[:, place].astype(np.float64),
                clusters=outcome.picture,
                seed=a.seed,
            )
            yield _difference(a, b, f"{a.dataset}, {way}", f"{a.metric}@{k}", step, step.n)


def _difference(
    a: Judged, b: Judged, task: str, metric: str, step: Interval | Estimate, n: int
) -> Difference:
    return Difference(
        section=a.section,
        task=task,
        metric=metric,
        arm=a.arm,
        other=b.arm,
        value=step.value,
        low=step.low,
        high=step.high,
        n=n,
        unit="pictures",
        seed=a.seed,
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
