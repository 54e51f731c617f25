"""The stage that reads labels off what an encoder saw of a dataset, and how it is scored.

What is chosen is chosen on pictures out of train (or on the publisher's validation part), what is learnt is
then learnt on both, and the test part is scored once. Sets that the dataset is shifted to (ImageNetV2,
CIFAR-10.1) are told by the same probe.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from pydantic import Field, model_validator

from paribus import stats
from paribus.errors import UserError
from paribus.probes.as_published import DEFECTS, fit_as_published
from paribus.probes.fewshot import few_shot
from paribus.probes.heads import Affine
from paribus.probes.knn import NEIGHBOURS, TEMPERATURE, knn_predict
from paribus.probes.linear import GRID, fit_choices
from paribus.probes.logistic import fit_logistic
from paribus.stats import Estimate
from paribus.study.labelled import CLASS, LabelledRecord, Look, Looked
from paribus.study.outcomes import Answered, Asked, JudgeRecord, keep_answers, scores_of
from paribus.study.stage import AnyStage
from paribus.types import Runtime

BORDER = ("what was chosen lies on the border of what was tried: better may lie beyond",)

How = Literal["linear", "as-published", "logistic", "knn"]


class Told(NamedTuple):
    """What is said of each picture: a class, and how probable it is said to be."""

    answers: Int64[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"] | None


class Reader(NamedTuple):
    """Something that was learnt, and what is to be told of how."""

    tell: Callable[[Looked], Told]
    notes: tuple[str, ...]
    learnt: int
    """Pictures that it was learnt from."""


class Lesson(NamedTuple):
    """What there is to learn from."""

    train: Looked
    val: Looked | None
    test: Looked
    """Only the recipe that is repeated as published looks at it."""
    classes: int
    seed: int
    device: str

    def joined(self, reading: str) -> Float[np.ndarray, "N _"]:
        """Train and validation pictures."""
        parts = [part.readings[reading] for part in (self.train, self.val) if part is not None]
        return np.concatenate(parts)

    @property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """Their labels."""
        return np.concatenate([part.labels for part in (self.train, self.val) if part is not None])

    @property
    def validation(self) -> Bool[np.ndarray, " N"] | None:
        """Which of them are the publisher's validation part; None if there is none."""
        return None if self.val is None else np.arange(len(self.labels)) >= len(self.train.labels)

    @property
    def each(self) -> NDArray[np.str_]:
        """Every picture is a group of its own."""
        return np.arange(len(self.labels)).astype(str)


def linear(lesson: Lesson) -> Reader:
    """A linear probe: reading, rate and decay are chosen at once."""
    readings = {name: lesson.joined(name) for name in lesson.train.readings}
    chosen = fit_choices(
        readings,
        lesson.labels,
        lesson.each,
        lesson.classes,
        GRID,
        lesson.seed,
        validation=lesson.validation,
        device=lesson.device,
        axes="principal",
    )
    probe, best = chosen.probe, chosen.probe.chosen
    told = (
        f"chosen among {len(chosen.tried)} settings on {probe.validation:,} pictures out of train: "
        f"{chosen.choice}, learning rate {best.lr:g}, weight decay {best.weight_decay:g} "
        f"({100 * best.score:.1f}%)"
    )
    more = BORDER if chosen.edge else ()
    return Reader(lambda seen: _by(probe, seen.readings[chosen.choice]), (told, *more), len(lesson.labels))


def logistic(lesson: Lesson) -> Reader:
    """Logistic regression at the optimum of its regularised loss, on the class token."""
    probe = fit_logistic(
        lesson.joined(CLASS),
        lesson.labels,
        lesson.each,
        lesson.classes,
        seed=lesson.seed,
        validation=lesson.validation,
        device=lesson.device,
    )
    told = (
        f"C = {probe.chosen.strength:g}, chosen on {probe.validation:,} pictures out of train "
        f"({100 * probe.chosen.accuracy:.1f}%)"
    )
    more = BORDER if probe.edge else ()
    return Reader(lambda seen: _by(probe, seen.readings[CLASS]), (told, *more), len(lesson.labels))


