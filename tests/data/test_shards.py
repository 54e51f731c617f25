"""Tar shards: what comes out is what tarfile and Pillow read; an index is exact and knows its tars."""

import hashlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from paribus.data import shards as module
from paribus.data.decoding import caption_bytes, clean_caption, decode_image
from paribus.data.loader import Loader
from paribus.data.shards import ROW, Shards, ShardsConfig, build_index
from paribus.data.source import source_class
from paribus.data.tars import START, key_at, split_name
from paribus.errors import UserError
from paribus.types import Source, ViewSpec

PHOTOS = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
VIEWS = (
    ViewSpec(name="crops", count=2, scale=(0.2, 1.0), flip=0.5, jitter=0.8, blur=0.5),
    ViewSpec(name="plain"),
)


def crop(number, height=48, width=60):
    """A piece of a real photograph, no two alike."""
    photo = PHOTOS[number % 2]
    top, left = number * 7 % (photo.shape[0] - height), number * 13 % (photo.shape[1] - width)
    return Image.fromarray(photo[top : top + height, left : left + width])


def saved(picture, format_, **settings):
    buffer = io.BytesIO()
    picture.save(buffer, format_, **settings)
    return buffer.getvalue()


def see_through(picture):
    """The picture with an alpha that grows from left to right."""
    alpha = np.linspace(0, 255, picture.width).astype(np.uint8)
    mask = Image.fromarray(np.broadcast_to(alpha, (picture.height, picture.width)).copy())
    picture = picture.copy()
    picture.putalpha(mask)
    return picture


KINDS = {
    "rgb.jpg": lambda p: saved(p, "JPEG", quality=95),
    "gray.jpg": lambda p: saved(p.convert("L"), "JPEG"),
    "cmyk.jpeg": lambda p: saved(p.convert("CMYK"), "JPEG", quality=95),
    "progressive.jpg": lambda p: saved(p, "JPEG", progressive=True, subsampling=0),
    "rgb.png": lambda p: saved(p, "PNG"),
    "gray.png": lambda p: saved(p.convert("L"), "PNG"),
    "bits.png": lambda p: saved(p.convert("1"), "PNG"),
    "palette.png": lambda p: saved(p.quantize(32), "PNG"),
    "hole.png": lambda p: saved(p.quantize(32), "PNG", transparency=3),
    "alpha.png": lambda p: saved(see_through(p), "PNG"),
    "gray_alpha.png": lambda p: saved(see_through(p.convert("L")), "PNG"),
    "rgb.webp": lambda p: saved(p, "WEBP"),
    "alpha.webp": lambda p: saved(see_through(p), "WEBP", lossless=True),
}
"""How pictures lie in tars: name -> the bytes of a picture."""

CAPTIONS = ("a temple roof", "Dach eines Tempels", "寺の屋根", "крыша храма", "سقف المعبد", "🏯 y un tejado")


