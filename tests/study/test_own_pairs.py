"""A study on pairs of one's own that are in no tars: a table, a folder, a data set of Hugging Face."""

import json

import pytest
from data.test_pairs import FORMS

from study import paribus, records, results, small_settings, write_study


def written(place, source):
    """A study of one seed on a source, and nothing measured."""
    settings = small_settings()
    settings["control"]["data"].pop("captions", None)
    settings["control"]["data"] |= {"source": source}
    settings["control"]["measured_on"] = None
    return write_study(place, settings | {"measure": [], "baselines": [], "vlms": {}})


@pytest.mark.parametrize("form", ["csv", "folder", "arrow", "parquet"])
def test_arms_train_on_pairs_in_every_form(form, tmp_path, tiny_cache):
    config = FORMS[form](tmp_path / "place")
    source = config.model_dump(mode="json", exclude_defaults=True) | {"kind": config.kind, "samples": 39}
    line = ("run", written(tmp_path, source), "--cache", tiny_cache, "--runs", tmp_path / "runs")
    done = paribus(tmp_path, *line)
    assert done.code == 0, done.err
    (corpus,) = [kept for name, kept in records(tiny_cache).items() if name.startswith("pairs-")]
    assert corpus["record"]["counts"] == {"train": 39}
    told = results(tmp_path / "runs")["data"]
    assert (told["source"], told["captions mention"]) == (config.kind, "own")
    assert told["digest"] == corpus["record"]["digest"]
    kept = set(corpus["files"])
    assert kept == {f"index/{name}" for name in ("meta.json", "skipped.jsonl", "table.npy", "words.bin")}


def test_a_source_that_is_no_use_is_refused(tmp_path, tiny_cache):
    def refusal(**source):
        line = ("run", written(tmp_path, source), "--cache", tiny_cache, "--runs", tmp_path / "runs")
        return paribus(tmp_path, *line).refused()

    assert "expected tags: 'glyphs', 'shards', 'folder', 'table', 'huggingface'" in refusal(kind="tables")
    assert "control.data.source.file: field required" in refusal(kind="table")
    assert "root is not a known key" in refusal(kind="huggingface", path="x", root="y")
    (tmp_path / "pairs.csv").write_text("filepath,title\nx.jpg,a cat\n")
    assert "missing image: 1" in refusal(kind="table", file=str(tmp_path / "pairs.csv"))
    assert not [name for name in records(tiny_cache) if name.startswith("pairs-")]


@pytest.mark.parametrize("form", ["csv", "folder", "arrow", "parquet"])
def test_the_command_indexes_every_form(form, tmp_path):
    FORMS[form](tmp_path / "place")
    place = tmp_path / "place"
    if form == "csv":
        place = (place / "pairs.csv").rename(place / "pictures" / "pairs.csv")
    done = paribus(tmp_path, "corpus", "index", place)
    assert done.code == 0, done.err
    index = place / "index" if form != "csv" else place.with_name("pairs.csv.index")
    meta = json.loads((index / "meta.json").read_text())
    kind = {"csv": "table", "folder": "folder"}.get(form, "huggingface")
    assert f"39 samples of kind {kind}; digest {meta['digest'][:16]}; in {index}" in done.out
    assert paribus(tmp_path, "corpus", "index", place).out == done.out, "its own index is no part of a folder"
    keep = tmp_path / "keep.txt"
    keep.write_text("all/000000001")
    assert "--keep is for tar shards" in paribus(tmp_path, "corpus", "index", place, "--keep", keep).refused()
    assert "declare 39" in paribus(tmp_path, "corpus", "index", place, "--samples", 5).refused()


def test_the_command_names_what_is_not_there(tmp_path):
    assert "There is no" in paribus(tmp_path, "corpus", "index", tmp_path / "nowhere").refused()
    assert "Nothing of" in paribus(tmp_path, "corpus", "index", tmp_path).refused()
