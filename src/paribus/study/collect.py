"""From records to ``Results``: nothing is computed here that an interval would need."""

import importlib.metadata
import os
import platform
from collections.abc import Collection
from typing import TypeVar

import numpy as np
import torch

from paribus import stats
from paribus.data.captions import shuffles
from paribus.results import (
    AbilityMap,
    Claim,
    Cost,
    Curve,
    Difference,
    GalleryItem,
    Measure,
    Results,
    Section,
)
from paribus.study.abilities import Ability
from paribus.study.answers import Answer, Answered
from paribus.study.audit import audit
from paribus.study.claims import PROBE, judge, judge_told
from paribus.study.control import Treatment
from paribus.study.corpora import CorpusRecord, OwnRecord
from paribus.study.downstream import Language
from paribus.study.judged import differences_of, measures_of
from paribus.study.mapping import ability_map, sides_of
from paribus.study.probing import ProbeResult, Scored
from paribus.study.stage import walk
from paribus.study.study import Branch, Study
from paribus.study.talks import Mix, MixRecord, Questions
from paribus.types import Runtime
from paribus.vqa.scoring import MICRO, summarise, summarise_seeds

PROBES: dict[str, tuple[Section, str]] = {
    "linear": ("probe", PROBE),
    "knn": ("knn", "kNN accuracy"),
    "zeroshot": ("zeroshot", "zero-shot accuracy"),
}
"""What answered -> the section and the metric that its accuracy is given under."""
CURVE_POINTS = 200
PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "opencv-python-headless", "resvg_py")


def collect(study: Study, name: str, runtime: Runtime) -> Results:
    """Gather what every stage recorded; all stages must have run."""
    branches = study.branches()
    differences = (_probe_differences(study, branches, runtime) if branches else []) + _compared(
        study, runtime
    )
    judged = [one for branch in branches for one in branch.judged]
    differences += differences_of(judged, study.seeing_pairs(), study.margin, runtime)
    measures = _measures(branches, runtime) + measures_of(judged, runtime)
    asked, paired = _answers(study, branches, runtime)
    differences += paired
    gallery, counts = _gallery(study, runtime)
    used = study.corpus.address() in {stage.address() for stage in walk(study.stages())}
    corpus = study.corpus.run(runtime) if used else None
    return Results(
        study=name,
        hypothesis=" ".join(study.hypothesis.split()),
        level=study.control.level,
        seeds=list(study.seeds),
        arms={arm: treatment.because for arm, treatment in study.arms.items()},
        baselines=list(study.baselines),
        models={name: entry.because for name, entry in study.published.items()}
        | {name: seer.told() for name, seer in study.vlms.items()},
        data={**_pictures(study, corpus), **_conversations(branches, runtime)},
        ledger=audit(study, runtime).rows,
        costs=_costs(study, runtime),
        measures=measures + asked,
        differences=differences,
        claims=_claims(study, differences, measures + asked),
        curves=_curves(study, branches, runtime),
        gallery=gallery,
        mined=counts,
        ability_map=_map(study, branches, runtime),
        attributions=getattr(corpus, "attributions", []),
        environment=environment(runtime),
    )


def _pictures(study: Study, corpus: CorpusRecord | OwnRecord | None) -> dict[str, str]:
    """What the arms were trained on; nothing where all encoders are published ones."""
    if corpus is None:
        return {}
    counted = {f"pictures, {split}": str(count) for split, count in corpus.counts.items()}
    data = study.control.data
    return {
        "source": data.source.kind,
        "captions mention": data.captions,
        **counted,
        "digest": corpus.digest,
    }


def _conversations(branches: list[Branch], runtime: Runtime) -> dict[str, str]:
    """How much of each mix of conversations could be read, and what was lost of it, by source."""
    answers = [answer for branch in branches for answer in branch.answers]
    talks = [lesson.talks for answer in answers for lesson in (answer.vlm.align, answer.vlm)]
    mixes = {talk.address(): talk for talk in talks if isinstance(talk, Mix)}
    return {f"conversations, {mix.config.file}": _left(mix.run(runtime)) for mix in mixes.values()}


