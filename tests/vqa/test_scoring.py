"""Scoring against loops, scipy and statsmodels, and the parser against texts that upstream gets wrong."""

import re

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from paribus.errors import UserError
from paribus.results import Difference
from paribus.stats import bootstrap_difference, bootstrap_mean, crossed_difference, detectable
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.scoring import (
    CATEGORY_MEAN,
    GROUPS,
    MACRO,
    MICRO,
    calibrated,
    circular,
    influence,
    likeliest,
    likelihood,
    majority,
    over_seeds,
    parse,
    rotated_mean,
    rotations,
    score,
    score_texts,
    sentence,
    summarise,
    summarise_seeds,
    together,
    wrong_image_order,
)

IMAGE = np.zeros((2, 2, 3), np.uint8)


def one(options="abcd", answer="A", **settings):
    fields = {
        "index": 0,
        "question": "q",
        "category": "General",
        "image": IMAGE,
        "source": "thing",
        "key": "k",
    }
    return Question(options=tuple(options), answer=answer, **(fields | settings))


def yes_no(answer="Yes", **settings):
    return one(("Yes", "No"), answer, lettered=False, **settings)


def answered(answers, options="abcd"):
    return [one(options, answer, index=i, key=str(i)) for i, answer in enumerate(answers)]


def mixed(count, seed=0):
    """Questions with two to seven lettered options, and some answered by yes or no."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = int(rng.integers(1, 8))
        place = {"index": number, "key": str(number)}
        if size == 1:
            found.append(yes_no(("Yes", "No")[int(rng.integers(2))], **place))
        else:
            found.append(one("abcdefg"[:size], LETTERS[int(rng.integers(size))], **place))
    return found


def drawn(questions, seed=0):
    """Scores without ties."""
    rng = np.random.default_rng(seed)
    scores = np.full((len(questions), max(len(q.options) for q in questions)), -np.inf)
    for row, question in enumerate(questions):
        scores[row, : len(question.options)] = rng.normal(size=len(question.options))
    return scores


def questions_of(count, seed=0):
    rng = np.random.default_rng(seed)
    kinds = [("General", "thing"), ("General", "kind"), ("OCR", "word-seen"), ("Doc & Chart", "table-cell")]
    drawn = [kinds[int(i)] for i in rng.choice(4, count, p=[0.5, 0.1, 0.25, 0.15])]
    return [
        one("abcd", LETTERS[i % 4], index=i, category=category, source=source, key=str(i))
        for i, (category, source) in enumerate(drawn)
    ]


# Options by their likelihood.


def test_score_is_the_argmax_in_a_loop():
    questions = mixed(300)
    scores = drawn(questions)
    expected = []
    for row, question in zip(scores, questions, strict=True):
        best = max(range(len(question.options)), key=lambda place: row[place])
        expected.append(question.says[best] == question.answer)
    assert score(scores, questions).tolist() == expected
    assert score(np.pad(scores, ((0, 0), (0, 2)), constant_values=-np.inf), questions).tolist() == expected
    assert 0 < sum(expected) < 300


def test_a_model_that_prefers_no_option_gets_nothing():
    assert not score(np.zeros((4, 4)), answered("ABCD")).any()
    tied = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]])
    assert not score(tied, answered("AC")).any()


def test_an_oracle_scores_100_and_a_constant_letter_its_share():
    questions = mixed(400)
    places = np.array([q.says.index(q.answer) for q in questions])
    scores = drawn(questions)
    oracle = scores.copy()
    oracle[np.arange(400), places] += 100
    assert score(oracle, questions).all()
    assert likelihood(oracle, questions) == pytest.approx(1)
    for place in range(7):
        constant = np.where(np.isfinite(scores), 0.0, -np.inf)
        constant[:, place] = np.where(np.isfinite(scores[:, place]), 1.0, -np.inf)
        assert score(constant, questions).mean() == pytest.approx((places == place).mean())


def test_random_scores_score_chance():
    questions = [q for n in (2, 3, 4, 5) for q in answered(LETTERS[:n] * (1200 // n), "abcde"[:n])]
    correct = score(drawn(questions), questions)
    for number, options in enumerate((2, 3, 4, 5)):
        part = correct[1200 * number : 1200 * (number + 1)]
        assert binomtest(int(part.sum()), 1200, 1 / options).pvalue > 0.001
    measures, _ = summarise({"blind": correct}, questions, seed=0)
    overall = next(m for m in measures if m.metric == MICRO and m.task == "overall")
    assert overall.chance == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5]))
    assert overall.low < overall.chance < overall.high


def test_likelihood_is_scipys_softmax():
    questions = mixed(80)
    scores = drawn(questions) * 30
    places = [q.says.index(q.answer) for q in questions]
    np.testing.assert_allclose(likelihood(scores, questions), softmax(scores, axis=1)[range(80), places])


def test_what_is_likeliest_is_said_and_of_equals_the_first():
    questions = mixed(80)
    scores = drawn(questions)
    said = likeliest(scores, questions)
    right = [answer == question.answer for answer, question in zip(said, questions, strict=True)]
    assert right == score(scores, questions).tolist()
    hidden = [one(answer=""), yes_no("")]
    tied = np.array([[0.0, 1.0, 1.0, 0.0], [2.0, 2.0, -np.inf, -np.inf]])
    assert likeliest(tied, hidden) == ["B", "Yes"]
    with pytest.raises(UserError, match="2 rows of scores for 1 questions"):
        likeliest(tied, hidden[:1])


def test_scores_that_fit_no_question_are_named():
    logits = np.zeros((3, 4))
    logits[1, 2] = np.nan
    with pytest.raises(UserError, match="scores of question 1 are not finite"):
        score(logits, answered("ABC"))
    with pytest.raises(UserError, match="3 rows of scores for 2 questions"):
        score(np.zeros((3, 4)), answered("AB"))
    with pytest.raises(UserError, match="Question 1 has no published answer"):
        score(np.zeros((2, 4)), [one(key="0"), one(answer="", key="1")])
    with pytest.raises(UserError, match="Question k has a score for an option that it does not have"):
        likelihood(np.zeros((1, 4)), [one("abc")])
    with pytest.raises(UserError, match="4 options but 3 scores"):
        score(np.zeros((1, 3)), [one("abcd")])


def test_calibration_takes_the_prior_away_option_by_option():
    """A planted liking for some options' words, which the model shows without the picture too, is gone."""
    questions = mixed(400, seed=3)
    places = np.array([q.says.index(q.answer) for q in questions])
    evidence, liking = drawn(questions, 1), 5 * drawn(questions, 2)
    evidence[np.arange(400), places] += 3
    seen, blind = log_softmax(evidence + liking, axis=1), log_softmax(liking, axis=1)
    found = calibrated(seen, blind)
    np.testing.assert_array_equal(score(found, questions), score(evidence, questions))
    assert score(seen, questions).mean() + 0.2 < score(found, questions).mean()
    expected = [
        [a - b for a, b in zip(x, y, strict=True) if np.isfinite(a)] for x, y in zip(seen, blind, strict=True)
    ]
    for row, values in zip(found, expected, strict=True):
        assert row[np.isfinite(row)].tolist() == values
    with pytest.raises(UserError, match="other options"):
        calibrated(seen, blind[:, :-1])
    with pytest.raises(UserError, match="other options"):
        calibrated(seen, blind[::-1])


