"""The download of DataComp-12M's pictures, as DataComp's own downloader does it (``download_upstream.py``).

All its settings are kept but one: shards have 12,500 samples, as the data set's own have, instead of 10,000.
It does not compare digests either; here those of what came are compared afterwards and counted, or, with
``verify``, other bytes are refused. Faces are not blurred: these metadata have no boxes of them.
"""

import importlib.metadata
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from paribus.data import outcome
from paribus.data.again import tidy, want_again
from paribus.data.img2dataset import (
    PROGRAM,
    RESERVE,
    Home,
    Settings,
    alone,
    find_program,
    run,
    version_of,
)
from paribus.data.outcome import Manifest, Stats
from paribus.data.tars import has_shards
from paribus.data.uids import Uids, read_uids
from paribus.data.wanted import (
    FILES,
    HUB,
    PER_SHARD,
    ROWS,
    Wanted,
    count_rows,
    cut,
    fetch_metadata,
    files_of,
    find_metadata,
    read_wanted,
)
from paribus.errors import UserError
from paribus.files import make_folder, write_json
from paribus.progress import duration

PER_PICTURE = 35_000
"""Bytes of a picture, its caption and json: DataComp's small pool has 450 GB of 12.8 million (its README)."""

PER_ROW = 600
"""Bytes of a row in the tables: metadata, what is wanted, img2dataset's copy of that, and what it notes."""

SHARE = (0.67, 0.94)
"""The part that comes: more than a third was dead in April 2024 (Beckschen/ViTamin #3), 6% in May 2023
(mlfoundations/datacomp #3)."""

STUDY = 0.793
"""The study's own part: 10,151,037 of 12,800,000."""

RATES = (60.0, 690.0)
"""Pictures a second: mlfoundations/datacomp #39, and img2dataset's README (12 million in 5 hours)."""

_NEITHER = re.compile(r"[*?\[\]]")


