"""Pairs in other forms than tars, as lists: a folder, a table of paths, a data set of Hugging Face.

Each form is a config that can ``list`` its samples in blocks: where a picture lies and what is said of it.
What is in a list may be wrong in all its parts; ``pairs.build_pairs`` looks at each sample and leaves out
what cannot be trained on. A list is read again and again in the same order, and never held.
"""

import hashlib
import itertools
import posixpath
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64
from pydantic import Field

from paribus.data.folder import folders_below, key_of
from paribus.data.hub import fetch_dataset
from paribus.data.hugging import IMAGES, column_named, find_files, read_schema
from paribus.data.inside import Cut, check_column, count_rows, cut_rows
from paribus.data.names import sort_names
from paribus.data.samples import Limits, Reading
from paribus.data.tables import Row, rows
from paribus.data.tars import Shard, split_name, stamp
from paribus.errors import UserError
from paribus.progress import progress

PICTURES = ("filepath", "image", "file_name", "path")
CAPTIONS = ("title", "text", "caption")
"""What the columns may be called; the first that is there is taken (filepath and title are open_clip's)."""

HUB_IMAGES, HUB_CAPTIONS = (*IMAGES, "jpg", "jpeg", "png", "webp"), (*CAPTIONS, "txt")
"""The same of Hugging Face's files; the later ones are of webdataset's tars that were made into parquet."""

OUTSIDE = "image outside the root"
TAKEN = "key of another picture"
BLOCK = 1_024
"""Samples that are looked at together."""


class Entry(NamedTuple):
    """One sample as it is listed."""

    key: str
    row: int = 0
    """Its row in a table, from 1."""
    path: str = ""
    """Of its picture, below the root or absolute, as the system has it; empty if a file of many holds it."""
    raw: bytes | None = None
    """Its caption as it lies; None if it has none, or a file of its own."""
    said: str = ""
    """The file of its caption."""
    blob: bytes | None = None
    """Its picture, if that has to be copied."""
    place: int = 0
    size: int = 0
    """Where its picture lies in a file of many, if it can stay there, and its bytes."""
    fault: str = ""
    """Why it is left out, if the list tells."""


@dataclass(frozen=True)
class Block:
    """Samples that are looked at together, and what tells that they are the same as before."""

    claim: dict[str, Any]
    entries: Callable[[], Iterable[Entry]]
    file: int | None = None
    """Which of the listing's files holds the pictures, if one does."""
    copied: bool = False
    """Whether its pictures have to be copied, since they cannot be read out of it one by one."""


@dataclass(frozen=True)
class Listing:
    """All samples of one form."""

    what: Path
    home: Path
    """The folder that the files lie in."""
    root: Path
    """The folder that paths of pictures begin at."""
    blocks: Callable[[], Iterator[Block]]
    files: tuple[Shard, ...] = ()
    """The files that list or hold the samples, by their paths below ``home``."""
    names: str = ""
    """SHA-256 over the names of all files, where no file lists them."""
    total: int = 0
    copied: bool = False
    """Whether any block's pictures have to be copied."""


class PairsConfig(Limits, ABC):
    """Image-text pairs that are not in tars; where they lie is no part of what they are."""

    samples: int | None = Field(None, gt=0, description="declared; the index must hold as many")

    @abstractmethod
    def listing(self) -> Listing:
        """The samples as they lie now.

        Raises:
            UserError: there are none, or what lists them cannot be read.
        """

    @abstractmethod
    def places(self) -> tuple[Path | None, Path]:
        """Where the files of the listing lie (None: they are not needed any more), and the root."""

    def copies(self) -> float:
        """Bytes of pictures that have to be copied, as far as that is known beforehand."""
        return 0.0

    @property
    def reading(self) -> dict[str, Any]:
        """The part that decides which samples come out, with the form's kind."""
        kept: dict[str, Any] = self.model_dump(mode="json", exclude={"root", "file", "path", "samples"})
        return kept


