"""The built-in tasks: what is read off an encoder's features, and how each is scored.

Every task is scored on things, fonts or words that no encoder trained on, and in units that are independent:
concepts, words or scenes. A task gives a ``Tally``, so that any two encoders can be compared unit by unit.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray

from paribus.probes.dense import Window, confusions, grid_of, match, patch_labels
from paribus.probes.heads import Score, accuracies, mean_ious
from paribus.probes.linear import Grid, Probe, fit_choices
from paribus.probes.metrics import Tally, accuracy, mean_iou, ratio
from paribus.rng import numpy_rng
from paribus.stimuli.reading import LETTERS, written
from paribus.study.probing import TASKS, Task, labelled
from paribus.study.stimuli import Made

NEAR = 0.1
"""How far a match may lie from the truth, in shares of the picture's side (PCK@0.1)."""
MOST_PATCHES = 40_000
"""Patches that segmentation is learnt from."""

LEANING = "share decided by shape"
"""The metric of a task at which more is not better."""

Columns = dict[str, NDArray[np.generic]]
Vectors = Float32[np.ndarray, "N D"]


class Outcome(NamedTuple):
    """How an encoder did at one task."""

    task: str
    metric: str
    tally: Tally
    unit: str
    chance: float | None


class Learning(NamedTuple):
    """How linear probes are trained here."""

    grid: Grid
    seed: int
    device: str

    def fit(
        self,
        x: Vectors,
        y: Int64[np.ndarray, " N"],
        groups: NDArray[np.generic],
        classes: int,
        score: Score = accuracies,
    ) -> Probe:
        """One probe, its setting chosen on held-out groups."""
        made = fit_choices(
            {"": x},
            y,
            groups,
            classes,
            self.grid,
            self.seed,
            device=self.device,
            axes="principal",
            score=score,
        )
        return made.probe


