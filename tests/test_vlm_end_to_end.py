"""From files in their published layouts to the report: LLaVA's conversations, VMCBench's questions.

One small study is run once, as a person would run it; the tests look at what it left.
"""

import csv
import io
import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import transformers as hf
from encoders.checkpoints import TOWER
from PIL import Image
from sklearn.datasets import load_sample_image
from study import counted, counting, leftovers, paribus, records, results, small_settings, write_study
from vlm.test_language import saved
from vqa.published import SOURCES, vmcbench_rows, write_parquet

from paribus.study.answers import GUESSES, HARNESSES, _read_elsewhere
from paribus.study.overlap import overlaps
from paribus.study.stage import walk
from paribus.study.study import load_study
from paribus.types import NOTHING, Runtime
from paribus.vqa import compat, scoring
from paribus.vqa.benchmark import Question
from paribus.vqa.vmcbench import SOURCES as CATEGORIES

ASKED = "Which way does the sky lie?"
"""A question that is both learnt from and asked."""


# What is given.


def crop(number):
    """A piece of a photograph as JPEG; no two are alike, nor of one shape."""
    rng = np.random.default_rng(number)
    whole = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
    top, left = int(rng.integers(0, 300)), int(rng.integers(0, 500))
    buffer = io.BytesIO()
    piece = whole[top : top + 60 + number, left : left + 100 - number]
    Image.fromarray(piece).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def said(*texts):
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


PICTURES = {
    **{f"coco/train2017/{number:012d}.jpg": crop(number) for number in range(8)},
    **{f"gqa/images/{number}.jpg": crop(number) for number in range(8, 14)},
    **{f"textvqa/train_images/{number}.jpg": crop(number) for number in range(14, 18)},
}
BROKEN = {"vg/VG_100K/1.jpg": crop(0)[:300], "vg/VG_100K/2.jpg": b"<html>gone</html>"}
SHOWN = "coco/train2017/000000000000.jpg"

GOOD = [
    *(
        {
            "id": name,
            "image": name,
            "conversations": said(
                f"<image>\n{ASKED}", f"To the top of {place}.", "And the ground?", "Below it."
            ),
        }
        for place, name in enumerate(PICTURES)
    ),
    {"id": "q", "image": SHOWN, "conversations": said("Is it a roof?\n<image>", "Yes")},
    *(
        {"id": f"t{number}", "conversations": said("Count on.", f"{number}, and more.")}
        for number in range(4)
    ),
]
LOST = {
    "ocr_vqa": [("image missing", {"image": "ocr_vqa/images/0060930.jpg"})] * 2,
    "vg": [("image undecodable", {"image": name}) for name in BROKEN],
    "coco": [
        ("image token in a wrong turn", {"image": SHOWN, "conversations": said("a", "b", "<image>\nc", "d")}),
        ("two images", {"image": [SHOWN, SHOWN]}),
        ("unknown role", {"image": SHOWN, "conversations": [{"from": "system", "value": "a"}]}),
        ("empty conversations", {"image": SHOWN, "conversations": []}),
    ],
    "text": [("too long", {"conversations": said("a", "word " * 100_000)})],
}
"""Source -> faults of records of it, and the records."""


def faulty():
    each = [fields for faults in LOST.values() for _, fields in faults]
    return [{"id": "odd", "conversations": said("<image>\nWhat?", "That."), **fields} for fields in each]


def write_llava(folder, mix):
    """LLaVA's published layout: a list of records, and pictures in a folder for each data set."""
    for name, blob in (PICTURES | BROKEN).items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    (folder / "mix.json").write_text(json.dumps(mix), encoding="utf-8")
    return {"kind": "llava", "file": str(folder / "mix.json"), "images": str(folder / "data")}


def questions(count):
    """VMCBench's rows; of GQA's the first shows a picture of the mix, and asks what is asked there."""
    rows = vmcbench_rows(count)
    place = SOURCES.index("GQA")
    rows[place] |= {"question": ASKED, "image": {"bytes": PICTURES["gqa/images/8.jpg"], "path": None}}
    return rows