def raw_of(text: str) -> bytes:
    """The bytes that a text was read from, also where they were no UTF-8 or JSON spelt half a character."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _cut(entries: Iterable[Entry]) -> Iterator[Block]:
    """Blocks of a list of paths; they are told by what is listed."""
    entries = iter(entries)
    while some := list(itertools.islice(entries, BLOCK)):
        said = hashlib.sha256(repr([tuple(entry) for entry in some]).encode()).hexdigest()
        yield Block({"said": said}, partial(list, some))


# A folder of pictures with captions beside them.


class FolderConfig(Reading, PairsConfig):
    """Pictures with captions beside them, ``x.jpg`` and ``x.txt``, in a folder and all below it.

    Files are joined as the members of a tar are: the key is the path up to the name's first dot. Hidden files
    and folders are passed over; links are followed.
    """

    kind: Literal["folder"] = "folder"
    root: str = Field(min_length=1)

    def listing(self) -> Listing:
        """The files' names, read twice: once for their number and digest."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"There is no folder {root}: set root to the folder of pictures and captions.")
        names, total = hashlib.sha256(), 0
        for entry in progress(_apart(self._entries(root)), label=f"Listing {root.name}", unit="sample"):
            names.update(repr(tuple(entry)).encode())
            total += 1
        return Listing(
            what=root,
            home=root,
            root=root,
            blocks=lambda: _cut(_apart(self._entries(root))),
            names=names.hexdigest(),
            total=total,
        )

    def places(self) -> tuple[Path | None, Path]:
        """The folder."""
        root = Path(self.root).expanduser()
        return root, root

    def _entries(self, root: Path) -> Iterator[Entry]:
        """All keys that have a picture or a caption, folder by folder, in the order of their names."""
        for folder, names in folders_below(root):
            named = sort_names(name for name in names if self._says(name))
            yield from self._faults(folder, _parted(named()))
            joined = (part for part in _parted(named()) if self._joins(part.extension))
            for key, members in itertools.groupby(joined, attrgetter("key")):
                first = {part.extension: part.name for part in reversed(list(members))}
                image = next((first[extension] for extension in self.image if extension in first), "")
                path, said = (folder + name if name else "" for name in (image, first.get(self.caption, "")))
                yield Entry(_shown(folder + key), path=path, said=said, fault="" if path else "no image")

    def _joins(self, extension: str) -> bool:
        """Whether it is a picture's or a caption's."""
        return extension == self.caption or extension in self.image

    def _says(self, name: str) -> bool:
        """Whether a file is a picture or a caption, or would be but for a dot in its name."""
        extension = (split_name(name) or ("", ""))[1]
        return self._joins(extension) or extension.rpartition(".")[2] in self.image

    def _faults(self, folder: str, parts: Iterable["_Part"]) -> Iterator[Entry]:
        """The files that are left out for their names; all files of a key come one after another."""
        before, there = "", set[str]()
        for name, key, extension in parts:
            if not self._joins(extension):
                yield Entry(_shown(folder + name), fault="a dot in its name")
                continue
            if key != before:
                before, there = key, set()
            if extension in there:
                yield Entry(_shown(folder + name), fault="repeated member")
            there.add(extension)


class _Part(NamedTuple):
    name: str
    key: str
    extension: str


def _parted(names: Iterable[str]) -> Iterator[_Part]:
    for name in names:
        named = split_name(name)
        if named is not None:
            yield _Part(name, *named)


def _shown(path: str) -> str:
    """A path as text that any file can hold."""
    return key_of(raw_of(path))


_SPELT = re.compile(r"\\x[89a-f][0-9a-f]")


