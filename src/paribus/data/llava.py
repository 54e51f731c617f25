"""LLaVA's published layout: what a record says, and the files that records are read from.

A record is ``{"id", "image"?, "conversations": [{"from": "human" or "gpt", "value"}, ...]}``. It becomes what
LLaVA makes of it (haotian-liu/LLaVA, ``llava/train/train.py``): ``<image>`` moves to the front of its
question and a line end follows (``preprocess_multimodal``), and a first turn that is not human is dropped
(``preprocess_v1``). A picture that no turn names is not shown (``llava_arch.py`` adds none of its features):
such a record is text alone. Where LLaVA would stop at an assertion, or silently train on nothing (a question
without a reply masks the whole conversation), the record has a fault. So has one that names its picture
anywhere but in the first question, or twice: of one turn LLaVA keeps one ``<image>``, and those of further
turns it gives the next sample's picture.
"""

import hashlib
import itertools
import json
import posixpath
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from paribus.data.hub import fetch_dataset
from paribus.errors import UserError
from paribus.types import IMAGE, Turn, Turns

ROLES = ("human", "gpt")
SOURCE_FIELDS = ("source", "dataset", "data_source")
"""Fields that name where a record is from; the published mix has none of them."""

TEXT, UNNAMED = "text", "unnamed"
"""Sources of records that name none: text alone, and a picture in no named folder."""

_CHUNK = 1 << 24
_LONGEST_RECORD = 1 << 26
_BETWEEN = re.compile(r"[\s,]*")


# What a record becomes.


class Fault(Exception):  # noqa: N818 - it is no error where a mix survives
    """Why a record is left out: the fault's name, the field, and what is wrong with it."""

    def __init__(self, name: str, field: str, what: str) -> None:
        super().__init__(name, field, what)
        self.name, self.field, self.what = name, field, what


def _talk(name: str, what: str) -> Fault:
    return Fault(name, "conversations", what)


def _said(cells: Mapping[str, object], longest: int) -> list[tuple[str, str]]:
    """Who says what, turn by turn."""
    given = cells.get("conversations")
    if not isinstance(given, list) or not given:
        raise _talk("empty conversations", "it is missing or empty")
    said = []
    for place, turn in enumerate(given, start=1):
        role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES:
            raise _talk("unknown role", f"turn {place} is from {role!r}, neither human nor gpt")
        if not isinstance(text, str):
            raise _talk("no text", f"turn {place} has no text as its value")
        said.append((role, text))
    characters = sum(len(text) for _, text in said)
    if characters > longest:
        raise _talk("too long", f"it has {characters:,} characters, and longest is {longest:,}")
    return said


def _check_order(said: Sequence[tuple[str, str]]) -> None:
    if not said:
        raise _talk("empty conversations", "nothing is left without its first turn, which is not human")
    for place, (role, text) in enumerate(said):
        if role != ROLES[place % 2]:
            raise _talk("roles do not alternate", f"two turns in a row are from {role}")
        if role == ROLES[1] and not text.strip():
            raise _talk("empty reply", f"reply {place // 2 + 1} is empty")
    if len(said) % 2:
        raise _talk("odd number of turns", "the last question has no reply")


def _check_tokens(said: Sequence[tuple[str, str]], first: str, pictured: bool) -> None:
    count = sum(text.count(IMAGE) for _, text in said)
    if count and not pictured:
        raise _talk("image token without an image", f"it has {IMAGE}, and the record has no image")
    if count > 1:
        raise _talk("two image tokens", f"it has {IMAGE} {count} times, and one picture is shown")
    if count and IMAGE not in first:
        raise _talk("image token in a wrong turn", f"{IMAGE} is not in the first question")


def _turns(cells: Mapping[str, object], pictured: bool, longest: int) -> Turns:
    said = _said(cells, longest)
    spoken = said[1:] if said[0][0] != ROLES[0] else said
    _check_order(spoken)
    _check_tokens(said, spoken[0][1], pictured)
    texts = [text for _, text in spoken]
    if IMAGE in texts[0]:
        texts[0] = f"{IMAGE}\n{texts[0].replace(IMAGE, '').strip()}".strip()
    return tuple(Turn(*pair) for pair in zip(texts[::2], texts[1::2], strict=True))


def _image(cells: Mapping[str, object]) -> str | bytes | None:
    """A record's picture: a path or the bytes of a file; None if it has none."""
    value = cells.get("image")
    if isinstance(value, list):
        if len(value) > 1:
            raise Fault("two images", "image", f"it names {len(value)} pictures, and one can be shown")
        value = value[0] if value else None
    path = ""
    if isinstance(value, dict):  # Hugging Face's image: the bytes or, of local files, where they are
        path = str(value.get("path") or "")
        value = value.get("bytes") or path
    if value is None or value in ("", b""):
        return None
    if not isinstance(value, str | bytes):
        raise Fault("no picture", "image", f"it is neither a path nor a picture but {type(value).__name__}")
    return _inside(value) if isinstance(value, str) else value


def _inside(path: str) -> str:
    """A path that stays in the folder of the pictures."""
    plain = posixpath.normpath(path)
    if plain.startswith(("/", "../")) or plain == ".." or "\0" in plain:
        raise Fault("image outside the folder", "image", f"{path!r} is no path below the folder of pictures")
    return plain


