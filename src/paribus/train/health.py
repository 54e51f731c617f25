"""What is wrong with a training that goes on all the same: told at once, and ended after some patience.

A loss that is no number ends a run by itself (see ``loop``), for nothing can come of it. What is watched
here may pass: a collapse that the next steps undo, a machine that is busy for a while. So each symptom is
told when it first shows and when it has stayed away, so that one that flickers at its border is told once,
and the run ends when it has shown at every step for ``patience`` steps. Ending loses nothing: the last
checkpoint is there, and a run called again with more patience goes on from it.
"""

import logging
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from paribus.errors import UserError
from paribus.train import distributed

logger = logging.getLogger(__name__)

CALM = 100
"""Steps without a symptom after which it is over."""

SLOW = 0.1
"""The share of the usual rate below which throughput has fallen: one more program takes half."""

USUAL = 256
"""Steps whose median is the usual rate."""

SETTLED = 16
"""Steps before there is a usual rate."""


class Health:
    """Counts, for each symptom, the steps in a row that showed it.

    Args:
        patience: steps in a row after which the run ends; None: nobody watches.
        label: names the run.
    """

    def __init__(self, patience: int | None, label: str) -> None:
        self.patience, self.label = patience, label
        self.lasting: dict[str, int] = {}
        self.last: dict[str, int] = {}
        """The last step that showed a symptom, of those that are told of and not over."""

    def see(self, symptoms: Mapping[str, str], step: int) -> None:
        """One step's symptoms: name -> what is wrong, as a clause.

        Raises:
            UserError: one of them has lasted for ``patience`` steps.
        """
        if self.patience is None:
            return
        before = self.lasting
        self.lasting = {name: before.get(name, 0) + 1 for name in symptoms}
        for name, clause in symptoms.items():
            if name not in self.last:
                logger.warning("%s, step %d: %s", self.label, step, clause)
            self.last[name] = step
            if self.lasting[name] >= self.patience:
                raise UserError(
                    f"{self.label} was ended at step {step}: {clause}, for {self.patience} steps in a row; "
                    "the last checkpoint is kept, and --patience N goes on from it for longer."
                )
        for name in [name for name, last in self.last.items() if step - last >= CALM]:
            logger.warning("%s, step %d: no %s since step %d", self.label, step, name, self.last.pop(name))


class Throughput:
    """Images a second, beside what is usual for the run.

    Args:
        phases: fractions of the budget at which the work for a sample changes; each has its own usual rate.
    """

    def __init__(self, phases: Sequence[float] = (0.0,)) -> None:
        self.phases, self.phase = phases, 0
        self.rates: deque[float] = deque(maxlen=USUAL)

    def symptoms(self, rate: float, fraction: float) -> dict[str, str]:
        """Whether a step's rate is far below the median of the last ones.

        Of several processes the first one's clock decides, so that all end or none.
        """
        phase = sum(start <= fraction for start in self.phases)
        if phase != self.phase:
            self.phase = phase
            self.rates.clear()
        usual = statistics.median(self.rates) if len(self.rates) >= SETTLED else 0.0
        if not distributed.agreed(rate < SLOW * usual):
            self.rates.append(rate)  # a slow one does not join, or what is slow would become usual
            return {}
        return {"slowness": f"throughput has fallen to {rate:,.1f} images/s from {usual:,.1f}"}
