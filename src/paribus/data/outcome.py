"""What came of a download: read from what img2dataset leaves of each shard, told in ``download.json``.

Beside ``00000017.tar`` there are ``00000017.parquet``, a row for each picture that was tried, and, written
last, ``00000017_stats.json`` with counts and error messages. A shard is done when that is whole and all three
are there.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError

from paribus.data.wanted import TOLD
from paribus.errors import UserError
from paribus.progress import progress
from paribus.types import Config

DECODING = "no picture, or a damaged one"
LOST = "lost by img2dataset (see its log)"
OTHER = "another error"
REASONS = (
    (r"hash mismatch", "other bytes than listed (sha256)"),
    (r"X-Robots-Tag", "opted out (X-Robots-Tag)"),
    (r"HTTP Error (\d+)", r"HTTP \1"),
    (r"timed out", "timed out"),
    (r"Temporary failure in name resolution", "no answer from the resolver"),
    (r"Name or service not known|nodename nor servname|No address associated", "no such host"),
    (r"Connection refused|No route to host|Network is unreachable", "no connection"),
    (r"(?i)certificate|ssl", "bad certificate"),
    (r"Connection reset|closed connection|IncompleteRead|Broken pipe", "connection broken"),
    (r"(?i)decod|imread|image|!buf\.empty|shape", DECODING),
)
"""How an error message is told: the first pattern that is in it."""

_PASSING = re.compile(
    r"timed out|no answer from the resolver|no connection|connection broken|HTTP (408|425|429|5\d\d)"
)
"""Reasons that may be gone on another day: the others are for good, or are not known."""

_FILE = re.compile(r"(\d{8})(\.tar|\.parquet|_stats\.json)")


class Stats(Config):
    """What img2dataset counted of one shard."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    count: int
    successes: int
    failed_to_download: int
    failed_to_resize: int
    status_dict: dict[str, int] = Field(description="error message, or success -> pictures")
    start_time: float = Field(0.0, description="seconds since 1970, as its end")
    end_time: float = 0.0


class Manifest(Config):
    """What was wanted, what came and what did not: ``download.json``."""

    version: Literal[1] = 1
    wanted: int
    tried: int = Field(description="pictures of shards that are done")
    came: int
    share: float = Field(description="of those that were tried")
    failed: dict[str, int] = Field(description="reason -> pictures, the most frequent first")
    again: dict[str, int] = Field(
        description="reason -> pictures that were tried again; counted as they ended"
    )
    bytes: int = Field(description="of the tars")
    same: int = Field(description="pictures that are the listed bytes, by their sha256")
    changed: int = Field(description="pictures that are other bytes than were listed")
    shards: int
    shards_done: int
    digest: str = Field(description="of what is wanted; see wanted.json")
    kept: str = Field(description="digest of the list of uids; empty if all rows are wanted")
    settings: dict[str, str | int | bool]
    versions: dict[str, str]

    def spell(self) -> Iterator[str]:
        """The outcome in lines for a person."""
        yield f"{self.came:,} of {self.tried:,} pictures came ({self.share:.1%}), {self.bytes / 1e9:,.1f} GB"
        for reason, count in self.failed.items():
            yield f"  {reason}: {count:,}"
        if self.again:
            yield f"  {sum(self.again.values()):,} addresses were tried again"
        told = self.same + self.changed
        if told:
            yield f"  of those that came, {self.same / told:.1%} are the listed bytes"


def reason_of(message: str) -> str:
    """An error message of img2dataset's, in few words."""
    for pattern, told in REASONS:
        found = re.search(pattern, message)
        if found:
            return found.expand(told)
    return OTHER


def is_passing(reason: str) -> bool:
    """Whether an address that failed for a reason may be there on another day."""
    return _PASSING.fullmatch(reason) is not None


