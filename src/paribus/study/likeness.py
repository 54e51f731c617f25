"""Why two encoders differ: what of each one's similarity measured factors, meaning and labels explain."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from paribus.analysis.factors import FactorDifference, Factors, factor_difference, subsample
from paribus.analysis.measured import (
    Looked,
    meaning,
    measure_pictures,
    pairs_of,
    square,
    vectors_alike,
)
from paribus.data.folder import Folder
from paribus.errors import UserError
from paribus.progress import progress

SAMPLED = 600
"""Most pictures whose pairs are regressed: the work grows with their square."""

Matrix = Float[np.ndarray, "N D"]
Places = Sequence[tuple[int, int]]


class Likeness(NamedTuple):
    """What explains the similarities of both, how alike some pairs are in it, and what could not be used.

    ``pairs``: of each pair, factor -> percentile of its likeness among all pairs of the sample.
    """

    effects: FactorDifference | None
    pairs: list[dict[str, float]]
    left_out: dict[str, str]


class _Sample(NamedTuple):
    """The pictures whose pairs are regressed, and those and the pairs' own as they were measured."""

    rows: Int[np.ndarray, " S"]
    place: dict[int, int]
    looked: Looked
    reference: dict[str, Float[np.ndarray, " pairs"]]


def explain(
    images: Folder,
    usable: Int[np.ndarray, " U"],
    a: Float[np.ndarray, "N Da"],
    b: Float[np.ndarray, "N Db"],
    pairs: Places,
    *,
    captions: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    seed: int,
) -> Likeness:
    """Measure a sample of pictures and those of the pairs, and regress both encoders' cosines on all factors.

    Args:
        images: the folder.
        usable: rows that are no placeholders.
        a: features of every picture.
        b: those of the other encoder.
        pairs: rows whose likeness is wanted too.
        captions: one for each picture, or nothing.
        labels: known factor -> its value for each picture, empty for none.
        seed: of the sample and of the intervals.
    """
    known = {name: np.array(told, dtype=str) for name, told in labels.items()}
    sample = _measured(images, _rows(usable, known, seed), pairs)
    factors: Factors = {name: square(values, len(sample.rows)) for name, values in sample.reference.items()}
    if captions:
        said = meaning([captions[row] for row in sample.rows])
        factors["meaning"] = vectors_alike(said)
    for name, told in known.items():  # a label may be called as what is measured is
        factors[f"{name} (label)" if name in factors else name] = told[sample.rows]
    chosen = (a[sample.rows], b[sample.rows])
    try:
        found = factor_difference(*chosen, factors, seed=seed, limit=len(sample.rows))
    except UserError as error:
        return Likeness(None, _percentiles(sample, pairs), {"all factors": str(error)})
    return Likeness(found, _percentiles(sample, pairs), dict(found.a.left_out))


def _rows(usable: Int[np.ndarray, " U"], known: Mapping[str, np.ndarray], seed: int) -> Int[np.ndarray, " S"]:
    """At most ``SAMPLED`` pictures; where there are labels, so that pairs of one label remain."""
    told: Factors = {name: values[usable] for name, values in known.items()}
    chosen: Int[np.ndarray, " S"] = usable[
        subsample(told or {"none": np.full(len(usable), "")}, limit=SAMPLED, seed=seed)
    ]
    return chosen


def _measured(images: Folder, rows: Int[np.ndarray, " S"], pairs: Places) -> _Sample:
    wanted = list(dict.fromkeys([*rows.tolist(), *(row for pair in pairs for row in pair)]))
    bar = progress(wanted, label="Measuring pictures", unit="picture")
    looked = measure_pictures(images.image(row) for row in bar)
    reference = looked.likeness(*pairs_of(len(rows)))
    return _Sample(rows, {row: place for place, row in enumerate(wanted)}, looked, reference)


def _percentiles(sample: _Sample, pairs: Places) -> list[dict[str, float]]:
    """Mid-ranks among the sample's pairs, from 0 to 100."""
    if not pairs:
        return []
    left, right = (np.array([sample.place[pair[side]] for pair in pairs]) for side in (0, 1))
    found: list[dict[str, float]] = [{} for _ in pairs]
    for name, values in sample.looked.likeness(left, right).items():
        ordered = np.sort(sample.reference[name])
        ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        for one, rank in zip(found, ranks.tolist(), strict=True):
            one[name] = 50.0 * rank / len(ordered)
    return found
