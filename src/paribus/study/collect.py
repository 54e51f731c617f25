"""From records to ``Results``: nothing is computed here that an interval would need."""

import importlib.metadata
import os
import platform

import numpy as np
import torch

from paribus import stats
from paribus.data.captions import shuffles
from paribus.results import Claim, Cost, Curve, Difference, GalleryItem, Measure, Results, Section
from paribus.study.audit import audit
from paribus.study.claims import PROBE, judge, judge_told
from paribus.study.control import Treatment
from paribus.study.probing import ProbeResult, Scored
from paribus.study.study import Branch, Study
from paribus.types import Runtime
from paribus.vqa.scoring import summarise

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
    corpus = study.corpus.run(runtime)
    differences = (_probe_differences(study, branches, runtime) if branches else []) + _compared(
        study, runtime
    )
    measures = _measures(branches, runtime)
    asked, paired = _answers(study, branches, runtime)
    differences += paired
    gallery, counts = _gallery(study, runtime)
    counted = {f"pictures, {split}": str(count) for split, count in corpus.counts.items()}
    return Results(
        study=name,
        hypothesis=" ".join(study.hypothesis.split()),
        level=study.control.level,
        seeds=list(study.seeds),
        arms={arm: treatment.because for arm, treatment in study.arms.items()},
        baselines=list(study.baselines),
        data={
            "source": study.control.data.source.kind,
            "captions mention": study.control.data.captions,
            **counted,
            "digest": corpus.digest,
        },
        ledger=audit(study, runtime).rows,
        costs=_costs(study, runtime),
        measures=measures + asked,
        differences=differences,
        claims=_claims(study, differences, measures + asked),
        curves=_curves(study, branches, runtime),
        gallery=gallery,
        mined=counts,
        attributions=getattr(corpus, "attributions", []),
        environment=environment(runtime),
    )


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
    return measures


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
    wanted = [set(pair) for pair in study.pairs()]
    for seed in study.seeds:
        opened = {
            branch.name: branch.answer.open(runtime)
            for branch in branches
            if branch.seed == seed and branch.answer is not None
        }
        if not opened:
            continue
        questions = next(iter(opened.values()))[0]
        found, paired = summarise({name: correct for name, (_, correct) in opened.items()}, questions, seed)
        measures += found
        differences += [row for row in paired if {row.arm, row.other} in wanted]
    return measures, differences


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
        if branch.answer is not None:
            instruct = branch.answer.vlm
            curves += _series(branch.name, branch.seed, "align", instruct.align.history(runtime))
            curves += _series(branch.name, branch.seed, "instruct", instruct.history(runtime))
    first = next((branch.answer for branch in branches if branch.answer is not None), None)
    if first is not None:
        language = first.vlm.align.language
        curves += _series("all arms", language.seed, "language", language.history(runtime))
    return curves


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
