"""A search that is stopped anywhere goes on to the identical result."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paribus.analysis import search
from paribus.analysis.disagreement import Mined, Percentiles, mine
from paribus.analysis.screen import Scan
from paribus.analysis.tiles import Blocks
from paribus.errors import UserError

SETTINGS = {"thresholds": Percentiles(60.0, 75.0), "keep": 40, "per_image": 2, "tile": 16}


def encoders(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, 4))
    return tuple(np.concatenate([common, rng.normal(size=(n, 6))], axis=1).astype(np.float32) for _ in "ab")


def same(one: Mined, other: Mined) -> None:
    """To the last bit."""
    assert (one.counts, one.thresholds, one.pairs) == (other.counts, other.thresholds, other.pairs)
    for ours, theirs in zip([*one.a_high, *one.b_high], [*other.a_high, *other.b_high], strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Stop(BaseException):
    """What ends a search in a test."""


@pytest.fixture
def often(monkeypatch):
    """State is written after every tile."""
    monkeypatch.setattr(search, "_EVERY", 0.0)


def stopping(monkeypatch, tiles: int) -> list[int]:
    """Scans end with ``Stop`` after so many tiles; how many there were."""
    really, seen = Scan.__call__, [0]

    def scan(self, tile, searches):
        if seen[0] == tiles:
            raise Stop
        seen[0] += 1
        really(self, tile, searches)

    monkeypatch.setattr(Scan, "__call__", scan)
    return seen


@pytest.mark.parametrize("pool", [25, 1 << 18])
@pytest.mark.parametrize("blocks", [None, Blocks(size=20, count=6)])
@pytest.mark.parametrize("seed", range(2))
def test_a_search_stopped_again_and_again_finds_the_same(pool, blocks, seed, often, tmp_path, monkeypatch):
    a, b = encoders()
    given = SETTINGS | {"blocks": blocks}
    monkeypatch.setattr(search, "_POOL", pool)
    with monkeypatch.context() as patched:
        seen = stopping(patched, -1)
        whole = mine(a, b, **given)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        with monkeypatch.context() as patched, pytest.raises(Stop):
            stopping(patched, int(rng.integers(0, seen[0] // 3)))
            mine(a, b, resume=tmp_path / "state", **given)
    with monkeypatch.context() as patched:
        left = stopping(patched, -1)
        same(whole, mine(a, b, resume=tmp_path / "state", **given))
    assert left[0] < seen[0]
    with monkeypatch.context() as patched:
        stopping(patched, 0)  # a finished search is only read
        same(whole, mine(a, b, resume=tmp_path / "state", **given))


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_a_search_stopped_after_the_last_tile_of_a_pass_finds_the_same(passes, often, tmp_path, monkeypatch):
    a, b = encoders()
    monkeypatch.setattr(search, "_POOL", 25)
    whole, really, calls = mine(a, b, **SETTINGS), search.Search.finish, []

    def finish(self):
        calls.append(self.hot)
        if len(calls) > 2 * passes:
            raise Stop
        really(self)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(search.Search, "finish", finish)
        mine(a, b, resume=tmp_path / "state", **SETTINGS)
    same(whole, mine(a, b, resume=tmp_path / "state", **SETTINGS))


KILLED = """
import os, sys
from pathlib import Path
from analysis.test_search import SETTINGS, encoders
from paribus.analysis import search
from paribus.analysis.disagreement import mine
search._EVERY, left, really = 0.0, int(sys.argv[2]), Path.replace
def replace(self, target):
    global left
    if not left:
        os._exit(9)
    left -= 1
    return really(self, target)
Path.replace = replace
mine(*encoders(), resume=Path(sys.argv[1]), **SETTINGS)
"""


def test_a_process_that_dies_as_it_writes_leaves_the_state_before(often, tmp_path):
    state = tmp_path / "state"
    line = [sys.executable, "-c", KILLED, str(state), str(np.random.default_rng(4).integers(1, 20))]
    tests = Path(__file__).parents[1]
    assert subprocess.run(line, cwd=tests, check=False).returncode == 9
    assert [path.name for path in tmp_path.glob(".state.*.tmp")]
    same(mine(*encoders(), **SETTINGS), mine(*encoders(), resume=state, **SETTINGS))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_state_of_another_search_is_refused(often, tmp_path):
    (a, b), state = encoders(), tmp_path / "state"
    mine(a, b, resume=state, **SETTINGS)
    for change in ({"keep": 61}, {"seed": 1}, {"tile": 17}, {"blocks": Blocks(size=20, count=1)}):
        with pytest.raises(UserError, match="another search"):
            mine(a, b, resume=state, **SETTINGS | change)
    with pytest.raises(UserError, match="another search"):
        mine(b, a, resume=state, **SETTINGS)
    state.write_bytes(state.read_bytes()[:-5])
    with pytest.raises(UserError, match="is damaged: delete it"):
        mine(a, b, resume=state, **SETTINGS)
