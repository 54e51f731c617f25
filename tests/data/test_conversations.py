"""Conversations in LLaVA's layout: what comes out is what LLaVA makes of them; every fault is told."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from objectives import Photos
from PIL import Image

from paribus.data import conversations as module
from paribus.data.conversations import (
    Conversations,
    ConversationsConfig,
    build_mix,
    decode_picture,
    read_meta,
)
from paribus.data.llava import read_file
from paribus.data.loader import Loader
from paribus.data.source import source_class
from paribus.errors import UserError
from paribus.types import IMAGE, NOTHING, Source, Turn, ViewSpec

PIECES = Photos().pieces


def saved(picture, format_="JPEG", **settings):
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, format_, **settings)
    return buffer.getvalue()


def said(*texts):
    """Texts as LLaVA's turns, human first."""
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


PICTURES = {
    "coco/train2017/000000033471.jpg": saved(PIECES[0]),
    "gqa/images/2354786.jpg": saved(PIECES[1]),
    "ocr_vqa/images/0060930.gif": saved(Image.fromarray(PIECES[2]).quantize(64), "GIF"),
    "textvqa/train_images/a.jpg": saved(PIECES[3], progressive=True),
    "vg/VG_100K/2.jpg": saved(PIECES[4]),
    "vg/VG_100K_2/3.png": saved(PIECES[5], "PNG"),
}

MIX = [
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.jpg",
        "conversations": said(
            "<image>\nWhat are the colors of the bus?",
            "The bus is white and red.",
            "Is it moving?",
            "No, it is parked.",
        ),
    },
    {
        "id": "wgByO4Y_0",
        "model": "",
        "conversations": said("Write a haiku.", "寺の屋根 👩‍🚀\n", "Again, please.", "No."),
    },
    {
        "id": "q1",
        "image": "gqa/images/2354786.jpg",
        "conversations": said("Is the sky dark?\nAnswer with one word.\n<image>", "No"),
    },
    {
        "id": "060930",
        "image": "ocr_vqa/images/0060930.gif",
        "conversations": said("<image>\nWho wrote it?", "A. Writer"),
    },
    {"id": 7, "image": "textvqa/train_images/a.jpg", "conversations": said("<image>", "A photo of a roof.")},
    {"id": "q1", "image": "vg/VG_100K/2.jpg", "conversations": said("<image>\nWhere?", "Left.")},
    {"id": "q1", "image": "vg/VG_100K_2/3.png", "conversations": said("<image>\nWhere?", "Right.")},
    {"id": "again", "image": "gqa/images/2354786.jpg", "conversations": said("<image>\nWhat?", "A sky.")},
]


def write_pictures(root, pictures=PICTURES):
    root.mkdir(parents=True, exist_ok=True)
    for name, blob in pictures.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return root


def write_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def built(folder, records=MIX, pictures=PICTURES, workers=2, **settings):
    """A mix made of records in LLaVA's layout, and what was said of it."""
    file = write_records(folder / "playground" / "mix.json", records)
    images = write_pictures(folder / "pictures", pictures)
    config = ConversationsConfig(file=str(file), images=str(images), **settings)
    meta = build_mix(config, folder / "mix", workers)
    return meta, Conversations(folder / "mix", images)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def lost(folder):
    return [json.loads(line) for line in (folder / "lost.jsonl").read_text("utf-8").splitlines()]