def read_stats(folder: Path) -> dict[str, Stats]:
    """Shard -> what img2dataset counted; one that lacks a file, or whose counts are cut off, is not done."""
    found = {}
    for path in sorted(folder.glob("*_stats.json")):
        stats, shard = stats_at(path), path.name.partition("_")[0]
        if stats is not None and _FILE.fullmatch(path.name) and _is_whole(folder, shard):
            found[shard] = stats
    return found


def _is_whole(folder: Path, shard: str) -> bool:
    return all((folder / f"{shard}{end}").is_file() for end in (".tar", ".parquet"))


def stats_at(path: Path) -> Stats | None:
    """One shard's counts; None if they are not there, or not whole."""
    try:
        return Stats.model_validate_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def tidy(folder: Path, done: Iterable[str]) -> None:
    """Remove what is there of shards that are not done, which img2dataset would begin anew."""
    whole = set(done)
    for path in folder.iterdir():
        named = _FILE.fullmatch(path.name)
        if named is not None and named[1] not in whole:
            path.unlink()


def failures(stats: Iterable[Stats], again: Mapping[str, int]) -> dict[str, int]:
    """Reason -> pictures, the most frequent first; all that did not come are counted once.

    Args:
        stats: what was counted of each shard.
        again: reason -> pictures that were tried again since, and so do not count.
    """
    found = Counter[str]()
    for shard in stats:
        told = Counter[str]()
        for message, count in shard.status_dict.items():
            if message != "success":
                told[reason_of(message)] += count
        failed = shard.failed_to_download + shard.failed_to_resize
        told[OTHER] += failed - told.total()  # img2dataset forgets rare messages of a long list
        told[LOST] += shard.count - shard.successes - failed
        found += told
    for reason, count in again.items():
        named = min(found[reason], count)
        found[reason] -= named
        found[OTHER] -= count - named  # of those that img2dataset forgot
    return dict((+found).most_common())


def _table(folder: Path, shard: str, columns: list[str]) -> pa.Table:
    path = folder / f"{shard}.parquet"
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"The shard's table {path} is missing or damaged: delete {shard}_stats.json beside it, and "
            "run again to download the shard anew."
        ) from error


def failed_rows(folder: Path, shard: str) -> Iterator[tuple[str | None, str | None, str]]:
    """uid, address and reason of each picture of a shard that did not come.

    Raises:
        UserError: the shard's parquet is missing or damaged.
    """
    table = _table(folder, shard, ["uid", "url", "status", "error_message"])
    for row in table.filter(pc.not_equal(table["status"], "success")).to_pylist():
        yield row["uid"], row["url"], reason_of(row["error_message"] or "")


def compared(folder: Path, shards: Iterable[str], verified: bool) -> tuple[int, int]:
    """How many pictures that came are the listed bytes, and how many are others.

    Raises:
        UserError: a shard's parquet is missing or damaged.
    """
    same = changed = 0
    for shard in progress(list(shards), label="Comparing digests", unit="shard"):
        table = _table(folder, shard, ["status", "sha256", *([] if verified else [TOLD])])
        table = table.filter(pc.equal(table["status"], "success"))
        told = table["sha256"] if verified else table[TOLD]
        equal = pc.sum(pc.equal(table["sha256"], told)).as_py() or 0
        same, changed = same + equal, changed + len(table) - told.null_count - equal
    return same, changed


def size_of(folder: Path, shards: Iterable[str]) -> int:
    """Bytes of the tars of some shards."""
    return sum((folder / f"{shard}.tar").stat().st_size for shard in shards)


def rate(stats: Iterable[Stats]) -> float | None:
    """Pictures that were tried a second, while any shard was at work; None if nothing was timed."""
    spans = sorted((shard.start_time, shard.end_time, shard.count) for shard in stats if shard.end_time)
    worked, reached = 0.0, 0.0
    for start, end, _ in spans:
        worked += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return sum(count for *_, count in spans) / worked if worked else None


def totals(stats: Mapping[str, Stats]) -> tuple[int, int]:
    """How many pictures were tried, and how many came."""
    return sum(each.count for each in stats.values()), sum(each.successes for each in stats.values())
