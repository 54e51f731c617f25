"""Cosines of float64 at the cost of bf16: all pairs are screened, and what may matter is compared exactly.

Unit rows x, y are rounded to bf16 (or float32) ones x', y', and r is the length of the longest x - x', as
measured. Then |x.y - x'.y'| <= |x - x'| |y| + |x'| |y - y'| <= r + (1 + r) r (Cauchy and Schwarz). Summing D
products in float32, in any order, adds at most (D + 8) 2^-22 |x'| |y'|, four times the classical bound
(Higham 2002, section 3.1), and the product's own rounding half a unit in its last place. So a pair whose
interval lies within or outside of both thresholds is decided; float64 decides the others, and gives the
numbers of all that the pool has room for.
"""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paribus.analysis.search import Candidates, Search
from paribus.analysis.tiles import Plan, Tile
from paribus.errors import UserError
from paribus.rng import numpy_rng

_PAIRS = 64
"""Pairs of rows that are multiplied at once: they stay in the cache."""
_ROWS = 4_096
_STRIDE = 16
"""One in so many of the sorted reference is enough where ranks need not be exact, and stays in the cache."""
_NARROW = 0.05
"""Distance of thresholds below which bf16 would leave most pairs open."""

Matrix = Float[np.ndarray, "_ _"]


class Bounds(NamedTuple):
    """An encoder's cosines: not alike up to low, alike from high."""

    low: float
    high: float


