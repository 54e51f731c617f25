"""Control as types: arms leave it by treatment and declared confounds only; what else differs is a fault."""

import json

import pytest
from objectives import tiny_config

from paribus.errors import UserError
from paribus.objectives import OBJECTIVES
from paribus.study.audit import audit, flatten
from paribus.study.control import arm_confounds, arm_views, depart
from paribus.study.stages import Pretrain
from paribus.study.study import Arm, Study
from paribus.types import Confound, Recipe, Runtime, ViewSpec
from study import small_settings

PHOTOMETRIC = set(ViewSpec.model_fields) - {"name", "count", "size", "scale"}


def study_at(level="recipe", **arms):
    """The small quickstart at a level; its arms have no confounds but those given by name."""
    settings = small_settings()
    settings["control"]["level"] = level
    for name, arm in settings["arms"].items():
        arm["confounds"] = []
        arm |= arms.get(name, {})
    return Study.model_validate(settings)


def confound(path, value, **settings):
    return {"path": path, "value": value, "why": "to see", "source": "this test"} | settings


def differences(study):
    """Path -> values, of all settings that the resolved arms do not share."""
    flat = {
        arm.name: flatten(arm.encoder.identity()) for arm in study.all_arms() if arm.seed == study.seeds[0]
    }
    paths = {path for settings in flat.values() for path in settings}
    found = {path: tuple(settings.get(path) for settings in flat.values()) for path in paths}
    return {path: values for path, values in found.items() if len(set(values)) > 1}


class Breached(Study):
    """A study whose last arm was changed behind the control's back, as a defect of ours would do."""

    def all_arms(self) -> list[Arm]:
        *others, last = super().all_arms()
        return [*others, last._replace(encoder=last.encoder.changed(**BREACH[0]))]


BREACH: list[dict] = []


def breached(level, **changes):
    BREACH[:] = [changes]
    return Breached.model_validate(study_at(level).model_dump())


# By construction.


@pytest.mark.parametrize("level", ["recipe", "strict", "compute"])
def test_arms_differ_inside_treatment_and_declared_confounds_only(level):
    study = study_at(level)
    declared = {c.path for arm in study.all_arms() for c in arm.confounds}
    allowed = ("objective.", "text", "views.", *declared)
    assert bool(declared) == (level != "strict")
    outside = [path for path in differences(study) if not path.startswith(allowed)]
    assert outside == []


def test_two_arms_share_corpus_words_questions_and_language():
    settings = small_settings()
    settings["arms"]["again"] = settings["arms"]["clip"] | {"because": "another temperature"}
    settings["arms"]["again"]["objective"] = settings["arms"]["clip"]["objective"] | {"temperature": 0.1}
    study = Study.model_validate(settings)
    arms = {arm.name: arm.encoder for arm in study.all_arms()}
    assert len({arm.corpus.address() for arm in arms.values()}) == 1
    assert arms["clip"].text is not None and arms["dino"].text is None
    assert arms["clip"].text.address() == arms["again"].text.address()
    answers = [answer for branch in study.branches() for answer in branch.answers]
    assert len(answers) == 4
    assert len({answer.vlm.align.language.address() for answer in answers}) == 1
    assert len({answer.questions.address() for answer in answers}) == 1
    assert len({arm.address() for arm in arms.values()}) == 3


def test_arms_begin_with_one_encoder_and_one_order_under_each_seed():
    settings = small_settings() | {"seeds": [0, 1]}
    study = Study.model_validate(settings)
    assert [(arm.name, arm.seed) for arm in study.all_arms()] == [
        (name, seed) for seed in (0, 1) for name in settings["arms"]
    ]
    for arm in study.all_arms():
        assert (arm.encoder.encoder, arm.encoder.seed) == (study.control.encoder, arm.seed)
        assert arm.encoder.budget == study.control.budget


def test_a_declared_confound_is_applied_to_its_arm_alone_and_disclosed(tiny_cache):
    study = study_at(dino={"confounds": [confound("recipe.lr", 0.002, why="diverges above")]})
    rates = {arm.name: arm.encoder.recipe.lr for arm in study.all_arms()}
    assert rates == {"clip": study.control.recipe.lr, "dino": 0.002}
    found = audit(study, Runtime(cache=tiny_cache))
    (row,) = [row for row in found.rows if row.path == "recipe.lr"]
    assert (row.role, row.why, row.source, row.agrees) == ("confound", "diverges above", "this test", True)
    assert all("no record" in fault for fault in found.faults)