def write_vmcbench(folder):
    """Parquet in the published columns; a part of each split, and of the test split no answers."""
    write_parquet(folder / "data" / "dev-00000-of-00001.parquet", questions(40))
    hidden = [{**row, "answer": None} for row in questions(20)]
    for shard in range(2):
        write_parquet(folder / "data" / f"test-0000{shard}-of-00002.parquet", hidden[10 * shard :][:10])
    return {"kind": "vmcbench", "path": str(folder), "split": "dev", "partial": True}


def settings(folder):
    """One arm and a baseline as the eyes of a published language model, taught from files alone."""
    found = small_settings()
    del found["arms"]["dino"]
    found |= {"baselines": ["untrained"], "measure": ["vqa"]}
    mix = write_llava(folder / "llava", GOOD + faulty())
    saved(folder / "language", positions=700)
    lesson = {"data": mix, "budget": {"samples": 32, "batch": 8}}
    found["control"]["vlm"] = {
        "language": {"kind": "pretrained", "weights": str(folder / "language"), "context": 600},
        "questions": None,
        "align": lesson,
        "instruct": {**lesson, "grouped": True},
        "ask": {
            "template": "vmcbench",
            "generate": True,
            "calibrated": True,
            "benchmarks": [write_vmcbench(folder / "vmcbench")],
        },
    }
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory, shared_cache):
    """A folder in which ``paribus run`` has been: tiny.yaml, cache, runs."""
    folder = tmp_path_factory.mktemp("vlm")
    linked(shared_cache, folder / "cache")
    write_study(folder, settings(folder))
    run(folder)
    return folder


def linked(old, cache):
    """A new cache that has the art and the corpus of another."""
    (cache / "stages").mkdir(parents=True)
    (cache / "art").symlink_to((old / "art").resolve())
    for corpus in old.glob("stages/corpus-*"):
        (cache / "stages" / corpus.name).symlink_to(corpus.resolve())
    return cache


def places(folder):
    return ("--cache", folder / "cache", "--workers", "1")


def run(folder, *more, **how):
    line = ("run", folder / "tiny.yaml", *places(folder), "--runs", folder / "runs")
    done = paribus(folder, *line, *more, **how)
    assert done.code == 0, done.err
    return done


# What comes of it.


def measured(found, metric, arm="clip"):
    """Task -> value."""
    rows = found["measures"]
    return {row["task"]: row["value"] for row in rows if (row["metric"], row["arm"]) == (metric, arm)}


def bare(tasks):
    """Names of tasks without the benchmark's."""
    return {task.partition(": ")[2]: value for task, value in tasks.items()}


def test_answers_are_counted_by_source_and_by_category(ran):
    found = results(ran / "runs")
    for arm in ("clip", "untrained"):
        micro, macro = (bare(measured(found, metric, arm)) for metric in (scoring.MICRO, scoring.MACRO))
        by_source = {
            source: micro[f"{category}/{source}"] for category, some in CATEGORIES.items() for source in some
        }
        assert by_source.keys() == set(SOURCES)
        assert micro.keys() - {f"{c}/{s}" for c, some in CATEGORIES.items() for s in some} == {
            *CATEGORIES,
            "overall",
        }
        for category, some in CATEGORIES.items():  # two questions of each source
            assert micro[category] == pytest.approx(np.mean([by_source[source] for source in some]))
            assert macro[category] == pytest.approx(micro[category])
    assert {row["n"] for row in found["measures"] if row["task"].endswith(": overall")} == {40}


def test_every_way_of_asking_stands_beside(ran):
    found = results(ran / "runs")
    ways = {row["metric"].partition(", ")[2] for row in found["measures"]} - {""}
    assert ways == {"no image", "wrong image", "majority", "written", "calibrated", *HARNESSES}
    for way in ways:
        shares = bare(measured(found, f"{scoring.MICRO}, {way}"))
        assert shares.keys() == {*CATEGORIES, "overall"}
    assert bare(measured(found, f"{scoring.MICRO}, majority"))["overall"] == 0.25


def answered(folder, arm="clip"):
    """The stage that asked an arm, its record's folder, and its questions."""
    runtime = Runtime(cache=folder / "cache", workers=1)
    branches = load_study(folder / "tiny.yaml").branches()
    (answer,) = next(branch.answers for branch in branches if branch.name == arm)
    return answer, answer.folder(runtime), answer.open(runtime)


