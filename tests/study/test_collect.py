"""Results against the records they are gathered from, counted again here by other means."""

import csv
import io
import json
import math
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from paribus.data.glyphs import read_meta
from paribus.report.schema import write_results
from paribus.study.audit import audit
from paribus.study.claims import RULES
from paribus.study.collect import CURVE_POINTS, _languages, collect, environment, pictures
from paribus.study.run import execute
from paribus.study.study import Study, load_study
from paribus.study.teaching import Seer
from paribus.types import Runtime
from study import records, timeless


@pytest.fixture
def run(finished):
    """The finished study, its runtime and its results."""
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    return study, runtime, collect(study, "tiny", runtime)


def test_collecting_again_gives_what_run_wrote(run, finished):
    written = json.loads((finished / "runs" / "tiny" / "results.json").read_text())
    assert timeless(json.loads(run[2].model_dump_json())) == timeless(written)


def test_every_number_is_finite_and_inside_its_interval(run):
    _, _, found = run
    assert len(found.measures) > 80 and len(found.differences) > 40
    for row in (*found.measures, *found.differences, *found.claims):
        assert all(map(math.isfinite, (row.value, row.low, row.high)))
        assert row.low <= row.value + 1e-9 and row.value <= row.high + 1e-9 and row.n >= 1
    assert {row.arm for row in found.measures} == {*found.arms, *found.baselines}
    blind = {(name, f"{name} (blind)") for name in ("clip", "dino", "untrained")}
    assert {(row.arm, row.other) for row in found.differences} == {("clip", "dino")} | blind


def test_no_number_is_given_twice(run):
    _, _, found = run
    for rows in (found.measures, found.differences):
        names = [(r.section, r.task, r.metric, r.arm, getattr(r, "other", ""), r.seed) for r in rows]
        assert len(set(names)) == len(names)


def test_probe_accuracies_are_those_of_the_answers_on_disk(run):
    study, runtime, found = run
    sections = {"probe": "linear", "knn": "knn"}
    for branch in study.branches():
        rows = pq.read_table(branch.probe.folder(runtime) / "answers.parquet").to_pylist()
        right, asked, concepts = defaultdict(int), defaultdict(int), defaultdict(set)
        for row in rows:
            name = row["task"], row["probe"]
            right[name] += row["correct"]
            asked[name] += 1
            concepts[name].add(row["concept"])
        measures = [m for m in found.measures if m.arm == branch.name and m.section in sections]
        assert len(measures) == len(asked) > 8
        for measure in measures:
            name = measure.task, sections[measure.section]
            assert measure.value == pytest.approx(right[name] / asked[name])
            assert (measure.n, measure.unit) == (len(concepts[name]), "concepts")


def test_answers_are_those_of_the_logits_on_disk(run):
    study, runtime, found = run
    asked = [(branch, answer) for branch in study.branches() for answer in branch.answers]
    assert [branch.name for branch, _ in asked] == ["clip", "dino", "untrained"]
    for branch, answer in asked:
        scores = load_file(answer.folder(runtime) / "scores.safetensors")
        assert set(scores) == {"seen", "no image", "wrong image"}
        source = answer.questions.open(runtime, "test")
        right = []
        for i, row in enumerate(scores["seen"].tolist()):
            said = row.pop("ABCD".index(source.question(i).answer))
            right.append(said > max(row))  # what ties is no answer
        assert len(right) == len(source) == 40
        values = {
            m.metric: m
            for m in found.measures
            if (m.section, m.task, m.arm) == ("vqa", "overall", branch.name)
        }
        assert values["accuracy (micro)"].value == pytest.approx(sum(right) / 40)
        by_source = defaultdict(list)
        for i, hit in enumerate(right):
            by_source[source.question(i).source].append(hit)
        assert values["accuracy (macro)"].value == pytest.approx(
            np.mean([np.mean(v) for v in by_source.values()])
        )


def test_a_difference_is_the_difference_of_its_two_measures(run):
    _, _, found = run
    values = {(m.section, m.task, m.metric, m.arm): m.value for m in found.measures}
    for section, task, metric, arm in list(values):
        if metric.endswith(", no image"):
            same = section, task, metric.removesuffix(", no image"), f"{arm} (blind)"
            values[same] = values[section, task, metric, arm]
    for row in found.differences:
        one, other = (values[row.section, row.task, row.metric, arm] for arm in (row.arm, row.other))
        assert row.value == pytest.approx(one - other, abs=1e-6), row
    sections = {row.section for row in found.differences}
    assert sections == {"probe", "knn", "neighbours", "factors", "symbols", "vqa"}


