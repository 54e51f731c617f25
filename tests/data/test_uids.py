"""Lists of uids to keep, in every form that they come in, and what an index makes of them."""

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from study import paribus

from data.test_shards import members_of, saved, write_tar
from paribus.data.decoding import pixels_of
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.data.uids import read_uids
from paribus.errors import UserError

UIDS = [hashlib.md5(str(number).encode()).hexdigest() for number in range(12)]


def halves(uids):
    """As DataComp's resharder takes them."""
    return np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))


def write_list(path, uids):
    if path.suffix == ".npy":
        np.save(path, halves(uids))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"url": ["x"] * len(uids), "uid": uids}), path)
    else:
        path.write_text("\n".join(uids) + "\n\n")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three tars of four samples, with uids in their json as DataComp has them."""
    root = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        members = []
        for number in range(4 * shard, 4 * shard + 4):
            picture, caption, _ = members_of(number)
            told = json.dumps({"uid": UIDS[number], "key": "x", "sha256": "y"}).encode()
            members += [picture, caption, (picture[0].rpartition(".")[0] + ".json", told)]
        write_tar(root / f"{shard:08d}.tar", members)
    return root


@pytest.mark.parametrize("name", ["keep.npy", "keep.parquet", "keep.txt"])
def test_only_what_is_listed_is_kept_whatever_the_list_is(root, tmp_path, name):
    wanted = [9, 2, 3, 7, 2]
    keep = write_list(tmp_path / name, [*(UIDS[n] for n in wanted), "f" * 32])
    meta = build_index(ShardsConfig(root=str(root), keep=str(keep)), tmp_path / "index", 2)
    source = Shards(tmp_path / "index", root)
    whole = build_index(ShardsConfig(root=str(root)), tmp_path / "whole", 1)
    everything = Shards(tmp_path / "whole", root)
    assert [source[i].key for i in range(len(source))] == [everything[n].key for n in (2, 3, 7, 9)]
    assert (source[0].image == everything[2].image).all() and source.caption(3) == everything.caption(9)
    assert meta.left_out == {"not listed": 8} and (meta.listed, meta.absent) == (5, 1)
    assert meta.digest != whole.digest and (whole.kept, whole.listed, whole.absent) == ("", 0, 0)
    assert (tmp_path / "index" / "skipped.jsonl").read_text() == "", "they are counted, not named"


def test_lists_in_different_forms_are_one_list(tmp_path):
    lists = [read_uids(write_list(tmp_path / f"keep.{kind}", UIDS)) for kind in ("npy", "parquet", "txt")]
    lists.append(read_uids(write_list(tmp_path / "back.txt", UIDS[::-1] + UIDS[:3])))
    np.save(tmp_path / "names.npy", np.array(UIDS))
    lists.append(read_uids(tmp_path / "names.npy"))
    assert {each.digest for each in lists} == {lists[0].digest} and len(lists[0]) == 12
    order = sorted(UIDS)
    assert [lists[0].at(uid) for uid in order] == list(range(12)), "numbers sort as their digits"
    assert lists[0].at("0" * 32) is None and lists[0].at("f" * 32) is None and lists[0].at("a name") is None


def test_uids_that_end_or_begin_with_nothing_are_told_apart(tmp_path):
    odd = ["00" * 16, "00" * 15 + "01", "01" + "00" * 15, "ab" * 8 + "00" * 8]
    found = read_uids(write_list(tmp_path / "keep.npy", odd))
    assert sorted(found.at(uid) for uid in odd) == [0, 1, 2, 3]
    assert found.at("ab" * 8 + "00" * 7 + "01") is None


def test_samples_without_uids_are_known_by_their_keys(root, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("000000005\n000000011\n")
    meta = build_index(ShardsConfig(root=str(root), keep=str(keep)), tmp_path / "index", 1)
    assert (meta.samples, meta.listed, meta.absent) == (2, 2, 0)


def test_what_is_listed_and_broken_is_in_the_shards_all_the_same(tmp_path):
    picture = members_of(0)[0]
    torn = [(picture[0], picture[1][:50]), ("000000000.txt", b"half")]
    write_tar(tmp_path / "tars" / "a.tar", [*torn, *members_of(1)])
    keep = tmp_path / "keep.txt"
    keep.write_text("000000000\n000000001\n")
    config = ShardsConfig(root=str(tmp_path / "tars"), keep=str(keep))
    meta = build_index(config, tmp_path / "index", 1)
    assert meta.left_out == {"undecodable image": 1} and (meta.samples, meta.absent) == (1, 0)


def test_another_list_is_another_index(root, tmp_path):
    keep = write_list(tmp_path / "keep.txt", UIDS[:3])
    config = ShardsConfig(root=str(root), keep=str(keep))
    assert build_index(config, tmp_path / "index", 1).samples == 3
    write_list(keep, UIDS[:5])
    assert build_index(config, tmp_path / "index", 1).samples == 5
    assert build_index(ShardsConfig(root=str(root)), tmp_path / "index", 1).samples == 12


def _damaged(path):
    path.write_bytes(b"\x93NUMPY" + b"\0" * 20)


def _pickle(path):
    np.save(path, np.array([{"uid": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("gone.npy", None, "cannot be read"),
        ("torn.npy", _damaged, "cannot be read"),
        ("evil.npy", _pickle, "cannot be read"),
        ("flat.npy", lambda path: np.save(path, np.arange(3.0)), "cannot be read"),
        ("torn.parquet", lambda path: path.write_bytes(b"PAR1"), "cannot be read"),
        (
            "url.parquet",
            lambda path: pq.write_table(pa.table({"url": ["x"]}), path),
            "a column uid|column uid",
        ),
        ("bytes.txt", lambda path: path.write_bytes(b"\xff\xfe\xff"), "cannot be read"),
        ("empty.txt", lambda path: path.write_text("\n \n"), "is empty"),
        ("other.txt", lambda path: path.write_text("e" * 32), "names none of the 12 samples"),
    ],
)
def test_a_list_that_is_no_use_is_refused_in_a_sentence(root, tmp_path, name, write, told):
    if write is not None:
        write(tmp_path / name)
    with pytest.raises(UserError, match=told) as caught:
        build_index(ShardsConfig(root=str(root), keep=str(tmp_path / name)), tmp_path / "index", 1)
    assert name in str(caught.value) and not (tmp_path / "index" / "meta.json").exists()


def test_the_command_writes_the_manifest_and_says_what_was_left_out(root, tmp_path):
    keep = write_list(tmp_path / "uids.npy", [*UIDS[:10], "f" * 32])
    line = ("corpus", "index", root, "--out", tmp_path / "index", "--keep", keep)
    done = paribus(tmp_path, *line)
    assert done.code == 0, done.err
    assert "10 samples" in done.out and "not listed: 2" in done.out and "1 of 11 listed uids" in done.out
    meta = json.loads((tmp_path / "index" / "meta.json").read_text())
    assert meta["samples"] == 10 and meta["digest"][:16] in done.out
    assert paribus(tmp_path, *line).out == done.out
    keep.unlink()
    assert "uids.npy cannot be read" in paribus(tmp_path, *line).refused()
    assert "Nothing of" in paribus(tmp_path, "corpus", "index", tmp_path).refused()


def test_a_decompression_bomb_is_left_out_before_it_is_decoded(tmp_path):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 200_000 and pixels_of(bomb.getvalue()) == 9 * 10**8
    members = [("bomb.png", bomb.getvalue()), ("bomb.txt", b"nothing"), *members_of(0)]
    write_tar(tmp_path / "tars" / "a.tar", members)
    meta = build_index(ShardsConfig(root=str(tmp_path / "tars"), check=False), tmp_path / "index", 1)
    assert meta.left_out == {"image over 67,108,864 pixels": 1} and meta.samples == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_read_off_the_header(kind):
    blob = saved(Image.new("RGB", (37, 21)), kind)
    assert pixels_of(blob) == 37 * 21
    assert pixels_of(blob[:8]) == pixels_of(b"") == pixels_of(b"<html>") == 0
