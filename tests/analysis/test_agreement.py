"""Kappa against statsmodels and scikit-learn, intervals against simulation, and what is no number."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from paribus.analysis.agreement import (
    Judgement,
    agreement,
    cohen_kappa,
    fleiss_kappa,
    share,
    share_difference,
    verdict,
)
from paribus.errors import UserError

LABELS = ("semantic", "perceptual", "both", "neither")


def raters(rng: np.random.Generator, n: int, people: int, truth: float, k: int = 4) -> np.ndarray:
    """Codes [n, people] of people who see the truth with a probability and guess unevenly otherwise."""
    real = rng.integers(0, k, size=(n, 1))
    guess = np.minimum(rng.integers(0, k, size=(n, people)), rng.integers(0, k, size=(n, people)))
    return np.where(rng.random((n, people)) < truth, real, guess)


def counted(codes: np.ndarray, k: int = 4) -> np.ndarray:
    return (codes[:, :, None] == np.arange(k)).sum(axis=1)


@pytest.mark.parametrize("truth", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("n", [8, 40, 300])
def test_cohens_kappa_is_theirs(n, truth):
    for seed in range(5):
        one, two = raters(np.random.default_rng([seed, n]), n, 2, truth).T
        found = cohen_kappa(one, two, seed=0, draws=50)
        assert found.value == pytest.approx(cohen_kappa_score(one, two), abs=1e-12)
        table = np.zeros((4, 4))
        np.add.at(table, (one, two), 1)
        assert found.value == pytest.approx(inter_rater.cohens_kappa(table, return_results=False), abs=1e-12)
        words = np.array(LABELS)
        assert cohen_kappa(words[one], words[two], seed=0, draws=50) == pytest.approx(found, abs=1e-12)
        assert found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12
        assert found.n == n


@pytest.mark.parametrize("people", [2, 3, 7])
@pytest.mark.parametrize("truth", [0.0, 0.4, 0.9])
def test_fleiss_kappa_is_theirs(people, truth):
    for seed in range(5):
        counts = counted(raters(np.random.default_rng([seed, people]), 60, people, truth))
        found = fleiss_kappa(counts, seed=0, draws=50)
        assert found.value == pytest.approx(inter_rater.fleiss_kappa(counts, method="fleiss"), abs=1e-12)
        assert found.n == 60


def test_fleiss_kappa_of_pairs_that_not_all_judged():
    """By hand: observed (1 + 1/3 + 0) / 3; shares of the first label (1 + 2/3 + 1/2) / 3."""
    counts = np.array([[2, 0], [2, 1], [1, 1], [1, 0], [0, 0]])
    observed, first = (1 + 1 / 3 + 0) / 3, (1 + 2 / 3 + 1 / 2) / 3
    chance = first**2 + (1 - first) ** 2
    with pytest.raises(UserError, match=r"Kappa is .* but has no interval"):
        fleiss_kappa(counts[:2], seed=0)
    found = fleiss_kappa(np.concatenate([counts] * 5), seed=0)
    assert found.value == pytest.approx((observed - chance) / (1 - chance), abs=1e-12)
    assert found.n == 15


def test_agreement_and_its_bounds():
    codes = np.array([0, 1, 2, 3] * 5)
    assert cohen_kappa(codes, codes, seed=0)[:3] == pytest.approx((1.0, 1.0, 1.0))
    assert cohen_kappa(codes[::2] // 2, 1 - codes[::2] // 2, seed=0).value == pytest.approx(-1.0)


@pytest.mark.parametrize("k", [1, 4])
def test_one_label_alone_has_no_kappa(k):
    same = np.zeros(9, int)
    with pytest.raises(UserError, match="Kappa is undefined because all 9 pairs got the same label"):
        cohen_kappa(same, same, seed=0)
    with pytest.raises(UserError, match="Kappa is undefined because all 9 pairs got the same label"):
        fleiss_kappa(counted(np.zeros((9, 3), int), k), seed=0)


def test_hardly_another_label_has_no_interval():
    codes = np.array([0] * 39 + [1])
    with pytest.raises(UserError, match=r"Kappa is 1\.00 but has no interval: too few of 40 pairs"):
        cohen_kappa(codes, codes, seed=0)


def test_too_little_has_no_kappa():
    one = np.array([1])
    with pytest.raises(UserError, match="needs at least 2 pairs that several people judged but there is 1"):
        cohen_kappa(one, one, seed=0)
    with pytest.raises(UserError, match="but there is 0"):
        cohen_kappa(one[:0], one[:0], seed=0)
    with pytest.raises(UserError, match="but there is 0"):
        fleiss_kappa(np.array([[1, 0], [0, 1]]), seed=0)
    with pytest.raises(UserError, match="2 and 1 labels"):
        cohen_kappa(np.array([1, 2]), one, seed=0)


def test_the_same_seed_draws_the_same():
    one, two = raters(np.random.default_rng(0), 50, 2, 0.5).T
    assert cohen_kappa(one, two, seed=3) == cohen_kappa(one, two, seed=3)
    assert cohen_kappa(one, two, seed=3) != cohen_kappa(one, two, seed=4)
    values = np.random.default_rng(1).random(30)
    assert share(values, seed=3) == share(values, seed=3)
    # Sides of one length are drawn apart: drawn alike, the difference to itself would have no width.
    same = share_difference(values, values, seed=0)
    assert same.value == 0.0
    assert same.low < -0.05 and same.high > 0.05


def coverage(hits: list[bool]) -> float:
    return float(np.mean(hits))


@pytest.mark.parametrize(("people", "n"), [(2, 50), (2, 200), (3, 50), (3, 200)])
def test_kappas_interval_holds_the_truth(people, n):
    rng = np.random.default_rng([people, n])
    big = raters(rng, 400_000, people, 0.7)

    def found(codes, draws):
        if people == 2:
            return cohen_kappa(codes[:, 0], codes[:, 1], seed=int(rng.integers(1 << 30)), draws=draws)
        return fleiss_kappa(counted(codes), seed=int(rng.integers(1 << 30)), draws=draws)

    truth = (
        inter_rater.fleiss_kappa(counted(big), method="fleiss") if people > 2 else cohen_kappa_score(*big.T)
    )
    hits = []
    for _ in range(400):
        one = found(raters(rng, n, people, 0.7), 400)
        hits.append(one.low <= truth <= one.high)
    print(f"kappa of {people} people, {n} pairs: {coverage(hits):.3f}")
    assert 0.915 <= coverage(hits) <= 0.98


@pytest.mark.parametrize("people", [1, 3])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.8, 0.4), (0.95, 0.3), (0.95, 0.95)])
@pytest.mark.parametrize("n", [10, 50])
def test_shares_intervals_hold_the_truth(people, p, q, n):
    """Never below the level by more than the simulation's noise; above it where shares are near 0 or 1."""
    rng = np.random.default_rng([people, n, round(100 * p), round(100 * q)])
    alone, between = [], []
    for _ in range(400):
        one, two = (_judged(rng, n, rate, people) for rate in (p, q))
        seed = int(rng.integers(1 << 30))
        found, difference = share(one, seed=seed, draws=400), share_difference(one, two, seed=seed, draws=400)
        alone.append(found.low <= p <= found.high)
        between.append(difference.low <= p - q <= difference.high)
    print(f"{people} people, {n} pairs, {p} {q}: {coverage(alone):.3f} {coverage(between):.3f}")
    assert min(coverage(alone), coverage(between)) >= 0.915


