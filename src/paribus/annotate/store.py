"""The pairs to be judged, and the labels that people gave them: one SQLite file beside them.

Nothing here imports torch, which a page of pictures must not wait for.
"""

import contextlib
import hashlib
import io
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from paribus.errors import UserError

LABELS = ("semantic", "perceptual", "both", "neither")
"""Kinds of likeness, in the order of their keys 1 to 4."""
FILE = "labels.sqlite"
PAIRS = Path("pairs") / "pairs.json"
_FIELDS = ("id", "left", "right", "alike", "apart")
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""What browsers show and no script can hide in."""
_APPLICATION = 0x50415249
"""Marks a database as ours (SQLite's application_id)."""
_TABLE = """CREATE TABLE labels (
    annotator TEXT NOT NULL, pair TEXT NOT NULL, label TEXT NOT NULL, seconds REAL NOT NULL,
    time TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (annotator, pair))"""
_PATIENCE = 20.0
"""Seconds that a write waits for another one's."""


class Picture(NamedTuple):
    """A picture file and its content type."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Pair:
    """Two pictures that one encoder finds alike and the other does not; ``digest`` tells all that."""

    id: str
    left: Picture
    right: Picture
    alike: str
    apart: str
    digest: str


class Given(NamedTuple):
    """A label that was given."""

    annotator: str
    pair: str
    label: str
    seconds: float
    time: str


def read_pairs(run: Path) -> tuple[Pair, ...]:
    """The pairs of a run's ``pairs/pairs.json``, whose pictures lie beside it.

    Raises:
        UserError: the file is missing or damaged, an id comes twice, more than two encoders are named, or a
            picture is missing or none.
    """
    path = run / PAIRS
    again = "make it again with `paribus compare`"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["pairs"]
        wanted = [{name: row[name] for name in _FIELDS} for row in rows]
        broken = not all(isinstance(value, str) and value for row in wanted for value in row.values())
        for row in wanted if not broken else ():
            "".join(row.values()).encode()  # half a character, which JSON can hold and nothing else
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"There is no {PAIRS} in {str(run)!r}: give the folder that `paribus compare` wrote."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"The file {str(path)!r} is damaged: {again}.") from error
    if broken:
        raise UserError(f"The file {str(path)!r} is damaged: {again}.")
    if not wanted:
        raise UserError(f"There are no pairs in {str(path)!r}: compare encoders that disagree on some.")
    return _checked(wanted, path)


def _checked(rows: Sequence[dict[str, str]], path: Path) -> tuple[Pair, ...]:
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise UserError(
                f"Two pairs of {str(path)!r} have the id {row['id']!r}: name each pair otherwise."
            )
        seen.add(row["id"])
    encoders = {row[side] for row in rows for side in ("alike", "apart")}
    if len(encoders) != 2 or any(row["alike"] == row["apart"] for row in rows):
        raise UserError(
            f"The pairs of {str(path)!r} name {len(encoders)} encoders, or one as both alike and apart: "
            "label the pairs of exactly 2 encoders."
        )
    pictures: dict[str, tuple[Picture, str]] = {}
    for row in rows:
        for side in ("left", "right"):
            if row[side] not in pictures:
                pictures[row[side]] = _picture(path, row["id"], row[side])
    return tuple(_pair(row, pictures) for row in rows)


def _pair(row: dict[str, str], pictures: dict[str, tuple[Picture, str]]) -> Pair:
    left, right = pictures[row["left"]], pictures[row["right"]]
    digest = pair_digest(left[1], right[1], row["alike"], row["apart"])
    return Pair(row["id"], left[0], right[0], row["alike"], row["apart"], digest)


def pair_digest(left: str, right: str, alike: str, apart: str) -> str:
    """What a pair is: the SHA-256 of its pictures' files, and the encoders' names."""
    return hashlib.sha256("\0".join((left, right, alike, apart)).encode()).hexdigest()


def _picture(table: Path, pair: str, name: str) -> tuple[Picture, str]:
    """A picture beside the table, and the SHA-256 of its file."""
    from PIL import Image

    if name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise UserError(
            f"Pair {pair!r} of {str(table)!r} names {name!r}: give a file's name without folders."
        )
    path = table.parent / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"The picture {name!r} of pair {pair!r} is missing in {str(table.parent)!r}: put it there, or "
            "make the pairs again with `paribus compare`."
        ) from error
    try:
        with Image.open(io.BytesIO(content), formats=list(_KINDS)) as image:
            kind = _KINDS[image.format or ""]
            image.load()
    except Exception as error:  # Pillow raises of many kinds on damaged files
        raise UserError(
            f"The file {name!r} of pair {pair!r} in {str(table.parent)!r} is no whole PNG, JPEG, WebP or "
            "GIF: make the pairs again with `paribus compare`."
        ) from error
    return Picture(path, kind), hashlib.sha256(content).hexdigest()


class Store:
    """The labels of a run's pairs; several threads and several processes may write at once.

    A label is on the disk when ``put`` returns.

    Args:
        run: the folder with the pairs; the labels lie there in ``labels.sqlite``, which is made.
        pairs: what ``read_pairs`` found.

    Raises:
        UserError: the file cannot be written, is no database of labels, or holds labels of pairs that are
            other ones now.
    """

    def __init__(self, run: Path, pairs: Sequence[Pair]) -> None:
        self.path = run / FILE
        self._digests = {pair.id: pair.digest for pair in pairs}
        self._lock = threading.Lock()
        with self._told():
            self._db = sqlite3.connect(
                self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
        try:
            with self._told():
                self._prepare()
            self._compare()
        except BaseException:
            self._db.close()
            raise

    def put(self, annotator: str, pair: str, label: str, seconds: float) -> None:
        """Keep a label in place of what the person gave the pair before.

        Raises:
            UserError: a pair or label that there is not, or the file cannot be written.
        """
        if pair not in self._digests or label not in LABELS:
            raise UserError(
                f"There is no pair {pair!r} or no label {label!r}: give one of {', '.join(LABELS)}."
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = (annotator, pair, label, seconds, now, self._digests[pair])
        self._rows("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?)", *row)

    def given(self, annotator: str) -> dict[str, str]:
        """Labels of one person, by the id of the pair."""
        return dict(self._rows("SELECT pair, label FROM labels WHERE annotator = ?", annotator))

    def all(self) -> list[Given]:
        """Every label, by annotator and pair."""
        columns = "annotator, pair, label, seconds, time"
        return [Given(*row) for row in self._rows(f"SELECT {columns} FROM labels ORDER BY annotator, pair")]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, self._told():
            return self._db.execute(statement, values).fetchall()

    def _prepare(self) -> None:
        """Make the table if the file is new; two who begin at once wait for each other."""
        schema, mark = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("schema_version", "application_id")
        )  # in this order, since another one who makes the table sets both at once
        if (schema or mark) and mark != _APPLICATION:
            raise UserError(f"The file {str(self.path)!r} is no database of labels: move it away.")
        _patiently(self._db, "PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # on the disk, also if the machine stops
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute("COMMIT")

    def _compare(self) -> None:
        """See that what was labelled is what is there."""
        kept = self._rows("SELECT DISTINCT pair, digest, label FROM labels ORDER BY pair")
        for pair, digest, label in kept:
            if self._digests.get(pair) != digest or label not in LABELS:
                raise UserError(
                    f"The labels in {str(self.path)!r} are of other pairs (pair {pair!r} has changed): move "
                    "the file away to begin anew, or bring back the pairs."
                )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into a sentence."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"Cannot use {str(self.path)!r} ({error}): give a folder on a local disk that has space and "
                "that you may write to."
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The file {str(self.path)!r} is no whole database of labels ({error}): move it away."
            ) from error


def _patiently(db: sqlite3.Connection, statement: str) -> None:
    """Run what SQLite refuses at once, rather than waiting, while another process does the same."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def labelled(run: Path) -> dict[str, str]:
    """The pairs that somebody has labelled, and what they were (``pair_digest``).

    Raises:
        UserError: the file is no database of labels.
    """
    if not has_labels(run):
        return {}
    path = run / FILE
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT DISTINCT pair, digest FROM labels"))
    except sqlite3.Error as error:
        raise UserError(
            f"The file {str(path)!r} is no database of labels ({error}): move it away."
        ) from error


def has_labels(run: Path) -> bool:
    """Whether anybody has begun to label a run's pairs."""
    return (run / FILE).exists()