def test_a_confound_of_a_whole_part_covers_what_is_in_it(tiny_cache):
    betas = [0.8, 0.9]
    study = study_at("strict", clip={"confounds": [confound("recipe", Recipe(betas=betas).model_dump())]})
    found = audit(study, Runtime(cache=tiny_cache))
    rows = {row.path: row for row in found.rows}
    assert rows["recipe.betas"].role == "confound" and rows["recipe.betas"].agrees
    assert json.loads(rows["recipe.betas"].values["clip"]) == betas


@pytest.mark.parametrize(
    "path", ["recipe.lrr", "lr", "recipe.lr.deeper", "", "views.image", "encoder.colour", "seed"]
)
def test_a_confound_that_leads_nowhere_is_refused(path):
    study = study_at(dino={"confounds": [confound(path, 1.0)]})
    with pytest.raises(
        UserError, match=r"arms\.dino\.confounds: there is no setting .*budget, encoder, recipe, views"
    ):
        study.all_arms()


@pytest.mark.parametrize(
    ("path", "value"), [("recipe.lr", -1), ("budget.batch", "many"), ("recipe.lr", None)]
)
def test_a_confound_with_an_impossible_value_is_refused(path, value):
    study = study_at(dino={"confounds": [confound(path, value)]})
    with pytest.raises(UserError, match=rf"arms\.dino\.confounds: {path}: "):
        study.all_arms()


def test_a_study_needs_a_reason_for_every_departure():
    for missing in ("why", "source"):
        with pytest.raises(ValueError, match=missing):
            study_at(dino={"confounds": [confound("recipe.lr", 0.1, **{missing: ""})]})


def test_depart_leaves_what_it_was_given_alone():
    settings = {"recipe": {"lr": 0.1, "betas": [0.9, 0.98]}}
    changed = depart(settings, (Confound(path="recipe.lr", value=0.2, why="w", source="s"),), "x")
    assert changed == {"recipe": {"lr": 0.2, "betas": [0.9, 0.98]}} and settings["recipe"]["lr"] == 0.1


# The levels.


def test_level_recipe_keeps_what_each_paper_published():
    study = study_at("recipe")
    for arm in study.all_arms():
        objective = study.arms[arm.name].objective
        assert arm.encoder.views == objective.views()
        flat = flatten(arm.encoder.model_dump(mode="json", include={"recipe"}))
        for published in objective.departures:
            assert flat[published.path] == json.dumps(json.loads(json.dumps(published.value))).strip('"')


def test_the_studys_own_confound_goes_before_the_published_one():
    study = study_at(dino={"confounds": [confound("recipe.warmup", 0.3)]})
    treatment = study.arms["dino"]
    found = {c.path: c.value for c in arm_confounds(treatment, study.control)}
    assert found["recipe.warmup"] == 0.3 and found["recipe.clip"] == 3.0
    assert study.resolve(0)["dino"].encoder.recipe.warmup == 0.3


def test_level_strict_gives_all_arms_one_recipe_and_one_augmentation():
    study = study_at("strict")
    arms = study.all_arms()
    assert {arm.encoder.recipe.model_dump_json() for arm in arms} == {study.control.recipe.model_dump_json()}
    views = [view for arm in arms for view in arm.encoder.views]
    assert len(views) > len(arms)
    for name in PHOTOMETRIC:
        assert {getattr(view, name) for view in views} == {getattr(study.control.view, name)}
    assert {view.scale for view in views if view.size == 1} == {study.control.view.scale}
    published = {view.name: view for arm in study.arms.values() for view in arm.objective.views()}
    for view in views:  # how many crops of which size is the treatment itself
        assert (view.count, view.size) == (published[view.name].count, published[view.name].size)
        assert view.size == 1 or view.scale == published[view.name].scale


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_view_setting_is_equal_at_strict_or_is_geometry(kind):
    """A new field of ViewSpec, or a new objective, cannot slip past the level."""
    study = study_at("strict")
    control = study.control.model_copy(
        update={"view": ViewSpec(name="x", count=3, size=0.5, scale=(0.1, 0.2), ratio=(1, 2), flip=0.3)}
    )
    for view in arm_views(tiny_config(kind), control):
        same = set(ViewSpec.model_fields) - {"name", "count", "size", "scale"}
        assert {n: getattr(view, n) for n in same} == {n: getattr(control.view, n) for n in same}


