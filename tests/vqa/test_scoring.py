"""Scoring against loops, scipy and statsmodels, and the parser against texts that upstream gets wrong."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from paribus.errors import UserError
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.scoring import influence, likelihood, parse, score, score_texts, summarise


def _questions(count, seed=0):
    rng = np.random.default_rng(seed)
    kinds = [("General", "thing"), ("General", "kind"), ("OCR", "word-seen"), ("Doc & Chart", "table-cell")]
    weights = [0.5, 0.1, 0.25, 0.15]
    drawn = [kinds[int(i)] for i in rng.choice(4, count, p=weights)]
    image = np.zeros((2, 2, 3), np.uint8)
    return [
        Question(i, "q", "a", "b", "c", "d", LETTERS[i % 4], category, image, source, str(i))
        for i, (category, source) in enumerate(drawn)
    ]


def test_score_is_the_argmax_in_a_loop():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200, 4))
    answers = [LETTERS[int(i)] for i in rng.integers(4, size=200)]
    expected = [
        LETTERS[max(range(4), key=lambda k: row[k])] == a for row, a in zip(logits, answers, strict=True)
    ]
    assert score(logits, answers).tolist() == expected
    assert 0 < sum(expected) < 200


def test_a_model_that_prefers_no_letter_gets_nothing():
    assert not score(np.zeros((4, 4)), list("ABCD")).any()


def test_likelihood_is_scipys_softmax():
    logits = np.random.default_rng(2).normal(size=(50, 4)) * 30
    answers = [LETTERS[i % 4] for i in range(50)]
    expected = softmax(logits, axis=1)[np.arange(50), np.arange(50) % 4]
    np.testing.assert_allclose(likelihood(logits, answers), expected, rtol=1e-12)


def test_diverged_or_missing_logits_are_named():
    logits = np.zeros((3, 4))
    logits[1, 2] = np.nan
    with pytest.raises(UserError, match="question 1"):
        score(logits, list("ABC"))
    with pytest.raises(UserError, match="3 rows of logits for 2 answers"):
        score(np.zeros((3, 4)), list("AB"))
    with pytest.raises(UserError, match="'E'"):
        score(np.zeros((1, 4)), ["E"])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b ", None),
        ("(C)", "C"),
        ("D.", "D"),
        ("B. red apple", "B"),
        ("A) cat", "A"),
        ("C: it is blue", "C"),
        ("The answer is D", "D"),
        ("The correct answer is (B).", "B"),
        ("Answer: A", "A"),
        ("Option C", "C"),
        ("A cat is sitting here", None),
        ("A", "A"),
        # Upstream takes the first letter of these, by a slip of rfind.
        ("A. cat or B. dog", None),
        ("(A) or (D)", None),
        ("B. dog, so the answer is B", "B"),
        ("The answer is A, no, the answer is C", None),
        ("", None),
        ("E", None),
        ("AB", None),
        ("I do not know", None),
        ("Red  Apple.", "B"),
        ("a red apple", None),
    ],
)
def test_parse(text, letter):
    assert parse(text, ("cat", "red apple", "dog", "bell")) == letter


def test_an_answer_in_words_that_two_options_share_is_unparsed():
    assert parse("cat", ("cat", "Cat", "dog", "bell")) is None


def test_unparsed_answers_are_wrong_and_counted_apart():
    parsed = score_texts(["A", "B", "who knows", "(D)"], list("ABCD"))
    assert parsed.correct.tolist() == [True, True, False, True]
    assert parsed.unparsed.tolist() == [False, False, True, False]
    with pytest.raises(UserError, match="4 texts for 3 answers"):
        score_texts(["A"] * 4, list("ABC"))


def test_influence_has_the_macro_mean_and_the_stratified_bootstraps_spread():
    rng = np.random.default_rng(3)
    strata = np.repeat(["a", "b", "c"], [300, 60, 40])
    values = (rng.random(400) < np.repeat([0.9, 0.5, 0.3], [300, 60, 40])).astype(float)
    groups = [values[strata == name] for name in "abc"]
    spread = influence(values, strata)
    assert spread.mean() == pytest.approx(np.mean([g.mean() for g in groups]), abs=1e-12)
    stratified = [np.mean([rng.choice(g, len(g)).mean() for g in groups]) for _ in range(4000)]
    plain = [rng.choice(spread, len(spread)).mean() for _ in range(4000)]
    assert np.std(plain) == pytest.approx(np.std(stratified), rel=0.06)


def test_summarise_against_loops():
    questions = _questions(400)
    rng = np.random.default_rng(4)
    arms = {"clip": rng.random(400) < 0.5, "dino": rng.random(400) < 0.35, "none": rng.random(400) < 0.25}
    measures, differences = summarise(arms, questions, seed=7)
    value = {(m.arm, m.task, m.metric): m.value for m in measures}
    sources = {q.source for q in questions}
    task = {q.source: f"{q.category}/{q.source}" for q in questions}
    for arm, correct in arms.items():
        by_source = {
            s: np.mean([c for c, q in zip(correct, questions, strict=True) if q.source == s]) for s in sources
        }
        for source, mean in by_source.items():
            assert value[arm, task[source], "accuracy"] == pytest.approx(mean)
        general = [c for c, q in zip(correct, questions, strict=True) if q.category == "General"]
        assert value[arm, "General", "accuracy"] == pytest.approx(np.mean(general))
        assert value[arm, "overall", "accuracy (micro)"] == pytest.approx(np.mean(correct))
        assert value[arm, "overall", "accuracy (macro)"] == pytest.approx(np.mean(list(by_source.values())))
    # Four sources, three categories, two overalls; three arms, three pairs.
    assert len(measures) == 3 * 9 and len(differences) == 3 * 9
    for m in measures:
        assert (m.section, m.unit, m.chance, m.seed) == ("vqa", "questions", 0.25, 7)
        assert m.low <= m.value <= m.high


def test_differences_are_paired_tested_exactly_and_corrected_together():
    questions = _questions(300)
    rng = np.random.default_rng(5)
    one = rng.random(300) < 0.6
    two = one & (rng.random(300) < 0.8)
    measures, differences = summarise({"one": one, "two": two}, questions, seed=0)
    value = {(m.arm, m.task, m.metric): m.value for m in measures}
    for d in differences:
        assert d.value == pytest.approx(value["one", d.task, d.metric] - value["two", d.task, d.metric])
    overall = next(d for d in differences if d.metric == "accuracy (micro)")
    only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
    assert overall.p == pytest.approx(binomtest(only_two, only_one + only_two, 0.5).pvalue)
    tested = [d for d in differences if d.p is not None]
    expected = multipletests([d.p for d in tested], method="holm")[1]
    np.testing.assert_allclose([d.p_holm for d in tested], expected)
    macro = next(d for d in differences if d.metric == "accuracy (macro)")
    assert macro.p is None and macro.p_holm is None
    # Where one arm is right whenever the other is, pairing makes the interval far narrower than two apart.
    width = overall.high - overall.low
    alone = [m.high - m.low for m in measures if m.metric == "accuracy (micro)"]
    assert width < 0.9 * np.hypot(*alone)


def test_an_arm_that_answered_less_is_named():
    with pytest.raises(UserError, match="'dino' answered 3 of 8"):
        summarise({"dino": np.zeros(3, bool)}, _questions(8), seed=0)
    with pytest.raises(UserError, match="no questions"):
        summarise({}, [], seed=0)
