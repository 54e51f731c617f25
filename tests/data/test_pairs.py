"""Pairs that are not in tars: the same pictures and captions as from shards, and what is left out of them."""

import contextlib
import csv
import hashlib
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.test_shards import KINDS, VIEWS, contents, crop, members_of, saved, skipped, write_tar
from paribus.data import pairs as module
from paribus.data.decoding import decode_image
from paribus.data.listed import BLOCK, FolderConfig, HuggingFaceConfig, TableConfig, inside
from paribus.data.loader import Loader
from paribus.data.names import sort_names
from paribus.data.pairs import ROW, Pairs, build_pairs
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.data.source import source_class
from paribus.errors import UserError
from paribus.types import Sample, Source

NUMBERS = range(3 * len(KINDS))
"""The samples: three of every kind of picture."""
PIECE = saved(crop(0), "JPEG")
FEATURES = {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}


def lines():
    """Name, picture's file and caption of each sample."""
    for number in NUMBERS:
        (name, blob), (_, caption), _ = members_of(number)
        yield name, blob, caption.decode()


def built(config, out, workers=2):
    meta = build_pairs(config, out, workers)
    return meta, Pairs(out, *config.places())


# The forms, each with the same samples.


def as_folder(root):
    for name, blob, caption in lines():
        (root / "all").mkdir(exist_ok=True, parents=True)
        (root / "all" / name).write_bytes(blob)
        (root / "all" / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return FolderConfig(root=str(root))


def as_table(root, suffix, columns=("filepath", "title")):
    """Pictures without suffixes, so that paths are the keys of the tar's samples."""
    (root / "pictures" / "all").mkdir(parents=True)
    rows = []
    for name, blob, caption in lines():
        path = f"all/{name.partition('.')[0]}"
        (root / "pictures" / path).write_bytes(blob)
        rows.append(dict(zip(columns, (path, caption), strict=True)))
    write_table(root / f"pairs{suffix}", rows)
    return TableConfig(file=str(root / f"pairs{suffix}"), root=str(root / "pictures"))


def write_table(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    with path.open("w", encoding="utf-8", newline="") as handle:
        if path.suffix == ".jsonl":
            handle.writelines(json.dumps(row) + "\n" for row in rows)
            return
        delimiter = "\t" if path.suffix == ".tsv" else ","
        table = csv.DictWriter(handle, rows[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


def hf_table(rows):
    """(picture's bytes, its path, caption) as ``datasets`` types them."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = [None if blob is path is None else {"bytes": blob, "path": path} for blob, path, _ in rows]
    arrays = [pa.array(cells, image), pa.array([caption for *_, caption in rows], pa.string())]
    told = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.table(arrays, names=["image", "caption"]).replace_schema_metadata(told)


def rows_of():
    return [(blob, name, caption) for name, blob, caption in lines()]


def write_arrow(path, table, batch=4, options=None):
    """A stream in batches, as ArrowWriter of ``datasets`` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=batch)


def as_arrow(root):
    """As ``DatasetDict.save_to_disk``: a folder a split, two files in train."""
    rows = rows_of()
    for split, some in (("train", (rows[:20], rows[20:])), ("test", (rows[:1],))):
        names = [f"data-{n:05d}-of-{len(some):05d}.arrow" for n in range(len(some))]
        for name, part in zip(names, some, strict=True):
            write_arrow(root / split / name, hf_table(part))
        told = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (root / split / "state.json").write_text(json.dumps(told))
        (root / split / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return HuggingFaceConfig(path=str(root))


def as_parquet(root):
    """As on the hub: two files of a split, in row groups, beside another split."""
    rows = rows_of()
    (root / "data").mkdir(parents=True)
    for number, part in enumerate((rows[:20], rows[20:])):
        pq.write_table(
            hf_table(part), root / "data" / f"train-{number:05d}-of-00002.parquet", row_group_size=9
        )
    pq.write_table(hf_table(rows[:1]), root / "data" / "validation-00000-of-00001.parquet")
    return HuggingFaceConfig(path=str(root))


FORMS = {
    "folder": as_folder,
    "csv": lambda root: as_table(root, ".csv"),
    "tsv": lambda root: as_table(root, ".tsv"),
    "jsonl": lambda root: as_table(root, ".jsonl", ("image", "text")),
    "parquet of paths": lambda root: as_table(root, ".parquet", ("image", "caption")),
    "arrow": as_arrow,
    "parquet": as_parquet,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same samples in one tar, ``all.tar``."""
    place = tmp_path_factory.mktemp("shards")
    write_tar(place / "tars" / "all.tar", [member for n in NUMBERS for member in members_of(n)])
    build_index(ShardsConfig(root=str(place / "tars")), place / "index", 1)
    return Shards(place / "index", place / "tars")


class Renamed:
    """A source under the keys of another."""

    def __init__(self, source, keys):
        self.source, self.keys = source, keys

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        sample = self.source[index]
        return Sample(self.keys[index], sample.image, sample.text)

    @property
    def digest(self):
        return self.source.digest


# What comes out.


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_shards_give(form, shards, tmp_path):
    meta, source = built(FORMS[form](tmp_path / "place"), tmp_path / "index")
    assert isinstance(source, Source)
    assert (len(source), meta.left_out, meta.mended) == (len(shards), {}, {})
    for place in range(len(shards)):
        one, other = source[place], shards[place]
        assert np.array_equal(one.image, other.image)
        assert one.text == other.text == source.caption(place)
    keys = [shards[place].key for place in range(len(shards))]
    if form in ("arrow", "parquet"):
        ours = [source[place].key for place in (0, 19, 20)]
        named = {"arrow": "train/data-0000{}-of-00002.arrow", "parquet": "data/train-0000{}-of-00002.parquet"}
        assert ours == [f"{named[form].format(file)}#{row}" for file, row in ((0, 0), (0, 19), (1, 0))]
        source = Renamed(source, keys)
    assert [source[place].key for place in range(len(source))] == keys
    ours, theirs = (
        list(Loader(each, VIEWS, image_size=16, batch=8, seed=3, workers=2)(0, 6))
        for each in (source, shards)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.ids, b.ids) and list(a.texts) == list(b.texts)
        assert all(torch.equal(a.views[name], b.views[name]) for name in b.views)


def test_a_tar_that_was_unpacked_has_the_same_digest(shards, tmp_path):
    config = as_folder(tmp_path)
    meta, source = built(config.model_copy(update={"root": f"{tmp_path}/all"}), tmp_path / "index")
    assert meta.digest == source.digest == shards.digest


@pytest.mark.parametrize("form", FORMS)
def test_digests_are_those_of_their_definitions(form, tmp_path):
    _, source = built(FORMS[form](tmp_path / "place"), tmp_path / "index")
    whole, pictures = hashlib.sha256(), hashlib.sha256()
    for place, (_, blob, caption) in enumerate(lines()):
        key = source[place].key.encode()
        parts = (key, blob, caption.encode())
        lengths = struct.pack("<QQQ", *map(len, parts))
        whole.update(hashlib.sha256(lengths + b"".join(parts)).digest())
        told = struct.pack("<Q", len(key)) + key + hashlib.sha256(blob).digest()
        pictures.update(hashlib.sha256(told).digest())
    assert (source.digest, source.pictures) == (whole.hexdigest(), pictures.hexdigest())


def test_other_captions_leave_the_digest_of_the_pictures(tmp_path):
    config = as_table(tmp_path, ".csv")
    one, _ = built(config, tmp_path / "one")
    file = tmp_path / "pairs.csv"
    file.write_text(file.read_text("utf-8").replace("a temple roof", "a roof"), "utf-8")
    other, _ = built(config, tmp_path / "two")
    assert one.digest != other.digest and one.pictures == other.pictures


# The index.


@pytest.mark.parametrize("form", ["folder", "csv", "arrow", "parquet"])
def test_any_number_of_workers_writes_the_same_index(form, tmp_path):
    config = FORMS[form](tmp_path / "place")
    found = []
    for workers in (1, 5):
        build_pairs(config, tmp_path / str(workers), workers)
        files = sorted(path for path in (tmp_path / str(workers)).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / str(workers))): path.read_bytes() for path in files})
    assert found[0] == found[1]
    copied = {f".pictures/0000{n}.bin" for n in range(2)} if form == "parquet" else set()
    assert set(found[0]) == {"meta.json", "skipped.jsonl", "table.npy", "words.bin"} | copied


def test_the_index_takes_twenty_four_bytes_a_sample_besides_its_words(tmp_path):
    _, source = built(as_table(tmp_path, ".csv"), tmp_path / "index")
    assert ROW.itemsize == 24 and isinstance(source._table, np.memmap)
    said = sum(12 + 2 * len(source[i].key.encode()) + len(source[i].text.encode()) for i in NUMBERS)
    assert (tmp_path / "index" / "words.bin").stat().st_size == said
    assert len(pickle.dumps(source)) < 1000


BUILD = """
import itertools, sys
from pathlib import Path
from paribus.data import listed, pairs
really, calls = pairs.take, itertools.count(1)

def take(*sample):
    if next(calls) == 30:
        print("in the middle", flush=True)
        sys.stdin.read()
    return really(*sample)

pairs.take, listed.BLOCK = take, 8
config = getattr(listed, sys.argv[1]).model_validate_json(sys.argv[2])
pairs.build_pairs(config, Path(sys.argv[3]), 1)
"""


KILLED = {"folder": [8, 8, 8], "csv": [8, 8, 8], "arrow": [8, 8, 4, 8], "parquet": [9, 9, 2, 9]}
"""Samples of each block that is done before the thirtieth sample: Arrow in batches, parquet in row groups."""


@pytest.mark.parametrize("form", KILLED)
def test_a_killed_build_goes_on_and_equals_an_uninterrupted_one(form, tmp_path, monkeypatch):
    monkeypatch.setattr("paribus.data.listed.BLOCK", 8)
    config, out = FORMS[form](tmp_path / "place"), tmp_path / "index"
    line = [sys.executable, "-c", BUILD, type(config).__name__, config.model_dump_json(), str(out)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "in the middle\n"
        run.send_signal(signal.SIGKILL)
    assert len(list(out.glob(".parts/*.npz"))) == len(KILLED[form])
    with pytest.raises(UserError, match=r"There is no .*meta\.json"):
        Pairs(out, *config.places())
    looked, really = [], module.take
    monkeypatch.setattr(module, "take", lambda *sample: looked.append(sample[0]) or really(*sample))
    build_pairs(config, out, 1)
    assert len(looked) == len(NUMBERS) - sum(KILLED[form])
    build_pairs(config, tmp_path / "other", 1)
    assert _without_folders(out) == _without_folders(tmp_path / "other")


@pytest.mark.parametrize("cut", [0, 1, 10_000])
def test_copies_that_were_lost_are_made_again(cut, tmp_path, monkeypatch):
    monkeypatch.setattr("paribus.data.listed.BLOCK", 8)
    config, out = as_parquet(tmp_path / "place"), tmp_path / "index"
    build_pairs(config, tmp_path / "other", 1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="as it was joined"):
        patch.setattr(module, "_join", fail)
        build_pairs(config, out, 1)
    copies = out / ".pictures" / "00000.bin"
    os.truncate(copies, copies.stat().st_size - cut)
    (out / ".pictures" / "00001.bin").write_bytes(
        (tmp_path / "other/.pictures/00001.bin").read_bytes() + b"more"
    )
    looked, really = [], module.take
    monkeypatch.setattr(module, "take", lambda *sample: looked.append(sample[0]) or really(*sample))
    build_pairs(config, out, 1)
    name = "data/train-00000-of-00002.parquet"
    assert looked == [f"{name}#{row}" for row in range({0: 20, 1: 18, 10_000: 9}[cut], 20)]
    assert _without_folders(out) == _without_folders(tmp_path / "other")


def fail(*_):
    raise OSError("as it was joined")


def test_what_a_folder_lists_is_packed(tmp_path):
    names = [f"{hashlib.md5(bytes([n % 256, n // 256])).hexdigest()}" for n in range(5_000)]
    for name in names:
        (tmp_path / f"{name}.jpg").touch()
        (tmp_path / f"{name}.txt").touch()
    config = FolderConfig(root=str(tmp_path))
    tracemalloc.start()
    try:
        listing = config.listing()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listing.total == len(names) and peak / len(names) < 200  # a list of the names alone is over 250
    assert [entry.key for block in listing.blocks() for entry in block.entries()] == sorted(names)


def test_names_are_sorted_as_texts_are():
    raw = [
        b"",
        b"a",
        b"a-",
        b"a.",
        b"caf\xe9",
        "café".encode(),
        b"\xff",
        "\uffee".encode(),
        "😀".encode(),
        b"b" * 255,
    ]
    names = [os.fsdecode(name) for name in raw] * 2 + [f"{n}" for n in range(10_000)]
    packed = sort_names(iter(names))
    assert list(packed()) == list(packed()) == sorted(names)
    assert list(sort_names([])()) == []


def _without_folders(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["folder", "csv", "arrow", "parquet"])
def test_a_finished_index_is_not_built_again_but_a_stale_one_is(form, tmp_path, monkeypatch):
    config = FORMS[form](tmp_path / "place")
    before = build_pairs(config, tmp_path / "index", 1)
    looked, really = [], module.take
    monkeypatch.setattr(module, "take", lambda *sample: looked.append(sample[0]) or really(*sample))
    assert build_pairs(config, tmp_path / "index", 1) == before and looked == []
    shorter = build_pairs(config.model_copy(update={"max_caption": 3}), tmp_path / "index", 1)
    assert len(looked) == len(NUMBERS) and shorter.mended == {"cut": len(NUMBERS)}


def test_threads_read_the_same_with_few_open_files(tmp_path):
    config = as_arrow(tmp_path / "place")
    _, wide = built(config, tmp_path / "index")
    narrow = Pairs(tmp_path / "index", *config.places(), open_files=1)
    places = np.random.default_rng(0).integers(0, len(wide), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        for place, sample in zip(places, pool.map(narrow.__getitem__, places), strict=True):
            assert sample.key == wide[place].key and np.array_equal(sample.image, wide[place].image)
    again = pickle.loads(pickle.dumps(narrow))
    assert (again.digest, again[3].key) == (wide.digest, wide[3].key)
    assert type(source_class("table")(tmp_path / "index", *config.places())) is Pairs


def test_many_blocks_are_joined_in_order(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PIECE)
    rows = [{"filepath": "a.jpg", "title": f"caption {n}"} for n in range(2 * BLOCK + 5)]
    write_table(tmp_path / "pairs.csv", rows)
    config = TableConfig(file=str(tmp_path / "pairs.csv"), check=False)
    _, source = built(config, tmp_path / "index", 4)
    assert [source.caption(place) for place in range(len(source))] == [row["title"] for row in rows]
    assert (source[0].key, source[1].key, source[2 * BLOCK].key) == (
        "a.jpg",
        "a.jpg#2",
        f"a.jpg#{2 * BLOCK + 1}",
    )


# What is left out.


def reasons(index):
    return [(line.get("row"), line["key"], line["reason"]) for line in skipped(index)]


def _bad_pictures(root):
    root.mkdir(parents=True, exist_ok=True)
    for name in ("good", "blank", "unsaid", "latin", "long"):
        (root / f"{name}.jpg").write_bytes(PIECE)
    (root / "torn.jpg").write_bytes(PIECE[: len(PIECE) // 2])
    (root / "none.jpg").write_bytes(b"")
    (root / "page.jpg").write_bytes(b"<html>404</html>")
    (root / "bomb.png").write_bytes(_bomb())


def _bomb():
    """Thirty thousand pixels square, told by the header alone."""
    whole = bytearray(saved(crop(1), "PNG"))
    whole[16:24] = struct.pack(">II", 30_000, 30_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


FAULTS = {
    "image over 67,108,864 pixels": 1,
    "undecodable image": 3,
    "empty caption": 1,
}


def test_faults_of_a_folder_are_counted_and_named(tmp_path):
    root = tmp_path / "place"
    _bad_pictures(root)
    captions = dict.fromkeys(("good", "torn", "none", "page", "bomb", "long"), b"something")
    captions |= {"blank": b" \x00\n", "latin": b"caf\xe9", "unseen": b"no picture", "long": b"x" * 10**6}
    for name, said in captions.items():
        (root / f"{name}.txt").write_bytes(said)
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "gone.txt").write_text("a link to nothing")
    (root / "good.JPG").write_bytes(PIECE)
    (root / ".hidden.jpg").write_bytes(PIECE)
    (root / "README").write_text("about")
    (root / "notes.md").write_text("about")
    os.mkfifo(root / "pipe.jpg")
    (root / "pipe.txt").write_text("it would wait for ever")
    meta, source = built(FolderConfig(root=str(root)), tmp_path / "index")
    assert meta.left_out == FAULTS | {
        "missing image": 2,
        "no caption": 1,
        "no image": 1,
        "repeated member": 1,
    }
    assert [source[i].key for i in range(len(source))] == ["good", "latin", "long"]
    assert (source[1].text, len(source[2].text)) == ("caf\ufffd", 2000)
    assert meta.mended == {"not UTF-8": 1, "cut": 1}
    assert ("unsaid", "no caption") in [(key, why) for _, key, why in reasons(tmp_path / "index")]


def test_links_between_folders_are_followed_once(tmp_path):
    (tmp_path / "place" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("place/a", "elsewhere"):
        (tmp_path / folder / "x.jpg").write_bytes(PIECE)
        (tmp_path / folder / "x.txt").write_text("x")
    (tmp_path / "place" / "a" / "round").symlink_to(tmp_path / "place")
    (tmp_path / "place" / "b").symlink_to(tmp_path / "elsewhere")
    _, source = built(FolderConfig(root=str(tmp_path / "place")), tmp_path / "index")
    assert [source[i].key for i in range(len(source))] == ["a/x", "b/x"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_faults_of_a_table_are_counted_and_named(suffix, tmp_path):
    root = tmp_path / "place"
    _bad_pictures(root)
    (tmp_path / "beside.jpg").write_bytes(PIECE)
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    names = ["good.jpg", "blank.jpg", "torn.jpg", "none.jpg", "page.jpg", "bomb.png", "gone.jpg"]
    names += [
        "../beside.jpg",
        "good.jpg/x",
        "",
        "good.jpg",
        "./good.jpg",
        "folder.jpg",
        "pipe.jpg",
        "n" * 5000,
    ]
    rows = [{"filepath": name, "title": "something"} for name in names]
    rows[1]["title"], rows[11]["title"] = " \t", "something else"
    write_table(root / f"pairs{suffix}", rows)
    meta, source = built(TableConfig(file=str(root / f"pairs{suffix}")), tmp_path / "index")
    assert meta.left_out == FAULTS | {
        "image outside the root": 1,
        "missing image": 5,
        "no image": 1,
        "repeated row": 1,
    }
    assert [(source[i].key, source[i].text) for i in range(len(source))] == [
        ("good.jpg", "something"),
        ("good.jpg#3", "something else"),
    ]
    named = reasons(tmp_path / "index")
    assert (8, "../beside.jpg", "image outside the root") in named
    assert (11, "good.jpg", "repeated row") in named and (10, "", "no image") in named


def test_what_only_json_can_say_is_left_out_or_mended(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PIECE)
    rows = [
        {"image": "a.jpg", "caption": "whole"},
        {"image": "a.jpg"},
        {"image": "a.jpg", "caption": None},
        {"image": "a.jpg", "caption": ["one", "two"]},
        {"image": 5, "caption": "a number"},
        {"image": "a\0.jpg", "caption": "no name"},
        {"image": "a\ud800.jpg", "caption": "half a character"},
        {"image": "a.jpg", "caption": "half \ud83d a character"},
    ]
    write_table(tmp_path / "pairs.jsonl", rows)
    meta, source = built(TableConfig(file=str(tmp_path / "pairs.jsonl")), tmp_path / "index")
    assert meta.left_out == {"caption is no text": 1, "missing image": 2, "no caption": 2, "no image": 1}
    assert meta.mended == {"not UTF-8": 1} and source[1].text.startswith("half \ufffd")


def test_a_table_that_is_not_utf_8_is_mended_and_its_paths_are_found(tmp_path):
    name = os.fsdecode("caf\xe9.jpg".encode("latin-1"))
    (tmp_path / name).write_bytes(PIECE)
    (tmp_path / "b.jpg").write_bytes(PIECE)
    raw = "filepath,title\ncaf\xe9.jpg,un caf\xe9\nb.jpg,plain\n".encode("latin-1")
    (tmp_path / "pairs.csv").write_bytes(raw)
    meta, source = built(TableConfig(file=str(tmp_path / "pairs.csv")), tmp_path / "index")
    assert meta.mended == {"not UTF-8": 1} and len(source) == 2
    assert (source[0].key, source[0].text) == ("caf\\xe9.jpg", "un caf\ufffd")


def test_absolute_paths_are_read_unless_a_root_is_stated(tmp_path):
    (tmp_path / "in").mkdir()
    for path in ("in/a.jpg", "b.jpg"):
        (tmp_path / path).write_bytes(PIECE)
    rows = [{"filepath": str(tmp_path / path), "title": path} for path in ("in/a.jpg", "b.jpg")]
    write_table(tmp_path / "pairs.csv", rows)
    file = str(tmp_path / "pairs.csv")
    _, source = built(TableConfig(file=file), tmp_path / "free")
    assert [source[i].key for i in (0, 1)] == [row["filepath"] for row in rows]
    meta, source = built(TableConfig(file=file, root=str(tmp_path / "in")), tmp_path / "bound")
    assert meta.left_out == {"image outside the root": 1} and source[0].key == "a.jpg"


@pytest.mark.parametrize(
    ("path", "root", "found"),
    [
        ("a//b/./c.jpg", None, "a/b/c.jpg"),
        ("a/../b.jpg", None, "b.jpg"),
        ("a/../../b.jpg", None, None),
        ("..", None, None),
        (".", None, None),
        ("..a/b.jpg", None, "..a/b.jpg"),
        ("/x/y.jpg", None, "/x/y.jpg"),
        ("/x/y.jpg", "/x", "y.jpg"),
        ("/x/../y.jpg", "/x", None),
        ("/xy/z.jpg", "/x", None),
        ("/x", "/x", None),
    ],
)
def test_paths_are_tidied_and_held_to_their_root(path, root, found):
    assert inside(path, root) == found


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_faults_of_hugging_face_are_counted_and_named(form, tmp_path):
    root = tmp_path / "place"
    root.mkdir()
    (root / "own.jpg").write_bytes(PIECE)
    rows = [
        (PIECE, "a.jpg", "whole"),
        (PIECE[:300], None, "torn"),
        (b"", None, "no bytes"),
        (None, None, "nothing"),
        (None, "own.jpg", "a file of its own"),
        (None, "gone.jpg", "no file"),
        (None, "../own.jpg", "elsewhere"),
        (_bomb(), None, "a bomb"),
        (PIECE, None, " "),
        (PIECE, None, None),
        (PIECE, "a.jpg", "whole"),
    ]
    table = hf_table(rows)
    if form == "arrow":
        write_arrow(root / "data-00000-of-00001.arrow", table, 4)
    else:
        pq.write_table(table, root / "x.parquet")
    meta, source = built(HuggingFaceConfig(path=str(root)), tmp_path / "index")
    assert meta.left_out == {
        "empty caption": 1,
        "image outside the root": 1,
        "image over 67,108,864 pixels": 1,
        "missing image": 1,
        "no caption": 1,
        "no image": 1,
        "undecodable image": 2,
    }
    assert [source[i].text for i in range(len(source))] == ["whole", "a file of its own", "whole"]
    assert reasons(tmp_path / "index")[0][1].endswith("#1")


PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LARGE = pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})
WORDS = pa.dictionary(pa.int32(), pa.string())
HUBS = {
    "datasets": ("image", PICTURE, "text", pa.string()),
    "large": ("image", LARGE, "caption", pa.large_string()),
    "bare bytes": ("image", pa.binary(), "text", pa.binary()),
    "bytes alone": (
        "img",
        pa.struct({"bytes": pa.binary()}),
        "caption",
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "webdataset": ("jpg", PICTURE, "txt", pa.string()),
    "webdataset, bare": ("webp", pa.large_binary(), "txt", pa.binary()),
}
"""Columns that data sets of the hub have: name and type of the picture's and of the caption's."""


@pytest.mark.parametrize("hub", HUBS)
def test_columns_of_the_hub_are_read_beside_others(hub, tmp_path):
    image, kind, caption, said = HUBS[hub]
    rows = list(lines())[:3]
    blobs = [{"bytes": blob, "path": "x"} if pa.types.is_struct(kind) else blob for _, blob, _ in rows]
    table = {
        "__key__": pa.array([f"{n:032x}" for n in range(3)]),
        "json": pa.array([{"uid": "u", "width": 3}] * 3),
        image: pa.array([{"bytes": b["bytes"]} for b in blobs] if hub == "bytes alone" else blobs, kind),
        caption: pa.array([text for *_, text in rows], pa.string()).cast(said),
    }
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.table(table), tmp_path / "hub" / "train-00000-of-00001.parquet")
    meta, source = built(HuggingFaceConfig(path=str(tmp_path / "hub")), tmp_path / "index")
    assert (meta.samples, meta.left_out) == (3, {})
    for place, (_, blob, text) in enumerate(rows):
        assert source[place].text == text and np.array_equal(source[place].image, decode_image(blob))


def test_batches_of_no_rows_and_an_empty_file_are_no_fault(tmp_path):
    table = hf_table([(PIECE, None, "x")])
    empty = table.slice(0, 0)
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        for batch in (*empty.to_batches(), *table.to_batches(), pa.RecordBatch.from_pylist([], table.schema)):
            stream.write_batch(batch)
    _, source = built(HuggingFaceConfig(path=str(tmp_path / "a.arrow")), tmp_path / "index")
    assert [source[i].text for i in range(len(source))] == ["x"]
    pq.write_table(empty, tmp_path / "empty.parquet")
    refused(HuggingFaceConfig(path=str(tmp_path / "empty.parquet")), tmp_path, "Nothing of .*left out: none")


def test_a_copy_is_planned_for(tmp_path):
    assert as_arrow(tmp_path / "y").copies() == 0
    config = as_parquet(tmp_path / "x")
    whole = sum(path.stat().st_size for path in (tmp_path / "x").rglob("train-*"))
    assert config.copies() == whole > 0


def test_strings_of_arrow_that_are_no_utf_8_are_mended(tmp_path):
    table = hf_table([(PIECE, None, "x")])
    said = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    write_arrow(tmp_path / "x.arrow", table.set_column(1, "caption", said))
    meta, source = built(HuggingFaceConfig(path=str(tmp_path / "x.arrow")), tmp_path / "index")
    assert (source[0].text, meta.mended) == ("caf\ufffd", {"not UTF-8": 1})


# Bad input.


def refused(config, tmp_path, match):
    with pytest.raises(UserError, match=match) as told:
        built(config, tmp_path / "refused")
    assert "\n" not in str(told.value) and not (tmp_path / "refused" / "meta.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "", r"a\.csv has no rows"),
        ("a.csv", "filepath,title\n", r"a\.csv has no rows"),
        (
            "a.csv",
            "path,words\nx,y\n",
            r"row 1: it has no column of captions \(title or text or .*only",
        ),
        (
            "a.csv",
            "url,title\nx,y\n",
            r"no column of pictures \(filepath or .*only url, title; name one",
        ),
        ("a.csv", "filepath\ttitle\nx\ty\n", r"no column of pictures"),
        ("a.csv", "filepath,title\nx,y,z\n", r"a\.csv, row 1: it has more cells"),
        ("a.csv", "filepath,title,title\nx,y,z\n", r"two columns 'title'"),
        ("a.csv", 'filepath,title\nx,"y\n' + "x,y\n" * 2000, r"row 1: it goes from line 2 to 2,002; close"),
        ("a.jsonl", '{"image": "x", "text": "y"}\nno json\n', r"a\.jsonl, row 2: it is no JSON"),
        ("a.jsonl", '{"image": ' + "[" * 200_000 + "\n", r"a\.jsonl, row 1: it is no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, row 1: it is no JSON object"),
        (
            "a.csv",
            "filepath,title\nx.jpg,y\n",
            r"Nothing of .*a\.csv has .*missing image: 1; see .*skipped",
        ),
        ("a.txt", "filepath,title\nx.jpg,y\n", r"a\.txt is no file of rows: give one of"),
    ],
)
def test_a_table_that_is_no_use_is_refused_in_a_sentence(name, text, told, tmp_path):
    (tmp_path / name).write_text(text)
    refused(TableConfig(file=str(tmp_path / name)), tmp_path, told)


def test_columns_may_be_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(PIECE)
    write_table(tmp_path / "a.csv", [{"title": "x.jpg", "alt": "said", "filepath": "gone"}])
    file = str(tmp_path / "a.csv")
    _, source = built(TableConfig(file=file, image="title", caption="alt"), tmp_path / "index")
    assert source[0].text == "said"
    refused(
        TableConfig(file=file, image="picture"), tmp_path, r"no column of pictures \(picture\), only title"
    )


def test_what_is_not_there_is_told(tmp_path):
    refused(TableConfig(file=str(tmp_path / "no.csv")), tmp_path, r"Cannot read .*no\.csv \(No such file")
    refused(FolderConfig(root=str(tmp_path / "no")), tmp_path, "There is no folder .*no: set root")
    (tmp_path / "empty").mkdir()
    refused(FolderConfig(root=str(tmp_path / "empty")), tmp_path, r"Nothing of .*empty has .*left out: none")
    refused(
        HuggingFaceConfig(path=str(tmp_path / "empty")), tmp_path, "neither parquet files nor what save_to"
    )
    refused(HuggingFaceConfig(path="no where"), tmp_path, "There is no no where: set path to a folder or")
    refused(
        HuggingFaceConfig(path="no/such"), tmp_path, "no data set of that name can be fetched from the hub"
    )


def test_hugging_faces_files_that_are_no_use_are_told(tmp_path):
    place = tmp_path / "place"
    table = hf_table([(PIECE, "a.jpg", "whole")])
    write_arrow(place / "lz4.arrow", table, options=pa.ipc.IpcWriteOptions(compression="lz4"))
    refused(HuggingFaceConfig(path=str(place)), tmp_path, r"lz4\.arrow is compressed.*save it as parquet")
    (place / "lz4.arrow").write_bytes(b"nothing of the kind")
    refused(HuggingFaceConfig(path=str(place)), tmp_path, r"lz4\.arrow is no arrow file, or a damaged one")
    (place / "lz4.arrow").unlink()
    pq.write_table(table.rename_columns(["image", "words"]), place / "a.parquet")
    refused(
        HuggingFaceConfig(path=str(place)), tmp_path, r"no column title or text or caption or txt, only image"
    )
    refused(HuggingFaceConfig(path=str(place), caption="image"), tmp_path, r"no texts in its column 'image'")
    lists = table.set_column(1, "caption", pa.array([["one", "two"]]))
    pq.write_table(lists, place / "a.parquet")
    refused(HuggingFaceConfig(path=str(place)), tmp_path, r"no texts in its column 'caption' but list")
    pq.write_table(pa.table({"image": [1], "text": ["x"]}), place / "a.parquet")
    refused(HuggingFaceConfig(path=str(place)), tmp_path, r"no pictures in its column 'image' but int64")
    pq.write_table(table, place / "a.parquet")
    pq.write_table(table, place / "b.parquet")
    refused(HuggingFaceConfig(path=str(place)), tmp_path, r"has the splits a, b: set split")
    refused(HuggingFaceConfig(path=str(place), split="c"), tmp_path, r"has the splits a, b: set split")
    _, source = built(HuggingFaceConfig(path=str(place), split="b"), tmp_path / "index")
    assert source[0].key == "b.parquet#0"
    whole = (place / "b.parquet").read_bytes()
    (place / "b.parquet").write_bytes(whole[:-20])
    refused(
        HuggingFaceConfig(path=str(place), split="b"), tmp_path, r"b\.parquet is no parquet file, or a dam"
    )


def test_a_data_set_of_the_hub_is_fetched_and_then_not_needed(tmp_path, monkeypatch):
    import huggingface_hub

    as_parquet(tmp_path / "snapshot")
    asked = []

    def fetch(name, **settings):
        asked.append((name, settings["revision"], settings["repo_type"], settings["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    config = HuggingFaceConfig(path="some/pairs@v2")
    build_pairs(config, tmp_path / "index", 1)
    assert asked == [("some/pairs", "v2", "dataset", ["*.parquet"])]
    shutil.rmtree(tmp_path / "snapshot")
    source = Pairs(tmp_path / "index", *config.places())
    assert len(asked) == 1 and [source[i].text for i in NUMBERS] == [caption for *_, caption in lines()]


@pytest.mark.parametrize("form", ["folder", "csv", "arrow", "parquet"])
def test_a_wrong_number_of_samples_is_told_with_both(form, tmp_path):
    config = FORMS[form](tmp_path / "place").model_copy(update={"samples": 3})
    with pytest.raises(UserError, match=r"samples: 3 are declared, .* gives 39 \(left out: none.*declare 39"):
        build_pairs(config, tmp_path / "index", 1)
    assert build_pairs(config.model_copy(update={"samples": 39}), tmp_path / "index", 1).samples == 39


def test_a_picture_that_has_changed_since_is_named(tmp_path):
    _, source = built(as_folder(tmp_path / "place"), tmp_path / "index")
    path = tmp_path / "place" / "all" / lines().__next__()[0]
    whole = path.read_bytes()
    for other in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(other)
        with pytest.raises(
            UserError, match=rf"all/000000000 in .*{path.name} is another one than was indexed"
        ):
            source[0]
    path.unlink()
    with pytest.raises(UserError, match=rf"Cannot read the picture .*{path.name} \(No such file"):
        source[0]
    assert source[1].text.endswith(", 1")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("csv", "pairs.csv"),
        ("arrow", "train/data-00001-of-00002.arrow"),
        ("parquet", "data/train-00000-of-00002.parquet"),
    ],
)
def test_an_index_of_another_list_is_refused(form, name, tmp_path):
    config = FORMS[form](tmp_path / "place")
    built(config, tmp_path / "index")
    path = tmp_path / "place" / name
    told = path.stat()
    os.utime(path, (told.st_mtime + 60,) * 2)
    with pytest.raises(UserError, match=rf"{path.name}: it was written after the index \(to copy it"):
        Pairs(tmp_path / "index", *config.places())
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=rf"{path.name}: it has [\d,]+ bytes and had"):
        Pairs(tmp_path / "index", *config.places())
    path.unlink()
    with pytest.raises(UserError, match=rf"Cannot read .*{path.name} \(No such file"):
        Pairs(tmp_path / "index", *config.places())


def test_an_arrow_file_that_changes_during_the_run_is_noticed(tmp_path):
    _, source = built(as_arrow(tmp_path / "place"), tmp_path / "index")
    start = int(source._table["place"][0])
    with (tmp_path / "place" / "train" / "data-00000-of-00002.arrow").open("r+b") as handle:
        handle.seek(start + 50)
        handle.write(b"xyz")
    with pytest.raises(UserError, match=r"data-00000-of-00002\.arrow is another one than was indexed"):
        source[0]
    assert source[20].text.endswith(", 20")


def test_a_table_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    config = as_table(tmp_path, ".csv")
    really = module.build_pairs
    listing = config.listing()
    with (tmp_path / "pairs.csv").open("a") as handle:
        handle.write("another,row\n")
    monkeypatch.setattr(TableConfig, "listing", lambda self: listing)
    with pytest.raises(UserError, match=r"pairs\.csv has changed while it was read: run again"):
        really(config, tmp_path / "index", 1)


def test_a_damaged_index_is_refused(tmp_path):
    config = as_table(tmp_path, ".csv")
    built(config, tmp_path / "index")
    before = contents(tmp_path / "index")
    for name in ("table.npy", "words.bin", "meta.json"):
        for spoilt in (before[name][:-9], b""):
            (tmp_path / "index" / name).write_bytes(spoilt)
            with pytest.raises(UserError, match=r"damaged: delete .*index and run again"):
                Pairs(tmp_path / "index", *config.places())
        (tmp_path / "index" / name).write_bytes(before[name])
    (tmp_path / "index" / "words.bin").unlink()
    with pytest.raises(UserError, match=r"words\.bin is missing or damaged"):
        Pairs(tmp_path / "index", *config.places())
    build_pairs(config, tmp_path / "index", 1)
    assert contents(tmp_path / "index") == before


def test_unchecked_pictures_stop_the_run_with_a_sentence(tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    write_table(tmp_path / "a.csv", [{"filepath": "page.jpg", "title": "x"}])
    _, source = built(TableConfig(file=str(tmp_path / "a.csv"), check=False), tmp_path / "index")
    with pytest.raises(UserError, match=r"picture of page\.jpg in .* cannot be decoded: .* check: true"):
        source[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read_stops_the_index(tmp_path):
    config = as_table(tmp_path, ".csv")
    path = tmp_path / "pictures" / "all" / "000000003"
    path.chmod(0)
    with pytest.raises(UserError, match=r"Cannot read .*000000003 \(Permission denied\): mend that and run"):
        build_pairs(config, tmp_path / "index", 1)
    path.chmod(0o600)
    assert build_pairs(config, tmp_path / "index", 1).samples == len(NUMBERS)


@pytest.mark.parametrize("declared", [2, None])
def test_what_was_left_out_is_looked_at_again_once_it_is_mended(declared, tmp_path):
    (tmp_path / "x.jpg").write_bytes(PIECE)
    write_table(
        tmp_path / "a.csv", [{"filepath": "x.jpg", "title": "x"}, {"filepath": "y.jpg", "title": "y"}]
    )
    config = TableConfig(file=str(tmp_path / "a.csv"), samples=declared)
    with contextlib.nullcontext() if declared is None else pytest.raises(UserError, match="or complete it"):
        built(config, tmp_path / "index")
    (tmp_path / "y.jpg").write_bytes(PIECE)
    meta, source = built(config, tmp_path / "index")
    assert (meta.samples, meta.left_out, len(source)) == (2, {}, 2)


def test_a_torn_picture_that_is_put_right_is_looked_at_again(tmp_path):
    """Also one whose name is not UTF-8."""
    for name in ("x", "caf\udce9"):
        (tmp_path / "in" / f"{name}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jpg").write_bytes(PIECE if name == "x" else b"torn")
        (tmp_path / "in" / f"{name}.txt").write_text("said")
    config = FolderConfig(root=str(tmp_path / "in"))
    assert built(config, tmp_path / "index")[0].samples == 1
    (tmp_path / "in" / "caf\udce9.jpg").write_bytes(PIECE)
    assert built(config, tmp_path / "index")[0].samples == 2


def test_a_picture_with_a_dot_in_its_name_is_counted(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("x.jpg", "IMG_1.2020.0.jpg"):
        (root / name).write_bytes(PIECE)
        (root / name).with_suffix(".txt").write_text("said")
    meta, _ = built(FolderConfig(root=str(root)), tmp_path / "index")
    assert (meta.samples, meta.left_out) == (1, {"a dot in its name": 1})
    assert reasons(tmp_path / "index") == [(None, "IMG_1.2020.0.jpg", "a dot in its name")]


def test_a_path_in_parquet_that_is_no_utf_8_is_told(tmp_path):
    path = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9.jpg"], pa.binary()).buffers())
    image = pa.StructArray.from_arrays([pa.array([None], pa.binary()), path], names=["bytes", "path"])
    pq.write_table(pa.table({"image": image, "caption": ["x"]}), tmp_path / "x.parquet")
    refused(HuggingFaceConfig(path=str(tmp_path / "x.parquet")), tmp_path, r"x\.parquet")


# Names.


LATIN = os.fsdecode(b"caf\xe9")
"""A name that is no UTF-8."""


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_a_file_whose_name_is_no_utf_8_is_refused_before_it_is_read(suffix, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / f"{LATIN}{suffix}").write_bytes(b"of no format")
    told = rf"^The name of .*caf\\xe9\{suffix} is no UTF-8: rename it\.$"
    refused(HuggingFaceConfig(path=str(tmp_path / "place")), tmp_path, told)


def test_a_numbered_key_is_not_that_of_another_picture(tmp_path):
    blobs = {"a.jpg": PIECE, "a.jpg#2": saved(crop(1), "JPEG"), "b.jpg": saved(crop(2), "JPEG")}
    for name, blob in blobs.items():
        (tmp_path / name).write_bytes(blob)
    names = ["a.jpg", "a.jpg", "a.jpg", "x/../a.jpg#2", "a.jpg#2", "b.jpg", "b.jpg"]
    write_table(tmp_path / "pairs.csv", [{"image": name, "text": str(n)} for n, name in enumerate(names)])
    meta, source = built(TableConfig(file=str(tmp_path / "pairs.csv")), tmp_path / "index")
    assert meta.left_out == {"key of another picture": 1}
    assert [(line["key"], line["row"]) for line in skipped(tmp_path / "index")] == [("a.jpg#2", 2)]
    found = {source[i].key: (source.caption(i), source[i].image) for i in range(len(source))}
    assert {key: said for key, (said, _) in found.items()} == {
        "a.jpg": "0",
        "a.jpg#3": "2",
        "a.jpg#2": "3",
        "a.jpg#2#2": "4",
        "b.jpg": "5",
        "b.jpg#2": "6",
    }
    assert not np.array_equal(found["a.jpg#2"][1], found["a.jpg"][1])


@pytest.mark.parametrize("form", ["folder", "table"])
def test_a_spelt_out_key_is_not_that_of_another_picture(form, tmp_path):
    (tmp_path / "place").mkdir()
    names = [LATIN, "caf\\xe9", "caf"]
    for name in names:
        (tmp_path / "place" / f"{name}.jpg").write_bytes(PIECE)
        (tmp_path / "place" / f"{name}.txt").write_text(repr(name))
    config = FolderConfig(root=str(tmp_path / "place"))
    if form == "table":
        rows = b"".join(b"%s.jpg,said\n" % os.fsencode(name) for name in names)
        (tmp_path / "place" / "pairs.csv").write_bytes(b"image,text\n" + rows)
        config = TableConfig(file=str(tmp_path / "place" / "pairs.csv"))
    meta, source = built(config, tmp_path / "index")
    keys = [source[i].key.removesuffix(".jpg") for i in range(len(source))]
    assert sorted(keys) == ["caf", "caf\\xe9"] and meta.left_out == {"key of another picture": 1}
