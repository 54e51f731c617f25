"""Pictures and captions out of the columns of Arrow and parquet files, and where in an Arrow file they lie.

An Arrow file that is not compressed holds each picture as it is, so that it can be read there at any time.
"""

from collections.abc import Iterator
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


def read_pairs(file: Path, image: str, caption: str) -> Iterator[Found]:
    """The rows of a file, one by one.

    Raises:
        UserError: the file is damaged, or an Arrow file is compressed.
    """
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:  # or all is held
                for batch in parquet.iter_batches(ROWS, columns=[image, caption]):
                    yield from _copied(batch.column(image), batch.column(caption))
        else:
            whole = pa.memory_map(str(file)).read_buffer()
            with pa.ipc.open_stream(pa.BufferReader(whole)) as reader:
                for batch in reader:
                    if not len(batch):
                        continue  # such a batch has no buffers
                    yield from _placed(file, whole, batch.column(image), batch.column(caption))
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