def _judged(rng: np.random.Generator, n: int, rate: float, people: int) -> np.ndarray:
    """Shares of people, who are of one mind about half of the pairs."""
    shared, own = rng.random((n, 1)) < rate, rng.random((n, people)) < rate
    return np.where(rng.random((n, 1)) < 0.5, shared, own).mean(axis=1)


def test_a_share_that_never_varies_has_width():
    found = share(np.ones(10), seed=0)
    assert (found.value, found.high, found.n) == (1.0, 1.0, 10)
    assert 0.6 < found.low < 0.85
    with pytest.raises(UserError, match="no judged pairs"):
        share(np.ones(0), seed=0)


def test_three_against_three_can_show_nothing_small():
    near = share_difference(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0]), seed=0)
    assert near.low < 0 < near.high


def judged(
    counts: dict[str, dict[str, int]], annotator: str = "ada"
) -> tuple[list[Judgement], dict[str, str]]:
    """Judgements by encoder and label, and whose pairs they are."""
    given, alike = [], {}
    for name, labels in counts.items():
        for label, count in labels.items():
            for k in range(count):
                given.append(Judgement(annotator, f"{name}-{label}-{k}", label))
                alike[given[-1].pair] = name
    return given, alike


def test_the_verdict_says_which_and_by_how_much():
    given, alike = judged(
        {
            "north": {"semantic": 40, "perceptual": 5, "neither": 5},
            "south": {"semantic": 16, "perceptual": 20, "both": 4},
        }
    )
    found = verdict(given, alike, LABELS, seed=0)
    assert found.shares["north"]["semantic"].value == 0.8
    assert found.shares["south"]["both"].value == 0.1
    assert {name: shares["both"].n for name, shares in found.shares.items()} == {"north": 50, "south": 40}
    difference = found.differences["semantic"]
    assert difference.value == pytest.approx(0.4)
    assert difference.n == 90
    assert 0.15 < difference.low < 0.3 < 0.5 < difference.high < 0.65
    said = found.spell(LABELS[:2]).splitlines()
    assert said[0].startswith("Pairs that only north finds alike (n=50): semantic 80% [")
    low, high = round(100 * difference.low), round(100 * difference.high)
    assert said[2] == (
        f"Pairs that only north finds alike are judged semantic 40 points more often [{low}, {high}] than "
        "pairs that only south finds alike (n=50 and 40)."
    )
    other = found.differences["perceptual"]
    low, high = round(-100 * other.high), round(-100 * other.low)
    assert f"are judged perceptual 40 points less often [{low}, {high}] than" in said[3]
    assert 0 < low < 40 < high
    assert len(said) == 4


