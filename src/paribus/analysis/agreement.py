"""What people said of pairs: how far they agree, and whether one encoder's pairs are judged otherwise.

The independent units are pairs: intervals are about other pairs of the same two encoders judged by the same
people. Pairs that share a picture count as independent, so intervals are rather too narrow where many do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from paribus.errors import UserError
from paribus.rng import stream
from paribus.stats import Estimate, from_draws, resample_counts

Kappa = Callable[[Float[np.ndarray, "D n"]], Float[np.ndarray, " D"]]
"""Kappa of resamples, from how often each holds each pair."""
_UNDEFINED = 0.05
"""Most resamples without a kappa at which the others still make an interval."""


class Judgement(NamedTuple):
    """One person's label of one pair."""

    annotator: str
    pair: str
    label: str


@dataclass(frozen=True)
class Agreement:
    """Whose kappa it is, of how many people, and the value over the pairs that two or more judged."""

    kind: str
    people: int
    kappa: Estimate

    def spell(self) -> str:
        """One line for a person."""
        value, low, high, n = self.kappa
        whom = "both" if self.people == 2 else f"at least 2 of {self.people} people"
        return f"{self.kind} kappa {value:.2f} [{low:.2f}, {high:.2f}] over {n} pairs that {whom} judged"


@dataclass(frozen=True)
class Verdict:
    """Shares of labels among the pairs that only one encoder finds alike, and first less second encoder's.

    ``shares[encoder][label]`` and ``differences[label]`` are fractions; each encoder's ``n`` is its pairs.
    """

    shares: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Estimate]

    def spell(self, labels: Sequence[str]) -> str:
        """The shares, a line an encoder, and a sentence for each of ``labels``."""
        lines = []
        for name, shares in self.shares.items():
            told = ", ".join(f"{label} {_percent(share)}" for label, share in shares.items())
            pairs = next(iter(shares.values())).n
            lines.append(f"Pairs that only {name} finds alike (n={pairs}): {told}")
        return "\n".join([*lines, *(self.sentence(label) for label in labels)])

    def sentence(self, label: str) -> str:
        """What can be said of a label: which encoder's pairs get it more often, if that can be told."""
        first, second = self.shares
        counts = " and ".join(str(shares[label].n) for shares in self.shares.values())
        value, low, high, _ = self.differences[label]
        if low <= 0 <= high:
            return (
                f"Not distinguishable: how often pairs that only {first} and pairs that only {second} finds "
                f"alike are judged {label} differs by {_points(value)} points "
                f"[{_points(low)}, {_points(high)}] (n={counts})."
            )
        more, bounds = ("more", (low, high)) if value > 0 else ("less", (-high, -low))
        return (
            f"Pairs that only {first} finds alike are judged {label} {_points(abs(value))} points {more} "
            f"often [{_points(bounds[0])}, {_points(bounds[1])}] than pairs that only {second} finds alike "
            f"(n={counts})."
        )


def cohen_kappa(
    one: Shaped[np.ndarray, " n"], two: Shaped[np.ndarray, " m"], *, seed: int, draws: int = 2000
) -> Estimate:
    """Cohen's (1960) kappa of two people's labels of the same pairs, and its bootstrap interval over pairs.

    An interval has no width where the two never differ.

    Raises:
        UserError: lengths that differ, fewer than two pairs, or one label alone, of which there is no kappa.
    """
    if len(one) != len(two):
        raise UserError(
            f"Two people gave {len(one)} and {len(two)} labels: compare them on the pairs that both judged."
        )
    names, codes = np.unique(np.concatenate([one, two]), return_inverse=True)
    k = len(names)
    cells = np.zeros((len(one), k * k))
    cells[np.arange(len(one)), codes[: len(one)] * k + codes[len(one) :]] = 1.0

    def kappa(weights: Float[np.ndarray, "D n"]) -> Float[np.ndarray, " D"]:
        table = (weights @ cells).reshape(-1, k, k) / weights.sum(axis=1)[:, None, None]
        chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
        return _beyond_chance(table.trace(axis1=1, axis2=2), chance)

    return _bootstrapped(kappa, len(one), seed, draws)


def fleiss_kappa(counts: Int[np.ndarray, "n k"], *, seed: int, draws: int = 2000) -> Estimate:
    """Fleiss' (1971) kappa of how often each of n pairs got each of k labels, with an interval over pairs.

    Pairs may have been judged by different numbers of people, each pair weighing the same (Gwet 2014,
    chapter 2); those of fewer than two say nothing of agreement and are left out.

    Raises:
        UserError: fewer than two such pairs, or one label alone, of which there is no kappa.
    """
    judged = counts[counts.sum(axis=1) >= 2].astype(np.float64)
    people = judged.sum(axis=1)
    agreed = (judged * (judged - 1)).sum(axis=1) / (people * (people - 1))
    shares = judged / people[:, None]

    def kappa(weights: Float[np.ndarray, "D n"]) -> Float[np.ndarray, " D"]:
        total = weights.sum(axis=1)
        chance = ((weights @ shares / total[:, None]) ** 2).sum(axis=1)
        return _beyond_chance(weights @ agreed / total, chance)

    return _bootstrapped(kappa, len(judged), seed, draws)


def share(judged: Float[np.ndarray, " n"], *, seed: int, draws: int = 2000) -> Estimate:
    """The mean over pairs of the share of people who gave a label, and its bootstrap interval.

    Resamples are of the pairs and of two more, one with the label and one without: where all pairs are
    judged alike the plain interval has no width, and at 10 pairs of 9 in 10 it holds the truth 2 times
    in 3 (Agresti and Caffo 2000 add the same to Wald's).

    Raises:
        UserError: no pairs.
    """
    means = _means(judged, seed, draws)
    return from_draws(float(judged.mean()), means, len(judged))