def test_level_compute_gives_all_arms_the_cheapest_arms_flops_within_half_a_step():
    settings = small_settings()
    settings["control"] |= {"level": "compute", "budget": {"samples": 16 * 50, "batch": 16}}
    study = Study.model_validate(settings)
    arms = {arm.name: arm for arm in study.all_arms()}
    flops = {name: arm.encoder.flops() for name, arm in arms.items()}
    least = min(flops.values())
    for name, arm in arms.items():
        step = flops[name] / arm.encoder.budget.steps
        assert abs(flops[name] - least) <= 0.5 * step * (1 + 1e-9)
        assert arm.encoder.budget.batch == 16
    assert 800 in {arm.encoder.budget.samples for arm in arms.values()}, "the cheapest keeps them all"
    fewer = arms["dino"].encoder.budget.samples
    assert 16 < fewer < 800
    (said,) = [c for c in arms["dino"].confounds if c.path == "budget.samples"]
    assert said.value == fewer and "equal training FLOPs" in said.why
    assert len(study.stages()) == len(study_at("recipe").stages())


def test_an_arm_of_another_architecture_is_no_yardstick_at_level_compute():
    """Larger patches cost a quarter; what supervision costs is not measured by them."""
    settings = small_settings()
    settings["control"] |= {"level": "compute", "budget": {"samples": 16 * 50, "batch": 16}}
    wide = {"path": "encoder.patch", "value": 16, "why": "it is tested", "source": "this test"}
    settings["arms"]["wide"] = settings["arms"]["clip"] | {"confounds": [wide]}
    arms = {arm.name: arm for arm in Study.model_validate(settings).all_arms()}
    flops = {name: arm.encoder.flops() for name, arm in arms.items()}
    assert arms["clip"].encoder.budget.samples == arms["wide"].encoder.budget.samples == 800
    assert flops["wide"] < 0.9 * flops["clip"]
    assert arms["dino"].encoder.budget.samples < 800


def test_at_equal_samples_all_arms_see_the_whole_budget():
    for level in ("recipe", "strict"):
        assert {arm.encoder.budget for arm in study_at(level).all_arms()} == {study_at().control.budget}


# By disclosure: what differs besides is a fault that names its path.


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"precision": "fp32"}, "precision"),
        ({"captions": "everything"}, "captions"),
        ({"seed": 3}, "seed"),
        ({"recipe": Recipe(lr=0.123)}, "recipe.lr"),
        ({"budget": {"samples": 32, "batch": 16}}, "budget.samples"),
        ({"budget": {"samples": 64, "batch": 8}}, "budget.batch"),
        ({"version": 9}, "version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_difference_that_nobody_declared_is_a_fault_named_by_its_path(changes, path, tiny_cache):
    found = audit(breached("strict", **changes), Runtime(cache=tiny_cache))
    faults = [fault for fault in found.faults if "no record" not in fault]
    assert [fault.split(" ")[0] for fault in faults if fault.startswith(f"{path} ")] == [path]
    assert all("differs between arms and is no declared confound" in fault for fault in faults)
    (row,) = [row for row in found.rows if row.path == path]
    assert not row.agrees


def test_another_architecture_or_another_corpus_is_a_fault(tiny_cache):
    encoder = study_at().control.encoder.model_copy(update={"depth": 3})
    found = audit(breached("recipe", encoder=encoder), Runtime(cache=tiny_cache))
    assert any(fault.startswith("encoder.depth differs") for fault in found.faults)
    arm = study_at().all_arms()[-1].encoder
    corpus = arm.corpus.changed(source=arm.corpus.source.model_copy(update={"seed": 8}))
    found = audit(breached("recipe", corpus=corpus), Runtime(cache=tiny_cache))
    assert any(fault.startswith("data.seed differs") for fault in found.faults)


def test_another_version_of_the_corpus_is_a_fault(tiny_cache):
    arm = study_at().all_arms()[-1].encoder
    found = audit(breached("recipe", corpus=arm.corpus.changed(version=2)), Runtime(cache=tiny_cache))
    assert any(fault.startswith("data.version differs") for fault in found.faults)


def test_one_arm_under_one_seed_is_the_whole_of_a_pretraining():
    """Nothing else may enter: the fields that an arm is made of are all in the ledger or named here."""
    shown = {"corpus", "text", "after", "encoder", "objective", "recipe", "views", "budget"}
    shown |= {"precision", "captions"}
    assert set(Pretrain.model_fields) == shown | {"kind", "version", "seed", "infra"}