def _left(record: MixRecord) -> str:
    lost = sum(sum(faults.values()) for faults in record.lost.values())
    told = [
        f"{source}: {', '.join(f'{fault} {count:,}' for fault, count in faults.items())}"
        for source, faults in record.lost.items()
    ]
    return f"{record.samples:,} records, {lost:,} left out" + (f" ({'; '.join(told)})" if told else "")


def pictures(study: Study, runtime: Runtime) -> dict[str, bytes]:
    """The gallery's PNG files by the names that ``Results.gallery`` gives them."""
    found: dict[str, bytes] = {}
    for number, (_, _, compare) in enumerate(study.comparisons()):
        for path in sorted((compare.folder(runtime) / "gallery").glob("*.png")):
            found[f"{number}-{path.name}"] = path.read_bytes()
    return found


def environment(runtime: Runtime) -> dict[str, str]:
    """What the numbers were measured on."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "paribus": importlib.metadata.version("paribus"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": str(runtime.torch_device),
        "gpu": cuda,
        "torch threads": str(torch.get_num_threads()),
        **versions,
    }


def _costs(study: Study, runtime: Runtime) -> list[Cost]:
    costs = []
    for arm in study.all_arms():
        record = arm.encoder.run(runtime)
        costs.append(
            Cost(
                arm=arm.name,
                seed=arm.seed,
                samples=record.samples,
                image_forwards=round(record.image_forwards * record.samples),
                flops=record.flops_per_sample * record.samples,
                trainable_parameters=record.trainable_parameters,
                seconds=record.seconds,
                images_per_second=round(record.samples / max(record.seconds, 1e-9), 1),
                peak_memory_mb=record.peak_memory_mb,
            )
        )
    return costs


def _measures(branches: list[Branch], runtime: Runtime) -> list[Measure]:
    measures = []
    for branch in branches:
        for stage in _scored(branch):
            measures += [_probe_measure(branch, result) for result in stage.run(runtime).results]
        if branch.embedding is not None:
            found = branch.embedding.run(runtime).measures
            measures += [row.model_copy(update={"arm": branch.name}) for row in found]
        if branch.abilities is not None:
            measures += [_ability_measure(branch, one) for one in branch.abilities.run(runtime).results]
    return measures


def _ability_measure(branch: Branch, one: Ability) -> Measure:
    return Measure(
        section="abilities",
        arm=branch.name,
        seed=branch.seed,
        **one.model_dump(exclude={"kind"}),
    )


def _map(study: Study, branches: list[Branch], runtime: Runtime) -> AbilityMap | None:
    """Of the first seed: intervals are over pictures, and a seed is one draw of an encoder."""
    seed = study.seeds[0]
    stages = {one.name: one.abilities for one in branches if one.seed == seed and one.abilities is not None}
    asked = {name: stage.asked(runtime) for name, stage in stages.items()}
    return ability_map(asked, sides_of(study.arms), study.margin, seed) if asked else None


def _scored(branch: Branch) -> list[Scored]:
    """The stages that classified pictures with the branch's encoder."""
    return [stage for stage in (branch.probe, branch.naming) if stage is not None]


def _probe_measure(branch: Branch, result: ProbeResult) -> Measure:
    section, metric = PROBES[result.probe]
    return Measure(
        section=section,
        task=result.task,
        metric=metric,
        arm=branch.name,
        value=result.value,
        low=result.low,
        high=result.high,
        n=result.concepts,
        unit="concepts",
        seed=branch.seed,
        chance=result.chance,
    )


def _probe_differences(study: Study, branches: list[Branch], runtime: Runtime) -> list[Difference]:
    """Paired by picture, resampled by concept, for every two arms of a seed."""
    found = {(branch.name, branch.seed): _scored(branch) for branch in branches}
    out = []
    for seed in study.seeds:
        for one, other in study.pairs():
            for first in found.get((one, seed), []):
                for second in found.get((other, seed), []):
                    if type(first) is type(second):
                        out += _paired(one, first, other, second, seed, runtime)
    return out


