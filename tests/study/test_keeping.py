"""What frozen encoders see: when it is kept, and that nothing else changes."""

import pytest

from paribus.errors import UserError
from paribus.study import keeping
from paribus.study.downstream import Seen, Taught
from paribus.study.keeping import alike, choose, keep, kept_lessons
from paribus.study.stage import walk
from paribus.study.study import load_study
from paribus.types import Runtime
from study import ROOT

RATE = 350e12


def decided(monkeypatch, tmp_path, name, bytes_free=1e13, *changes):
    monkeypatch.setattr(keeping, "free", lambda folder: bytes_free)
    study = load_study(ROOT / "studies" / f"{name}.yaml", changes)
    ends, runtime = study.stages(), Runtime(cache=tmp_path)
    choices = choose(ends, runtime, RATE)
    return ends, choices, keep(ends, kept_lessons(choices.values(), tmp_path))


def lessons(ends):
    return {stage.address(): stage for stage in walk(ends) if isinstance(stage, Taught)}


def test_one_pass_over_the_pictures_keeps_nothing(monkeypatch, tmp_path):
    _, choices, kept = decided(monkeypatch, tmp_path, "paper")
    assert choices and not any(choice.keep for choice in choices.values())
    assert not any(lesson.keep for lesson in lessons(kept).values())
    assert not any(isinstance(stage, Seen) for stage in walk(kept))


def test_many_models_that_look_at_the_same_pictures_keep_them(monkeypatch, tmp_path):
    """On a slow machine; a current GPU looks faster than a disk reads."""
    monkeypatch.setattr(keeping, "READ", 1e12)
    ends, choices, kept = decided(monkeypatch, tmp_path, "language_models")
    before, after = lessons(ends), lessons(kept)
    assert before.keys() == after.keys(), "no address changes"
    still = {address: lesson for address, lesson in after.items() if not lesson.blinks()}
    assert all(lesson.keep for lesson in still.values()) and len(still) < len(after), "one moves its encoder"
    assert len([stage for stage in walk(kept) if isinstance(stage, Seen)]) == len(choices) == 4
    models = {name for choice in choices.values() for name in choice.lessons}
    assert models == set(still)
    assert {end.address() for end in ends} == {end.address() for end in kept}


def test_the_connector_is_none_of_its_business(monkeypatch, tmp_path):
    monkeypatch.setattr(keeping, "READ", 1e12)
    _, choices, _ = decided(monkeypatch, tmp_path, "connectors")
    assert len(choices) == 6, "two lessons of clip, of dino, and of both together"


def test_reading_may_cost_more_than_looking(monkeypatch, tmp_path):
    monkeypatch.setattr(keeping, "READ", 1e6)
    _, choices, _ = decided(monkeypatch, tmp_path, "language_models")
    assert not any(choice.worth for choice in choices.values())


def test_what_saves_most_is_kept_first_where_the_disk_is_small(monkeypatch, tmp_path):
    monkeypatch.setattr(keeping, "READ", 1e12)
    _, choices, _ = decided(monkeypatch, tmp_path, "language_models")
    gains = {address: choice.again - choice.kept for address, choice in choices.items()}
    best = max(gains, key=gains.get)
    room = choices[best].disk * 1.01 / keeping.SHARE
    _, again, _ = decided(monkeypatch, tmp_path, "language_models", room)
    assert [address for address, choice in again.items() if choice.keep] == [best]
    (other,) = {c.words().partition(":")[0][:17] for address, c in again.items() if address != best}
    assert other == "features not kept"
    assert any("of which the disk has" in choice.words() for choice in again.values())


def test_choices_that_read_alike_are_told_once(monkeypatch, tmp_path):
    _, choices, _ = decided(monkeypatch, tmp_path, "paper")
    told = alike(choices.values())
    assert len(told) == 4 and sum(len(choice.lessons) for choice in told) == 2 * 13, (
        "twelve arms and the untrained encoder"
    )
    assert "and 9 more" in told[0].words()


def test_an_undeclared_number_of_pictures_keeps_nothing(monkeypatch, tmp_path):
    _, choices, _ = decided(
        monkeypatch, tmp_path, "language_models", 1e13, "control.vlm.align.data.samples=null"
    )
    aligned = [choice for choice in choices.values() if not choice.pictures]
    assert aligned and not any(choice.keep for choice in aligned)
    assert all("not declared" in choice.words() for choice in aligned)


def test_what_is_there_already_costs_nothing_but_reading(monkeypatch, tmp_path):
    _, before, _ = decided(monkeypatch, tmp_path, "language_models")
    monkeypatch.setattr(Seen, "stored_config", lambda stage, runtime: {})
    _, choices, _ = decided(monkeypatch, tmp_path, "language_models", 0.0)
    for address, choice in choices.items():
        looking = choice.pictures * choice.again / choice.looks
        assert choice.kept == pytest.approx(before[address].kept - looking)
        assert choice.keep == choice.worth, "however full the disk is"
        assert choice.words().endswith("GB, there already)")


def test_free_disk_is_that_of_a_folder_to_come(tmp_path):
    assert keeping.free(tmp_path / "not" / "there") == pytest.approx(keeping.free(tmp_path), rel=0.01)


def test_what_was_decided_stays(monkeypatch, tmp_path):
    """Or a lesson that was killed could go on with features that are rounded otherwise than before."""
    monkeypatch.setattr(keeping, "READ", 1e12)
    _, choices, _ = decided(monkeypatch, tmp_path, "language_models")
    assert all(choice.keep for choice in choices.values())
    keeping.remember(choices.values(), tmp_path)
    _, again, kept = decided(monkeypatch, tmp_path, "language_models", 0.0)
    assert all(choice.keep for choice in again.values()), "though the disk is full now"
    assert all("as decided before" in choice.words() for choice in again.values())
    assert all(lesson.keep for lesson in lessons(kept).values() if not lesson.blinks())
    # A trial settles nothing: its lessons are others, though they look at the same pictures.
    changes = ("control.vlm.align.budget.samples=512", "control.vlm.instruct.budget.samples=512")
    _, trial, _ = decided(monkeypatch, tmp_path, "language_models", 1e13, *changes)
    assert not any(choice.keep for choice in trial.values()) and trial.keys() == again.keys()
    keeping.remember(trial.values(), tmp_path)
    _, last, _ = decided(monkeypatch, tmp_path, "language_models", 0.0)
    assert all(choice.keep for choice in last.values())
    (tmp_path / keeping.REMEMBERED).write_text("[")
    with pytest.raises(UserError, match=r"kept\.json is damaged: delete it"):
        keeping.remembered(tmp_path)