def write_tar(path, members, format_=tarfile.USTAR_FORMAT, mtime=1_700_000_000):
    """Write (name, bytes) as webdataset's TarWriter does: one stream, read-only, no folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w|", format=format_) as tar:
        for name, blob in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime, info.uname = len(blob), 0o444, mtime, "bigdata"
            tar.addfile(info, io.BytesIO(blob))
    return path


def members_of(number, key=None):
    """One sample as img2dataset leaves it: picture, caption and what is known of it."""
    key = key or f"{number:09d}"
    name = list(KINDS)[number % len(KINDS)]
    caption = f"{CAPTIONS[number % len(CAPTIONS)]}, {number}"
    return [
        (f"{key}.{name.rpartition('.')[2]}", KINDS[name](crop(number))),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps({"uid": key, "caption": caption}).encode()),
    ]


def write_shards(root, *, shards=4, each=13, **settings):
    for shard in range(shards):
        numbers = range(shard * each, (shard + 1) * each)
        write_tar(root / f"{shard:08d}.tar", [m for n in numbers for m in members_of(n)], **settings)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four shards of every kind of picture. Read only."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def index(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    build_index(ShardsConfig(root=str(root)), folder, 1)
    return folder


@pytest.fixture
def source(root, index):
    return Shards(index, root)


def built(root, out, workers=1, **settings):
    meta = build_index(ShardsConfig(root=str(root), **settings), out, workers)
    return meta, Shards(out, root)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def skipped(folder):
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text("utf-8").splitlines()]


def plain_reading(root):
    """Key, picture by Pillow and caption of all samples, by plain tarfile."""
    found = []
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {info.name: tar.extractfile(info).read() for info in tar}
        for name, blob in files.items():
            key, _, extension = name.partition(".")
            if extension in ("jpg", "jpeg", "png", "webp"):
                caption = files[f"{key}.txt"].decode()
                found.append((f"{path.stem}/{key}", Image.open(io.BytesIO(blob)), caption))
    return found


def by_pillow(picture):
    """RGB on white."""
    picture = picture.convert("RGBA") if "transparency" in picture.info else picture
    if picture.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


# What comes out.


@pytest.mark.parametrize("format_", FORMATS)
def test_what_comes_out_is_what_tarfile_and_pillow_read(tmp_path, format_):
    # A time that is no whole number makes tarfile write extended headers for every member of a pax archive.
    root = write_shards(tmp_path / "tars", shards=2, format_=FORMATS[format_], mtime=1_700_000_000.25)
    meta, source = built(root, tmp_path / "index")
    expected = plain_reading(root)
    assert len(source) == len(expected) == meta.samples == 26
    heads = set(source._table["head"].tolist())
    assert heads == ({512} if format_ != "pax" else {1536})
    for sample, (key, picture, caption) in zip(source, expected, strict=False):
        assert (sample.key, sample.text, sample.turns) == (key, caption, ())
        assert sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        difference = np.abs(sample.image.astype(int) - by_pillow(picture).astype(int))
        assert difference.max() <= (2 if picture.mode == "CMYK" else 1), (key, picture.mode)


def test_every_place_of_the_table_is_read_and_only_those(source):
    assert isinstance(source, Source)
    assert source[len(source) - 1].key == "00000003/000000051"
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("format_", ["gnu", "pax"])
def test_long_and_foreign_keys_come_out_whole(tmp_path, format_):
    keys = ["a" * 150, "folder/" + "b" * 300, "./dotted", "Überschrift-寺", "0123456789abcdef" * 2]
    members = [m for number, key in enumerate(keys) for m in members_of(number, key)]
    write_tar(tmp_path / "tars" / "one.tar", members, FORMATS[format_])
    _, source = built(tmp_path / "tars", tmp_path / "index")
    assert [source[i].key for i in range(5)] == [f"one/{key}" for key in keys]


def test_a_key_that_is_not_utf_8_is_told_as_such(tmp_path):
    path = write_tar(tmp_path / "tars" / "one.tar", members_of(0, "caf_"))
    blob = path.read_bytes()
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
    with path.open("wb") as handle, tarfile.open(fileobj=handle, mode="w|", encoding="latin-1") as tar:
        for info in infos:
            info.name = info.name.replace("caf_", "café")
            info.pax_headers = {}
            tar.format = tarfile.USTAR_FORMAT
            tar.addfile(info, io.BytesIO(blob[info.offset_data : info.offset_data + info.size]))
    _, source = built(tmp_path / "tars", tmp_path / "index")
    assert source[0].key == "one/caf�"


def write_raw_tar(path, members):
    """Members by names of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, blob in members:
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))


def test_names_that_are_not_utf_8_are_not_taken_for_each_other(tmp_path):
    picture = saved(crop(1), "JPEG")
    members = [
        (b"caf\xe9.jpg", picture),
        (b"caf\xe8.txt", b"of another"),
        (b"b.jpg", picture),
        (b"b.txt", b"b"),
    ]
    write_raw_tar(tmp_path / "tars" / "one.tar", members)
    meta, source = built(tmp_path / "tars", tmp_path / "index")
    assert [source[i].key for i in range(len(source))] == ["one/b"]
    assert meta.left_out == {"no caption": 1, "repeated member": 1}
    assert {line["key"] for line in skipped(tmp_path / "index")} == {"caf\ufffd"}