class Recognised(NamedTuple):
    """A probe of one of the corpus' columns, and its classes."""

    probe: Probe
    classes: NDArray[np.generic]

    def right(self, x: Vectors, labels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Whether each picture is told rightly."""
        found: NDArray[np.bool_] = self.classes[self.probe.predict(x)] == labels
        return found


RECOGNITION = TASKS[:5]
"""Group, subgroup, style, colour, and whole words."""


def recognition(
    task: Task, columns: Columns, vectors: Vectors, learning: Learning
) -> tuple[Outcome, Recognised]:
    """One of the corpus' columns, read off by a linear probe."""
    train = labelled(columns, task.column, task.kinds, "train")
    classes, known = np.unique(columns[task.column][train], return_inverse=True)
    probe = learning.fit(vectors[train], known.astype(np.int64), columns[task.groups][train], len(classes))
    test = labelled(columns, task.column, task.kinds, task.test)
    test = test[np.isin(columns[task.column][test], classes)]
    truth = columns[task.column][test]
    read = Recognised(probe, classes)
    chance = float(np.mean(truth == classes[np.bincount(known).argmax()]))
    tally = accuracy(read.right(vectors[test], truth), columns["concept"][test])
    return Outcome(task.name, "linear-probe accuracy", tally, "concepts", chance), read


def reading(columns: Columns, vectors: Vectors, learning: Learning) -> list[Outcome]:
    """Letters of words that were never seen, in fonts that were never seen: a probe for each place."""
    found = written(columns)
    train, test = found.split == "train", found.split == "test"
    letters = found.targets.astype(np.int64)
    known, truth, x = letters[train], letters[test], vectors[found.rows]
    probes = (learning.fit(x[train], place, found.word[train], len(LETTERS) + 1) for place in known.T)
    said = np.stack([probe.predict(x[test]) for probe in probes], axis=1)
    there = truth > 0
    frequent = np.array([np.bincount(place[place > 0]).argmax() for place in known.T])
    chance = float(((truth == frequent) & there).sum() / there.sum())
    by_word = found.word[test]
    hits = ((said == truth) & there).sum(axis=1).astype(np.float64)
    characters = ratio(hits, there.sum(axis=1).astype(np.float64), by_word)
    whole = accuracy((said == truth).all(axis=1), by_word)
    return [
        Outcome("letters, unseen word", "character accuracy", characters, "words", chance),
        Outcome("whole unseen word", "word accuracy", whole, "words", 0.0),
    ]


def counting(made: Made, vectors: Vectors, learning: Learning) -> Outcome:
    """How many things there are."""
    train, test = (np.flatnonzero(made.columns["split"] == part) for part in ("train", "test"))
    numbers = made.columns["count"].astype(np.int64)
    probe = learning.fit(
        vectors[train], numbers[train], made.columns["concept"][train], int(numbers.max()) + 1
    )
    right = probe.predict(vectors[test]) == numbers[test]
    chance = float(np.mean(numbers[test] == np.bincount(numbers[train]).argmax()))
    return Outcome(
        "counting",
        "linear-probe accuracy",
        accuracy(right, made.columns["concept"][test]),
        "concepts",
        chance,
    )


def conflict(made: Made, vectors: Vectors, group: Recognised) -> Outcome:
    """Of pictures called by their shape or by their texture, the share called by shape (Geirhos 2019)."""
    said = group.classes[group.probe.predict(vectors)]
    by_shape, by_texture = said == made.columns["shape"], said == made.columns["texture"]
    decided = (by_shape | by_texture).astype(np.float64)
    tally = ratio(by_shape.astype(np.float64), decided, made.columns["shape_concept"])
    return Outcome("shape against texture", LEANING, tally, "concepts", 0.5)


def robustness(made: Made, columns: Columns, vectors: Vectors, group: Recognised) -> list[Outcome]:
    """The group of a thing under each family of corruptions; the probe was trained on clean pictures."""
    rows = made.columns["row"].astype(np.int64)
    right = group.right(vectors, columns["group"][rows])
    outcomes = []
    for family in dict.fromkeys(made.columns["family"].tolist()):
        some = made.columns["family"] == family
        tally = accuracy(right[some], columns["concept"][rows[some]])
        outcomes.append(Outcome(f"group under {family}", "linear-probe accuracy", tally, "concepts", None))
    return outcomes


def segmentation(
    made: Made, patches: Float32[np.ndarray, "N P D"], classes: int, window: Window, learning: Learning
) -> Outcome:
    """What each pixel shows, by a linear probe on patches."""
    masks: UInt8[np.ndarray, "N H W"] = made.arrays["masks"]
    train, test = (np.flatnonzero(made.columns["split"] == part) for part in ("train", "test"))
    labels = patch_labels(masks[train], grid_of(patches.shape[1]), window)
    scene = np.repeat(train, patches.shape[1]).astype(str)
    chosen = np.sort(numpy_rng(learning.seed, "patches").permutation(labels.size)[:MOST_PATCHES])
    x = patches[train].reshape(-1, patches.shape[2])[chosen]
    probe = learning.fit(x, labels.ravel()[chosen], scene[chosen], classes, mean_ious)
    logits = torch.full((len(test) * patches.shape[1], classes), -torch.inf)
    flat = torch.from_numpy(patches[test].reshape(-1, patches.shape[2]))
    weight = probe.heads.weight
    logits[:, torch.from_numpy(probe.labels)] = (
        probe.heads.logits(probe.standard(flat.to(weight.device, weight.dtype)))[:, 0].float().cpu()
    )
    logits = torch.nan_to_num(logits, neginf=-1e4)  # what is interpolated must be finite
    counted = confusions(logits.view(len(test), -1, classes), masks[test], window)
    pixels = np.stack([np.bincount(mask.ravel(), minlength=classes) for mask in masks[test]])
    counted[:, :, 0] += pixels - counted.sum(axis=2)  # what an encoder cuts off, it calls background
    nothing = np.zeros_like(counted)
    nothing[:, :, 0] = counted.sum(axis=2)  # what calling everything background gives
    return Outcome("segmentation", "mIoU", mean_iou(counted), "scenes", mean_iou(nothing).point())


def correspondence(
    made: Made,
    source: Float32[np.ndarray, "N P D"],
    target: Float32[np.ndarray, "N P D"],
    window: Window,
) -> Outcome:
    """Which place of a changed picture is the same: the share of points found within a tenth of the side."""
    side = made.arrays["source"].shape[1]
    points, truth = (made.arrays[name].astype(np.float32) / side for name in ("points", "matches"))
    found = match(torch.from_numpy(source), torch.from_numpy(target), points, window)
    seen = ((points >= window.low) & (points < window.high)).all(axis=2)
    hits = (np.linalg.norm(found - truth, axis=2) <= NEAR) & seen  # what an encoder cuts off, it misses
    asked = np.full(len(hits), float(hits.shape[1]))
    tally = ratio(hits.sum(axis=1).astype(np.float64), asked, made.columns["concepts"])
    return Outcome("correspondence", "share of points found", tally, "concepts", None)
