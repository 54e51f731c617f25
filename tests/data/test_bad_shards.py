"""Tars as strangers make them: faults are counted and named; nothing is unpacked, followed or inflated.

Beside what ``test_shards.py`` (damage, captions, stale indices) and ``test_uids.py`` (lists) show.
"""

import io
import os
import struct
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data.test_shards import (
    VIEWS,
    by_pillow,
    crop,
    damaged_members,
    members_of,
    saved,
    skipped,
    write_shards,
    write_tar,
)
from paribus.data.decoding import decode_image, pixels_of
from paribus.data.loader import Loader
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.data.tars import find_shards, has_shards, leads_out
from paribus.errors import UserError

PIECE = saved(crop(0), "JPEG")


def built(root, out, **settings):
    meta = build_index(ShardsConfig(root=str(root), **settings), out, 2)
    return meta, Shards(out, root)


def keys(source):
    return [source[place].key for place in range(len(source))]


def told(index):
    return {line["key"]: line["reason"] for line in skipped(index)}


def one_tar(root, members):
    """A tar of (name, bytes), or of headers as they are."""
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return root


# Names and links.


def test_names_that_lead_out_are_left_out_and_nothing_is_unpacked(tmp_path):
    names = ["../../x", "a/../../y", "/absolute/z", "..dots/fine", "a/b..c/d", "./here"]
    members = [(f"{name}{end}", blob) for name in names for end, blob in ((".jpg", PIECE), (".txt", b"said"))]
    root = one_tar(tmp_path / "deep" / "tars", members)
    meta, source = built(root, tmp_path / "deep" / "index")
    assert meta.left_out == {"name outside the tar": 3}
    assert told(tmp_path / "deep" / "index") == dict.fromkeys(names[:3], "name outside the tar")
    assert keys(source) == ["a/..dots/fine", "a/a/b..c/d", "a/./here"]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    index = [f"deep/index/{name}" for name in ("meta.json", "skipped.jsonl", "table.npy")]
    assert found == [*index, "deep/tars/a.tar"], "no member became a file"


@pytest.mark.parametrize(
    ("key", "out"),
    [
        ("a", False),
        ("..", True),
        ("../a", True),
        ("a/..", True),
        ("/a", True),
        ("..a", False),
        ("a/..b/c", False),
    ],
)
def test_what_leads_out_is_known_by_its_parts(key, out):
    assert leads_out(key) is out


def _special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_and_devices_are_counted_and_never_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(PIECE)
    members = [
        ("real.jpg", PIECE),
        ("real.txt", b"real"),
        _special("soft.jpg", tarfile.SYMTYPE, str(tmp_path / "secret.jpg")),
        ("soft.txt", b"a symbolic link"),
        _special("hard.jpg", tarfile.LNKTYPE, "real.jpg"),
        ("hard.txt", b"a hard link"),
        ("told.jpg", PIECE),
        _special("told.txt", tarfile.SYMTYPE, "/etc/passwd"),
        _special("pipe.jpg", tarfile.FIFOTYPE),
        ("pipe.txt", b"a pipe"),
        _special("disk.jpg", tarfile.BLKTYPE),
        ("disk.txt", b"a device"),
        _special("folder.jpg", tarfile.DIRTYPE),
        ("more.jpg", PIECE),
        ("more.txt", b"its json is a link, which is not read"),
        _special("more.json", tarfile.SYMTYPE, "real.json"),
    ]
    meta, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index")
    assert meta.left_out == {"image is a link": 2, "image is no plain file": 2, "caption is a link": 1}
    assert told(tmp_path / "index") == {
        "soft": "image is a link",
        "hard": "image is a link",
        "told": "caption is a link",
        "pipe": "image is no plain file",
        "disk": "image is no plain file",
    }
    assert keys(source) == ["a/real", "a/more"]