def test_a_tar_whose_name_is_no_utf_8_is_refused_before_any_is_read(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", members_of(0, "a"))
    (tmp_path / "tars" / "a.tar").rename(tmp_path / "tars" / os.fsdecode(b"caf\xe9.tar"))
    with pytest.raises(UserError, match=r"^The name of .*caf\\xe9\.tar is no UTF-8: rename it\.$"):
        built(tmp_path / "tars", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_orientation_is_ignored_and_sixteen_bits_become_eight():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = saved(crop(1), "JPEG", exif=exif), saved(crop(1), "JPEG")
    assert np.array_equal(decode_image(turned), decode_image(plain))
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    fine = np.asarray(crop(2)).astype(np.uint16) * 256 + 200
    ok, blob = cv2.imencode(".png", fine[..., ::-1])
    assert ok
    assert np.array_equal(decode_image(blob.tobytes()), np.asarray(crop(2)))


def test_what_is_no_picture_is_refused():
    whole = saved(crop(3, 200, 200), "JPEG")
    floats = cv2.imencode(".tiff", np.ones((4, 4, 3), np.float32))[1].tobytes()
    huge = bytearray(saved(crop(3), "PNG"))
    huge[16:24] = b"\x7f\xff\xff\xff" * 2
    for blob in (b"", b"hello", b"<html>404</html>" * 40, whole[: len(whole) // 2], floats, bytes(huge)):
        with pytest.raises(ValueError, match="not a picture"):
            decode_image(blob)


# Captions.


@pytest.mark.parametrize(
    ("raw", "text", "mended"),
    [
        (b"a cat", "a cat", []),
        (b"  two\r\nlines\tand a tab \n", "two  lines and a tab", []),
        ("寺の　屋根 👩‍🚀".encode(), "寺の　屋根 👩‍🚀", []),
        (b"\xef\xbb\xbfmarked", "marked", []),
        (b"caf\xe9 au lait", "caf� au lait", ["not UTF-8"]),
        (b"nul\x00 bell\x07 \x1b[31mred\xc2\x9f", "nul bell [31mred", ["control characters"]),
        (b"\xff\xfe\x00", "��", ["not UTF-8", "control characters"]),
        (b" \n\t\x00 ", "", ["control characters"]),
        (b"", "", []),
        (b"x" * 50, "x" * 50, []),
        (b"x" * 51, "x" * 50, ["cut"]),
        ("屋".encode() * 51, "屋" * 50, ["cut"]),
        (b"y" * 49 + b" zz", "y" * 49, ["cut"]),
    ],
)
def test_captions_are_cleaned_and_their_script_is_kept(raw, text, mended):
    assert clean_caption(raw, 50) == (text, mended)


def test_a_megabyte_of_caption_is_cut_and_hardly_read(tmp_path):
    long = "é" * 500_000
    (image, blob), *_ = members_of(0)
    write_tar(tmp_path / "tars" / "a.tar", [(image, blob), ("000000000.txt", long.encode())])
    meta, source = built(tmp_path / "tars", tmp_path / "index", max_caption=33)
    assert source[0].text == "é" * 33
    assert meta.mended == {"cut": 1}
    assert int(source._table["caption"][0]) >> START == caption_bytes(33)


def test_a_character_torn_by_the_limit_is_not_called_a_fault():
    raw = ("a" + "屋" * 300).encode()[: caption_bytes(50)]
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    assert clean_caption(raw, 50) == ("a" + "屋" * 49, ["cut"])


# What is left out.


def damaged_members():
    image = saved(crop(0), "JPEG")
    return [
        *members_of(0, "good"),
        ("unsaid.jpg", image),
        ("unseen.txt", b"no picture"),
        ("unseen.json", b"{}"),
        ("empty.jpg", image),
        ("empty.txt", b" \x00\n"),
        ("torn.jpg", image[: len(image) // 2]),
        ("torn.txt", b"half a picture"),
        ("none.png", b""),
        ("none.txt", b"no bytes"),
        ("page.jpg", b"<html>404</html>"),
        ("page.txt", b"not found"),
        (".hidden.jpg", image),
        ("README", b"about"),
        ("Loud.JPG", image),
        ("Loud.TXT", b"in capitals"),
        ("apart.jpg", image),
        ("both.png", saved(crop(1), "PNG")),
        ("both.jpg", saved(crop(2), "JPEG")),
        ("both.txt", b"two pictures"),
        ("masked.seg.png", saved(crop(3), "PNG")),
        ("masked.txt", b"only a mask"),
        ("good.jpg", saved(crop(4), "JPEG")),
        ("apart.txt", b"caption\xff far from its picture"),
    ]


def test_what_cannot_be_trained_on_is_left_out_counted_and_listed(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", damaged_members())
    meta, source = built(tmp_path / "tars", tmp_path / "index")
    assert [sample.key for sample in map(source.__getitem__, range(len(source)))] == [
        "a/good",
        "a/Loud",
        "a/apart",
        "a/both",
    ]
    assert meta.left_out == {
        "empty caption": 1,
        "no caption": 1,
        "no image": 2,
        "repeated member": 1,
        "undecodable image": 3,
    }
    assert meta.mended == {"not UTF-8": 1}
    assert [(line["shard"], line["key"], line["reason"]) for line in skipped(tmp_path / "index")] == [
        ("a.tar", "good", "repeated member"),
        ("a.tar", "unsaid", "no caption"),
        ("a.tar", "unseen", "no image"),
        ("a.tar", "empty", "empty caption"),
        ("a.tar", "torn", "undecodable image"),
        ("a.tar", "none", "undecodable image"),
        ("a.tar", "page", "undecodable image"),
        ("a.tar", "masked", "no image"),
    ]
    expected = decode_image(saved(crop(2), "JPEG"))
    assert np.array_equal(source[3].image, expected), "jpg stands before png in image"
    assert np.array_equal(source[0].image, decode_image(members_of(0)[0][1])), "the first good.jpg stays"


def test_other_extensions_are_read_if_asked(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", damaged_members())
    _, source = built(tmp_path / "tars", tmp_path / "index", image=("seg.png", "png"), caption="txt")
    assert [source[i].key for i in range(len(source))] == ["a/both", "a/masked"]


def test_unchecked_pictures_stop_the_run_with_a_sentence(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", damaged_members())
    meta, source = built(tmp_path / "tars", tmp_path / "index", check=False)
    assert meta.left_out["undecodable image"] == 1, "no bytes at all are seen without a check"
    keys = [key_at(_headers(source, i)) for i in range(len(source))]
    assert keys == ["good", "torn", "page", "Loud", "apart", "both"]
    with pytest.raises(UserError, match=r"image of torn in the shard .*a\.tar .*check: true"):
        source[1]


def _headers(source, index):
    row = source._table[index]
    assert row["place"] >> START == 0, "there is one shard"
    return (source.root / "a.tar").read_bytes()[int(row["place"]) : int(row["place"]) + int(row["head"])]


def test_names_are_parted_as_webdataset_does():
    assert split_name("000.jpg") == ("000", "jpg")
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_name("./000.txt") == ("./000", "txt")
    assert [split_name(name) for name in ("README", ".hidden.jpg", "a/.b.txt", "dir.d/file")] == [None] * 4


# The index.


def test_the_index_takes_twenty_four_bytes_a_sample_and_no_pickle(index, source):
    assert ROW.itemsize == 24
    table = np.load(index / "table.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(table, np.memmap)
    assert table.nbytes == 24 * len(source)
    assert sorted(path.name for path in index.iterdir()) == ["meta.json", "skipped.jsonl", "table.npy"]


def test_any_number_of_workers_writes_the_same_index(root, index, tmp_path):
    for workers in (0, 3, 9):
        build_index(ShardsConfig(root=str(root)), tmp_path / str(workers), workers)
        assert contents(tmp_path / str(workers)) == contents(index)


def test_where_the_shards_lie_does_not_enter_the_index(root, index, tmp_path):
    (tmp_path / "moved").symlink_to(root)
    build_index(ShardsConfig(root=str(tmp_path / "moved"), samples=52), tmp_path / "index", 1)
    assert contents(tmp_path / "index") == contents(index)
    assert Shards(index, tmp_path / "moved")[3].key == "00000000/000000003"


def test_the_same_samples_in_other_shards_have_the_same_digest_but_other_keys(tmp_path, source):
    write_shards(tmp_path / "tars", shards=2, each=26, format_=tarfile.PAX_FORMAT)
    (tmp_path / "tars" / "00000001.tar").rename(tmp_path / "tars" / "second.tar")
    _, resharded = built(tmp_path / "tars", tmp_path / "index")
    assert resharded.digest == source.digest
    for place in (0, 20, 51):
        assert np.array_equal(resharded[place].image, source[place].image)
        assert resharded[place].text == source[place].text
    assert (source[20].key, resharded[20].key) == ("00000001/000000020", "00000000/000000020")


def _digest(folder, samples, **settings):
    write_tar(folder / "tars" / "a.tar", [member for sample in samples for member in sample])
    return built(folder / "tars", folder / "index", **settings)[0].digest


def test_the_digest_tells_orders_keys_pictures_and_captions_apart(tmp_path):
    one, two, three = members_of(0), members_of(1), members_of(2)
    (image, picture), (text, caption), extra = two
    variants = {
        "same": ([one, two, three], {}),
        "order": ([two, one, three], {}),
        "fewer": ([one, two], {}),
        "key": ([one, members_of(1, "other"), three], {}),
        "picture": ([one, [(image, picture + b"\0"), (text, caption), extra], three], {}),
        "caption": ([one, [(image, picture), (text, caption + b"!"), extra], three], {}),
        "cut": ([one, two, three], {"max_caption": 9}),
    }
    found = {
        name: _digest(tmp_path / name, samples, **settings) for name, (samples, settings) in variants.items()
    }
    assert len(set(found.values())) == len(found)
    unread = [one, [(image, picture), (text, caption + b" \n"), (extra[0], b"{}")], three]
    assert _digest(tmp_path / "unread", unread) == found["same"], "what does not come out does not count"


def test_the_digest_is_that_of_its_definition(root, source):
    whole = hashlib.sha256()
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {info.name: tar.extractfile(info).read() for info in tar}
        for name, blob in files.items():
            if not name.endswith((".txt", ".json")):
                key = name.partition(".")[0]
                parts = (key.encode(), blob, files[f"{key}.txt"])
                lengths = struct.pack("<QQQ", *(len(part) for part in parts))
                whole.update(hashlib.sha256(lengths + b"".join(parts)).digest())
    assert source.digest == whole.hexdigest()


# Interruptions.

BUILD = """
import itertools, sys
from pathlib import Path
from paribus.data import shards
really, calls = shards._examine, itertools.count(1)

def examine(*sample):
    if next(calls) == 30:
        print("in the middle", flush=True)
        sys.stdin.read()
    return really(*sample)

shards._examine = examine
shards.build_index(shards.ShardsConfig(root=sys.argv[1]), Path(sys.argv[2]), 1)
"""
"""A build that stands still at the thirtieth sample, which is in the third shard."""


def test_a_killed_build_goes_on_and_equals_an_uninterrupted_one(root, index, tmp_path, monkeypatch):
    out = tmp_path / "index"
    line = [sys.executable, "-c", BUILD, str(root), str(out)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "in the middle\n"
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert sorted(path.name for path in out.glob(".parts/*.npz")) == ["00000000.tar.npz", "00000001.tar.npz"]
    with pytest.raises(UserError, match=r"There is no .*meta\.json"):
        Shards(out, root)
    read = _watch(monkeypatch)
    build_index(ShardsConfig(root=str(root)), out, 1)
    assert read == ["00000002.tar", "00000003.tar"], "only what was left"
    assert contents(out) == contents(index)


def _watch(monkeypatch):
    """The names of the shards that are read from now on."""
    read, really = [], module.read_contents
    monkeypatch.setattr(module, "read_contents", lambda path: read.append(path.name) or really(path))
    return read


def _stop_at(monkeypatch, name):
    """Interrupt the build when it comes to a shard."""
    really = module.read_contents

    def interrupted(path):
        if path.name == name:
            raise KeyboardInterrupt
        return really(path)

    monkeypatch.setattr(module, "read_contents", interrupted)


def test_a_part_that_is_damaged_or_of_another_shard_is_made_anew(root, index, tmp_path, monkeypatch):
    config, out = ShardsConfig(root=str(root)), tmp_path / "index"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _stop_at(patch, "00000003.tar")
        build_index(config, out, 1)
    parts = out / ".parts"
    assert sorted(path.name for path in parts.iterdir()) == [f"0000000{n}.tar.npz" for n in range(3)]
    (parts / "00000000.tar.npz").write_bytes((parts / "00000000.tar.npz").read_bytes()[:700])
    (parts / "00000001.tar.npz").write_bytes((parts / "00000002.tar.npz").read_bytes())
    read = _watch(monkeypatch)
    build_index(config, out, 1)
    assert read == ["00000000.tar", "00000001.tar", "00000003.tar"]
    assert contents(out) == contents(index)


def test_a_part_that_was_read_otherwise_is_made_anew(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _stop_at(patch, "00000003.tar")
        build_index(ShardsConfig(root=str(root)), tmp_path / "index", 1)
    read = _watch(monkeypatch)
    meta, source = built(root, tmp_path / "index", max_caption=4)
    assert len(read) == 4
    assert meta.mended == {"cut": 52}
    assert source[0].text == "a te"


def test_a_finished_index_is_not_built_again_but_a_stale_one_is(tmp_path, monkeypatch):
    root, out = write_shards(tmp_path / "tars", shards=2, each=3), tmp_path / "index"
    before = build_index(ShardsConfig(root=str(root)), out, 1)
    read = _watch(monkeypatch)
    assert build_index(ShardsConfig(root=str(root)), out, 1) == before
    assert read == []
    write_tar(root / "00000002.tar", members_of(77))
    assert build_index(ShardsConfig(root=str(root)), out, 1).samples == 7
    assert len(read) == 3
    otherwise = build_index(ShardsConfig(root=str(root), max_caption=3), out, 1)
    assert (otherwise.mended, len(read)) == ({"cut": 7}, 6)


# Bad input.


def refused(root, tmp_path, match, **settings):
    with pytest.raises(UserError, match=match) as told:
        build_index(ShardsConfig(root=str(root), **settings), tmp_path / "refused", 2)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "refused" / "meta.json").exists()


def test_a_folder_without_tars_is_told(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, "nowhere: set root")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "00000.parquet").touch()
    refused(tmp_path / "empty", tmp_path, r"no \.tar in .*empty: set root")


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar", "b.tar.zst"])
def test_compressed_tars_are_refused(tmp_path, name):
    write_tar(tmp_path / "tars" / "a.tar", members_of(0))
    with tarfile.open(tmp_path / "tars" / name, "w:gz") as tar:
        tar.add(tmp_path / "tars" / "a.tar", "000.jpg")
    refused(tmp_path / "tars", tmp_path, rf"{name} is compressed.*uncompress it")


def test_every_cut_through_a_tar_is_noticed(tmp_path):
    path = write_tar(tmp_path / "tars" / "a.tar", members_of(0) + members_of(1))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
    last = infos[-1].offset_data + 512
    assert whole[last:].strip(b"\0") == b""
    cuts = {0, 1, 300, 511, 512, 700, last - 1, last, last + 1, last + 511}
    cuts |= {info.offset for info in infos} | {info.offset_data for info in infos}
    cuts |= {info.offset + 100 for info in infos} | {info.offset_data + info.size - 1 for info in infos}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        refused(
            tmp_path / "tars", tmp_path, r"a\.tar is cut off or damaged at byte .*download it again, or move"
        )
    path.write_bytes(whole[: last + 512])
    assert build_index(ShardsConfig(root=str(tmp_path / "tars")), tmp_path / "index", 1).samples == 2


def test_a_member_larger_than_any_disk_is_noticed(tmp_path):
    info = tarfile.TarInfo("000.jpg")
    info.size = 2**80
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "tars", tmp_path, r"a\.tar is cut off or damaged at byte 2,560 of 2,560")


def test_one_broken_shard_among_many_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    root = write_shards(tmp_path / "tars", shards=3, each=3)
    (root / "00000001.tar").write_bytes((root / "00000001.tar").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"00000001\.tar is cut off"):
        build_index(ShardsConfig(root=str(root)), tmp_path / "index", 1)
    read = _watch(monkeypatch)
    (root / "00000001.tar").rename(tmp_path / "00000001.tar")
    assert build_index(ShardsConfig(root=str(root)), tmp_path / "index", 1).samples == 6
    assert "00000000.tar" not in read


def test_tars_joined_by_cat_are_refused(tmp_path):
    one, two = (write_tar(tmp_path / f"{n}.tar", members_of(n)).read_bytes() for n in range(2))
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "ab.tar").write_bytes(one + two)
    refused(tmp_path / "tars", tmp_path, r"ab\.tar goes on after its end mark")


def test_flipped_bytes_end_in_a_sentence_or_in_samples(tmp_path):
    whole = write_tar(
        tmp_path / "whole.tar", members_of(0) + members_of(1), tarfile.PAX_FORMAT, 1.5
    ).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        headers = [place for info in tar for place in range(info.offset, info.offset_data)]
    rng = np.random.default_rng(0)
    path, outcomes = tmp_path / "tars" / "a.tar", {"refused": 0, "read": 0}
    path.parent.mkdir()
    for trial in range(150):
        damaged = bytearray(whole)
        for place in rng.choice(headers, 1 + trial % 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _, source = built(path.parent, tmp_path / f"index{trial}")
            keys = [source[i].key for i in range(len(source))]
            assert keys
            outcomes["read"] += 1
        except UserError as error:
            assert "a.tar" in str(error) or "No sample" in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 50


def test_nothing_to_train_on_is_told_with_the_reasons(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", [*members_of(0), ("x.txt", b"alone")])
    refused(tmp_path / "tars", tmp_path, r"image \(gif\).*caption \(txt\).*no image: 2", image=("gif",))


def test_an_archive_of_nothing_is_no_error_beside_others(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", [])
    refused(tmp_path / "tars", tmp_path, "No sample of")
    write_tar(tmp_path / "tars" / "b.tar", members_of(0))
    assert built(tmp_path / "tars", tmp_path / "index")[1][0].key == "b/000000000"


def test_a_wrong_number_of_samples_is_told_with_both_and_then_costs_nothing(tmp_path, monkeypatch):
    write_tar(tmp_path / "tars" / "a.tar", damaged_members())
    with pytest.raises(UserError, match=r"samples: 12 are declared, .* holds 4 \(.*no image: 2.*declare 4"):
        build_index(ShardsConfig(root=str(tmp_path / "tars"), samples=12), tmp_path / "index", 1)
    assert len(skipped(tmp_path / "index")) == 8
    read = _watch(monkeypatch)
    meta = build_index(ShardsConfig(root=str(tmp_path / "tars"), samples=4), tmp_path / "index", 1)
    assert (meta.samples, read) == (4, [])


@pytest.fixture
def small(tmp_path):
    """Two small shards and their index, to be spoilt."""
    root = write_shards(tmp_path / "tars", shards=2, each=4)
    return built(root, tmp_path / "index")[1]


def _rewritten(path):
    write_tar(path, members_of(9))


def _later(path):
    os.utime(path, (path.stat().st_mtime + 60,) * 2)


def _joined_by_another(path):
    write_tar(path.with_name("00000009.tar"), members_of(9))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_rewritten, r"00000001\.tar has [\d,]+ bytes and had [\d,]+;"),
        (_later, r"00000001\.tar was written after the index \(.*rsync -t"),
        (Path.unlink, r"00000001\.tar is missing"),
        (_joined_by_another, r"00000009\.tar was not there"),
    ],
)
def test_an_index_of_other_shards_is_refused(small, change, match):
    change(small.root / "00000001.tar")
    with pytest.raises(UserError, match=match):
        Shards(small.folder, small.root)


def test_a_shard_that_changes_during_the_run_is_noticed(small):
    path = small.root / "00000001.tar"
    whole = path.read_bytes()
    row = small._table[5]
    start = int(row["place"]) & (1 << START) - 1
    path.write_bytes(whole[:start] + b"x" + whole[start + 1 :])
    with pytest.raises(UserError, match=r"00000001\.tar has changed under its index"):
        small[5]
    path.write_bytes(whole[: start + 600])
    with pytest.raises(UserError, match=r"00000001\.tar has changed under its index"):
        small[5]
    assert small[4].key == "00000001/000000004"


def test_a_shard_that_goes_away_during_the_run_is_named(small):
    (small.root / "00000001.tar").unlink()
    assert small[0].key == "00000000/000000000"
    with pytest.raises(UserError, match=r"Cannot read the shard .*00000001\.tar \(No such file"):
        small[4]


def test_a_damaged_index_is_refused(small):
    table, meta = small.folder / "table.npy", small.folder / "meta.json"
    whole = table.read_bytes()
    for spoilt in (whole[:-32], whole[:90], b""):
        table.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"table\.npy is (missing or )?damaged"):
            Shards(small.folder, small.root)
    np.save(table, np.zeros(8))
    with pytest.raises(UserError, match=r"table\.npy is damaged"):
        Shards(small.folder, small.root)
    table.unlink()
    with pytest.raises(UserError, match=r"table\.npy is missing"):
        Shards(small.folder, small.root)
    table.write_bytes(whole)
    meta.write_text(meta.read_text()[:-9])
    with pytest.raises(UserError, match=r"meta\.json is damaged"):
        Shards(small.folder, small.root)
    build_index(ShardsConfig(root=str(small.root)), small.folder, 1)
    assert table.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_told(root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write to"):
        build_index(ShardsConfig(root=str(root)), tmp_path / "file", 1)


# Threads and processes.


def _open_tars(root):
    """How many files of a folder this process has open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(os.path.realpath(link).startswith(f"{root.resolve()}{os.sep}") for link in links)


def test_threads_read_the_same_with_few_open_files(tmp_path):
    root = write_shards(tmp_path / "tars")
    _, wide = built(root, tmp_path / "index")
    expected = [wide[i] for i in range(len(wide))]
    assert _open_tars(root) == 4
    del wide
    assert _open_tars(root) == 0
    narrow = Shards(tmp_path / "index", root, open_files=2)
    places = np.random.default_rng(0).integers(0, len(narrow), 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for place, sample in zip(places, pool.map(narrow.__getitem__, places), strict=True):
            assert (sample.key, sample.text) == (expected[place].key, expected[place].text)
            assert np.array_equal(sample.image, expected[place].image)
    assert _open_tars(root) == 2
    del narrow
    assert _open_tars(root) == 0


def test_no_file_is_closed_while_it_is_read(root, index):
    source = Shards(index, root, open_files=1)
    with source._files.borrow(0) as first, source._files.borrow(1) as second:
        assert first != second
        assert os.pread(first, 9, 0) == b"000000000"
        assert os.pread(second, 9, 0) == b"000000013"
    assert list(source._files._open) == [0]


def test_a_source_is_pickled_by_name(root, index, source):
    blob = pickle.dumps(source)
    assert len(blob) < 1000
    again = pickle.loads(blob)
    assert (again.digest, again[7].key) == (source.digest, source[7].key)
    assert type(source_class("shards")(index, root)) is Shards


def test_the_loader_makes_the_same_batches_for_any_number_of_workers(root, index):
    def batches(workers, open_files):
        source = Shards(index, root, open_files=open_files)
        loader = Loader(source, VIEWS, image_size=16, batch=9, seed=4, workers=workers, ahead=4)
        return list(loader(0, 8))

    one = batches(1, 512)
    for other in (batches(2, 1), batches(5, 2)):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.ids, b.ids)
            assert list(a.texts) == list(b.texts)
            assert all(torch.equal(a.views[name], b.views[name]) for name in a.views)
    seen = np.concatenate([batch.ids for batch in one])[:52]
    assert len(set(seen.tolist())) == 52
