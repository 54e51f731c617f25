"""The harnesses' rules against what their own published functions returned.

``recorded_parsers.json`` holds texts and answers, no code: VLMEvalKit's ``vmcbench.py`` at 23757c4 and
``matching_util.py`` at 18fc37a, lmms-eval's ``tasks/vmcbench/utils.py`` at ecf7daa, each run once over all
texts after ``random.seed(seed)``.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.compat import (
    MISSING,
    can_infer,
    leaderboard_report,
    lmms_eval,
    lmms_eval_report,
    named,
    vlmevalkit,
    vlmevalkit_report,
)
from paribus.vqa.vmcbench import SOURCES

RECORDED = json.loads(Path(__file__).with_name("recorded_parsers.json").read_text(encoding="utf-8"))
CASES = RECORDED["cases"]
TEXTS = [case["text"] for case in CASES]
CATEGORY = {source: category for category, sources in SOURCES.items() for source in sources}
IMAGE = np.zeros((1, 1, 3), np.uint8)


def question(options, answer, source="TextVQA", **settings):
    fields = {"index": 0, "question": "q", "category": CATEGORY[source], "image": IMAGE, "key": "k"}
    return Question(options=tuple(options), answer=answer, source=source, **(fields | settings))


QUESTIONS = [question(case["options"], case["answer"], case["source"]) for case in CASES]


@pytest.mark.parametrize(("harness", "name"), [(vlmevalkit, "vlmevalkit"), (lmms_eval, "lmms_eval")])
def test_every_text_gets_the_letter_that_the_harness_gave_it(harness, name):
    read = harness(TEXTS, QUESTIONS, RECORDED["seed"])
    expected = [case[name] for case in CASES]
    assert [*read.letters] == expected
    assert read.correct.tolist() == [
        letter == case["answer"] for letter, case in zip(expected, CASES, strict=True)
    ]
    # The record is worth something: plenty were drawn, plenty were not, and another seed draws otherwise.
    assert 60 < read.drawn.sum() < len(CASES) - 200
    other = harness(TEXTS, QUESTIONS, RECORDED["seed"] + 1)
    changed = np.array(other.letters) != np.array(read.letters)
    assert changed.any() and not changed[~read.drawn].any()


def test_can_infer_is_the_harnesss():
    found = [can_infer(case["text"], dict(zip(LETTERS, case["options"], strict=False))) for case in CASES]
    assert found == [case["can_infer"] for case in CASES]
    assert {None, "A", "B", "C", "D", "Z"} == set(found)


def test_reports_are_the_harnesses():
    for harness, name, report in (
        (vlmevalkit, "vlmevalkit", vlmevalkit_report),
        (lmms_eval, "lmms_eval", lmms_eval_report),
    ):
        correct = harness(TEXTS, QUESTIONS, RECORDED["seed"]).correct
        assert report(correct, QUESTIONS) == pytest.approx(RECORDED["reports"][name], abs=1e-9)


def test_the_leaderboard_weighs_sources_alike():
    """Its published rows: the mean of the categories, each as often as it has sources."""
    for by_category, average in (
        ((88.5, 72.2, 96.8, 90.2), 84.9),  # Qwen2-VL-72B
        ((84.9, 66.2, 96.3, 83.2), 80.0),  # GPT-4o
    ):
        rng = np.random.default_rng(0)
        questions, correct = [], []
        for share, sources in zip(by_category, SOURCES.values(), strict=True):
            for source in sources:
                # Sources of unlike sizes with the same share, in thousandths.
                size = 1000 * int(rng.integers(1, 3))
                questions += [question("abcd", "A", source)] * size
                correct += [place < size * share / 100 for place in range(size)]
        found = leaderboard_report(np.array(correct), questions)
        assert [found[name] for name in SOURCES] == pytest.approx(by_category)
        assert found["Avg"] == pytest.approx(average, abs=0.05)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B. cat or A. dog", "A"),  # both stand nowhere as "(B)" and "(A)": the first option wins
        ("(A) or (D), no: (B)", "B"),  # as "(B)" they are found, and the last wins
        ("D. dog, not (A)", "A"),  # the one in brackets stands somewhere
        ("It is in the USA. Yes", "A"),  # the end of a word passes for an option
        ("A.,", "A"),
        ("A,.", None),  # each mark is stripped once, in its turn: the comma is not at the end when it is due
        ("'A.'", "A"),  # the point is left, and passes for a list's
        ("b", None),
        ("five words and a bell", None),  # one word too few to look for options in it
        ("these six words name a bell", "D"),
        ("it is no cat but rather a dog", "C"),
    ],
)
def test_the_slips_are_kept(text, letter):
    assert named(text, dict(zip("ABCD", ("cat", "ant", "dog", "bell"), strict=True))) == letter


def test_pandas_reads_the_missing_options_as_missing():
    import io

    import pandas as pd

    texts = [*sorted(MISSING), "none", "NONE", "Na", "null.", "no answer", "-", "n.a."]
    table = pd.DataFrame({"index": range(len(texts)), "A": texts}).to_csv(sep="\t", index=False, quoting=1)
    read = pd.read_csv(io.StringIO(table), sep="\t")["A"]
    assert read.isna().tolist() == [text in MISSING for text in texts]


def test_what_vlmevalkit_loses_is_not_drawn():
    questions = [question(["None", "x", "y", "z"], "A"), question(["x", "None", "y", "z"], "A")] * 50
    read = vlmevalkit(["who knows"] * 100, questions, seed=0)
    assert set(read.letters[0::2]) == {""} and not read.correct[0::2].any()
    assert set(read.letters[1::2]) == {"A", "C", "D"}
    assert set(lmms_eval(["who knows"] * 100, questions, seed=0).letters) == set("ABCD")


def test_more_options_are_vlmevalkits_only():
    seven = question("abcdefg", "G")
    assert vlmevalkit(["(G)"], [seven], 0).letters == ("G",)
    with pytest.raises(UserError, match="does not have 4 to 4 lettered options"):
        lmms_eval(["(G)"], [seven], 0)


def test_what_cannot_be_read_is_refused():
    yes = question(("Yes", "No"), "Yes", lettered=False)
    with pytest.raises(UserError, match="lettered options"):
        vlmevalkit(["yes"], [yes], 0)
    with pytest.raises(UserError, match="k has no published answer"):
        lmms_eval(["A"], [question("abcd", "")], 0)
    with pytest.raises(UserError, match="2 texts for 1 questions"):
        lmms_eval(["A", "B"], [question("abcd", "A")], 0)
    with pytest.raises(UserError, match="0 answers for 0 questions"):
        lmms_eval_report(np.zeros(0, bool), [])
