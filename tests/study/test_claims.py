"""Claims: which number each is judged by, which way round, and what an interval allows to be said."""

import itertools

import numpy as np
import pytest

from paribus.data.captions import CAPTION_POLICIES
from paribus.results import Difference, Measure
from paribus.stats import Estimate
from paribus.study.claims import RULES, TOLD, UNTOLD, equivalence, judge, judge_told, orient

MARGIN = 0.03


def difference(rule, value, low, high, arm="words", other="pixels", **settings):
    fields = {"section": rule.section, "task": rule.task, "metric": rule.metric, "unit": "concepts"}
    fields |= {"arm": arm, "other": other, "value": value, "low": low, "high": high, "n": 50, "seed": 0}
    return Difference.model_validate(fields | settings)


def measured(rule, arm, low, chance, **settings):
    fields = {
        "section": rule.section,
        "task": rule.task,
        "metric": rule.metric,
        "arm": arm,
        "n": 9,
        "seed": 0,
    }
    return Measure.model_validate(
        fields | {"value": low + 0.1, "low": low, "high": low + 0.2, "chance": chance} | settings
    )


def said(rule, value, low, high):
    """What an interval allows, spelt out case by case, independently of the code."""
    if rule.sign > 0:
        return "supported" if low > 0 else "contradicted" if high < 0 else "not distinguishable"
    if rule.sign < 0:
        return "supported" if high < 0 else "contradicted" if low > 0 else "not distinguishable"
    inside = all(abs(end) < MARGIN for end in (low, high))
    outside = low > MARGIN or high < -MARGIN
    return "supported" if inside else "contradicted" if outside else "not distinguishable"


