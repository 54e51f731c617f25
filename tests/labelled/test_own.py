"""Pictures of one's own: folders, tables and Hugging Face's files, and what a path is taken for."""

import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelled import (
    NAMES,
    assert_shown,
    cifar101,
    draw,
    encoded,
    folder,
    hf_parquet,
    hf_rows,
    hf_saved,
    hf_table,
    labelled,
)
from paribus.datasets import READERS, Settings, dataset_files, open_dataset
from paribus.errors import UserError

SPLIT = {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2}


def refusal(spec, settings=Settings()):  # noqa: B008
    """The sentence that a data set is refused with."""
    with pytest.raises(UserError) as caught:
        open_dataset(str(spec), settings)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said
    return said


# What a path is taken for.


def test_an_unknown_kind_or_path_lists_what_there_is(tmp_path):
    told = refusal(f"imagnet:{tmp_path}")
    assert "Unknown kind of data set 'imagnet'" in told and all(kind in told for kind in READERS)
    assert "There is no file or folder" in refusal(tmp_path / "nowhere")
    assert "names no folder: write cub:PATH" in refusal("cub:")
    (tmp_path / "notes.txt").write_text("no table")
    assert "neither a folder nor a table" in refusal(tmp_path / "notes.txt")


def test_a_path_with_a_colon_is_a_path(tmp_path):
    assert open_dataset(str(folder(tmp_path / "a:b", SPLIT))).name == "a:b"


def test_columns_are_named_only_where_there_are_some(tmp_path):
    told = refusal(f"folder:{folder(tmp_path / 'set', SPLIT)}", Settings(label="kind"))
    assert "folder has no columns to name (label)" in told


def test_every_reader_says_what_it_is():
    assert all(reader.about and "\n" not in reader.about for reader in READERS.values())


# Folders.


def test_folders_are_read_as_torchvision_does(tmp_path):
    import peers  # noqa: F401
    from torchvision.datasets import ImageFolder

    root = folder(tmp_path / "set", {**SPLIT, "train/cat/deeper": 0, "train/.hidden": 1})
    draw(root / "train" / "dog" / "deeper" / "z.png", "dog")
    dataset = open_dataset(str(root))
    assert_shown(dataset)
    assert dataset.name == "set" and dataset.official and dataset.notes == ()
    shutil.rmtree(root / "train" / ".hidden")
    for split, part in dataset.parts.items():
        peer = ImageFolder(str(root / split))
        assert dataset.classes == tuple(peer.classes)
        assert [str(root / key) for key in part.keys] == [path for path, _ in peer.samples]
        assert part.labels.tolist() == peer.targets


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_what_is_validated_on_is_tested_on_where_there_is_nothing_else(word, tmp_path):
    root = folder(tmp_path / "set", {"train/a": 1, "train/b": 1, f"{word}/a": 1, f"{word}/b": 1})
    assert set(open_dataset(str(root)).parts) == {"train", "test"}
    folder(root, {"test/a": 1, "test/b": 2})
    assert {name: len(part) for name, part in open_dataset(str(root)).parts.items()} == {
        "train": 2,
        "val": 2,
        "test": 3,
    }


def test_a_split_that_is_made_tests_a_quarter_and_moves_no_picture(tmp_path):
    root = folder(tmp_path / "set", {"cat": 200, "dog": 100, "train": 40})
    dataset = open_dataset(str(root))
    assert_shown(dataset)
    assert not dataset.official and "25%" in dataset.notes[0] and dataset.classes == ("cat", "dog", "train")
    shares = [np.mean(np.array(dataset.parts["test"].labels) == label) for label in range(3)]
    counts = [int((dataset.parts["test"].labels == label).sum()) for label in range(3)]
    assert sum(shares) == pytest.approx(1)
    for count, whole in zip(counts, (200, 100, 40), strict=True):
        assert abs(count - whole / 4) < 3 * np.sqrt(whole * 3 / 16)
    before = {name: set(part.keys) for name, part in dataset.parts.items()}
    for number in range(200, 240):
        draw(root / "cat" / f"{number}.png", "cat")
    after = {name: set(part.keys) for name, part in open_dataset(str(root)).parts.items()}
    assert all(before[name] <= after[name] for name in before)
    other = open_dataset(str(root), Settings(seed=1)).parts["test"]
    assert set(other.keys) != after["test"]


