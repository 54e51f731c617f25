"""The stage that looks through a folder of pictures: which can be decoded, and what each looks like."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from safetensors.numpy import load_file, save_file

from paribus.analysis.looks import Looks, look_at
from paribus.data.conversations import decode_picture
from paribus.data.folder import Folder, list_pictures, listing_digest
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.progress import progress
from paribus.study.stage import Stage
from paribus.types import Config, Runtime

FEWEST = 8
"""Pictures below which nothing can be said of two encoders."""
SHOWN = 20
_SCHEMA = pa.schema({"path": pa.binary(), "sha256": pa.string(), "height": pa.int32(), "width": pa.int32()})
_SLICE = 32


class PicturesRecord(Config):
    """What is in a folder."""

    pictures: int
    digest: str = Field(description="SHA-256 over names and contents")
    copies: int = Field(description="files whose bytes another file has too, beyond the first")
    faults: dict[str, tuple[str, ...]] = Field(description="fault -> the first files that have it")
    lost: dict[str, int] = Field(description="fault -> files")


class _Seen(NamedTuple):
    """One file: its digest, size and look, or its fault."""

    sha256: str
    shape: tuple[int, int]
    looks: Looks | None
    fault: str


class Pictures(Stage[PicturesRecord]):
    """A folder of pictures; they stay where they lie, and a change of any of them is another stage."""

    name: ClassVar[str] = "pictures"
    version: int = 2
    root: str
    listing: str = Field(description="digest of names, sizes and times")

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("root",)

    def compute(self, folder: Path, runtime: Runtime) -> PicturesRecord:
        """Decode each file once.

        Raises:
            UserError: too few can be decoded.
        """
        listed = list_pictures(Path(self.root))
        everything = Folder(Path(self.root), tuple(one.path for one in listed))
        seen = list(_looked(everything, runtime.workers))
        good = [place for place, one in enumerate(seen) if one.looks is not None]
        different = len({seen[place].sha256 for place in good})
        record = _record([one.key for one in listed], seen)
        if different < FEWEST:
            told = "; ".join(f"{fault}: {count}" for fault, count in record.lost.items())
            raise UserError(
                f"{self.root} has {different} different pictures that can be decoded "
                f"({told or 'no faults'}): give at least {FEWEST}."
            )
        looked = [one.looks for one in seen if one.looks is not None]
        looks = Looks(*(np.concatenate(column) for column in zip(*looked, strict=True)))
        with whole_file(folder / "looks.safetensors") as path:
            save_file(looks._asdict(), path)
        rows = [
            {
                "path": listed[at].path,
                "sha256": seen[at].sha256,
                "height": seen[at].shape[0],
                "width": seen[at].shape[1],
            }
            for at in good
        ]
        with whole_file(folder / "pictures.parquet") as path:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)
        return record

    def open(self, runtime: Runtime) -> Folder:
        """The pictures that can be decoded."""
        table = pq.read_table(self.folder(runtime) / "pictures.parquet", columns=["path"])
        return Folder(Path(self.root), tuple(table["path"].to_pylist()))

    def contents(self, runtime: Runtime) -> list[str]:
        """SHA-256 of each of their files."""
        table = pq.read_table(self.folder(runtime) / "pictures.parquet", columns=["sha256"])
        found: list[str] = table["sha256"].to_pylist()
        return found

    def looks(self, runtime: Runtime) -> Looks:
        """What tells near-duplicates and placeholders."""
        return Looks(**load_file(self.folder(runtime) / "looks.safetensors"))


def pictures_of(root: Path) -> Pictures:
    """The stage of a folder as it is now.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    return Pictures(root=str(root), listing=listing_digest(list_pictures(root)))


def _looked(folder: Folder, workers: int) -> Iterator[_Seen]:
    """Every file's digest and look, in order; decoders release the interpreter's lock."""
    slices = [range(at, min(at + _SLICE, len(folder))) for at in range(0, len(folder), _SLICE)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda some: [_look(folder, at) for at in some], slices)
        for part in progress(found, label="Looking at pictures", total=len(slices), unit="block"):
            yield from part


def _look(folder: Folder, at: int) -> _Seen:
    try:
        blob = folder.read(at)
        image = decode_picture(blob)
    except OSError as error:
        return _Seen("", (0, 0), None, f"cannot be read ({error.strerror})")
    except ValueError as error:
        return _Seen("", (0, 0), None, str(error))
    return _Seen(sha256(blob).hexdigest(), image.shape[:2], look_at([image]), "")


def _record(keys: list[str], seen: list[_Seen]) -> PicturesRecord:
    whole, faults = sha256(), dict[str, list[str]]()
    for key, one in zip(keys, seen, strict=True):
        whole.update(f"{len(key)} {key} {one.sha256}".encode())
        if one.fault:
            faults.setdefault(one.fault, []).append(key)
    digests = [one.sha256 for one in seen if one.sha256]
    return PicturesRecord(
        pictures=len(digests),
        digest=whole.hexdigest(),
        copies=len(digests) - len(set(digests)),
        faults={fault: tuple(names[:SHOWN]) for fault, names in sorted(faults.items())},
        lost={fault: len(names) for fault, names in sorted(faults.items())},
    )
