"""The command line from end to end, on the real quickstart shrunk to seconds."""

import csv
import importlib.metadata
import io
import json
import re
import shutil
import sys
from functools import partial

import pytest
from PIL import Image
from study import QUICKSTART, counted, counting, edit_json, leftovers, paribus, records, results, timeless


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the defaults are folders of where one stands


def places(folder):
    return ("--cache", folder / "cache", "--runs", folder / "runs", "--workers", "1")


def in_process(monkeypatch, *argv):
    """``paribus ARGV`` here, under the check of types and shapes; its exit code."""
    from paribus.cli import main

    monkeypatch.setattr(sys, "argv", ["paribus", *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_the_entry_point_is_the_command_line():
    from paribus.cli import main

    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="paribus")
    assert entry.load() is main


def test_run_leaves_a_report_tables_and_results_that_fit_the_schema(finished):
    from paribus.report.schema import load_results

    folder = finished / "runs" / "tiny"
    found = load_results(folder / "results.json")
    assert found.study == "tiny" and list(found.arms) == ["clip", "dino"] and found.seeds == [0]
    assert {measure.section for measure in found.measures} >= {"probe", "knn", "neighbours", "factors", "vqa"}
    page = (folder / "report.html").read_text()
    assert page.count("<html") == 1 and page.rstrip().endswith("</html>")
    assert all(treatment in page for treatment in ("clip", "dino", "untrained", "colour-histogram"))
    tables = {path.stem: list(csv.DictReader(path.open())) for path in (folder / "tables").glob("*.csv")}
    assert len(tables["measures"]) == len(found.measures)
    assert len(tables["differences"]) == len(found.differences)
    said = (finished / "run.out").read_text()
    assert said.rstrip().endswith("report.html") and "The claims" in said
    assert not leftovers(finished)


def test_run_says_what_it_does(finished):
    lines = (finished / "run.err").read_text().splitlines()
    stages = len(records(finished / "cache"))
    told = [line for line in lines if re.fullmatch(r"\[\d+/\d+\] \S+ done in [\d.]+ s", line)]
    assert lines[0] == f"{stages} stages, 1 of them done"
    assert len(told) == stages - 1 and told[-1].startswith(f"[{stages - 1}/{stages - 1}] ")


def test_a_second_run_computes_nothing_and_says_the_same(finished):
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "cache").rglob("*") if path.is_file()}
    before = (finished / "runs" / "tiny" / "results.json").read_text()
    log = finished / "computed"
    done = paribus(finished, "run", finished / "tiny.yaml", *places(finished), before=partial(counting, log))
    assert done.code == 0, done.err
    assert counted(log) == []
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert (finished / "runs" / "tiny" / "results.json").read_text() == before
    assert done.out.splitlines()[:-1] == (finished / "run.out").read_text().splitlines()[:-1]


@pytest.mark.slow
def test_the_whole_in_another_cache_gives_the_same_digests_and_numbers(
    finished, tmp_path, tiny_study, tiny_cache, monkeypatch
):
    """And every stage passes the check of types and shapes, because this one runs in pytest's own process."""
    code = in_process(
        monkeypatch, "run", tiny_study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1"
    )
    assert code == 0
    here, there = records(tiny_cache), records(finished / "cache")
    assert here.keys() == there.keys() and len(here) > 25
    assert timeless(here) == timeless(there)
    assert results(tmp_path / "runs") == results(finished / "runs")


def test_chunks_workers_and_folders_change_addresses_of_nothing(finished, tmp_path, tiny_study, tiny_cache):
    """Runtime settings may not enter an identity; chunks change sums in the last bits, so only what is exact
    is compared."""
    places = ("--cache", tiny_cache, "--runs", tmp_path / "elsewhere")
    changes = ("--set", "measure=[probes]", "--set", "baselines=[]")
    done = paribus(tmp_path, "run", tiny_study, *places, *changes, "--chunk", "5", "--workers", "3")
    assert done.code == 0, done.err
    here, there = records(tiny_cache), records(finished / "cache")
    assert here.keys() < there.keys()
    for address, record in here.items():
        assert record["config"] == there[address]["config"]
        if address.startswith("pretrain"):
            exact = ("data", "order", "start", "samples", "steps", "flops_per_sample")
            assert [record["record"][k] for k in exact] == [there[address]["record"][k] for k in exact]


