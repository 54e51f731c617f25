"""Models that see besides the arms' own: two encoders, published ones, other connectors; extended files."""

import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from paribus.encoders.folders import write_transformers
from paribus.errors import UserError
from paribus.report.page import write_report
from paribus.report.tables import summary
from paribus.study.collect import collect
from paribus.study.plan import needed, plan, settled, spell
from paribus.study.run import execute
from paribus.study.sources import renew
from paribus.study.stage import walk
from paribus.study.stages import PublishedEncoder, published_encoder
from paribus.study.study import load_study
from paribus.types import Runtime
from study import QUICKSTART, ROOT, copied, small_settings, write_study

NAMED = ("overall", "accuracy (micro)")
LINEAR = {"eyes.connector": {"kind": "linear"}}


def seer(*encoders, **change):
    return {"encoders": list(encoders), "because": "to be compared", "change": change}


def study_of(folder, **more):
    settings = small_settings() | {"measure": ["vqa"], "baselines": ["untrained"], **more}
    return load_study(write_study(folder, settings, "models"))


def refusal(folder, **more):
    with pytest.raises(UserError) as caught:
        study_of(folder, **more)
    return str(caught.value)


@pytest.fixture(scope="module")
def asked(_finished, tmp_path_factory):
    """A finished study of arms, a published encoder that is an arm's own, and further models."""
    folder = tmp_path_factory.mktemp("models")
    arms = load_study(_finished / "tiny.yaml").all_arms()
    cache = copied(_finished / "cache", folder / "cache")
    runtime = Runtime(cache=cache, runs=folder / "runs", workers=1)
    clip = next(arm.encoder for arm in arms if arm.name == "clip")
    write_transformers(clip.open(runtime), folder / "elsewhere")
    study = study_of(
        folder,
        published={"elsewhere": {"weights": str(folder / "elsewhere"), "because": "made elsewhere"}},
        vlms={
            "both": seer("clip", "dino"),
            "in turns": seer("clip", "dino", **{"eyes.merge": "interleave"}),
            "linear": seer("clip", **LINEAR),
            "again": seer("clip"),
            "with elsewhere": seer("elsewhere", "untrained"),
        },
    )
    execute(study, runtime, lambda line: None)
    return study, runtime, collect(study, "models", runtime)


def test_each_is_asked_and_compared(asked):
    study, _, found = asked
    names = ["clip", "dino", "untrained", "elsewhere", *study.vlms]
    overall = [row for row in found.measures if (row.task, row.metric) == NAMED]
    assert [row.arm for row in overall] == names
    assert found.models["elsewhere"] == "made elsewhere" and set(found.models) == {"elsewhere", *study.vlms}
    assert found.models["both"] == "to be compared (clip and dino)"
    assert found.models["linear"] == 'to be compared (clip; eyes.connector: {"kind": "linear"})'
    pairs = {(row.arm, row.other) for row in found.differences if row.task == "overall"}
    blind = {(name, f"{name} (blind)") for name in names}
    assert blind <= pairs
    seeing = [name for name in names if name != "untrained"]  # a baseline is no side of a comparison
    assert {frozenset(pair) for pair in pairs - blind} == {
        frozenset((one, other)) for one in seeing for other in seeing if one != other
    }
    assert not [row for row in found.ledger if not row.agrees]


def test_two_encoders_together_have_both_widths_or_both_words(asked):
    study, runtime, _ = asked
    models = {branch.name: branch.answers[0].vlm for branch in study.branches()}
    single, both, turns = (models[name] for name in ("clip", "both", "in turns"))
    shapes = {}
    for name, model in (("clip", single), ("both", both), ("in turns", turns)):
        opened = model.open(runtime)
        shapes[name] = (opened.eyes.width, opened.eyes.tokens)
    width, tokens = shapes["clip"]
    assert shapes["both"] == (2 * width, tokens) and shapes["in turns"] == (2 * width, 2 * tokens)


def test_a_change_of_nothing_is_the_arms_own_model(asked):
    study, _, _ = asked
    models = {branch.name: branch.answers[0].vlm for branch in study.branches()}
    assert models["again"].address() == models["clip"].address() != models["linear"].address()


def test_a_published_encoder_sees_what_the_arm_sees(asked):
    """The same weights from a folder of transformers': the same answers, to rounding."""
    study, runtime, _ = asked
    answers = {branch.name: branch.answers[0] for branch in study.branches()}
    one, other = (load_file(answers[n].folder(runtime) / "scores.safetensors") for n in ("clip", "elsewhere"))
    assert np.abs(one["seen"] - other["seen"]).max() < 0.05 < np.abs(one["seen"] - one["no image"]).max()