def test_a_small_class_is_tested_and_trained_on(tmp_path):
    root = folder(tmp_path / "set", {f"class {number}": 2 for number in range(12)} | {"single": 1})
    dataset = open_dataset(str(root))
    tested = set(labelled(dataset, "test").values())
    assert tested == set(dataset.classes) - {"single"}
    assert set(labelled(dataset, "train").values()) == set(dataset.classes)
    assert dataset.notes[1] == "1 of 13 classes have no picture to test on (first: 'single')."


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ({"train/cat": 1, "test/cat": 1}, "has one class only ('cat')"),
        ({"cat": 9}, "has one class only ('cat')"),
        ({"train/a": 1, "train/b": 1, "test/c": 1}, "The class 'c' is in test and absent from train"),
        ({"train/a": 1, "train/b": 1}, "has no pictures to test on: call some of them test"),
        ({"test/a": 1, "test/b": 1}, "has no pictures to learn from: call some of them train"),
        ({".": 2}, "has no pictures in folders of their classes"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(layout, told, tmp_path):
    assert told in refusal(folder(tmp_path / "set", layout))


def test_a_name_need_not_be_ascii_or_unicode(tmp_path):
    root = folder(tmp_path / "set", SPLIT)
    draw(root / "test" / "cat" / "ß.png", "cat")
    (root / "test" / "cat" / "0.png").rename(root / "test" / "cat" / os.fsdecode(b"caf\xe9.png"))
    dataset = open_dataset(str(root))
    assert "test/cat/caf\\xe9.png" in dataset.parts["test"].keys
    assert_shown(dataset)


def test_a_part_travels_to_other_processes(tmp_path):
    for spec in (folder(tmp_path / "set", SPLIT), hf_parquet(tmp_path / "hf"), cifar101(tmp_path / "npy")):
        part = open_dataset(str(spec), Settings(check=False)).parts["test"]
        assert np.array_equal(pickle.loads(pickle.dumps(part)).read(1), part.read(1))


# Tables.


def table(root, rows, suffix=".csv"):
    """Pictures and a table of them; rows are (file, label, ...)."""
    for row in rows:
        draw(root / row["file"], row["label"] or "nothing")
    path = root / f"labels{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix in (".jsonl", ".json"):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]")
    else:
        comma = "\t" if suffix == ".tsv" else ","
        path.write_text(
            "\n".join(comma.join(map(str, row)) for row in (rows[0], *(r.values() for r in rows)))
        )
    return path


def told_rows(split=True):
    rows = [{"file": f"p/{n}.png", "label": NAMES[n % 2]} for n in range(8)]
    words = ("Test", "Test", "train", "train")
    return [row | {"split": words[n % 4]} for n, row in enumerate(rows)] if split else rows


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_a_table_says_labels_and_split(suffix, tmp_path):
    path = table(tmp_path / "set", told_rows(), suffix)
    for given, name in ((path, "labels"), (path.parent, "set"), (f"table:{path}", "labels")):
        dataset = open_dataset(str(given))
        assert_shown(dataset)
        assert (dataset.name, dataset.official, dataset.classes) == (name, True, ("ant", "zebra"))
        assert labelled(dataset, "test") == {f"p/{n}.png": NAMES[n % 2] for n in (0, 1, 4, 5)}
        assert dataset_files(str(given))[0] == path and len(dataset_files(str(given))) == 9


def test_a_table_without_a_split_gets_one_and_paths_may_be_of_another_folder(tmp_path):
    path = table(tmp_path / "set", told_rows(split=False))
    moved = shutil.move(path, tmp_path / "elsewhere.csv")
    assert "names 8 of 8 pictures that are not in" in refusal(moved)
    dataset = open_dataset(str(moved), Settings(images=tmp_path / "set"))
    assert_shown(dataset)
    assert not dataset.official and dataset.root == tmp_path / "set"


def test_columns_may_have_other_names_and_labels_may_be_numbers(tmp_path):
    rows = [{"file": f"{n}.png", "label": str(n % 12)} for n in range(48)]
    path = table(tmp_path / "set", rows)
    path.write_text(path.read_text().replace("file,label", "picture,species"))
    assert "row 1: it has no column of pictures (file or path" in refusal(path)
    assert "no column of labels (kind), only picture, species" in refusal(
        path, Settings(file="picture", label="kind")
    )
    dataset = open_dataset(str(path), Settings(file="picture", label="species"))
    assert_shown(dataset)
    assert dataset.classes == tuple(map(str, range(12)))


