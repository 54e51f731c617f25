"""Paribus' models and questions in lmms-eval: what is written, what is asked, and the same answers there."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_image
from study import leftovers

from paribus.cli_lmms import task
from paribus.data.conversations import decode_picture
from paribus.errors import UserError
from paribus.lmms import scores
from paribus.lmms.asking import query
from paribus.lmms.settings import LIMIT, Settings, Writing, read_settings, read_writing
from paribus.lmms.task import write_task
from paribus.peers import mend_torchvision
from paribus.study.answers import Asking
from paribus.study.finished import Finished, Query
from paribus.study.study import load_study
from paribus.types import Runtime
from paribus.vqa import scoring
from paribus.vqa.benchmark import Question, prompt

CHINA = load_sample_image("china.jpg")
LETTERED = Question(
    0, "What is it?", ("a temple", "a boat"), "A", "General", CHINA[:30, :40], "photos", "photo-0"
)
PLAIN = Question(
    1,
    "Is there a\n<sky>, 'blue' & wide: yes?",
    ("Yes", "No"),
    "No",
    "OCR",
    CHINA[50:61, :7],
    "photos",
    "photo-1",
    group="pair",
    lettered=False,
)


@dataclass(frozen=True)
class Few:
    """A benchmark of a few questions."""

    questions: tuple[Question, ...] = (LETTERED, PLAIN)
    digest: str = "few"

    def __len__(self):
        return len(self.questions)

    def question(self, index, /):
        return self.questions[index]


class Loader(yaml.SafeLoader):
    """Reads functions as their names."""


Loader.add_constructor("!function", lambda loader, node: ("function", loader.construct_scalar(node)))


def read_task(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def arm_of(folder: Path, name: str = "clip"):
    """The stage that asks an arm, and where it lies."""
    branches = {branch.name: branch for branch in load_study(folder / "tiny.yaml", ()).branches()}
    return branches[name].answers[0], Runtime(cache=folder / "cache")


# What is written.


def test_a_table_holds_the_questions_as_they_are_asked(tmp_path):
    assert write_task(Few(), "lmms-eval", tmp_path, "few") == ("few", "few_options")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.parquet", "few.yaml", "few_options.yaml"]
    table = pq.read_table(tmp_path / "few.parquet")
    for row, question in zip(table.to_pylist(), (LETTERED, PLAIN), strict=True):
        assert row["prompt"] == prompt(question, "lmms-eval")
        assert (tuple(row["options"]), tuple(row["says"])) == (question.options, question.says)
        for field in ("key", "answer", "category", "source", "group", "lettered"):
            assert row[field] == getattr(question, field)
        assert (np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) == question.image).all()
    told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(told) == table.column_names
    assert told["image"] == {"_type": "Image"}


def test_where_no_options_are_listed_they_are_said(tmp_path):
    write_task(Few(), "words", tmp_path, "few")
    first, second = pq.read_table(tmp_path / "few.parquet").to_pylist()
    assert (first["prompt"], first["says"], first["answer"]) == (
        "What is it?",
        ["a temple", "a boat"],
        "a temple",
    )
    assert (second["says"], second["answer"]) == (["Yes", "No"], "No")
    assert scores.written(first, ["A temple."]) == {"acc": 1.0, "unparsed": 0.0}


def test_tasks_say_what_to_do_with_it(tmp_path):
    write_task(Few(), "short", tmp_path, "few")
    written, options = (read_task(tmp_path / f"{name}.yaml") for name in ("few", "few_options"))
    for each, name in ((written, "few"), (options, "few_options")):
        assert each["task"] == name
        assert each["dataset_kwargs"] == {"data_files": {"test": "few.parquet"}}
        assert each["metadata"] == {"version": 1, "template": "{question}\n{options}", "digest": "few"}
        kind, function = each["process_results"]
        module, _, last = function.rpartition(".")
        assert kind == "function"
        assert callable(getattr(importlib.import_module(module), last))
    assert written["output_type"] == "generate_until"
    assert read_writing(written["generation_kwargs"]) == Writing(LIMIT, ())
    assert (options["output_type"], options["target_delimiter"]) == ("multiple_choice", "")


def test_what_cannot_be_scored_is_not_written(tmp_path):
    hidden = replace(LETTERED, answer="")
    for benchmark, template, why in (
        (Few((LETTERED, hidden)), "short", "no published answer"),
        (Few(()), "short", "no questions"),
        (Few(), "long", "No prompt template"),
    ):
        with pytest.raises(UserError, match=why):
            write_task(benchmark, template, tmp_path / "out", "few")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_study_writes_what_it_asked(finished, tmp_path, capsys):
    study, cache, out = finished / "tiny.yaml", finished / "cache", tmp_path / "tasks"
    with pytest.raises(UserError, match="run `paribus run"):
        task(study, out, cache=tmp_path / "none")
    with pytest.raises(UserError, match="add vqa to measure"):
        task(study, out, change=["measure=[probes]"], cache=cache)
    task(study, out, cache=cache)
    assert capsys.readouterr().out == f"{out}: paribus_glyphqa, paribus_glyphqa_options\n"
    answer, runtime = arm_of(finished)
    benchmark = answer.questions.test(runtime)
    rows = pq.read_table(out / "paribus_glyphqa.parquet").to_pylist()
    assert len(rows) == len(benchmark) == 40
    for index, row in enumerate(rows):
        assert row["prompt"] == prompt(benchmark.question(index), answer.ask.template)
    with pytest.raises(UserError, match="is there already"):
        task(study, out, cache=cache)
    assert not leftovers(tmp_path)


def test_scores_are_those_of_paribus(tmp_path):
    write_task(Few(), "short", tmp_path, "few")
    rows = pq.read_table(tmp_path / "few.parquet").to_pylist()
    for text in ("A", "(B) a boat", "a temple", "yes, and no", "No.", "", "it is a boat"):
        for row, question in zip(rows, (LETTERED, PLAIN), strict=True):
            parsed = scoring.score_texts([text], [question])
            assert scores.written(row, [text]) == {"acc": parsed.correct[0], "unparsed": parsed.unparsed[0]}
    lettered, plain = rows
    assert scores.likeliest(lettered, [(0.5, True), (0.7, False)]) == {"acc": 1.0}
    assert scores.likeliest(plain, [(0.5, True), (0.7, False)]) == {"acc": 0.0}
    assert scores.likeliest(lettered, [(0.5, True), (0.5, True)]) == {"acc": 0.0}, "a tie is wrong"


# What is said to it.


def test_arguments_are_read_as_lmms_eval_hands_them_over():
    given = {"study": "s.yaml", "arm": 7, "cache": 2026, "seed": 1, "batch_size": "64", "device": "cpu"}
    changes = {"change": "control.budget.samples=64;measure=[probes,vqa]"}
    assert read_settings(given | changes) == Settings(
        study=Path("s.yaml"),
        arm="7",
        cache=Path("2026"),
        seed=1,
        change=("control.budget.samples=64", "measure=[probes,vqa]"),
        batch_size=64,
        device="cpu",
    )
    assert read_settings({"study": "s.yaml", "arm": "clip"}).change == ()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"arm": "clip"}, "study: field required"),
        ({"study": "s.yaml", "arm": "clip", "pretrained": "x"}, "pretrained is not a known key"),
        ({"study": "s.yaml", "arm": "clip", "seed": "first"}, "seed: .* integer"),
        ({"study": "s.yaml", "arm": "clip", "batch_size": "auto"}, "batch_size: .* integer"),
        ({"study": "s.yaml", "arm": "clip", "device": "abacus"}, "device: .* use auto or cpu"),
    ],
)
def test_wrong_arguments_are_refused(given, why):
    with pytest.raises(UserError, match=f"^--model_args: {why}.*; a model of Paribus is told study, arm"):
        read_settings(given)


def test_wishes_of_a_task_are_read():
    assert read_writing({}) == Writing(LIMIT, ())
    greedy = {"do_sample": False, "temperature": 0, "top_p": None, "num_beams": 1, "until": "\n\n"}
    assert read_writing({**greedy, "max_new_tokens": 5}) == Writing(5, ("\n\n",))
    assert read_writing({"do_sample": True, "temperature": 0.0, "until": ["", "."]}) == Writing(LIMIT, (".",))
    assert Writing(5, ("stop", "\n")).cut("one\ntwo stop") == "one"
    assert Writing(5, ("stop", "\n")).cut("two stop\n") == "two"
    assert Writing(5, ()).cut("one\ntwo") == "one\ntwo"
    for wishes in ({"temperature": 0.2}, {"do_sample": True}, {"num_beams": 3, "do_sample": False}):
        with pytest.raises(UserError, match="likeliest word each time: say --gen_kwargs"):
            read_writing(wishes)


# What it is asked.


def test_a_question_has_one_picture_or_none():
    picture = Image.fromarray(CHINA)
    assert query("What?", None) == query("<image>\nWhat?", [None]) == Query("What?", None)
    asked = query("What is <image>this?\ud800", [picture])
    assert asked.text == "What is this??"
    assert (asked.picture == CHINA).all()
    with pytest.raises(UserError, match="comes with 2 pictures and this model looks at one: choose tasks"):
        query("What?", [picture, picture])
    for other in ("film.mp4", {"array": [0.0]}):
        with pytest.raises(UserError, match=f"comes with a {type(other).__name__}, which is no picture"):
            query("What?", [other])
    with pytest.raises(UserError, match="mode F cannot be shown"):
        query("What?", [Image.new("F", (4, 4))])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pictures_are_read_as_from_files(mode):
    if mode == "I;16":
        picture = Image.fromarray(CHINA[:20, :20, 0].astype(np.uint16) * 200)
    else:
        picture = Image.fromarray(np.dstack([CHINA, CHINA[..., :1]])[:20, :20]).convert(mode)
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert (query("", [picture]).picture == decode_picture(file.getvalue())).all()


def test_pictures_that_no_png_holds_are_converted():
    picture = Image.fromarray(CHINA[:20, :20]).convert("CMYK")
    assert (query("", [picture]).picture == np.asarray(picture.convert("RGB"))).all()


def asked_by_both(folder: Path, template: str | None = None):
    """An arm as lmms-eval asks it and as Paribus does, and the questions as lmms-eval hands them over."""
    answer, runtime = arm_of(folder)
    template = template or answer.ask.template
    ask = answer.ask.model_copy(update={"template": template})
    model = answer.vlm.open(runtime).eval()
    asking = Asking(model, answer.questions.test(runtime), ask, answer.vlm, runtime)
    queries = [
        query(prompt(question, template), [Image.fromarray(question.image)]) for question in asking.questions
    ]
    return Finished(answer.vlm, template, runtime), asking, queries


@pytest.fixture
def both(finished):
    return asked_by_both(finished)


@pytest.mark.parametrize("template", ["vmcbench", "short", "words"])
def test_answers_are_those_of_paribus(finished, template):
    asked, asking, queries = asked_by_both(finished, template)
    says = [question.says for question in asking.questions]
    texts = asking.written()
    assert asked.write(queries, LIMIT) == texts
    found = asked.options(queries, says)
    assert ([[reply.score for reply in row] for row in found] == asking.scores("seen")).all()
    if template == "words":
        would = [[said == text for said in row] for row, text in zip(says, texts, strict=True)]
        assert [[reply.greedy for reply in row] for row in found] == would
    blind = asked.options([each._replace(picture=None) for each in queries], says)
    assert ([[reply.score for reply in row] for row in blind] == asking.scores("no image")).all()


def test_pictures_and_none_may_be_mixed(both):
    asked, _, queries = both
    mixed = [each._replace(picture=None) if row % 3 == 0 else each for row, each in enumerate(queries)]
    says = [("A", "B")] * len(mixed)
    together = [reply.score for row in asked.options(mixed, says) for reply in row]
    alone = [reply.score for each in mixed for reply in asked.options([each], says[:1])[0]]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    seen = [reply.score for row in asked.options(queries, says) for reply in row]
    assert np.abs(np.subtract(seen, together)).max() > 0, "a picture is looked at"


def test_the_likeliest_word_of_all_is_greedy(finished, monkeypatch):
    asked, _, queries = asked_by_both(finished, "short")
    first, second = (asked.model.chat.first(word) for word in "AB")
    likely = torch.full((1, 400), -5.0)
    likely[0, first], likely[0, second] = -0.5, -1.0
    monkeypatch.setattr(asked.model, "next_words", lambda batch: likely)
    assert asked.options(queries[:1], [("A", "B")]) == [[(-0.5, True), (-1.0, False)]]
    assert asked.options(queries[:1], [("B", "C")]) == [[(-1.0, False), (-5.0, False)]]
    with pytest.raises(UserError, match="begin with one token"):
        asked.options(queries[:1], [("A", "A")])


def test_what_is_too_long_is_told(both, caplog):
    asked, _, queries = both
    assert not caplog.records
    asked.write([queries[0]._replace(text="and then " * 400)], 1)
    assert "its end may be lost" in caplog.text


# In lmms-eval itself.

TEXT_ALONE = """
task: text_alone
dataset_path: parquet
dataset_kwargs: {data_files: {test: paribus_glyphqa.parquet}}
test_split: test
doc_to_text: prompt
doc_to_target: answer
output_type: generate_until
generation_kwargs: {max_new_tokens: 4, until: []}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TWO_PICTURES = f"""{TEXT_ALONE.replace("text_alone", "two_pictures")}
doc_to_visual: !function twice.twice
"""