def test_an_option_counts_for_what_the_picture_adds(ran):
    from safetensors.numpy import load_file

    _, folder, found = answered(ran)
    scores = load_file(folder / "scores.safetensors")
    for place, question in enumerate(found.questions):
        gains = [scores["seen"][place, k] - scores["no image"][place, k] for k in range(4)]
        best = max(gains)
        right = gains["ABCD".index(question.answer)] == best and gains.count(best) == 1
        assert found.correct["calibrated"][place] == right


def test_what_is_written_is_read_by_both_harnesses(ran):
    _, folder, found = answered(ran)
    texts = json.loads((folder / "written.json").read_text())
    for way, read in HARNESSES.items():
        assert np.array_equal(found.correct[way], read(texts, found.questions, GUESSES).correct)
    rules = {"VLMEvalKit": compat.vlmevalkit, "lmms-eval": compat.lmms_eval}
    assert {f"written, {name}'s rules": read for name, read in rules.items()} == HARNESSES


def test_a_harness_that_does_not_read_such_questions_is_left_out():
    two = Question(0, "Which?", ("red", "blue"), "B", "c", NOTHING, "s", "k")
    said = replace(two, options=("Yes", "No"), answer="No", lettered=False)
    assert {*_read_elsewhere(["B"], [two])} == {"written, VLMEvalKit's rules"}
    assert _read_elsewhere(["No"], [said]) == {}


def test_what_was_lost_is_told_where_results_are(ran):
    told = results(ran / "runs")["data"]
    (name,) = [key for key in told if key.startswith("conversations")]
    assert name.endswith("mix.json")
    assert told[name].startswith(f"{len(GOOD)} records, 9 left out")
    for source, faults in LOST.items():
        for fault, _ in faults:
            assert f"{source}: " in told[name] and f"{fault} " in told[name]


def test_the_lessons_were_taken_from_what_could_be_read(ran):
    stored = records(ran / "cache")
    (mix,) = [content["record"] for address, content in stored.items() if address.startswith("mix")]
    assert mix["samples"] == len(GOOD) and mix["pictured"] == len(PICTURES) + 1
    assert {source: sum(faults.values()) for source, faults in mix["lost"].items()} == {
        source: len(faults) for source, faults in LOST.items()
    }
    for name in ("align", "instruct"):
        lessons = [c["record"] for address, c in stored.items() if address.startswith(f"{name}-")]
        assert [lesson["samples"] for lesson in lessons] == [32, 32]


def test_a_second_run_does_nothing_anew(ran):
    before = (ran / "runs" / "tiny" / "results.json").read_bytes()
    run(ran, before=partial(counting, ran / "second.log"))
    assert counted(ran / "second.log") == []
    assert (ran / "runs" / "tiny" / "results.json").read_bytes() == before


# Before it is trained.


def test_check_tells_what_is_lost_and_what_is_known_already(ran, tmp_path):
    done = paribus(tmp_path, "vlm", "check", ran / "tiny.yaml", *places(ran))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == str(ran / "llava" / "mix.json")
    assert f"{len(GOOD)} records, {len(PICTURES) + 1} with a picture" in lines[1]
    assert "9 records were left out." in lines
    assert "  ocr_vqa: image missing 2" in lines and "  vg: image undecodable 2" in lines
    assert any("there is no ocr_vqa/images/0060930.jpg" in line for line in lines)
    head = next(place for place, line in enumerate(lines) if line.startswith("vmcbench"))
    table = {line.split()[0]: line.split() for line in lines[head + 2 :] if line}
    assert table.keys() == set(SOURCES)
    assert table["GQA"][1:5] == ["2", "50.0%", "50.0%", "50.0%"]
    assert table["DocVQA"][1:5] == ["2", "0.0%", "0.0%", "0.0%"]
    assert table["GQA"][5] == "in" and table["DocVQA"][5] == "not"


