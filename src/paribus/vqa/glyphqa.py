"""GlyphQA: four-option questions about real drawings, written words and real tables.

The record format, the four categories and the prompt are VMCBench's (arXiv 2501.03225); the questions are
made (``questions.py``), so that training and test share no drawing, no font and no row of a table.
"""

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from paribus.data.art import Art
from paribus.data.glyphs import Glyphs, read_meta
from paribus.errors import UserError
from paribus.progress import progress
from paribus.rng import numpy_rng
from paribus.types import Config
from paribus.vqa import charts
from paribus.vqa.benchmark import LETTERS, Question
from paribus.vqa.questions import MAKERS, Pool, Split, Thing, source_of
from paribus.vqa.store import Record, Stored, record, write_records

SPLITS: tuple[Split, ...] = ("train", "test")
_CHUNK = 100
_WORTH = 10_000
"""Questions that make up for starting a process (imports, pools: about five seconds)."""


class GlyphQAConfig(Config):
    """Which questions to make."""

    kind: Literal["glyphqa"] = "glyphqa"
    size: int = Field(48, ge=32, description="side of a question's picture in pixels")
    train: int = Field(8000, ge=40, multiple_of=4, description="questions for training, equal by category")
    test: int = Field(1600, ge=40, multiple_of=4, description="questions for testing, equal by category")
    seed: int = 0


def pool_of(config: GlyphQAConfig, corpus_folder: Path, art_folder: Path, split: Split) -> Pool:
    """What a split may show: train drawings and fonts for train; redrawn things and held-out fonts for test.

    Raises:
        UserError: if the corpus or the art is missing or damaged.
    """
    art = Art(art_folder)
    shown, fonts = ("train", "train") if split == "train" else ("redraw", "heldout")
    corpus = Glyphs(corpus_folder, splits=("train",) if split == "train" else ("redraw", "test"))
    columns = corpus.columns
    emoji = np.flatnonzero((columns["kind"] == "emoji") & (columns["split"] == shown))
    names = ("concept", "name", "subgroup", "style", "colour", "background")
    reads = [
        charts.read_columns(art.table_folder, c, split) for c in (charts.TABLES, charts.STATES, charts.SERIES)
    ]
    tables, states, series = reads
    return Pool(
        [Thing(int(i), *(str(columns[name][i]) for name in names)) for i in emoji],
        keywords={str(columns["concept"][i]): frozenset(columns["keywords"][i].split(", ")) for i in emoji},
        picture=corpus.image,
        words=_words(columns, shown),
        fonts=[font.path for font in art.fonts if font.split == fonts],
        tables=tables,
        states=states,
        series=series,
        size=config.size,
    )


def _words(columns: Mapping[str, np.ndarray], seen: str) -> dict[str, dict[str, list[int]]]:
    """Source -> written word -> its pictures; words of the test split are those that training never shows."""
    words: dict[str, dict[str, list[int]]] = {"word-seen": {}, "word-unseen": {}}
    for i in np.flatnonzero(columns["kind"] == "word"):
        source = "word-seen" if columns["split"][i] == seen else "word-unseen"
        words[source].setdefault(str(columns["text"][i]), []).append(int(i))
    return words


def make(config: GlyphQAConfig, pool: Pool, split: Split, index: int) -> Question:
    """One question, a function of the configuration, the split, the index and the pool only.

    Raises:
        UserError: if the corpus is too small for it.
    """
    category, source = source_of(index, split)
    try:
        draft = MAKERS[source](pool, numpy_rng(config.seed, "glyphqa", split, index))
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(
            f"The corpus is too small for a {split} question of source {source!r} ({error}): build all of it."
        ) from error
    shuffle = numpy_rng(config.seed, "glyphqa options", split, index).permutation(4)
    given = tuple(draft.options[int(i)] for i in shuffle)
    answer = LETTERS[int(np.flatnonzero(shuffle == draft.answer)[0])]
    key = f"glyphqa-{split}-{index:06d}"
    return Question(index, draft.text, given, answer, category, draft.image, source, key)


_POOLS: dict[str, Pool] = {}


def _open_pools(config: GlyphQAConfig, corpus_folder: Path, art_folder: Path) -> None:
    """Give a worker process its pools once."""
    _POOLS.update({split: pool_of(config, corpus_folder, art_folder, split) for split in SPLITS})


def _make_chunk(config: GlyphQAConfig, split: Split, start: int, stop: int) -> list[Record]:
    return [record(make(config, _POOLS[split], split, index), split) for index in range(start, stop)]


def _chunks(config: GlyphQAConfig) -> list[tuple[Split, int, int]]:
    totals: dict[Split, int] = {"train": config.train, "test": config.test}
    return [
        (split, start, min(start + _CHUNK, totals[split]))
        for split in SPLITS
        for start in range(0, totals[split], _CHUNK)
    ]


def _make_all(config: GlyphQAConfig, corpus_folder: Path, art_folder: Path, workers: int) -> Iterator[Record]:
    """All questions in order, made here or, if they are many, in processes of their own."""
    setup = (config, corpus_folder, art_folder)
    total = config.train + config.test
    # Opened here even if others make the questions: a damaged corpus must say so, not break a process.
    _open_pools(*setup)
    workers = min(workers, total // _WORTH)
    chunks = _make_here(config) if workers <= 1 else _make_in_processes(setup, workers)
    bar: tqdm[Any] = progress(label="Making questions", total=total, unit="question")
    try:
        with bar:
            for records in chunks:
                yield from records
                bar.update(len(records))
    finally:
        _POOLS.clear()


def _make_here(config: GlyphQAConfig) -> Iterator[list[Record]]:
    return (_make_chunk(config, *chunk) for chunk in _chunks(config))


def _make_in_processes(setup: tuple[GlyphQAConfig, Path, Path], workers: int) -> Iterator[list[Record]]:
    # Spawned, not forked: a forked child of a process with torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    splits, starts, stops = zip(*_chunks(setup[0]), strict=True)
    with ProcessPoolExecutor(workers, context, _open_pools, setup) as processes:
        try:
            yield from processes.map(_make_chunk, [setup[0]] * len(splits), splits, starts, stops)
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def build(
    config: GlyphQAConfig, corpus_folder: Path, art_folder: Path, out_folder: Path, workers: int
) -> None:
    """Make all questions and write them whole or not at all: images.bin, table.parquet, meta.json.

    Args:
        config: which questions.
        corpus_folder: a built glyphs corpus.
        art_folder: the art with its fonts and tables.
        out_folder: where to write; replaced if it is there.
        workers: processes, at most one for every 10,000 questions; the questions do not depend on it.

    Raises:
        UserError: if the corpus or the art is missing, damaged or too small, ``out_folder`` holds something
            else, or the disk is full.
    """
    about = {"config": config.model_dump(), "corpus": read_meta(corpus_folder).digest}
    write_records(_make_all(config, corpus_folder, art_folder, workers), out_folder, about)


class GlyphQA(Stored):
    """One split's questions.

    Args:
        folder: where ``build`` wrote them.
        split: ``"train"`` or ``"test"``.

    Raises:
        UserError: if the split is unknown, or a file is missing or damaged.
    """

    def __init__(self, folder: Path, split: str) -> None:
        if split not in SPLITS:
            raise UserError(f"GlyphQA has no split {split!r}: choose one of {', '.join(SPLITS)}.")
        super().__init__(folder, split)

    def again(self) -> str:
        """What to do about damage: the folder above is the stage's, which a study makes anew."""
        return f"delete {self.folder.parent} and run the study again, which makes the questions anew"
