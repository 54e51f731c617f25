"""The stages that make training data ready: the built-in corpus, and an index over one's own shards."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from paribus.data import art as art_module
from paribus.data import glyphs, shards
from paribus.data.captions import find_policy
from paribus.data.uids import read_uids
from paribus.errors import UserError
from paribus.files import sha256
from paribus.results import Attribution
from paribus.study.stage import Stage
from paribus.types import Config, Runtime

Split = Literal["train", "redraw", "test"]
OWN = "own"
"""The caption policy of data that brings its captions along."""
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

    def disk(self) -> float:
        """The art, and every picture."""
        return ART_BYTES + 3.0 * self.source.size**2 * self.expected()

    def expected(self) -> int:
        """About how many samples there will be, where costs are predicted."""
        return glyphs.ABOUT


class ShardsRecord(Config):
    """What the shards hold."""

    digest: str
    counts: dict[str, int]


class Shards(Stage[ShardsRecord]):
    """An index over tar shards, which stay where they lie. Captions are the files' own."""

    name: ClassVar[str] = "shards"
    kind: Literal["shards"] = "shards"
    version: int = 2
    source: shards.ShardsConfig
    kept: str = Field("", description="digest of the list of uids: another list is another corpus")

    def compute(self, folder: Path, runtime: Runtime) -> ShardsRecord:
        """Read every shard once."""
        meta = shards.build_index(self.source, folder / "index", runtime.workers)
        mended = {f"captions {how}": count for how, count in meta.mended.items()}
        return ShardsRecord(digest=meta.digest, counts={"train": meta.samples, **meta.left_out, **mended})

    def open(
        self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = OWN
    ) -> shards.Shards:
        """The shards as a source; all of it is for training."""
        del splits, captions
        return shards.Shards(self.folder(runtime) / "index", Path(self.source.root))

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
            raise UserError(f"shards bring captions of their own: write {OWN}, not {policy!r}.")

    def disk(self) -> float:
        """The index; the shards themselves are not copied."""
        return float(shards.ROW.itemsize * self.expected())

    def expected(self) -> int:
        """The declared number."""
        return self.source.samples or 0


AnyCorpus = Annotated[Corpus | Shards, Field(discriminator="kind")]
AnySource = Annotated[glyphs.GlyphsConfig | shards.ShardsConfig, Field(discriminator="kind")]


def corpus_of(source: glyphs.GlyphsConfig | shards.ShardsConfig) -> Corpus | Shards:
    """The stage that makes a source ready."""
    if isinstance(source, glyphs.GlyphsConfig):
        return Corpus(source=source)
    return Shards(source=source, kept="" if source.keep is None else listed(Path(source.keep).expanduser()))


def listed(path: Path) -> str:
    """The digest of a list of uids as it is now; of one that is not there yet, nothing.

    Raises:
        UserError: the list cannot be read.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return ""
    return _listed(path, changed)


@functools.lru_cache
def _listed(path: Path, changed: int) -> str:
    """Once a process as long as the file does not change: ten million uids take a while."""
    del changed
    return read_uids(path).digest