def test_sparse_members_are_no_plain_files(tmp_path):
    info = tarfile.TarInfo("holes.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:398], header[398:410] = b"00000000000\0", b"00000000000\0"
    header[483:495] = b"00000002000\0"
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    rest = write_tar(tmp_path / "rest.tar", [("holes.txt", b"said"), *members_of(0)]).read_bytes()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes(bytes(header) + rest)
    meta, source = built(tmp_path / "tars", tmp_path / "index")
    assert (
        told(tmp_path / "index") == {"holes": "image is no plain file"} and meta.samples == len(source) == 1
    )


# Sizes.


def test_members_of_no_bytes_are_told_by_what_they_lack(tmp_path):
    members = [
        ("i.jpg", b""),
        ("i.txt", b"said"),
        ("c.jpg", PIECE),
        ("c.txt", b""),
        ("b.jpg", b""),
        ("b.txt", b""),
    ]
    meta, source = built(one_tar(tmp_path / "tars", [*members, *members_of(0)]), tmp_path / "index")
    assert told(tmp_path / "index") == {"i": "undecodable image", "c": "empty caption", "b": "empty caption"}
    assert meta.samples == len(source) == 1


def test_captions_of_a_megabyte_that_are_not_utf_8_are_cut_and_mended(tmp_path):
    members = [("x.jpg", PIECE), ("x.txt", b"caf\xe9 " * 200_000)]
    meta, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index")
    assert meta.mended == {"not UTF-8": 1, "cut": 1} and len(source[0].text) <= 2000
    assert source[0].text.startswith("caf\ufffd caf\ufffd")


def test_a_picture_of_one_pixel_is_a_picture(tmp_path):
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    members = []
    for end, kind in kinds.items():
        members += [
            (f"{end}.{end}", saved(Image.new("RGB", (1, 1), (9, 9, 9)), kind)),
            (f"{end}.txt", b"a dot"),
        ]
    meta, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index")
    assert meta.samples == 3 and {source[i].image.shape for i in range(3)} == {(1, 1, 3)}
    (batch,) = Loader(source, VIEWS, image_size=16, batch=3, seed=0)(0, 1)
    assert batch.views["crops"].shape[-2:] == (16, 16)


def png_header(width, height):
    """A small PNG that says that it is large."""
    blob = bytearray(saved(crop(0), "PNG"))
    blob[16:24] = struct.pack(">II", width, height)
    blob[29:33] = struct.pack(">I", zlib.crc32(blob[12:29]))
    return bytes(blob)


def jpeg_header(width, height):
    blob = bytearray(PIECE)
    at = blob.index(b"\xff\xc0")
    blob[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(blob)


def gif_header(width, height):
    blob = bytearray(saved(crop(0).quantize(16), "GIF"))
    blob[6:10] = struct.pack("<HH", width, height)
    return bytes(blob)


def bmp_header(width, height):
    blob = bytearray(saved(crop(0), "BMP"))
    blob[18:26] = struct.pack("<ii", width, height)
    return bytes(blob)


def tiff_bomb(width, height):
    """A real one: white, packed."""
    return saved(Image.new("1", (width, height), 1), "TIFF", compression="group4")


BOMBS = {
    "png": png_header,
    "jpg": jpeg_header,
    "gif": gif_header,
    "bmp": bmp_header,
    "tif": tiff_bomb,
}


@pytest.mark.parametrize("end", BOMBS)
def test_a_bomb_of_any_format_is_left_out_before_it_is_decoded(end, tmp_path, monkeypatch):
    blob = BOMBS[end](30_000, 30_000)
    assert len(blob) < 300_000 and pixels_of(blob) == 9 * 10**8
    members = [
        (f"bomb.{end}", blob),
        ("bomb.txt", b"said"),
        (f"ok.{end}", BOMBS[end](60, 48)),
        ("ok.txt", b"x"),
    ]
    decoded = []
    really = decode_image
    monkeypatch.setattr(
        "paribus.data.samples.decode_image", lambda blob: decoded.append(len(blob)) or really(blob)
    )
    meta, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index", image=(end,))
    assert meta.left_out == {"image over 67,108,864 pixels": 1}
    assert len(decoded) == 1 and source[0].image.shape == (48, 60, 3)


@pytest.mark.parametrize("kind", ["JPEG2000", "PPM", "AVIF", "ICO", "EXR"])
def test_formats_whose_size_is_not_told_are_no_pictures(kind, tmp_path):
    if kind == "EXR":
        blob = b"\x76\x2f\x31\x01" + bytes(64)
    elif kind in Image.SAVE or (Image.init() and kind in Image.SAVE):
        blob = saved(Image.new("RGB", (64, 64)), kind)
    else:
        pytest.skip(f"this Pillow cannot write {kind}")
    with pytest.raises(ValueError, match="not a picture"):
        decode_image(blob)
    members = [("x.jpg", blob), ("x.txt", b"said"), *members_of(0)]
    meta, _ = built(one_tar(tmp_path / "tars", members), tmp_path / "index")
    assert meta.left_out == {"undecodable image": 1}


# Odd pictures.


def animated(kind):
    """Three frames; the first is a crop."""
    frames = [crop(0), crop(5), Image.new("RGB", (60, 48), "red")]
    exact = {"lossless": True} if kind == "WEBP" else {}
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **exact)


@pytest.mark.parametrize(("kind", "end"), [("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif")])
def test_of_what_moves_the_first_frame_is_the_picture(kind, end, tmp_path):
    blob = animated(kind)
    assert Image.open(io.BytesIO(blob)).n_frames == 3
    members = [(f"x.{end}", blob), ("x.txt", b"it moves")]
    _, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index", image=(end,))
    expected = by_pillow(Image.open(io.BytesIO(blob)))
    assert np.array_equal(source[0].image, expected)
    assert np.abs(expected.astype(int) - np.asarray(crop(0))).max() < 100, "the first one, in few colours"


def _palette(alpha):
    picture = crop(1).quantize(16)
    return saved(picture, "PNG", transparency=alpha)


def _sixteen(shape):
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16))[
        1
    ].tobytes()


