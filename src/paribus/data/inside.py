"""Pictures and captions out of the columns of Arrow and parquet files, and where in an Arrow file they lie.

An Arrow file that is not compressed holds each picture as it is, so that it can be read there at any time.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paribus.data.hugging import damaged
from paribus.errors import UserError

ROWS = 64
"""Rows that are read at once of parquet: each has a picture of perhaps a megabyte."""

_OFFSETS = {pa.binary(): np.int32, pa.large_binary(): np.int64}


class Found(NamedTuple):
    """A row: its picture's bytes (parquet), or where they lie (Arrow), or the path of its file."""

    caption: bytes | None
    blob: bytes | None = None
    place: int = 0
    size: int = 0
    path: str = ""

    @property
    def there(self) -> bool:
        """Whether the picture is in the file."""
        return self.blob is not None or self.place > 0


def check_column(file: Path, schema: Any, image: str, caption: str) -> None:
    """See that a file's columns hold pictures and texts.

    Raises:
        UserError: they do not.
    """
    kind, said = schema.field(image).type, schema.field(caption).type
    inner = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind}
    if inner.get("bytes") not in _OFFSETS:
        raise UserError(
            f"{file} has no pictures in its column {image!r} but {kind}: name another as image, or write it "
            "as datasets does, with bytes and path."
        )
    said = said.value_type if pa.types.is_dictionary(said) else said
    if said not in (pa.string(), pa.large_string(), *_OFFSETS):
        raise UserError(
            f"{file} has no texts in its column {caption!r} but {said}: name another as caption, or write "
            "one text a row."
        )


class Cut(NamedTuple):
    """Rows of a file that can be read without the others."""

    first: int
    rows: int
    read: Callable[[], Iterator[Found]]


def count_rows(file: Path) -> int:
    """How many rows a file has; none is held.

    Raises:
        UserError: the file is damaged.
    """
    with _undamaged(file):
        if file.suffix == ".parquet":
            return int(pq.read_metadata(file).num_rows)
        with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
            return sum(len(batch) for batch in reader)


def cut_rows(file: Path, image: str, caption: str, rows: int) -> Iterator[Cut]:
    """The rows of a file, at least so many at a time and fewer than twice as many.

    Of parquet, row groups are not cut: where they are larger, so are the cuts.

    Raises:
        UserError: the file is damaged; of a cut, also that it is compressed Arrow.
    """
    with _undamaged(file):
        if file.suffix == ".parquet":
            meta = pq.read_metadata(file)
            sizes = ((meta.row_group(group).num_rows, group) for group in range(meta.num_row_groups))
            for first, count, groups in _together(sizes, rows):
                yield Cut(first, count, partial(_of_parquet, file, meta, groups, image, caption))
        else:
            whole = pa.memory_map(str(file)).read_buffer()
            with pa.ipc.open_stream(pa.BufferReader(whole)) as reader:
                for first, count, batches in _together(_slices(reader, rows), rows):
                    yield Cut(first, count, partial(_of_arrow, file, whole, batches, image, caption))


def _slices(batches: Iterable[Any], rows: int) -> Iterator[tuple[int, Any]]:
    for batch in batches:
        for start in range(0, len(batch), rows):
            part = batch.slice(start, rows)
            yield len(part), part


def _together(parts: Iterable[tuple[int, Any]], rows: int) -> Iterator[tuple[int, int, list[Any]]]:
    """Parts after each other that have so many rows: their first row, all their rows, and they."""
    first, count, waiting = 0, 0, list[Any]()
    for size, part in parts:
        count += size
        waiting.append(part)
        if count >= rows:
            yield first, count, waiting
            first, count, waiting = first + count, 0, []
    if count or not first:  # a file of no rows is one part of none
        yield first, count, waiting


def _of_parquet(file: Path, meta: Any, groups: list[int], image: str, caption: str) -> Iterator[Found]:
    # without these two all of a row group is held
    with (
        _undamaged(file),
        pq.ParquetFile(file, metadata=meta, pre_buffer=False, buffer_size=2**20) as parquet,
    ):
        for batch in parquet.iter_batches(ROWS, groups, columns=[image, caption]):
            yield from _copied(batch.column(image), batch.column(caption))


def _of_arrow(file: Path, whole: Any, batches: Iterable[Any], image: str, caption: str) -> Iterator[Found]:
    with _undamaged(file):
        for batch in batches:
            yield from _placed(file, whole, batch.column(image), batch.column(caption))


@contextlib.contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(file) from error


def _parted(column: Any) -> tuple[Any, list[str | None]]:
    """Bytes of pictures, and paths of those that are files."""
    if not pa.types.is_struct(column.type):
        return column, [None] * len(column)
    names = [field.name for field in column.type]
    parts = dict(zip(names, column.flatten(), strict=True))
    return parts["bytes"], parts["path"].to_pylist() if "path" in parts else [None] * len(column)


def _texts(column: Any) -> list[bytes | None]:
    """Captions as they lie: nothing says that what Arrow calls a string is UTF-8."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    texts: list[bytes | None] = plain.cast(pa.large_binary()).to_pylist()
    return texts


def _copied(image: Any, caption: Any) -> Iterator[Found]:
    blobs, paths = _parted(image)
    for blob, path, said in zip(blobs, paths, _texts(caption), strict=True):
        found = blob.as_py()
        yield Found(said, found, path="" if found is not None else path or "")


def _placed(file: Path, whole: Any, image: Any, caption: Any) -> Iterator[Found]:
    blobs, paths = _parted(image)
    _, offsets, data = blobs.buffers()
    first = 0 if data is None else data.address - whole.address
    if not 0 <= first <= first + (0 if data is None else data.size) <= whole.size:
        raise UserError(f"{file} is compressed, and pictures cannot be read out of it: save it as parquet.")
    ends = np.frombuffer(offsets, _OFFSETS[blobs.type], count=blobs.offset + len(blobs) + 1)[blobs.offset :]
    there = blobs.is_valid().to_pylist()
    for row, (path, said) in enumerate(zip(paths, _texts(caption), strict=True)):
        start, end = int(ends[row]), int(ends[row + 1])
        if there[row] and end > start:
            yield Found(said, place=first + start, size=end - start)
        else:
            yield Found(said, b"" if there[row] else None, path="" if there[row] else path or "")
