"""The search for pairs: which candidates are held, which are chosen, and how it goes on after a stop.

How two pictures are compared is another's matter (``screen.py``): a scan is given a tile and adds its
candidates to the searches, one for each direction.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from paribus.analysis.looks import Looks, alike
from paribus.analysis.tiles import Plan, Tile
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.progress import progress

_POOL = 1 << 18
"""Most candidates of one direction held between passes."""
_EVERY = 30.0
"""Seconds between two writings of how far a search has come."""


class Candidates(NamedTuple):
    """Pairs beyond both thresholds; rank is twice the mid-rank in the reference. Columns: (hot, cold)."""

    left: Int[np.ndarray, " C"]
    right: Int[np.ndarray, " C"]
    similarity: Float[np.ndarray, "C 2"]
    rank: Int[np.ndarray, "C 2"]

    def take(self, rows: Shaped[np.ndarray, " R"]) -> "Candidates":
        """Some of the pairs."""
        return Candidates(*(column[rows] for column in self))

    @property
    def keys(self) -> Float[np.ndarray, "C 4"]:
        """The order of preference, ascending: gap of percentiles, then gap of cosines, then the indices."""
        rank, cosine = np.diff(self.rank, axis=1), np.diff(self.similarity, axis=1)
        columns = (rank[:, 0], cosine[:, 0], self.left, self.right)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)


_NONE = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2), np.int64))


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates one after the other."""
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Choice:
    """The greedy choice of one direction, from the most extreme pair on."""

    def __init__(self, looks: Looks | None, images: int, keep: int, per_image: int, bits: int) -> None:
        self.looks, self.keep, self.per_image, self.bits = looks, keep, per_image, bits
        self.uses = np.zeros(images, np.int64)
        self.passed = {"duplicate": 0, "repeat": 0, "hub": 0}
        self.kept: list[tuple[int, int]] = []

    @property
    def full(self) -> bool:
        """Nothing more is taken."""
        return len(self.kept) >= self.keep

    def extend(self, found: Candidates) -> Int[np.ndarray, " kept"]:
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


class Search:
    """One direction's candidates: the best ``_POOL`` after ``cursor``, so that any number fits in memory.

    ``cutoff`` is the last gap of ranks that a full pool has room for: pairs of higher ones need not be added.
    """

    def __init__(self, hot: int, choice: Choice) -> None:
        self.hot, self.choice = hot, choice
        self.candidates: int | None = None
        self.cursor: Float[np.ndarray, " 4"] | None = None
        self.taken = _NONE
        self.done = False
        self.count = 0
        self._begin()

    def _begin(self) -> None:
        self.parts, self.cutoff = [_NONE], math.inf

    def add(self, found: Candidates, besides: int) -> None:
        """Hold what comes after the cursor; ``besides`` are candidates that the pool has no room for."""
        self.count += len(found.left) + besides
        if self.cursor is not None:
            found = found.take(_after(found.keys, self.cursor))
        self.parts.append(found)
        if sum(len(part.left) for part in self.parts) > 2 * _POOL:
            self.best()

    def best(self) -> Candidates:
        """The best of what is held, sorted; nothing else is held any longer."""
        found = joined(self.parts)
        order = np.lexsort(found.keys.T[::-1])
        self.parts = [found.take(order[:_POOL])]
        if len(order) > _POOL:
            self.cutoff = float(self.parts[0].keys[-1, 0])
        return self.parts[0]

    def finish(self) -> None:
        """Choose from what was held; done if another pass could not add to the choice."""
        found = self.best()
        self.taken = joined([self.taken, found.take(self.choice.extend(found))])
        if self.candidates is None:
            self.candidates = self.count
        self.done = self.choice.full or math.isinf(self.cutoff)
        self.cursor = None if self.done else found.keys[-1]
        self._begin()

    @property
    def counts(self) -> dict[str, int]:
        """Candidates, pairs kept, and pairs passed over by reason."""
        return {"candidates": self.candidates or 0, "kept": len(self.choice.kept), **self.choice.passed}