def test_what_cannot_be_told_apart_is_said_so():
    given, alike = judged({"north": {"semantic": 10, "neither": 10}, "south": {"semantic": 9, "neither": 11}})
    said = verdict(given, alike, LABELS, seed=0).sentence("semantic")
    assert said.startswith("Not distinguishable: how often pairs that only north and pairs that only south")
    assert "differs by 5 points [-2" in said and said.endswith("(n=20 and 20).")


def test_pairs_weigh_the_same_however_many_judged_them():
    given = [Judgement(name, "a", "semantic") for name in ("ada", "ben", "cy")]
    given += [
        Judgement("ada", "b", "neither"),
        Judgement("ada", "c", "both"),
        Judgement("ben", "c", "semantic"),
    ]
    found = verdict(given, {"a": "north", "b": "north", "c": "south", "d": "south"}, LABELS, seed=0)
    assert found.shares["north"]["semantic"].value == 0.5
    assert found.shares["south"]["semantic"].value == 0.5
    assert {name: shares["both"].n for name, shares in found.shares.items()} == {"north": 2, "south": 1}


def test_a_verdict_needs_both_directions():
    given, alike = judged({"north": {"semantic": 3}})
    with pytest.raises(UserError, match="No pair that only south finds alike is judged yet"):
        verdict(given, {**alike, "x": "south"}, LABELS, seed=0)
    with pytest.raises(UserError, match="compares the pairs of 2 encoders but there is 1"):
        verdict(given, alike, LABELS, seed=0)


def test_the_kappa_is_chosen_by_the_number_of_people():
    rng = np.random.default_rng(0)
    codes = raters(rng, 30, 3, 0.6)
    given = [
        Judgement(name, f"pair {row}", LABELS[codes[row, k]])
        for k, name in enumerate(("ada", "ben", "cy"))
        for row in range(30)
    ]
    with pytest.raises(UserError, match="needs at least 2 people but there is 1"):
        agreement(given[:30], seed=0)
    two = agreement(given[:50], seed=0)  # ben judged 20 of them
    assert two.kappa.value == pytest.approx(cohen_kappa_score(codes[:20, 0], codes[:20, 1]))
    assert two.spell().startswith("Cohen's kappa 0.") and two.spell().endswith(
        "over 20 pairs that both judged"
    )
    three = agreement(given, seed=0)
    assert three.kappa.value == pytest.approx(inter_rater.fleiss_kappa(counted(codes), method="fleiss"))
    assert three.spell().endswith("over 30 pairs that at least 2 of 3 people judged")
    rng.shuffle(given)
    assert agreement(given, seed=0).kappa.value == pytest.approx(three.kappa.value)