def test_claims_say_what_the_differences_say(run):
    _, _, found = run
    numbers = {(round(row.value, 12), round(row.low, 12), round(row.high, 12)) for row in found.differences}
    measured = {(row.section, row.task, row.metric) for row in found.differences}
    expected = [rule.name for rule in RULES if (rule.section, rule.task, rule.metric) in measured]
    assert [claim.name for claim in found.claims] == expected and len(expected) >= 8
    for claim in found.claims:
        assert (round(claim.value, 12), round(claim.low, 12), round(claim.high, 12)) in numbers
        assert "clip minus dino" in claim.because


def test_costs_are_what_the_records_say(run, finished):
    study, _, found = run
    stored = records(finished / "cache")
    for cost, arm in zip(found.costs, study.all_arms(), strict=True):
        record = stored[arm.encoder.address()]["record"]
        assert (cost.arm, cost.seed, cost.samples) == (arm.name, arm.seed, 64)
        assert cost.flops == pytest.approx(record["flops_per_sample"] * 64)
        assert cost.image_forwards == round(record["image_forwards"] * 64)
        assert cost.trainable_parameters == record["trainable_parameters"] > record["encoder_parameters"]
    clip, dino = found.costs
    assert clip.image_forwards == 64 and dino.image_forwards > 3 * 64


def test_curves_follow_every_training_of_every_arm(run):
    study, _, found = run
    trained = {(curve.arm, curve.stage) for curve in found.curves}
    assert trained == {
        *((arm, "pretrain") for arm in study.arms),
        *((arm, stage) for arm in (*study.arms, "untrained") for stage in ("align", "instruct")),
        ("all arms", "language"),
    }
    for curve in found.curves:
        assert curve.seen == [0, 16, 32, 48] and len(curve.values) == 4
        assert all(map(math.isfinite, curve.values))


def test_a_model_with_a_language_model_of_its_own_has_its_curve(run, tmp_path):
    study, _, _ = run
    own = {"encoders": ("clip",), "because": "longer", "change": {"language.context": 300}}
    changed = study.model_copy(update={"vlms": {"small": Seer(**own)}})
    names = [name for name, _ in _languages(changed.branches(), changed.vlms)]
    assert names == ["all arms", "small"]
    only = [branch for branch in changed.branches() if branch.name == "small"]  # the others' is published
    assert [name for name, _ in _languages(only, changed.vlms)] == ["small"]


def test_a_long_curve_is_thinned_by_means(run, finished):
    study, runtime, _ = run
    arm = study.all_arms()[0].encoder
    path = arm.folder(runtime) / "history.json"
    steps = 3 * CURVE_POINTS
    path.unlink()
    path.write_text(json.dumps([{"seen": 16.0 * i, "lr": 0.1, "loss": float(i)} for i in range(steps)]))
    stored = arm.folder(runtime) / "record.json"
    record = json.loads(stored.read_text())
    record["files"].pop("history.json")
    stored.unlink()
    stored.write_text(json.dumps(record))
    (curve,) = [c for c in collect(study, "t", runtime).curves if (c.arm, c.stage) == ("clip", "pretrain")]
    assert curve.name == "loss" and len(curve.values) == CURVE_POINTS
    assert curve.values == [3.0 * i + 1 for i in range(CURVE_POINTS)]
    assert curve.seen == [16 * (3 * i + 2) for i in range(CURVE_POINTS)]


class Lenient(Study):
    """Encoders that have hardly begun to learn agree on every pair but for the closest calls."""

    def comparisons(self):
        return [(a, b, compare.changed(high=51.0, keep=6)) for a, b, compare in super().comparisons()]


