"""The stages that classify: what can be read off frozen features, and how each outcome is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from paribus import stats
from paribus.files import whole_file
from paribus.probes.knn import knn_predict
from paribus.probes.linear import Grid, Setting, fit_grid
from paribus.progress import progress
from paribus.study.corpora import ALL, Split
from paribus.study.evaluate import Extract, labels_of
from paribus.study.stage import Stage
from paribus.types import Config, Runtime


class Task(NamedTuple):
    """A labelling of the corpus: which pictures, which label, what is held out."""

    name: str
    column: str
    kinds: tuple[str, ...]
    test: Split
    groups: str
    """Validation is carved from train by whole groups of this column."""


TASKS = (
    Task("group", "group", ("emoji",), "test", "concept"),
    Task("subgroup", "subgroup", ("emoji",), "test", "concept"),
    Task("style", "style", ("emoji",), "test", "concept"),
    Task("colour", "colour", ("emoji", "icon"), "test", "concept"),
    Task("word, unseen font", "text", ("word",), "redraw", "style"),
    Task("first letter, unseen word", "letter", ("word",), "test", "concept"),
)
"""Thing, style, colour and written word: all scored on concepts, fonts or words no encoder was trained on."""


def labelled(
    columns: dict[str, NDArray[Any]], column: str, kinds: Sequence[str], split: Split
) -> NDArray[np.intp]:
    """The pictures of some kinds and one split that have a label in a column."""
    usable = np.isin(columns["kind"], kinds) & (columns[column] != "")
    return np.flatnonzero(usable & (columns["split"] == split))


class ProbeResult(Config):
    """One task by one probe."""

    task: str
    probe: Literal["linear", "knn", "zeroshot"]
    value: float
    low: float
    high: float
    concepts: int
    images: int
    chance: float
    chosen: Setting | None


class ProbeRecord(Config):
    """All tasks."""

    results: list[ProbeResult]


class Score(NamedTuple):
    """One task's result, and each picture's outcome."""

    result: ProbeResult
    answers: dict[str, NDArray[Any]]


def scored(
    task: str,
    probe: Literal["linear", "knn", "zeroshot"],
    correct: Bool[np.ndarray, " N"],
    chance: float,
    pictures: dict[str, NDArray[Any]],
    seed: int,
    chosen: Setting | None = None,
) -> Score:
    """Accuracy with its interval, resampled by concept.

    Args:
        task: its name.
        probe: what answered.
        correct: each picture's outcome.
        chance: what guessing gives.
        pictures: their columns key and concept.
        seed: of the resampling.
        chosen: the probe's setting.
    """
    estimate = stats.bootstrap_mean(correct.astype(np.float64), clusters=pictures["concept"], seed=seed)
    result = ProbeResult(
        task=task,
        probe=probe,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        concepts=estimate.n,
        images=len(correct),
        chance=chance,
        chosen=chosen,
    )
    fixed = {"task": np.full(len(correct), task), "probe": np.full(len(correct), probe)}
    return Score(result, fixed | pictures | {"correct": correct})


class Scored(Stage[ProbeRecord]):
    """A stage that classifies test pictures: each outcome is kept beside the record."""

    def keep(self, scores: Sequence[Score], folder: Path) -> ProbeRecord:
        """Write ``answers.parquet``."""
        rows = [score.answers for score in scores]
        table = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        with whole_file(folder / "answers.parquet") as path:
            pq.write_table(pa.table({name: pa.array(column) for name, column in table.items()}), path)
        return ProbeRecord(results=[score.result for score in scores])

    def answers(self, runtime: Runtime) -> dict[str, NDArray[Any]]:
        """Columns task, probe, key, concept, correct."""
        table = pq.read_table(self.folder(runtime) / "answers.parquet")
        return {name: np.array(table[name].to_pylist()) for name in table.column_names}


class Probe(Scored):
    """What can be read off the frozen features: linear probe and kNN, scored once."""

    name: ClassVar[str] = "probe"
    version: int = 2
    features: Extract
    grid: Grid = Grid()
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> ProbeRecord:
        """Probe every task; ``answers.parquet`` holds each test picture's outcome, for paired comparisons."""
        source = self.features.corpus.open(runtime, ALL)
        labels, features = labels_of(source), self.features.open(runtime)["images"]
        scores = [
            score
            for task in progress(TASKS, label="probes", unit="task")
            for score in self._task(task, labels, features, runtime)
        ]
        return self.keep(scores, folder)

    def _task(
        self,
        task: Task,
        labels: dict[str, NDArray[Any]],
        features: Float32[np.ndarray, "N D"],
        runtime: Runtime,
    ) -> list[Score]:
        train = labelled(labels, task.column, task.kinds, "train")
        classes, train_y = np.unique(labels[task.column][train], return_inverse=True)
        test = labelled(labels, task.column, task.kinds, task.test)
        test = test[np.isin(labels[task.column][test], classes)]
        test_y = np.searchsorted(classes, labels[task.column][test])
        probe = fit_grid(
            features[train],
            train_y.astype(np.int64),
            labels[task.groups][train],
            len(classes),
            self.grid,
            self.seed,
            device=str(runtime.torch_device),
        )
        voted = knn_predict(
            features[train], train_y.astype(np.int64), features[test], device=str(runtime.torch_device)
        )
        chance = float(np.mean(test_y == np.bincount(train_y).argmax()))
        picked = {name: labels[name][test] for name in ("key", "concept")}
        read = probe.predict(features[test]) == test_y
        return [
            scored(task.name, "linear", read, chance, picked, self.seed, probe.chosen),
            scored(task.name, "knn", voted == test_y, chance, picked, self.seed),
        ]
