"""The built-in tasks, asked of real encoders on a small corpus, and of features that were planted."""

import json

import numpy as np
import pytest

from paribus.probes.linear import GRID
from paribus.probes.metrics import estimate
from paribus.study.corpora import ALL
from paribus.study.evaluate import labels_of
from paribus.study.seeing import eye_of, look_at_all, window_of
from paribus.study.stimuli import Made, Sizes, Stimuli
from paribus.study.study import load_study
from paribus.study.tasks import (
    RECOGNITION,
    Learning,
    conflict,
    correspondence,
    counting,
    reading,
    recognition,
    robustness,
    segmentation,
)
from paribus.types import Runtime
from study import STIMULI, paribus, results

TASKS = 15


@pytest.fixture
def asked(finished):
    """The finished study's abilities by name, and where they are."""
    study, runtime = load_study(finished / "tiny.yaml"), Runtime(cache=finished / "cache")
    return {name: study.abilities(stage, 0) for name, stage in study.encoders(0).items()}, runtime


def test_every_encoder_is_asked_every_task_that_it_can_be(asked):
    stages, runtime = asked
    tasks = {name: [one.task for one in stage.run(runtime).results] for name, stage in stages.items()}
    assert set(stages) == {"clip", "dino", "untrained", "colour-histogram"}
    assert len(tasks["clip"]) == TASKS and tasks["clip"] == tasks["dino"] == tasks["untrained"]
    assert set(tasks["clip"]) - set(tasks["colour-histogram"]) == {"segmentation", "correspondence"}
    for stage in stages.values():
        for one in stage.run(runtime).results:
            assert 0 <= one.low <= one.value <= one.high <= 1 and one.n >= 2


def test_sums_that_are_kept_give_the_values(asked):
    stages, runtime = asked
    record, kept = stages["clip"].run(runtime), stages["clip"].asked(runtime)
    for one in record.results:
        found = estimate(kept.tallies[one.task], seed=0)
        assert (found.value, found.low, found.high, found.n) == (one.value, one.low, one.high, one.n)


def test_the_report_has_the_boundary_and_says_what_is_certain(finished):
    found = results(finished / "runs")["ability_map"]
    assert (found["one"], found["two"]) == ("language", "vision alone")
    assert found["sides"] == {"language": ["clip"], "vision alone": ["dino"]}
    assert len(found["rows"]) == TASKS and found["left_out"] == {
        "segmentation": ["colour-histogram"],
        "correspondence": ["colour-histogram"],
    }
    page = (finished / "runs/tiny/report.html").read_text(encoding="utf-8")
    assert "The boundary" in page and "language minus vision alone, points" in page
    measured = [row for row in results(finished / "runs")["measures"] if row["section"] == "abilities"]
    assert len(measured) == 4 * TASKS - 2


def test_a_finished_study_is_mapped_again_at_once(finished, tmp_path):
    line = ("map", finished / "tiny.yaml", "--cache", finished / "cache", "--out", tmp_path / "map")
    done = paribus(finished, *line)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith(f"Of {TASKS - 1} tasks language leads at ")
    assert done.out.splitlines()[-1] == f"Map: {tmp_path / 'map' / 'map.html'}"
    found = json.loads((tmp_path / "map" / "map.json").read_text(encoding="utf-8"))
    assert found["rows"] == results(finished / "runs")["ability_map"]["rows"]
    page = (tmp_path / "map" / "map.html").read_text(encoding="utf-8")
    assert "paribus map" in page and "What each encoder can be used for" in page
    two = (f"{finished / 'tiny.yaml'}:clip", f"{finished / 'tiny.yaml'}:clip")
    assert "Two encoders are called clip" in paribus(finished, "map", *two, *line[2:]).refused()
    odd = ("--one", "clip", "--two", "clop")
    assert "no encoder 'clop'" in paribus(finished, *line, *odd).refused()
    assert "belong together" in paribus(finished, *line, "--one", "clip").refused()


@pytest.fixture(scope="module")
def stimuli(shared_cache, tmp_path_factory):
    """Stimuli of the small corpus, and where they are."""
    from conftest import _link

    runtime = Runtime(cache=_link(shared_cache, tmp_path_factory.mktemp("stimuli") / "cache"), workers=1)
    from paribus.data.glyphs import GlyphsConfig
    from paribus.study.corpora import Corpus
    from study import small_settings

    corpus = Corpus(source=GlyphsConfig.model_validate(small_settings()["control"]["data"]["source"]))
    sizes = Sizes.model_validate({**STIMULI, "counts_train": 200, "counts_test": 60})
    stage = Stimuli(corpus=corpus, sizes=sizes)
    stage.run(runtime)
    return stage, runtime


LEARNING = Learning(GRID, 0, "cpu")


def planted(labels, width=24, noise=0.3, seed=0):
    """Features in which a label stands."""
    rng = np.random.default_rng(seed)
    names, place = np.unique(labels, return_inverse=True)
    centres = rng.normal(size=(len(names), width)) * 2
    return (centres[place] + noise * rng.normal(size=(len(labels), width))).astype(np.float32)


def test_recognition_reads_what_is_there_and_nothing_of_noise(stimuli):
    stage, runtime = stimuli
    columns = labels_of(stage.corpus.open(runtime, ALL))
    style = next(task for task in RECOGNITION if task.name == "style")
    seen, _ = recognition(style, columns, planted(columns["style"]), LEARNING)
    assert seen.tally.point() > 0.95
    noise = np.random.default_rng(5).normal(size=(len(columns["style"]), 24)).astype(np.float32)
    blind, _ = recognition(style, columns, noise, LEARNING)
    found = estimate(blind.tally, seed=0)
    assert found.low < 0.45 and found.value < seen.tally.point() - 0.4  # three styles


