"""Whatever is wrong with what a user gives: exit code 2, one sentence that names it, nothing half-written."""

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import pytest

from study import (
    begin,
    checkpoint_always,
    copied,
    cut,
    edit_json,
    leftovers,
    paribus,
    reached,
    records,
    small_disk,
    small_settings,
    write_study,
)

NOBODY = 65534
NEVER = "http://127.0.0.1:9"
"""No one listens there."""
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to look for a registry")


@pytest.fixture
def refuse(tmp_path, tiny_cache):
    """Run ``paribus run STUDY`` on a new cache; the sentence, after a look that nothing was begun."""

    def run(study, *more):
        places = ("--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1")
        sentence = paribus(tmp_path, "run", study, *places, *more).refused()
        assert len(records(tiny_cache)) == 1
        assert not (tmp_path / "runs").exists() and not leftovers(tiny_cache / "stages", tmp_path)
        return sentence

    return run


def tells(sentence, *parts):
    """All parts must stand in the sentence."""
    for part in parts:
        assert re.search(part, sentence), sentence


# The study file and the command line.


def test_unknown_key(tmp_path, refuse):
    settings = small_settings()
    settings["control"]["budjet"] = settings["control"].pop("budget")
    tells(refuse(write_study(tmp_path, settings)), r"tiny\.yaml: control\.budget", "field required")
    settings["control"]["budget"] = settings["control"].pop("budjet") | {"epochs": 3}
    tells(refuse(write_study(tmp_path, settings)), r"control\.budget\.epochs is not a known key")


def test_wrong_type(tmp_path, refuse):
    settings = small_settings()
    settings["control"]["encoder"]["width"] = "wide"
    tells(refuse(write_study(tmp_path, settings)), r"control\.encoder\.width", "'wide'", "integer")


def test_unknown_objective(tmp_path, refuse):
    settings = small_settings()
    settings["arms"]["clip"]["objective"]["kind"] = "clap"
    tells(refuse(write_study(tmp_path, settings)), r"arms\.clip\.objective", "'clap'", "'clip', 'dino'")


def test_no_such_study(tmp_path, refuse):
    tells(refuse(tmp_path / "nowhere.yaml"), r"no study file .*nowhere\.yaml", "give the path")


def test_yaml_that_is_no_mapping(tmp_path, refuse):
    path = tmp_path / "list.yaml"
    path.write_text("- one\n- two\n")
    tells(refuse(path), r"list\.yaml holds no study", "mapping")


def test_yaml_that_is_no_yaml(tmp_path, refuse):
    path = tmp_path / "broken.yaml"
    path.write_text("control: {budget: [\n")
    tells(refuse(path), r"broken\.yaml is not valid YAML")


def test_set_with_a_bad_path(tiny_study, refuse):
    tells(refuse(tiny_study, "--set", "control.bugdet.samples=3"), r"control\.bugdet is not a known key")
    tells(refuse(tiny_study, "--set", "hypothesis.x=3"), "--set hypothesis.x=3", "not a mapping")
    tells(refuse(tiny_study, "--set", "control.budget"), "--set control.budget", "path=value")


def test_unknown_caption_policy(tiny_study, refuse):
    change = ("--set", "control.data.captions=poem")
    tells(refuse(tiny_study, *change), r"control\.data\.captions", "'poem'", "choose one of .*thing")


def test_unknown_style(tmp_path, refuse):
    settings = small_settings()
    settings["control"]["data"]["source"]["styles"] = ["emojione", "cubism"]
    tells(refuse(write_study(tmp_path, settings)), "Unknown style 'cubism'", "choose among .*emojione")


def test_a_corpus_too_small_for_the_questions(tmp_path, refuse):
    settings = small_settings()
    settings["control"]["data"]["source"]["words"] = 100_000
    tells(refuse(write_study(tmp_path, settings)), "words=100000", "set fewer words")


def test_a_confound_that_leads_nowhere(tmp_path, refuse):
    settings = small_settings()
    settings["arms"]["dino"]["confounds"] = [{"path": "recipe.rate", "value": 1, "why": "w", "source": "s"}]
    tells(refuse(write_study(tmp_path, settings)), r"arms\.dino\.confounds", r"recipe\.rate")