def _apart(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same; where a path was spelt out and another one is written so, the second one is left out."""
    taken = set[str]()
    for entry in entries:
        spelt = not entry.fault and _SPELT.search(entry.key) is not None
        yield entry._replace(fault=TAKEN) if spelt and entry.key in taken else entry
        if spelt:
            taken.add(entry.key)


# A table of paths and captions.


class TableConfig(PairsConfig):
    """Paths of pictures, and captions, in a CSV, TSV or JSON lines (open_clip's layout and others).

    Paths are relative to ``root``. Absolute ones are read too, as open_clip does, unless a root is stated:
    then they must lie below it. A path that leaves the root by ``..`` is a fault. A picture may stand there
    again with another caption: it is then another sample, ``PATH#2``, but where a picture of the table is
    called so itself: then that alone has the key, and the sample is a fault.
    """

    kind: Literal["table"] = "table"
    file: str = Field(min_length=1, description=".csv, .tsv, .jsonl, .json or .parquet")
    root: str | None = Field(None, description="the folder of the pictures; None: the file's own")
    image: str | None = Field(None, description=f"the column of paths; None: one of {', '.join(PICTURES)}")
    caption: str | None = Field(
        None, description=f"the column of captions; None: one of {', '.join(CAPTIONS)}"
    )

    def places(self) -> tuple[Path | None, Path]:
        """The folder of the table, and that of the pictures."""
        home = Path(self.file).expanduser().parent
        return home, home if self.root is None else Path(self.root).expanduser()

    def listing(self) -> Listing:
        """The table's rows, read twice: once to see which pictures stand there again."""
        file, (_, root) = Path(self.file).expanduser(), self.places()
        if not root.is_dir():
            raise UserError(f"There is no folder {root}: set root to the folder that the paths begin at.")
        before = stamp(file.parent, file)
        pictures, pairs = array("Q"), array("Q")
        for said in progress(self._said(file), label=f"Reading {file.name}", unit="row"):
            path, caption = raw_of(said.path), said.raw or b""
            pictures.append(_hash(path))
            pairs.append(_hash(len(path).to_bytes(8) + path + caption))
        again = _again(np.array(pictures, np.uint64)), _again(np.array(pairs, np.uint64))
        known = np.unique(np.array(pictures, np.uint64))
        return Listing(
            what=file,
            home=file.parent,
            root=root,
            blocks=lambda: _cut(_apart(self._entries(file, before, known, *again))),
            files=(before,),
            total=len(pictures),
        )

    def _said(self, file: Path) -> Iterator[Entry]:
        """The rows as they are, with the faults that a row has by itself."""
        image = caption = ""
        root = None if self.root is None else posixpath.abspath(Path(self.root).expanduser())
        for row in rows(file, errors="surrogateescape"):
            image = image or _column(row, self.image, PICTURES, "pictures", "image")
            caption = caption or _column(row, self.caption, CAPTIONS, "captions", "caption")
            yield _read(row, row.cells.get(image), row.cells.get(caption), root)

    def _entries(
        self,
        file: Path,
        before: Shard,
        known: UInt64[np.ndarray, " M"],
        picture: Int64[np.ndarray, " N"],
        pair: Int64[np.ndarray, " N"],
    ) -> Iterator[Entry]:
        for said, shown, same in zip(self._said(file), picture, pair, strict=False):
            if said.path and said.raw and not said.fault and same:
                yield said._replace(fault="repeated row")
            elif said.path and shown:
                end = f"#{shown + 1}"
                taken = _is_in(_hash(raw_of(said.path + end)), known)
                yield said._replace(key=said.key + end, fault=said.fault or TAKEN * taken)
            else:
                yield said
        if stamp(file.parent, file) != before:
            raise UserError(f"{file} has changed while it was read: run again.")


def _read(row: Row, path: object, caption: object, root: str | None) -> Entry:
    raw = raw_of(caption) if isinstance(caption, str) else None
    blank = caption is None or caption != caption  # NaN is how some write that there is nothing
    if not isinstance(path, str) or not path:
        return Entry("", row.number, raw=raw, fault="no image")
    inner = inside(path, root)
    fault = OUTSIDE if inner is None else "" if raw is not None or blank else "caption is no text"
    return Entry(_shown(inner or path), row.number, inner or "", raw, fault=fault)


def _column(row: Row, given: str | None, usual: Sequence[str], what: str, setting: str) -> str:
    names = usual if given is None else (given,)
    found = next((name for name in names if name in row.cells), None)
    if found is None:
        there = ", ".join(_shown(str(name)) for name in row.cells)
        raise UserError(
            f"{row.file}, row {row.number}: it has no column of {what} ({' or '.join(names)}), only {there}; "
            f"name one as {setting}."
        )
    return found


def inside(path: str, root: str | None) -> str | None:
    """A path of a picture, tidied: below the root, or absolute; None if it is somewhere else.

    Args:
        path: as a table has it.
        root: the folder that absolute paths must lie below; None: they may lie anywhere.
    """
    plain = posixpath.normpath(path)
    if plain.startswith("/") and root is not None:
        plain = posixpath.relpath(plain, root)
    return None if plain in (".", "..") or plain.startswith("../") else plain


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def _is_in(value: int, known: UInt64[np.ndarray, " M"]) -> bool:
    place = int(np.searchsorted(known, np.uint64(value)))
    return place < len(known) and int(known[place]) == value


def _again(hashes: UInt64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """How often each of some values has been there before."""
    order = np.argsort(hashes, kind="stable")
    new = np.ones(len(hashes), bool)
    new[1:] = np.diff(hashes[order]) != 0
    first = np.flatnonzero(new)
    before = np.empty(len(hashes), np.int64)
    before[order] = np.arange(len(hashes)) - np.repeat(first, np.diff(first, append=len(hashes)))
    return before


# A data set of Hugging Face.


class HuggingFaceConfig(PairsConfig):
    """Hugging Face's ``datasets``: parquet as on the hub, or what save_to_disk wrote.

    Pictures in Arrow files stay there. Parquet cannot be read picture by picture: those are copied into the
    index, and the files are not needed any more.
    """

    kind: Literal["huggingface"] = "huggingface"
    path: str = Field(
        min_length=1,
        description="a folder, a file, or a data set of the hub: OWNER/NAME or OWNER/NAME@REVISION",
    )
    split: str | None = Field(None, description="None: train, or the only one")
    image: str | None = Field(
        None, description=f"the column of pictures; None: one of {', '.join(HUB_IMAGES)}"
    )
    caption: str | None = Field(
        None, description=f"the column of captions; None: one of {', '.join(HUB_CAPTIONS)}"
    )

    def places(self) -> tuple[Path | None, Path]:
        """The folder of the files, if it is one of this disk."""
        local = Path(self.path).expanduser()
        if not local.exists():
            return None, Path()
        home = local.parent if local.is_file() else local
        return home, home

    def listing(self) -> Listing:
        """The rows of a split."""
        local = Path(self.path).expanduser()
        if not local.exists():
            remedy = "set path to a folder or a file of parquet or Arrow"
            local = fetch_dataset(self.path, ["*.parquet"], remedy)
        home = local.parent if local.is_file() else local
        files = self._files(local, find_files(local))
        stamps = tuple(stamp(home, file) for file in files)
        columns = [self._columns(file) for file in files]
        return Listing(
            what=local,
            home=home,
            root=home,
            blocks=lambda: itertools.chain.from_iterable(
                map(_blocks_of, itertools.count(), files, stamps, columns)
            ),
            files=stamps,
            total=sum(count_rows(file) for file in files),
            copied=any(_is_copied(file) for file in files),
        )

    def copies(self) -> float:
        """The parquet files of this disk."""
        local = Path(self.path).expanduser()
        if not local.exists():
            return 0.0
        files = self._files(local, find_files(local))
        return float(sum(file.stat().st_size for file in files if _is_copied(file)))

    def _files(self, where: Path, found: Mapping[str, Sequence[Path]]) -> Sequence[Path]:
        wanted = self.split or ("train" if "train" in found else next(iter(found), ""))
        if wanted not in found or (self.split is None and wanted != "train" and len(found) > 1):
            there = ", ".join(found) or "none"
            raise UserError(f"{where} has the splits {there}: set split to the one that is trained on.")
        return found[wanted]

    def _columns(self, file: Path) -> tuple[str, str]:
        schema = read_schema(file)
        image = column_named(file, schema.names, self.image, HUB_IMAGES)
        caption = column_named(file, schema.names, self.caption, HUB_CAPTIONS)
        check_column(file, schema, image, caption)
        return image, caption


def _is_copied(file: Path) -> bool:
    return file.suffix == ".parquet"


def _blocks_of(number: int, file: Path, found: Shard, columns: tuple[str, str]) -> Iterator[Block]:
    """A file in blocks, which are told by it and by where they begin."""
    for cut in cut_rows(file, *columns, BLOCK):
        claim = {"file": found.model_dump(mode="json"), "first": cut.first, "rows": cut.rows}
        yield Block(claim, partial(_rows_of, found.name, cut), number, _is_copied(file))


def _rows_of(name: str, cut: Cut) -> Iterator[Entry]:
    for number, found in enumerate(cut.read(), start=cut.first):
        path = inside(found.path, None) if found.path else ""
        fault = OUTSIDE if path is None else "" if path or found.there else "no image"
        yield Entry(
            f"{name}#{number}",
            0,
            path or "",
            found.caption,
            blob=found.blob,
            place=found.place,
            size=found.size,
            fault=fault,
        )


AnyPairs = FolderConfig | TableConfig | HuggingFaceConfig