def test_letters_are_read_where_they_stand(stimuli):
    stage, runtime = stimuli
    columns = labels_of(stage.corpus.open(runtime, ALL))
    letters = np.zeros((len(columns["text"]), 5, 27), np.float32)
    for row, text in enumerate(columns["text"].tolist()):
        for place in range(5 if columns["kind"][row] == "word" else 0):
            letters[row, place, ord(text[place]) - 96 if place < len(text) else 0] = 1
    characters, words = reading(columns, letters.reshape(len(letters), -1), LEARNING)
    assert characters.tally.point() > 0.6  # some letters never stand at some place in training
    assert words.tally.point() <= characters.tally.point()
    noise = np.random.default_rng(1).normal(size=(len(letters), 20)).astype(np.float32)
    assert reading(columns, noise, LEARNING)[0].tally.point() < 0.35


def test_counts_are_read_off_features_that_have_them(stimuli):
    stage, runtime = stimuli
    made = stage.open("counts", runtime)
    number = made.columns["count"].astype(np.float32)
    assert counting(made, planted(number), LEARNING).tally.point() > 0.9


def test_conflicts_are_decided_by_what_the_features_follow(stimuli):
    stage, runtime = stimuli
    columns = labels_of(stage.corpus.open(runtime, ALL))
    made = stage.open("conflicts", runtime)
    names = np.unique(columns["group"])
    centres = np.random.default_rng(0).normal(size=(len(names), 24)).astype(np.float32) * 3
    group = next(task for task in RECOGNITION if task.name == "group")
    _, read = recognition(group, columns, centres[np.searchsorted(names, columns["group"])], LEARNING)
    for cue, share in (("shape", 1.0), ("texture", 0.0)):
        seen = centres[np.searchsorted(names, made.columns[cue])]
        assert conflict(made, seen, read).tally.point() == pytest.approx(share, abs=0.1)


def test_robustness_is_by_family(stimuli):
    stage, runtime = stimuli
    columns = labels_of(stage.corpus.open(runtime, ALL))
    made = stage.open("corrupted", runtime)
    group = next(task for task in RECOGNITION if task.name == "group")
    _, read = recognition(group, columns, planted(columns["group"]), LEARNING)
    rows = made.columns["row"].astype(int)
    seen = planted(columns["group"])[rows]
    noisy = made.columns["family"] == "noise"
    seen[noisy] = np.random.default_rng(2).normal(size=(noisy.sum(), 24))
    found = {one.task: one.tally.point() for one in robustness(made, columns, seen, read)}
    assert set(found) == {f"group under {name}" for name in ("noise", "blur", "weather", "digital")}
    assert found["group under noise"] < 0.6 < 0.9 < min(v for k, v in found.items() if "noise" not in k)


def test_segmentation_reads_patches_and_says_what_background_alone_gives(stimuli):
    stage, runtime = stimuli
    made = stage.open("scenes", runtime)
    masks = made.arrays["masks"]
    blocks = masks.reshape(len(masks), 4, 8, 4, 8)
    share = np.stack([(blocks == label).mean(axis=(2, 4)) for label in range(10)], axis=-1)
    patches = share.reshape(len(masks), 16, 10).astype(np.float32)
    from paribus.probes.dense import Window

    found = segmentation(made, patches, 10, Window(0.0, 1.0), LEARNING)
    assert found.tally.point() > found.chance + 0.1
    test = made.columns["split"] == "test"
    background = (masks[test] == 0).mean()
    there = len(np.unique(masks[test]))
    assert found.chance == pytest.approx(background / there, abs=1e-9)


def test_correspondence_finds_points_of_a_picture_in_itself(stimuli):
    stage, runtime = stimuli
    pairs = stage.open("pairs", runtime)
    own = Made({**pairs.arrays, "matches": pairs.arrays["points"]}, pairs.columns)
    patches = np.random.default_rng(0).normal(size=(len(pairs.arrays["points"]), 64, 16)).astype(np.float32)
    from paribus.probes.dense import Window

    whole = Window(0.0, 1.0)
    assert correspondence(own, patches, patches, whole).tally.point() > 0.95
    assert correspondence(own, patches, patches[:, ::-1].copy(), whole).tally.point() < 0.3


def test_a_window_is_what_an_encoder_looks_at(asked, tmp_path):
    from small_models import dino

    from paribus.encoders.eyes import open_eye

    stages, runtime = asked
    own = window_of(eye_of(stages["clip"].encoder, runtime))
    assert own == pytest.approx((0.0, 1.0), abs=0.01)
    dino(tmp_path)  # resized to 64 pixels, of which the middle 56 are looked at
    assert window_of(open_eye(str(tmp_path))) == pytest.approx((4 / 64, 60 / 64), abs=0.01)


def test_what_is_seen_does_not_depend_on_the_number_of_workers(asked):
    stages, runtime = asked
    eye = eye_of(stages["clip"].encoder, runtime)
    images = np.random.default_rng(0).integers(0, 255, (70, 32, 32, 3), dtype=np.uint8)
    one, two = (
        look_at_all(
            eye, images.__getitem__, 70, runtime.model_copy(update={"workers": n}), half=False, patches=True
        )
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.patches, two.patches)
