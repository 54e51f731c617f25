"""The study's claims, each judged by an interval on this run's own numbers.

Arms are told apart by what supervises them (captions or pixels alone), never by name: the first arm that
reads text stands for language supervision, the first that does not for its absence.
"""

from collections.abc import Sequence
from typing import NamedTuple

from paribus.results import Claim, Difference, Verdict
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
RULES = (
    Rule("similar-accuracy", "Both encoders classify about equally well.", f"{PAPER}, table 1", "probe", "group", PROBE, 0),
    Rule("fine-grained", "The language-supervised encoder is better at fine-grained classes.", f"{PAPER}, table 1", "probe", "subgroup", PROBE, 1),
    Rule("semantics", "The language-supervised encoder's similarity follows what is shown more.", f"{PAPER}, section 3", "factors", "concept", COEFFICIENT, 1),
    Rule("text", "The language-supervised encoder's similarity follows written text more.", f"{PAPER}, section 3", "factors", "text", COEFFICIENT, 1),
    Rule("colour", "The self-supervised encoder's similarity follows colour more.", f"{PAPER}, section 3", "factors", "colour", COEFFICIENT, -1),
    Rule("style", "The self-supervised encoder's similarity follows style more.", f"{PAPER}, section 3", "factors", "style", COEFFICIENT, -1),
    Rule("symbols", "Distinct symbols are less alike to the language-supervised encoder.", f"{PAPER}, appendix B", "symbols", "symbols", "mean cosine of distinct symbols, same style", -1),
    Rule("ocr", "In a vision-language model, language supervision reads text better.", f"{PAPER}, section 4", "vqa", "OCR", "accuracy", 1),
    Rule("other-vqa-general", "On general questions both encoders are about equal.", f"{PAPER}, section 4", "vqa", "General", "accuracy", 0),
    Rule("other-vqa-reasoning", "On reasoning questions both encoders are about equal.", f"{PAPER}, section 4", "vqa", "Reasoning", "accuracy", 0),
)  # fmt: skip


def judge(differences: Sequence[Difference], language: str, other: str, margin: float) -> list[Claim]:
    """Every claim whose number was measured, for one pair of arms; language minus other throughout."""
    claims = []
    for rule in RULES:
        for difference in differences:
            claim = _claim(rule, difference, language, other, margin)
            if claim is not None:
                claims.append(claim)
    return claims


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