def as_published(lesson: Lesson) -> Reader:
    """The recipe of leo1oel/ViT-linear-probing, with its defects, for comparison alone."""
    found = fit_as_published(
        lesson.train.readings[CLASS],
        lesson.train.labels,
        lesson.test.readings[CLASS],
        lesson.test.labels,
        lesson.classes,
        lesson.seed,
        device=lesson.device,
    )

    def tell(seen: Looked) -> Told:
        del seen  # its own test part, and no other
        return Told(found.answers, None)

    return Reader(tell, DEFECTS, len(lesson.train.labels))


def knn(lesson: Lesson) -> Reader:
    """DINO's weighted vote of the nearest pictures, on the class token; nothing is chosen."""
    x, y = lesson.joined(CLASS), lesson.labels
    k = min(NEIGHBOURS, len(y))
    told = f"{k} neighbours by cosine, each voting exp(cosine / {TEMPERATURE}); nothing is chosen"

    def tell(seen: Looked) -> Told:
        return Told(knn_predict(x, y, seen.readings[CLASS], device=lesson.device), None)

    return Reader(tell, (told,), len(y))


def _by(probe: Affine, x: Float[np.ndarray, "N _"]) -> Told:
    given = probe.probabilities(x)
    best = given.argmax(axis=1)
    return Told(np.take(probe.labels, best), given[np.arange(len(best)), best].astype(np.float64))


HOW: dict[How, Callable[[Lesson], Reader]] = {
    "linear": linear,
    "as-published": as_published,
    "logistic": logistic,
    "knn": knn,
}