def _turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(crop(2), kind, exif=exif)


ODD = {
    "palette with a hole": (_palette(3), 0),
    "palette with alpha": (_palette(bytes(range(0, 256, 16))), 1),
    "CMYK": (saved(crop(1).convert("CMYK"), "JPEG", quality=95), 2),
    "EXIF, JPEG": (_turned("JPEG"), 1),
    "EXIF, PNG": (_turned("PNG"), 0),
    "EXIF, WebP": (_turned("WEBP"), 1),
    "two colours": (saved(crop(1).convert("1"), "PNG"), 0),
    "GIF": (saved(crop(1).quantize(16), "GIF"), 0),
}
"""A file, and how far it may lie from what Pillow reads of it."""


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_come_as_pillow_reads_them_in_stored_rows(name):
    blob, far = ODD[name]
    found, expected = decode_image(blob), by_pillow(Image.open(io.BytesIO(blob)))
    assert found.shape == (48, 60, 3), "EXIF turns nothing"
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= far


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4)])
def test_sixteen_bits_become_eight_whatever_the_channels(shape):
    blob = _sixteen(shape)
    raw = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)
    high = (raw >> 8).astype(np.uint8)
    if len(shape) == 2:
        expected = np.repeat(high[..., None], 3, axis=2)
    elif shape[2] == 3:
        expected = high[..., ::-1]
    else:
        whole = Image.fromarray(high[..., [2, 1, 0, 3]])
        expected = by_pillow(whole)
    assert np.abs(decode_image(blob).astype(int) - expected.astype(int)).max() <= 1


def test_every_odd_picture_passes_the_index(tmp_path):
    ends = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"GI": "gif"}
    members = []
    for number, (blob, _) in enumerate(ODD.values()):
        members += [(f"{number}.{ends[blob[:2]]}", blob), (f"{number}.txt", b"odd")]
    image = ("jpg", "png", "webp", "gif")
    meta, source = built(one_tar(tmp_path / "tars", members), tmp_path / "index", image=image)
    assert meta.samples == len(ODD) and meta.left_out == {} and keys(source)[0] == "a/0"


# Keys and shards that stand there twice.


def test_a_key_that_comes_again_keeps_its_first_members(tmp_path):
    again = [("good.jpg", saved(crop(7), "JPEG")), ("good.txt", b"again"), ("good.JPG", PIECE)]
    _, source = built(one_tar(tmp_path / "tars", [*damaged_members()[:2], *again]), tmp_path / "index")
    assert told(tmp_path / "index") == {"good": "repeated member"}
    assert [line["reason"] for line in skipped(tmp_path / "index")] == ["repeated member"] * 3
    assert source[0].text == damaged_members()[1][1].decode()


