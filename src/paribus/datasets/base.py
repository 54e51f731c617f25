"""What every reader of a labelled image data set gives: its classes, its splits, and pictures when asked for.

Opening lists files and reads labels; a picture is decoded when it is read, and never before.
"""

import bisect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.io
from jaxtyping import Int64, UInt8

from paribus.data.conversations import decode_picture
from paribus.data.folder import key_of
from paribus.errors import UserError

SplitName = Literal["train", "val", "test"]

ANY_COUNT = "accept any count (--any-count)"
"""What a sentence about a count that is not the publisher's offers, beside getting the files again."""


class Settings(NamedTuple):
    """What a person may say about a data set beside where it lies."""

    check: bool = True
    """Counts must be the publisher's; else what differs becomes a note."""
    file: str | None = None
    """The column of pictures, of tables and Hugging Face's files; None: the first of the usual names."""
    label: str | None = None
    """The column of labels, likewise."""
    split: str | None = None
    """The column that says which rows are trained and tested on, of tables."""
    images: Path | None = None
    """The folder that the paths of a table are relative to; None: the table's own."""
    seed: int = 0
    """Of the split that is made where there is none."""


@dataclass(frozen=True)
class PictureFiles:
    """Pictures that are files, by position."""

    root: Path
    paths: tuple[str, ...]

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """One picture.

        Raises:
            UserError: it cannot be read or decoded.
        """
        path = self.root / self.paths[index]
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"The picture {printable(str(path))} cannot be read ({error.strerror}): get it again."
            ) from error
        return decode(blob, printable(str(path)))

    def files(self) -> Iterator[Path]:
        """Where they lie."""
        return (self.root / path for path in self.paths)


@dataclass(frozen=True)
class Part:
    """One split: what its pictures are called, their classes, and how one is read."""

    keys: tuple[str, ...]
    """Unique within the part: the path below the root, or ``file#row``."""
    labels: Int64[np.ndarray, " N"]
    """Places in the data set's classes."""
    read: Callable[[int], UInt8[np.ndarray, "_ _ 3"]]
    """Decodes one picture; raises UserError, naming the file, if it cannot."""

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Dataset:
    """A labelled data set; ``make_dataset`` sees that it can be used."""

    name: str
    root: Path
    classes: tuple[str, ...]
    parts: Mapping[SplitName, Part]
    """``test`` is always there; ``train`` is not where a set is published to be tested on alone."""
    official: bool
    """Whether the split is the publisher's."""
    notes: tuple[str, ...] = ()
    """What a reader should know, in sentences."""
    indexed: bool = False
    """Whether class i is the i-th class of the data set that this one shifts."""
    sources: tuple[Path, ...] = field(default=(), repr=False)
    """The files that were read to know it: labels, splits, or many pictures in one file."""
    own: bool = False
    """Whether a person arranged it: what is wrong with its split can be mended."""

    def files(self) -> list[Path]:
        """The files whose change makes it another data set, each once."""
        pictures = [part.read for part in self.parts.values() if isinstance(part.read, PictureFiles)]
        return [*self.sources, *(file for some in pictures for file in some.files())]


def make_dataset(
    name: str,
    root: Path,
    classes: Sequence[str],
    parts: Mapping[SplitName, Part],
    *,
    official: bool = True,
    own: bool = False,
    notes: Sequence[str] = (),
    indexed: bool = False,
    sources: Sequence[Path] = (),
) -> Dataset:
    """A data set that a probe can learn from and be tested on.

    Raises:
        UserError: a split is empty, there is one class only, or a class is tested on and never trained on.
    """
    for split, part in parts.items():
        if not len(part):
            raise UserError(
                f"{root} has no picture in its part {split}: add some, or get the data set again."
            )
    learnt = np.unique(parts.get("train", parts["test"]).labels)
    if len(learnt) < 2:
        raise UserError(f"{root} has one class only ({classes[learnt[0]]!r}): add pictures of another.")
    if "train" in parts:
        _check_learnt(root, classes, parts, learnt)
    untested = np.setdiff1d(learnt, parts["test"].labels)
    notes = list(notes)
    if len(untested):
        notes.append(
            f"{len(untested):,} of {len(learnt):,} classes have no picture to test on "
            f"(first: {classes[untested[0]]!r})."
        )
    return Dataset(name, root, tuple(classes), parts, official, tuple(notes), indexed, tuple(sources), own)