def test_device_nonsense(tiny_study, refuse):
    tells(refuse(tiny_study, "--device", "abacus"), "--device abacus", "abacus", "use auto or cpu")


def test_an_unknown_corpus(tmp_path):
    done = paribus(tmp_path, "corpus", "build", "photos", "--cache", tmp_path / "cache")
    tells(done.refused(), "no corpus 'photos'", "glyphs")
    assert not (tmp_path / "cache").exists()


# Folders and disks.


def test_a_cache_that_is_a_file(tmp_path, tiny_study):
    (tmp_path / "cache").write_text("mine")
    done = paribus(tmp_path, "run", tiny_study, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs")
    tells(done.refused(), f"Cannot write to {tmp_path}/cache/.*: choose a folder")
    assert (tmp_path / "cache").read_text() == "mine"


def test_runs_that_are_a_file(finished):
    (finished / "mine").write_text("mine")
    places = ("--cache", finished / "cache", "--runs", finished / "mine")
    done = paribus(finished, "run", finished / "tiny.yaml", *places)
    tells(done.refused(), f"Cannot write to {finished}/mine/.*: choose a folder")
    assert (finished / "mine").read_text() == "mine"


def test_an_art_folder_with_other_files_in_it(tmp_path, tiny_study):
    art = tmp_path / "cache" / "art"
    art.mkdir(parents=True)
    (art / "thesis.tex").write_text("mine")
    done = paribus(tmp_path, "run", tiny_study, "--cache", tmp_path / "cache", "--workers", "1")
    tells(done.refused(), "holds other files", str(art), "choose an empty or new folder")
    assert [path.name for path in art.iterdir()] == ["thesis.tex"]


@pytest.fixture
def locked():
    """A folder outside of pytest's own, in which this user, or nobody, may not write; and a study in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        study = write_study(folder)
        (folder / "locked").mkdir(mode=0o555)
        yield folder, study
        (folder / "locked").chmod(0o755)
    assert study


def test_a_cache_that_may_not_be_written_to(locked, tmp_path):
    folder, study = locked
    before = None if os.getuid() else partial(os.setuid, NOBODY)
    cache = folder / "locked" / "cache"
    done = paribus(tmp_path, "run", study, "--cache", cache, "--runs", folder / "runs", before=before)
    tells(done.refused(), f"Cannot write to {cache}", "choose a folder you may write to")
    assert list((folder / "locked").iterdir()) == []


def test_a_disk_with_too_little_room_is_refused_at_once(tmp_path, tiny_study):
    try:
        with small_disk(tmp_path / "disk", 4096) as disk:
            done = paribus(
                tmp_path, "run", tiny_study, "--cache", disk / "cache", "--runs", tmp_path / "runs"
            )
            tells(done.refused(), f"{disk}/cache has [34] MB free", "600 MB", "free some space")
            assert list(disk.iterdir()) == []
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kilobytes", [40, 160, 320])
def test_a_disk_that_fills_up_on_the_way(tmp_path, tiny_study, tiny_cache, kilobytes):
    """What did not fit leaves nothing; what was done before stays done and is not done again."""
    from paribus.errors import UserError
    from paribus.study.run import execute
    from paribus.study.study import load_study
    from paribus.types import Runtime

    study = load_study(tiny_study, ("measure=[probes]", "baselines=[]"))
    try:
        with small_disk(tmp_path / "disk", kilobytes) as disk:
            runtime = Runtime(cache=copied(tiny_cache, disk / "cache"), workers=1)
            with pytest.raises(UserError, match=rf"No space left on the disk that holds {disk}.*: free some"):
                execute(study, runtime, lambda line: None)
            assert not leftovers(runtime.cache / "stages")
            done = records(runtime.cache)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            lines = []
            execute(study, runtime, lines.append)
            assert f"stages, {len(done)} of them done" in lines[0]
            assert records(runtime.cache).items() >= done.items()
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [1000, 30_000])
def test_a_file_that_may_not_grow(tmp_path, tiny_study, tiny_cache, size):
    """The same without root: the kernel refuses files over a size (also how quotas end)."""
    places = ("--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1")
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    done = paribus(tmp_path, "run", tiny_study, *places, before=limit)
    tells(done.refused(), "No space left on the disk that holds", "free some and run again")
    assert not (tmp_path / "runs").exists() and not leftovers(tiny_cache / "stages")


def test_a_report_that_does_not_fit(finished, tmp_path):
    try:
        with small_disk(tmp_path / "disk", 40) as disk:
            places = ("--cache", finished / "cache", "--runs", disk / "runs")
            done = paribus(finished, "run", finished / "tiny.yaml", *places)
            tells(done.refused(), f"No space left on the disk that holds {disk}")
            assert not leftovers(disk)
    except PermissionError as error:
        pytest.skip(str(error))


# Art.


@needs_npm
def test_no_registry(tmp_path):
    environment = {"npm_config_registry": NEVER, "npm_config_cache": str(tmp_path / "npm")}
    done = paribus(
        tmp_path, "corpus", "build", "glyphs", "--cache", tmp_path / "cache", environment=environment
    )
    tells(done.refused(), "npm could not install the art", "ECONNREFUSED", "check the network")
    assert not (tmp_path / "cache" / "art").exists() and not leftovers(tmp_path / "cache")
    assert records(tmp_path / "cache") == {}


@needs_npm
def test_an_empty_art_folder_and_no_registry(tmp_path, tiny_study, tiny_cache):
    """The corpus is there, so only what draws more of it finds out."""
    (tiny_cache / "art").unlink()
    (tiny_cache / "art").mkdir()
    environment = {"npm_config_registry": NEVER, "npm_config_cache": str(tmp_path / "npm")}
    done = paribus(tmp_path, "run", tiny_study, "--cache", tiny_cache, environment=environment)
    tells(done.refused(), "npm could not install the art", "check the network")
    assert list((tiny_cache / "art").iterdir()) == []


@pytest.fixture
def tampered(tiny_cache):
    """An art folder like the real one, but for one letter in one package."""
    real = (tiny_cache / "art").resolve()
    art = tiny_cache / "own-art"
    for package in real.glob("node_modules/*"):
        for part in package.iterdir() if package.name.startswith("@") else [package]:
            link = art / part.relative_to(real)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(part)
    shutil.copy(real / "package.json", art)
    changed = art / "node_modules" / "emoji.json"
    changed.unlink()
    shutil.copytree(real / "node_modules" / "emoji.json", changed)
    path = changed / "emoji.json"
    path.write_text(path.read_text().replace("grinning", "grimming", 1))
    (tiny_cache / "art").unlink()
    art.rename(tiny_cache / "art")
    return tiny_cache


def test_a_tampered_package(tmp_path, tampered, tiny_study):
    for corpus in tampered.glob("stages/corpus-*"):
        corpus.unlink()
    done = paribus(tmp_path, "run", tiny_study, "--cache", tampered, "--workers", "1")
    tells(done.refused(), "package emoji.json in .* is not what was pinned", "delete the folder")
    assert records(tampered) == {} and not leftovers(tampered / "stages")


def test_a_package_tampered_with_after_the_corpus_was_drawn(tmp_path, tampered, tiny_study):
    """Questions and symbols are drawn from the art too."""
    done = paribus(tmp_path, "run", tiny_study, "--cache", tampered, "--workers", "1")
    tells(done.refused(), "package emoji.json in .* is not what was pinned")
    done = {address.split("-")[0] for address in records(tampered)}
    assert not done & {"questions", "extract"}


def test_verify_finds_a_tampered_package(tmp_path, tampered):
    done = paribus(tmp_path, "corpus", "verify", "glyphs", "--cache", tampered)
    tells(done.refused(), "emoji.json", "not what was pinned")


# What is in the cache.


def again(folder, *more):
    places = ("--cache", folder / "cache", "--runs", folder / "runs", "--workers", "1")
    return paribus(folder, "run", folder / "tiny.yaml", *places, *more)


def stage_folder(cache, kind):
    """The folder of some stage of a kind, to be spoilt: a copy where it was a link."""
    folder = sorted(cache.glob(f"stages/{kind}-*"))[0]
    if folder.is_symlink():
        real = folder.resolve()
        folder.unlink()
        shutil.copytree(real, folder)
    return folder


@pytest.mark.parametrize("name", ["images.bin", "table.parquet", "meta.json"])
def test_a_corpus_cut_in_half(tmp_path, tiny_study, tiny_cache, name):
    from paribus.study.study import load_study
    from paribus.types import Runtime

    folder = load_study(tiny_study).corpus.folder(Runtime(cache=tiny_cache))
    real = folder.resolve()
    folder.unlink()
    shutil.copytree(real, folder)
    cut(folder / "glyphs" / name)
    done = paribus(tmp_path, "run", tiny_study, "--cache", tiny_cache)
    tells(done.refused(), rf"{folder}/glyphs/{name} is damaged", f"delete {folder} and run again")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pretrain", "encoder.safetensors"),
        ("pretrain", "record.json"),
        ("words", "tokenizer.json"),
        ("extract", "features.safetensors"),
        ("questions", "glyphqa/images.bin"),
        ("answer", "scores.safetensors"),
        ("probe", "answers.parquet"),
        ("language", "language.safetensors"),
        ("untrained", "record.json"),
        ("compare", "record.json"),
    ],
)
def test_a_file_cut_in_half(finished, kind, name):
    """And what the sentence tells to do mends it: for the encoder, tried out to the end."""
    folder = stage_folder(finished / "cache", kind)
    cut(folder / name)
    told = again(finished).refused()
    tells(told, rf"{folder}/{name} is damaged", f"delete {folder} and run again")
    audited = paribus(finished, "audit", finished / "tiny.yaml", "--cache", finished / "cache")
    assert audited.code == (2 if kind == "pretrain" or name == "record.json" else 0)
    if (kind, name) == ("pretrain", "encoder.safetensors"):
        before = json.loads((folder / "record.json").read_text())["record"]
        shutil.rmtree(folder)
        assert again(finished).code == 0
        after = json.loads((folder / "record.json").read_text())["record"]
        assert {**before, "seconds": 0, "peak_memory_mb": 0} == {**after, "seconds": 0, "peak_memory_mb": 0}


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json"])
def test_a_checkpoint_cut_in_half(tmp_path, tiny_study, tiny_cache, name):
    from paribus.study.study import load_study

    changes = ("--set", "measure=[]", "--set", "baselines=[]", "--set", "control.budget.samples=640")
    line = ("run", tiny_study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1", *changes)
    arm = load_study(tiny_study, changes[1::2]).all_arms()[0].encoder
    folder = tiny_cache / "stages" / arm.address() / ".checkpoints"
    command = begin(tmp_path, *line, before=partial(checkpoint_always, tmp_path / "begun"))
    assert command.kill_when(partial(reached, folder, 4)), command.stderr.read_text()
    newest = sorted(folder.glob("step-*"))[-1]
    cut(newest / name)
    done = paribus(tmp_path, *line)
    tells(done.refused(), f"checkpoint {newest} is damaged", "delete that folder and run again")
    assert not (newest.parents[1] / "record.json").exists()
    shutil.rmtree(newest)
    assert paribus(tmp_path, *line).code == 0


# Results.


def report(folder):
    places = ("--cache", folder / "cache", "--runs", folder / "runs")
    return paribus(folder, "report", folder / "tiny.yaml", *places)


def test_results_that_are_damaged(finished):
    path = finished / "runs" / "tiny" / "results.json"
    page = path.with_name("report.html")
    drawn = page.read_bytes()
    whole = path.read_bytes()
    cut(path)
    tells(report(finished).refused(), r"results\.json is not JSON", "run the study again")
    path.write_bytes(whole)
    edit_json(path, lambda found: found["measures"][3].update(value="high"))
    tells(report(finished).refused(), r"does not fit the results schema at measures\[3\]\.value", "'high'")
    path.write_bytes(whole)
    edit_json(path, lambda found: found.pop("ledger"))
    tells(report(finished).refused(), "results schema", "'ledger' is a required property")
    path.unlink()
    tells(report(finished).refused(), rf"Cannot read {path}")
    assert page.read_bytes() == drawn and not leftovers(finished / "runs")


def test_a_wrong_option_is_told_by_the_command_line_itself(tmp_path, tiny_study):
    done = paribus(tmp_path, "run", tiny_study, "--learning-rate", "3")
    assert done.code == 2 and "--learning-rate" in done.err and "Traceback" not in done.err
