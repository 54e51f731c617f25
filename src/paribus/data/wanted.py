"""Which pictures of DataComp-12M are wanted: its metadata, cut into a parquet file for each shard.

The hub has the metadata as 1,024 tars of 12,500 samples each (``UID.url.txt``, ``UID.txt``, ``UID.json`` with
uid and sha256), most of which is headers: 77 GB that are 3 GB as parquet, so they are made into parquet as
they come. A folder of such tars, or of parquet files with the columns, is read likewise. A file of rows for
each shard means that shard 17 is of the same samples whenever it is downloaded, and, if all are wanted, of
those of the hub's ``00000017.tar``, as the study's own shards were.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from pydantic import Field, ValidationError

from paribus.data.tars import Member, disk_read, read_contents, stamp
from paribus.data.uids import Uids, matched
from paribus.errors import UserError
from paribus.files import disk_errors, whole_file, whole_folder, write_json
from paribus.progress import progress
from paribus.types import Config

HUB = "mlfoundations/DataComp-12M"
ROWS, FILES = 12_800_000, 1_024
"""What the hub's repository has."""

PER_SHARD = ROWS // FILES
TOLD = "told_sha256"
"""The column of listed digests in what is written: img2dataset keeps the name sha256 for its own."""

COLUMNS = {
    "url": ("url", "url.txt", "URL"),
    "text": ("text", "txt", "caption", "TEXT"),
    "uid": ("uid", "key", "__key__"),
    "sha256": ("sha256", TOLD),
}
"""What is read of a row, and what its column may be called; the first that is there is taken."""

SCHEMA = pa.schema([(name, pa.string()) for name in ("url", "text", "uid", TOLD)])
RECORD = "wanted.json"

_TAR = re.compile(r"\d{8}\.tar")
_BATCH = 2**14


class File(Config):
    """A file of metadata as it was found."""

    name: str
    bytes: int


class Wanted(Config):
    """What is to be downloaded: the record of a folder of rows, ``wanted.json``."""

    version: Literal[1] = 1
    metadata: tuple[File, ...]
    kept: str = Field("", description="digest of the list of uids; empty if all rows are wanted")
    listed: int = Field(0, description="uids in that list")
    absent: int = Field(0, description="of those, uids that are in no row")
    verify: bool = Field(False, description="whether pictures of another sha256 are refused")
    per_shard: int
    rows: int
    shards: int
    unlisted: int = Field(0, description="rows that the list does not name")
    without_url: int = Field(0, description="rows that are left out, since they have no address")
    with_sha256: int
    digest: str = Field(description="SHA-256 of the rows' uids, addresses and captions, in their order")
    again: dict[str, int] = Field(
        default_factory=dict, description="why addresses failed that were tried again -> how many"
    )
    first: int = Field(
        0, description="the first shard of the latest pass; rows of earlier ones are in it again"
    )

    @property
    def tries(self) -> int:
        """Rows with those that are wanted again."""
        return self.rows + sum(self.again.values())


# Reading.


def find_metadata(folder: Path) -> tuple[Path, ...]:
    """The files of metadata in a folder and those below it: parquet files, or else tars.

    Raises:
        UserError: there are none.
    """
    root = folder.expanduser()
    shown = (
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    paths = [path for path in shown if path.suffix == ".parquet" or _TAR.fullmatch(path.name)]
    parquet = tuple(path for path in paths if path.suffix == ".parquet")
    for path in paths:
        stamp(root, path)
    if not paths:
        raise UserError(
            f"There are no metadata in {folder}: give a folder of .parquet files, or of the hub's tars "
            f"(00000000.tar ...), of {HUB}."
        )
    return parquet or tuple(paths)


def check_columns(path: Path, verify: bool) -> int | None:
    """Look whether a file has what is needed; returns its number of rows, None of a tar.

    Raises:
        UserError: a column is missing, or the file cannot be read.
    """
    if path.suffix == ".tar":
        return None
    with _opened(path) as file:
        needed = [name for name in COLUMNS if verify or name != "sha256"]
        missing = [name for name in needed if name not in _named(file)]
        if missing:
            raise UserError(
                f"The metadata {path} have no column {' and no column '.join(missing)}: there are "
                f"{', '.join(file.schema_arrow.names)}."
            )
        return int(file.metadata.num_rows)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"The metadata {path} cannot be read: it is no parquet file, or a damaged one; get it again."
        ) from error


def _named(file: pq.ParquetFile) -> dict[str, str]:
    """What is read of a row -> the column that has it."""
    there = file.schema_arrow.names
    found = {name: next((each for each in names if each in there), None) for name, names in COLUMNS.items()}
    return {name: column for name, column in found.items() if column is not None}