# Every option in every place.


def test_rotations_move_every_option_through_every_place():
    question = one(("w", "x", "y", "z"), "B")
    turned = rotations(question)
    assert ["".join(q.options) for q in turned] == ["wxyz", "xyzw", "yzwx", "zwxy"]
    assert [q.options[q.says.index(q.answer)] for q in turned] == ["x"] * 4
    assert turned[0] is question and len({q.key for q in turned}) == 4
    assert rotations(yes_no()) == [yes_no()]
    assert [q.answer for q in rotations(one("abc", ""))] == ["", "", ""]
    for place in range(3):
        assert sorted(q.options[place] for q in rotations(one("abc"))) == ["a", "b", "c"]


def asked(questions, bias, seed=0, strength=1.0):
    """A model that sees something of the answer, and likes places besides; scores of all rotations."""
    turned = [turn for question in questions for turn in rotations(question)]
    rng = np.random.default_rng(seed)
    scores = np.full((len(turned), max(len(q.options) for q in questions)), -np.inf)
    row = 0
    for question in questions:
        right = question.options[question.says.index(question.answer)]
        likes = {option: rng.normal() + strength * (option == right) for option in question.options}
        for turn in rotations(question):
            for place, option in enumerate(turn.options):
                scores[row, place] = likes[option] + (bias[place] if question.lettered else 0.0)
            row += 1
    return scores, turned


