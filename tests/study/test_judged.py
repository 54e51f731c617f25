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
    named = [row for row in rows if row["section"] == "zeroshot"]
    assert {row["arm"] for row in named} == {"clip"}, "of two arms, one has words"
    rows = [row for row in rows if row not in named]
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


def test_arms_with_words_are_asked_in_words_and_paired(tmp_path, tiny_cache):
    write_classes(tmp_path / "tints")
    files = sorted(path.relative_to(tmp_path / "tints") for path in (tmp_path / "tints").rglob("*.png"))
    told = [f"{file},{file.parent.name} {word}" for file in files for word in ("tint", "photo")]
    (tmp_path / "tints" / "told.csv").write_text("\n".join(["file,caption", *told]))
    settings = small_settings()
    text = settings["arms"]["clip"]["objective"]["text"]
    settings["arms"]["words-after"] = {
        "because": "words on a frozen encoder",
        "objective": {"kind": "dinotxt", "embed": 16, "blocks": 1, "text": text},
        "after": "dino",
    }
    tints = {"at": str(tmp_path / "tints"), "templates": ["a {}", "{} photo"], "names": ["b", "g", "r"]}
    asked = {"tints": tints, "told": {"at": f"captions:{tmp_path / 'tints' / 'told.csv'}"}}
    study = write_study(tmp_path, settings | {"measure": [], "datasets": asked})
    line = ("--cache", tiny_cache)
    done = paribus(tmp_path, "run", study, *line, "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    found = results(tmp_path / "runs")
    named = {row["arm"]: row for row in found["measures"] if row["metric"] == "zero-shot accuracy"}
    recalls = [row for row in found["measures"] if row["section"] == "retrieval"]
    assert set(named) == {row["arm"] for row in recalls} == {"clip", "words-after"}
    assert len(recalls) == 2 * 2 * 3 and {row["n"] for row in recalls} == {54}
    steps = {(row["section"], row["task"], row["metric"]): row for row in found["differences"]}
    assert steps["zeroshot", "tints", "zero-shot accuracy"]["p"] is not None
    value = {(row["arm"], row["task"], row["metric"]): row for row in recalls}
    for (section, task, metric), step in steps.items():
        if section == "retrieval":
            a, b = (value[arm, task, metric]["value"] for arm in ("clip", "words-after"))
            assert step["value"] == pytest.approx(a - b) and step["low"] <= step["value"] <= step["high"]
            assert a <= value["clip", task, "Recall@10"]["value"]
    assert sum(section == "retrieval" for section, _, _ in steps) == 6
    names = tmp_path / "names.txt"
    names.write_text("b\ng\nr\n")
    typed = ("--template", "a {}", "--template", "{} photo", "--names", names)
    alone = paribus(tmp_path, "zeroshot", f"{study}:words-after", tmp_path / "tints", *typed, *line)
    assert f": {100 * named['words-after']['value']:.1f}% [" in alone.out, alone.err
    back = paribus(tmp_path, "retrieve", f"{study}:clip", tmp_path / "tints" / "told.csv", *line)
    first = value["clip", "told, image to text", "Recall@1"]["value"]
    assert f"image to text: Recall@1 {100 * first:.1f} [" in back.out, back.err
    refused = paribus(tmp_path, "zeroshot", f"{study}:untrained", tmp_path / "tints", *line).refused()
    assert "holds no text tower" in refused
    refused = paribus(tmp_path, "zeroshot", f"{study}:dino", tmp_path / "tints", *line).refused()
    assert "read no captions" in refused


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
    assert not new and {name.split("-")[0] for name in made} == {"labelled", "look", "judge", "prompted"}


def test_a_dataset_that_is_not_there_is_told_before_anything_is_trained(tmp_path, tiny_cache):
    study = changed(tmp_path)
    line = ("--cache", tiny_cache)
    assert paribus(tmp_path, "plan", study, *line).code == 0
    refused = paribus(tmp_path, "run", study, *line, "--runs", tmp_path / "runs").refused()
    assert "There is no file or folder" in refused and "tints" in refused
    assert not list(tiny_cache.glob("stages/pretrain-*"))