def test_plan_prints_every_stage_and_marks_what_is_cached(finished, tmp_path, tiny_study, tiny_cache):
    stages = records(finished / "cache").keys()
    for cache, cached in ((finished / "cache", stages), (tiny_cache, records(tiny_cache).keys())):
        done = paribus(tmp_path, "plan", tiny_study, "--cache", cache)
        assert done.code == 0, done.err
        lines = [line.split() for line in done.out.splitlines() if re.match(r" *[a-z-]+-[0-9a-f]{12} ", line)]
        assert {line[0] for line in lines} == set(stages) and len(lines) == len(stages)
        assert {line[0] for line in lines if line[1] == "cached"} == set(cached)
        assert f"{len(stages)} stages, {len(cached)} cached" in done.out
    costs = {line[0].split("-")[0]: line for line in lines}
    assert float(costs["pretrain"][1]) > 0 and costs["pretrain"][2] == "FLOPs"


def test_plan_predicts_the_flops_that_are_then_counted(finished):
    from paribus.study.study import load_study

    for arm in load_study(finished / "tiny.yaml").all_arms():
        record = records(finished / "cache")[arm.encoder.address()]["record"]
        share = arm.encoder.flops() / (record["flops_per_sample"] * record["samples"])
        # How long captions are is not known before there is a corpus; all else is.
        assert 0.5 < share <= 1.0 if arm.encoder.objective.reads_text else share == pytest.approx(1.0)


def test_report_draws_the_same_page_again_and_computes_nothing(finished):
    folder, log = finished / "runs" / "tiny", finished / "computed"
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "tables")
    done = paribus(
        finished,
        *("report", finished / "tiny.yaml", "--cache", finished / "cache", "--runs", finished / "runs"),
        before=partial(counting, log),
    )
    assert done.code == 0, done.err
    assert (folder / "report.html").read_bytes() == page
    assert (folder / "tables" / "measures.csv").is_file() and counted(log) == []


def test_audit_passes_what_run_left_and_prints_the_ledger(finished):
    done = paribus(finished, "audit", finished / "tiny.yaml", "--cache", finished / "cache")
    assert done.code == 0, done.out
    assert done.out.rstrip().endswith("all digests agree; every departure is declared")
    assert re.search(r"^  order \(seed 0\): [0-9a-f]{64}$", done.out, re.MULTILINE)
    assert "recipe.weight_decay: clip 0.2, dino 0.04" in done.out


def _set(*path, to):
    def change(stored):
        *parents, last = path
        for parent in parents:
            stored = stored[parent]
        assert stored[last] != to
        stored[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("record", "order", to="0" * 64), r"order \(seed 0\) differs between arms: .*dino 0{64}"),
        (_set("record", "start", to="1" * 64), r"start \(seed 0\) differs between arms: .*dino 1{64}"),
        (_set("record", "data", to="2" * 64), r"data \(seed 0\) differs between arms: .*dino 2{64}"),
        (_set("record", "samples", to=48), r"samples \(seed 0\) differs between arms: .*dino 48"),
        (
            _set("config", "recipe", "lr", to=0.5),
            r"dino \(seed 0\) was made with recipe.lr 0.5, but the study says",
        ),
        (_set("config", "seed", to=7), r"dino \(seed 0\) was made with seed 7, but the study says 0"),
        (_set("config", "corpus", "source", "size", to=64), r"dino .* corpus.source.size 64, but .* 32"),
    ],
    ids=["order", "start", "data", "samples", "rate", "seed", "corpus"],
)
def test_audit_names_what_an_arm_did_otherwise(finished, change, told, capsys, monkeypatch):
    from paribus.study.study import load_study

    arms = {arm.name: arm.encoder for arm in load_study(finished / "tiny.yaml").all_arms()}
    edit_json(finished / "cache" / "stages" / arms["dino"].address() / "record.json", change)
    assert in_process(monkeypatch, "audit", finished / "tiny.yaml", "--cache", finished / "cache") == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAULT: ")]
    assert len(faults) == 1 and re.search(told, faults[0]), faults


