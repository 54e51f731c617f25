"""GlyphQA on the real corpus: true answers, separate splits, no way to guess, and files whole or refused."""

import contextlib
import json
import math
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency, chisquare

from paribus.data.draw import COLOURS
from paribus.data.glyphs import Glyphs, GlyphsConfig
from paribus.data.glyphs import build as build_glyphs
from paribus.errors import UserError
from paribus.vqa.benchmark import CATEGORIES, LETTERS, Asked, Benchmark, prompt
from paribus.vqa.glyphqa import GlyphQA, GlyphQAConfig, build, make
from paribus.vqa.questions import KINDS, LOOKS, MAKERS, PLACES, SOURCES

from . import SIZES

CONFIG = GlyphQAConfig(**SIZES)
FOUR = LETTERS[:4]
IMAGE = np.zeros((1, 1, 3), np.uint8)


def _by_source(questions):
    groups = defaultdict(list)
    for question in questions:
        groups[question.source].append(question)
    return groups


def _right(question):
    return question.options[question.says.index(question.answer)]


# The set as a whole.


def test_it_keeps_the_protocol(questions_folder):
    benchmark = GlyphQA(questions_folder, "test")
    assert isinstance(benchmark, Benchmark)
    question = benchmark.question(3)
    assert question.index == 3 and question.category in CATEGORIES
    assert question.says == tuple(FOUR)
    assert len(set(question.options)) == 4 and all(question.options)
    assert len(benchmark.digest) == 64


