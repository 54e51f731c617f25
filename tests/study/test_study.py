"""A study file: what it may say, what ``--set`` may change, and which stages follow."""

import json
import re

import pytest
import yaml

from paribus.encoders.published import PUBLISHED
from paribus.errors import UserError
from paribus.study.answers import Answer
from paribus.study.corpora import Corpus
from paribus.study.evaluate import Compare, Embedding, Extract
from paribus.study.plan import (
    ASSUMED_RATE,
    arm_costs,
    disk_bytes,
    measured_rate,
    needed,
    plan,
    settled,
    spell,
)
from paribus.study.probing import Probe
from paribus.study.run import execute, need_space
from paribus.study.stage import walk
from paribus.study.stages import Pretrain
from paribus.study.study import Study, load_study
from paribus.study.talks import Questions
from paribus.study.texts import Words
from paribus.types import Runtime
from study import QUICKSTART, ROOT, small_settings, write_study


def kinds(study):
    return [stage.name for stage in walk(study.stages())]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_resolves_to_a_graph_at_every_level(path):
    for level in ("recipe", "strict"):
        study = load_study(path, (f"control.level={level}",))
        assert study.hypothesis and study.expect is not None
        stages = walk(study.stages())
        assert len({stage.address() for stage in stages}) == len(stages) > len(study.arms)


def test_a_study_file_says_what_it_says(tiny_study):
    study = load_study(tiny_study)
    assert study == Study.model_validate(small_settings())
    assert study.corpus == Corpus(source=study.control.data.source)
    assert {name: arm.because for name, arm in study.arms.items()} == {
        arm.name: arm.because for arm in study.all_arms()
    }


def test_set_is_validated_like_the_file(tiny_study):
    changes = ("control.budget.samples=32", "seeds=[3, 4]", "arms.dino.objective.momentum=0.5", "margin=0.1")
    study = load_study(tiny_study, changes)
    settings = small_settings() | {"seeds": [3, 4], "margin": 0.1}
    settings["control"]["budget"]["samples"] = 32
    settings["arms"]["dino"]["objective"]["momentum"] = 0.5
    assert study == Study.model_validate(settings)


def test_set_can_say_what_the_file_leaves_out_and_later_ones_win(tiny_study):
    study = load_study(tiny_study, ("control.recipe.clip=0.25", "grid.batch=64", "grid.batch=128"))
    assert study.control.recipe.clip == 0.25 and study.grid.batch == 128


def test_the_stages_of_a_study(tiny_study):
    study = load_study(tiny_study)
    found = kinds(study)
    arms, seen, branches = len(study.arms), len(study.arms) + 1, len(study.arms) + 2
    counts = {
        "corpus": 1,
        "words": 1,
        "questions": 1,
        "language": 1,
        "captions": 1,
        "asking": 1,
        "untrained": 1,
        "histogram": 1,
        "pretrain": arms,
        "extract": branches,
        "probe": branches,
        "zeroshot": sum(arm.objective.reads_text for arm in study.arms.values()),
        "embedding": branches,
        "stimuli": 1,
        "abilities": branches,
        "align": seen,
        "instruct": seen,
        "answer": seen,
        "compare": arms * (arms - 1) // 2,
    }
    assert {name: found.count(name) for name in set(found)} == counts


def test_another_seed_costs_all_but_the_data(tiny_study):
    one, two = load_study(tiny_study), load_study(tiny_study, ("seeds=[0, 1]",))
    names = ("corpus", "words", "questions", "captions", "asking", "histogram", "extract", "stimuli")
    shared = dict.fromkeys(names, 1)
    for name in set(kinds(one)):
        assert kinds(two).count(name) == 2 * kinds(one).count(name) - shared.get(name, 0)


@pytest.mark.parametrize(
    ("measure", "present"),
    [
        ([], set()),
        (["probes"], {"extract", "probe"}),
        (["zeroshot"], {"zeroshot"}),
        (["embedding"], {"extract", "embedding"}),
        (["disagreement"], {"extract", "embedding", "compare"}),
        (["abilities"], {"stimuli", "abilities"}),
        (["vqa"], {"questions", "captions", "asking", "language", "align", "instruct", "answer"}),
    ],
)
def test_only_what_is_asked_for_is_measured(tiny_study, measure, present):
    study = load_study(tiny_study, (f"measure={json.dumps(measure)}", "baselines=[]"))
    assert set(kinds(study)) == {"corpus", "words", "pretrain"} | present