def _check_learnt(
    root: Path, classes: Sequence[str], parts: Mapping[SplitName, Part], learnt: Int64[np.ndarray, " C"]
) -> None:
    for split, part in parts.items():
        strange = np.setdiff1d(part.labels, learnt)
        if len(strange):
            raise UserError(
                f"The class {classes[strange[0]]!r} is in {split} and absent from train in {root}: add "
                f"pictures of it to train, or take it out of {split}."
            )


def check_counts(
    where: Path, found: Mapping[str, int], official: Mapping[str, int], check: bool
) -> tuple[str, ...]:
    """A note on counts that are not the publisher's.

    Args:
        where: the folder that is counted.
        found: what is counted -> how many there are.
        official: the same, as published.
        check: whether a difference is an error.

    Raises:
        UserError: a count differs, and they are to be checked.
    """
    odd = [f"{found[what]:,} {what} instead of {n:,}" for what, n in official.items() if found[what] != n]
    if not odd:
        return ()
    said = f"{where} has {' and '.join(odd)}"
    if check:
        raise UserError(f"{said}: get the data set again, or {ANY_COUNT}.")
    return (f"{said}.",)


def unlabelled(where: Path, names: Sequence[str]) -> UserError:
    """Pictures that have no label, as an error to raise."""
    return UserError(
        f"{where} has no label for {len(names):,} of the pictures (first: {names[0]}): label every picture "
        "or remove the row."
    )


# Pictures.


def decode(blob: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """A picture file's bytes as RGB.

    Raises:
        UserError: they cannot be decoded; ``name`` is what the picture is called.
    """
    try:
        return decode_picture(blob)
    except ValueError as error:
        raise UserError(
            f"The picture {name} cannot be decoded ({error}): get it again, or leave it out."
        ) from error


def printable(path: str) -> str:
    """A path as text that any file can hold."""
    return path if path.isascii() else key_of(os.fsencode(path))


def picture_part(root: Path, paths: Sequence[str], labels: Sequence[int] | Int64[np.ndarray, " N"]) -> Part:
    """A split of picture files, by their paths below a folder."""
    paths = tuple(paths)
    return Part(tuple(map(printable, paths)), np.asarray(labels, dtype=np.int64), PictureFiles(root, paths))


def locate(starts: Sequence[int], index: int) -> tuple[int, int]:
    """Which of several pieces, laid end to end, an index falls into, and where in it.

    Args:
        starts: where each piece begins, and at the end where the last one ends.
        index: from 0.
    """
    if not 0 <= index < starts[-1]:
        raise IndexError(index)
    piece = bisect.bisect_right(starts, index) - 1
    return piece, index - starts[piece]


# Files.


def find_home(root: Path, inner: Sequence[str], signs: Sequence[str]) -> Path:
    """The folder of an unpacked archive: the one given, or the one in it that the archive makes.

    Args:
        root: what a person gave.
        inner: what archives call their folder.
        signs: files or folders of which any tells the right one.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give the folder that the data set lies in.")
    for home in (root, *(root / name for name in inner)):
        if any((home / sign).exists() for sign in signs):
            return home
    return root


def has(root: Path, inner: Sequence[str], *signs: str) -> bool:
    """Whether a folder, or one of those of an archive in it, has all of these files or folders."""
    return any(all((home / sign).exists() for sign in signs) for home in (root, *(root / n for n in inner)))


def need(path: Path, remedy: str) -> Path:
    """A file or folder that must be there.

    Raises:
        UserError: it is not.
    """
    if not path.exists():
        raise UserError(f"There is no {path}: {remedy}.")
    return path


def read_lines(path: Path, remedy: str) -> list[str]:
    """A small text file's lines, without those that are empty.

    Raises:
        UserError: it is not there, or no text.
    """
    try:
        text = need(path, remedy).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): {remedy}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_mat(path: Path, variable: str, remedy: str) -> Any:
    """One variable of a MATLAB file, with at least one dimension.

    Raises:
        UserError: the file is not there or is none, or has no such variable.
    """
    try:
        found = scipy.io.loadmat(str(need(path, remedy)), squeeze_me=True)
    except UserError:
        raise
    except Exception as error:  # of scipy's many for damaged bytes
        raise UserError(f"{path} is no MATLAB file, or a damaged one: {remedy}.") from error
    if variable not in found:
        raise UserError(f"{path} has no variable {variable!r}: {remedy}.")
    return np.atleast_1d(found[variable])
