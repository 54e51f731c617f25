"""What a finished model is asked, in every way; benchmarks of one's own; seeds together; kept features."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from paribus.encoders.published import evaluate
from paribus.study.answers import WAYS, Asking, asked
from paribus.study.collect import collect
from paribus.study.downstream import Seen, _pictures
from paribus.study.looking import Kept
from paribus.study.run import execute
from paribus.study.stage import walk
from paribus.study.stages import Untrained
from paribus.study.study import load_study
from paribus.types import IMAGE, Batch, Runtime, Turn
from paribus.vlm.answering import replied
from paribus.vqa import scoring
from paribus.vqa.benchmark import prompt, worded
from study import records, timeless

ONLY = ("measure=[vqa]", "baselines=[]")


def silent(line):
    del line


def ran(finished, *changes):
    study = load_study(finished / "tiny.yaml", (*ONLY, *changes))
    runtime = Runtime(cache=finished / "cache", runs=finished / "runs", workers=1)
    execute(study, runtime, silent)
    return study, runtime, collect(study, "asked", runtime)


def answers(study):
    return {branch.name: branch.answers for branch in study.branches()}


def overall(found, metric, task="overall"):
    """Arm -> value."""
    return {m.arm: m.value for m in found.measures if (m.task, m.metric) == (task, metric)}


def asked_one_by_one(answer, runtime, places, *, picture=True):
    """Log-likelihoods of the options, each question by itself, of the picture at another place."""
    model = answer.vlm.open(runtime).eval()
    source, template = answer.questions.test(runtime), answer.ask.template
    encoder = answer.vlm.looks()[0].encoder
    rows = []
    for place, question in zip(places, map(source.question, range(len(source))), strict=True):
        question = worded(question, template)
        image = source.question(int(place)).image
        ask = prompt(question, template)
        views = {"eye0": evaluate(encoder, [image], answer.vlm.lesson.fit)} if picture else {}

        def batch(reply, ask=f"{IMAGE}\n{ask}" if picture else ask, views=views):
            return Batch(np.zeros(1, dtype=np.uint64), views, [""], [(Turn(ask, reply),)])

        if question.lettered:
            letters = [model.chat.first(letter) for letter in question.says]
            rows.append(model.next_words(batch(""))[0, letters].numpy())
        else:
            rows.append(np.array([float(model.replies(batch(said))) for said in question.says]))
    return np.stack(rows)


@pytest.mark.parametrize("template", ["words", "short"])
def test_each_way_is_the_model_asked_one_question_at_a_time(finished, template):
    """In bf16 against float32: close to each other, and far from what another way gives."""
    study, runtime, _ = ran(finished, f"control.vlm.ask.template={template}")
    answer = answers(study)["dino"][0]
    scores = load_file(answer.folder(runtime) / "scores.safetensors")
    count = len(answer.questions.test(runtime))
    wrong = np.array(scoring.wrong_image_order(count, answer.vlm.seed, _digests(answer, runtime)))
    assert (wrong != np.arange(count)).all() and sorted(wrong) == list(range(count))
    expected = {
        "seen": asked_one_by_one(answer, runtime, np.arange(count)),
        "no image": asked_one_by_one(answer, runtime, np.arange(count), picture=False),
        "wrong image": asked_one_by_one(answer, runtime, wrong),
    }
    assert tuple(expected) == WAYS == tuple(way for way in WAYS if way in scores)
    for way in WAYS:
        assert scores[way].shape == (count, 4) and (scores[way] < 0).all()
        near = {other: np.abs(scores[way] - expected[other]).mean() for other in WAYS}
        assert min(near, key=near.get) == way and near[way] < 0.06, near


def _digests(answer, runtime):
    source = answer.questions.test(runtime)
    images = [source.question(place).image for place in range(len(source))]
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_every_way_is_measured_beside_the_answers(finished):
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    found = collect(study, "tiny", runtime)
    for arm, (answer, *_) in ((arm, given) for arm, given in answers(study).items() if given):
        record = answer.run(runtime)
        assert set(record.accuracy) == {*WAYS, "majority", "calibrated"} and record.questions == 40
        assert record.unparsed is None
        for way, share in record.accuracy.items():
            metric = scoring.MICRO if way == "seen" else f"{scoring.MICRO}, {way}"
            assert overall(found, metric)[arm] == pytest.approx(share), (arm, way)
    questions = [
        answer.questions.test(runtime).question(i) for answer in answers(study)["clip"] for i in range(40)
    ]
    letters = [question.answer for question in questions]
    most = max(letters.count(letter) for letter in "ABCD") / 40
    assert list(overall(found, f"{scoring.MICRO}, majority").values()) == pytest.approx([most] * 3)
    # The other ways are no matter of an arm against an arm, nor of single sources.
    assert not [row for row in found.differences if any(way in row.metric for way in (*WAYS, "majority"))]
    assert not [m for m in found.measures if "/" in m.task and ", " in m.metric]


@pytest.fixture
def table(finished):
    """Real questions of the finished study as somebody's own table, ``own.jsonl``; its answers are known."""
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    source = answers(study)["clip"][0].questions.test(runtime)
    lines = []
    for place in range(12):
        question = source.question(place)
        Image.fromarray(question.image).save(finished / f"{place}.png")
        options = dict(zip("ABCD", question.options, strict=True))
        lines.append({"index": place, "question": question.question, **options, "image": f"{place}.png"})
        lines[-1] |= {"answer": question.answer, "kind": question.category}
    (finished / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return finished / "own.jsonl"


def test_benchmarks_of_ones_own_stand_beside_the_built_in_one_under_their_names(finished, table):
    own = {"kind": "choice", "name": "own", "path": str(table), "category": "kind"}
    hidden = {"kind": "choice", "name": "hidden", "path": str(table), "answer": ""}
    change = f"control.vlm.ask.benchmarks={json.dumps([hidden, own])}"
    before = records(finished / "cache")
    study, runtime, found = ran(finished, change)
    made = {address.split("-")[0] for address in records(finished / "cache").keys() - before.keys()}
    assert made == {"benchmark", "answer"}, "nothing is taught anew for another question"
    built_in, unpublished, mine = answers(study)["clip"]
    assert [answer.questions.title for answer in (built_in, unpublished, mine)] == [
        "glyphqa",
        "hidden",
        "own",
    ]
    tasks = {m.task for m in found.measures}
    assert {"overall", "own: overall"} <= tasks and not [task for task in tasks if "hidden" in task]
    assert {task.removeprefix("own: ") for task in tasks if task.startswith("own: ")} <= {
        *tasks,
        *(f"{name}/{name}" for name in tasks),
    }
    assert {row.task.startswith("own: ") for row in found.differences} == {False, True}
    names = [(m.task, m.metric, m.arm, m.seed) for m in found.measures]
    assert len(set(names)) == len(names)
    # The same questions as the first of the built-in ones, asked in the same way.
    correct = mine.open(runtime).correct
    whole = built_in.open(runtime).correct
    scores = [load_file(a.folder(runtime) / "scores.safetensors")["seen"] for a in (mine, built_in)]
    assert np.abs(scores[0] - scores[1][:12]).max() < 0.05
    assert overall(found, scoring.MICRO, "own: overall")["clip"] == pytest.approx(correct["seen"].mean())
    assert len(correct["seen"]) == 12 and len(whole["seen"]) == 40
    # Where answers are not published there is nothing to count, but what was answered is there.
    record = unpublished.run(runtime)
    assert record.accuracy == {} and record.questions == 12
    assert (unpublished.folder(runtime) / "scores.safetensors").is_file()


def test_rotated_and_written_answers_are_counted_as_asked_for(finished):
    ask = "control.vlm.ask={template: short, circular: true, generate: true}"
    study, runtime, found = ran(finished, ask)
    for arm, (answer,) in answers(study).items():
        questions = [answer.questions.test(runtime).question(i) for i in range(40)]
        scores = load_file(answer.folder(runtime) / "scores.safetensors")
        rotated = scores["rotated"].reshape(40, 4, 4)
        assert np.abs(rotated[:, 0] - scores["seen"]).max() < 0.05, (
            "the first rotation is the question itself"
        )
        right = []
        for question, turns in zip(questions, rotated, strict=True):
            place = "ABCD".index(question.answer)
            alone = [
                np.delete(row, (place - step) % 4).max() < row[(place - step) % 4]
                for step, row in enumerate(turns)
            ]
            right.append(all(alone))
        assert overall(found, f"{scoring.MICRO}, circular")[arm] == pytest.approx(np.mean(right))
        written = json.loads((answer.folder(runtime) / "written.json").read_text())
        said = [scoring.parse(text, question) for text, question in zip(written, questions, strict=True)]
        share = np.mean([letter == question.answer for letter, question in zip(said, questions, strict=True)])
        assert overall(found, f"{scoring.MICRO}, written")[arm] == pytest.approx(share)
        assert answer.run(runtime).unparsed == said.count(None)


def test_seeds_are_compared_together_too(finished):
    _, _, found = ran(finished, "seeds=[0, 1]")
    together = [row for row in found.differences if row.metric.endswith(" over 2 seeds")]
    single = [row for row in found.differences if row not in together]
    assert {row.seed for row in single} == {0, 1}
    tasks = {(row.task, row.metric) for row in single}
    assert {(row.task, row.metric.removesuffix(" over 2 seeds")) for row in together} == tasks
    values = {(row.task, row.metric, row.seed): row.value for row in single}
    for row in together:
        metric = row.metric.removesuffix(" over 2 seeds")
        mean = np.mean([values[row.task, metric, seed] for seed in (0, 1)])
        assert row.value == pytest.approx(mean, abs=1e-9) and row.low <= row.value <= row.high
        assert row.p is None and (row.arm, row.other) == ("clip", "dino")
    assert not [m for m in found.measures if "seeds" in m.metric]
    assert {m.seed for m in found.measures} == {0, 1}


# Kept features.


@pytest.fixture
def taught(finished):
    """The untrained encoder's life as eyes, in float32, and where it can run."""
    study = load_study(finished / "tiny.yaml", (*ONLY, "control.precision=fp32"))
    blank = Untrained(encoder=study.control.encoder, seed=0)
    return study.taught(blank, 0), Runtime(cache=finished / "cache", workers=1)


def keeping(instruct):
    return instruct.changed(align=instruct.align.changed(keep=True), keep=True)


def losses(stage, runtime):
    return [line["loss"] for line in stage.history(runtime)]


def test_features_that_were_kept_teach_the_same(taught, tiny_cache):
    """To rounding, and so under the same address."""
    plain, runtime = taught
    kept, elsewhere = keeping(plain), Runtime(cache=tiny_cache, workers=1)
    assert kept.address() == plain.address() and kept.align.address() == plain.align.address()
    seen = {stage.address() for stage in walk([kept]) if isinstance(stage, Seen)}
    assert len(seen) == 2 and not any(isinstance(stage, Seen) for stage in walk([plain]))
    plain.run(runtime)
    kept.run(elsewhere)
    for stage in (plain.align, plain):
        assert losses(stage, elsewhere) == pytest.approx(losses(stage, runtime), rel=1e-4)
        one, other = stage.run(runtime), stage.run(elsewhere)
        assert one.order == other.order and one.trainable_parameters == other.trainable_parameters
        for name in stage.moved():
            files = [load_file(stage.folder(r) / f"{name}.safetensors") for r in (runtime, elsewhere)]
            assert files[0].keys() == files[1].keys() and files[0]
            for weight, value in files[0].items():
                assert np.abs(value - files[1][weight]).max() < 1e-4, weight
    assert kept.align.flops() < plain.align.flops()


def test_what_was_kept_is_what_the_encoder_sees(taught):
    plain, runtime = taught
    for below in plain.align.inputs():
        below.run(runtime)
    stage = plain.align.seen()
    record = stage.run(runtime)
    assert (record.tokens, record.width) == (16, 16) and record.pictures == len(
        plain.align.talks.open(runtime)
    )
    assert stage.disk() == 4.0 * stage.talks.expected() * record.tokens * record.width
    model, loader = plain.align.prepare(runtime)
    batch = loader.make(1)
    positions = np.arange(16, 32)
    indices, _ = loader.order(positions)
    with torch.no_grad():
        seen = model.eyes.look(list(batch.views.values()))
    assert torch.allclose(stage.open(runtime)[indices], seen, atol=1e-5)
    half = stage.changed(precision="bf16")
    half.run(runtime)
    rounded = half.open(runtime)[indices]
    assert rounded.dtype == torch.bfloat16 and half.disk() == stage.disk() / 2
    assert torch.allclose(rounded.float(), seen, rtol=0.05, atol=0.05)


def test_an_encoder_that_moves_sees_nothing_worth_keeping(taught):
    plain, _ = taught
    lesson = plain.lesson.model_copy(update={"trained": ("encoder", "connector")})
    for moves in (plain.changed(lesson=lesson), plain.changed(align=plain.align.changed(lesson=lesson))):
        with pytest.raises(ValidationError, match="while the encoder stays as it is"):
            moves.changed(keep=True)


@dataclass(frozen=True)
class Album:
    """Samples that share pictures; an empty key is text alone."""

    keys: tuple[str, ...]

    def __len__(self):
        return len(self.keys)

    def picture_key(self, index):
        return self.keys[index]


def test_each_picture_is_kept_once_and_text_has_none():
    rows, firsts = _pictures(Album(("a", "", "b", "a", "", "b", "c")))
    assert rows.tolist() == [0, -1, 1, 0, -1, 1, 2] and firsts.tolist() == [0, 2, 6]


def test_kept_rows_come_as_asked(tmp_path):
    features = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    features.tofile(tmp_path / "features.bin")
    index = {"rows": np.array([0, -1, 2, 0, 1]), "shape": np.array(features.shape)}
    save_file(index, tmp_path / "rows.safetensors")
    found = Kept(tmp_path, half=False)[np.array([4, 2, 3])]
    assert np.array_equal(found.numpy(), features[[1, 2, 0]])


def test_the_finished_study_recorded_what_it_was_taught(finished):
    stored = records(finished / "cache")
    study = load_study(finished / "tiny.yaml")
    for given in answers(study).values():
        for answer in given:
            for lesson, samples in ((answer.vlm, 64), (answer.vlm.align, 64)):
                record = timeless(stored[lesson.address()]["record"])
                assert record["samples"] == samples and record["flops"] == pytest.approx(lesson.flops())


def test_options_that_are_said_whole_must_fit_too(finished):
    """A long one would be compared by its beginning."""
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    answer = answers(study)["clip"][0]
    model = answer.vlm.open(runtime).eval()
    asking = Asking(model, answer.questions.test(runtime), answer.ask, answer.vlm, runtime)
    assert asking.cut() == 0
    longest = [
        max(len(said.ids) for said in model.chat.speak(replied(asked(question, "words"), question.says)))
        for question in asking.questions
    ]
    model.chat.context = sorted(longest)[len(longest) // 2]
    assert asking.cut() == sum(length >= model.chat.context for length in longest) < len(longest)


def test_a_mix_without_any_picture_is_kept_as_nothing(taught, monkeypatch):
    plain, runtime = taught
    for below in plain.align.inputs():
        below.run(runtime)
    monkeypatch.setattr(
        type(plain.align.talks.open(runtime)), "picture_key", lambda self, index: "", raising=False
    )
    stage = plain.align.seen()
    assert stage.run(runtime).pictures == 0
    assert not stage.open(runtime)[np.arange(3)].any()
