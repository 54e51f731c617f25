"""The image pairs on which two encoders disagree, cleaned of duplicates, hubs and placeholders.

Follows the paper's section 3 and "Eyes Wide Shut" (Tong et al. 2024), with two repairs. The cosines of two
encoders have different ranges, so thresholds are percentiles of each encoder's own pairs, not fixed numbers.
And pairs are cleaned: published lists repeat duplicates, hubs and "image not available" placeholders.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8, UInt64
from torch import Tensor

from paribus.analysis.similarity import unit
from paribus.errors import UserError
from paribus.progress import progress
from paribus.rng import numpy_rng

_POOL = 1 << 18
"""Most candidates of one direction held between passes."""
_THUMBNAIL = 8
_STEP = 4
"""Smallest step of the hash, of 255: without it, the bits of flat areas are the noise of the compression."""
_COLOUR = 32
"""Largest difference of any thumbnail cell, of 255, at which two pictures still count as one."""
_FLAT = 4.0
"""Largest standard deviation of any colour channel, of 255, at which a picture counts as a placeholder."""


class Pairs(NamedTuple):
    """Pairs from the most extreme on: image indices (left < right), and cosine and percentile in (a, b)."""

    left: Int[np.ndarray, " K"]
    right: Int[np.ndarray, " K"]
    similarity: Float[np.ndarray, "K 2"]
    percentile: Float[np.ndarray, "K 2"]


@dataclass(frozen=True)
class Mined:
    """Pairs that a finds alike and b does not, the reverse, the cosine thresholds used, and counts by reason.

    ``thresholds`` holds (low, high) cosines per encoder. ``counts``: images, placeholder_images, and for each
    direction candidates (pairs beyond both thresholds), kept, and what was passed over on the way to the
    kept ones: duplicate (two pictures of one look), repeat (a pair that looks like a kept one), hub.
    """

    a_high: Pairs
    b_high: Pairs
    thresholds: dict[str, tuple[float, float]]
    counts: dict[str, int]


class Looks(NamedTuple):
    """What tells near-duplicates and placeholders: dHash of the luminance, colour thumbnail, contrast."""

    hashes: UInt64[np.ndarray, " N"]
    thumbnails: UInt8[np.ndarray, "N 8 8 3"]
    contrast: Float[np.ndarray, " N"]


class _Side(NamedTuple):
    """One encoder: unit features, its sorted reference similarities, and its two thresholds."""

    features: Float[Tensor, "N D"]
    reference: Float[Tensor, " M"]
    low: float
    high: float


class _Candidates(NamedTuple):
    """Pairs beyond both thresholds; rank is twice the mid-rank in the reference. Columns: (hot, cold)."""

    left: Int[np.ndarray, " C"]
    right: Int[np.ndarray, " C"]
    similarity: Float[np.ndarray, "C 2"]
    rank: Int[np.ndarray, "C 2"]

    def take(self, rows: Shaped[np.ndarray, " R"]) -> "_Candidates":
        return _Candidates(*(column[rows] for column in self))

    @property
    def keys(self) -> Float[np.ndarray, "C 4"]:
        """The order of preference, ascending: gap of percentiles, then gap of cosines, then the indices."""
        rank, cosine = np.diff(self.rank, axis=1), np.diff(self.similarity.astype(np.float64), axis=1)
        columns = (rank[:, 0], cosine[:, 0], self.left, self.right)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)


def mine(
    a: Float[np.ndarray, "N Da"],
    b: Float[np.ndarray, "M Db"],
    *,
    high: float = 99.0,
    low: float = 50.0,
    cosines: Mapping[Literal["a", "b"], tuple[float, float]] | None = None,
    images: Iterable[Shaped[np.ndarray, "..."]] | Looks | None = None,
    keep: int,
    per_image: int = 3,
    duplicate_bits: int = 6,
    sample: int = 1_000_000,
    block: int = 2048,
    device: str = "cpu",
    seed: int = 0,
) -> Mined:
    """Find the pairs that one encoder puts above its ``high`` and the other below its ``low`` percentile.

    All N (N - 1) / 2 pairs are searched in tiles of ``block``; memory grows with N, not with the pairs. An
    encoder's percentiles are exact where there are no more than ``sample`` pairs, and otherwise those of as
    many pairs drawn by ``seed`` (at a million, good to 0.02 points at the 99th). Percentiles are mid-ranks.

    In each direction pairs are taken greedily from the largest gap of percentiles on, until there are
    ``keep``; ties go to the larger gap of cosines, then to the lower indices. No image is in more than
    ``per_image`` pairs of a direction. With ``images`` (RGB [H W 3], in the features' order, read once; or
    their ``Looks``) placeholders of nearly one colour are dropped before anything else, a pair of
    near-duplicates is passed over, so is a pair that looks like a kept one, and near-duplicates share one hub
    count. Near-duplicates
    differ in at most ``duplicate_bits`` of 64 dHash bits *and* have nearly the same colour thumbnail, since
    a recoloured picture keeps its dHash.

    With ``cosines``, (low, high) of each encoder by "a" and "b", these are the thresholds instead, as in
    published lists (.5 and .7, .5 and .8; MMVP's .6 and .95); they favour the encoder of the wider range.

    Raises:
        UserError: lengths that differ, fewer than three usable images, thresholds out of order, or an
            encoder that finds all pairs equally alike.
    """
    _check(len(a), len(b), high, low, keep, per_image)
    _check_cosines(cosines or {})
    looks = images if images is None or isinstance(images, Looks) else look_at(images)
    used = _usable(looks, len(a))
    rows = [_rows(x[used], device) for x in (a, b)]
    references = [_reference(x, sample=sample, block=block, seed=seed) for x in rows]
    sides = [
        _side(x, reference, low, high, name)
        for x, reference, name in zip(rows, references, "ab", strict=True)
    ]
    if cosines is not None:
        sides = [
            side._replace(low=low, high=high)
            for side, (low, high) in zip(sides, (cosines["a"], cosines["b"]), strict=True)
        ]
    kept_looks = None if looks is None else Looks(*(column[used] for column in looks))
    choices = [_Choice(kept_looks, len(used), keep, per_image, duplicate_bits) for _ in range(2)]
    searches = [_Search(hot, choice) for hot, choice in enumerate(choices)]
    _search(sides, searches, block)
    pairs = [_pairs(search, used, sides) for search in searches]
    counts = {"images": len(a), "placeholder_images": len(a) - len(used)}
    for name, search in zip(("a_high", "b_high"), searches, strict=True):
        counts |= {f"{name}_{reason}": count for reason, count in search.counts.items()}
    thresholds = {name: (side.low, side.high) for name, side in zip("ab", sides, strict=True)}
    return Mined(pairs[0], pairs[1], thresholds, counts)


def look_at(images: Iterable[Shaped[np.ndarray, "..."]]) -> Looks:
    """The looks of uint8 RGB images [H W 3] of any sizes, in one pass.

    Raises:
        UserError: something that is not a uint8 RGB image.
    """
    seen = [_look(image, at) for at, image in enumerate(images)]
    return Looks(
        np.array([look[0] for look in seen], np.uint64),
        np.array([look[1] for look in seen], np.uint8).reshape(-1, _THUMBNAIL, _THUMBNAIL, 3),
        np.array([look[2] for look in seen], np.float64),
    )


def dhash(image: UInt8[np.ndarray, "H W 3"]) -> int:
    """64-bit difference hash of an RGB image: which steps along the rows of a 9 x 8 grey thumbnail go up.

    Krawetz's (2013) dHash, but for a step that must exceed 4 of 255: on drawings, whose grounds are flat,
    the plain one misses a third of recompressed copies at 6 bits.
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    steps = np.diff(grey.astype(np.int16), axis=1)
    return int.from_bytes(np.packbits(steps > _STEP).tobytes(), "big")


def alike(
    looks: Looks, left: Int[np.ndarray, " K"], right: Int[np.ndarray, " K"], bits: int
) -> Bool[np.ndarray, " K"]:
    """Which pairs of images are near-duplicates: close in hash and in colour."""
    same: Bool[np.ndarray, " K"] = np.bitwise_count(looks.hashes[left] ^ looks.hashes[right]) <= bits
    close = np.flatnonzero(same)
    step = looks.thumbnails[left[close]].astype(np.int16) - looks.thumbnails[right[close]]
    same[close] = np.abs(step).max(axis=(1, 2, 3), initial=0) <= _COLOUR
    return same


class _Choice:
    """The greedy choice of one direction, from the most extreme pair on."""

    def __init__(self, looks: Looks | None, images: int, keep: int, per_image: int, bits: int) -> None:
        self.looks, self.keep, self.per_image, self.bits = looks, keep, per_image, bits
        self.uses = np.zeros(images, np.int64)
        self.passed = {"duplicate": 0, "repeat": 0, "hub": 0}
        self.kept: list[tuple[int, int]] = []

    @property
    def full(self) -> bool:
        return len(self.kept) >= self.keep

    def extend(self, found: _Candidates) -> Int[np.ndarray, " kept"]:
        """Take from sorted candidates until full; the rows taken."""
        duplicate = self._alike(found.left, found.right).tolist()
        taken = []
        for row, (i, j) in enumerate(zip(found.left.tolist(), found.right.tolist(), strict=True)):
            if self.full:
                break
            reason = "duplicate" if duplicate[row] else self._objection(i, j)
            if reason:
                self.passed[reason] += 1
                continue
            self.kept.append((i, j))
            self.uses[self._look_alikes(i)] += 1
            self.uses[self._look_alikes(j)] += 1
            taken.append(row)
        return np.array(taken, np.int64)

    def _objection(self, i: int, j: int) -> str:
        if max(self.uses[i], self.uses[j]) >= self.per_image:
            return "hub"
        return "repeat" if self._repeats(i, j) else ""

    def _repeats(self, i: int, j: int) -> bool:
        """A kept pair shows the same two looks."""
        if self.looks is None or not self.kept:
            return False
        p, q = np.array(self.kept).T
        first, second = np.full_like(p, i), np.full_like(p, j)
        straight = self._alike(first, p) & self._alike(second, q)
        return bool((straight | (self._alike(first, q) & self._alike(second, p))).any())

    def _look_alikes(self, i: int) -> Int[np.ndarray, " n"]:
        if self.looks is None:
            return np.array([i])
        everyone = np.arange(len(self.uses))
        return np.flatnonzero(self._alike(np.full_like(everyone, i), everyone) | (everyone == i))

    def _alike(self, left: Int[np.ndarray, " K"], right: Int[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
        return np.zeros(len(left), bool) if self.looks is None else alike(self.looks, left, right, self.bits)


class _Search:
    """One direction's candidates: the best ``_POOL`` after ``cursor``, so that any number fits in memory."""

    def __init__(self, hot: int, choice: _Choice) -> None:
        self.hot, self.choice = hot, choice
        self.candidates: int | None = None
        self.cursor: Float[np.ndarray, " 4"] | None = None
        self.parts: list[_Candidates] = []
        self.overflowed = False
        self.taken: list[_Candidates] = []
        self.count = 0

    def add(self, found: _Candidates) -> None:
        """Hold what comes after the cursor, trimmed to the best when it grows past twice the pool."""
        self.count += len(found.left)
        if self.cursor is not None:
            found = found.take(np.flatnonzero(_after(found.keys, self.cursor)))
        self.parts.append(found)
        if sum(len(part.left) for part in self.parts) > 2 * _POOL:
            self.parts = [self._best()]

    def finish(self) -> bool:
        """Choose from what was held; whether another pass could add to the choice."""
        found = self._best()
        rows = self.choice.extend(found)
        self.taken.append(found.take(rows))
        if self.candidates is None:
            self.candidates = self.count
        again = self.overflowed and not self.choice.full
        self.cursor = found.keys[-1] if again else None
        self.parts, self.overflowed = [], False
        return again

    @property
    def counts(self) -> dict[str, int]:
        return {"candidates": self.candidates or 0, "kept": len(self.choice.kept), **self.choice.passed}

    def _best(self) -> _Candidates:
        joined = _Candidates(*(np.concatenate(column) for column in zip(*self.parts, strict=True)))
        order = np.lexsort(joined.keys.T[::-1])
        self.overflowed |= len(order) > _POOL
        return joined.take(order[:_POOL])


def _search(sides: list[_Side], searches: list[_Search], block: int) -> None:
    """Pass over all tiles until each direction is full or has no candidates left (nearly always once)."""
    n = len(sides[0].features)
    # Tiles made anew would leave holes between what is kept of them: gigabytes in the end.
    places = [side.features.new_empty(min(block, n) ** 2) for side in sides]
    wanted = searches
    while wanted:
        for rows, columns in progress(list(_tiles(n, block)), label="pairs", unit="tile"):
            tile = [_tile(side, rows, columns, place) for side, place in zip(sides, places, strict=True)]
            for search in wanted:
                hot, cold = search.hot, 1 - search.hot
                search.add(_beyond(sides[hot], sides[cold], tile[hot], tile[cold], rows.start, columns.start))
        wanted = [search for search in wanted if search.finish()]


def _tile(side: _Side, rows: slice, columns: slice, place: Float[Tensor, " cells"]) -> Float[Tensor, "R C"]:
    """Cosines of some rows with some columns, written to a place that is there."""
    left, right = side.features[rows], side.features[columns].T
    shape = (left.shape[0], right.shape[1])
    return torch.mm(left, right, out=place[: shape[0] * shape[1]].view(shape))


def _beyond(
    hot: _Side,
    cold: _Side,
    hot_tile: Float[Tensor, "R C"],
    cold_tile: Float[Tensor, "R C"],
    top: int,
    left: int,
) -> _Candidates:
    """The tile's pairs (i < j) that the hot encoder finds alike and the cold one does not."""
    beyond = (hot_tile >= hot.high) & (cold_tile <= cold.low)
    at = (beyond.triu(1) if top == left else beyond).nonzero(as_tuple=True)
    similar = torch.stack([hot_tile[at], cold_tile[at]], dim=1)
    rank = torch.stack([_rank(hot, similar[:, 0]), _rank(cold, similar[:, 1])], dim=1)
    i, j = at[0].cpu().numpy() + top, at[1].cpu().numpy() + left
    return _Candidates(i, j, similar.cpu().numpy(), rank.cpu().numpy())


def _rank(side: _Side, similar: Float[Tensor, " K"]) -> Int[Tensor, " K"]:
    """Twice the mid-rank in the reference, an integer, so that gaps tie exactly where they are equal."""
    similar = similar.contiguous()
    below = torch.searchsorted(side.reference, similar, right=False)
    return below + torch.searchsorted(side.reference, similar, right=True)


def _after(keys: Float[np.ndarray, "C 4"], cursor: Float[np.ndarray, " 4"]) -> Bool[np.ndarray, " C"]:
    """Which keys come strictly after the cursor, lexicographically."""
    later = np.zeros(len(keys), bool)
    for column in reversed(range(keys.shape[1])):
        later = (keys[:, column] > cursor[column]) | ((keys[:, column] == cursor[column]) & later)
    return later


def _tiles(n: int, block: int) -> Iterator[tuple[slice, slice]]:
    """The upper triangle of an n x n matrix in tiles."""
    starts = range(0, n, block)
    return ((slice(i, i + block), slice(j, j + block)) for i in starts for j in starts if j >= i)


def _rows(features: Float[np.ndarray, "N D"], device: str) -> Float[Tensor, "N D"]:
    wide = features.astype(np.float32) if features.dtype == np.float16 else features
    return torch.from_numpy(unit(wide)).to(device)


def _reference(rows: Float[Tensor, "N D"], *, sample: int, block: int, seed: int) -> Float[Tensor, " M"]:
    """The sorted cosines that define an encoder's percentiles."""
    pairs = len(rows) * (len(rows) - 1) // 2
    similar = _every_pair(rows, block) if pairs <= sample else _some_pairs(rows, sample, seed)
    return similar.sort().values


def _side(
    rows: Float[Tensor, "N D"], reference: Float[Tensor, " M"], low: float, high: float, name: str
) -> _Side:
    """Thresholds are order statistics, not interpolations, and so exact in any precision."""
    last = len(reference) - 1
    bottom = float(reference[math.floor(low / 100 * last)])
    top = float(reference[math.ceil(high / 100 * last)])
    if not top - bottom > 1e-6:
        raise UserError(
            f"Encoder {name} finds all image pairs equally alike: it has collapsed, so leave it out."
        )
    return _Side(rows, reference, bottom, top)


def _every_pair(rows: Float[Tensor, "N D"], block: int) -> Float[Tensor, " M"]:
    found = []
    for top, left in _tiles(len(rows), block):
        tile = rows[top] @ rows[left].T
        keep = torch.ones_like(tile, dtype=torch.bool)
        found.append(tile[keep.triu(1) if top == left else keep])
    return torch.cat(found)


def _some_pairs(rows: Float[Tensor, "N D"], sample: int, seed: int) -> Float[Tensor, " M"]:
    """Cosines of pairs drawn uniformly with replacement, the same pairs for every encoder."""
    rng = numpy_rng(seed, "disagreement", "pairs")
    left = rng.integers(0, len(rows), sample)
    right = (left + rng.integers(1, len(rows), sample)) % len(rows)
    i, j = (torch.from_numpy(index).to(rows.device) for index in (left, right))
    parts = zip(torch.split(i, 1 << 14), torch.split(j, 1 << 14), strict=True)
    return torch.cat([(rows.index_select(0, p) * rows.index_select(0, q)).sum(dim=1) for p, q in parts])


def _pairs(search: _Search, used: Int[np.ndarray, " n"], sides: list[_Side]) -> Pairs:
    """The chosen pairs in the caller's indices, columns back in the order (a, b)."""
    joined = _Candidates(*(np.concatenate(column) for column in zip(*search.taken, strict=True)))
    columns = [0, 1] if search.hot == 0 else [1, 0]
    percentile = joined.rank[:, columns] * (50.0 / len(sides[0].reference))
    return Pairs(used[joined.left], used[joined.right], joined.similarity[:, columns], percentile)


def _look(image: Shaped[np.ndarray, "..."], at: int) -> tuple[int, UInt8[np.ndarray, "8 8 3"], float]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"Image {at} is {image.dtype} of shape {image.shape}: give uint8 RGB, [H, W, 3].")
    small = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return dhash(image), small, float(image.std(axis=(0, 1)).max())


def is_picture(looks: Looks) -> Bool[np.ndarray, " N"]:
    """Which images are no placeholders: of more than nearly one colour."""
    return looks.contrast > _FLAT


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


def _check_cosines(cosines: Mapping[Literal["a", "b"], tuple[float, float]]) -> None:
    for name, (low, high) in cosines.items():
        if not -1 <= low < high <= 1:
            raise UserError(f"The cosines of {name} are low={low}, high={high}: give -1 <= low < high <= 1.")


def _check(n: int, m: int, high: float, low: float, keep: int, per_image: int) -> None:
    if n != m:
        raise UserError(
            f"The encoders have features of {n} and {m} images: encode the same images with both."
        )
    if n < 3:
        raise UserError(f"Pairs cannot be ranked among {n} images: give at least 3.")
    if not 0 <= low < high <= 100:
        raise UserError(f"The percentiles are low={low}, high={high}: give 0 <= low < high <= 100.")
    if min(keep, per_image) < 1:
        raise UserError(f"keep={keep} and per_image={per_image} must be at least 1.")
