"""The study's claims, each judged by an interval on this run's own numbers.

Arms are told apart by what supervises them (captions or pixels alone), never by name: the first arm that
reads text stands for language supervision, the first that does not for its absence.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from paribus.data.captions import shuffles
from paribus.results import Claim, Difference, Measure, Verdict
from paribus.stats import Estimate, verdict

PAPER = "Liu et al. 2025 (arXiv 2510.11835)"


class Rule(NamedTuple):
    """A claim, where its number stands, and which sign (language minus no language) it predicts.

    ``sign`` 0 claims equality within the study's margin.
    """

    name: str
    text: str
    source: str
    section: str
    task: str
    metric: str
    sign: int


PROBE = "linear probe accuracy"
COEFFICIENT = "standardised coefficient"
DISTINCT = "mean cosine of distinct symbols, same style"
ACCURACY = "accuracy (micro)"


def _rule(name: str, text: str, where: str, number: tuple[str, str, str], sign: int) -> Rule:
    return Rule(name, text, f"{PAPER}, {where}", *number, sign)


RULES = (
    _rule(
        "similar-accuracy",
        "Both encoders classify about equally well.",
        "table 1",
        ("probe", "group", PROBE),
        0,
    ),
    _rule(
        "fine-grained",
        "The language-supervised encoder is better at fine-grained classes.",
        "table 1",
        ("probe", "subgroup", PROBE),
        1,
    ),
    _rule(
        "semantics-kind",
        "The language-supervised encoder's similarity follows the kind of thing shown more.",
        "section 3",
        ("factors", "subgroup", COEFFICIENT),
        1,
    ),
    _rule(
        "semantics-thing",
        "The language-supervised encoder's similarity follows the very thing shown more, beyond its kind.",
        "section 3",
        ("factors", "concept", COEFFICIENT),
        1,
    ),
    _rule(
        "text",
        "The language-supervised encoder's similarity follows written text more.",
        "section 3",
        ("factors", "text", COEFFICIENT),
        1,
    ),
    _rule(
        "colour",
        "The self-supervised encoder's similarity follows colour more.",
        "section 3",
        ("factors", "colour", COEFFICIENT),
        -1,
    ),
    _rule(
        "style",
        "The self-supervised encoder's similarity follows style more.",
        "section 3",
        ("factors", "style", COEFFICIENT),
        -1,
    ),
    _rule(
        "symbols",
        "Distinct symbols are less alike to the language-supervised encoder.",
        "appendix B",
        ("symbols", "symbols", DISTINCT),
        -1,
    ),
    _rule(
        "ocr",
        "In a vision-language model, language supervision reads text better.",
        "section 4",
        ("vqa", "OCR", ACCURACY),
        1,
    ),
    _rule(
        "general-questions",
        "On general questions both encoders are about equal.",
        "section 4",
        ("vqa", "General", ACCURACY),
        0,
    ),
    _rule(
        "reasoning-questions",
        "On reasoning questions both encoders are about equal.",
        "section 4",
        ("vqa", "Reasoning", ACCURACY),
        0,
    ),
    _rule(
        "chart-questions",
        "On documents and charts both encoders are about equal.",
        "section 4",
        ("vqa", "Doc & Chart", ACCURACY),
        0,
    ),
)

HYPOTHESIS = "the hypothesis of this study"


def _told(factor: str, task: str) -> Rule:
    text = f"Told the {factor}, an encoder's similarity follows it more than where captions are shuffled."
    return Rule(f"told-{factor}", text, HYPOTHESIS, "factors", task, COEFFICIENT, 1)


def _untold(factor: str) -> Rule:
    text = f"Without words, an encoder's similarity follows {factor} more than where captions are shuffled."
    return Rule(f"untold-{factor}", text, HYPOTHESIS, "factors", factor, COEFFICIENT, 1)


TOLD = {
    "thing": _told("thing", "subgroup"),
    "style": _told("style", "style"),
    "colour": _told("colour", "colour"),
    "text": _told("word", "text"),
}
"""What captions mention -> the claim about an arm that is told that and nothing else."""

UNTOLD = (_untold("style"), _untold("colour"))
"""The claims about an arm without words, where what the others are told is the treatment."""


def judge_told(
    differences: Sequence[Difference],
    measures: Sequence[Measure],
    told: Mapping[str, str | None],
    margin: float,
) -> list[Claim]:
    """The claims of a study in which what captions mention is the treatment.

    Args:
        differences: of all compared arms.
        measures: of all arms.
        told: arm -> its caption policy, None where it reads none.
        margin: for equality; no claim here is one.
    """
    control = next((arm for arm, policy in told.items() if shuffles(policy)), None)
    if control is None:
        return []
    found: list[Claim] = []
    for arm, policy in told.items():
        rules = UNTOLD if policy is None else [TOLD[policy]] if policy in TOLD else []
        found += judge(differences, measures, arm, control, margin, rules)
    return found


def judge(
    differences: Sequence[Difference],
    measures: Sequence[Measure],
    language: str,
    other: str,
    margin: float,
    rules: Sequence[Rule] = RULES,
) -> list[Claim]:
    """Every claim whose number was measured, for one pair of arms; language minus other throughout.

    Two arms that both guess are equal without meaning: a claim of equality is not supported unless one of
    them is above chance.
    """
    claims = []
    for rule in rules:
        for difference in differences:
            claim = _claim(rule, difference, language, other, margin)
            if claim is None:
                continue
            if rule.sign == 0 and not _above_chance(rule, measures, (language, other), difference.seed):
                because = f"{claim.because} Neither arm is above chance, so equality says nothing."
                claim = claim.model_copy(update={"verdict": "not distinguishable", "because": because})
            claims.append(claim)
    return claims


def _above_chance(rule: Rule, measures: Sequence[Measure], arms: tuple[str, str], seed: int) -> bool:
    return any(
        measure.chance is not None and measure.low > measure.chance
        for measure in measures
        if (measure.section, measure.task, measure.metric) == (rule.section, rule.task, rule.metric)
        and measure.arm in arms
        and measure.seed == seed
    )


def _claim(rule: Rule, difference: Difference, language: str, other: str, margin: float) -> Claim | None:
    if (difference.section, difference.task, difference.metric) != (rule.section, rule.task, rule.metric):
        return None
    oriented = orient(difference, language, other)
    if oriented is None:
        return None
    found = equivalence(oriented, margin) if rule.sign == 0 else verdict(oriented, rule.sign)
    expected = f"within ±{margin:g}" if rule.sign == 0 else ("above 0" if rule.sign > 0 else "below 0")
    because = (
        f"{rule.task}, {rule.metric}: {language} minus {other} is {oriented.value:+.3f} "
        f"[{oriented.low:+.3f}, {oriented.high:+.3f}], n = {oriented.n} {difference.unit}; "
        f"the claim needs it {expected}."
    )
    return Claim(
        name=rule.name,
        text=rule.text,
        source=rule.source,
        verdict=found,
        because=because,
        value=oriented.value,
        low=oriented.low,
        high=oriented.high,
        n=oriented.n,
        seed=difference.seed,
    )


def orient(difference: Difference, language: str, other: str) -> Estimate | None:
    """The difference as language minus other; None if it is about other arms."""
    value, low, high, n = difference.value, difference.low, difference.high, difference.n
    if (difference.arm, difference.other) == (language, other):
        return Estimate(value, low, high, n)
    if (difference.arm, difference.other) == (other, language):
        return Estimate(-value, -high, -low, n)
    return None


def equivalence(estimate: Estimate, margin: float) -> Verdict:
    """Equality within a margin, by interval inclusion; the 95% interval makes it a 2.5% test a side.

    Supported if the whole interval lies inside, contradicted if it lies wholly outside.
    """
    if -margin < estimate.low and estimate.high < margin:
        return "supported"
    if estimate.low > margin or estimate.high < -margin:
        return "contradicted"
    return "not distinguishable"
