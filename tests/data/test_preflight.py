"""The report on a mix: what is in it and what was lost, by source, in words and as JSON."""

import pytest

from data.test_conversations import BROKEN, FAULTS, MIX, PICTURES, built, faulty
from paribus.data.preflight import Preflight, preflight, spell


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    records = [*MIX, *(faulty(name) for name in FAULTS), *([faulty("lost")] * 24)]
    records.append({"id": "deaf", "image": "vg/VG_100K/2.jpg", "conversations": MIX[1]["conversations"]})
    return built(tmp_path_factory.mktemp("mix"), records, PICTURES | BROKEN, longest=4_000)[0]


def test_a_report_is_of_the_mix(meta):
    report = preflight(meta)
    assert (report.samples, report.pictured, report.unshown) == (9, 7, 1)
    assert report.parts == meta.parts
    assert report.lost == len(FAULTS) + 24
    assert report.losses["ocr_vqa"] == {"image missing": 25}
    assert len(report.examples["image missing"]) == 20
    assert report.examples.keys() == meta.lost.keys()
    assert len(preflight(meta, examples=3).examples["image missing"]) == 3


def test_it_is_read_back_from_json(meta):
    report = preflight(meta)
    assert Preflight.model_validate_json(report.model_dump_json()) == report


def test_it_is_told_in_words(meta):
    text = spell(preflight(meta, examples=2))
    assert text.startswith("9 records, 7 with a picture (6 different files, all decoded).\n")
    lines = text.splitlines()
    assert lines[2].split() == ["source", "records", "pictured", "turns", "characters", "lost"]
    rows = text.split("\n\n")[1].splitlines()[1:]
    table = {row.split()[0]: row.split()[1:] for row in rows}
    assert table["coco"][:3] == ["1", "1", "2"]
    assert table["ocr_vqa"] == ["1", "1", "1", "30", "25"]
    assert table["vg"][:3] == ["3", "2", "4"]
    assert "1 records have a picture that no turn names: text alone, as in LLaVA." in lines
    assert f"{len(FAULTS) + 24} records were left out." in lines
    assert "  bad: image too large 1, image undecodable 2" in lines
    assert "image missing, the first 2:" in lines
    shown = [
        line for line in lines if line.endswith("there is no ocr_vqa/images/1.jpg in the folder of pictures")
    ]
    assert len(shown) == 1


def test_nothing_lost_is_told_too(tmp_path):
    text = spell(preflight(built(tmp_path, thorough=False)[0]))
    assert "headers looked at" in text
    assert text.endswith("Nothing was left out.\n")
    assert "no turn names" not in text