def rows_of(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file of metadata, in columns of ``SCHEMA``.

    Raises:
        UserError: the file cannot be read.
    """
    yield from (_tar_rows if path.suffix == ".tar" else _parquet_rows)(path)


def _parquet_rows(path: Path) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        named = _named(file)
        try:
            for batch in file.iter_batches(_BATCH, columns=list(named.values())):
                yield _batch(
                    {name: _as_text(batch.column(column)) for name, column in named.items()},
                    len(batch),
                )
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"The metadata {path} are damaged: get the file again.") from error


def _as_text(column: pa.Array) -> pa.Array:
    """A column as text; what is no UTF-8, which Arrow does not look at in reading, is replaced as of tars."""
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        cells = column.cast(pa.binary()).to_pylist()
        text = pa.array(
            [None if cell is None else cell.decode(errors="replace") for cell in cells], pa.string()
        )
    return text


def _batch(columns: dict[str, pa.Array], rows: int) -> pa.RecordBatch:
    nothing = pa.nulls(rows, pa.string())
    return pa.record_batch([columns.get(name, nothing) for name in COLUMNS], schema=SCHEMA)


def _tar_rows(path: Path) -> Iterator[pa.RecordBatch]:
    with disk_read(path), path.open("rb") as handle:
        samples = read_contents(path).samples
        rows = [_sample(handle.fileno(), key, members) for key, members in samples.items()]
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in COLUMNS}
    yield _batch(columns, len(rows))


def _sample(file: int, key: str, members: dict[str, Member]) -> dict[str, str | None]:
    """What a sample of the hub's tars says: its own files first, then its json."""
    texts = {
        name: os.pread(file, member.size, member.data).decode(errors="replace")
        for name, member in members.items()
    }
    sources = (texts, _in_json(texts.pop("json", "{}")) | {"key": key})
    row = {
        name: next((said[each] for said in sources for each in names if each in said), None)
        for name, names in COLUMNS.items()
    }
    return row | {"url": (row["url"] or "").strip() or None}


def _in_json(text: str) -> dict[str, str]:
    """What a json object says, as text that any file can hold; nothing if it is none, or nested too deep."""
    try:
        told = json.loads(text)
        known = told.items() if isinstance(told, dict) else ()
        said = {name: str(value) for name, value in known if value is not None}
    except (ValueError, RecursionError):
        return {}
    return {name: value.encode(errors="replace").decode() for name, value in said.items()}


# The hub.


def fetch_metadata(folder: Path) -> None:
    """Fetch the metadata from the hub, a file at a time, each made into parquet; what is there stays.

    Raises:
        UserError: the hub cannot be reached, or has no such files.
    """
    names, revision = _listing(folder)
    targets = {name: folder / f"{Path(name).stem}.parquet" for name in names}
    todo = [name for name in names if not targets[name].is_file()]
    scratch = folder / ".fetched"
    bar = progress(todo, label="Fetching metadata", total=len(names), initial=len(names) - len(todo))
    try:
        for name in bar:
            with whole_file(targets[name]) as temporary:
                path = _fetched(name, revision, scratch)
                pq.write_table(pa.Table.from_batches(rows_of(path), SCHEMA), temporary)
            shutil.rmtree(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _listing(folder: Path) -> tuple[list[str], str]:
    """The files to fetch and the commit they are of: what the hub had when the first of them was fetched."""
    record = folder / "hub.json"
    try:
        noted = json.loads(record.read_text("utf-8"))
        return noted["files"], noted["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from huggingface_hub import HfApi

    try:
        told = HfApi(library_name="paribus").dataset_info(HUB)
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        raise _unreachable(error) from error
    there = sorted(sibling.rfilename for sibling in told.siblings or ())
    tars = [name for name in there if _TAR.fullmatch(name)]
    names = tars or [name for name in there if name.endswith(".parquet")]
    if not names:
        raise UserError(
            f"{HUB} has neither tars nor parquet files of metadata: give some with --metadata DIR."
        )
    write_json(record, {"repository": HUB, "revision": told.sha, "files": names})
    return names, str(told.sha)


def _fetched(name: str, revision: str, scratch: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(
                HUB, name, repo_type="dataset", revision=revision, local_dir=scratch, library_name="paribus"
            )
        )
    except OSError as error:
        with disk_errors(scratch):
            raise _unreachable(error) from error
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> UserError:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"The metadata {HUB} cannot be fetched from the hub ({said.rstrip('.')}): run again when it can be "
        "reached, or give a folder of them with --metadata DIR."
    )


# Cutting.


def read_wanted(folder: Path) -> Wanted | None:
    """The record of rows that were cut; None if there are none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / RECORD
    try:
        return Wanted.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"The file {path} is damaged: delete {folder} and run again.") from error


def files_of(paths: Sequence[Path], folder: Path) -> tuple[File, ...]:
    """Files of metadata, by their names in their folder."""
    root = folder.expanduser()
    return tuple(File(name=path.relative_to(root).as_posix(), bytes=path.stat().st_size) for path in paths)


def cut(folder: Path, keep: Uids | None, out: Path, *, verify: bool, per_shard: int = PER_SHARD) -> Wanted:
    """Write the wanted rows of a folder of metadata as ``out/00000000.parquet`` ..., one file for each shard.

    Args:
        folder: the metadata.
        keep: the uids of the rows that are wanted; None: all.
        out: replaced when all rows are written.
        verify: whether digests are needed.
        per_shard: rows of a file; the last one may have fewer.

    Raises:
        UserError: a file cannot be read or lacks a column, or no row is wanted.
    """
    paths = find_metadata(folder)
    for path in paths:
        check_columns(path, verify)
    sieve = _Sieve(keep)
    with whole_folder(out) as temporary:
        shards = 0
        for table in even(sieve.run(paths), per_shard):
            pq.write_table(table, temporary / f"{shards:08d}.parquet")
            shards += 1
        if not shards:
            raise UserError(f"Of the rows of {folder} none is wanted: {sieve.why()}.")
        found = 0 if keep is None else matched(sieve.places)
        wanted = Wanted(
            metadata=files_of(paths, folder),
            kept="" if keep is None else keep.digest,
            listed=0 if keep is None else len(keep),
            absent=0 if keep is None else len(keep) - found,
            verify=verify,
            per_shard=per_shard,
            rows=sieve.rows,
            shards=shards,
            unlisted=sieve.unlisted,
            without_url=sieve.without_url,
            with_sha256=sieve.with_sha256,
            digest=sieve.digest.hexdigest(),
        )
        write_json(temporary / RECORD, wanted.model_dump(mode="json"))
    return wanted


class _Sieve:
    """Lets the wanted rows through and counts the others."""

    def __init__(self, keep: Uids | None) -> None:
        self.keep, self.digest = keep, hashlib.sha256()
        self.rows = self.unlisted = self.without_url = self.with_sha256 = 0
        self.places: list[Int64[np.ndarray, " M"]] = []

    def run(self, paths: Sequence[Path]) -> Iterator[pa.Table]:
        for path in progress(paths, label="Reading metadata", unit="file"):
            for batch in rows_of(path):
                yield self._sifted(pa.Table.from_batches([batch]))

    def _sifted(self, table: pa.Table) -> pa.Table:
        if self.keep is not None:
            places = self.keep.places(name or "" for name in table["uid"].to_pylist())
            self.places.append(np.unique(places[places >= 0]))
            self.unlisted += int((places < 0).sum())
            table = table.filter(pa.array(places >= 0))
        urls = np.array([bool(url) for url in table["url"].to_pylist()], bool)
        self.without_url += int((~urls).sum())
        table = table.filter(pa.array(urls))
        self.rows += len(table)
        self.with_sha256 += len(table) - table[TOLD].null_count
        rows = zip(*(table[name].to_pylist() for name in ("uid", "url", "text")), strict=True)
        self.digest.update("".join(f"{uid}\0{url}\0{text}\0" for uid, url, text in rows).encode())
        return table

    def why(self) -> str:
        """What became of the rows when none is left."""
        return f"{self.without_url:,} have no address, and {self.unlisted:,} are not in the list of uids"


def even(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows, so many at a time."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting, count = [joined.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting)


def count_rows(folder: Path, keep: Uids | None, verify: bool) -> tuple[int, bool]:
    """How many rows of a folder of metadata are wanted, and whether that was counted.

    Parquet files are asked; of tars, which would take a second each, the first one is read and the others are
    taken to be as large.

    Raises:
        UserError: as ``cut``.
    """
    paths = find_metadata(folder)
    counts = [check_columns(path, verify) for path in paths]
    if counts[0] is None:
        first = _wanted_rows(paths[:1], keep)
        return first * len(paths), len(paths) == 1
    if keep is None:
        return sum(count or 0 for count in counts), True
    return _wanted_rows(paths, keep), True


def _wanted_rows(paths: Sequence[Path], keep: Uids | None) -> int:
    return sum(len(table) for table in _Sieve(keep).run(paths))