def test_the_mean_over_rotations_removes_a_liking_for_places():
    questions = mixed(400, seed=4)
    fair, _ = asked(questions, np.zeros(7))
    biased, turned = asked(questions, np.array([6.0, 0, 1, 0, 0, -2, 3]))
    first = np.cumsum([0] + [len(rotations(q)) for q in questions[:-1]])
    unbiased = score(fair[first], questions)
    assert score(biased[first], questions).mean() < unbiased.mean() - 0.1
    np.testing.assert_array_equal(score(rotated_mean(biased, questions), questions), unbiased)
    # In a loop: an option's mean score wherever it stood.
    means = rotated_mean(biased, questions)
    row = 0
    for question, found in zip(questions, means, strict=True):
        held = {option: [] for option in question.options}
        for _ in rotations(question):
            for place, option in enumerate(turned[row].options):
                held[option].append(biased[row, place])
            row += 1
        assert found[: len(held)] == pytest.approx([np.mean(values) for values in held.values()])
        assert (found[len(held) :] == -np.inf).all()


def test_circular_counts_what_is_right_wherever_it_stands():
    questions = mixed(300, seed=5)
    scores, turned = asked(questions, np.array([2.0, 0, 0, 0, 0, 0, 0]), strength=2.0)
    correct = score(scores, turned)
    expected, row = [], 0
    for question in questions:
        count = len(rotations(question))
        expected.append(all(correct[row : row + count]))
        row += count
    assert circular(correct, questions).tolist() == expected
    assert 0 < sum(expected) < correct.mean() * 300
    # Whoever always says A is right in one rotation of each question and in all of none.
    letters = [q for q in questions if q.lettered]
    always, turned = asked(letters, np.array([99.0, 0, 0, 0, 0, 0, 0]))
    assert score(always, turned).sum() == len(letters)
    assert not circular(score(always, turned), letters).any()
    assert score(rotated_mean(always, letters), letters).mean() > 0.4


def test_circular_takes_a_square_of_equal_questions():
    correct = np.array([[True] * 4, [True, True, False, True], [False] * 4])
    assert circular(correct.ravel(), answered("ABC")).tolist() == [True, False, False]
    with pytest.raises(UserError, match="11 answers for 12 rotations of 3 questions"):
        circular(np.ones(11, bool), answered("ABC"))
    with pytest.raises(UserError, match="3 answers for 12 rotations"):
        rotated_mean(np.zeros((3, 4)), answered("ABC"))


# What is answered without a picture.


def test_the_majority_is_a_constant_answer():
    questions = answered("ABBCBDCC")
    assert score(majority(questions), questions).tolist() == [q.answer == "B" for q in questions]
    mixture = [*answered("CCC"), yes_no("Yes"), yes_no("No"), one("ab", "B")]
    assert score(majority(mixture), mixture).tolist() == [True] * 3 + [False] * 3
    many = mixed(200)
    counts = np.bincount([q.says.index(q.answer) for q in many])
    assert score(majority(many), many).mean() == pytest.approx(counts.max() / 200)
    with pytest.raises(UserError, match="no questions"):
        majority([])
    with pytest.raises(UserError, match="no published answer"):
        majority([one(answer="")])


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_a_wrong_picture_is_never_the_own_one(count):
    for seed in range(20):
        order = wrong_image_order(count, seed)
        assert sorted(order) == list(range(count)) and (order != np.arange(count)).all()
        np.testing.assert_array_equal(order, wrong_image_order(count, seed))
    orders = {tuple(wrong_image_order(count, seed)) for seed in range(20)}
    assert len(orders) == (1 if count == 2 else 2 if count == 3 else 20)


