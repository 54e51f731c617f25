"""Lists of the samples that are to be kept: DataComp's uids, or any names, in sixteen bytes each.

DataComp gives a subset as ``.npy`` of (u8, u8), the two halves of a sample's hexadecimal uid (its
``resharder.py``); metadata come as parquet with a column ``uid``; plain text has a uid a line. A name that is
no such number is known by the beginning of its SHA-256.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from numpy.typing import NDArray

from paribus.errors import UserError

BYTES = 16
COLUMNS = ("uid", "key")
"""What a parquet's column may be called; the first that is there is taken."""

_HEX = re.compile(r"[0-9a-fA-F]{32}")
_PAIR = np.dtype([("f0", "<u8"), ("f1", "<u8")])
_ROWS = 2**16


def packed(name: str) -> bytes:
    """A uid's number, or the beginning of another name's SHA-256."""
    return (
        bytes.fromhex(name)
        if _HEX.fullmatch(name)
        else hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:BYTES]
    )


@dataclass(frozen=True)
class Uids:
    """Names to keep, each once and in order; ``at`` finds one among ten million in microseconds."""

    names: NDArray[Any]

    def __len__(self) -> int:
        return len(self.names)

    def at(self, name: str) -> int | None:
        """Where a name stands in the list; None if it is not there."""
        wanted = np.frombuffer(packed(name), self.names.dtype)
        place = int(np.searchsorted(self.names, wanted)[0])
        return place if place < len(self.names) and self.names[place] == wanted[0] else None

    def places(self, names: Iterable[str]) -> Int64[np.ndarray, " N"]:
        """Where many names stand in the list; -1 of those that are not there."""
        wanted = _joined(names)
        place = np.searchsorted(self.names, wanted)
        there = self.names[np.minimum(place, len(self.names) - 1)] == wanted
        return np.where(there, place, -1)

    @property
    def digest(self) -> str:
        """SHA-256 of what is listed, whatever the order and the format of the file."""
        return hashlib.sha256(self.names.tobytes()).hexdigest()


def read_uids(path: Path) -> Uids:
    """A list of uids: ``.npy``, ``.parquet``, or text with one a line.

    Args:
        path: the file; what is listed twice counts once.

    Raises:
        UserError: it cannot be read, has no such column, or lists nothing.
    """
    kinds = {".npy": _read_npy, ".parquet": _read_parquet}
    try:
        names = np.unique(kinds.get(path.suffix, _read_text)(path))
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise UserError(
            f"The list of uids {path} cannot be read: give a .npy of (u8, u8) or of strings, a .parquet "
            "with a column uid, or text with a uid a line."
        ) from error
    if not len(names):
        raise UserError(f"The list of uids {path} is empty: give the uids of the samples to keep.")
    return Uids(names)


def _joined(names: Iterable[str]) -> NDArray[Any]:
    blob = b"".join(packed(name) for name in names)
    found: NDArray[Any] = np.frombuffer(blob, f"S{BYTES}")
    return found


def _read_text(path: Path) -> NDArray[Any]:
    with path.open(encoding="utf-8") as lines:
        return _joined(line.strip() for line in lines if line.strip())


def _read_npy(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.ndim == 1 and found.dtype.names is not None and found.dtype.itemsize == BYTES:
        halves = found.astype(_PAIR)
        big = np.stack([halves["f0"], halves["f1"]], axis=1).astype(">u8")
        return np.frombuffer(big.tobytes(), f"S{BYTES}")
    if found.ndim == 1 and found.dtype.kind in "US":
        return _joined(name.decode() if isinstance(name, bytes) else str(name) for name in found)
    raise ValueError(f"an array of {found.dtype}, {found.ndim} axes")


def _read_parquet(path: Path) -> NDArray[Any]:
    with pq.ParquetFile(path) as file:
        known = [name for name in COLUMNS if name in file.schema_arrow.names]
        if not known:
            raise ValueError("no column of uids")
        return _joined(_cells(file, known[0]))


def _cells(file: pq.ParquetFile, column: str) -> Iterator[str]:
    for batch in file.iter_batches(_ROWS, columns=[column]):
        yield from (str(cell) for cell in batch.column(0).to_pylist() if cell is not None)


def matched(parts: Iterable[Int64[np.ndarray, " M"]]) -> int:
    """How many of a list were found at least once, from the places that each shard's samples have in it."""
    return len(np.unique(np.concatenate([np.empty(0, np.int64), *parts])))
