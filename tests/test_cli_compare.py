"""``paribus compare`` as a person runs it: published models, photographs, and all that can be odd."""

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from small_models import clip, dino, pieces
from study import Done, leftovers, paribus

from paribus.annotate.store import Store, labelled, read_pairs
from paribus.comparison import Comparison
from paribus.report.explore import said
from paribus.study.glance import cut_and_flipped

SCRIPT = '<script>alert("x")<script>.png'
NAMES = ['a "quoted" one.jpg', "a\nnew line.jpg", SCRIPT]


def write_pictures(folder, count=60):
    """Names and formats as they come: the first pieces have hostile names, some are CMYK, grey, animated."""
    folder.mkdir(parents=True)
    names = [*NAMES, *(f"{number:02d}.jpg" for number in range(count - len(NAMES)))]
    images = list(pieces(count))
    for name, image in zip(names, images, strict=True):
        image.save(folder / name, "PNG" if name.endswith(".png") else "JPEG", quality=92)
    images[5].convert("CMYK").save(folder / "02.jpg", "JPEG")
    images[6].convert("L").save(folder / "03.jpg", "JPEG")
    images[7].save(folder / "moving.gif", save_all=True, append_images=images[8:10])
    return names


def spoil(folder):
    """Files that are lost, and one that is there twice."""
    (folder / "torn.jpg").write_bytes((folder / "00.jpg").read_bytes()[:300])
    (folder / "page.png").write_text("<html>gone</html>")
    (folder / "copy.jpg").write_bytes((folder / "01.jpg").read_bytes())
    Image.new("RGB", (50, 50), (128, 128, 128)).save(folder / "not available.png")