def test_what_was_checked_is_not_read_again(ran, tmp_path):
    """On a new cache: nothing is trained, and all that was read is there for the run."""
    line = ("vlm", "check", ran / "tiny.yaml", "--cache", tmp_path / "cache", "--workers", "2")
    first = paribus(tmp_path, *line, before=partial(counting, tmp_path / "first.log"))
    assert first.code == 0, first.err
    assert sorted(address.split("-")[0] for address in counted(tmp_path / "first.log")) == [
        "benchmark",
        "mix",
        "overlap",
    ]
    second = paribus(tmp_path, *line, before=partial(counting, tmp_path / "second.log"))
    assert second.out == first.out and counted(tmp_path / "second.log") == []
    needed = {stage.address() for stage in walk(load_study(ran / "tiny.yaml").stages())}
    kept = {address for address in records(tmp_path / "cache") if not address.startswith("overlap")}
    assert kept < needed


def test_a_mix_that_was_mended_is_read_again(ran, tmp_path):
    """While nobody was taught with it; then it is another one, and must be called so."""
    given = settings(tmp_path)
    write_study(tmp_path, given)
    linked(ran / "cache", tmp_path / "cache")
    line = ("vlm", "check", tmp_path / "tiny.yaml", *places(tmp_path))
    assert "9 records were left out." in paribus(tmp_path, *line).out
    mix = tmp_path / "llava" / "mix.json"
    mix.write_text(json.dumps(GOOD), encoding="utf-8")
    again = paribus(tmp_path, *line)
    assert f"{mix} has changed since the last run: reading again." in again.err, again.err
    assert "Nothing was left out." in again.out
    third = paribus(tmp_path, *line)
    assert third.out == again.out and "again" not in third.err
    trained = ran / "llava" / "mix.json"
    before = trained.read_text(encoding="utf-8")
    trained.write_text(json.dumps(GOOD), encoding="utf-8")
    try:
        for command in ("run", ("vlm", "check")):
            more = ("--runs", ran / "runs") if command == "run" else ()
            words = (command,) if command == "run" else command
            refused = paribus(tmp_path, *words, ran / "tiny.yaml", *places(ran), *more).refused()
            assert f"{trained} has changed since align-" in refused
    finally:
        trained.write_text(before, encoding="utf-8")


def test_a_benchmark_that_has_changed_is_another(ran):
    path = ran / "vmcbench" / "data" / "dev-00000-of-00001.parquet"
    before = path.read_bytes()
    write_parquet(path, questions(39))
    try:
        refused = paribus(ran, "run", ran / "tiny.yaml", *places(ran), "--runs", ran / "runs").refused()
        assert f"{path} has changed since answer-" in refused
    finally:
        path.write_bytes(before)


def test_a_number_that_was_not_declared_so_is_told_with_the_table(ran, tmp_path):
    line = ("vlm", "check", ran / "tiny.yaml", "--cache", tmp_path / "cache", "--workers", "1")
    done = paribus(tmp_path, *line, "--set", "control.vlm.instruct.data.samples=99")
    assert "99 are declared" in done.err and done.code == 2
    assert "9 records were left out." in done.out and "vmcbench" not in done.out


def test_a_mix_is_open_where_its_records_file_is_not(ran):
    """Pictures are; or nothing is, if they came inside."""
    runtime = Runtime(cache=ran / "cache", workers=1)
    mix = load_study(ran / "tiny.yaml").branches()[0].answers[0].vlm.talks
    path = ran / "llava" / "mix.json"
    path.rename(path.with_suffix(".gone"))
    try:
        assert len(mix.open(runtime)) == len(GOOD) and mix.open(runtime)[0].image.shape[2] == 3
        run(ran)
    finally:
        path.with_suffix(".gone").rename(path)


def test_one_mix_and_one_benchmark_are_compared_once(ran, tmp_path):
    runtime = Runtime(cache=ran / "cache", workers=1)
    branches = load_study(ran / "tiny.yaml").branches()
    (overlap,) = overlaps(answer for branch in branches for answer in branch.answers)
    found = overlap.compute(tmp_path, runtime)
    assert found == overlap.run(runtime) and found.sources.keys() == set(SOURCES)