def source_of(cells: Mapping[str, object]) -> str:
    """Where a record is from: what it says, else the first folder of its picture's path."""
    told = next((cells[name] for name in SOURCE_FIELDS if isinstance(cells.get(name), str)), None)
    if told:
        return str(told)
    value = cells.get("image")
    value = value[0] if isinstance(value, list) and value else value
    value = value.get("path") or value.get("bytes") if isinstance(value, dict) else value
    if not value:
        return TEXT
    folder = posixpath.normpath(value).partition("/") if isinstance(value, str) else ("", "", "")
    # Stage 1's pictures lie in 662 numbered folders, which tell nothing.
    return folder[0] if folder[1] and not folder[0].isdigit() else UNNAMED


class Talk(NamedTuple):
    """What a record says: its turns, the picture that they show, and a digest of the key and the turns."""

    turns: Turns
    image: str | bytes | None
    unshown: bool
    said: bytes


def read_record(cells: object, key: str, longest: int) -> Talk:
    """What a record says.

    Raises:
        Fault: it cannot be trained on.
    """
    if not isinstance(cells, dict):
        raise Fault("not a record", "conversations", "the record is no JSON object")
    image = _image(cells)
    turns = _turns(cells, image is not None, longest)
    try:
        parts = [text.encode() for text in (key, *itertools.chain.from_iterable(turns))]
        str(image if isinstance(image, str) else "").encode()
    except UnicodeEncodeError as error:
        raise _talk("broken characters", "it has half of a surrogate pair, which is no character") from error
    lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
    said = hashlib.sha256(lengths + b"".join(parts)).digest()
    shown = IMAGE in turns[0].ask
    return Talk(turns, image if shown else None, image is not None and not shown, said)


def printable(text: str) -> str:
    """A name that any file can hold: half surrogates become question marks."""
    return text.encode(errors="replace").decode()


# Where records are read from.


class Files(NamedTuple):
    """The files of a mix, and the folder where their pictures lie if nothing else is said."""

    paths: tuple[Path, ...]
    home: Path


def find_files(file: str) -> Files:
    """The files that a setting names; a data set of the hub is fetched.

    Raises:
        UserError: there is nothing.
    """
    local = Path(file).expanduser()
    if local.is_file():
        return Files((local,), local_home(file))
    remedy = "set file to LLaVA's .json, a .jsonl or a .parquet"
    folder = local_home(file) if local.is_dir() else fetch_dataset(file, ["*.parquet"], remedy)
    there = (path for path in folder.rglob("*.parquet") if not path.name.startswith("."))
    paths = sorted(path for path in there if path.is_file())
    paths = [path for path in paths if path.name.startswith("train")] or paths  # no validation split
    if not paths:
        raise UserError(f"There is no .parquet in {folder}: set file to a .json, a .jsonl or a .parquet.")
    return Files(tuple(paths), folder)


def local_home(file: str) -> Path:
    """The folder of pictures that a setting names where nothing else is said; those of the hub are inside."""
    local = Path(file).expanduser()
    return local if local.is_dir() else local.parent


def read_file(path: Path) -> Iterator[object]:
    """The records of a file, as they come; one by one, since the published list has a gigabyte.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with path.open(encoding="utf-8-sig") as handle:
            start = next((char for char in iter(lambda: handle.read(1), "") if not char.isspace()), "")
            if start == "[":
                yield from _listed(handle, path)
            else:
                yield from _lines(start, handle)
    except UnicodeDecodeError as error:
        raise UserError(f"The file {path} is no JSON in UTF-8: get it again, or give a .parquet.") from error
    except OSError as error:
        raise UserError(
            f"Cannot read the file {path} ({error.strerror}): mend that and run again."
        ) from error


def _lines(start: str, handle: TextIO) -> Iterator[object]:
    """A record a line; a line that is no JSON is a record with a fault."""
    for line in itertools.chain([start + handle.readline()], handle):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _listed(handle: TextIO, path: Path) -> Iterator[object]:
    """The members of a JSON list whose bracket has been read, without holding the list."""
    decode, text, at, before = json.JSONDecoder().raw_decode, "", 0, 1
    while True:
        between = _BETWEEN.match(text, at)
        at = between.end() if between else at
        if text[at : at + 1] == "]":
            return
        try:
            value, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            more = handle.read(_CHUNK)
            if not more or len(text) - at > _LONGEST_RECORD:
                raise UserError(
                    f"The file {path} is cut off or damaged in what begins at character {before + at:,}: "
                    "get it again."
                ) from error
            before, text, at = before + at, text[at:] + more, 0
            continue
        yield value
        at = end


def _parquet(path: Path) -> Iterator[object]:
    wanted = ("id", "image", "conversations", *SOURCE_FIELDS)
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            if "conversations" not in columns:
                raise UserError(f"The file {path} has no column conversations: give LLaVA's layout.")
            # Few at a time: each may have a picture of a megabyte.
            for batch in file.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"The file {path} is no parquet file, or a damaged one: get it again.") from error
