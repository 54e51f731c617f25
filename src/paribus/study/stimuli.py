"""The stage that makes the pictures of the built-in tasks: scenes, counts, conflicts, pairs, corruptions."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file, save_file

from paribus.data.glyphs import Glyphs
from paribus.files import whole_file
from paribus.progress import progress
from paribus.rng import numpy_rng
from paribus.stimuli.corruptions import CORRUPTIONS, STANDARD, corrupt, corruption_rng
from paribus.stimuli.sets import Correspondences, conflicts, correspondences, counts, scenes
from paribus.stimuli.sets import Stimuli as Sets
from paribus.study.corpora import ALL, Corpus
from paribus.study.stage import Stage
from paribus.types import Config, Runtime


class Sizes(Config):
    """How many pictures of each kind are made."""

    scenes_train: int = Field(1200, ge=40)
    scenes_test: int = Field(400, ge=20)
    counts_train: int = Field(1600, ge=80)
    counts_test: int = Field(800, ge=40)
    conflicts: int = Field(600, ge=20)
    pairs: int = Field(300, ge=20, description="of correspondence")
    corrupted: int = Field(240, ge=20, description="drawings, each with every corruption")
    severities: tuple[int, ...] = Field((1, 3, 5), min_length=1)


class StimuliRecord(Config):
    """How many there are."""

    pictures: dict[str, int]


class Made(NamedTuple):
    """Pictures and what is known of them."""

    arrays: dict[str, NDArray[Any]]
    columns: dict[str, NDArray[Any]]


class Stimuli(Stage[StimuliRecord]):
    """Pictures made of the corpus, the same for every encoder."""

    name: ClassVar[str] = "stimuli"
    version: int = 1
    corpus: Corpus
    sizes: Sizes = Sizes()
    seed: int = 0

    def compute(self, folder: Path, runtime: Runtime) -> StimuliRecord:
        """Write ``NAME.safetensors`` and ``NAME.parquet`` for each kind."""
        corpus, size, sizes = self.corpus.open(runtime, ALL), self.corpus.source.size, self.sizes
        makers = {
            "scenes": lambda: _of(scenes(corpus, size, sizes.scenes_train, sizes.scenes_test, self.seed)),
            "counts": lambda: _of(counts(corpus, size, sizes.counts_train, sizes.counts_test, self.seed)),
            "conflicts": lambda: _of(conflicts(corpus, size, sizes.conflicts, self.seed)),
            "pairs": lambda: _of(correspondences(corpus, size, sizes.pairs, self.seed)),
            "corrupted": lambda: _corrupted(corpus, sizes, self.seed, runtime.workers),
        }
        made: dict[str, int] = {}
        for kind in progress(list(makers), label="Making stimuli", unit="kind"):
            arrays, columns = makers[kind]()
            with whole_file(folder / f"{kind}.safetensors") as path:
                save_file(arrays, path)
            with whole_file(folder / f"{kind}.parquet") as path:
                pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), path)
            made[kind] = len(next(iter(columns.values())))
        return StimuliRecord(pictures=made)

    def open(self, kind: str, runtime: Runtime) -> Made:
        """One kind."""
        table = pq.read_table(self.folder(runtime) / f"{kind}.parquet")
        columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
        return Made(load_file(self.folder(runtime) / f"{kind}.safetensors"), columns)

    def disk(self) -> float:
        """The pixels."""
        sizes, each = self.sizes, 3.0 * self.corpus.source.size**2
        corrupted = sizes.corrupted * len(STANDARD) * len(sizes.severities)
        scenes = (sizes.scenes_train + sizes.scenes_test) * 4 / 3
        plain = sizes.counts_train + sizes.counts_test + sizes.conflicts + 2 * sizes.pairs
        return each * (scenes + plain + corrupted)


def _of(made: Sets | Correspondences) -> Made:
    """What a maker gave: its columns are a table, its arrays of one row a picture are pictures."""
    fields = made._asdict()
    columns = dict(fields.pop("columns", {}))
    arrays = {}
    for name, value in fields.items():
        if isinstance(value, np.ndarray) and value.ndim > 1:
            arrays[name] = np.ascontiguousarray(value)
        elif value is not None:
            columns[name] = np.asarray(value)
    return Made(arrays, columns)


def _corrupted(corpus: Glyphs, sizes: Sizes, seed: int, workers: int) -> Made:
    """Drawings of unseen things, each with every corruption at some severities."""
    columns = corpus.columns
    eligible = np.flatnonzero((columns["kind"] == "emoji") & (columns["split"] == "test"))
    rows = np.sort(numpy_rng(seed, "corrupted").permutation(eligible)[: sizes.corrupted])
    wanted = [
        (int(row), name, severity) for row in rows for name in STANDARD for severity in sizes.severities
    ]

    def made(want: tuple[int, str, int]) -> UInt8[np.ndarray, "H W 3"]:
        row, name, severity = want
        rng = corruption_rng(seed, str(columns["key"][row]), name, severity)
        return corrupt(corpus.image(row), name, severity, rng)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        images = np.stack(list(pool.map(made, wanted)))
    row, name, severity = (np.array(column) for column in zip(*wanted, strict=True))
    family = np.array([CORRUPTIONS[each].family for each in name])
    return Made({"images": images}, {"row": row, "corruption": name, "family": family, "severity": severity})