def run(
    plan: Plan, scan: Callable[[Tile, list[Search]], None], searches: list[Search], saved: "Saved | None"
) -> None:
    """Pass over all tiles until each direction is full or has no candidates left (nearly always once)."""
    start = saved.load(searches) if saved else 0
    while wanted := [search for search in searches if not search.done]:
        seen = sum(tile.pairs for tile in plan.tiles[:start])
        bar: tqdm[None] = progress(total=plan.pairs, initial=seen, label="pairs", unit="pair")
        with bar:
            for number, tile in enumerate(plan.tiles[start:], start + 1):
                scan(tile, wanted)
                bar.update(tile.pairs)
                if saved and saved.due:
                    saved.save(number, searches)
        for search in wanted:
            search.finish()
        start = 0
        if saved:
            saved.save(start, searches)


class Saved:
    """How far a search has come, in a file that is whole or not there.

    Args:
        path: the file; nothing else is kept by its name.
        meaning: digest of all that decides what the search finds.
    """

    def __init__(self, path: Path, meaning: str) -> None:
        self.path, self.meaning = path, meaning
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """It is time to write again."""
        return time.monotonic() - self.last >= _EVERY

    def save(self, tile: int, searches: list[Search]) -> None:
        """Write the state before some tile."""
        arrays: dict[str, Shaped[np.ndarray, "..."]] = {}
        for search in searches:  # before the numbers: what is best decides the cutoff
            arrays |= {f"{search.hot}/{name}": value for name, value in _arrays(search).items()}
        state = {"meaning": self.meaning, "tile": tile, "searches": [_numbers(search) for search in searches]}
        with whole_file(self.path) as temporary:
            save_file(
                {name: np.ascontiguousarray(value) for name, value in arrays.items()},
                temporary,
                {"state": json.dumps(state)},
            )
        self.last = time.monotonic()

    def load(self, searches: list[Search]) -> int:
        """Fill searches with what is there, if anything is; the tile that comes next.

        Raises:
            UserError: the state is another search's, or damaged.
        """
        for old in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            old.unlink(missing_ok=True)
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="np") as stored:
                state = json.loads(stored.metadata()["state"])
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no dict
            meaning, tile = state["meaning"], int(state["tile"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{self.path} is damaged: delete it, and the search begins again.") from error
        if meaning != self.meaning:
            raise UserError(
                f"{self.path} is of another search (other features, pictures or settings): "
                "give another file, or delete it."
            )
        for search, numbers in zip(searches, state["searches"], strict=True):
            prefix = f"{search.hot}/"
            own = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
            _restore(search, numbers, own)
        return tile


_NUMBERS = ("candidates", "count", "done", "cutoff")


def _numbers(search: Search) -> dict[str, Any]:
    return {name: getattr(search, name) for name in _NUMBERS} | {"passed": search.choice.passed}


def _arrays(search: Search) -> dict[str, Shaped[np.ndarray, "..."]]:
    kept = np.array(search.choice.kept, np.int64).reshape(-1, 2)
    arrays: dict[str, Shaped[np.ndarray, "..."]] = {"uses": search.choice.uses, "kept": kept}
    for name, found in (("best", search.best()), ("taken", search.taken)):
        arrays |= {f"{name}/{key}": column for key, column in found._asdict().items()}
    return arrays if search.cursor is None else arrays | {"cursor": search.cursor}


def _restore(search: Search, numbers: dict[str, Any], arrays: dict[str, Any]) -> None:
    best, taken = (
        Candidates(*(arrays[f"{name}/{key}"] for key in Candidates._fields)) for name in ("best", "taken")
    )
    search.parts, search.taken, search.cursor = [best], taken, arrays.get("cursor")
    for name in _NUMBERS:
        setattr(search, name, numbers[name])
    search.choice.passed, search.choice.uses = numbers["passed"], arrays["uses"]
    search.choice.kept = [(i, j) for i, j in arrays["kept"].tolist()]


def _after(keys: Float[np.ndarray, "C 4"], cursor: Float[np.ndarray, " 4"]) -> Bool[np.ndarray, " C"]:
    """Which keys come strictly after the cursor, lexicographically."""
    later = np.zeros(len(keys), bool)
    for column in reversed(range(keys.shape[1])):
        later = (keys[:, column] > cursor[column]) | ((keys[:, column] == cursor[column]) & later)
    return later