def test_a_wrong_picture_is_another_picture_where_there_are_enough():
    rng = np.random.default_rng(6)
    for seed in range(60):
        count = int(rng.integers(2, 40))
        names = np.array([f"p{i}" for i in rng.integers(0, rng.integers(1, count + 1), count)])
        order = wrong_image_order(count, seed, names.tolist())
        assert sorted(order) == list(range(count)) and (order != np.arange(count)).all()
        most = np.unique(names, return_counts=True)[1].max()
        if 2 * most <= count:
            assert (names[order] != names).all()
        else:  # as many as can
            assert (names[order] != names).sum() == 2 * (count - most)
    with pytest.raises(UserError, match="at least 2"):
        wrong_image_order(1, 0)
    with pytest.raises(UserError, match="3 pictures for 4 questions"):
        wrong_image_order(4, 0, ["a", "b", "c"])


def test_every_other_picture_is_as_likely():
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), wrong_image_order(5, seed)] += 1
    assert (counts.diagonal() == 0).all()
    np.testing.assert_allclose(counts[~np.eye(5, dtype=bool)], 500, atol=90)


# Generated texts.

WORDS = one(("cat", "red apple", "dog", "bell"))


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
    assert parse(text, WORDS) == letter


def test_an_answer_in_words_that_two_options_share_is_unparsed():
    assert parse("cat", one(("cat", "Cat", "dog", "bell"))) is None


def test_letters_go_as_far_as_the_options():
    seven, nine = one("pqrstuv", "G"), one("pqrstuvwx", "I")
    for text in ("G", "(G)", "G. v", "The answer is G", "v"):
        assert parse(text, seven) == "G" and parse(text, one("pq")) is None
    assert parse("I", nine) == "I" and parse("The answer is I.", nine) == "I"
    assert parse("My choice I made is none", nine) is None
    assert parse("option I think is best", nine) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "Yes"),
        ("no", "No"),
        ("Yes, there is.", "Yes"),
        ("NO!", "No"),
        ("**Yes**", "Yes"),
        ("There is no dog in the picture.", "No"),
        ("Yes and no", None),
        ("no... yes", None),
        ("I know nothing", None),
        ("yesterday", None),
        ("", None),
        ("A", None),
        ("maybe", None),
    ],
)
def test_parse_yes_and_no(text, said):
    assert parse(text, yes_no()) == said


def test_options_that_are_said_are_whole_words_and_the_longest_wins():
    question = one(("red", "red apple", "$5.00 (five)"), "red", lettered=False)
    assert parse("A red  Apple.", question) == "red apple"
    assert parse("It is red", question) == "red"
    assert parse("red or a red apple", question) is None
    assert parse("it costs $5.00 (five) there", question) == "$5.00 (five)"
    assert parse("redder", question) is None
    letters = one(("A", "B"), "A", lettered=False)
    assert parse("A cat", letters) is None and parse("B.", letters) == "B"