def test_categories_are_equal_and_unseen_words_only_in_the_test(questions):
    for split, total in (("train", CONFIG.train), ("test", CONFIG.test)):
        assert Counter(q.category for q in questions[split]) == dict.fromkeys(CATEGORIES, total // 4)
        expected = {source for sources in SOURCES.values() for source in sources}
        assert {q.source for q in questions[split]} == expected - (
            {"word-unseen"} if split == "train" else set()
        )


def test_it_is_asked_as_a_source_to_train_on(questions_folder):
    benchmark = GlyphQA(questions_folder, "train")
    source, question = Asked(benchmark, "short"), benchmark.question(5)
    assert len(source) == CONFIG.train
    sample = source[5]
    assert sample.text == question.answer and question.answer in FOUR
    (turn,) = sample.turns
    assert turn.ask == f"<image>\n{prompt(question, 'short')}" and turn.reply == question.answer
    assert sample.key == question.key
    assert sample.factors == {"category": question.category, "source": question.source}
    np.testing.assert_array_equal(sample.image, question.image)
    assert benchmark.digest != GlyphQA(questions_folder, "test").digest


def test_options_differ_and_letters_are_uniform_and_independent_of_the_source(questions):
    for split in ("train", "test"):
        assert all(len(set(q.options)) == 4 for q in questions[split])
        assert all(q.image.shape == (48, 48, 3) for q in questions[split])
        letters = Counter(q.answer for q in questions[split])
        assert chisquare([letters[x] for x in FOUR]).pvalue > 1e-3
        table = Counter((q.source, q.answer) for q in questions[split])
        names = sorted({source for source, _ in table})
        assert chi2_contingency([[table[name, x] for x in FOUR] for name in names]).pvalue > 1e-3


# Nothing to be learnt without the picture.


def _expected_accuracy(questions, value):
    """Accuracy of choosing the option of the highest value, ties broken at random."""
    total = 0.0
    for question in questions:
        values = {
            letter: value(question, option)
            for letter, option in zip(question.says, question.options, strict=True)
        }
        best = [letter for letter in values if values[letter] == max(values.values())]
        total += (question.answer in best) / len(best)
    return total / len(questions)


def _assert_chance(name, questions, accuracy):
    p = binomtest(round(accuracy * len(questions)), len(questions), 0.25).pvalue
    assert p > 1e-3, f"blind accuracy on {name}: {accuracy:.3f} of {len(questions)}"


def test_a_blind_guesser_by_option_frequency_is_at_chance(questions):
    as_answer, as_distractor = Counter(), Counter()
    for question in questions["train"]:
        for option in question.options:
            (as_answer if option == _right(question) else as_distractor)[question.source, option] += 1

    def value(question, option):
        source = question.source.replace("unseen", "seen")
        return as_answer[source, option] - as_distractor[source, option] / 3

    for source, asked in _by_source(questions["test"]).items():
        _assert_chance(source, asked, _expected_accuracy(asked, value))


def _apart(one, other):
    return sum(x != y for x, y in zip(one, other, strict=False)) + abs(len(one) - len(other))


def _features(question, option):
    """All that a blind reader could use of an option, alone and with each word of the question."""
    others = question.options
    by_length = sorted(others, key=lambda o: (len(o), o))
    hub = sorted(others, key=lambda o: (sum(_apart(o, other) for other in others), o))
    own = [option, *option.split(), f"length {len(option)}", f"rank {by_length.index(option)}"]
    own += [f"hub {hub.index(option)}", f"letter {LETTERS[others.index(option)]}"]
    with contextlib.suppress(ValueError):
        own.append(f"number {sorted(map(float, others)).index(float(option))}")
    asked = question.question.split()
    return [(question.source, f) for f in own] + [(question.source, f, w) for f in own for w in asked]


def test_a_blind_naive_bayes_reader_of_question_and_options_is_at_chance(questions):
    as_answer, as_distractor = Counter(), Counter()
    for question in questions["train"]:
        for option in question.options:
            (as_answer if option == _right(question) else as_distractor).update(_features(question, option))

    def value(question, option):
        found = _features(question, option)
        return round(sum(math.log((as_answer[f] + 1) / (as_distractor[f] / 3 + 1)) for f in found), 9)

    for source, asked in _by_source(questions["test"]).items():
        _assert_chance(source, asked, _expected_accuracy(asked, value))


def test_the_blind_reader_would_notice_a_leak(questions):
    """The check above can fail: on questions whose answer is the longest option it is far above chance."""
    leaky = [q for q in questions["test"] if len(_right(q)) == max(map(len, q.options))]
    accuracy = _expected_accuracy(leaky, lambda _, option: len(option))
    with pytest.raises(AssertionError, match="blind accuracy"):
        _assert_chance("leaky", leaky, accuracy)


# Train and test apart.


def test_no_drawing_font_word_or_row_is_in_both_splits(pools, corpus_folder):
    columns = {s: Glyphs(corpus_folder, splits=(s,)).columns for s in ("train", "redraw", "test")}
    shown = {}
    for split, splits in (("train", ("train",)), ("test", ("redraw", "test"))):
        merged = Glyphs(corpus_folder, splits=splits).columns
        rows = {t.row for group in pools[split].of_colour.values() for t in group}
        rows |= {t.row for group in pools[split].of_style_kind.values() for t in group}
        rows |= {t.row for group in pools[split].of_concept.values() for t in group}
        shown[split] = {(merged["concept"][i], merged["vendor"][i]) for i in rows}
        assert {merged["split"][i] for i in rows} == {"train" if split == "train" else "redraw"}
    assert shown["train"] and shown["test"] and not shown["train"] & shown["test"]
    assert {c for c, _ in shown["test"]} <= set(columns["train"]["concept"]) | set(
        columns["redraw"]["concept"]
    )
    assert not set(pools["train"].fonts) & set(pools["test"].fonts)
    assert not set(pools["train"].words["word-seen"]) & set(pools["test"].words["word-unseen"])
    labels = {
        split: {row.label for table in (*pools[split].tables, *pools[split].states) for row in table}
        for split in pools
    }
    assert labels["train"] and labels["test"] and not labels["train"] & labels["test"]


def test_no_test_picture_is_a_train_picture(questions):
    for category in ("General", "OCR"):
        seen = {q.image.tobytes() for q in questions["train"] if q.category == category}
        assert not any(q.image.tobytes() in seen for q in questions["test"] if q.category == category)


# The answers are true.


@pytest.mark.parametrize("split", ["train", "test"])
def test_chart_colours_by_counting_pixels(questions, split):
    palette = np.array(list(COLOURS.values()), float)
    names = list(COLOURS)
    # The axis is black, so black cannot be counted.
    asked = [q for q in _by_source(questions[split])["chart-colour"] if "black" not in q.options]
    assert len(asked) > 100
    for question in asked:
        gaps = np.abs(question.image[:, :, None].astype(float) - palette).sum(-1)
        exact = np.where(gaps.min(-1) < 24, gaps.argmin(-1), -1)
        areas = {option: int((exact == names.index(option)).sum()) for option in question.options}
        shown = {option: area for option, area in areas.items() if area > 20}
        assert 3 <= len(shown) <= 4
        pick = max if question.question.endswith("largest?") else min
        assert pick(shown, key=shown.get) == _right(question), question.key


def test_how_many_pictures_by_counting_tiles(questions):
    asked = [q for q in questions["test"] if q.question == "How many pictures are there?"]
    assert len(asked) > 50
    for question in asked:
        halves = [question.image[r : r + 24, c : c + 24] for r in (0, 24) for c in (0, 24)]
        assert str(sum(bool((half < 250).any()) for half in halves)) == _right(question)


@pytest.fixture
def watched(pools, monkeypatch):
    """A pool that notes which things and rows the latest question showed."""

    def watch(split):
        pool, seen = pools[split], {}
        show, grid, picture = pool.show, pool.grid, pool.picture
        monkeypatch.setattr(pool, "show", lambda t: (seen.update(thing=t), show(t))[1])
        monkeypatch.setattr(pool, "grid", lambda ts: (seen.update(grid=list(ts)), grid(ts))[1])
        monkeypatch.setattr(pool, "picture", lambda row: (seen.update(row=row), picture(row))[1])
        return pool, seen

    return watch


def _category(source):
    return next(category for category, sources in SOURCES.items() if source in sources)


def _each(pool, seen, source, count=60, split="test"):
    found, index = 0, list(SOURCES).index(_category(source))
    while found < count:
        question = make(CONFIG, pool, split, index)
        index += 4
        if question.source == source:
            found += 1
            yield question, seen


def test_what_is_shown_is_the_answer(watched):
    pool, seen = watched("test")
    for question, shown in _each(pool, seen, "thing"):
        assert shown["thing"].name == _right(question)
        chosen = [t for t in pool.of_concept.values() if t[0].name in question.options]
        assert {t[0].subgroup for t in chosen} == {shown["thing"].subgroup}
    for question, shown in _each(pool, seen, "kind"):
        assert shown["thing"].subgroup in KINDS[_right(question)]
    for question, shown in _each(pool, seen, "colour"):
        assert shown["thing"].colour == _right(question)


def test_counted_things_are_those_named(watched):
    pool, seen = watched("test")
    named = 0
    for question, shown in _each(pool, seen, "count"):
        target = question.question.partition("show: ")[2].rstrip("?")
        tiles = [t for t in shown["grid"] if t is not None and (not target or t.name == target)]
        named += bool(target)
        assert str(len(tiles)) == _right(question)
    assert 10 < named < 50


def test_positions_are_as_asked(watched):
    pool, seen = watched("test")
    where = {"on the left": 0, "on the right": 1, "at the top": 0, "at the bottom": 2}
    where |= {f"at the {name}": place for place, name in enumerate(PLACES)}
    step = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
    relations = 0
    for question, shown in _each(pool, seen, "position", 90):
        grid = [None if t is None else t.name for t in shown["grid"]]
        asked = question.question.removeprefix("What is ").rstrip("?")
        if ": " in asked:
            relation, anchor = asked.split(": ")
            row, column = divmod(grid.index(anchor), 2)
            down, right = step[relation]
            place = (row + down) * 2 + column + right
            relations += 1
            assert anchor not in question.options
        else:
            place = where[asked]
        assert grid[place] == _right(question)
    assert relations > 10


@pytest.mark.parametrize(
    ("source", "same", "differ"),
    [
        ("odd-thing", "concept", "concept"),
        ("odd-kind", "kind", "kind"),
        ("odd-style", "style", "style"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_odd_one_differs_in_what_is_asked_and_in_nothing_that_gives_it_away(
    watched, source, same, differ, split
):
    pool, seen = watched(split)
    kinds = {subgroup: kind for kind, subgroups in KINDS.items() for subgroup in subgroups}
    for question, shown in _each(pool, seen, source, 40, split):
        facts = [{**t._asdict(), "kind": kinds.get(t.subgroup)} for t in shown["grid"]]
        odd = facts.pop(PLACES.index(_right(question)))
        assert len({f[same] for f in facts}) == 1 and odd[differ] != facts[0][same]
        if source == "odd-thing":
            assert odd["style"] in {f["style"] for f in facts} and odd["subgroup"] == facts[0]["subgroup"]
        if source == "odd-kind":
            assert {f["style"] for f in facts} == {odd["style"]}
        if source == "odd-style":
            assert odd["kind"] == facts[0]["kind"] and len({f["concept"] for f in (*facts, odd)}) == 4
            assert LOOKS.get(odd["style"]) != LOOKS.get(facts[0]["style"]) != "one colour"


@pytest.mark.parametrize("source", ["word-seen", "word-unseen"])
def test_the_written_word_is_the_answer_and_the_others_are_of_its_list(watched, corpus_folder, source):
    corpus = Glyphs(corpus_folder, splits=("redraw", "test"))
    words = set(corpus.words[source.removeprefix("word-")])
    pool, seen = watched("test")
    for question, shown in _each(pool, seen, source):
        assert corpus.columns["text"][shown["row"]] == _right(question)
        assert set(question.options) <= words


# A pure function, stored whole.


def test_a_stored_question_is_the_one_that_is_made(pools, questions):
    for split in ("train", "test"):
        for index in (0, 1, 2, 3, 17, 1234):
            made, stored = make(CONFIG, pools[split], split, index), questions[split][index]
            np.testing.assert_array_equal(made.image, stored.image)
            assert replace(made, image=IMAGE) == replace(stored, image=IMAGE)


def test_builds_repeat_and_follow_the_seed_size_and_counts(tmp_path, corpus_folder, art_folder):
    small = GlyphQAConfig(train=40, test=80)
    for name, config in (
        ("a", small),
        ("b", small),
        ("c", GlyphQAConfig(train=40, test=80, seed=1, size=96)),
    ):
        build(config, corpus_folder, art_folder, tmp_path / name, workers=1)
    a, b, c = ((tmp_path / name / "meta.json").read_text() for name in "abc")
    assert a == b and json.loads(a)["sha256"] != json.loads(c)["sha256"]
    other = GlyphQA(tmp_path / "c", "test")
    assert len(other) == 80 and other.question(0).image.shape == (96, 96, 3)


@pytest.mark.slow
def test_processes_make_the_same_questions(tmp_path, corpus_folder, art_folder, monkeypatch):
    monkeypatch.setattr("paribus.vqa.glyphqa._WORTH", 50)
    small = GlyphQAConfig(train=240, test=40)
    build(small, corpus_folder, art_folder, tmp_path / "two", workers=2)
    build(small, corpus_folder, art_folder, tmp_path / "one", workers=1)
    assert (tmp_path / "two" / "meta.json").read_text() == (tmp_path / "one" / "meta.json").read_text()


def test_damage_is_named_and_says_what_to_do(tmp_path, questions_folder):
    def copy(name):
        return shutil.copytree(questions_folder, tmp_path / name)

    cut = copy("cut")
    with (cut / "images.bin").open("r+b") as handle:
        handle.truncate(1000)
    flipped = copy("flipped")
    with (flipped / "table.parquet").open("r+b") as handle:
        handle.seek(100)
        handle.write(b"\x00\xff\x00")
    gone = copy("gone")
    (gone / "images.bin").unlink()
    half = copy("half")
    (half / "meta.json").unlink()
    broken = copy("broken")
    (broken / "meta.json").write_text('{"sha256": ')
    for folder, name in (
        (cut, "images.bin"), (flipped, "table.parquet"), (gone, "images.bin"), (half, "meta.json"),
        (broken, "meta.json"), (tmp_path / "never", "meta.json"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"{name}.*delete .* and run the study again"):
            GlyphQA(folder, "test")


def test_a_folder_with_other_files_is_left_alone(tmp_path, corpus_folder, art_folder):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        build(GlyphQAConfig(train=40, test=40), corpus_folder, art_folder, tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unknown_splits_are_refused(questions_folder):
    with pytest.raises(UserError, match="'dev'"):
        GlyphQA(questions_folder, "dev")


def test_a_corpus_without_emoji_is_refused_and_nothing_is_written(tmp_path, art_folder):
    fonts = ("Acme", "Lora", "Roboto", "Righteous")
    build_glyphs(GlyphsConfig(styles=fonts, words=280), art_folder, tmp_path / "words", workers=1)
    with pytest.raises(UserError, match="corpus is too small"):
        build(GlyphQAConfig(), tmp_path / "words", art_folder, tmp_path / "out", workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"words"}


def test_every_source_has_a_maker():
    assert set(MAKERS) == {source for sources in SOURCES.values() for source in sources}
    assert tuple(SOURCES) == CATEGORIES