def download(
    root: Path,
    settings: Settings,
    program: str | None = None,
    *,
    metadata: Path | None = None,
    keep: Path | None = None,
    again: bool = False,
    per_shard: int = PER_SHARD,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Download the pictures that metadata list; what is done already is not done again.

    Args:
        root: the folder that gets ``shards``, ``wanted``, ``download.json`` and ``img2dataset.log``.
        settings: what img2dataset is told.
        program: img2dataset, if it is not on the path.
        metadata: a folder of them; None: those of the hub, or those that the download was begun with.
        keep: a list of uids; only these are downloaded.
        again: where all was tried, try again what failed for a reason that may pass, as further shards.
        per_shard: samples of a shard.
        say: takes lines for a person.

    Raises:
        UserError: the program or metadata are missing, another download is in the folder, the disk is too
            small, img2dataset failed, or nothing came.
    """
    home = Home(root.expanduser().absolute())
    if _NEITHER.search(str(home.root)):
        raise UserError(
            f"img2dataset cannot write to {home.root}: choose a folder without * ? [ ] in its name."
        )
    found = find_program(program)
    make_folder(home.root)
    with alone(home):
        wanted = _prepare(home, settings, metadata, keep, per_shard)
        if again:
            wanted = _again(home, wanted, say)
        return _downloaded(home, settings, wanted, found, say)


def _again(home: Home, wanted: Wanted, say: Callable[[str], None]) -> Wanted:
    """The rows with those that failed for now, if no pass is under way."""
    if len(_tried(home)) < wanted.shards:
        say("What was begun goes on; what fails for now can be tried again when it is done.")
        return wanted
    more = want_again(home, wanted)
    say(f"{more.tries - wanted.tries:,} addresses failed for a reason that may pass and are tried again.")
    return more


def _tried(home: Home) -> dict[str, Stats]:
    return outcome.read_stats(home.shards) if home.shards.is_dir() else {}


def _downloaded(
    home: Home, settings: Settings, wanted: Wanted, program: str, say: Callable[[str], None]
) -> Manifest:
    make_folder(home.shards)
    tidy(home, wanted)
    # Where nothing came there was no network, and all is tried anew; a further pass has its rows otherwise.
    done = {name: stats for name, stats in _tried(home).items() if stats.successes or wanted.first}
    outcome.tidy(home.shards, done)
    if len(done) < wanted.shards:
        _check_space(home.root, wanted.tries - outcome.totals(done)[0], say)
        run(settings.line(program, home.wanted, home.shards, wanted.per_shard), home, wanted.tries)
    manifest = _told(home, settings, wanted, program)
    write_json(home.manifest, manifest.model_dump(mode="json"))
    _check_done(manifest, home)
    return manifest


def _prepare(
    home: Home, settings: Settings, metadata: Path | None, keep: Path | None, per_shard: int
) -> Wanted:
    """The rows to download, cut anew or as they were cut before.

    Raises:
        UserError: the folder holds a download of something else.
    """
    uids = None if keep is None else read_uids(keep.expanduser())
    there = read_wanted(home.wanted)
    if there is not None and _fits(there, settings, metadata, uids):
        return there
    if home.shards.is_dir() and any(home.shards.iterdir()):
        what = "other files" if there is None else _begun(there)
        raise UserError(f"{home.shards} holds {what}: go on as that was begun, or choose another folder.")
    if metadata is None:
        fetch_metadata(home.metadata)
    return cut(metadata or home.metadata, uids, home.wanted, verify=settings.verify, per_shard=per_shard)


def _fits(there: Wanted, settings: Settings, metadata: Path | None, uids: Uids | None) -> bool:
    """Whether rows that were cut are those that are asked for; what is not said is as it was."""
    if metadata is not None and files_of(find_metadata(metadata), metadata) != there.metadata:
        return False
    return there.verify == settings.verify and (uids is None or uids.digest == there.kept)


def _begun(there: Wanted) -> str:
    how = ", begun with --verify" if there.verify else ""
    kept = ", of a list of uids" if there.kept else ""
    return f"the download of other {there.rows:,} rows{kept}{how}"


def _space(rows: int) -> tuple[float, float]:
    """The least and the most bytes that so many rows may need."""
    least, most = (rows * (share * PER_PICTURE + PER_ROW) for share in SHARE)
    return least, most


def _check_space(root: Path, rows: int, say: Callable[[str], None]) -> None:
    """Refuse what cannot fit, and warn of what may not.

    Raises:
        UserError: less is free than the smallest part that ever came would need.
    """
    free = shutil.disk_usage(root).free
    least, most = _space(rows)
    if free < least + RESERVE:
        raise UserError(
            f"{root} has {free / 1e9:,.0f} GB free, and {rows:,} pictures need {least / 1e9:,.0f} to "
            f"{most / 1e9:,.0f} GB: free some space, or want fewer with --keep."
        )
    if free < most + RESERVE:
        say(f"{root} has {free / 1e9:,.0f} GB free; {most / 1e9:,.0f} GB may be needed.")


# Telling.


def _told(home: Home, settings: Settings, wanted: Wanted, program: str) -> Manifest:
    done = outcome.read_stats(home.shards)
    tried, came = outcome.totals(done)
    tried -= wanted.tries - wanted.rows
    same, changed = outcome.compared(home.shards, done, wanted.verify) if wanted.with_sha256 else (0, 0)
    return Manifest(
        wanted=wanted.rows,
        tried=tried,
        came=came,
        share=came / tried if tried else 0.0,
        failed=outcome.failures(done.values(), wanted.again),
        again=wanted.again,
        bytes=outcome.size_of(home.shards, done),
        same=same,
        changed=changed,
        shards=wanted.shards,
        shards_done=len(done),
        digest=wanted.digest,
        kept=wanted.kept,
        settings=settings.model_dump(),
        versions={"paribus": importlib.metadata.version("paribus"), PROGRAM: version_of(program)},
    )


def _check_done(manifest: Manifest, home: Home) -> None:
    """Say it when shards failed, or when nothing came at all.

    Raises:
        UserError: so it is.
    """
    if manifest.shards_done < manifest.shards:
        raise UserError(
            f"{manifest.shards - manifest.shards_done:,} of {manifest.shards:,} shards failed: see "
            f"{home.log}, mend that, and run again; it goes on there."
        )
    if not manifest.came:
        reason, count = next(iter(manifest.failed.items()))
        raise UserError(
            f"None of {manifest.tried:,} pictures came ({reason}: {count:,}): see whether there is a "
            "network, and run again."
        )


# Planning.


def plan(
    root: Path,
    settings: Settings,
    *,
    metadata: Path | None = None,
    keep: Path | None = None,
    rate: float | None = None,
) -> Iterator[str]:
    """What a download would do and need, in lines; nothing is fetched, and nothing is written.

    Args:
        root: where to.
        settings: what img2dataset would be told.
        metadata: a folder of them; None: the hub's, of which the published size is told.
        keep: a list of uids.
        rate: pictures a second; None: those that others report.

    Raises:
        UserError: the metadata or the list cannot be read.
    """
    home = Home(root.expanduser().absolute())
    uids = None if keep is None else read_uids(keep.expanduser())
    rows, how = _size(home, metadata, uids, settings.verify)
    shards = -(-rows // PER_SHARD)
    yield f"Metadata: {how}"
    yield f"Wanted: {rows:,} pictures, in {shards:,} tars of at most {PER_SHARD:,}, in {home.shards}"
    yield f"Command: {shlex.join(settings.line(PROGRAM, home.wanted, home.shards, PER_SHARD))}"
    low, high = (round(rows * share) for share in SHARE)
    yield (
        f"Yield: {low:,} to {high:,} pictures ({SHARE[0]:.0%} to {SHARE[1]:.0%} is what others report of "
        f"2024 and 2023, the study had {STUDY:.1%}); less if the resolver is overloaded (20%: datacomp #68)"
    )
    free = shutil.disk_usage(next(path for path in (home.root, *home.root.parents) if path.exists())).free
    least, most = (bytes_ / 1e9 for bytes_ in _space(rows))
    yield (
        f"Disk: {least:,.1f} to {most:,.1f} GB, at {PER_PICTURE // 1000} kB a picture (DataComp's small "
        f"pool: 450 GB of 12.8 million) and {PER_ROW} bytes of tables a row; {free / 1e9:,.0f} GB are free"
    )
    yield f"Time: {_time(rows, {'as told': rate} if rate else _rates(home))}"


def ahead(shards: Path, pictures: int) -> str:
    """What is to be downloaded before a study finds so many pictures in a folder, as a sentence.

    Empty if as many have come, or if tars lie there that no download of ours is filling. Nothing is fetched
    or written.
    """
    home = Home(shards.parent if shards.name == Home(shards).shards.name else shards)
    begun = read_wanted(home.wanted)
    if begun is None and shards.is_dir() and has_shards(shards):
        return ""
    tried, came = outcome.totals(outcome.read_stats(home.shards))
    rows = round(pictures / STUDY) if begun is None else begun.tries - tried
    if begun is not None and (rows <= 0 or came >= pictures):
        return ""
    size = (pictures - came) * PER_PICTURE + rows * PER_ROW
    return (
        f"{shards} has {came:,} of {pictures:,} pictures: downloading {rows:,} more addresses takes about "
        f"{size / 1e9:,.0f} GB and {_time(rows, _rates(home))}; paribus corpus datacomp-12m {home.root}"
    )


def _rates(home: Home) -> dict[str, float]:
    """Who says it -> pictures a second: this download so far, or else others."""
    own = outcome.rate(outcome.read_stats(home.shards).values())
    if own is not None:
        return {"as measured here": own}
    return dict(zip(("datacomp #39", "img2dataset's README"), RATES, strict=True))


def _time(rows: int, rates: Mapping[str, float]) -> str:
    return ", or ".join(
        f"{duration(rows / each)} at {each:,.0f} pictures a second ({who})" for who, each in rates.items()
    )


def _size(home: Home, metadata: Path | None, uids: Uids | None, verify: bool) -> tuple[int, str]:
    """How many rows are wanted, and how that is known."""
    begun = read_wanted(home.wanted)
    if begun is not None and metadata is None and uids is None:
        tried, _ = outcome.totals(outcome.read_stats(home.shards))
        return (
            begun.tries - tried,
            f"as it was begun there; {tried:,} of {begun.tries:,} pictures have been tried",
        )
    if metadata is not None:
        rows, counted = count_rows(metadata, uids, verify)
        files = len(find_metadata(metadata))
        about = "" if counted else ", if all are as large as the first one"
        return rows, f"{files:,} files in {metadata}{about}"
    rows = ROWS if uids is None else min(ROWS, len(uids))
    return rows, (
        f"none was read; {HUB} of the hub has {ROWS:,} rows in {FILES:,} tars, of whose 77 GB 3 GB stay"
        + ("" if uids is None else "; the list is taken to name rows that are in them")
    )