def _paired(
    one: str, first: Scored, other: str, second: Scored, seed: int, runtime: Runtime
) -> list[Difference]:
    a, b = first.answers(runtime), second.answers(runtime)
    if not np.array_equal(a["key"], b["key"]):
        raise RuntimeError(f"{one} and {other} were asked about different pictures")
    out = []
    for probe, (section, metric) in PROBES.items():
        for task in dict.fromkeys(a["task"][a["probe"] == probe].tolist()):
            rows = (a["task"] == task) & (a["probe"] == probe)
            estimate = stats.bootstrap_difference(
                a["correct"][rows].astype(np.float64),
                b["correct"][rows].astype(np.float64),
                clusters=a["concept"][rows],
                seed=seed,
            )
            out.append(
                Difference(
                    section=section,
                    task=task,
                    metric=metric,
                    arm=one,
                    other=other,
                    value=estimate.value,
                    low=estimate.low,
                    high=estimate.high,
                    n=estimate.n,
                    unit="concepts",
                    seed=seed,
                )
            )
    return out


def _compared(study: Study, runtime: Runtime) -> list[Difference]:
    out = []
    for one, other, compare in study.comparisons():
        names = {"arm": one, "other": other}
        out += [row.model_copy(update=names) for row in compare.run(runtime).differences]
    return out


def _answers(
    study: Study, branches: list[Branch], runtime: Runtime
) -> tuple[list[Measure], list[Difference]]:
    """VLM scores of all branches; differences between arms only."""
    measures: list[Measure] = []
    differences: list[Difference] = []
    sighted: list[Difference] = []
    for asked in dict.fromkeys(a.questions.address() for branch in branches for a in branch.answers):
        by_seed = [_opened(branches, asked, seed, runtime) for seed in study.seeds]
        if not all(by_seed):
            continue
        for seed, opened in zip(study.seeds, by_seed, strict=True):
            found, paired = _summed(opened, seed)
            measures += found
            differences += paired
            sighted += _sighted(opened, seed)
        if len(study.seeds) > 1:
            differences += _over_seeds(by_seed, study.seeds[0])
    wanted = [set(pair) for pair in study.seeing_pairs()]
    return measures, sighted + [row for row in differences if {row.arm, row.other} in wanted]


Opened = dict[str, tuple[Answer, Answered]]
"""Arm -> the stage, and what it answered; of one benchmark under one seed. Empty if it has no answers."""


def _opened(branches: list[Branch], asked: str, seed: int, runtime: Runtime) -> Opened:
    mine = {
        branch.name: answer
        for branch in branches
        for answer in branch.answers
        if branch.seed == seed and answer.questions.address() == asked
    }
    return {
        name: (answer, answer.open(runtime)) for name, answer in mine.items() if answer.run(runtime).accuracy
    }


def _summed(opened: Opened, seed: int) -> tuple[list[Measure], list[Difference]]:
    """One benchmark under one seed, in every way that it was asked."""
    first, answered = next(iter(opened.values()))
    prefix = _prefix(first)
    right = {name: found.correct["seen"] for name, (_, found) in opened.items()}
    measures, differences = summarise(right, answered.questions, seed)
    for way in dict.fromkeys(way for _, found in opened.values() for way in found.correct):
        if way != "seen":
            asked = {name: found.correct[way] for name, (_, found) in opened.items() if way in found.correct}
            rows, _ = summarise(asked, answered.questions, seed)
            measures += [
                row.model_copy(update={"metric": f"{row.metric}, {way}"}) for row in rows if _total(row)
            ]
    return [_named(row, prefix) for row in measures], [_named(row, prefix) for row in differences]


def _sighted(opened: Opened, seed: int) -> list[Difference]:
    """What each model's pictures add to what it answers without them."""
    rows: list[Difference] = []
    for name, (answer, found) in opened.items():
        ways = {name: found.correct["seen"], f"{name} (blind)": found.correct["no image"]}
        rows += [_named(row, _prefix(answer)) for row in summarise(ways, found.questions, seed)[1]]
    return [row for row in rows if _total(row)]


def _total(row: Measure | Difference) -> bool:
    """Whether a row is of a category or of all; the other ways are not given source by source."""
    return "/" not in row.task and row.metric == MICRO


