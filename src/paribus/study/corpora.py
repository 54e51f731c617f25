"""The stages that make training data ready: the built-in corpus, and an index over pairs of one's own."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from paribus.data import art as art_module
from paribus.data import download, glyphs, hugging, listed, pairs, shards
from paribus.data.captions import find_policy
from paribus.data.tars import has_shards
from paribus.data.uids import read_uids
from paribus.errors import UserError
from paribus.files import make_folder, sha256
from paribus.results import Attribution
from paribus.study.stage import Stage, locked
from paribus.types import Config, Runtime

Split = Literal["train", "redraw", "test"]
OWN = "own"
"""The caption policy of data that brings its captions along."""
OwnSource = shards.Shards | pairs.Pairs
AnyOwn = shards.ShardsConfig | listed.AnyPairs
ALL: tuple[Split, ...] = ("train", "redraw", "test")


def art_folder(runtime: Runtime) -> Path:
    """Where third-party art lies."""
    return runtime.cache / "art"


def fetched_art(runtime: Runtime) -> Path:
    """The art folder, once every package in it is there and is what was pinned.

    Raises:
        UserError: a package differs from its pin, or cannot be fetched.
    """
    return _fetched(art_folder(runtime))


@functools.cache
def _fetched(folder: Path) -> Path:
    """Once a process: to read all the art takes half a second, and several stages draw from it."""
    art_module.fetch(folder)
    return folder


ART_BYTES = 170e6
"""What the unpacked art takes."""
PINS_DIGEST = sha256(art_module.PINS)[:16]


class CorpusRecord(Config):
    """What was built."""

    digest: str
    counts: dict[str, int]
    attributions: list[Attribution]


class Corpus(Stage[CorpusRecord]):
    """The pictures, drawn once at the study's resolution."""

    name: ClassVar[str] = "corpus"
    kind: Literal["corpus"] = "corpus"
    version: int = 1
    source: glyphs.GlyphsConfig
    art: str = Field(PINS_DIGEST, description="digest of the pins: other art is another corpus")

    def compute(self, folder: Path, runtime: Runtime) -> CorpusRecord:
        """Fetch the art if need be, verify it, draw everything."""
        built = folder / "glyphs"
        glyphs.build(self.source, fetched_art(runtime), built, runtime.workers)
        meta = glyphs.verify(built)
        columns = self.open(runtime, ALL).columns
        parts, counts = np.unique(columns["split"], return_counts=True)
        return CorpusRecord(
            digest=meta.digest,
            counts={str(part): int(count) for part, count in zip(parts, counts, strict=True)},
            attributions=meta.attributions,
        )

    def open(
        self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = "thing"
    ) -> glyphs.Glyphs:
        """The corpus as a source."""
        return glyphs.Glyphs(self.folder(runtime) / "glyphs", splits=tuple(splits), captions=captions)

    def texts(self, runtime: Runtime, captions: str, *, everything: bool = False) -> list[str]:
        """Captions of the training split, or of all splits."""
        return self.open(runtime, ALL if everything else ("train",), captions).captions

    def check_captions(self, policy: str) -> None:
        """See that captions can be told so.

        Raises:
            UserError: there is no such policy.
        """
        find_policy(policy)

    def ahead(self) -> str:
        """What must be fetched by hand before: nothing."""
        return ""

    def disk(self) -> float:
        """The art, and every picture."""
        return ART_BYTES + 3.0 * self.source.size**2 * self.expected()

    def expected(self) -> int:
        """About how many samples there will be, where costs are predicted."""
        return glyphs.ABOUT


class OwnRecord(Config):
    """What one's own pairs hold."""

    digest: str
    counts: dict[str, int]


class Own(Stage[OwnRecord]):
    """An index over pairs of one's own, which stay where they lie. Captions are the files' own."""

    source: AnyOwn

    def compute(self, folder: Path, runtime: Runtime) -> OwnRecord:
        """Look at every sample once."""
        meta = build(self.source, folder / "index", runtime.workers)
        mended = {f"captions {how}": count for how, count in meta.mended.items()}
        return OwnRecord(digest=meta.digest, counts={"train": meta.samples, **meta.left_out, **mended})

    def open(self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = OWN) -> OwnSource:
        """The pairs as a source; all of them are for training."""
        raise NotImplementedError

    def texts(self, runtime: Runtime, captions: str, *, everything: bool = False) -> Iterator[str]:
        """All captions, in order."""
        del everything
        source = self.open(runtime, captions=captions)
        return (source.caption(index) for index in range(len(source)))

    def check_captions(self, policy: str) -> None:
        """See that captions are the files' own: they cannot be told otherwise.

        Raises:
            UserError: another policy is asked for.
        """
        if policy != OWN:
            raise UserError(f"{self.name} bring captions of their own: write {OWN}, not {policy!r}.")

    def ahead(self) -> str:
        """What must be fetched by hand before, as a sentence; empty if that is nothing, or not known."""
        return ""

    def disk(self) -> float:
        """The rows of the index."""
        return float(shards.ROW.itemsize * self.expected())

    def expected(self) -> int:
        """The declared number."""
        return self.source.samples or 0


