"""The stage that puts one encoder through all built-in tasks, whatever it was trained by."""

import functools
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file, save_file
from scipy import sparse

from paribus.encoders.eye import EyeAbout
from paribus.files import whole_file
from paribus.probes.linear import GRID, Grid
from paribus.probes.metrics import Kind, Tally, estimate
from paribus.stimuli.scenes import CLASSES
from paribus.study.corpora import ALL
from paribus.study.evaluate import labels_of
from paribus.study.seeing import AnyLooker, Seen, anywhere, eye_of, look_at_all, window_of
from paribus.study.stage import Stage
from paribus.study.stimuli import Stimuli
from paribus.study.tasks import (
    RECOGNITION,
    Learning,
    Outcome,
    conflict,
    correspondence,
    counting,
    reading,
    recognition,
    robustness,
    segmentation,
)
from paribus.types import Config, Runtime


class Ability(Config):
    """One task."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    chance: float | None
    kind: Kind


class AbilitiesRecord(Config):
    """All tasks that the encoder can be asked."""

    about: EyeAbout
    results: list[Ability]


class Asked(NamedTuple):
    """What an encoder did: each task's result, and what each unit contributed."""

    results: list[Ability]
    tallies: dict[str, Tally]


class Abilities(Stage[AbilitiesRecord]):
    """What a frozen encoder can be used for: recognition, reading, counting, robustness, dense tasks."""

    name: ClassVar[str] = "abilities"
    version: int = 2
    encoder: AnyLooker
    stimuli: Stimuli
    precision: Literal["bf16", "fp32"]
    grid: Grid = Field(GRID, description="in principal axes")
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> AbilitiesRecord:
        """Ask everything; ``sums.safetensors`` holds what each unit contributes, for paired comparisons.

        Raises:
            UserError: the encoder cannot be opened, or sees what is not finite.
        """
        eye = eye_of(self.encoder, runtime).to(runtime.torch_device)
        outcomes = [one for one in self._outcomes(eye, runtime) if np.isfinite(one.tally.point())]
        sums = {outcome.task: outcome.tally.sums.toarray() for outcome in outcomes}
        with whole_file(folder / "sums.safetensors") as path:
            save_file(sums, path)
        return AbilitiesRecord(
            about=anywhere(eye.about), results=[self._ability(outcome) for outcome in outcomes]
        )

    def _ability(self, outcome: Outcome) -> Ability:
        found = estimate(outcome.tally, seed=self.seed)
        return Ability(
            task=outcome.task,
            metric=outcome.metric,
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            unit=outcome.unit,
            chance=outcome.chance,
            kind=outcome.tally.kind,
        )

    def _outcomes(self, eye: Any, runtime: Runtime) -> list[Outcome]:
        learning = Learning(self.grid, self.seed, str(runtime.torch_device))
        look = functools.partial(look_at_all, eye, runtime=runtime, half=self.precision == "bf16")
        corpus = self.stimuli.corpus.open(runtime, ALL)
        columns, vectors = labels_of(corpus), look(corpus.image, len(corpus), label="corpus").vectors
        told = [recognition(task, columns, vectors, learning) for task in RECOGNITION]
        group = told[0][1]
        made = {kind: self.stimuli.open(kind, runtime) for kind in ("counts", "conflicts", "corrupted")}
        seen = {kind: _seen(look, one.arrays["images"], kind).vectors for kind, one in made.items()}
        return [
            *(outcome for outcome, _ in told),
            *reading(columns, vectors, learning),
            counting(made["counts"], seen["counts"], learning),
            conflict(made["conflicts"], seen["conflicts"], group),
            *robustness(made["corrupted"], columns, seen["corrupted"], group),
            *self._dense(eye, look, learning, runtime),
        ]

    def _dense(self, eye: Any, look: Any, learning: Learning, runtime: Runtime) -> list[Outcome]:
        """What patches tell, where an encoder has any."""
        scenes, pairs = (self.stimuli.open(kind, runtime) for kind in ("scenes", "pairs"))
        patches = _seen(look, scenes.arrays["images"], "scenes", patches=True).patches
        if patches is None:
            return []
        window = window_of(eye)
        source, target = (
            _seen(look, pairs.arrays[name], "pairs", patches=True).patches for name in ("source", "target")
        )
        assert source is not None and target is not None  # as scenes had them
        return [
            segmentation(scenes, patches, len(CLASSES), window, learning),
            correspondence(pairs, source, target, window),
        ]

    def asked(self, runtime: Runtime) -> Asked:
        """What came of it; the stage must have run."""
        sums: dict[str, NDArray[np.float64]] = load_file(self.folder(runtime) / "sums.safetensors")
        results = self.run(runtime).results
        return Asked(
            results, {one.task: Tally(sparse.csr_array(sums[one.task]), one.kind) for one in results}
        )


def _seen(look: Any, images: NDArray[np.uint8], label: str, *, patches: bool = False) -> Seen:
    found: Seen = look(images.__getitem__, len(images), label=label, patches=patches)
    return found