def test_a_published_encoder_that_changes_is_refused_where_it_was_learnt_from(asked, tmp_path):
    study, runtime, _ = asked
    clip, dino = (arm.encoder.open(runtime) for arm in study.all_arms())
    write_transformers(clip, tmp_path / "weights")
    stage, here = published_encoder(str(tmp_path / "weights")), Runtime(cache=tmp_path / "cache")
    first = stage.run(here)
    assert stage.outdated(here) == "" and published_encoder(str(tmp_path / "weights")) == stage
    for name in (
        "README.md",
        "._model.safetensors",
        "model.safetensors.sha256",
        "training_args.bin",
        "log.json",
    ):
        (tmp_path / "weights" / name).write_text("a note")
    assert stage.outdated(here) == "", "nothing of it is read"
    shutil.rmtree(tmp_path / "weights")
    assert stage.outdated(here) == "", "a finished study is looked at where the folder is not"
    write_transformers(dino, tmp_path / "weights")
    assert stage.outdated(here).startswith(str(tmp_path / "weights"))
    with pytest.raises(
        UserError, match="weights has changed since models were taught with it: put its files"
    ):
        stage.open(here)
    assert list(renew([stage], here, ())) and stage.run(here).end != first.end, "nothing was made of it"


def test_a_study_goes_on_only_with_the_encoder_that_it_began_with(asked):
    """The next to last thing of this module to touch the folder: it is put back."""
    study, runtime, _ = asked
    weights = Path(study.published["elsewhere"].weights) / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors has changed since align-"):
        execute(study, runtime, lambda line: None)
    weights.write_bytes(before)
    said = []
    execute(study, runtime, said.append)
    (line,) = said
    total, _, done = line.partition(" stages, ")
    assert done == f"{total} of them done", "equal bytes are the same file, whenever they were written"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"vlms": {"x": seer("clap")}},
            "vlms.x.encoders: there is no 'clap'; there are clip, dino, untrained",
        ),
        ({"vlms": {"x": seer()}}, "vlms.x.encoders"),
        ({"vlms": {"clip": seer("dino")}}, "vlms.clip: this name is taken"),
        ({"vlms": {"x": seer("clip", **{"eyes.colour": 1})}}, "there is no setting control.vlm.eyes.colour"),
        (
            {"vlms": {"x": seer("clip", **{"eyes": {"merge": "channel"}, "eyes.layer": -1})}},
            "vlms.x.change: eyes.layer lies in eyes, which is given as a whole: write it there",
        ),
        ({"vlms": {"x": seer("clip", **{"eyes.layer": 3})}}, "vlms.x.change: eyes.layer"),
        ({"vlms": {"x": seer("clip", **{"eyes.layer": -9})}}, "vlms.x: vlm.eyes.layer is -9"),
        ({"vlms": {"x": seer("clip", **{"ask.template": "y"})}}, "vlms.x.ask.template"),
        ({"vlms": {"x": seer("clip", **{"instruct.recipe.rates": {"text": 1e-3}})}}, "nothing that trains"),
        ({"vlms": {"x": seer("clip", **{"questions.test": 9})}}, "questions are asked of all models alike"),
        ({"published": {"x": {"weights": "nowhere", "because": "y"}}}, "nowhere is neither a folder"),
        ({"vlms": {"x": seer("clip")}, "measure": ["probes"]}, "add vqa to measure"),
    ],
)
def test_what_cannot_be_is_told_at_once(tmp_path, more, told):
    assert told in refusal(tmp_path, **more)


def test_published_encoders_alone_are_a_study(asked, tmp_path):
    """Nothing is pre-trained, and the ledger has nothing to say."""
    study, runtime, both = asked
    found = study.published["elsewhere"].model_dump()
    alone = {"arms": {}, "baselines": [], "published": {"a": found, "b": found}, "reference": "b"}
    study = study_of(tmp_path, **alone)
    execute(study, runtime, lambda line: None)
    alone = collect(study, "alone", runtime)
    totals = [row for row in alone.measures if (row.task, row.metric) == NAMED]
    (same,) = (r for r in both.measures if (r.arm, r.task, r.metric) == ("elsewhere", *NAMED))
    assert {row.arm: row.value for row in totals} == {"a": same.value, "b": same.value}
    assert not alone.arms and not alone.costs and not alone.ledger and set(alone.models) == {"a", "b"}
    assert "alone" in summary(alone)
    write_report(alone, tmp_path, {})
    ends, choices = settled(study, runtime)
    assert spell("", [], list(plan(ends, runtime, 1e9)), choices, needed(ends, runtime, 1), runtime, 1)