def test_the_parser_never_guesses():
    """Whatever is wrapped around one letter in its own way is read; two, and none, are not."""
    rng = np.random.default_rng(7)
    wraps = [
        "{}",
        "({})",
        "{}.",
        "{}) thing",
        "The answer is {}",
        "Answer: ({})",
        "I take option {}",
        "{}: it",
    ]
    noise = ["", "well ", "hm, ", "I think: "]
    for _ in range(600):
        count = int(rng.integers(2, 11))
        question = one([f"w{i}" for i in range(count)])
        letter, other = rng.choice(list(LETTERS[:count]), 2, replace=False)
        wrap = str(rng.choice(wraps))
        before = str(rng.choice(noise)) if wrap != "{}" else ""
        assert parse(before + wrap.format(letter), question) == letter
        both = f"({letter}) or ({other})"
        assert parse(both, question) is None
        found = parse("".join(rng.choice(list("abx .,()AB:C yesno"), 12)), question)
        assert found is None or found in question.says
        missing = LETTERS[count:][:1]
        assert not missing or parse(wrap.format(missing), question) is None
        for said in ("Yes", "No"):
            text = str(rng.choice(["{}", "{}, it is", "I say {}!", "({})"])).format(said.upper())
            assert parse(text, yes_no()) == said
            assert parse(f"{text} yes no", yes_no()) is None


def test_unparsed_answers_are_wrong_and_counted_apart():
    questions = [*answered("ABCD"), yes_no("No"), yes_no("No")]
    parsed = score_texts(["A", "B", "who knows", "(D)", "No, none", "yes/no"], questions)
    assert parsed.correct.tolist() == [True, True, False, True, True, False]
    assert parsed.unparsed.tolist() == [False, False, True, False, False, True]
    with pytest.raises(UserError, match="4 texts for 3 questions"):
        score_texts(["A"] * 4, answered("ABC"))
    with pytest.raises(UserError, match="no published answer"):
        score_texts(["A"], [one(answer="")])


# Accuracies and their differences.


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


def loop_values(questions, numbers):
    """Every task's number in loops, of correctness or of chance."""
    found = {}
    sources = {q.source: q.category for q in questions}

    def mean(keep):
        return np.mean([x for x, q in zip(numbers, questions, strict=True) if keep(q)])

    by_source = {name: mean(lambda q, name=name: q.source == name) for name in sources}
    for name, category in sources.items():
        found[f"{category}/{name}", MICRO] = by_source[name]
    for category in set(sources.values()):
        found[category, MICRO] = mean(lambda q, category=category: q.category == category)
        found[category, MACRO] = np.mean([by_source[s] for s, c in sources.items() if c == category])
    found["overall", MICRO] = np.mean(numbers)
    found["overall", MACRO] = np.mean(list(by_source.values()))
    found["overall", CATEGORY_MEAN] = np.mean([found[c, MICRO] for c in set(sources.values())])
    for task in [*set(sources.values()), "overall"]:
        whole = {}
        for x, q in zip(numbers, questions, strict=True):
            if q.group and task in (q.category, "overall"):
                whole[q.group] = whole.get(q.group, 1) * x
        if whole:
            found[task, GROUPS] = np.mean(list(whole.values()))
    return found


