"""Why two encoders differ: what of each one's similarity measured factors, meaning and labels explain."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
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
    text_factors,
    vectors_alike,
)
from paribus.data.folder import Folder
from paribus.errors import UserError
from paribus.progress import progress

SAMPLED = 600
"""Most pictures whose pairs are regressed: the work grows with their square."""
FEWEST = 8
"""Captions below which nothing is said of meaning."""

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


def sampled(
    usable: Int[np.ndarray, " U"],
    captions: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    seed: int,
) -> Int[np.ndarray, " S"]:
    """At most ``SAMPLED`` pictures whose pairs are explained; of labelled ones, so that some share labels.

    Where enough have a caption, those: nothing that is said of one picture is unlike what is said of another.

    Args:
        usable: rows that are no placeholders.
        captions: one for each picture, or nothing.
        labels: known factor -> its value for each picture, empty for none.
        seed: of the sample.
    """
    if enough_captions(usable, captions):
        usable = np.array([row for row in usable if captions[row]])
    told: Factors = {name: np.array(values, dtype=str)[usable] for name, values in labels.items()}
    chosen: Int[np.ndarray, " S"] = usable[
        subsample(told or {"none": np.full(len(usable), "")}, limit=SAMPLED, seed=seed)
    ]
    return chosen


def enough_captions(usable: Int[np.ndarray, " U"], captions: Sequence[str]) -> bool:
    """Whether meaning can be told from captions."""
    return bool(captions) and sum(bool(captions[row]) for row in usable) >= FEWEST


def explain(
    images: Folder,
    rows: Int[np.ndarray, " S"],
    a: Float[np.ndarray, "N Da"],
    b: Float[np.ndarray, "N Db"],
    pairs: Places,
    *,
    captions: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    words: Sequence[AbstractSet[str]] = (),
    seed: int,
) -> Likeness:
    """Measure a sample of pictures and those of the pairs, and regress both encoders' cosines on all factors.

    Args:
        images: the folder.
        rows: the sample (``sampled``).
        a: features of every picture.
        b: those of the other encoder.
        pairs: rows whose likeness is wanted too.
        captions: one for each picture, or nothing.
        labels: known factor -> its value for each picture, empty for none.
        words: what is written in each picture of the sample, or nothing.
        seed: of the intervals.
    """
    sample = _measured(images, rows, pairs)
    factors: Factors = {name: square(values, len(rows)) for name, values in sample.reference.items()}
    left_out: dict[str, str] = {}
    if enough_captions(rows, captions):
        factors["meaning"] = vectors_alike(meaning([captions[row] for row in rows]))
    elif captions:
        left_out["meaning"] = f"fewer than {FEWEST} pictures have a caption"
    if words:
        factors |= text_factors(words)
    for name, told in labels.items():  # a label may be called as what is measured is
        factors[f"{name} (label)" if name in factors else name] = np.array(told, dtype=str)[rows]
    try:
        found = factor_difference(a[rows], b[rows], factors, seed=seed, limit=len(rows))
    except UserError as error:
        return Likeness(None, _percentiles(sample, pairs), left_out | {"all factors": str(error)})
    return Likeness(found, _percentiles(sample, pairs), left_out | found.a.left_out)


def _measured(images: Folder, rows: Int[np.ndarray, " S"], pairs: Places) -> _Sample:
    wanted = list(dict.fromkeys([*rows.tolist(), *(row for pair in pairs for row in pair)]))
    bar = progress(wanted, label="Measuring pictures", unit="picture")
    looked = measure_pictures((images.image(row) for row in bar), sample=len(rows))
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