def test_a_released_encoder_is_planned_before_it_is_there(tmp_path):
    study = load_study(ROOT / "studies" / "released.yaml")
    ends, _ = settled(study, Runtime(cache=tmp_path))
    stages = [stage for stage in walk(ends) if isinstance(stage, PublishedEncoder)]
    assert len(stages) == len(study.published) == 3 and study.arms == {}
    with pytest.raises(UserError, match="download the repository Leonardo6/clip-datacomp-12m-16"):
        stages[0].check(Runtime(cache=tmp_path))
    described = stages[0].encoder.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    assert stages[0].changed(encoder=described).address() == stages[0].address(), (
        "known better once it is there"
    )


def test_a_study_of_nobody_is_refused(tmp_path):
    assert "arms and published are empty" in refusal(tmp_path, arms={})


# A file that begins with another.


def extending(folder, content, base=None):
    write_study(folder, base or small_settings(), "base")
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_file_says_what_it_says_and_the_other_says_the_rest(tmp_path):
    path = extending(
        tmp_path, {"extends": {"file": "base.yaml"}, "seeds": [3], "control": {"level": "strict"}}
    )
    own, base = load_study(path), load_study(tmp_path / "base.yaml")
    assert own.seeds == (3,) and own.control.level == "strict"
    assert own.arms == base.arms and own.control.encoder == base.control.encoder


def test_arms_can_be_chosen_and_a_mapping_of_a_kind_is_not_mixed(tmp_path):
    language = {"kind": "pretrained", "weights": "smollm2"}
    content = {
        "extends": {"file": "base.yaml", "arms": ["dino"]},
        "control": {"vlm": {"language": language}},
    }
    own = load_study(extending(tmp_path, content), ("seeds=[1]",))
    assert list(own.arms) == ["dino"] and own.seeds == (1,)
    assert own.control.vlm.language.model_dump(exclude_unset=True) == language


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ({"file": "own.yaml"}, "it begins with itself"),
        ({"file": "gone.yaml"}, "There is no study file"),
        ({"file": "base.yaml", "arms": ["x"]}, "base.yaml has no arm 'x'; it has clip, dino"),
        ("base.yaml", "extends"),
    ],
)
def test_what_cannot_be_begun_with_is_told(tmp_path, extends, told):
    path = extending(tmp_path, {"extends": extends})
    with pytest.raises(UserError) as caught:
        load_study(path)
    assert told in str(caught.value)


def test_a_preset_and_a_models_changes_are_not_mixed(tmp_path):
    base = small_settings() | {"vlms": {"x": seer("clip", **LINEAR), "y": seer("dino")}}
    content = {
        "extends": {"file": "base.yaml"},
        "arms": {"clip": {"objective": {"preset": "slip"}}},
        "vlms": {"x": {"change": {}}},
    }
    own = load_study(extending(tmp_path, content, base))
    assert own.vlms["x"].change == {} and own.vlms["x"].because == own.vlms["y"].because
    assert own.arms["clip"].objective.kind == "hybrid"


def test_nothing_asked_is_nothing_taught_and_told(tmp_path):
    content = {"extends": {"file": "base.yaml"}, "control": {"vlm": {"questions": None}}}
    content["control"]["vlm"]["language"] = {"kind": "pretrained", "weights": "smollm2"}
    content["control"]["vlm"]["instruct"] = {"data": {"kind": "captions"}}
    with pytest.raises(UserError, match=r"control\.vlm: nothing is asked, so nothing would be taught"):
        load_study(extending(tmp_path, content))
    content["control"]["vlm"] = {"questions": None, "ask": {"benchmarks": [{"kind": "pope", "path": "x"}]}}
    with pytest.raises(UserError, match=r"nothing is made, but .* remove the null, or take a published"):
        load_study(extending(tmp_path, content))


@pytest.mark.parametrize("name", ["connectors", "language_models"])
def test_the_ablations_look_through_the_papers_own_encoders(name):
    paper = {arm.name: arm for arm in load_study(ROOT / "studies" / "paper.yaml").all_arms()}
    own = load_study(ROOT / "studies" / f"{name}.yaml").all_arms()
    assert [arm.encoder.address() for arm in own] == [paper[arm.name].encoder.address() for arm in own]
    assert len(own) == 2


@pytest.mark.parametrize("begin", ["# my-study.yaml", "published:"])
def test_the_documented_files_are_studies(tmp_path, begin):
    """docs/vlm.md's examples, beside the quickstart."""
    text = (ROOT / "docs" / "vlm.md").read_text("utf-8")
    (block,) = re.findall(rf"\n((?:    .*\n)*?    {begin}.*\n(?:    .*\n)+)", text)
    own = yaml.safe_load(textwrap.dedent(block))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"extends": {"file": "quickstart.yaml"}} | own), encoding="utf-8")
    (tmp_path / "quickstart.yaml").write_text(QUICKSTART.read_text("utf-8"), encoding="utf-8")
    study = load_study(path)
    assert {branch.name for branch in study.branches()} >= {"clip", "dino", *study.published, *study.vlms}