class Rows:
    """One encoder's features of the images that take part, and cosines of pairs of them."""

    def __init__(self, features: Matrix, images: Int[np.ndarray, " n"]) -> None:
        # NumPy would copy all features at every taking of rows that do not lie one after the other.
        self.features, self.images = np.require(features, requirements=["C", "A"]), images
        self.norms = np.concatenate([np.linalg.norm(self._rows(at), axis=1) for at in _parts(len(images))])
        if not np.isfinite(self.norms).all():
            row = int(images[np.flatnonzero(~np.isfinite(self.norms))[0]])
            raise UserError(
                f"The features of image {row} are not finite: the encoder diverged, so train it again."
            )
        self.norms[self.norms == 0] = 1.0  # rows of zeros stay zero

    def cosines(self, i: Int[np.ndarray, " C"], j: Int[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
        """Cosines in float64: of a pair the same bits always, whatever pairs are asked for beside it."""
        found = np.empty(len(i), np.float64)
        for at in range(0, len(i), _PAIRS):
            part = slice(at, at + _PAIRS)
            found[part] = np.vecdot(self._rows(i[part]), self._rows(j[part]))
        found /= self.norms[i] * self.norms[j]
        return found

    def reference(self, sample: int, seed: int) -> Float[np.ndarray, " M"]:
        """The sorted cosines that define percentiles: of all pairs, or of so many drawn with replacement."""
        n = len(self.images)
        if n * (n - 1) // 2 <= sample:
            return np.sort(self.cosines(*np.triu_indices(n, 1)))
        rng = numpy_rng(seed, "disagreement", "pairs")  # the same pairs of every encoder
        left = rng.integers(0, n, sample)
        return np.sort(self.cosines(left, (left + rng.integers(1, n, sample)) % n))

    def rounded(self, dtype: torch.dtype, device: str) -> tuple[Float[Tensor, "n D"], float]:
        """Unit rows in a low precision, and the length of the longest error of them."""
        rows = torch.empty((len(self.images), self.features.shape[1]), dtype=dtype, device=device)
        longest = 0.0
        for at in _parts(len(rows)):
            exact = self._rows(at) / self.norms[at, None]
            part = torch.from_numpy(exact).to(dtype)
            longest = max(longest, float(np.linalg.norm(exact - part.double().numpy(), axis=1).max()))
            rows[at[0] : at[-1] + 1] = part
        return rows, longest

    def _rows(self, at: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k D"]:
        found: Float[np.ndarray, "k D"] = self.features.take(self.images[at], axis=0).astype(np.float64)
        return found


class _Screen:
    """One encoder's products of a tile, and what cosines lie between."""

    def __init__(self, rows: Rows, bounds: Bounds, cells: int, device: str) -> None:
        width = rows.features.shape[1]
        low = bounds.high - bounds.low > _NARROW and _bf16_pays(device)
        dtype = torch.bfloat16 if low else torch.float32
        self.digits = 8 if low else 24
        self.rounded, longest = rows.rounded(dtype, device)
        self.error = longest + (1 + longest) * longest + (width + 8) * 2.0**-22 * (1 + longest) ** 2
        # Tiles made anew would leave holes between what is kept of them: gigabytes in the end.
        self.place = self.rounded.new_empty(cells)
        self.tile = self.place.view(1, -1)

    def look(self, tile: Tile) -> None:
        """Multiply a tile's rows by its columns."""
        self.tile = self.place[: math.prod(tile.shape)].view(tile.shape)
        torch.mm(self.rounded[tile.rows], self.rounded[tile.columns].T, out=self.tile)

    def reach(self, cosine: float) -> Int[Tensor, " K"]:
        """Where in the flattened tile a cosine may reach a bound."""
        bound = cosine - self.error
        floor = torch.tensor(bound - abs(bound) * 2.0 ** (1 - self.digits), dtype=self.tile.dtype)
        floor = torch.nextafter(floor, torch.tensor(-torch.inf, dtype=self.tile.dtype))
        if self.tile.device.type != "cpu" or not floor > 0:
            return (self.tile >= floor.to(self.tile.device)).flatten().nonzero()[:, 0]
        # As integers, positive floats are in order and negative ones negative; NumPy is 15 times as fast.
        whole = torch.int16 if self.digits == 8 else torch.int32
        bits = self.tile.view(whole).numpy() >= floor.view(whole).numpy()
        return torch.from_numpy(np.flatnonzero(bits))

    def interval(self, at: Int[Tensor, " K"]) -> Float[np.ndarray, "K 2"]:
        """What cosines lie between, by places in the flattened tile."""
        product = self.tile.flatten().index_select(0, at).cpu().double().numpy()
        last_place = np.ldexp(1.0, np.frexp(product)[1] - self.digits)
        off = self.error + last_place / 2
        return np.stack([product - off, product + off], axis=1)


@dataclass
class _Open:
    """Pairs at positions i, j of the plan, and what their cosines lie between; columns (hot, cold)."""

    i: Int[np.ndarray, " C"]
    j: Int[np.ndarray, " C"]
    low: Float[np.ndarray, "C 2"]
    high: Float[np.ndarray, "C 2"]

    def take(self, rows: Bool[np.ndarray, " C"]) -> "_Open":
        return _Open(self.i[rows], self.j[rows], self.low[rows], self.high[rows])


class Scan:
    """Finds the candidates of a tile in both directions."""

    def __init__(
        self,
        plan: Plan,
        rows: list[Rows],
        references: list[Float[np.ndarray, " M"]],
        bounds: list[Bounds],
        device: str,
    ) -> None:
        self.plan, self.rows, self.references, self.bounds = plan, rows, references, bounds
        self.coarse = [np.ascontiguousarray(reference[::_STRIDE]) for reference in references]
        cells = max(math.prod(tile.shape) for tile in plan.tiles)
        self.screens = [_Screen(x, bound, cells, device) for x, bound in zip(rows, bounds, strict=True)]

    def __call__(self, tile: Tile, searches: list[Search]) -> None:
        """Add the tile's candidates of each direction."""
        with _whole_products():
            for screen in self.screens:
                screen.look(tile)
        for search in searches:
            self._add(search, self._decided(search.hot, self._possible(search.hot, tile)))

    def _possible(self, hot: int, tile: Tile) -> _Open:
        """The tile's pairs that may be beyond both thresholds."""
        one, other = self.screens[hot], self.screens[1 - hot]
        at = one.reach(self.bounds[hot].high)
        cold = other.interval(at)
        few = np.flatnonzero(cold[:, 0] <= self.bounds[1 - hot].low)
        at, cold = at[torch.from_numpy(few).to(at.device)], cold[few]
        i, j = np.divmod(at.cpu().numpy(), tile.shape[1])
        ends = (np.stack(pair, axis=1) for pair in zip(one.interval(at).T, cold.T, strict=True))
        found = _Open(i + tile.rows.start, j + tile.columns.start, *ends)
        return found.take(found.i < found.j) if tile.triangle else found

    def _decided(self, hot: int, found: _Open) -> _Open:
        """The pairs that are beyond both thresholds, those near one by exact cosines."""
        least, most = self.bounds[hot].high, self.bounds[1 - hot].low
        found = found.take(found.high[:, 0] >= least)
        found = self._sharp(self.rows[hot], found, 0, found.low[:, 0] < least)
        found = found.take(found.high[:, 0] >= least)
        found = self._sharp(self.rows[1 - hot], found, 1, found.high[:, 1] > most)
        return found.take(found.low[:, 1] <= most)

    def _sharp(self, rows: Rows, found: _Open, column: int, some: Bool[np.ndarray, " C"]) -> _Open:
        """Exact cosines of some pairs in one encoder, in place of intervals."""
        cosine = rows.cosines(found.i[some], found.j[some])
        if not ((found.low[some, column] <= cosine) & (cosine <= found.high[some, column])).all():
            raise UserError(
                "This machine's matrix products are less exact than they should be: give another device."
            )
        found.low[some, column] = found.high[some, column] = cosine
        return found

    def _add(self, search: Search, found: _Open) -> None:
        """Compare exactly what the pool may have room for, and count the rest."""
        both = (search.hot, 1 - search.hot)
        hot, cold = (self.coarse[k] for k in both)
        # Below a cosine with k of the coarse reference below it are between k - 1 and k strides of the whole.
        gap = np.searchsorted(cold, found.low[:, 1]) - 1 - np.searchsorted(hot, found.high[:, 0], "right")
        wanted = found.take(2 * _STRIDE * gap <= search.cutoff)
        every = np.ones(len(wanted.i), bool)
        for column, k in enumerate(both):
            wanted = self._sharp(self.rows[k], wanted, column, every)
        similar = wanted.low
        rank = np.stack([twice_rank(self.references[k], similar[:, c]) for c, k in enumerate(both)], axis=1)
        ends = np.sort(self.plan.images[np.stack([wanted.i, wanted.j])], axis=0)
        search.add(Candidates(ends[0], ends[1], similar, rank), len(found.i) - len(wanted.i))


def twice_rank(reference: Float[np.ndarray, " M"], similar: Float[np.ndarray, " K"]) -> Int[np.ndarray, " K"]:
    """Twice the mid-rank in the reference, an integer, so that gaps tie exactly where they are equal."""
    below: Int[np.ndarray, " K"] = np.searchsorted(reference, similar)
    return below + np.searchsorted(reference, similar, "right")


def _parts(n: int) -> list[Int[np.ndarray, " k"]]:
    return np.split(np.arange(n), range(_ROWS, n, _ROWS))


@contextlib.contextmanager
def _whole_products() -> Iterator[None]:
    """No float32 products by way of TF32 or bf16, which the bound does not cover."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


@functools.cache
def _bf16_pays(device: str) -> bool:
    """Its products are faster here than float32 ones, as timed: many CPUs have no instructions for it.

    On GPUs, where products cost little beside what they leave open, it never pays.
    """
    if torch.device(device).type != "cpu":
        return False
    took = []
    for dtype in (torch.bfloat16, torch.float32):
        rows, rounds = torch.ones((512, 512), dtype=dtype), []
        for _ in range(4):
            start = time.perf_counter()
            torch.mm(rows, rows.T)
            rounds.append(time.perf_counter() - start)
        took.append(min(rounds))
    return took[0] < took[1]
