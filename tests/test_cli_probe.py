"""``paribus probe``, ``knn``, ``zeroshot``, ``retrieve`` as a person runs them, on encoders as published."""

import csv
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_models import clip, dino, photograph, reading_clip, tokenizer, write_classes
from study import paribus

NUMBER = r"\d+\.\d%? \[\d+\.\d, \d+\.\d\]"


def write_table(folder, table, columns, rows):
    with (folder / table).open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([columns, *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    clip(folder / "clip")
    dino(folder / "dinov2")
    model, processor = reading_clip(folder / "reader")
    for part in (model, processor):
        part.save_pretrained(folder / "reader")
    tokenizer(folder / "reader")
    write_classes(folder / "tints")
    return folder


def run(place, command, *more, encoder="clip", dataset="tints"):
    return paribus(place, command, place / encoder, place / dataset, "--cache", place / "cache", *more)


@pytest.mark.parametrize(
    ("command", "more", "title"),
    [
        ("probe", (), "linear probe"),
        ("probe", ("--how", "logistic"), "logistic regression"),
        ("probe", ("--how", "as-published"), "linear probe as published"),
        ("knn", (), "nearest neighbours"),
    ],
)
def test_one_number_with_its_interval_and_how_it_came_about(place, command, more, title):
    done = run(place, command, *more)
    assert done.code == 0, done.err
    first, second, *notes = done.out.splitlines()
    assert re.fullmatch(
        rf"{title} of clip on tints: {NUMBER} of 18 pictures, learnt from 36, 3 classes; "
        r"always the most frequent class: 33\.3%",
        first,
    ), first
    assert re.match(rf"  balanced accuracy {NUMBER}, macro-F1 {NUMBER}", second)
    assert ("calibration error" in second) == (title in ("linear probe", "logistic regression"))
    told = {
        "linear probe": "settings on",
        "logistic regression": "C = ",
        "nearest neighbours": "20 neighbours",
    }
    assert told.get(title, "chosen on the test set") in " ".join(notes)
    if "as-published" not in more:  # whose rate stays low
        assert float(first.split(": ")[1].split("%")[0]) > 60, "tints are seen even by random weights"


def test_two_encoders_are_compared_on_each_picture(place):
    done = run(place, "probe", "--beside", str(place / "dinov2"))
    assert done.code == 0, done.err
    *_, steps, verdict = done.out.splitlines()
    assert re.match(r"clip minus dinov2 on tints: accuracy [−+]?\d+\.\d \[", steps), steps
    assert "McNemar p" in verdict and "equivalence within 3 points p" in verdict
    same = run(place, "probe", "--beside", str(place / "clip"), "--margin", "0.2").out.splitlines()
    assert same[-1].strip().startswith("accuracy is the same within 20 points (McNemar p 1.000")


def test_few_pictures_a_class(place):
    done = run(place, "probe", "--shots", "1,2,4")
    assert done.code == 0, done.err
    head, *rows = done.out.splitlines()
    assert head == "few-shot of clip on tints: nearest class mean, 3 classes"
    assert [row.split(" a class")[0].strip() for row in rows] == ["1", "2", "4"]
    assert "has 12 training pictures but 16 a class" in run(place, "probe", "--shots", "16").refused()
    assert "--shots 0" in run(place, "probe", "--shots", "0").refused()


def test_a_text_tower_names_classes(place):
    done = run(place, "zeroshot", "--template", "a {}", "--template", "seven", encoder="reader")
    assert done.code == 0, done.err
    assert re.match(rf"zero-shot of reader on tints: {NUMBER} of 18 pictures, 3 classes", done.out)
    (place / "names.txt").write_text("azure\nemerald\n")
    refused = run(place, "zeroshot", "--names", str(place / "names.txt"), encoder="reader").refused()
    assert "has 2 names for 3 classes" in refused
    assert "one {}" in run(place, "zeroshot", "--template", "a photo", encoder="reader").refused()
    assert "holds no text tower" in run(place, "zeroshot", encoder="dinov2").refused()


def test_captions_find_their_pictures_and_back(place):
    files = sorted(path.relative_to(place / "tints") for path in (place / "tints").rglob("*.png"))
    told = [[file, f"{file.parent.name} {word}"] for file in files for word in ("tint", "photo")]
    write_table(place / "tints", "captions.csv", ["file", "caption"], told)
    done = run(place, "retrieve", encoder="reader", dataset="tints/captions.csv")
    assert done.code == 0, done.err
    assert done.out.startswith("retrieval by reader: 54 pictures, 108 captions\n  image to text: Recall@1 ")
    assert "text to image: Recall@1" in done.out and "Recall@10" in done.out
    (place / "tints" / "captions.csv").unlink()


def test_what_was_seen_is_kept_and_an_interrupted_look_goes_on(place, tmp_path):
    from paribus.study.labelled import DatasetConfig, Look, labelled_of
    from paribus.study.seeing import found_encoder
    from paribus.types import Runtime

    runtime = Runtime(cache=tmp_path, workers=1)
    dataset = labelled_of(DatasetConfig(at=str(place / "tints")))
    look = Look(encoder=found_encoder(str(place / "clip"), place), dataset=dataset, precision="fp32")
    dataset.run(runtime)
    look.run(runtime)
    before = (look.folder(runtime) / "test.safetensors").read_bytes()
    rows = pq.read_table(look.folder(runtime) / "test.parquet")
    assert len(set(rows["pixels"].to_pylist())) == 18
    shutil.rmtree(look.folder(runtime))
    look.run(runtime)
    assert (look.folder(runtime) / "test.safetensors").read_bytes() == before
    seen = look.open("train", runtime)
    assert set(seen.readings) == {"class token", "mean patch", "both", "layer before the last"}


def test_a_test_picture_that_is_also_learnt_from_is_caught(place, tmp_path):
    shutil.copytree(place / "tints", tmp_path / "tints")
    leaked = next((tmp_path / "tints/test/red").iterdir())
    # Another name, another format: the pixels are the same.
    Image.open(leaked).save(tmp_path / "tints/train/green/other.bmp")
    line = ("probe", place / "clip", tmp_path / "tints", "--cache", tmp_path / "cache")
    refused = paribus(tmp_path, *line).refused()
    assert "1 of 18 test pictures are also in train" in refused and leaked.name in refused


def _spoil(folder, how):
    if how == "one class":
        for name in ("blue", "green"):
            for part in ("train", "test"):
                shutil.rmtree(folder / part / name)
    elif how == "absent from train":
        shutil.rmtree(folder / "train/red")
    elif how == "torn":
        torn = folder / "train/red/red00.png"
        torn.write_bytes(torn.read_bytes()[:60])
    elif how == "constant":
        for path in folder.rglob("*.png"):
            Image.new("RGB", (8, 8), "grey").save(path)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("one class", "has one class only"),
        ("absent from train", "'red' is in test and absent from train"),
        ("torn", "red00.png cannot be decoded"),
        ("constant", "sees the same in all"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(place, tmp_path, how, told):
    shutil.copytree(place / "tints", tmp_path / "tints")
    _spoil(tmp_path / "tints", how)
    line = ("probe", place / "clip", tmp_path / "tints", "--cache", tmp_path / "cache")
    assert told in paribus(tmp_path, *line).refused()


def test_tables_say_what_is_wrong_with_them(place, tmp_path):
    files = sorted(path.relative_to(place / "tints") for path in (place / "tints/train").rglob("*.png"))
    rows = [[file, file.parent.name] for file in files]
    for name, made, told in (
        ("labels missing", [*rows[:-2], [rows[-2][0], ""], rows[-1]], "no label for 1 of the pictures"),
        ("absent", [*rows, ["train/none.png", "red"]], "none.png"),
    ):
        write_table(tmp_path, f"{name}.csv", ["file", "label"], made)
        line = ("probe", place / "clip", tmp_path / f"{name}.csv", "--images", place / "tints")
        assert told in paribus(tmp_path, *line, "--cache", tmp_path / "cache").refused()
    for name, told in (("none:here", "Unknown kind of data set 'none'"), ("nowhere", "no file or folder")):
        line = ("knn", place / "clip", name, "--cache", tmp_path / "cache")
        assert told in paribus(tmp_path, *line).refused()
    assert (
        "no column"
        in paribus(
            tmp_path,
            "knn",
            place / "clip",
            tmp_path / "absent.csv",
            "--label",
            "x",
            "--cache",
            tmp_path / "c",
        ).refused()
    )


def test_what_is_only_tested_on_must_shift_something(place, tmp_path):
    np.save(tmp_path / "cifar10.1_v6_data.npy", np.zeros((2000, 32, 32, 3), np.uint8))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(2000, dtype=np.int32) % 10)
    line = ("--cache", place / "cache")
    noise = np.random.default_rng(0).integers(0, 255, (2000, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", noise)
    alone = paribus(tmp_path, "knn", place / "clip", tmp_path, *line).refused()
    assert "is only tested on: give the dataset that it shifts" in alone
    other = run(place, "knn", "--shift", str(tmp_path)).refused()
    assert "it is no shift of it" in other


def test_arms_and_the_untrained_are_named_by_file_and_arm(finished, place):
    for arm in ("clip", "untrained", "colour-histogram"):
        name = f"{finished / 'tiny.yaml'}:{arm}"
        done = paribus(finished, "knn", name, place / "tints", "--cache", finished / "cache")
        assert done.code == 0, done.err
        assert done.out.startswith(f"nearest neighbours of {arm} on tints: ")
    refused = paribus(finished, "knn", f"{finished / 'tiny.yaml'}:no", place / "tints").refused()
    assert "has no arm 'no'; there are clip, dino, untrained" in refused


def test_shifted_sets_of_one_name_keep_apart(place, tmp_path):
    for seed, number in ((1, "one"), (2, "two")):
        write_classes(tmp_path / number / "tints", train=3, test=5 + seed)
    line = ("--cache", tmp_path / "cache", "--shift", tmp_path / "two" / "tints")
    beside = ("--beside", place / "dinov2")
    done = paribus(tmp_path, "knn", place / "clip", tmp_path / "one/tints", *line, *beside)
    if done.code:  # the same pieces may be in both, which is refused
        assert "are also learnt from" in done.err
        return
    steps = [row for row in done.out.splitlines() if row.startswith("clip minus dinov2 on")]
    assert [row.split(":")[0].split(" on ")[1] for row in steps] == ["tints", "tints (2)"]
    assert "of 18 pictures" in done.out and "of 21 pictures" in done.out


def test_a_set_is_no_shift_of_itself_or_of_other_classes(place, tmp_path):
    itself = run(place, "knn", "--shift", str(place / "tints"))
    assert "is the dataset itself" in itself.refused()
    published = run(place, "probe", "--how", "as-published", "--shift", str(place / "tints" / "test"))
    assert "leave --shift out" in published.refused()


def test_a_shift_that_was_learnt_from_is_refused(place, tmp_path):
    shutil.copytree(place / "tints/train", tmp_path / "leak/train")
    shutil.copytree(place / "tints/train", tmp_path / "leak/test")
    for path in (tmp_path / "leak/train").rglob("*.png"):
        photograph(Image.open(path), (0, 0, 0), 7).save(path)
    assert "are also learnt from" in run(place, "knn", "--shift", str(tmp_path / "leak")).refused()


def test_options_that_do_not_go_together_are_refused(place):
    assert "--shots goes with none of" in run(place, "probe", "--shots", "1", "--beside", "x").refused()
    for template in ("{ {}", "a {x} {}"):
        done = run(place, "zeroshot", "--template", template, encoder="reader")
        assert done.code == 0, done.err
