"""The audit: what each run recorded must agree between arms, and with what the study says now."""

import json

import pytest

from paribus.errors import UserError
from paribus.study.audit import MEASURED, audit, flatten, spell
from paribus.study.stage import walk
from paribus.study.study import Study, load_study
from paribus.types import Runtime, ViewSpec
from study import edit_json, records


@pytest.fixture
def done(finished):
    """The finished study, its runtime, and where each arm's record lies."""
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    paths = {arm.name: arm.encoder.folder(runtime) / "record.json" for arm in study.all_arms()}
    return study, runtime, paths


def test_a_clean_run_has_no_fault_and_every_row_agrees(done):
    study, runtime, paths = done
    found = audit(study, runtime)
    assert found.faults == [] and all(row.agrees for row in found.rows)
    stored = {name: json.loads(path.read_text())["record"] for name, path in paths.items()}
    for field in MEASURED:
        (row,) = [row for row in found.rows if row.path == f"{field} (seed 0)"]
        assert row.role == "measured"
        assert row.values == {name: str(record[field]) for name, record in stored.items()}
    assert all(len(stored["clip"][field]) == 64 for field in ("data", "order", "start"))


def test_the_ledger_covers_every_setting_of_every_arm(done):
    study, runtime, _ = done
    rows = {row.path: row for row in audit(study, runtime).rows if row.role != "measured"}
    for arm in study.all_arms():
        settings = arm.encoder.model_dump(mode="json", exclude={"infra", "corpus", "text", "after"})
        for path, value in flatten(settings).items():
            assert rows[path].values[arm.name] == value
    for row in rows.values():
        equal = len(set(row.values.values())) == 1
        assert equal or row.role in ("treatment", "confound")
        assert (row.why and row.source) or row.role != "confound"
    because = {arm.because for arm in study.arms.values()}
    assert all(reason in rows["objective.kind"].why for reason in because)


@pytest.mark.parametrize("field", [*MEASURED])
def test_any_measured_difference_is_a_fault(done, field):
    study, runtime, paths = done

    def change(stored):
        value = stored["record"][field]
        stored["record"][field] = value + 1 if isinstance(value, int) else value[::-1]

    edit_json(paths["clip"], change)
    (fault,) = audit(study, runtime).faults
    assert fault.startswith(f"{field} (seed 0) differs between arms: clip ")
    (row,) = [row for row in audit(study, runtime).rows if row.path == f"{field} (seed 0)"]
    assert not row.agrees


def test_a_difference_under_one_seed_is_not_hidden_by_another(finished):
    """Both seeds are looked at; here the second never ran."""
    study = load_study(finished / "tiny.yaml", ("seeds=[0, 1]",))
    faults = audit(study, Runtime(cache=finished / "cache")).faults
    assert faults == [f"{name} (seed 1) has no record: run the study first" for name in study.arms]


def test_a_frozen_encoder_that_moved_is_a_fault(done, monkeypatch):
    """No arm here is one that freezes its encoder, so CLIP is told that it is; it did move it."""
    study, runtime, _ = done
    monkeypatch.setattr(type(study.arms["clip"].objective), "trains_encoder", False)
    faults = audit(study, runtime).faults
    assert faults == ["clip (seed 0) moved the encoder that it was to leave as it was"]


def test_at_equal_compute_only_samples_and_order_may_differ(done):
    study, runtime, _ = done
    settings = study.model_dump(mode="json")
    settings["control"]["level"] = "compute"
    equal = Study.model_validate(settings)
    for arm in equal.all_arms():
        arm.encoder.run(runtime)
    found = audit(equal, runtime)
    rows = {row.path: row for row in found.rows}
    assert found.faults == []
    for field in ("samples", "order"):
        assert len(set(rows[f"{field} (seed 0)"].values.values())) == 2
        assert rows[f"{field} (seed 0)"].agrees
    assert rows["budget.samples"].role == "confound"
    assert "equal training FLOPs" in rows["budget.samples"].why
    dino = next(arm.encoder for arm in equal.all_arms() if arm.name == "dino")
    edit_json(dino.folder(runtime) / "record.json", lambda stored: stored["record"].update(start="0" * 64))
    assert [fault.split(" ")[0] for fault in audit(equal, runtime).faults] == ["start"]


