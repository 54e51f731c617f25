"""A stage that trains: alone, or as one of several processes that train together."""

import json
from pathlib import Path
from typing import ClassVar, Literal

from paribus.data.loader import Loader
from paribus.objectives.base import Objective
from paribus.study.stage import CHECKPOINTS, R, Stage
from paribus.train.distributed import agreed
from paribus.train.loop import Fit, fit
from paribus.types import Budget, Recipe, Runtime


class Training(Stage[R]):
    """A stage that trains: it leaves the logged series beside its weights."""

    several: ClassVar[bool] = True
    recipe: Recipe
    budget: Budget
    precision: Literal["bf16", "fp32"]
    seed: int

    def prepare(self, runtime: Runtime) -> tuple[Objective, Loader]:
        """What is trained, on its device, and its batches. Writes nothing: every process calls it."""
        raise NotImplementedError

    def title(self) -> str:
        """For the progress bar."""
        return f"{self.name} (seed {self.seed})"

    def fit(self, objective: Objective, loader: Loader, runtime: Runtime) -> Fit:
        """Train to the end of the budget, together with the other processes if there are any."""
        return fit(
            objective,
            loader,
            recipe=self.recipe,
            budget=self.budget,
            precision=self.precision,
            folder=self.folder(runtime) / CHECKPOINTS,
            runtime=runtime,
            label=self.title(),
            log=runtime.cache / "logs" / self.address(),
        )

    def _made(self, folder: Path, runtime: Runtime) -> R:
        agreed(True)  # the others, which wait in ``assist``, take part from here on
        return super()._made(folder, runtime)

    def assist(self, runtime: Runtime) -> None:
        """Train along whenever the first process trains, until it says that the stage is done."""
        while agreed(False):
            objective, loader = self.prepare(runtime)
            self.fit(objective, loader, runtime)

    def history(self, runtime: Runtime) -> list[dict[str, float]]:
        """The logged series, a line a step."""
        lines: list[dict[str, float]] = json.loads((self.folder(runtime) / "history.json").read_text())
        return lines