class Shards(Own):
    """An index over tar shards."""

    name: ClassVar[str] = "shards"
    kind: Literal["shards"] = "shards"
    version: int = 3
    source: shards.ShardsConfig
    kept: str = Field("", description="digest of the list of uids: another list is another corpus")

    def open(
        self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = OWN
    ) -> shards.Shards:
        """The shards as a source."""
        del splits, captions
        return shards.Shards(self.folder(runtime) / "index", Path(self.source.root).expanduser())

    def ahead(self) -> str:
        """What of the declared number is not downloaded yet, with its disk and time."""
        return download.ahead(Path(self.source.root).expanduser(), self.expected()) if self.expected() else ""


class Pairs(Own):
    """An index over a folder, a table of paths, or a data set of Hugging Face."""

    name: ClassVar[str] = "pairs"
    kind: Literal["pairs"] = "pairs"
    version: int = 1
    source: listed.AnyPairs

    def open(
        self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = OWN
    ) -> pairs.Pairs:
        """The pairs as a source."""
        del splits, captions
        return pairs.Pairs(self.folder(runtime) / "index", *self.source.places())

    def disk(self) -> float:
        """The rows of the index, and pictures that are copied into it."""
        return super().disk() + self.source.copies()


AnyCorpus = Annotated[Corpus | Shards | Pairs, Field(discriminator="kind")]
AnySource = Annotated[glyphs.GlyphsConfig | AnyOwn, Field(discriminator="kind")]


def corpus_of(source: glyphs.GlyphsConfig | AnyOwn) -> Corpus | Shards | Pairs:
    """The stage that makes a source ready."""
    if isinstance(source, glyphs.GlyphsConfig):
        return Corpus(source=source)
    if isinstance(source, listed.PairsConfig):
        return Pairs(source=source)
    return Shards(source=source, kept="" if source.keep is None else listing(Path(source.keep).expanduser()))


def guess(path: Path) -> AnyOwn:
    """What kind of pairs lie somewhere: tars, a data set of Hugging Face, a table, else a folder.

    Raises:
        UserError: nothing lies there.
    """
    if not path.exists():
        raise UserError(
            f"There is no {path}: give a folder of tars, of pictures or of Hugging Face's files, or a table."
        )
    # Tars come first: img2dataset puts parquet beside them.
    if path.is_dir() and has_shards(path):
        return shards.ShardsConfig(root=str(path))
    if path.is_file():
        held = path.suffix in (".parquet", ".arrow")
        return listed.HuggingFaceConfig(path=str(path)) if held else listed.TableConfig(file=str(path))
    held = hugging.is_saved(path) or bool(hugging.parquets(path)) or any(path.glob("*.arrow"))
    return listed.HuggingFaceConfig(path=str(path)) if held else listed.FolderConfig(root=str(path))


def build(source: AnyOwn, folder: Path, workers: int) -> shards.IndexMeta | pairs.PairsMeta:
    """The index of one's own pairs; of several processes one builds it, and the others wait.

    Args:
        source: where they lie and what is read of them.
        folder: gets the index.
        workers: threads.

    Raises:
        UserError: see ``shards.build_index`` and ``pairs.build_pairs``.
    """
    make_folder(folder)
    with locked(folder, "the index"):
        if isinstance(source, listed.PairsConfig):
            return pairs.build_pairs(source, folder, workers)
        return shards.build_index(source, folder, workers)


def listing(path: Path) -> str:
    """The digest of a list of uids as it is now; of one that is not there yet, nothing.

    Raises:
        UserError: the list cannot be read.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return ""
    return _digest_of(path, changed)


@functools.lru_cache
def _digest_of(path: Path, changed: int) -> str:
    """Once a process as long as the file does not change: ten million uids take a while."""
    del changed
    return read_uids(path).digest