def test_audit_of_what_never_ran_says_so(tiny_study, tiny_cache, capsys, monkeypatch):
    assert in_process(monkeypatch, "audit", tiny_study, "--cache", tiny_cache) == 1
    assert "FAULT: clip (seed 0) has no record: run the study first" in capsys.readouterr().out


def test_set_changes_a_study_like_its_file_does(finished, tmp_path, capsys, monkeypatch):
    """An arm costs that arm: all that a change does not touch is cached."""
    change = ("--set", "arms.dino.objective.momentum=0.9")
    assert (
        in_process(monkeypatch, "plan", finished / "tiny.yaml", *change, "--cache", finished / "cache") == 0
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    new = {
        line[0].split("-")[0] for line in lines if len(line) > 1 and "-" in line[0] and line[1] != "cached"
    }
    follows = {"probe", "embedding", "abilities", "align", "instruct", "answer", "compare"}
    assert new == {"pretrain", "extract", *follows}
    kept = {line[0].split("-")[0] for line in lines if line[1:] == ["cached"]}
    assert kept >= {"corpus", "words", "language", "questions", "untrained", "histogram"}


def test_the_corpus_commands(tmp_path, shared_cache, monkeypatch, capsys):
    """`show` and `verify` on the corpus that is there; `build` finds it and draws nothing."""
    from study import STYLES

    from paribus.data.glyphs import GlyphsConfig
    from paribus.study.corpora import Corpus
    from paribus.types import Runtime

    small = GlyphsConfig(size=32, styles=tuple(STYLES), words=60)
    folder = Corpus(source=small).folder(Runtime(cache=shared_cache))
    whole = Corpus(source=GlyphsConfig(size=32))
    cache = tmp_path / "cache"
    (cache / "stages").mkdir(parents=True)
    (cache / "art").symlink_to(shared_cache / "art")
    stored = json.loads((folder / "record.json").read_text())
    shutil.copytree(folder, cache / "stages" / whole.address())
    assert stored["stage"] == "corpus"
    for command, told in (("build", "digest"), ("verify", "is whole"), ("show", "Contact sheet: sheet.png")):
        extra = ("--out", "sheet.png") if command == "show" else ()
        assert (
            in_process(monkeypatch, "corpus", command, "glyphs", "--size", 32, "--cache", cache, *extra) == 0
        )
        assert told in capsys.readouterr().out
    with Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())) as sheet:
        assert min(sheet.size) > 200
    line = ("corpus", "export", "glyphs", "--size", 32, "--cache", cache, "--out", tmp_path / "out")
    assert in_process(monkeypatch, *line) == 0
    table = (tmp_path / "out" / "told.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "file,caption,group,subgroup,concept,style,colour,text" and len(table) > 20
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == len(table) - 1
    assert capsys.readouterr().out == f"{len(table) - 1:,} pictures and told.csv: {tmp_path / 'out'}\n"
    assert in_process(monkeypatch, *line) == 2 and "is there already" in capsys.readouterr().err


def test_the_shipped_quickstart_is_a_study():
    from paribus.study.study import load_study

    study = load_study(QUICKSTART)
    assert study.control.level == "recipe" and study.expect is not None
    assert len(study.stages()) > len(study.arms)


def test_a_place_that_may_not_be_entered_is_one_sentence(monkeypatch, capsys):
    def forbidden(words):
        raise PermissionError(13, "Permission denied", "/secret/mix.json")

    from paribus import cli

    monkeypatch.setattr(cli, "app", forbidden)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "paribus: /secret/mix.json may not be read or written: mend that.\n"