def test_the_gallery_has_its_pictures_and_says_who_disagrees(run):
    study, runtime = Lenient.model_validate(run[0].model_dump()), run[1]
    execute(study, runtime, lambda line: None)
    found = collect(study, "lenient", runtime)
    shown = pictures(study, runtime)
    named = {name for item in found.gallery for name in (item.left_picture, item.right_picture)}
    assert named == set(shown) and len(found.gallery) == 12
    for content in shown.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (32, 32)
    for item in found.gallery:
        assert (
            {item.high_arm, item.low_arm} == set(item.similarity) == set(item.percentile) == {"clip", "dino"}
        )
        assert item.percentile[item.high_arm] >= 51 > 50 >= item.percentile[item.low_arm]
        assert item.left != item.right
    assert {item.high_arm for item in found.gallery} == {"clip", "dino"}
    assert found.mined["clip and dino (seed 0): a_high_kept"] == 6


def test_all_pictures_are_credited_and_counted(run):
    study, runtime, found = run
    meta = read_meta(study.corpus.folder(runtime) / "glyphs")
    assert sum(row.images for row in found.attributions) == sum(meta.styles.values())
    assert found.data["digest"] == meta.digest and found.data["captions mention"] == "thing"
    for split in ("train", "redraw", "test"):
        assert found.data[f"pictures, {split}"] == str(sum(kind[split] for kind in meta.counts.values()))


def test_the_ledger_is_the_audits(run):
    study, runtime, found = run
    assert found.ledger == audit(study, runtime).rows
    assert all(row.agrees for row in found.ledger)


def test_the_environment_names_what_the_numbers_depend_on():
    said = environment(Runtime(device="cpu"))
    assert said["device"] == "cpu" and {"paribus", "python", "torch", "numpy", "machine", "gpu"} <= set(said)
    assert all(said.values())


def test_tables_hold_every_measure(run, finished):
    _, _, found = run
    rows = list(csv.DictReader((finished / "runs" / "tiny" / "tables" / "measures.csv").open()))
    assert [(row["arm"], row["task"], row["metric"]) for row in rows] == [
        (m.arm, m.task, m.metric) for m in found.measures
    ]
    assert [float(row["value"]) for row in rows] == pytest.approx([m.value for m in found.measures])


def test_a_study_that_measures_nothing_still_has_a_ledger_and_costs(finished, tmp_path):
    study = load_study(finished / "tiny.yaml", ("measure=[]", "baselines=[]"))
    found = collect(study, "bare", Runtime(cache=finished / "cache"))
    assert found.measures == found.differences == found.claims == found.gallery == []
    assert len(found.costs) == 2 and found.ledger
    write_results(found, tmp_path)


def test_one_arm_alone_makes_no_claim(finished, tmp_path):
    study = load_study(finished / "tiny.yaml")
    alone = study.model_copy(update={"arms": {"clip": study.arms["clip"]}, "baselines": ()})
    found = collect(alone, "alone", Runtime(cache=finished / "cache"))
    assert found.measures and found.claims == found.gallery == []
    assert {(row.arm, row.other) for row in found.differences} == {("clip", "clip (blind)")}
    write_results(found, tmp_path)


def test_seeds_are_kept_apart(finished, tmp_path):
    changes = ("seeds=[0, 1]", "measure=[probes]", "baselines=[]")
    study, runtime = load_study(finished / "tiny.yaml", changes), Runtime(cache=finished / "cache", workers=1)
    said = []
    execute(study, runtime, said.append)
    assert sum("pretrain" in line and "done" in line for line in said) == len(study.arms)
    found = collect(study, "seeds", runtime)
    by_seed = {seed: [row for row in found.differences if row.seed == seed] for seed in (0, 1)}
    assert len(by_seed[0]) == len(by_seed[1]) == len(found.differences) / 2
    values = {(m.task, m.metric, m.arm, m.seed): m.value for m in found.measures}
    for row in found.differences:
        one, other = (values[row.task, row.metric, arm, row.seed] for arm in (row.arm, row.other))
        assert row.value == pytest.approx(one - other, abs=1e-6)
    assert {(claim.name, claim.seed) for claim in found.claims} == {
        (name, seed) for name in ("similar-accuracy", "fine-grained") for seed in (0, 1)
    }
    orders = {row.path: row for row in found.ledger if row.path.startswith("order")}
    assert orders["order (seed 0)"].values != orders["order (seed 1)"].values
    assert audit(study, runtime).faults == []
    write_results(found, tmp_path)