def edit(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            edit("p/3.png,ant", "p/3.png, "),
            "no label for 1 of the pictures (first: p/3.png)",
        ),
        (lambda path: (path.parent / "p" / "5.png").unlink(), "names 1 of 8 pictures that are not in"),
        (edit("p/3.png", "./p/2.png"), "row 4, column 'file': 'p/2.png' stands there twice"),
        (edit("ant", "zebra"), "has one class only ('zebra')"),
        (
            edit("p/2.png,zebra,train", "p/2.png,zebra,holdout"),
            "row 3, column 'split': 'holdout' is none of",
        ),
        (edit("p/2.png,zebra,train", "p/2.png,zebra,"), "row 3, column 'split': it is empty"),
        (edit("train", "test"), "has no pictures to learn from"),
        (edit("p/0.png,zebra", "p/0.png,gnu"), "The class 'gnu' is in test and absent from train"),
        (edit("p/2.png,zebra,train", "p/2.png,zebra,train,more"), "more cells than the header"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(spoil, told, tmp_path):
    path = table(tmp_path / "set", told_rows())
    spoil(path)
    assert told in refusal(path)


def test_a_split_that_is_said_of_some_only_is_told(tmp_path):
    rows = told_rows()
    del rows[5]["split"]
    assert "no split for 1 of the pictures (first: p/5.png)" in refusal(
        table(tmp_path / "set", rows, ".jsonl")
    )


def test_a_table_beside_folders_of_classes_says_nothing(tmp_path):
    root = folder(tmp_path / "set", SPLIT)
    (root / "labels.csv").write_text("number,name\n0,cat\n1,dog\n")
    assert open_dataset(str(root)).classes == ("cat", "dog")


def test_a_folder_of_several_tables_is_told(tmp_path):
    path = table(tmp_path / "set", told_rows())
    shutil.copy(path, path.with_name("more.csv"))
    assert "has not one table but labels.csv, more.csv" in refusal(f"table:{path.parent}")
    assert "There is no" in refusal(f"table:{tmp_path / 'nowhere.csv'}")


# Hugging Face's files.


@pytest.mark.parametrize("make", [hf_parquet, hf_saved])
def test_files_of_hugging_face_are_read(make, tmp_path):
    root = make(tmp_path / "set")
    dataset = open_dataset(str(root))
    assert_shown(dataset)
    assert dataset.classes == NAMES and dataset.official and dataset.name == "set"
    assert all(file.suffix in (".parquet", ".arrow") for file in dataset.files())


def test_rows_are_numbered_within_their_file(tmp_path):
    train = open_dataset(str(hf_parquet(tmp_path / "set"))).parts["train"]
    assert train.keys[4:7] == tuple(
        f"data/train-0000{file}-of-00002.parquet#{row}" for file, row in ((0, 4), (1, 0), (1, 1))
    )


def test_other_columns_and_classes_without_names(tmp_path):
    root = hf_parquet(tmp_path / "fine", label="fine_label", image="img")
    assert_shown(open_dataset(str(root)))
    bare = hf_parquet(tmp_path / "bare", names=None)
    assert open_dataset(str(bare)).classes == ("0", "1")
    assert "no column kind, only image, label" in refusal(bare, Settings(label="kind"))
    words = tmp_path / "words"
    words.mkdir()
    rows = [{"image": encoded(NAMES[n % 2], "PNG"), "species": NAMES[n % 2]} for n in range(4)]
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), words / f"{split}.parquet")
    named = open_dataset(str(words), Settings(label="species"))
    assert_shown(named)
    assert named.classes == ("ant", "zebra")


def test_splits_may_be_folders_and_others_are_left_out(tmp_path):
    root = tmp_path / "set"
    for split in ("train", "validation", "unlabelled"):
        (root / split).mkdir(parents=True)
        name = "0000.parquet" if split != "unlabelled" else "x.parquet"
        pq.write_table(hf_table(hf_rows(4)), root / split / name)
    shutil.move(root / "unlabelled" / "x.parquet", root / "unlabelled.parquet")
    dataset = open_dataset(str(root))
    assert set(dataset.parts) == {"train", "test"} and "The split 'unlabelled' was left out." in dataset.notes