def write_told(folder, names):
    """Captions in another order, of some pictures only; labels of two kinds."""
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["file", "caption"])
        rows.writerows(
            [name, f"<b>piece</b> {place}, “of a photo” {'warm' * (place % 3 == 0)}"]
            for place, name in reversed(list(enumerate(names[:40])))
        )
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["file", "label", "colour"])
        kinds = (("china", "warm"), ("flower", ""))
        rows.writerows([name, *kinds[place % 2]] for place, name in enumerate(names))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two models, pictures and what is told of them."""
    folder = tmp_path_factory.mktemp("compare")
    clip(folder / "clip")
    dino(folder / "dinov2")
    names = write_pictures(folder / "pictures")
    spoil(folder / "pictures")
    write_told(folder, names)
    return folder


def compare(folder, *more, images="pictures", a="clip", b="dinov2") -> Done:
    line = ("compare", folder / a, folder / b, "--images", folder / images, "--cache", folder / "cache")
    return paribus(folder, *line, *more)


@pytest.fixture(scope="module")
def compared(place):
    told = ("--captions", place / "captions.csv", "--labels", place / "labels.csv")
    done = compare(place, *told, "--out", place / "out", "--keep", "12")
    assert done.code == 0, done.err
    return place / "out", done


def found(out) -> Comparison:
    return Comparison.model_validate_json((out / "comparison.json").read_text(encoding="utf-8"))


def test_it_says_what_it_wrote_and_leaves_nothing_half_written(compared):
    out, done = compared
    *sentences, last = done.out.splitlines()
    assert last == f"Report: {out / 'report.html'}"
    assert [f"{sentence}." for sentence in said(found(out))] == sentences and len(sentences) > 1
    assert (out / "report.html").is_file() and not leftovers(out)


def test_both_are_described_and_prepared_their_own_way(compared):
    encoders = found(compared[0]).encoders
    assert (encoders["a"].name, encoders["b"].name) == ("clip", "dinov2")
    assert (encoders["a"].size, encoders["b"].size) == (32, 56)
    assert encoders["a"].prepared == "resize the shorter side to 32 (bicubic), crop the centre 32"
    assert encoders["b"].prepared == "resize the shorter side to 64 (bicubic), crop the centre 56"
    assert encoders["b"].model == "Dinov2Model" and encoders["b"].format == "transformers"


def test_what_is_lost_or_odd_is_counted(compared):
    got = found(compared[0])
    assert got.pictures["pictures"] == "63" and got.pictures["left out"] == "2"
    assert got.faults == {"not a picture, or a damaged one": ("page.png", "torn.jpg")}
    assert got.pictures["files with the same bytes as another"] == "1"
    assert got.mined["placeholder_images"] == 1
    keys = {got.shown[at].key for pair in got.pairs for at in (pair.left, pair.right)}
    assert "not available.png" not in keys


def test_pairs_are_ranked_and_their_pictures_are_there(compared):
    got = found(compared[0])
    assert {pair.alike for pair in got.pairs} <= {"a", "b"} and 0 < len(got.pairs) <= 24
    for pair in got.pairs:
        other = "b" if pair.alike == "a" else "a"
        assert pair.percentile[pair.alike] >= 75 and pair.percentile[other] <= 50
        assert pair.rank[pair.alike] < pair.rank[other] <= 62 * 61 // 2
        for at in (pair.left, pair.right):
            with Image.open(compared[0] / "pairs" / got.shown[at].picture) as picture:
                assert max(picture.size) <= 320
    both = json.loads((compared[0] / "pairs" / "pairs.json").read_text())["pairs"]
    assert [(one["alike"], one["apart"]) for one in both] == [
        ("clip", "dinov2") if pair.alike == "a" else ("dinov2", "clip") for pair in got.pairs
    ]


def test_what_is_told_stands_beside_its_picture(compared):
    got = found(compared[0])
    by_key = {one.key: one for one in got.shown}
    names = [*NAMES, *(f"{number:02d}.jpg" for number in range(57))]
    for place, name in enumerate(names):
        if name in by_key:
            assert by_key[name].caption == (
                f"<b>piece</b> {place}, “of a photo” {'warm' * (place % 3 == 0)}" if place < 40 else ""
            )
            assert by_key[name].label == ("warm, china", "flower")[place % 2]


def test_neighbours_are_the_nearest_in_each_encoder(compared):
    got = found(compared[0])
    paired = {str(at) for pair in got.pairs for at in (pair.left, pair.right)}
    assert got.near.keys() == paired
    for at, sides in got.near.items():
        for near in sides.values():
            assert len(near) == 3 and int(at) not in {one.place for one in near}
            assert [one.similarity for one in near] == sorted((one.similarity for one in near), reverse=True)


def test_numbers_have_intervals(compared):
    got = found(compared[0])
    sections = {row.section for row in got.measures}
    assert {"similarity", "symbols", "factors", "probe", "knn"} == sections
    factors = {row.task for row in got.measures if row.section == "factors"}
    named = {"label", "colour (label)"}
    left_out = {name for name in got.left_out if not name.endswith(", read off")}
    assert factors | left_out == {"colour", "texture", "layout", "meaning", "all together"} | named
    assert {"colour", "texture", "layout", "label"} <= factors
    assert all({"colour", "texture", "layout"} == pair.factors.keys() for pair in got.pairs)
    assert all(0 <= value <= 100 for pair in got.pairs for value in pair.factors.values())
    assert all(row.low <= row.value <= row.high for row in (*got.measures, *got.differences))
    assert got.layers is not None and len(got.layers.values) == 3 == len(got.layers.values[0])
    assert got.layers.values[-1][-1] == pytest.approx(
        next(row.value for row in got.measures if row.metric == "CKA"), abs=1e-6
    )


def test_labels_are_read_off_both(place, compared):
    got = found(compared[0])
    for section in ("probe", "knn"):
        rows = {m.arm: m for m in got.measures if (m.section, m.task) == (section, "label")}
        assert all(0 <= m.low <= m.value <= m.high <= 1 and m.n == 16 for m in rows.values())
        (step,) = (d for d in got.differences if (d.section, d.task) == (section, "label"))
        assert step.value == pytest.approx(rows["a"].value - rows["b"].value, abs=1e-8)
        assert step.low <= step.value <= step.high and 0 <= step.p <= 1
    assert "There are 1 labels with at least 4" in got.left_out["colour, read off"]
    assert "Linear probes" in (compared[0] / "report.html").read_text(encoding="utf-8")


def test_what_a_window_does_to_a_picture_is_measured(compared):
    got = found(compared[0])
    name = "alignment (cut and flipped)"
    one, other = (row for row in got.measures if row.metric == name)
    assert 0 < one.value < 2 and 0 < other.value < 2 and one.n == 63
    (step,) = (row for row in got.differences if row.metric == name)
    assert step.value == pytest.approx(one.value - other.value)


@pytest.mark.parametrize("shape", [(40, 60, 3), (1, 300, 3), (7, 7, 3)])
def test_a_window_is_half_of_a_picture_or_more(shape):
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    seen = [cut_and_flipped(image, row) for row in range(40)]
    assert all(np.array_equal(one, cut_and_flipped(image, row)) for row, one in enumerate(seen))
    areas = np.array([one.shape[0] * one.shape[1] / shape[0] / shape[1] for one in seen])
    assert (areas > 0.4).all() and areas.max() <= 1 and len({one.tobytes() for one in seen}) > 10
    values = {one.tobytes() for one in image.reshape(-1, 3)}
    assert all(pixel.tobytes() in values for one in seen for pixel in one.reshape(-1, 3))


def test_a_note_beside_an_encoder_changes_nothing(place, compared):
    shutil.copytree(place / "clip", place / "noted", dirs_exist_ok=True)
    (place / "noted" / "README.md").write_text("a note")
    assert "are the same encoder" in compare(place, b="noted").refused()


def test_pictures_below_the_working_folder_are_not_its_own_output(place, monkeypatch, tmp_path):
    (tmp_path / "photos").mkdir()
    line = ("compare", place / "clip", place / "dinov2", "--images", tmp_path)
    refused = paribus(tmp_path, *line, "--cache", tmp_path / "photos" / "cache").refused()
    assert "whose pictures are looked at: write elsewhere" in refused


def test_features_are_made_once_and_the_same_comes_again(place, compared):
    before = found(place / "out")
    told = ("--captions", place / "captions.csv", "--labels", place / "labels.csv")
    stages = sorted(path.name for path in (place / "cache" / "stages").iterdir())
    done = compare(place, *told, "--out", place / "again", "--keep", "12")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (place / "cache" / "stages").iterdir()) == stages
    again = found(place / "again")
    assert "again" in again.command and again.model_copy(update={"command": before.command}) == before
    assert compare(place, "--out", place / "fewer", "--keep", "3").code == 0
    more = {path.name for path in (place / "cache" / "stages").iterdir()} - set(stages)
    assert {name.partition("-")[0] for name in more} == {"versus"}


def test_pairs_are_a_table_too_and_thresholds_may_be_cosines(place, compared):
    got, table = found(compared[0]), pq.read_table(compared[0] / "pairs.parquet")
    assert json.loads(table.schema.metadata[b"counts"]) == got.mined
    for row, pair in zip(table.to_pylist(), got.pairs, strict=True):
        assert (row["left"], row["right"]) == (got.shown[pair.left].key, got.shown[pair.right].key)
        assert row["rank_a"] == pair.rank["a"] and row["likeness_colour"] == pair.factors["colour"]
    done = compare(place, "--out", place / "published", "--cosines", "0.7,0.8,0.6")
    assert done.code == 0, done.err
    other = found(place / "published")
    assert other.thresholds == {"a": (0.6, 0.7), "b": (0.6, 0.8)}
    for pair in other.pairs:
        cold = "b" if pair.alike == "a" else "a"
        assert pair.similarity[cold] <= 0.6 < 0.7 <= pair.similarity[pair.alike]
    for wrong in ("0.7,0.8", "a,b,c", "0.5,0.8,0.6", "2,3,0.1"):
        told = "give three cosines, alike to A, alike to B, not alike"
        assert told in compare(place, "--out", place / "no", "--cosines", wrong).refused()


def test_a_picture_more_is_another_folder(place, compared, tmp_path):
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    next(pieces(1)).rotate(90).save(tmp_path / "pictures" / "zz.png")
    line = ("compare", place / "clip", place / "dinov2", "--images", tmp_path / "pictures")
    done = paribus(tmp_path, *line, "--cache", place / "cache", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert found(tmp_path / "out").pictures["pictures"] == "64"


def cached_in(folder):
    """Where the hub's cache is, as HF_HUB_CACHE would say before the start."""
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = str(folder)


