"""The image pairs on which two encoders disagree, cleaned of duplicates, hubs and placeholders.

Follows the paper's section 3 and "Eyes Wide Shut" (Tong et al. 2024), with two repairs. The cosines of two
encoders have different ranges, so thresholds are percentiles of each encoder's own pairs, not fixed numbers
(which can be had too). And pairs are cleaned: published lists repeat duplicates, hubs and "image not
available" placeholders.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from paribus.analysis.looks import Looks, is_picture, look_at
from paribus.analysis.screen import Bounds, Rows, Scan
from paribus.analysis.search import Choice, Saved, Search, run
from paribus.analysis.tiles import Blocks, plan
from paribus.errors import UserError
from paribus.files import whole_file

_VERSION = 1
"""Of what a saved search means."""


class Percentiles(NamedTuple):
    """Alike is what an encoder puts at or above ``high`` of its own pairs, not alike at or below ``low``."""

    low: float = 50.0
    high: float = 99.0


class Cosines(NamedTuple):
    """(low, high) cosines of each encoder, as in published lists: (.5, .7) and (.5, .8); MMVP's (.6, .95).

    They favour the encoder of the wider range.
    """

    a: tuple[float, float]
    b: tuple[float, float]


class Pairs(NamedTuple):
    """Pairs from the most extreme on: image indices (left < right); cosine, percentile and rank in (a, b).

    Of an encoder's most alike pair the rank is 1; where percentiles are of a sample, ranks are estimates.
    """

    left: Int[np.ndarray, " K"]
    right: Int[np.ndarray, " K"]
    similarity: Float[np.ndarray, "K 2"]
    percentile: Float[np.ndarray, "K 2"]
    rank: Int[np.ndarray, "K 2"]


@dataclass(frozen=True)
class Mined:
    """Pairs that a finds alike and b does not, the reverse, the cosine thresholds used, and counts by reason.

    ``thresholds`` holds (low, high) cosines per encoder. ``counts``: images, placeholder_images, and for each
    direction candidates (pairs beyond both thresholds), kept, and what was passed over on the way to the
    kept ones: duplicate (two pictures of one look), repeat (a pair that looks like a kept one), hub.
    ``pairs``: how many were searched; the population, all pairs of the images that took part, that ranks are
    in; and the reference, so many of them, that percentiles and ranks are by.
    """

    a_high: Pairs
    b_high: Pairs
    thresholds: dict[str, tuple[float, float]]
    counts: dict[str, int]
    pairs: dict[str, int]


def mine(
    a: Float[np.ndarray, "N Da"],
    b: Float[np.ndarray, "M Db"],
    *,
    thresholds: Percentiles | Cosines = Percentiles(),  # noqa: B008 - it is immutable
    images: Iterable[Shaped[np.ndarray, "..."]] | Looks | None = None,
    keep: int,
    per_image: int = 3,
    duplicate_bits: int = 6,
    sample: int = 1_000_000,
    blocks: Blocks | None = None,
    resume: Path | None = None,
    tile: int = 2048,
    device: str = "cpu",
    seed: int = 0,
) -> Mined:
    """Find the pairs that one encoder puts above its high and the other below its low threshold.

    All N (N - 1) / 2 pairs are searched in tiles, or those of random ``blocks``; memory grows with N, not
    with the pairs. Cosines are those of float64 on every device, though most pairs are compared in bf16 alone
    (see ``screen.py``). An encoder's percentiles are exact where there are no more than ``sample`` pairs, and
    otherwise those of as many pairs drawn by ``seed`` (at a million, good to 0.02 points at the 99th).
    Percentiles are mid-ranks.

    In each direction pairs are taken greedily from the largest gap of percentiles on, until there are
    ``keep``; ties go to the larger gap of cosines, then to the lower indices. No image is in more than
    ``per_image`` pairs of a direction. With ``images`` (RGB [H W 3], in the features' order, read once; or
    their ``Looks``) placeholders of nearly one colour are dropped before anything else, a pair of
    near-duplicates is passed over, so is a pair that looks like a kept one, and near-duplicates share one hub
    count. Near-duplicates differ in at most ``duplicate_bits`` of 64 dHash bits *and* have nearly the same
    colour thumbnail, since a recoloured picture keeps its dHash.

    With ``resume``, a file, a search that was stopped goes on, to the identical result; the file is the
    caller's to delete.

    Raises:
        UserError: lengths that differ, fewer than three usable images, thresholds out of order, an encoder
            that finds all pairs equally alike, or a file with another search in it.
    """
    _check(len(a), len(b), keep, per_image)
    _check_thresholds(thresholds)
    looks = images if images is None or isinstance(images, Looks) else look_at(images)
    used = _usable(looks, len(a))
    looked = plan(len(used), tile, blocks, seed)
    settings = [thresholds, keep, per_image, duplicate_bits, sample, blocks, tile, seed]
    saved = None if resume is None else Saved(resume, _meaning(settings, a, b, *(looks or ())))
    rows = [Rows(x, used[looked.images]) for x in (a, b)]
    references = [each.reference(sample, seed) for each in rows]
    bounds = [_bounds(thresholds, reference, at) for at, reference in enumerate(references)]
    kept_looks = None if looks is None else Looks(*(column[used] for column in looks))
    searches = [
        Search(hot, Choice(kept_looks, len(used), keep, per_image, duplicate_bits)) for hot in range(2)
    ]
    run(looked, Scan(looked, rows, references, bounds, device), searches, saved)
    counts = {"images": len(a), "placeholder_images": len(a) - len(used)}
    for name, search in zip(("a_high", "b_high"), searches, strict=True):
        counts |= {f"{name}_{reason}": count for reason, count in search.counts.items()}
    size, population = len(references[0]), looked.population
    one, other = (_pairs(search, used, size, population) for search in searches)
    return Mined(
        one,
        other,
        thresholds={name: (bound.low, bound.high) for name, bound in zip("ab", bounds, strict=True)},
        counts=counts,
        pairs={"searched": looked.pairs, "population": population, "reference": size},
    )


def write_mined(
    mined: Mined, keys: Sequence[str], path: Path, more: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Pairs as parquet, one row each: left and right by their keys, alike (to a or b), and numbers of both.

    These are similarity_a, similarity_b, percentile_a and so on, rank_a, and ``more`` columns, of a's pairs
    and then of b's. The file's metadata has, as JSON, counts, thresholds and pairs.

    Raises:
        UserError: not one key for each image.
    """
    if len(keys) != mined.counts["images"]:
        raise UserError(f"There are {len(keys)} keys for {mined.counts['images']} images: give one for each.")
    both = (mined.a_high, mined.b_high)
    columns: dict[str, Any] = {
        name: pa.array([keys[at] for found in both for at in getattr(found, name).tolist()], pa.string())
        for name in ("left", "right")
    }
    alike = [name for name, found in zip("ab", both, strict=True) for _ in found.left]
    columns["alike"] = pa.array(alike, pa.string())
    for name in ("similarity", "percentile", "rank"):
        values = np.concatenate([getattr(found, name) for found in both])
        columns |= {f"{name}_{which}": values[:, at] for at, which in enumerate("ab")}
    columns |= {name: pa.array(values, pa.float64()) for name, values in (more or {}).items()}
    told = {name: json.dumps(getattr(mined, name)) for name in ("counts", "thresholds", "pairs")}
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(told), temporary)