INTERVALS = [
    (value, round(value - width, 9), round(value + width, 9))  # as numbers are recorded
    for value, width in itertools.product((-0.2, -0.04, -0.01, 0.01, 0.04, 0.2), (0.005, 0.015, 0.1))
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_verdict_is_what_its_interval_allows(rule):
    above = [measured(rule, "words", 0.5, 0.25)]
    verdicts = set()
    for value, low, high in INTERVALS:
        (claim,) = judge([difference(rule, value, low, high)], above, "words", "pixels", MARGIN)
        assert claim.verdict == said(rule, value, low, high)
        assert (claim.value, claim.low, claim.high, claim.n) == (value, low, high, 50)
        assert (claim.name, claim.text, claim.source) == (rule.name, rule.text, rule.source)
        assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}], n = 50 concepts" in claim.because
        verdicts.add(claim.verdict)
    assert verdicts == {"supported", "contradicted", "not distinguishable"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_order_of_the_arms_does_not_matter(rule):
    for value, low, high in INTERVALS:
        one = judge([difference(rule, value, low, high)], [], "words", "pixels", MARGIN)
        turned = difference(rule, -value, -high, -low, arm="pixels", other="words")
        assert judge([turned], [], "words", "pixels", MARGIN) == one


PREDICTED = {
    ("probe", "group"): 0,
    ("probe", "subgroup"): 1,
    ("symbols", "symbols"): -1,
    ("vqa", "OCR"): 1,
    ("factors", "text"): 1,
    ("factors", "colour"): -1,
    ("factors", "style"): -1,
    **{("factors", thing): 1 for thing in ("kind", "concept", "subgroup")},
    **{("vqa", category): 0 for category in ("General", "Reasoning", "Doc & Chart")},
}
"""Facts, section 0: the sign of language minus no language; 0 where the paper finds them equal."""


def test_claims_of_the_paper_go_the_papers_way():
    assert [PREDICTED[rule.section, rule.task] for rule in RULES] == [rule.sign for rule in RULES]
    assert all("equal" in rule.text for rule in RULES if rule.sign == 0)
    numbers = {(rule.section, rule.task, rule.metric) for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(numbers) == len(RULES) >= 10


EQUAL = [rule for rule in RULES if rule.sign == 0]


@pytest.mark.parametrize("rule", EQUAL, ids=lambda rule: rule.name)
def test_two_arms_that_guess_are_not_called_equal(rule):
    row = difference(rule, 0.001, -0.01, 0.01)
    guessing = [measured(rule, "words", 0.2, 0.25), measured(rule, "pixels", 0.25, 0.25)]
    (claim,) = judge([row], guessing, "words", "pixels", MARGIN)
    assert claim.verdict == "not distinguishable" and "above chance" in claim.because
    for not_about_it in (
        measured(rule, "untrained", 0.9, 0.25),
        measured(rule, "words", 0.9, None),
        measured(rule, "words", 0.9, 0.25, seed=1),
        measured(rule, "words", 0.9, 0.25, task="another"),
    ):
        (claim,) = judge([row], [*guessing, not_about_it], "words", "pixels", MARGIN)
        assert claim.verdict == "not distinguishable"
    for able in ("words", "pixels"):
        (claim,) = judge([row], [*guessing, measured(rule, able, 0.26, 0.25)], "words", "pixels", MARGIN)
        assert claim.verdict == "supported"


def test_each_seed_is_judged_by_itself_and_other_arms_are_not():
    rule = RULES[1]
    rows = [
        difference(rule, 0.2, 0.1, 0.3, seed=0),
        difference(rule, -0.2, -0.3, -0.1, seed=1),
        difference(rule, 0.2, 0.1, 0.3, other="third"),
        difference(rule, 0.2, 0.1, 0.3, arm="third", other="pixels"),
        difference(rule, 0.2, 0.1, 0.3, metric="another"),
        difference(rule, 0.2, 0.1, 0.3, task="another"),
    ]
    claims = judge(rows, [], "words", "pixels", MARGIN)
    assert [(claim.seed, claim.verdict) for claim in claims] == [(0, "supported"), (1, "contradicted")]


def test_orient():
    row = difference(RULES[0], 0.1, -0.2, 0.5)
    assert orient(row, "words", "pixels") == Estimate(0.1, -0.2, 0.5, 50)
    assert orient(row, "pixels", "words") == Estimate(-0.1, -0.5, 0.2, 50)
    assert orient(row, "words", "third") is None


def test_equivalence_is_the_two_one_sided_tests():
    """Against TOST itself (Schuirmann 1987), at 2.5% a side, on means whose error is known."""
    from scipy.stats import norm

    rng, margin, error = np.random.default_rng(0), 0.5, 0.2
    seen = set()
    for value in rng.normal(0, 0.6, 400):
        low, high = norm.interval(0.95, value, error)
        found = equivalence(Estimate(float(value), float(low), float(high), 9), margin)
        p_low, p_high = norm.sf((value + margin) / error), norm.cdf((value - margin) / error)
        assert (found == "supported") == (max(p_low, p_high) < 0.025)
        assert (found == "contradicted") == (
            min(norm.cdf((value + margin) / error), norm.sf((value - margin) / error)) < 0.025
        )
        seen.add(found)
    assert seen == {"supported", "contradicted", "not distinguishable"}


# What captions mention is the treatment.


def told_differences(arm, value):
    return [difference(rule, value, value - 0.01, value + 0.01, arm, "noise") for rule in TOLD.values()]


def test_an_arm_is_held_to_what_it_was_told_and_to_nothing_else():
    told = {"s": "style", "w": "text", "a": "all", "d": None, "noise": "shuffled"}
    found = judge_told([d for arm in told for d in told_differences(arm, 0.2)], [], told, MARGIN)
    assert [claim.name for claim in found] == ["told-style", "told-word", "untold-style", "untold-colour"]
    assert {claim.verdict for claim in found} == {"supported"}
    assert "s minus noise is +0.200" in found[0].because and "the claim needs it above 0" in found[0].because
    turned = judge_told(told_differences("s", -0.2), [], {"s": "style", "noise": "shuffled"}, MARGIN)
    assert [claim.verdict for claim in turned] == ["contradicted"]


def test_without_shuffled_captions_there_is_nothing_to_hold_them_against():
    assert judge_told(told_differences("s", 0.2), [], {"s": "style", "noise": "all"}, MARGIN) == []


def test_every_claim_about_what_was_told_names_a_factor_of_the_regression():
    assert {rule.task for rule in [*TOLD.values(), *UNTOLD]} == {"subgroup", "style", "colour", "text"}
    assert set(TOLD) < set(CAPTION_POLICIES)