def _over_seeds(by_seed: list[Opened], seed: int) -> list[Difference]:
    """One benchmark, all seeds together: a seed is as much of a sample as a question."""
    first, answered = next(iter(by_seed[0].values()))
    stacked = {name: np.stack([opened[name][1].correct["seen"] for opened in by_seed]) for name in by_seed[0]}
    return [_named(row, _prefix(first)) for row in summarise_seeds(stacked, answered.questions, seed)]


def _prefix(answer: Answer) -> str:
    """The built-in questions have their tasks to themselves; others are told apart by their name."""
    return "" if isinstance(answer.questions, Questions) else f"{answer.questions.title}: "


N = TypeVar("N", Measure, Difference)


def _named(row: N, prefix: str) -> N:
    return row.model_copy(update={"task": f"{prefix}{row.task}"})


def _gallery(study: Study, runtime: Runtime) -> tuple[list[GalleryItem], dict[str, int]]:
    items: list[GalleryItem] = []
    counts: dict[str, int] = {}
    for number, (one, other, compare) in enumerate(study.comparisons()):
        record = compare.run(runtime)
        names = {"a": one, "b": other}
        for item in record.gallery:
            renamed = {
                "left_picture": f"{number}-{item.left_picture}",
                "right_picture": f"{number}-{item.right_picture}",
                "high_arm": names[item.high_arm],
                "low_arm": names[item.low_arm],
                "similarity": {names[key]: value for key, value in item.similarity.items()},
                "percentile": {names[key]: value for key, value in item.percentile.items()},
            }
            items.append(item.model_copy(update=renamed))
        counts |= {f"{one} and {other} (seed {compare.seed}): {k}": v for k, v in record.counts.items()}
    return items, counts


def _claims(study: Study, differences: list[Difference], measures: list[Measure]) -> list[Claim]:
    told = {
        name: (arm.captions or study.control.data.captions) if reads(arm) else None
        for name, arm in study.arms.items()
    }
    if any(map(shuffles, told.values())) and len(set(told.values()) - {None}) > 1:
        return judge_told(differences, measures, told, study.margin)
    reading = [name for name, arm in study.arms.items() if reads(arm)]
    looking = [name for name, arm in study.arms.items() if not reads(arm)]
    if not reading or not looking:
        return []
    return judge(differences, measures, reading[0], looking[0], study.margin)


def reads(arm: Treatment) -> bool:
    """Whether an arm is supervised by captions."""
    return arm.objective.reads_text


def _curves(study: Study, branches: list[Branch], runtime: Runtime) -> list[Curve]:
    curves = []
    for arm in study.all_arms():
        curves += _series(arm.name, arm.seed, "pretrain", arm.encoder.history(runtime))
    for branch in branches:
        if branch.answers:
            instruct = branch.answers[0].vlm
            curves += _series(branch.name, branch.seed, "align", instruct.align.history(runtime))
            curves += _series(branch.name, branch.seed, "instruct", instruct.history(runtime))
    for name, language in _languages(branches, study.vlms):
        curves += _series(name, language.seed, "language", language.history(runtime))
    return curves


def _languages(branches: list[Branch], further: Collection[str]) -> list[tuple[str, Language]]:
    """The language models that the study trained: all arms', and what further models have of their own."""
    taught: dict[str, tuple[str, Language]] = {}
    for branch in branches:
        language = branch.answers[0].vlm.align.language if branch.answers else None
        if isinstance(language, Language):
            own = branch.name if branch.name in further else "all arms"
            taught.setdefault(language.address(), (own, language))
    return list(taught.values())


def _series(arm: str, seed: int, stage: str, history: list[dict[str, float]]) -> list[Curve]:
    """Each logged number over samples seen, thinned by averaging; a part that joins late begins late."""
    names = dict.fromkeys(name for line in history for name in line if name not in ("seen", "lr"))
    return [_curve(arm, seed, stage, name, [line for line in history if name in line]) for name in names]


def _curve(arm: str, seed: int, stage: str, name: str, lines: list[dict[str, float]]) -> Curve:
    parts = np.array_split(np.arange(len(lines)), min(CURVE_POINTS, len(lines)))
    return Curve(
        arm=arm,
        stage=stage,
        name=name,
        seed=seed,
        seen=[round(lines[part[-1]]["seen"]) for part in parts],
        values=[float(np.mean([lines[step][name] for step in part])) for part in parts],
    )