@pytest.fixture
def lmms_eval(finished, tmp_path):
    """``python -m paribus.lmms eval`` of a finished arm; its end, and its samples by task."""
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed here: it lives in an environment of its own")
    task(finished / "tiny.yaml", tmp_path / "tasks", cache=finished / "cache")

    def run(*tasks, arm="clip"):
        out = tmp_path / "out"
        line = [sys.executable, "-m", "paribus.lmms", "eval", "--model", "paribus", "--batch_size", "64"]
        line += ["--model_args", f"study={finished / 'tiny.yaml'},arm={arm},cache={finished / 'cache'}"]
        line += ["--tasks", ",".join(tasks), "--include_path", str(tmp_path / "tasks")]
        line += ["--output_path", str(out), "--log_samples"]
        environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        samples = {}
        for name in tasks:
            for path in out.glob(f"*_samples_{name}.jsonl"):
                with path.open(encoding="utf-8") as lines:  # an answer may hold what splitlines splits at
                    samples[name] = sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
        return done, samples

    return run


def test_lmms_eval_hears_the_same_answers(lmms_eval, both, tmp_path):
    (tmp_path / "tasks" / "text_alone.yaml").write_text(TEXT_ALONE)
    asked, asking, queries = both
    done, samples = lmms_eval("paribus_glyphqa", "paribus_glyphqa_options", "text_alone")
    assert len(samples) == 3, done.stdout + done.stderr
    texts, seen = asking.written(), asking.scores("seen")
    parsed = scoring.score_texts(texts, asking.questions)
    written, options, alone = samples.values()
    assert [row["filtered_resps"] for row in written] == texts
    assert [row["acc"] for row in written] == parsed.correct.tolist()
    assert [row["unparsed"] for row in written] == parsed.unparsed.tolist()
    heard = [[-float(loss) for loss, _ in row["filtered_resps"]] for row in options]
    np.testing.assert_allclose(heard, seen, atol=1e-6)
    right = scoring.score(seen.astype(np.float64), asking.questions)
    assert [row["acc"] for row in options] == right.tolist()
    blind = asked.write([each._replace(picture=None) for each in queries], 4)
    assert [row["filtered_resps"] for row in alone] == blind


def test_lmms_eval_tells_what_is_wrong(lmms_eval, tmp_path):
    (tmp_path / "tasks" / "two_pictures.yaml").write_text(TWO_PICTURES)
    (tmp_path / "tasks" / "twice.py").write_text("def twice(row):\n    return [row['image']] * 2\n")
    done, samples = lmms_eval("two_pictures")
    assert not samples
    assert "A question comes with 2 pictures and this model looks at one" in done.stdout + done.stderr
    done, samples = lmms_eval("paribus_glyphqa", arm="klip")
    assert not samples
    assert "has no model of an arm 'klip'" in done.stdout + done.stderr


def test_what_a_model_cannot_do_is_said(finished, monkeypatch):
    mend_torchvision()
    pytest.importorskip("lmms_eval", reason="lmms-eval lives in an environment of its own")
    from lmms_eval.models import get_model

    kind = get_model("paribus")
    line = f"study={finished / 'tiny.yaml'},arm=clip,cache={finished / 'cache'}"
    model = kind.create_from_arg_string(line, {"batch_size": "8", "device": "cpu"})
    assert (model.batch_size, model.is_simple) == (8, True)
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process: start lmms-eval without accelerate"):
        kind.create_from_arg_string(line)