def test_the_stored_config_of_every_stage_is_held_to_the_study(done):
    """Whichever record was made with something else, its stage and the setting are named."""
    study, runtime, paths = done
    arms = {path.parent.name: name for name, path in paths.items()}
    for stage in walk(study.stages()):
        path = stage.folder(runtime) / "record.json"
        if path.parent.is_symlink():
            continue  # the shared corpus is not ours to change
        before = path.read_text()
        edit_json(path, lambda stored: stored["config"].update(version=77))
        expected = f"{arms[stage.address()]} (seed 0)" if stage.address() in arms else stage.address()
        assert audit(study, runtime).faults == [
            f"{expected} was made with version 77, but the study says {stage.version}"
        ]
        path.write_text(before)
    assert audit(study, runtime).faults == []


def test_a_setting_that_was_taken_out_or_put_in_is_named(done):
    study, runtime, paths = done
    edit_json(paths["dino"], lambda stored: stored["config"]["recipe"].pop("clip"))
    edit_json(paths["clip"], lambda stored: stored["config"].update(magic=3))
    assert audit(study, runtime).faults == [
        "clip (seed 0) was made with magic 3, but the study says –",
        "dino (seed 0) was made with recipe.clip –, but the study says 3.0",
    ]


def test_a_damaged_record_is_not_audited_but_refused(done):
    study, runtime, paths = done
    paths["dino"].write_text("{")
    with pytest.raises(UserError, match=r"record\.json is damaged"):
        audit(study, runtime)


def test_the_ledger_in_words_puts_what_differs_first(done):
    study, runtime, paths = done
    text = spell(audit(study, runtime))
    titles = ["Treatment (what", "Confounds (declared", "Measured (as each", "Control (equal"]
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)
    assert text.endswith("all digests agree; every departure is declared")
    edit_json(paths["dino"], lambda stored: stored["record"].update(samples=1))
    text = spell(audit(study, runtime))
    assert "\n! samples (seed 0): clip 64, dino 1\n" in text
    assert "FAULT: samples (seed 0) differs" in text and text.endswith("the arms differ where they must not")


def test_flatten():
    value = {"a": {"b": 1, "c": None}, "d": [1, 2], "e": "word", "f": []}
    assert flatten(value) == {"a.b": "1", "a.c": "null", "d": "[1, 2]", "e": "word", "f": "[]"}


def test_a_view_is_a_line_that_hides_no_difference():
    plain = ViewSpec(name="image")
    (line,) = flatten({"views": [plain.model_dump(mode="json")]}).items()
    assert line[0] == "views.image"
    changes = {
        "count": 2,
        "size": 0.5,
        "scale": (0.1, 0.2),
        "ratio": (1.0, 2.0),
        "flip": 0.1,
        "jitter": 0.1,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.1,
        "hue": 0.2,
        "grayscale": 0.1,
        "blur": 0.1,
        "solarize": 0.1,
    }
    assert {"name", *changes} == set(ViewSpec.model_fields)
    spelt = {
        flatten({"views": [plain.model_copy(update={name: value}).model_dump(mode="json")]})["views.image"]
        for name, value in changes.items()
    }
    assert len(spelt | {line[1]}) == len(changes) + 1
    assert "unheard" in flatten({"views": [{"name": "image", "unheard": 3}]})["views.image"]


def test_records_are_what_a_reader_needs(finished):
    """The config of every record, read by itself, says what its stage is made of."""
    for address, stored in records(finished / "cache").items():
        assert set(stored) == {"stage", "config", "record", "files"}
        assert address.startswith(f"{stored['stage']}-") and stored["config"]["version"] >= 1