def test_a_model_of_the_hub_is_named_by_owner_and_name(place, tmp_path):
    """As it lies in the hub's own cache, where the hub cannot be reached."""
    repository = tmp_path / "hub" / "models--facebook--dinov2-tiny"
    (repository / "snapshots").mkdir(parents=True)
    shutil.copytree(place / "dinov2", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    line = ("compare", place / "clip", "facebook/dinov2-tiny", "--images", place / "pictures")
    done = paribus(
        tmp_path,
        *line,
        "--cache",
        place / "cache",
        "--out",
        tmp_path / "out",
        before=partial(cached_in, tmp_path / "hub"),
    )
    assert done.code == 0, done.err
    assert found(tmp_path / "out").encoders["b"].name == "dinov2-tiny"


def test_meaning_is_of_pictures_that_have_a_caption(compared, place):
    got = found(compared[0])
    assert got.pictures["with a caption"] == "40 of 62"
    explained = [row for row in got.measures if row.section == "factors"]
    assert {row.n for row in explained} == {40} and "meaning" in {row.task for row in explained}
    (place / "few.csv").write_text("file,caption\n00.jpg,a temple\n01.jpg,a flower\n")
    done = compare(place, "--captions", place / "few.csv", "--out", place / "few", "--keep", "12")
    assert done.code == 0, done.err
    got = found(place / "few")
    assert got.left_out == {"meaning": "fewer than 8 pictures have a caption"}
    assert {row.n for row in got.measures if row.section == "factors"} == {62}


def test_a_result_that_was_kept_names_what_was_typed_now(place, compared, tmp_path):
    for name in ("clip", "pictures"):
        shutil.copytree(place / name, tmp_path / name, copy_function=shutil.copy2)
    (tmp_path / "link").symlink_to(place / "pictures")
    line = ("compare", tmp_path / "clip", place / "dinov2", "--cache", place / "cache")
    home = {"HOME": str(tmp_path / "home")}
    done = paribus(tmp_path, *line, "--images", tmp_path / "link", "--out=~/out", environment=home)
    assert done.code == 0, done.err
    got = found(tmp_path / "home" / "out")
    assert got.encoders["a"].where == str(tmp_path / "clip") and got.folder == str(tmp_path / "link")


def test_labels_outlive_another_comparison(place, compared):
    out = place / "labelled"
    assert compare(place, "--out", out, "--keep", "12").code == 0
    store = Store(out, read_pairs(out))
    pair = read_pairs(out)[-1].id
    store.put("ada", pair, "semantic", 1.0)
    store.close()
    assert compare(place, "--out", out, "--keep", "12").code == 0
    assert labelled(out).keys() == {pair}
    shutil.copytree(place / "dinov2", place / "renamed", dirs_exist_ok=True)
    assert "or of encoders" in compare(place, "--out", out, "--keep", "12", b="renamed").refused()
    refused = compare(place, "--out", out, "--keep", "1").refused()
    assert "has labels of 1 pairs that are not among these" in refused
    Store(out, read_pairs(out)).close()
    (out / "labels.sqlite").write_text("nothing of the kind")
    assert "is no database of labels" in compare(place, "--out", out, "--keep", "12").refused()


def test_what_is_written_in_pictures_is_a_factor(place, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(pieces(24)):
        wide = image.resize((300, 200))
        if number % 2:
            text = ("STOP", "EXIT")[number // 2 % 2]
            ImageDraw.Draw(wide).text(
                (40, 60), text, "white", ImageFont.load_default(60), stroke_width=4, stroke_fill="black"
            )
        wide.save(tmp_path / "pictures" / f"{number:02d}.png")
    shown = tmp_path / "pictures"
    line = ("compare", place / "clip", place / "dinov2", "--images", shown, "--cache", place / "cache")
    done = paribus(tmp_path, *line, "--words", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    told = {row.task for row in found(tmp_path / "out").measures if row.section == "factors"}
    assert {"text", "words", "colour"} <= told
    (record,) = (place / "cache" / "stages").glob("written-*/record.json")
    assert json.loads(record.read_text())["record"] == {"written": 12, "pictures": 24}


def test_the_documented_models_are_compared(place, tmp_path):
    """docs/compare.md's own code, word for word."""
    text = (Path(__file__).parents[1] / "docs" / "compare.md").read_text("utf-8")
    start = text.index("    from paribus.peers import")
    code = textwrap.dedent(text[start : text.index("\n    $ paribus compare clip-random")])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    line = ("compare", tmp_path / "clip-random", tmp_path / "dinov2-random", "--images", place / "pictures")
    done = paribus(tmp_path, *line, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    got = found(tmp_path / "out")
    assert (got.encoders["a"].size, got.encoders["b"].size) == (224, 224)
    assert (got.encoders["a"].width, got.encoders["b"].width) == (384, 384)


# What cannot be compared.


def constant(folder):
    """A model that says the same of every picture."""
    dino(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: torch.zeros_like(value) for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def not_finite(folder):
    dino(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["layernorm.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (constant, "sees the same in all 63 pictures: it has collapsed"),
        (not_finite, "sees what is not finite in 63 of 63"),
    ],
)
def test_an_encoder_that_sees_nothing_is_refused(place, make, told):
    make(place / make.__name__)
    done = compare(place, "--out", place / "refused", b=make.__name__)
    assert told in done.refused()
    assert not (place / "refused").exists()


def few(folder):
    for number, image in enumerate(pieces(2)):
        image.save(folder / f"{number}.png")


def broken(folder):
    for number in range(20):
        (folder / f"{number}.png").write_bytes(b"no picture")


def alike(folder):
    """Copies of one."""
    for number in range(20):
        next(pieces(1)).save(folder / f"{number}.png")


def nothing(folder):
    (folder / "notes.txt").write_text("no picture")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (few, "has 2 different pictures that can be decoded (no faults): give at least 8"),
        (broken, "has 0 different pictures that can be decoded (not a picture, or a damaged one: 20)"),
        (alike, "has 1 different pictures that can be decoded (no faults)"),
        (nothing, "There is no picture in"),
    ],
)
def test_too_few_pictures_are_refused(place, tmp_path, make, told):
    make(tmp_path)
    line = ("compare", place / "clip", place / "dinov2", "--images", tmp_path, "--cache", place / "cache")
    assert told in paribus(tmp_path, *line).refused()


def test_names_that_stand_for_nothing_are_refused(place, compared):
    line = ("--images", place / "pictures", "--cache", place / "cache")
    for a, b, more, told in (
        (place / "clip", place / "clip", (), "are the same encoder: give two"),
        (
            place / "clip",
            place / "no where",
            (),
            "no where: give a checkpoint's folder, or a model as OWNER/NAME",
        ),
        (place / "clip", "nobody/nothing", (), "no model of that name can be fetched from the hub"),
        (place / "clip", place / "pictures", (), "has no config"),
        (place / "clip", "none.yaml:clip", (), "There is no study file none.yaml"),
        (place / "clip", place / "dinov2", ("--captions", place / "none.csv"), "There is no table"),
        (place / "clip", place / "dinov2", ("--captions", place / "labels.csv"), "has no column 'caption'"),
        (place / "clip", place / "dinov2", ("--device", "cuda:9"), "--device cuda:9"),
    ):
        assert told in paribus(place, "compare", a, b, *line, *more).refused()


def test_what_is_wrong_shows_before_the_work(place, tmp_path):
    """Nothing is kept of what was refused."""
    (tmp_path / "strange" / "tables").mkdir(parents=True)
    (tmp_path / "strange" / "tables" / "mine.csv").write_text("mine")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "dinov2"}')
    line = ("compare", place / "clip", place / "dinov2", "--images", place / "pictures")
    for more, told in (
        (("--out", tmp_path / "strange"), "holds 'mine.csv', which is no comparison's"),
        (("--out", tmp_path / "file"), "Cannot write to"),
        (("--cosines", "1"), "give three cosines"),
        (("--labels", tmp_path / "none.csv"), "There is no table"),
        (("--cache", "/proc/x"), "Cannot write to /proc/x/stages"),
        (("--out", "/proc/x"), "Cannot write to /proc/x"),
        (("--out", tmp_path / ("x" * 300)), "Cannot write to"),
        (("--out", tmp_path / "nowhere"), "Cannot write to"),
        (("--out", place / "pictures" / "out"), "whose pictures are looked at"),
        (("--out", tmp_path / os.fsdecode(b"o\xff")), "o\\xff is no UTF-8"),
    ):
        refused = paribus(tmp_path, *line, "--cache", tmp_path / "cache", *more).refused()
        assert told in refused, refused
    broken = ("compare", place / "clip", tmp_path / "broken", *line[3:], "--cache", tmp_path / "cache")
    assert str(tmp_path / "broken") in paribus(tmp_path, *broken).refused()
    assert not (tmp_path / "cache").exists() and (tmp_path / "strange/tables/mine.csv").exists()


def test_an_arm_of_a_study_is_named_by_file_and_arm(place, finished, tmp_path):
    clip, dino, clap = (f"{finished / 'tiny.yaml'}:{arm}" for arm in ("clip", "dino", "clap"))
    line = ("--images", place / "pictures", "--cache", finished / "cache")
    done = paribus(finished, "compare", clip, dino, *line, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    encoders = found(tmp_path / "out").encoders
    assert (encoders["a"].name, encoders["b"].name) == ("clip", "dino") and encoders["a"].taught == "clip"
    told = "tiny.yaml has no arm 'clap'; there are clip, dino"
    assert told in paribus(finished, "compare", clap, dino, *line).refused()
    nowhere = ("--images", place / "pictures", "--cache", tmp_path / "no")
    assert "clip is not trained in" in paribus(finished, "compare", clip, dino, *nowhere).refused()
