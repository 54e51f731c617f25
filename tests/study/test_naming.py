"""Zero-shot: what an arm's own words say of its pictures, whatever its text tower."""

import json

import numpy as np
import peers  # noqa: F401 - before transformers, which imports torchvision
import pytest
import torch
import yaml

from paribus.data.captions import captions
from paribus.errors import UserError
from paribus.study.collect import collect
from paribus.study.corpora import ALL
from paribus.study.naming import NAMINGS, question
from paribus.study.run import execute
from paribus.study.study import load_study
from paribus.types import Runtime
from study import paribus, records, results, small_settings, write_study
from study.test_bad_arms import CLIP, DINO, DINOTXT, SIMCLR, arm, bert, hybrid, llama, text


@pytest.fixture
def named(tmp_path, tiny_cache):
    """A study of every kind of text tower that has run, and where."""
    bert(tmp_path / "bert")
    llama(tmp_path / "llama")
    arms = {
        "scratch": arm(CLIP),
        "late": arm(hybrid(simclr=(SIMCLR, {}), clip=(CLIP, {"start": 0.5}))),
        "pretrained": arm(text(kind="pretrained", weights=str(tmp_path / "bert"), unlocked=1, context=16)),
        "frozen": arm(text(kind="frozen", weights=str(tmp_path / "llama"), context=16)),
        "dino": arm(DINO),
        "after": arm(DINOTXT, after="dino"),
    }
    settings = small_settings() | {
        "arms": arms,
        "measure": ["zeroshot"],
        "baselines": [],
        "reference": "scratch",
    }
    settings["control"] |= {"precision": "fp32"}
    study = load_study(write_study(tmp_path, settings))
    runtime = Runtime(cache=tiny_cache, runs=tmp_path / "runs", workers=1)
    assert execute(study, runtime, lambda line: None)
    return study, runtime


def test_every_arm_that_reads_is_asked_and_answers_as_its_weights_say(named):
    study, runtime = named
    branches = {branch.name: branch for branch in study.branches()}
    assert {name for name, branch in branches.items() if branch.naming is None} == {"dino"}
    source = study.measured_on.open(runtime, ALL)
    for name, branch in branches.items():
        if branch.naming is None:
            continue
        answers = branch.naming.answers(runtime)
        again = runtime.cache / "again"
        space = None if name == "frozen" else branch.naming.encoder.joint([], again, runtime)
        for naming in NAMINGS:
            asked = question(naming, source)
            own = answers["task"] == naming.name
            assert np.array_equal(answers["key"][own], source.columns["key"][asked.rows])
            if space is None or not len(asked.rows):
                continue
            encoder = branch.naming.encoder.open(runtime).eval()
            images = np.stack([source.image(int(row)) for row in asked.rows])
            with torch.no_grad():
                pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
                scores = space.see(encoder(pictures)) @ space.read(asked.captions).T
            best = asked.says[scores.argmax(dim=1).numpy()]
            assert np.array_equal(answers["correct"][own], best == asked.labels), (name, naming.name)


def test_the_report_gives_each_accuracy_beside_chance_and_pairs_the_arms(named):
    study, runtime = named
    found = collect(study, "tiny", runtime)
    rows = [row for row in found.measures if row.section == "zeroshot"]
    assert {row.arm for row in rows} == {"scratch", "late", "pretrained", "frozen", "after"}
    assert all(0 < row.chance < 1 and row.low <= row.value <= row.high for row in rows)
    pairs = {(row.arm, row.other) for row in found.differences if row.section == "zeroshot"}
    assert pairs == {("scratch", other) for other in ("late", "pretrained", "frozen", "after")}


def test_words_fitted_afterwards_name_pictures_through_blocks_of_their_own(named):
    """What is kept of the arm is enough: the blocks on the frozen encoder too."""
    study, runtime = named
    arm = {arm.name: arm for arm in study.all_arms()}["after"].encoder
    space = arm.joint([], runtime.cache / "again", runtime)
    assert len(space.blocks) == 1
    encoder = arm.open(runtime).eval()
    with torch.no_grad():
        features = encoder(torch.rand(3, 3, 32, 32))
        assert not torch.allclose(space.represent(features)[:, :16], features.cls)


def test_an_arm_without_words_is_not_asked(named):
    study, runtime = named
    arm = {arm.name: arm for arm in study.all_arms()}["dino"].encoder
    with pytest.raises(UserError, match="read no captions"):
        arm.joint([], runtime.cache / "again", runtime)


def test_questions_ask_only_about_what_no_arm_was_trained_on(shared_cache):
    study = load_study_of(shared_cache)
    source = study.measured_on.open(Runtime(cache=shared_cache), ALL)
    columns = source.columns
    for naming in NAMINGS:
        asked = question(naming, source)
        assert len(set(asked.captions)) == len(asked.captions) == len(asked.says)
        assert set(columns["split"][asked.rows]) == {naming.split}
        kinds = np.isin(columns["kind"], naming.kinds)
        held = "style" if naming.split == "redraw" else "concept"
        trained = set(columns[held][kinds & (columns["split"] == "train")])
        assert not trained & set(columns[held][asked.rows]), naming.name
        assert set(asked.labels) <= set(asked.says.tolist())
        names = [name for name in columns if name != "keywords"]
        records = [{name: str(columns[name][row]) for name in names} | {"keywords": ""} for row in asked.rows]
        places = [asked.captions.index(said) for said in captions(records, naming.policy)]
        assert np.array_equal(asked.says[places], asked.labels), "a picture's own caption is a right one"
        # Whoever says the same of every picture is right for the pictures of one label.
        assert asked.chance == max(np.mean(asked.labels == label) for label in set(asked.says))


def load_study_of(cache):
    folder = cache / "study"
    folder.mkdir(exist_ok=True)
    return load_study(write_study(folder))


def test_a_finished_quickstart_names_its_pictures(finished):
    measures = [row for row in results(finished / "runs")["measures"] if row["section"] == "zeroshot"]
    assert {row["arm"] for row in measures} == {"clip"}
    assert {row["task"] for row in measures} <= {naming.name for naming in NAMINGS}
    assert yaml.safe_load((finished / "tiny.yaml").read_text())["measure"][1] == "zeroshot"
    assert json.loads((finished / "runs" / "tiny" / "results.json").read_text())["study"] == "tiny"


@pytest.mark.slow
def test_what_is_frozen_of_a_text_tower_is_printed_and_recorded(tmp_path, tiny_cache):
    bert(tmp_path / "bert")
    tower = {"kind": "pretrained", "weights": str(tmp_path / "bert"), "unlocked": 1, "context": 16}
    settings = small_settings() | {"arms": {"told": arm(text(**tower))}, "measure": [], "baselines": []}
    study = write_study(tmp_path, settings)
    line = ("run", study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1")
    done = paribus(tmp_path, *line)
    assert done.code == 0, done.err
    (said,) = (line for line in done.err.splitlines() if "frozen" in line)
    # Of a frozen layer all but its two norms' weights and biases; of the embeddings all but the one norm's.
    assert said.endswith(
        "15 of 37 tensors frozen: model.embeddings 3 of 5, layer.0 12 of 16, layer.1 0 of 16"
    )
    (record,) = (r["record"] for a, r in records(tiny_cache).items() if a.startswith("pretrain"))
    assert len(record["frozen"]) == 15 and not any("LayerNorm" in name for name in record["frozen"])
    assert "joint.text.model.encoder.layer.0.output.LayerNorm.weight" in record["trainable"]