def _bounds(thresholds: Percentiles | Cosines, reference: Float[np.ndarray, " M"], at: int) -> Bounds:
    """Thresholds of an encoder; percentiles are order statistics, not interpolations."""
    percentiles = thresholds if isinstance(thresholds, Percentiles) else Percentiles()
    last = len(reference) - 1
    low = float(reference[math.floor(percentiles.low / 100 * last)])
    high = float(reference[math.ceil(percentiles.high / 100 * last)])
    if not high - low > 1e-6:
        raise UserError(
            f"Encoder {'ab'[at]} finds all image pairs equally alike: it has collapsed, so leave it out."
        )
    return Bounds(*thresholds[at]) if isinstance(thresholds, Cosines) else Bounds(low, high)


def _pairs(search: Search, used: Int[np.ndarray, " n"], size: int, population: int) -> Pairs:
    """The chosen pairs in the caller's indices, columns back in the order (a, b)."""
    found, columns = search.taken, [0, 1] if search.hot == 0 else [1, 0]
    twice = found.rank[:, columns]
    # A mid-rank is half a pair below the rank from above.
    rank = np.maximum(1, np.floor((2 * size - twice) * (population / (2 * size)) + 0.5).astype(np.int64))
    similar, percentile = found.similarity[:, columns], twice * (50.0 / size)
    return Pairs(used[found.left], used[found.right], similar, percentile, rank)


def _usable(looks: Looks | None, n: int) -> Int[np.ndarray, " n"]:
    """The images that are no placeholders."""
    if looks is None:
        return np.arange(n)
    if len(looks.hashes) != n:
        raise UserError(
            f"There are {len(looks.hashes)} images for {n} features: give one image for each row."
        )
    used = np.flatnonzero(is_picture(looks))
    if len(used) < 3:
        raise UserError(f"Only {len(used)} of {n} images are more than one colour: give at least 3 pictures.")
    return used


def _meaning(settings: list[Any], *arrays: Shaped[np.ndarray, "..."]) -> str:
    """Digest of all that decides what a search finds."""
    digest = hashlib.sha256(f"{_VERSION} {settings}".encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        for at in range(0, len(array), 4_096):
            digest.update(np.ascontiguousarray(array[at : at + 4_096]).tobytes())
    return digest.hexdigest()


def _check_thresholds(thresholds: Percentiles | Cosines) -> None:
    if isinstance(thresholds, Percentiles):
        low, high = thresholds
        if not 0 <= low < high <= 100:
            raise UserError(f"The percentiles are low={low}, high={high}: give 0 <= low < high <= 100.")
        return
    for name, (low, high) in thresholds._asdict().items():
        if not -1 <= low < high <= 1:
            raise UserError(f"The cosines of {name} are low={low}, high={high}: give -1 <= low < high <= 1.")


def _check(n: int, m: int, keep: int, per_image: int) -> None:
    if n != m:
        raise UserError(
            f"The encoders have features of {n} and {m} images: encode the same images with both."
        )
    if n < 3:
        raise UserError(f"Pairs cannot be ranked among {n} images: give at least 3.")
    if min(keep, per_image) < 1:
        raise UserError(f"keep={keep} and per_image={per_image} must be at least 1.")