def test_a_study_without_conversations_has_nothing_to_check(tiny_study, tiny_cache, tmp_path):
    done = paribus(tmp_path, "vlm", "check", tiny_study, "--cache", tiny_cache)
    assert "tiny.yaml teaches no model with conversations" in done.refused()
    assert len(records(tiny_cache)) == 1, "the corpus, which was there"


def test_questions_that_are_longer_than_the_context_are_counted_and_told(ran):
    change = ("--set", "control.vlm.language.context=150", "--set", "control.vlm.ask.generate=false")
    done = run(ran, *change, "--runs", ran / "short")
    told = "40 of 40 questions of vmcbench.* fill the language model's context of 150 tokens"
    assert len(re.findall(told, done.err)) == 2, done.err
    stored = [c["record"] for a, c in records(ran / "cache").items() if a.startswith("answer")]
    assert sorted(record["cut"] for record in stored if record["accuracy"]) == [0, 0, 40, 40]


# Without published answers.

HIDDEN = "control.vlm.ask.benchmarks=[{{kind: vmcbench, path: {path}, split: test, partial: true}}]"


@pytest.fixture(scope="module")
def hidden(ran):
    """The same models, asked the split whose answers are not published."""
    change = ("--set", HIDDEN.format(path=ran / "vmcbench"))
    run(ran, *change, "--runs", ran / "hidden", before=partial(counting, ran / "hidden.log"))
    return change


def test_a_split_without_answers_runs_to_its_report(ran, hidden):
    made = sorted(address.split("-")[0] for address in counted(ran / "hidden.log"))
    assert made == ["answer", "answer", "benchmark"], "nobody is taught anew for another question"
    found = results(ran / "hidden")
    assert found["measures"] == [] and found["differences"] == []
    assert (ran / "hidden" / "tiny" / "report.html").is_file()
    for address, stored in records(ran / "cache").items():
        if address in counted(ran / "hidden.log") and address.startswith("answer"):
            assert stored["record"] == {"questions": 20, "accuracy": {}, "unparsed": None, "cut": 0}


def written(path):
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_answers_go_out_in_the_leaderboards_form(ran, hidden, tmp_path):
    line = ("vlm", "answers", ran / "tiny.yaml", "clip", "--cache", ran / "cache", *hidden)
    tables = []
    for name in ("answers.csv", "answers.json"):
        done = paribus(tmp_path, *line, "--out", tmp_path / name)
        assert (done.code, done.out) == (0, f"20 answers: {tmp_path / name}\n"), done.err
        tables.append(written(tmp_path / name))
    assert [{key: str(cell) for key, cell in row.items()} for row in tables[1]] == tables[0]
    assert list(tables[0][0]) == ["index", "question", *"ABCD", "category", "prediction"]
    assert [(int(row["index"]), row["category"]) for row in tables[0]] == list(enumerate(SOURCES))
    assert {row["prediction"] for row in tables[0]} <= set("ABCD")
    again = paribus(tmp_path, *line, "--out", tmp_path / "answers.csv")
    assert "answers.csv is there already" in again.refused()
    assert not leftovers(tmp_path)


def test_answers_that_are_published_go_out_as_a_table(ran, tmp_path):
    line = ("vlm", "answers", ran / "tiny.yaml", "untrained", "--cache", ran / "cache")
    title = load_study(ran / "tiny.yaml").branches()[0].answers[0].questions.title
    done = paribus(tmp_path, *line, "--benchmark", title, "--out", tmp_path / "a.csv")
    assert done.code == 0, done.err
    rows = written(tmp_path / "a.csv")
    _, _, found = answered(ran, "untrained")
    assert [row["index"] for row in rows] == [question.key for question in found.questions]
    right = [row["prediction"] == q.answer for row, q in zip(rows, found.questions, strict=True)]
    assert np.array_equal(right, found.correct["seen"]), "no option of these ties with another"
    answer, _, _ = answered(ran, "untrained")
    assert answer.hand_in(Runtime(cache=ran / "cache"), tmp_path / "here.csv") == 40
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_answers_that_are_not_there_are_refused(ran, hidden, tmp_path):
    line = ("vlm", "answers", ran / "tiny.yaml", "clip", "--out", tmp_path / "a.csv")
    cache = ("--cache", ran / "cache")
    for more, why in (
        ((*cache, "--benchmark", "mmvp"), "clip is not asked 'mmvp': choose with --benchmark one of vmcb"),
        ((*hidden, "--cache", tmp_path / "cache"), f"is not done in {tmp_path}"),
        ((*cache, *hidden, "--seed", 7), "no such seed; there are 0"),
    ):
        assert why in paribus(tmp_path, *line, *more).refused()
        assert not (tmp_path / "a.csv").exists()


