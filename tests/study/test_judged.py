"""A study that reads its encoders on a labelled dataset."""

import shutil

import pytest
from small_models import write_classes

from study import paribus, results, small_settings, write_study


def changed(folder, **more):
    settings = small_settings() | {"measure": [], "datasets": {"tints": {"at": str(folder / "tints")}}}
    return write_study(folder, settings | more)


@pytest.fixture
def read(finished):
    """The finished study, read on a dataset too."""
    write_classes(finished / "tints")
    study = changed(finished)
    done = paribus(finished, "run", study, "--cache", finished / "cache", "--runs", finished / "runs")
    assert done.code == 0, done.err
    return finished


def test_all_encoders_are_read_and_every_two_arms_are_paired(read):
    found = results(read / "runs")
    rows = [row for row in found["measures"] if row["task"] == "tints"]
    assert {row["arm"] for row in rows} == {"clip", "dino", "untrained", "colour-histogram"}
    metrics = {(row["section"], row["metric"]) for row in rows}
    assert metrics == {
        *(("probe", metric) for metric in ("linear probe accuracy", "balanced accuracy", "macro-F1")),
        ("probe", "calibration error"),
        *(("knn", metric) for metric in ("kNN accuracy", "balanced accuracy", "macro-F1")),
    }
    assert all(row["n"] == 18 and row["unit"] == "pictures" for row in rows)
    value = {(row["arm"], row["metric"], row["section"]): row["value"] for row in rows}
    steps = [row for row in found["differences"] if row["task"] == "tints"]
    assert {(row["arm"], row["other"]) for row in steps} == {("clip", "dino")} and len(steps) == len(metrics)
    for row in steps:
        a, b = (value[arm, row["metric"], row["section"]] for arm in (row["arm"], row["other"]))
        mended = row["metric"] == "calibration error"  # each by itself, and none below 0
        assert row["value"] == pytest.approx(a - b, abs=0.05 if mended else 1e-8)
        main = row["metric"].endswith("accuracy") and "balanced" not in row["metric"]
        assert (row["p"] is not None) == (row["p_same"] is not None) == main
        assert row["p_holm"] is None or row["p_holm"] >= row["p"]


def test_a_changed_picture_is_looked_at_again_and_nothing_else_is(read):
    torn = read / "tints/test/red/red12.png"
    shutil.copyfile(read / "tints/test/red/red13.png", torn)
    before = {path.name for path in (read / "cache/stages").iterdir()}
    line = ("run", read / "tiny.yaml", "--cache", read / "cache", "--runs", read / "runs")
    assert paribus(read, *line).code == 0
    new = {path.name.split("-")[0] for path in (read / "cache/stages").iterdir()} - {
        name.split("-")[0] for name in before
    }
    made = {path.name for path in (read / "cache/stages").iterdir()} - before
    assert not new and {name.split("-")[0] for name in made} == {"labelled", "look", "judge"}


def test_a_dataset_that_is_not_there_is_told_before_anything_is_trained(tmp_path, tiny_cache):
    study = changed(tmp_path)
    line = ("--cache", tiny_cache)
    assert paribus(tmp_path, "plan", study, *line).code == 0
    refused = paribus(tmp_path, "run", study, *line, "--runs", tmp_path / "runs").refused()
    assert "There is no file or folder" in refused and "tints" in refused
    assert not list(tiny_cache.glob("stages/pretrain-*"))