def test_arms_are_compared_within_a_seed_and_baselines_with_nobody(tiny_study):
    study = load_study(tiny_study, ("seeds=[0, 1]",))
    found = study.comparisons()
    assert [(one, other, compare.seed) for one, other, compare in found] == [
        ("clip", "dino", 0),
        ("clip", "dino", 1),
    ]
    for _, _, compare in found:
        for side in (compare.a, compare.b):
            assert isinstance(side, Embedding) and side.features.encoder.seed == side.seed == compare.seed


def test_a_branch_hangs_together(tiny_study):
    for branch in load_study(tiny_study).branches():
        assert isinstance(branch.probe, Probe) and isinstance(branch.probe.features, Extract)
        assert branch.embedding.features == branch.probe.features
        assert (branch.naming is not None) == (branch.name == "clip")
        if branch.name == "colour-histogram":
            assert branch.answers == ()
        else:
            (answer,) = branch.answers
            assert isinstance(answer, Answer) and isinstance(answer.questions, Questions)
            assert answer.vlm.align.encoders == (branch.probe.features.encoder,)


def refusal(path, *changes):
    with pytest.raises(UserError) as caught:
        load_study(path, changes)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("control.budget", "write path=value"),
        ("=3", "write path=value"),
        ("hypothesis.deeper=1", "hypothesis is not a mapping"),
        ("control.level.deeper=1", "control.level is not a mapping"),
        ("control.budgett.samples=3", "control.budgett is not a known key"),
        ("control.budget.samples=[", "the value is not valid YAML"),
        ("control.budget.samples=0", "control.budget.samples: input should be greater than 0, not 0"),
        ("control.budget.samples=many", "control.budget.samples: input should be a valid integer"),
        (
            "control.level=loose",
            "control.level: input should be 'recipe', 'strict' or 'compute', not 'loose'",
        ),
        ("control.data.captions=poem", "control.data.captions: Unknown caption policy 'poem': choose one of"),
        (
            "control.data.source.kind=photos",
            "control.data.source: input tag 'photos' .* expected tags: 'glyphs', 'shards'",
        ),
        ("arms.dino.objective.kind=dinosaur", "arms.dino.objective: .*'dinosaur'.*'clip', 'dino'"),
        ("arms.clip.objective.embd=3", "embd is not a known key"),
        ("arms.clip.because=''", "arms.clip.because: string should have at least 1 character"),
        ("arms={}", "the file: arms and published are empty: name at least one encoder"),
        ("seeds=[]", "seeds: .*at least 1 item"),
        (
            "baselines=[random]",
            "baselines.0: input should be 'untrained' or 'colour-histogram', not 'random'",
        ),
        ("measure=[taste]", "measure.0: input should be 'probes'"),
        ("control.encoder.image_size=36", "control.encoder: image_size 36 is not a multiple of patch 8"),
        ("arms.dino.objective.local_size=0.6", r"view local is 19\.2 pixels wide.*multiple of the patch 8"),
        (
            "control.vlm.eyes.connector={kind: cubic}",
            "control.vlm.eyes.connector: input tag 'cubic' .* 'linear', 'mlp', 'resampler'",
        ),
        ("control.vlm.eyes.connector={queries: 3}", "connector: say its kind, one of linear, mlp, resampler"),
        ("control.vlm.eyes.connector={kind: mlp, queries: 3}", "connector.queries is not a known key"),
        (
            "control.vlm.eyes.connector={kind: resampler, heads: 3}",
            "arms.clip: vlm.eyes.connector.heads is 3, but what it reads is 16 wide",
        ),
        ("control.vlm.eyes.layer=-3", "arms.clip: vlm.eyes.layer is -3, but an encoder has 2 blocks"),
        ("control.vlm.eyes.merge=stack", "control.vlm.eyes.merge: input should be 'channel' or 'interleave'"),
        (
            "control.vlm.questions=null",
            "tiny.yaml: control.vlm: nothing is asked, so nothing would be taught: name a benchmark",
        ),
        (
            "control.vlm.language.context=23",
            r"a picture has 16 tokens and the language model's context is 23: raise vlm\.language\.context",
        ),
        ("control.vlm.language.heads=3", "vlm.language.hidden is 32, no multiple of twice its 3 heads"),
        (
            "control.vlm.language={kind: pretrained, weights: nowhere}",
            "arms.clip: weights: 'nowhere': there is no readable nowhere/config.json; .*smollm2",
        ),
        (
            "control.vlm.language={kind: pretrained, weights: smollm2, template: poem}",
            "control.vlm.language.template: there is no 'poem'; choose one of plain, vicuna_v1, .*bare",
        ),
        (
            "control.vlm.language={kind: pretrained, weights: smollm2, context: 9000}",
            "vlm.language.context is 9000, but smollm2 has 8192 positions",
        ),
        (
            "control.vlm.ask.template=poem",
            "control.vlm.ask.template: no prompt template is called 'poem': choose one of vmcbench, .*short",
        ),
        ("control.vlm.ask.benchmarks=[{kind: mme}]", "ask.benchmarks.0: input tag 'mme' .* 'vmcbench', "),
        (
            "control.vlm.ask.benchmarks=[{path: here}]",
            "ask.benchmarks.0: say its kind, one of vmcbench, .*choice",
        ),
        ("control.data.captions=3", "control.data.captions: input should be a valid string, not 3"),
        (
            "control.vlm.ask.benchmarks=[{kind: pope}, {kind: choice}]",
            "ask.benchmarks.1.path: field required",
        ),
        ("control.vlm.ask.benchmarks=[{kind: pope, pth: x}]", "ask.benchmarks.0.pth is not a known key"),
        (
            "control.vlm.ask.benchmarks=[{kind: pope}, {kind: pope, path: here}]",
            "control.vlm.ask.benchmarks: pope stands there twice",
        ),
        ("control.vlm.align.data={kind: llava}", r"vlm\.align\.data\.file: field required"),
        ("control.vlm.align.data={kind: photos}", "align.data: input tag 'photos' .* 'captions', 'glyphqa'"),
        ("control.vlm.align.data.wording=plain", "vlm.align.data: say its kind, one of captions, glyphqa"),
        ("control.vlm.align.wording=poem", "vlm.align.wording: input should be 'plain' or 'chat'"),
        ("control.vlm.align.trained=[tongue]", "vlm.align.trained.0: input should be 'encoder', 'connector'"),
        ("control.vlm.align.trained=[]", "control.vlm.align: nothing moves: name what is trained"),
        ("control.vlm.instruct.lora={rnk: 3}", "control.vlm.instruct.lora.rnk is not a known key"),
        ("control.vlm.layer=-1", "control.vlm.layer is not a known key"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_that_names_it(tiny_study, change, told):
    assert re.search(told, refusal(tiny_study, change), re.IGNORECASE), refusal(tiny_study, change)


@pytest.mark.parametrize(
    "changes",
    [
        ("control.vlm.questions=null", "measure=[probes]"),
        ("control.vlm.eyes.layer=-9", "measure=[embedding]"),
        (
            "control.vlm.eyes.connector={kind: resampler, heads: 4, queries: 3}",
            "control.vlm.language.context=11",
        ),
        (
            "control.vlm.questions=null",
            "control.vlm.language={kind: pretrained, weights: qwen2-7b-instruct}",
            "control.vlm.instruct.data={kind: llava, file: mix.json}",
            "control.vlm.ask.benchmarks=[{kind: pope}, {kind: choice, name: own, path: own.csv}]",
        ),
        ("control.vlm.align.trained=[]", "control.vlm.align.lora={rank: 4}"),
    ],
)
def test_what_can_be_or_is_not_asked_for_is_not_refused(tiny_study, changes):
    study = load_study(tiny_study, changes)
    assert walk(study.stages()) and sum(stage.flops() + stage.disk() for stage in study.stages()) > 0


def test_one_model_is_asked_every_benchmark(tiny_study):
    change = "control.vlm.ask.benchmarks=[{kind: pope}, {kind: choice, name: own, path: own.csv}]"
    for branch in load_study(tiny_study, (change,)).branches():
        titles = [answer.questions.title for answer in branch.answers]
        assert titles == ([] if branch.name == "colour-histogram" else ["glyphqa", "pope", "own"])
        assert len({answer.vlm.address() for answer in branch.answers}) == bool(titles)
        assert len({answer.address() for answer in branch.answers}) == len(titles)


def test_a_baselines_name_is_taken(tmp_path):
    settings = small_settings()
    settings["arms"]["untrained"] = settings["arms"]["dino"]
    assert "arms.untrained: this name belongs to a baseline" in refusal(write_study(tmp_path, settings))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no study"),
        ("just words", "holds no study"),
        ("- a\n- b", "holds no study"),
        ("a: [", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("arms: {}", "hypothesis: field required"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, content, told):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    assert told in refusal(path) and str(path) in refusal(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "There is no study file" in refusal(tmp_path / "nowhere.yaml")
    assert "Cannot read the study file" in refusal(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "x.yaml" in refusal(tmp_path / "x.yaml")


def test_the_file_is_not_changed_by_a_set(tiny_study):
    before = tiny_study.read_text()
    load_study(tiny_study, ("seeds=[9]",))
    assert tiny_study.read_text() == before and yaml.safe_load(before)["seeds"] != [9]


# What it will cost.


def test_a_plan_of_nothing_done_adds_up(tiny_study, tiny_cache):
    study, runtime = load_study(tiny_study), Runtime(cache=tiny_cache)
    lines = list(plan(study.stages(), runtime, measured_rate(study, runtime)))
    stages = {stage.address(): stage for stage in walk(study.stages())}
    assert {line.address for line in lines} == set(stages) and len(lines) == len(stages)
    for line in lines:
        stage = stages[line.address]
        assert line.done == isinstance(stage, Corpus)
        assert line.flops == (0.0 if line.done else stage.flops())
        assert line.seconds == line.flops / ASSUMED_RATE
        if isinstance(stage, Pretrain):
            assert line.depth == 0 and line.flops > 0
        if isinstance(stage, Words):
            assert line.depth == 1


def test_the_papers_scale_is_planned_arm_by_arm_without_data(tmp_path, capsys):
    """Facts of open_clip's profile and of DINO's recipe, by other people: 105 and 435 GFLOPs a sample.

    Less what the last block need not make for tokens that nobody reads: query, output, perceptron, scores.
    """
    study = load_study(ROOT / "studies" / "paper.yaml")
    costs = {cost.name: cost for cost in arm_costs(study, Runtime())}
    runtime = Runtime(cache=tmp_path / "none")
    ends, choices = settled(study, runtime)
    stages = list(plan(ends, runtime, measured_rate(study, runtime)))
    text = spell("data", list(costs.values()), stages, choices, needed(ends, runtime, 8), runtime, 8)
    assert not (tmp_path / "none").exists()
    published = {name for name in PUBLISHED if name in costs}
    assert published == set(PUBLISHED)
    assert {cost.steps for cost in costs.values()} == {49_565}
    clip, dino = costs["clip-datacomp-12m-16"], costs["dino-datacomp-12m-16"]
    spared, spared_locally = (
        2 * (tokens - 1) * (2 * 768**2 + 2 * 768 * 3072 + 2 * tokens * 768) for tokens in (197, 37)
    )
    whole = 3 * 35.13e9 + 3 * 5.96e9 * 16 / 77
    assert clip.flops / clip.samples == pytest.approx(whole - 3 * spared, rel=0.02)
    assert dino.flops / dino.samples == pytest.approx(435e9 - 8 * spared - 24 * spared_locally, rel=0.01)
    assert dino.forwards == pytest.approx(4 + 8 * 37 / 197)
    assert dino.gpu_hours == dino.flops / 350e12 / 3600
    for name in costs:
        assert re.search(rf"^{name} +0 +49,565 +203,018,240 ", text, re.MULTILINE), name
    assert re.search(r"about [\d,]+ years of training at this machine's rate, or [\d.]+ GPU-hours", text)


def test_what_needs_no_training_is_made_first(tmp_path, tiny_study, tiny_cache):
    """Missing weights or data are told before anything was trained for days."""
    study = load_study(tiny_study, ("arms.clip.objective.text={kind: pretrained, weights: roberta-base}",))
    said = []
    with pytest.raises(UserError, match=r"roberta-base.*put them into"):
        execute(study, Runtime(cache=tiny_cache), said.append)
    assert not any("pretrain" in line for line in said)


def test_flops_grow_with_the_budget_and_the_width(tiny_study):
    def flops(*changes):
        return {arm.name: arm.encoder.flops() for arm in load_study(tiny_study, changes).all_arms()}

    once = flops()
    assert all(
        value == pytest.approx(2 * once[name]) for name, value in flops("control.budget.samples=128").items()
    )
    assert all(value > 1.5 * once[name] for name, value in flops("control.encoder.width=32").items())


def test_the_rate_is_this_machines_own_once_a_training_is_done(finished):
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    flops = seconds = 0.0
    for arm in study.all_arms():
        record = arm.encoder.cached(runtime)
        flops += record.flops_per_sample * record.samples
        seconds += record.seconds
    assert measured_rate(study, runtime) == (flops / seconds if seconds else ASSUMED_RATE)


def test_a_disk_that_is_too_small_is_refused_before_anything_begins(tmp_path):
    need_space(tmp_path / "not" / "there", 1)
    with pytest.raises(
        UserError, match=rf"{tmp_path}/not/there has \d+ MB free and the study needs about 10{{12}} MB"
    ):
        need_space(tmp_path / "not" / "there", 10**12)
    assert list(tmp_path.iterdir()) == []


def test_disk_bytes(tmp_path):
    assert disk_bytes(tmp_path / "nowhere") == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"678")
    assert disk_bytes(tmp_path) == 8


def test_compare_is_of_two_embeddings():
    study = load_study(QUICKSTART)
    (compare,) = (compare for _, _, compare in study.comparisons())
    assert isinstance(compare, Compare) and compare.a != compare.b
