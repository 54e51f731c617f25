"""A study on tar shards of one's own, of which a list says what to keep."""

import pytest
from data.test_shards import write_shards

from study import paribus, records, small_settings, write_study


@pytest.fixture
def place(tmp_path, tiny_cache):
    """A study of four tars with 52 samples, 30 of which are listed."""
    write_shards(tmp_path / "tars")
    (tmp_path / "keep.txt").write_text("\n".join(f"{number:09d}" for number in range(10, 40)))
    settings = small_settings()
    source = {"kind": "shards", "root": str(tmp_path / "tars"), "keep": str(tmp_path / "keep.txt")}
    settings["control"]["data"] |= {"source": source, "captions": "own"}
    settings["control"]["measured_on"] = None
    write_study(tmp_path, settings | {"measure": [], "baselines": [], "vlms": {}})
    return tmp_path


def test_arms_see_what_is_listed_and_another_list_is_another_corpus(place, tiny_cache):
    line = ("run", place / "tiny.yaml", "--cache", tiny_cache, "--runs", place / "runs")
    done = paribus(place, *line)
    assert done.code == 0, done.err
    (corpus,) = [kept for name, kept in records(tiny_cache).items() if name.startswith("shards-")]
    assert corpus["record"]["counts"] == {"train": 30, "not listed": 22}
    (place / "keep.txt").write_text("\n".join(f"{number:09d}" for number in range(5, 40)))
    assert paribus(place, *line).code == 0
    found = [kept for name, kept in records(tiny_cache).items() if name.startswith("shards-")]
    assert sorted(kept["record"]["counts"]["train"] for kept in found) == [30, 35]
    (place / "keep.txt").write_text("nobody")
    assert "names none of the 52 samples" in paribus(place, *line).refused()
    (place / "keep.txt").unlink()
    assert "keep.txt cannot be read" in paribus(place, *line).refused()