def test_a_saved_set_without_splits_gets_one(tmp_path):
    dataset = open_dataset(str(hf_saved(tmp_path / "set", splits=())))
    assert_shown(dataset)
    assert not dataset.official and len(dataset.parts["test"]) + len(dataset.parts["train"]) == 6


def test_pictures_may_lie_beside_and_a_missing_one_is_named(tmp_path):
    root = tmp_path / "set"
    rows = [{"image": {"bytes": None, "path": f"{n}.png"}, "label": n % 2} for n in range(4)]
    for n in range(4):
        draw(root / f"{n}.png", NAMES[n % 2])
    for split in ("train", "test"):
        pq.write_table(hf_table(rows), root / f"{split}-00000-of-00001.parquet")
    dataset = open_dataset(str(root))
    assert_shown(dataset)
    (root / "2.png").unlink()
    with pytest.raises(UserError, match=r"The picture .*2\.png cannot be read"):
        dataset.parts["test"].read(2)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image": {"bytes": None, "path": None}, "label": 0}, r"#3 has no picture in the column 'image'"),
        ({"image": {"bytes": b"x", "path": None}, "label": 0}, r"#3 cannot be decoded"),
    ],
)
def test_a_row_without_a_picture_is_told_when_it_is_read(row, told, tmp_path):
    root = hf_parquet(tmp_path / "set")
    pq.write_table(hf_table([*hf_rows(3), row]), root / "data" / "test-00000-of-00001.parquet")
    test = open_dataset(str(root)).parts["test"]
    with pytest.raises(UserError, match=told):
        test.read(3)


def spoil_hf(root, fault):
    test = root / "data" / "test-00000-of-00001.parquet"
    if fault in ("unlabelled", "null"):
        rows = [*hf_rows(3), *hf_rows(2)]
        rows[3]["label"] = -1 if fault == "unlabelled" else None
        pq.write_table(hf_table(rows), test)
    elif fault == "too high":
        pq.write_table(hf_table([*hf_rows(3), {**hf_rows(1)[0], "label": 2}]), test)
    elif fault == "one class":
        for file in (root / "data").iterdir():
            pq.write_table(hf_table(hf_rows(1)), file)
    elif fault == "damaged":
        test.write_bytes(b"PAR1")
    elif fault == "no test":
        test.unlink()
    elif fault == "two sets":
        shutil.copytree(root / "data", root / "more")
    elif fault == "metadata":
        for file in (root / "data").iterdir():
            pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": "{}"}), file)
    elif fault == "odd names":
        for file in (root / "data").iterdir():
            file.rename(file.with_name(file.name.replace("train", "x").replace("test", "y")))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("unlabelled", "no label for 1 of the pictures (first: data/test-00000-of-00001.parquet#3)"),
        ("null", "no label for 1 of the pictures (first: data/test-00000-of-00001.parquet#3)"),
        ("too high", "has the label 2 and names 2 classes"),
        ("one class", "has one class only ('zebra')"),
        ("damaged", "is no parquet file, or a damaged one"),
        ("no test", "has no pictures to test on"),
        ("two sets", "has several data sets (data, more)"),
        ("metadata", "has damaged metadata of Hugging Face"),
        ("odd names", "has the splits x, y and no train or test"),
    ],
)
def test_what_is_wrong_with_parquet_is_told(fault, told, tmp_path):
    root = hf_parquet(tmp_path / "set")
    spoil_hf(root, fault)
    assert told in refusal(f"hf:{root}")


def test_what_is_wrong_with_a_saved_set_is_told(tmp_path):
    root = hf_saved(tmp_path / "set")
    (root / "test" / "data-00000-of-00001.arrow").write_bytes(b"ARROW")
    assert "is no arrow file, or a damaged one" in refusal(root)
    (root / "test" / "data-00000-of-00001.arrow").unlink()
    assert "There is no " in refusal(root) and "data-00000" in refusal(root)
    (root / "test" / "state.json").write_text("[")
    assert "state.json is not there or cannot be read as JSON" in refusal(root)
    (root / "dataset_dict.json").write_text("[]")
    assert "is no JSON object" in refusal(root)
    (tmp_path / "empty").mkdir()
    assert "neither parquet files nor what save_to_disk writes" in refusal(f"hf:{tmp_path / 'empty'}")
    assert "There is no folder" in refusal(f"hf:{tmp_path / 'nowhere'}")