def share_difference(
    one: Float[np.ndarray, " n"], two: Float[np.ndarray, " m"], *, seed: int, draws: int = 2000
) -> Estimate:
    """The difference one - two of two such shares over pairs of their own, and its interval as in ``share``.

    Raises:
        UserError: no pairs on one side.
    """
    # Draws are keyed by the number of pairs too, so that equal sides would be resampled alike.
    drawn = _means(one, stream(seed, "one"), draws) - _means(two, stream(seed, "two"), draws)
    return from_draws(float(one.mean() - two.mean()), drawn, len(one) + len(two))


def agreement(given: Sequence[Judgement], *, seed: int, draws: int = 2000) -> Agreement:
    """Cohen's kappa of two people, Fleiss' of more.

    Raises:
        UserError: fewer than two people, or two pairs that several judged; or there is no kappa.
    """
    people = sorted({one.annotator for one in given})
    if len(people) < 2:
        raise UserError(
            f"Agreement needs at least 2 people but there is {len(people)}: let another one label the pairs."
        )
    pairs, labels = sorted({one.pair for one in given}), sorted({one.label for one in given})
    table = np.full((len(pairs), len(people)), -1)
    for one in given:
        table[pairs.index(one.pair), people.index(one.annotator)] = labels.index(one.label)
    if len(people) == 2:
        both = table[(table >= 0).all(axis=1)]
        return Agreement("Cohen's", 2, cohen_kappa(both[:, 0], both[:, 1], seed=seed, draws=draws))
    counts = (table[:, :, None] == np.arange(len(labels))).sum(axis=1)
    return Agreement("Fleiss'", len(people), fleiss_kappa(counts, seed=seed, draws=draws))


def verdict(
    given: Sequence[Judgement],
    alike: Mapping[str, str],
    labels: Sequence[str],
    *,
    seed: int,
    draws: int = 2000,
) -> Verdict:
    """How often each label was given to the pairs that only one of two encoders finds alike.

    Args:
        given: what was said; a pair that several judged counts once, with the share of them.
        alike: of every pair, the encoder that finds it alike; the first encoder named is compared with the
            second.
        labels: all labels that there are.
        seed: of the bootstrap.
        draws: how many.

    Raises:
        UserError: not two encoders, or one of whose pairs none is judged.
    """
    names = list(dict.fromkeys(alike.values()))
    if len(names) != 2:
        raise UserError(
            f"A verdict compares the pairs of 2 encoders but there is {len(names)}: "
            "compare encoders of which each finds pairs alike that the other does not."
        )
    rows: dict[str, Float[np.ndarray, "n k"]] = {}
    for name in names:
        said: dict[str, list[str]] = {}
        for one in given:
            if alike[one.pair] == name:
                said.setdefault(one.pair, []).append(one.label)
        if not said:
            raise UserError(
                f"No pair that only {name} finds alike is judged yet: label more pairs for a verdict."
            )
        rows[name] = np.array([[each.count(label) / len(each) for label in labels] for each in said.values()])
    seeds = {label: stream(seed, "verdict", label) for label in labels}
    shares = {
        name: {label: share(row[:, k], seed=seeds[label], draws=draws) for k, label in enumerate(labels)}
        for name, row in rows.items()
    }
    first, second = rows.values()
    differences = {
        label: share_difference(first[:, k], second[:, k], seed=seeds[label], draws=draws)
        for k, label in enumerate(labels)
    }
    return Verdict(shares, differences)


def _percent(share: Estimate) -> str:
    return f"{_points(share.value)}% [{_points(share.low)}, {_points(share.high)}]"


def _points(fraction: float) -> int:
    return round(100 * fraction)


def _means(judged: Float[np.ndarray, " n"], seed: int, draws: int) -> Float[np.ndarray, " D"]:
    """Means of resamples of the pairs and of the two more."""
    if not len(judged):
        raise UserError("There are no judged pairs to take a share of: label some first.")
    units = np.append(judged, [0.0, 1.0])
    means: Float[np.ndarray, " D"] = resample_counts(len(units), seed=seed, draws=draws) @ units / len(units)
    return means


def _beyond_chance(
    observed: Float[np.ndarray, " D"], chance: Float[np.ndarray, " D"]
) -> Float[np.ndarray, " D"]:
    """Kappa; nan where only one label was given, so that all agreement is by chance."""
    room = 1.0 - chance
    alone = room <= 1e-12
    return np.where(alone, np.nan, (observed - chance) / np.where(alone, 1.0, room))


def _bootstrapped(kappa: Kappa, pairs: int, seed: int, draws: int) -> Estimate:
    """A kappa and its interval, from resamples that have one; too few of them are an error."""
    if pairs < 2:
        raise UserError(
            f"Kappa needs at least 2 pairs that several people judged but there is {pairs}: label more."
        )
    value = float(kappa(np.ones((1, pairs)))[0])
    if np.isnan(value):
        raise UserError(
            f"Kappa is undefined because all {pairs} pairs got the same label: label pairs that differ."
        )
    drawn = kappa(resample_counts(pairs, seed=seed, draws=draws))
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < (1 - _UNDEFINED) * len(drawn):
        raise UserError(
            f"Kappa is {value:.2f} but has no interval: too few of {pairs} pairs got another label than the "
            "most frequent one, so label more."
        )
    return from_draws(value, defined, pairs)