# What cannot be read, said in one sentence before anything is trained.


def without(name):
    def change(rows):
        for row in rows:
            del row[name]

    return change


def third(name, value):
    def change(rows):
        rows[2][name] = value

    return change


def conversation(**fields):
    return {"id": "odd", "conversations": said("<image>\nWhat?", "That."), **fields}


def rows_of(change):
    def spoil(folder):
        rows = questions(20)
        change(rows)
        write_parquet(folder / "bad" / "dev-0.parquet", rows)
        bench = f"{{kind: vmcbench, path: {folder / 'bad'}, partial: true}}"
        return f"control.vlm.ask.benchmarks=[{bench}]"

    return spoil


def mix_of(record):
    def spoil(folder):
        mix = write_llava(folder / "bad", [*GOOD, record]) | {"survive": False}
        return f"control.vlm.instruct.data={json.dumps(mix)}"

    return spoil


def speechless(folder):
    saved(folder / "speechless", template=None, positions=700)
    return f"control.vlm.language.weights={folder / 'speechless'}"


def cramped(folder):
    del folder
    return "control.vlm.language.context=20"


def oblong(folder):
    """A published encoder for pictures that are wider than high."""
    made = hf.ViTModel(hf.ViTConfig(**TOWER | {"image_size": [16, 32]}), add_pooling_layer=False)
    made.save_pretrained(folder / "oblong")
    return f"published.oblong={{weights: {folder / 'oblong'}, because: it is wider than high}}"


BAD = {
    "a column that is missing": (rows_of(without("C")), r"dev-0.parquet, row 1: it has no column 'C'"),
    "an option that is missing": (rows_of(third("C", None)), r"row 3, column 'C': it is empty"),
    "an answer that is no option": (rows_of(third("answer", "E")), r"row 3, column 'answer': 'E' is not one"),
    "a picture that is broken": (
        rows_of(third("image", {"bytes": b"broken", "path": None})),
        r"row 3, column 'image': the picture cannot be decoded",
    ),
    "a picture that is missing": (
        mix_of(conversation(image="ocr_vqa/images/1.jpg")),
        r"mix\.json, record 24 \(id odd\), field 'image': there is no ocr_vqa/images/1\.jpg",
    ),
    "an unknown role": (
        mix_of(conversation(conversations=[{"from": "system", "value": "a"}])),
        r"record 24 \(id odd\), field 'conversations': turn 1 is from 'system', neither human nor gpt",
    ),
    "a text of 100,000 words": (
        mix_of(conversation(conversations=said("word " * 100_000, "b"))),
        r"field 'conversations': it has 500,001 characters, and longest is 100,000",
    ),
    "a tokenizer without a chat template": (
        speechless,
        r"The tokenizer of .*speechless has no chat template: say with vlm\.language\.template",
    ),
    "a context too short for the picture": (
        cramped,
        r"A picture has 16 tokens and the language model's context is 20: raise vlm\.language\.context",
    ),
    "an encoder whose grid is no square": (oblong, r"oblong/config\.json describes no encoder .*image_size"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_before_anything_is_trained(ran, tmp_path, name):
    spoil, told = BAD[name]
    change = spoil(tmp_path)
    cache = linked(ran / "cache", tmp_path / "cache")
    line = ("run", ran / "tiny.yaml", "--set", change, "--cache", cache, "--runs", tmp_path / "runs")
    sentence = paribus(tmp_path, *line, "--workers", "1").refused()
    assert re.search(told, sentence), sentence
    trained = {address.split("-")[0] for address in records(cache)}
    assert trained <= {"corpus", "words", "mix", "benchmark", "language", "untrained"}
    assert not (tmp_path / "runs").exists() and not leftovers(cache / "stages")
