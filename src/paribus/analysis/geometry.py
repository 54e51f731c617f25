"""The shape of two representations of the same pictures, and how alike they are, each with its interval.

Statistics of pairs of pictures cannot be bootstrapped as they are, since a picture is then paired with its
own copy. Their intervals come from random halves without replacement instead (the delete-d jackknife of Shao
and Wu 1989, d = n / 2: half-samples scatter about as much as whole samples do).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from paribus.analysis.similarity import (
    effective_rank,
    hsic_terms,
    linear_cka,
    mutual_neighbours,
    uniformity,
    unit,
)
from paribus.analysis.symbols import mean_cosine
from paribus.errors import UserError
from paribus.rng import numpy_rng
from paribus.stats import Estimate, from_draws

Rows = Float[np.ndarray, "N D"]

NEIGHBOURS = 10
FEWEST = 8


class Geometry(NamedTuple):
    """Numbers of each encoder and their paired differences by name, and what says how alike the two are."""

    a: dict[str, Estimate]
    b: dict[str, Estimate]
    difference: dict[str, Estimate]
    common: dict[str, Estimate]


def _anisotropy(x: Float[np.ndarray, "N D"]) -> float:
    return float(mean_cosine(np.ones((1, len(x))), unit(x.astype(np.float64)))[0])


def _rank(x: Float[np.ndarray, "N D"]) -> float:
    return effective_rank(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64))


OWN: dict[str, Callable[[Rows], float]] = {
    "mean cosine of any two pictures (anisotropy)": _anisotropy,
    "uniformity": uniformity,
    "effective rank": _rank,
}
"""What is measured of one encoder."""


def geometry(
    a: Float[np.ndarray, "N Da"], b: Float[np.ndarray, "N Db"], *, seed: int, draws: int = 100
) -> Geometry:
    """Anisotropy, uniformity and effective rank of each encoder; CKA and mutual nearest neighbours of both.

    Anisotropy is Ethayarajh's (2019), uniformity Wang and Isola's (2020); of the others see ``similarity``.

    Raises:
        UserError: fewer than eight pictures, or an encoder that has collapsed.
    """
    if len(a) < FEWEST:
        raise UserError(f"{len(a)} pictures have no geometry: give at least {FEWEST}.")
    halves = half_samples(len(a), seed=seed, draws=draws)
    samples = [np.arange(len(a)), *halves]
    one = {name: [measure(a[rows]) for rows in samples] for name, measure in OWN.items()}
    two = {name: [measure(b[rows]) for rows in samples] for name, measure in OWN.items()}
    both = {name: np.subtract(one[name], two[name]).tolist() for name in OWN}
    cka = [linear_cka(a[rows], b[rows]) for rows in samples]
    k = min(NEIGHBOURS, len(a) - 1)
    # Of half the pictures half as many neighbours: as near, and as large a share of all.
    near = [float(mutual_neighbours(a, b, k=k).mean())]
    near += [float(mutual_neighbours(a[rows], b[rows], k=max(1, k // 2)).mean()) for rows in halves]
    common = {"CKA": _from_halves(cka, len(a)), f"nearest {k} in common": _from_halves(near, len(a))}
    first, second, step = (
        {name: _from_halves(values, len(a)) for name, values in each.items()} for each in (one, two, both)
    )
    return Geometry(first, second, step, common)


def half_samples(count: int, *, seed: int, draws: int) -> list[Int[np.ndarray, " half"]]:
    """Random halves of so many pictures, without replacement."""
    rng = numpy_rng(seed, "geometry", "halves")
    return [np.sort(rng.permutation(count)[: count // 2]) for _ in range(draws)]


def _from_halves(values: Sequence[float], count: int) -> Estimate:
    """The whole sample's value, with the spread of the halves around their own mean."""
    whole, halves = values[0], np.asarray(values[1:])
    return from_draws(whole, whole + halves - halves.mean(), count)


def layer_map(
    a: Sequence[Float[np.ndarray, "N _"]], b: Sequence[Float[np.ndarray, "N _"]]
) -> list[list[float | None]]:
    """CKA of each layer of a with each of b; None where a layer is the same for all pictures."""

    def alike(one: Float[np.ndarray, "N _"], other: Float[np.ndarray, "N _"]) -> float | None:
        try:
            return linear_cka(one, other)
        except UserError:
            return None  # before the first block a class token has seen nothing yet

    return [[alike(one, other) for other in b] for one in a]


def minibatch_cka(
    a: Float[np.ndarray, "N Da"], b: Float[np.ndarray, "N Db"], *, batch: int, seed: int
) -> float:
    """``linear_cka`` from the mean HSIC of batches (Nguyen et al. 2021), for what no memory holds at once.

    Raises:
        UserError: as ``linear_cka``.
    """
    order = numpy_rng(seed, "geometry", "batches").permutation(len(a))
    parts = [order[at : at + batch] for at in range(0, len(order), batch)]
    parts = [part for part in parts if len(part) >= 4] or [order]
    terms = [hsic_terms(a[part], b[part]) for part in parts]
    both, one, two = (float(np.mean(column)) for column in zip(*terms, strict=True))
    if not one * two > 0:
        raise UserError("CKA got features that are the same for all images: that encoder has collapsed.")
    return both / float(np.sqrt(one * two))