def test_two_shards_of_one_name_in_two_folders_are_two_shards(tmp_path):
    for number, place in enumerate(("", "one", "two", "two/deeper")):
        write_tar(tmp_path / "tars" / place / "00000.tar", members_of(number, "same"))
    write_tar(tmp_path / "tars" / ".hidden" / "00000.tar", members_of(5))
    write_tar(tmp_path / "tars" / "._00000.tar", members_of(5))
    (tmp_path / "tars" / "one" / "round").symlink_to(tmp_path / "tars")
    meta, source = built(tmp_path / "tars", tmp_path / "index")
    assert [shard.name for shard in meta.shards] == [
        f"{place}00000.tar" for place in ("", "one/", "two/", "two/deeper/")
    ]
    assert keys(source) == ["00000/same", "one/00000/same", "two/00000/same", "two/deeper/00000/same"]
    assert [source[i].text[-1] for i in range(4)] == ["0", "1", "2", "3"]
    alone = built(tmp_path / "tars" / "two" / "deeper", tmp_path / "alone")[1]
    assert keys(alone) == ["00000/same"]


def test_a_shard_below_that_changes_is_named_with_its_folder(tmp_path):
    write_tar(tmp_path / "tars" / "a" / "0.tar", members_of(0))
    write_tar(tmp_path / "tars" / "b" / "0.tar", members_of(1))
    built(tmp_path / "tars", tmp_path / "index")
    write_tar(tmp_path / "tars" / "b" / "0.tar", [m for n in range(9) for m in members_of(n)])
    with pytest.raises(UserError, match=r"b/0\.tar has [\d,]+ bytes and had"):
        Shards(tmp_path / "index", tmp_path / "tars")
    write_tar(tmp_path / "tars" / "c" / "0.tar.gz", members_of(1))
    with pytest.raises(UserError, match=r"c/0\.tar\.gz is compressed"):
        find_shards(tmp_path / "tars")


def test_an_index_that_is_older_than_its_shards_is_built_again_by_the_command(tmp_path):
    root = write_shards(tmp_path / "tars", shards=1, each=3)
    before = build_index(ShardsConfig(root=str(root)), tmp_path / "index", 1)
    path = root / "00000000.tar"
    write_tar(path, [m for n in (7, 8, 9) for m in members_of(n)])
    os.utime(path, (before.shards[0].mtime + 60,) * 2)
    with pytest.raises(UserError, match=r"00000000\.tar (was written after the index|has)"):
        Shards(tmp_path / "index", root)
    after, source = built(root, tmp_path / "index")
    assert after.digest != before.digest and keys(source)[0] == "00000000/000000007"


def test_metadata_that_make_no_sense_name_no_uid(tmp_path, monkeypatch):
    monkeypatch.setattr("paribus.data.shards.LARGEST_JSON", 300_000)
    told = {
        "deep": b"[" * 200_000,
        "half": rb'{"uid": "\ud800"}',
        "long": b'{"uid": "wanted"}' + b" " * 300_000,
        "list": b'["uid"]',
        "torn": b'{"uid": "wan',
        "wanted": b'{"uid": null}',
        "other": b'{"uid": "wanted"}',
    }
    members = []
    for key, known in told.items():
        members += [(f"{key}.jpg", PIECE), (f"{key}.txt", b"said"), (f"{key}.json", known)]
    (tmp_path / "keep.txt").write_text("wanted")
    root = one_tar(tmp_path / "tars", members)
    meta, source = built(root, tmp_path / "index", keep=str(tmp_path / "keep.txt"))
    assert keys(source) == ["a/wanted", "a/other"] and meta.left_out == {"not listed": 5}


def test_hidden_files_do_not_make_a_folder_one_of_shards(tmp_path):
    (tmp_path / "._x.tar").touch()
    assert not has_shards(tmp_path)
    (tmp_path / "x.tar").touch()
    assert has_shards(tmp_path)


def test_the_root_may_begin_at_home(tmp_path, monkeypatch):
    write_shards(tmp_path / "s", shards=1, each=3)
    monkeypatch.setenv("HOME", str(tmp_path))
    meta = build_index(ShardsConfig(root="~/s"), tmp_path / "index", 1)
    assert meta.samples == 3
    assert build_index(ShardsConfig(root="~/s"), tmp_path / "index", 1) == meta