class Judge(Asked):
    """Labels read off what one encoder saw of a dataset."""

    name: ClassVar[str] = "judge"
    version: int = 1
    look: Look
    shifted: tuple[Look, ...] = Field((), description="the same encoder on sets that are only tested on")
    how: How = "linear"

    @model_validator(mode="after")
    def _told_of_all(self) -> "Judge":
        if self.shifted and self.how == "as-published":
            raise UserError("The published recipe reports its own test part alone: leave --shift out.")
        return self

    def inputs(self) -> Iterator[AnyStage]:
        """What was seen of the dataset, and of what it is shifted to."""
        yield self.look
        yield from self.shifted

    def compute(self, folder: Path, runtime: Runtime) -> JudgeRecord:
        """Learn and score; ``answers.parquet`` has every test picture's outcome.

        Raises:
            UserError: the dataset has nothing to learn from, or a shifted set has other classes.
        """
        about = self.look.dataset.run(runtime)
        lesson = self._lesson(about, runtime)
        reader = HOW[self.how](lesson)
        frequent = int(np.bincount(lesson.labels).argmax())
        sets, rows, notes = [], [], [*reader.notes, *self._told(runtime)]
        for place, (look, name) in enumerate(
            zip((self.look, *self.shifted), self._names(runtime), strict=True)
        ):
            seen, truth = self._tested(look, about, runtime)
            if place:
                notes += self._learnt_too(name, look, seen, lesson, runtime)
            told = reader.tell(seen)
            answered = Answered(seen.keys, truth, told.answers, told.confidence)
            sets.append(scores_of(name, answered, float(np.mean(truth == frequent)), self.seed))
            rows.append((name, answered))
        keep_answers(rows, folder)
        return JudgeRecord(sets=sets, learnt=reader.learnt, classes=len(about.classes), notes=notes)

    def _names(self, runtime: Runtime) -> list[str]:
        """What the sets are called, no two alike.

        Raises:
            UserError: a set is the dataset itself, or there twice.
        """
        looks = (self.look, *self.shifted)
        if len({look.address() for look in looks}) < len(looks):
            raise UserError("A set that the dataset is shifted to is the dataset itself, or named twice.")
        found: list[str] = []
        for look in looks:
            name = look.dataset.run(runtime).name
            found.append(name if name not in found else f"{name} ({len(found) + 1})")
        return found

    def _told(self, runtime: Runtime) -> list[str]:
        """What is to be known of the sets; of shifted ones with their names."""
        notes = [*self.look.dataset.run(runtime).notes, *self.look.run(runtime).notes]
        for name, look in zip(self._names(runtime)[1:], self.shifted, strict=True):
            notes += [
                f"{name}: {note}" for note in (*look.dataset.run(runtime).notes, *look.run(runtime).notes)
            ]
        return notes

    def _learnt_too(self, name: str, look: Look, seen: Looked, lesson: Lesson, runtime: Runtime) -> list[str]:
        """What is said of a shifted set's pictures that were learnt from.

        Raises:
            UserError: a person arranged the set, and can mend it.
        """
        parts = [part.pixels for part in (lesson.train, lesson.val) if part is not None]
        learnt = {digest for pixels in parts for digest in pixels}
        leaked = [key for key, digest in zip(seen.keys, seen.pixels, strict=True) if digest in learnt]
        if not leaked:
            return []
        many = f"{len(leaked):,} of {len(seen.keys):,}"
        told = f"{name}: {many} pictures are also learnt from, the first {leaked[0]}"
        if look.dataset.run(runtime).own:
            raise UserError(f"{told}: take them out of it.")
        return [told]

    def _lesson(self, about: LabelledRecord, runtime: Runtime) -> Lesson:
        train, val = self.look.open("train", runtime), self.look.open("val", runtime)
        test = self.look.open("test", runtime)
        if train is None or test is None:
            raise UserError(
                f"{about.name} is only tested on: give the dataset that it shifts, and it with --shift."
            )
        return Lesson(train, val, test, len(about.classes), self.seed, str(runtime.torch_device))

    def _tested(
        self, look: Look, about: LabelledRecord, runtime: Runtime
    ) -> tuple[Looked, Int64[np.ndarray, " N"]]:
        """A set's test pictures, labelled by the dataset's own classes."""
        seen, other = look.open("test", runtime), look.dataset.run(runtime)
        assert seen is not None  # every dataset has a test part
        numbered = other.indexed and all(name.isdigit() for name in other.classes)
        synsets = all(re.fullmatch(r"n\d{8}", name) for name in about.classes)
        alike = numbered and synsets and len(other.classes) == len(about.classes)
        if other.classes == about.classes or alike:
            return seen, seen.labels
        strange = [name for name in other.classes if name not in about.classes]
        if strange:
            raise UserError(
                f"{other.name} has classes that {about.name} has not ({strange[0]}): it is no shift of it."
            )
        return seen, np.array([about.classes.index(name) for name in other.classes])[seen.labels]


def few(look: Look, shots: list[int], seed: int, runtime: Runtime) -> dict[int, Estimate]:
    """Accuracy of the nearest class mean from a few training pictures a class.

    Intervals are over test pictures and over draws of the few, both resampled.

    Raises:
        UserError: the dataset has nothing to learn from, or too little of a class.
    """
    about = look.dataset.run(runtime)
    train, test = look.open("train", runtime), look.open("test", runtime)
    if train is None or test is None:
        raise UserError(f"{about.name} is only tested on: there is nothing to learn from.")
    found = {}
    for k in shots:
        right = few_shot(
            train.readings[CLASS],
            train.labels,
            test.readings[CLASS],
            test.labels,
            k,
            seed,
            names=about.classes,
        )
        nothing = np.zeros(right.shape)
        value, low, high, n = stats.crossed_difference(right.astype(np.float64), nothing, seed=seed).estimate
        found[k] = Estimate(value, max(0.0, low), min(1.0, high), n)
    return found