def pairs_of(count, seed=0):
    """Two categories with groups of several sizes and numbers of options, and one without."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        category, source = [("Pairs", "p"), ("Fours", "f"), ("Fours", "g"), ("Lone", "l")][number % 4]
        group = "" if category == "Lone" else f"{category}-{source}-{number // (8 if source == 'p' else 16)}"
        options = "abcd"[: 2 + number // 4 % 2]
        found.append(
            one(options, "A", index=number, key=str(number), category=category, source=source, group=group)
        )
    return found, rng


def test_summarise_against_loops():
    questions = questions_of(400)
    rng = np.random.default_rng(4)
    arms = {"clip": rng.random(400) < 0.5, "dino": rng.random(400) < 0.35, "none": rng.random(400) < 0.25}
    measures, differences = summarise(arms, questions, seed=7)
    for arm, correct in arms.items():
        found = {(m.task, m.metric): m.value for m in measures if m.arm == arm}
        assert found == pytest.approx(loop_values(questions, correct))
    # Four sources, three categories twice, three overalls; three arms, three pairs.
    assert len(measures) == 3 * 13 and len(differences) == 3 * 13
    for m in measures:
        assert (m.section, m.unit, m.chance, m.seed) == ("vqa", "questions", pytest.approx(0.25), 7)
        assert m.low <= m.value <= m.high
    tasks = [(m.task, m.metric) for m in measures if m.arm == "clip"]
    assert len(set(tasks)) == len(tasks)
    assert [task for task, metric in tasks if metric == MACRO] == ["General", "OCR", "Doc & Chart", "overall"]


def test_groups_count_only_whole_and_chance_is_of_the_questions_concerned():
    questions, rng = pairs_of(320)
    correct = rng.random(320) < 0.8
    measures, _ = summarise({"one": correct}, questions, seed=0)
    found = {(m.task, m.metric): m for m in measures}
    assert {key: m.value for key, m in found.items()} == pytest.approx(loop_values(questions, correct))
    chances = loop_values(questions, [1 / len(q.options) for q in questions])
    assert {key: m.chance for key, m in found.items()} == pytest.approx(chances)
    assert {task for task, metric in found if metric == GROUPS} == {"Pairs", "Fours", "overall"}
    units = {key: (m.n, m.unit) for key, m in found.items()}
    assert units["Pairs", MICRO] == units["Pairs", GROUPS] == (40, "groups")
    assert units["Lone", MICRO] == (80, "questions") and ("Lone", GROUPS) not in found
    # Overall, a question without a group stands for itself.
    assert units["overall", MICRO] == (40 + 40 + 80, "groups") and units["overall", GROUPS] == (80, "groups")


def test_one_category_of_groups_is_not_told_twice():
    questions = [one(index=i, key=str(i), group=f"g{i // 2}") for i in range(20)]
    measures, _ = summarise({"one": np.ones(20, bool)}, questions, seed=0)
    assert [m.task for m in measures if m.metric == GROUPS] == ["General"]
    assert next(m for m in measures if m.metric == GROUPS).chance == pytest.approx(1 / 16)


def test_together_is_a_product_in_a_loop():
    rng = np.random.default_rng(8)
    values, groups = rng.random(60), rng.choice(list("abcdefg"), 60)
    expected = [np.prod(values[groups == name]) for name in np.unique(groups)]
    np.testing.assert_allclose(together(values, groups), expected)


def test_questions_of_a_group_are_resampled_together():
    """Who always says Yes is right on half of every group: there is nothing to be uncertain about."""
    questions = [yes_no(("Yes", "No")[i % 2], index=i, key=str(i), group=f"g{i // 4}") for i in range(200)]
    yes = np.array([q.answer == "Yes" for q in questions])
    measures, differences = summarise({"yes": yes, "no": ~yes}, questions, seed=0)
    micro = next(m for m in measures if m.task == "overall" and m.metric == MICRO)
    assert (micro.low, micro.value, micro.high) == (0.5, 0.5, 0.5)
    for row in differences:
        assert (row.p is not None) == (row.metric == GROUPS)
        assert row.unit == "groups"
    groups = np.array([q.group for q in questions])
    rng = np.random.default_rng(9)
    one_arm, two = rng.random(200) < 0.7, rng.random(200) < 0.5
    _, differences = summarise({"one": one_arm, "two": two}, questions, seed=5)
    row = next(d for d in differences if d.task == "overall" and d.metric == MICRO)
    assert (row.value, row.low, row.high, row.n) == pytest.approx(
        bootstrap_difference(one_arm, two, clusters=groups, seed=5)
    )
    assert row.detectable == pytest.approx(detectable(one_arm, two, clusters=groups))


def test_differences_are_paired_tested_exactly_and_corrected_together():
    questions = questions_of(300)
    rng = np.random.default_rng(5)
    first = rng.random(300) < 0.6
    second = first & (rng.random(300) < 0.8)
    measures, differences = summarise({"one": first, "two": second}, questions, seed=0)
    value = {(m.arm, m.task, m.metric): m.value for m in measures}
    for d in differences:
        assert d.value == pytest.approx(value["one", d.task, d.metric] - value["two", d.task, d.metric])
        assert d.detectable is not None and d.detectable >= 0
    overall = next(d for d in differences if (d.task, d.metric) == ("overall", MICRO))
    only_one, only_two = int((first & ~second).sum()), int((second & ~first).sum())
    assert overall.p == pytest.approx(binomtest(only_two, only_one + only_two, 0.5).pvalue)
    assert overall.detectable == pytest.approx(detectable(first, second))
    tested = [d for d in differences if d.p is not None]
    expected = multipletests([d.p for d in tested], method="holm")[1]
    np.testing.assert_allclose([d.p_holm for d in tested], expected)
    assert {d.metric for d in tested} == {MICRO} and len(tested) == 8
    assert all(d.p_holm is None for d in differences if d.metric != MICRO)
    # Where one arm is right whenever the other is, pairing makes the interval far narrower than two apart.
    alone = [m.high - m.low for m in measures if (m.task, m.metric) == ("overall", MICRO)]
    assert overall.high - overall.low < 0.9 * np.hypot(*alone)


def test_whole_groups_are_tested_exactly():
    questions, rng = pairs_of(320)
    arms = {"one": rng.random(320) < 0.9, "two": rng.random(320) < 0.7}
    _, differences = summarise(arms, questions, seed=0)
    row = next(d for d in differences if (d.task, d.metric) == ("Pairs", GROUPS))
    whole = {}
    for number, question in enumerate(questions):
        if question.category == "Pairs":
            for arm, correct in arms.items():
                whole[arm, question.group] = whole.get((arm, question.group), True) and correct[number]
    names = sorted({group for _, group in whole})
    a, b = (np.array([whole[arm, name] for name in names]) for arm in arms)
    assert row.p == pytest.approx(binomtest(int((a & ~b).sum()), int((a != b).sum()), 0.5).pvalue)
    assert row.value == pytest.approx(a.mean() - b.mean()) and row.n == len(names)


def test_an_arm_that_answered_less_is_named():
    with pytest.raises(UserError, match="'dino' answered 3 of 8"):
        summarise({"dino": np.zeros(3, bool)}, questions_of(8), seed=0)
    with pytest.raises(UserError, match="no questions"):
        summarise({}, [], seed=0)
    with pytest.raises(UserError, match="'dino' answered 3 of 8"):
        summarise_seeds({"dino": np.zeros((2, 3), bool)}, questions_of(8), seed=0)
    arms = {"clip": np.zeros((2, 8), bool), "dino": np.zeros((3, 8), bool)}
    with pytest.raises(UserError, match="2 to 3 seeds"):
        summarise_seeds(arms, questions_of(8), seed=0)


# Several training seeds.


def test_all_seeds_together_are_the_mean_of_each():
    questions, rng = pairs_of(320)
    arms = {name: rng.random((3, 320)) < share for name, share in (("a", 0.8), ("b", 0.7), ("c", 0.6))}
    found = summarise_seeds(arms, questions, seed=1)
    each = [summarise({arm: rows[s] for arm, rows in arms.items()}, questions, seed=1)[1] for s in range(3)]
    assert len(found) == len(each[0])
    for row, *alone in zip(found, *each, strict=True):
        assert (row.arm, row.other, row.task) == (alone[0].arm, alone[0].other, alone[0].task)
        assert row.metric == over_seeds(alone[0].metric, 3) == f"{alone[0].metric} over 3 seeds"
        assert row.value == pytest.approx(np.mean([one.value for one in alone]), abs=1e-9)
        assert (row.n, row.unit, row.p, row.p_holm) == (alone[0].n, alone[0].unit, None, None)
        assert row.low <= row.value <= row.high and row.detectable >= 0


def test_what_differs_by_seed_is_not_found_by_questions_alone():
    """Two arms that are equal but for luck in training: each seed by itself finds a difference."""
    questions = questions_of(2000)
    rng = np.random.default_rng(10)
    luck = np.array([0.08, -0.08, 0.07, -0.05])[:, None]
    arms = {"a": rng.random((4, 2000)) < 0.5 + luck, "b": rng.random((4, 2000)) < 0.5 - luck}
    found = next(d for d in summarise_seeds(arms, questions, 0) if d.task == "overall")
    assert found.low < 0 < found.high
    for s in range(4):
        alone = summarise({arm: rows[s] for arm, rows in arms.items()}, questions, 0)[1]
        row = next(d for d in alone if d.task == "overall")
        assert not row.low <= 0 <= row.high
        assert row.detectable < found.detectable / 2
    crossed = crossed_difference(arms["a"], arms["b"], seed=0)
    assert (found.low, found.high) == pytest.approx((crossed.estimate.low, crossed.estimate.high))
    assert crossed.seed > 0.01


def test_one_seed_over_seeds_is_the_seed():
    questions = questions_of(100)
    rng = np.random.default_rng(11)
    arms = {"a": rng.random(100) < 0.7, "b": rng.random(100) < 0.5}
    alone = summarise(arms, questions, 2)[1]
    for row, one_row in zip(
        summarise_seeds({k: v[None] for k, v in arms.items()}, questions, 2), alone, strict=True
    ):
        assert (row.value, row.low, row.high) == (one_row.value, one_row.low, one_row.high)
        assert row.metric == f"{one_row.metric} over 1 seed"


# In words.


def difference(value, low, high, **settings):
    fields = {"section": "vqa", "task": "OCR", "metric": MICRO, "arm": "clip", "other": "dino", "n": 800}
    fields |= {"unit": "questions", "seed": 0, "value": value, "low": low, "high": high}
    return Difference.model_validate(fields | settings)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            difference(0.075, 0.034, 0.116, detectable=0.05),
            "clip beats dino on OCR by 7.5 points (95% interval 3.4 to 11.6; n = 800)",
        ),
        (
            difference(-0.075, -0.116, -0.034),
            "dino beats clip on OCR by 7.5 points (95% interval 3.4 to 11.6; n = 800)",
        ),
        (
            difference(0.006, -0.009, 0.021, n=8018, detectable=0.016),
            "clip and dino are not distinguishable on OCR (difference 0.6 points, -0.9 to 2.1; n = 8018; "
            "a difference of 1.6 would have been found 4 times in 5)",
        ),
        (
            difference(-0.0001, -0.02, 0.0, task="overall", metric=GROUPS, unit="groups", n=150),
            "clip and dino are not distinguishable overall in accuracy (all of a group) "
            "(difference 0.0 points, -2.0 to 0.0; n = 150 groups)",
        ),
        (
            difference(0.02, 0.01, 0.03, metric=over_seeds(MICRO, 3)),
            "clip beats dino on OCR in accuracy (micro) over 3 seeds by 2.0 points "
            "(95% interval 1.0 to 3.0; n = 800)",
        ),
        (
            difference(0.0, 0.0, 0.0, detectable=0.0),
            "clip and dino are not distinguishable on OCR (difference 0.0 points, 0.0 to 0.0; n = 800)",
        ),
    ],
)
def test_sentence(row, text):
    assert sentence(row) == text


def test_sentences_say_who_is_better_and_only_where_the_interval_does():
    rng = np.random.default_rng(12)
    for _ in range(300):
        value, width = rng.normal(0, 0.05), rng.random() / 10
        row = difference(value, value - width, value + width, detectable=width)
        turned = difference(
            -value, -value - width, -value + width, arm="dino", other="clip", detectable=width
        )
        said = sentence(row)
        better = re.match(r"(\w+) beats", said)
        assert (better[1] if better else None) == (
            "clip" if value > width else "dino" if value < -width else None
        )
        assert not better or sentence(turned) == said
        assert "\u2212" not in said and "-0.0 " not in said


def test_the_interval_of_a_measure_is_that_of_stats():
    questions = questions_of(60)
    correct = np.random.default_rng(13).random(60) < 0.6
    measures, _ = summarise({"one": correct}, questions, seed=3)
    row = next(m for m in measures if (m.task, m.metric) == ("overall", MICRO))
    assert (row.value, row.low, row.high, row.n) == pytest.approx(bootstrap_mean(correct, seed=3))
