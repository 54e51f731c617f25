"""A further pass over the addresses that failed for a reason that may pass: they are wanted once more.

Their rows are appended to those that were wanted, as the files of further shards, so that img2dataset makes
further tars of them and no tar that is there is touched. A pass looks at the shards of the pass before alone.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from paribus.data.img2dataset import Home
from paribus.data.outcome import failed_rows, is_passing
from paribus.data.wanted import RECORD, Wanted, even
from paribus.files import whole_file, write_json
from paribus.progress import progress


def want_again(home: Home, wanted: Wanted) -> Wanted:
    """Append what may come now; all shards that were wanted are done. Nothing is changed if there is none.

    Raises:
        UserError: a shard's table is missing or damaged.
    """
    again = Counter[str]()
    shards = wanted.shards
    for table in even(_rows(home, range(wanted.first, wanted.shards), again), wanted.per_shard):
        with whole_file(_file(home, shards)) as temporary:
            pq.write_table(table, temporary)
        shards += 1
    if not again:
        return wanted
    change = {"shards": shards, "first": wanted.shards, "again": dict(Counter(wanted.again) + again)}
    more = wanted.model_copy(update=change)
    write_json(home.wanted / RECORD, more.model_dump(mode="json"))
    return more


def tidy(home: Home, wanted: Wanted) -> None:
    """Remove the files of a pass that was killed before it was recorded, which img2dataset would take too."""
    for path in home.wanted.glob("*.parquet"):
        if int(path.stem) >= wanted.shards:
            path.unlink()


def _file(home: Home, shard: int) -> Path:
    return home.wanted / f"{shard:08d}.parquet"


def _rows(home: Home, shards: range, again: Counter[str]) -> Iterator[pa.Table]:
    """The rows of some shards that failed for a reason that may pass; the reasons are counted."""
    for shard in progress(shards, label="Reading what failed", unit="shard"):
        failed = Counter[tuple[str | None, str | None]]()
        for uid, url, reason in failed_rows(home.shards, f"{shard:08d}"):
            if is_passing(reason):
                failed[uid, url] += 1
                again[reason] += 1
        if failed:
            yield _only(pq.read_table(_file(home, shard)), failed)


def _only(table: pa.Table, some: Counter[tuple[str | None, str | None]]) -> pa.Table:
    """The rows of so many (uid, address); rows may be the same."""
    taken = []
    for name in zip(table["uid"].to_pylist(), table["url"].to_pylist(), strict=True):
        taken.append(some[name] > 0)
        some[name] -= 1
    return table.filter(pa.array(taken))
