"""``paribus vlm export | answers`` and ``paribus chat`` on a study that has been run."""

import io
import json
import sys

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from study import Done, leftovers
from vlm.test_export import QUESTION, run_readme

from paribus.study.study import load_study
from paribus.types import Runtime


@pytest.fixture
def paribus(monkeypatch, capsys):
    """``paribus ARGV`` here, under the check of types and shapes; ``typed`` is what a person types."""

    def run(*argv, typed=""):
        from paribus.cli import main

        monkeypatch.setattr(sys, "argv", ["paribus", *map(str, argv)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Done(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(load_sample_image("china.jpg")[:200, :400]).save(path)
    return path


def test_an_arm_goes_out_and_answers_alike_in_both(finished, tmp_path, photo, paribus, monkeypatch, capsys):
    study, cache, out = finished / "tiny.yaml", ("--cache", finished / "cache"), tmp_path / "llava"
    done = paribus("vlm", "export", study, "clip", "--format", "llava", "--out", out, *cache)
    assert (done.code, done.out) == (0, f"llava: {out}\n"), done.err
    picture = load_sample_image("china.jpg")[:200, :400]
    for question in (QUESTION, "Which is it?\nA. red\nB. blue"):
        here = paribus("chat", study, "clip", photo, question, *cache)
        assert here.code == 0, here.err
        assert run_readme(out, picture, monkeypatch, capsys, repr(question)[1:-1]) == here.out.rstrip("\n")
    again = paribus("vlm", "export", study, "clip", "--out", out, *cache)
    assert "is there already" in again.refused()
    assert not leftovers(tmp_path)


def test_questions_are_given_or_typed(finished, photo, paribus):
    line = ("chat", finished / "tiny.yaml", "untrained", photo)
    cache = ("--cache", finished / "cache")
    given = paribus(*line, "What is it?", "Why?", *cache)
    assert given.code == 0, given.err
    typed = paribus(*line, *cache, typed="What is it?\n\n  Why?  \n")
    assert typed.code == 0, typed.err
    assert typed.out.replace("> ", "").split() == given.out.split()
    assert typed.out.count("> ") == 4, "an empty line is passed over, and the end ends it"
    long = "and then " * 200
    typed = paribus(*line, *cache, typed=f"{long}\nWhy?\n")
    assert typed.code == 0
    assert "ask in fewer words" in typed.err
    assert "ask in fewer words" in paribus(*line, long, *cache).refused()
    short = paribus(*line, "What is it?", "--limit", 1, *cache)
    assert len(short.out) <= len(given.out)


def test_refusals_are_one_sentence_and_exit_2(finished, tmp_path, photo, paribus):
    study, cache, out = finished / "tiny.yaml", ("--cache", finished / "cache"), tmp_path / "out"
    broken, torn = tmp_path / "note.png", tmp_path / "torn.png"
    broken.write_text("no picture")
    torn.write_bytes(photo.read_bytes()[:2000])
    no_vqa = ("--set", "measure=[probes]")
    for line, why in (
        (("chat", study, "clip", tmp_path / "none.png", "Why?", *cache), "cannot be read"),
        (("chat", study, "clip", tmp_path, "Why?", *cache), "cannot be read"),
        (("chat", study, "clip", broken, "Why?", *cache), "not a picture, or a damaged one"),
        (("chat", study, "clip", torn, "Why?", *cache), "not a picture, or a damaged one"),
        (
            ("chat", study, "klip", photo, "Why?", *cache),
            "no model of an arm 'klip'; there are clip, dino",
        ),
        (("chat", study, "colour-histogram", photo, "Why?", *cache), "no model of an arm"),
        (("chat", study, "clip", photo, "Why?", "--seed", 7, *cache), "no such seed; there are 0"),
        (("chat", study, "clip", photo, "Why?", *cache, *no_vqa), "add vqa to measure"),
        (("chat", study, "clip", photo, "Why?", "--cache", out), f"run `paribus run {study}` first"),
        (("vlm", "export", study, "clip", "--out", out, "--cache", out / "x"), "is not done in"),
        (
            ("vlm", "answers", study, "clip", "--out", out, *cache),
            "clip is not asked 'vmcbench': choose with --benchmark one of glyphqa",
        ),
        (
            ("vlm", "answers", study, "clip", "--benchmark", "glyphqa", "--out", out, "--cache", out / "x"),
            "What clip answers to glyphqa is not done in",
        ),
        (("vlm", "answers", study, "colour-histogram", "--out", out, *cache), "no model of an arm"),
        (("vlm", "check", study, *cache), "teaches no model with conversations"),
        (("vlm", "check", study, *cache, *no_vqa), "teaches no model with conversations"),
        (("vlm", "export", tmp_path / "no.yaml", "clip", "--out", out, *cache), "no.yaml"),
    ):
        assert why in paribus(*line).refused()
        assert not out.exists()
    assert paribus("vlm", "export", study, "clip", "--out", out, "--format", "gguf", *cache).code == 2
    assert not leftovers(tmp_path)


def test_answers_go_out_as_they_were_scored(finished, tmp_path, paribus):
    line = ("vlm", "answers", finished / "tiny.yaml", "clip", "--benchmark", "glyphqa", "--out")
    cache = ("--cache", finished / "cache")
    done = paribus(*line, tmp_path / "a.json", *cache)
    assert (done.code, done.out) == (0, f"40 answers: {tmp_path / 'a.json'}\n"), done.err
    rows = json.loads((tmp_path / "a.json").read_text())
    study = load_study(finished / "tiny.yaml")
    (answer,) = next(branch.answers for branch in study.branches() if branch.name == "clip")
    runtime = Runtime(cache=finished / "cache")
    correct, benchmark = answer.open(runtime).correct, answer.questions.test(runtime)
    questions = [benchmark.question(place) for place in range(len(benchmark))]  # with letters, as published
    assert [row["index"] for row in rows] == [question.key for question in questions]
    told = [row["prediction"] == question.answer for row, question in zip(rows, questions, strict=True)]
    assert told == correct["seen"].tolist()
    assert "is there already" in paribus(*line, tmp_path / "a.json", *cache).refused()


def test_a_damaged_model_is_refused(finished, tmp_path, paribus):
    for path in (finished / "cache" / "stages").glob("instruct-*/language.safetensors"):
        path.unlink()
    line = (finished / "tiny.yaml", "clip", "--cache", finished / "cache", "--out", tmp_path / "out")
    assert "is damaged or missing" in paribus("vlm", "export", *line).refused()
    assert not (tmp_path / "out").exists()