def everything(mix):
    """Keys, turns, sources and pictures."""
    return [(s.key, s.turns, s.factors, s.image.tolist()) for s in map(mix.__getitem__, range(len(mix)))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A built mix. Read only."""
    folder = tmp_path_factory.mktemp("home")
    built(folder)
    return folder


@pytest.fixture
def mix(home):
    return Conversations(home / "mix", home / "pictures")


# What comes out.


def test_records_become_what_llava_makes_of_them(mix):
    assert isinstance(mix, Source)
    assert len(mix) == len(MIX)
    assert mix[0].turns == (
        Turn("<image>\nWhat are the colors of the bus?", "The bus is white and red."),
        Turn("Is it moving?", "No, it is parked."),
    )
    assert mix[1].turns == (Turn("Write a haiku.", "寺の屋根 👩‍🚀\n"), Turn("Again, please.", "No."))
    assert mix[2].turns == (Turn("<image>\nIs the sky dark?\nAnswer with one word.", "No"),)
    assert mix[4].turns == (Turn(IMAGE, "A photo of a roof."),), "as LLaVA strips it"
    assert mix[4].text == "A photo of a roof."
    assert mix[4].conversation() == mix[4].turns


def test_pictures_come_out_as_pillow_reads_them(mix):
    for index, record in enumerate(MIX):
        image = mix[index].image
        if "image" in record:
            expected = Image.open(io.BytesIO(PICTURES[record["image"]])).convert("RGB")
            assert np.array_equal(image, np.asarray(expected))
            assert image.flags.c_contiguous
            assert image.flags.writeable
        else:
            assert image is NOTHING


def test_only_what_was_said_is_read_without_the_picture(mix, monkeypatch):
    monkeypatch.setattr(module, "decode_picture", None)
    for index, record in enumerate(MIX):
        sample = mix.said(index)
        assert sample.image is NOTHING
        assert (IMAGE in sample.turns[0].ask) == ("image" in record)


def test_keys_differ_where_ids_repeat(mix):
    keys = [mix.said(index).key for index in range(len(mix))]
    assert keys == ["000000033471", "wgByO4Y_0", "q1", "060930", "7", "q1~2", "q1~3", "again"]


def test_an_id_that_looks_like_a_repeated_one_stays_apart(tmp_path):
    records = [{"id": name, "conversations": said("a", "b")} for name in ("x~2", "x", "x", "x~2")]
    records += [{"conversations": said("a", "b")}, {"id": None, "conversations": said("a", "b")}]
    _, mix = built(tmp_path, records, {})
    keys = [mix.said(index).key for index in range(len(mix))]
    assert keys == ["x~2", "x", "x~3", "x~2~2", "record-5", "record-6"]


def test_columns_are_at_hand(mix):
    assert mix.pictured.tolist() == ["image" in record for record in MIX]
    assert mix.sources.tolist() == ["coco", "text", "gqa", "ocr_vqa", "textvqa", "vg", "vg", "gqa"]
    assert mix.lengths.tolist() == [sum(len(t) for turn in mix[i].turns for t in turn) for i in range(8)]
    assert mix[3].factors == {"source": "ocr_vqa"}


def test_equal_pictures_share_a_key(mix, tmp_path):
    keys = [mix.picture_key(index) for index in range(len(mix))]
    assert keys[1] == ""
    assert keys[2] == keys[7]
    assert len({*keys}) == 7
    copied = PICTURES | {"vg/VG_100K/2.jpg": PICTURES["coco/train2017/000000033471.jpg"]}
    _, other = built(tmp_path, MIX, copied)
    assert other.picture_key(5) == other.picture_key(0) == keys[0]


@pytest.mark.parametrize("index", [8, -1, 10**9])
def test_there_are_no_other_places(mix, index):
    for read in (mix.__getitem__, mix.said, mix.picture_key):
        with pytest.raises(IndexError):
            read(index)


def test_a_mix_is_read_by_many_threads_and_other_processes(mix):
    again = pickle.loads(pickle.dumps(mix))
    assert again.digest == mix.digest
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: again[n % 8].turns, range(200)))
    assert found == [mix[n % 8].turns for n in range(200)]


def test_a_loader_makes_batches_of_it(mix):
    loader = Loader(mix, [ViewSpec(name="plain")], image_size=16, batch=4, seed=0)
    (batch,) = loader(0, 1)
    assert {turns[0].ask for turns in batch.turns} <= {mix[i].turns[0].ask for i in range(8)}


def test_it_is_registered():
    assert source_class("llava") is Conversations


def test_batches_of_the_store_do_not_show(tmp_path, home, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 3)
    _, mix = built(tmp_path)
    assert len(mix._records.batches) == 3
    assert everything(mix) == everything(Conversations(home / "mix", home / "pictures"))
    assert mix.digest == read_meta(home / "mix").digest


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"source": "sharegpt"}, "sharegpt"),
        ({"dataset": "geo", "image": "coco/train2017/000000033471.jpg"}, "geo"),
        ({"source": 3}, "text"),
        ({"image": "00453/004539375.jpg"}, "unnamed"),
        ({"image": "flat.jpg"}, "unnamed"),
        ({"image": ["coco/train2017/000000033471.jpg"]}, "coco"),
        ({"image": None}, "text"),
        ({"image": ""}, "text"),
    ],
)
def test_a_source_is_told_or_taken_from_the_folder(tmp_path, fields, source):
    pictures = PICTURES | {"00453/004539375.jpg": saved(PIECES[6]), "flat.jpg": saved(PIECES[7])}
    ask = f"{IMAGE}\nWhat?" if fields.get("image") else "What?"
    meta, mix = built(tmp_path, [{"id": "a", **fields, "conversations": said(ask, "That.")}], pictures)
    assert mix.sources.tolist() == [source]
    assert meta.parts.keys() == {source}


def test_a_picture_that_no_turn_names_is_not_shown(tmp_path):
    records = [*MIX, {"id": "deaf", "image": "vg/VG_100K/2.jpg", "conversations": said("Where?", "Left.")}]
    meta, mix = built(tmp_path, records)
    assert meta.unshown == 1
    assert mix[8].turns == (Turn("Where?", "Left."),)
    assert mix[8].image is NOTHING
    assert (mix.pictured[8], mix.picture_key(8), mix.sources[8]) == (False, "", "vg")


def test_a_first_turn_that_is_not_human_is_dropped(tmp_path):
    _, mix = built(tmp_path, [{"id": "a", "conversations": said("-", "Hello!", "Hi.", "Bye.")[1:]}], {})
    assert mix[0].turns == (Turn("Hi.", "Bye."),)


def test_an_empty_question_is_kept(tmp_path):
    _, mix = built(tmp_path, [{"id": "a", "conversations": said("", "Hello!")}], {})
    assert mix[0].turns == (Turn("", "Hello!"),)


# Pictures.


def see_through(picture):
    alpha = np.linspace(0, 255, picture.width).astype(np.uint8)
    picture = picture.copy()
    picture.putalpha(Image.fromarray(np.broadcast_to(alpha, (picture.height, picture.width)).copy()))
    return picture


@pytest.mark.parametrize(
    ("blob", "expected"),
    [
        (saved(Image.fromarray(PIECES[0]).convert("L")), None),
        (saved(Image.fromarray(PIECES[0]).convert("CMYK"), quality=95), None),
        (saved(Image.fromarray(PIECES[0]).convert("1"), "PNG"), None),
        (saved(Image.fromarray(PIECES[0]).quantize(9), "PNG"), None),
        (saved(PIECES[0], "WEBP"), None),
        (saved(PIECES[0], "BMP"), None),
        (saved(PIECES[0], "TIFF"), None),
        (saved(Image.fromarray(PIECES[0][..., 0].astype(np.uint16) * 256 + 200), "PNG"), PIECES[0][..., :1]),
        (
            saved(
                Image.fromarray(PIECES[1]),
                "GIF",
                save_all=True,
                append_images=[Image.fromarray(PIECES[2])],
                duration=50,
            ),
            None,
        ),
    ],
    ids=["grey", "cmyk", "bits", "palette", "webp", "bmp", "tiff", "sixteen", "animated"],
)
def test_every_kind_of_picture_becomes_rgb(blob, expected):
    image = decode_picture(blob)
    expected = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")) if expected is None else expected
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.broadcast_to(expected, image.shape))


def test_transparency_becomes_white_as_in_the_benchmarks():
    from paribus.data.decoding import decode_image

    for picture in (
        see_through(Image.fromarray(PIECES[0])),
        see_through(Image.fromarray(PIECES[0]).convert("L")),
    ):
        blob = saved(picture, "PNG")
        assert np.abs(decode_picture(blob).astype(int) - decode_image(blob)).max() <= 1
    hole = saved(Image.fromarray(PIECES[0]).quantize(8), "PNG", transparency=0)
    assert (decode_picture(hole) == 255).all(axis=-1).any()


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decode_picture(saved(PIECES[0], exif=exif)), decode_picture(saved(PIECES[0])))


def bomb():
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    blob = bytearray(saved(PIECES[0], "PNG"))
    blob[16:24] = (60_000).to_bytes(4, "big") * 2
    blob[29:33] = zlib.crc32(blob[12:29]).to_bytes(4, "big")
    return bytes(blob)


def large():
    """A whole picture with some more pixels than are allowed."""
    return saved(Image.new("1", (10_000, module.PIXELS // 10_000 + 1)), "PNG")


@pytest.mark.parametrize(
    ("blob", "match"),
    [
        (b"", "not a picture"),
        (b"<html>404</html>", "not a picture"),
        (saved(PIECES[0])[:700], "not a picture"),
        (saved(PIECES[0], "PNG")[:-30], "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "not a picture"),
        (bomb(), "more than"),
        (large(), "more than"),
    ],
    ids=["empty", "page", "cut", "cut png", "postscript", "floats", "bomb", "large"],
)
def test_what_is_no_picture_is_refused(blob, match):
    with pytest.raises(ValueError, match=match):
        decode_picture(blob)


# Faults.

SHOWN = "coco/train2017/000000033471.jpg"
ASK = f"{IMAGE}\nWhat is it?"
BROKEN = {"bad/cut.jpg": saved(PIECES[0])[:700], "bad/page.jpg": b"<html>", "bad/bomb.png": bomb()}

FAULTS = {
    "no JSON object": ("a string", "not a record", "conversations"),
    "missing": ({}, "empty conversations", "conversations"),
    "none": ({"conversations": []}, "empty conversations", "conversations"),
    "only a greeting": ({"conversations": said("", "Hi.")[1:]}, "empty conversations", "conversations"),
    "role": (
        {"conversations": [{"from": "system", "value": "a"}, *said("b", "c")]},
        "unknown role",
        "conversations",
    ),
    "no turn": ({"conversations": ["a", "b"]}, "unknown role", "conversations"),
    "number": ({"conversations": [*said("a"), {"from": "gpt", "value": 4}]}, "no text", "conversations"),
    "twice human": (
        {"conversations": said("a", "b") + said("c", "d")[:1] * 2},
        "roles do not alternate",
        "conversations",
    ),
    "twice gpt": (
        {"conversations": said("a", "b") + said("", "c")[1:]},
        "roles do not alternate",
        "conversations",
    ),
    "unanswered": ({"conversations": said("a", "b", "c")}, "odd number of turns", "conversations"),
    "silence": ({"conversations": said("a", "b", "c", " \n")}, "empty reply", "conversations"),
    "long": ({"conversations": said("a", "b" * 5_000)}, "too long", "conversations"),
    "half a pair": ({"conversations": said("a", "\ud83d")}, "broken characters", "conversations"),
    "no image": ({"conversations": said(ASK, "b")}, "image token without an image", "conversations"),
    "null image": (
        {"image": None, "conversations": said(ASK, "b")},
        "image token without an image",
        "conversations",
    ),
    "later": (
        {"image": SHOWN, "conversations": said("a", "b", ASK, "d")},
        "image token in a wrong turn",
        "conversations",
    ),
    "in a reply": (
        {"image": SHOWN, "conversations": said("a", IMAGE)},
        "image token in a wrong turn",
        "conversations",
    ),
    "in a greeting": (
        {"image": SHOWN, "conversations": said("", IMAGE, "a", "b")[1:]},
        "image token in a wrong turn",
        "conversations",
    ),
    "two tokens": (
        {"image": SHOWN, "conversations": said(ASK + IMAGE, "b")},
        "two image tokens",
        "conversations",
    ),
    "tokens apart": (
        {"image": SHOWN, "conversations": said(ASK, "b", ASK, "d")},
        "two image tokens",
        "conversations",
    ),
    "two images": ({"image": [SHOWN, SHOWN], "conversations": said(ASK, "b")}, "two images", "image"),
    "odd image": ({"image": 3, "conversations": said(ASK, "b")}, "no picture", "image"),
    "absolute": (
        {"image": "/etc/a.jpg", "conversations": said(ASK, "b")},
        "image outside the folder",
        "image",
    ),
    "above": (
        {"image": "coco/../../a.jpg", "conversations": said(ASK, "b")},
        "image outside the folder",
        "image",
    ),
    "zero byte": ({"image": "a\0.jpg", "conversations": said(ASK, "b")}, "image outside the folder", "image"),
    "lost": ({"image": "ocr_vqa/images/1.jpg", "conversations": said(ASK, "b")}, "image missing", "image"),
    "a folder": ({"image": "coco/train2017", "conversations": said(ASK, "b")}, "image missing", "image"),
    "below a file": ({"image": f"{SHOWN}/a.jpg", "conversations": said(ASK, "b")}, "image missing", "image"),
    "name too long": (
        {"image": "coco/" + "a" * 5_000, "conversations": said(ASK, "b")},
        "image missing",
        "image",
    ),
    "cut": ({"image": "bad/cut.jpg", "conversations": said(ASK, "b")}, "image undecodable", "image"),
    "page": ({"image": "bad/page.jpg", "conversations": said(ASK, "b")}, "image undecodable", "image"),
    "bomb": ({"image": "bad/bomb.png", "conversations": said(ASK, "b")}, "image too large", "image"),
}


def faulty(name):
    record = FAULTS[name][0]
    return {"id": "odd-one", **record} if isinstance(record, dict) else record


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_counted_and_listed_and_the_mix_survives(tmp_path, name):
    _, fault, field = FAULTS[name]
    records = [MIX[0], faulty(name), *MIX[1:]]
    meta, mix = built(tmp_path, records, PICTURES | BROKEN, longest=4_000)
    assert (meta.samples, len(mix), meta.lost) == (8, 8, {fault: 1})
    assert [sum(faults.values()) for faults in meta.losses.values()] == [1]
    (line,) = lost(tmp_path / "mix")
    assert (line["record"], line["fault"], line["field"]) == (2, fault, field)
    assert line["id"] == ("odd-one" if isinstance(records[1], dict) else "record-2")
    (sentence,) = meta.examples[fault]
    assert sentence.startswith(f"record 2 (id {line['id']}), field '{field}': ")
    assert everything(mix)[1][0] == "wgByO4Y_0"


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_sentence_where_a_mix_need_not_survive(tmp_path, name):
    _, _, field = FAULTS[name]
    records = [*MIX, faulty(name), MIX[0]]
    with pytest.raises(
        UserError, match=rf"mix\.json, record 9 \(id \S+\), field '{field}': .*; mend"
    ) as told:
        built(tmp_path, records, PICTURES | BROKEN, longest=4_000, survive=False)
    assert str(told.value).count("\n") == 0
    assert str(told.value).endswith("set survive: true to train without it.")
    assert not (tmp_path / "mix").exists()


def test_the_first_faulty_picture_is_told_whatever_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SLICE", 2)
    bad = [{"id": f"bad{n}", "image": f"no/{n}.jpg", "conversations": said(ASK, "b")} for n in range(9)]
    for workers in (1, 4):
        with pytest.raises(UserError, match=r"record 9 \(id bad0\), field 'image': there is no no/0\.jpg"):
            built(tmp_path, [*MIX, *bad], workers=workers, survive=False)


def test_losses_are_told_by_source(tmp_path):
    records = [faulty(name) for name in FAULTS]
    meta, mix = built(tmp_path, [*MIX, *records], PICTURES | BROKEN, longest=4_000)
    assert meta.samples == 8
    assert (
        sum(meta.lost.values())
        == len(FAULTS)
        == sum(meta.lost_by_source.values())
        == len(lost(tmp_path / "mix"))
    )
    assert meta.losses["ocr_vqa"] == {"image missing": 1}
    assert meta.losses["bad"] == {"image too large": 1, "image undecodable": 2}
    assert [line["record"] for line in lost(tmp_path / "mix")] == list(range(9, 9 + len(FAULTS)))
    assert everything(mix) == everything(built(tmp_path / "clean")[1])
    assert mix.digest == Conversations(tmp_path / "clean" / "mix", tmp_path / "clean" / "pictures").digest


def test_only_some_examples_are_kept(tmp_path):
    meta, _ = built(tmp_path, [*MIX, *([faulty("none")] * 30)])
    assert meta.lost == {"empty conversations": 30}
    assert len(meta.examples["empty conversations"]) == 20
    assert meta.examples["empty conversations"][1].startswith("record 10 (id odd-one~2)")


def test_a_hundred_thousand_words_are_left_out_unless_they_are_wanted(tmp_path):
    long = {"id": "long", "conversations": said("word " * 100_000, "b")}
    meta, _ = built(tmp_path / "a", [*MIX, long])
    assert (meta.samples, meta.losses["text"]) == (8, {"too long": 1})
    assert meta.examples["too long"] == (
        "record 9 (id long), field 'conversations': it has 500,001 characters, and longest is 100,000",
    )
    meta, mix = built(tmp_path / "b", [*MIX, long], longest=1_000_000)
    assert (meta.lost, mix[8].turns) == ({}, (Turn("word " * 100_000, "b"),))


def test_a_picture_under_another_suffix_is_hinted_at(tmp_path):
    record = {"id": "o", "image": "ocr_vqa/images/0060930.jpg", "conversations": said(ASK, "b")}
    meta, _ = built(tmp_path, [*MIX, record])
    assert meta.examples["image missing"][0].endswith("in the folder of pictures, but a 0060930.gif is there")


def test_without_thorough_only_headers_are_read(tmp_path):
    records = [*MIX, *(faulty(name) for name in ("cut", "page", "bomb", "lost"))]
    meta, mix = built(tmp_path, records, PICTURES | BROKEN, thorough=False)
    assert meta.lost == {"image missing": 1, "image too large": 1, "image undecodable": 1}
    assert mix.meta.samples == 9
    assert mix.picture_key(0) == SHOWN
    assert mix.said(8).key == "odd-one"
    with pytest.raises(
        UserError, match=r"bad/cut\.jpg of the record odd-one is not a picture.*thorough: true"
    ):
        mix[8]


# Files.


def write_parquet(path, records, image):
    rows = [
        {"id": str(r["id"]), "image": image(r.get("image")), "conversations": r["conversations"]}
        for r in records
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def embedded(name):
    return None if name is None else {"bytes": PICTURES[name], "path": name}


def test_json_lines_and_parquet_give_equal_samples(tmp_path, home, mix):
    images = home / "pictures"
    lines = tmp_path / "mix.jsonl"
    lines.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in MIX) + "\n\n", "utf-8")
    indented = tmp_path / "indented.json"
    indented.write_text("\ufeff \n" + json.dumps(MIX, indent=2), "utf-8")
    write_parquet(tmp_path / "structs" / "data" / "train-00000-of-00002.parquet", MIX[:5], embedded)
    write_parquet(tmp_path / "structs" / "data" / "train-00001-of-00002.parquet", MIX[5:], embedded)
    write_parquet(tmp_path / "structs" / "data" / "test-00000-of-00001.parquet", MIX[:2], embedded)
    write_parquet(tmp_path / "bytes.parquet", MIX, lambda name: name and PICTURES[name])
    write_parquet(tmp_path / "paths.parquet", MIX, lambda name: name)
    for name in ("mix.jsonl", "indented.json", "paths.parquet", "structs", "bytes.parquet"):
        config = ConversationsConfig(file=str(tmp_path / name), images=str(images))
        meta = build_mix(config, tmp_path / f"{name}.mix", 2)
        found = Conversations(tmp_path / f"{name}.mix", images)
        assert found.digest == mix.digest, name
        assert meta.samples == 8
        if name != "bytes.parquet":  # bytes have no folder
            assert everything(found) == everything(mix), name
        assert [found.picture_key(n) for n in range(8)] == [mix.picture_key(n) for n in range(8)]
    for folder in (None, tmp_path / "nowhere"):
        inside = Conversations(tmp_path / "structs.mix", folder)
        assert everything(inside) == everything(mix), "no folder is needed"
    sizes = {len(blob) for blob in PICTURES.values()}
    assert (tmp_path / "structs.mix" / "images.bin").stat().st_size == sum(sizes), "each picture once"


def test_faults_in_parquet_are_told_as_well(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", MIX[:4], lambda name: name and {"bytes": PICTURES[name][:90], "path": name}
    )
    meta = build_mix(ConversationsConfig(file=str(tmp_path / "a.parquet")), tmp_path / "mix", 1)
    assert meta.lost == {"image undecodable": 3}
    assert meta.examples["image undecodable"][0] == (
        "record 1 (id 000000033471), field 'image': the picture in it is not a picture, or a damaged one"
    )


def test_pictures_lie_beside_the_file_if_nothing_is_said(tmp_path, mix):
    write_pictures(tmp_path)
    meta = build_mix(
        ConversationsConfig(file=str(write_records(tmp_path / "mix.json", MIX))), tmp_path / "mix", 1
    )
    assert meta.digest == mix.digest


def test_a_list_is_read_in_pieces(tmp_path, monkeypatch):
    records = [{"id": n, "conversations": said("ä" * n, '"]}{[')} for n in range(40)]
    path = write_records(tmp_path / "mix.json", records)
    for chunk in (1, 7, 64, 10_000):
        monkeypatch.setattr("paribus.data.llava._CHUNK", chunk)
        assert list(read_file(path)) == records


def test_a_line_that_is_no_json_is_a_fault(tmp_path):
    lines = [json.dumps(record) for record in MIX]
    lines[3] = lines[3][:50]
    (tmp_path / "mix.jsonl").write_text("\n".join(lines))
    images = write_pictures(tmp_path / "pictures")
    config = ConversationsConfig(file=str(tmp_path / "mix.jsonl"), images=str(images))
    meta = build_mix(config, tmp_path / "mix", 1)
    assert (meta.samples, meta.lost) == (7, {"not a record": 1})
    assert meta.examples["not a record"][0].startswith("record 4 (id record-4)")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (json.dumps(MIX)[:-1], "cut off or damaged"),
        (json.dumps(MIX)[:400], "cut off or damaged in what begins at character 307"),
        ("[" * 100_000, "cut off or damaged"),
        ("", "There is no record"),
        ("[]", "There is no record"),
        (
            json.dumps({"data": MIX}, indent=1),
            r"No record .* can be trained on \(left out: not a record: \d+\)",
        ),
        (json.dumps([{"messages": []}] * 3), "No record .*empty conversations: 3.*; the first is record 1"),
    ],
)
def test_a_file_that_is_no_mix_is_told_so(tmp_path, text, match):
    (tmp_path / "mix.json").write_text(text)
    with pytest.raises(UserError, match=match):
        build_mix(ConversationsConfig(file=str(tmp_path / "mix.json")), tmp_path / "mix", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mix.json"]


def test_other_files_are_told_from_mixes(tmp_path):
    (tmp_path / "mix.json").write_bytes(saved(PIECES[0]))
    (tmp_path / "mix.parquet").write_bytes(saved(PIECES[0]))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    for name, match in (("mix.json", "UTF-8"), ("mix.parquet", "no parquet"), ("other.parquet", "no column")):
        with pytest.raises(UserError, match=match):
            build_mix(ConversationsConfig(file=str(tmp_path / name)), tmp_path / "mix", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"There is no \.parquet in .*empty"):
        build_mix(ConversationsConfig(file=str(tmp_path / "empty")), tmp_path / "mix", 1)
    with pytest.raises(UserError, match="There is no nowhere at all: set file to"):
        build_mix(ConversationsConfig(file="nowhere at all"), tmp_path / "mix", 1)


def test_a_data_set_of_the_hub_is_fetched(tmp_path, monkeypatch, mix):
    import huggingface_hub

    write_parquet(tmp_path / "snapshot" / "data" / "train-00000-of-00001.parquet", MIX, embedded)
    asked = []

    def fetch(name, **settings):
        asked.append((name, settings["revision"], settings["repo_type"], settings["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    build_mix(ConversationsConfig(file="some/mix@v2"), tmp_path / "mix", 1)
    assert asked == [("some/mix", "v2", "dataset", ["*.parquet"])]
    assert everything(Conversations(tmp_path / "mix")) == everything(mix)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path):
    with pytest.raises(UserError, match=r"There is no file or folder no/such.*set file to"):
        build_mix(ConversationsConfig(file="no/such"), tmp_path / "mix", 1)


def test_a_wrong_folder_of_pictures_is_told_at_once(tmp_path):
    with pytest.raises(
        UserError, match=r"None of the 6 pictures .*set images to .* coco/train2017/0000000334"
    ):
        built(tmp_path, MIX, {"coco/elsewhere.jpg": b""})
    with pytest.raises(UserError, match=r"There is no folder .*nowhere: set images"):
        build_mix(
            ConversationsConfig(file=str(tmp_path / "playground/mix.json"), images="nowhere"),
            tmp_path / "m",
            1,
        )


def test_a_declared_number_must_hold(tmp_path):
    assert built(tmp_path, samples=8)[0].samples == 8
    with pytest.raises(
        UserError, match=r"samples: 9 are declared, .* gives 8 \(left out: two images: 1; .*declare 8"
    ):
        built(tmp_path / "again", [*MIX, faulty("two images")], samples=9)
    assert len(Conversations(tmp_path / "again" / "mix")) == 8, "what was made is left in place"


# The store.


def test_any_number_of_workers_writes_the_same_store(tmp_path, home, monkeypatch):
    monkeypatch.setattr(module, "_SLICE", 1)
    for workers in (0, 5):
        built(tmp_path / str(workers), workers=workers)
        assert contents(tmp_path / str(workers) / "mix") == contents(home / "mix")


def test_what_the_store_holds(home, mix):
    files = ["images.bin", "lost.jsonl", "meta.json", "pictures.arrow", "records.arrow"]
    assert list(contents(home / "mix")) == files
    assert (mix.meta.samples, mix.meta.pictured, mix.meta.pictures, mix.meta.unshown) == (8, 7, 6, 0)
    assert mix.meta.parts["gqa"].model_dump() == {
        "records": 2,
        "pictured": 2,
        "turns": 2,
        "characters": int(mix.lengths[[2, 7]].sum()),
    }
    assert sum(part.records for part in mix.meta.parts.values()) == 8


def _digest(folder, records=MIX, pictures=PICTURES, **settings):
    return built(folder, records, pictures, **settings)[0].digest


def test_the_digest_is_of_keys_turns_and_pictures(tmp_path, mix):
    changed = json.loads(json.dumps(MIX))
    changed[5]["conversations"][1]["value"] = "Left!"
    named = json.loads(json.dumps(MIX))
    named[3]["id"] = "other"
    moved = json.loads(json.dumps(MIX))
    moved[1]["conversations"][0]["value"] += "\n"
    other = PICTURES | {"vg/VG_100K/2.jpg": saved(PIECES[9])}
    blob = bytearray(PICTURES["vg/VG_100K_2/3.png"])
    blob[-5] ^= 1  # the checksum of the end, which decoders ignore
    quiet = PICTURES | {"vg/VG_100K_2/3.png": bytes(blob)}
    digests = [
        mix.digest,
        _digest(tmp_path / "a", changed),
        _digest(tmp_path / "b", named),
        _digest(tmp_path / "c", moved),
        _digest(tmp_path / "d", MIX, other),
        _digest(tmp_path / "e", MIX, quiet),
        _digest(tmp_path / "f", MIX[::-1]),
        _digest(tmp_path / "g", thorough=False),
        _digest(tmp_path / "h", MIX, other, thorough=False),
    ]
    assert len({*digests}) == len(digests)
    assert _digest(tmp_path / "i") == mix.digest, "where it lies does not matter"
    assert _digest(tmp_path / "j", MIX, quiet, thorough=False) == digests[7], "sizes are equal"


def test_pictures_may_move_but_not_change(tmp_path):
    _, mix = built(tmp_path)
    expected = everything(mix)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"There is no folder .*pictures: set images"):
        Conversations(tmp_path / "mix", tmp_path / "pictures")
    with pytest.raises(UserError, match=r"0000000334.* of the record 000000033471 cannot be read"):
        mix[0]
    with pytest.raises(UserError, match="has its pictures in files: set images"):
        Conversations(tmp_path / "mix")[0]
    mix = Conversations(tmp_path / "mix", tmp_path / "moved")
    assert everything(mix) == expected
    (tmp_path / "moved" / SHOWN).write_bytes(saved(PIECES[1]) + b"more")
    with pytest.raises(
        UserError, match=r"of the record 000000033471 has [\d,]+ bytes and had [\d,]+: bring the old"
    ):
        mix[0]


@pytest.mark.parametrize("name", ["records.arrow", "pictures.arrow", "meta.json", "images.bin"])
def test_a_damaged_store_is_told(tmp_path, name):
    built(tmp_path)
    path = tmp_path / "mix" / name
    blob = path.read_bytes()
    for damage in (lambda: path.write_bytes(blob[: len(blob) // 2]), path.unlink):
        damage()
        if name == "images.bin" and path.exists():
            continue
        with pytest.raises(UserError, match=rf"{name}"):
            Conversations(tmp_path / "mix", tmp_path / "pictures")


def test_a_table_of_another_mix_is_told(tmp_path):
    built(tmp_path / "a")
    built(tmp_path / "b", MIX[:3])
    (tmp_path / "a/mix/records.arrow").write_bytes((tmp_path / "b/mix/records.arrow").read_bytes())
    with pytest.raises(UserError, match=r"records\.arrow is damaged: delete"):
        Conversations(tmp_path / "a/mix", tmp_path / "a/pictures")


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        built(tmp_path)
    assert (tmp_path / "mix" / "thesis.txt").read_text() == "years of work"


def test_a_mix_is_replaced_as_a_whole(tmp_path, mix):
    built(tmp_path, MIX[:2])
    with pytest.raises(UserError):
        built(tmp_path, [*MIX, faulty("none")], survive=False)
    assert len(Conversations(tmp_path / "mix", tmp_path / "pictures")) == 2
    assert built(tmp_path)[0].digest == mix.digest


BUILD = """
import sys
from pathlib import Path
from paribus.data import conversations as module

def look(self, numbers, thorough):
    print("in the middle", flush=True)
    sys.stdin.read()

if sys.argv[3] == "read":
    module.read_record = lambda *args: look(None, None, None)
module._Pictures.look = look
config = module.ConversationsConfig(file=sys.argv[1])
module.build_mix(config, Path(sys.argv[2]), 2)
"""
"""A build that stands still in the middle."""


@pytest.mark.parametrize("where", ["read", "look"])
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_nothing(tmp_path, where, kill, mix):
    file = write_records(write_pictures(tmp_path / "in") / "mix.json", MIX)
    line = [sys.executable, "-c", BUILD, str(file), str(tmp_path / "out" / "mix"), where]
    (tmp_path / "out").mkdir()
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline() == "in the middle\n"
        run.send_signal(kill)
    assert run.returncode
    left = list((tmp_path / "out").iterdir())
    assert [path.name for path in left] == ([f".mix.{run.pid}.tmp"] if kill == signal.SIGKILL else [])
    with pytest.raises(UserError, match=r"There is no .*meta\.json"):
        Conversations(tmp_path / "out" / "mix", tmp_path / "in")
    meta = build_mix(ConversationsConfig(file=str(file)), tmp_path / "out" / "mix", 2)
    assert meta.digest == mix.digest


def test_a_disk_that_fails_is_no_fault_of_the_data(tmp_path, monkeypatch):
    class Disk(type(tmp_path)):
        def open(self, *args, **settings):
            if self.name == "2.jpg":
                raise OSError(5, os.strerror(5))
            return super().open(*args, **settings)

    monkeypatch.setattr(module, "Path", Disk)
    with pytest.raises(UserError, match=r"Cannot read the picture .*2\.jpg \(Input/output error\): mend"):
        built(tmp_path)
