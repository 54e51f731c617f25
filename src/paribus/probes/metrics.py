"""What a probe is scored by, each metric with its bootstrap interval, and with paired differences.

A metric here is a function of sums over independent units (pictures, or clusters of them): right ones for
accuracy, right ones class by class for balanced accuracy, a confusion matrix for mIoU. A ``Tally`` holds
these sums per unit, so one matrix product gives the metric on every bootstrap resample, and two encoders
that were scored on the same units are resampled alike.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from numpy.typing import NDArray
from scipy import sparse

from paribus.errors import UserError
from paribus.stats import Estimate, from_draws, resamples

BINS = 15
"""Bins of the calibration error, of equal width (Guo et al. 2017)."""

Kind = Literal["ratio", "recall", "f1", "calibration", "iou"]


class Tally(NamedTuple):
    """A metric's sums over each independent unit ``[units K]``, and which function of their total it is."""

    sums: Any
    """A scipy CSR array: with a thousand classes most sums are zero."""
    kind: Kind

    @property
    def units(self) -> int:
        """Independent units."""
        return int(self.sums.shape[0])

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums ``[draws K]`` to the metric ``[draws]``."""
        return VALUES[self.kind](sums)

    def point(self) -> float:
        """The metric itself."""
        return float(self.value(np.asarray(self.sums.sum(axis=0)).reshape(1, -1))[0])

    def draws(self, *, seed: int, draws: int = 2000) -> Float[np.ndarray, " draws"]:
        """The metric on bootstrap resamples of the units, the same ones for equal numbers of units."""
        blocks = resamples(self.units, seed=seed, draws=draws)
        return np.concatenate([self.value((self.sums.T @ weights.T).T) for weights in blocks])


def estimate(tally: Tally, *, seed: int, draws: int = 2000) -> Estimate:
    """The metric with its 95% interval: percentiles of the bootstrap, or ``_centred`` where they are biased.

    Raises:
        UserError: there are fewer than two units, or there was nothing to divide by.
    """
    found = tally.draws(seed=seed, draws=draws)
    found = found[np.isfinite(found)]
    if not len(found):
        raise UserError("A share of nothing was asked for: no picture counts for this metric.")
    if tally.kind in BIASED:
        return _centred(tally.point(), found, tally.units, BIASED[tally.kind])
    return from_draws(tally.point(), found, tally.units)


BIASED: dict[Kind, bool] = {"f1": False, "calibration": True}
"""Metrics whose resamples are off the mark, because they repeat pictures -> whether the value is so too."""


def _centred(value: float, drawn: Float[np.ndarray, " draws"], units: int, mend: bool) -> Estimate:
    """A normal interval of the resamples' spread around the value; ``mend`` takes their bias off it first.

    Simulated at 1,000 classes of 10 pictures the percentiles of macro-F1 hold the truth 1 time in 6, this
    9 times in 10. The plug-in calibration error of finite bins is too large by what resampling adds again.
    """
    if mend:
        value = max(0.0, 2 * value - float(drawn.mean()))
    half = 1.959964 * float(drawn.std(ddof=1))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), units)


def difference(a: Tally, b: Tally, *, seed: int, draws: int = 2000) -> Estimate:
    """The metric of ``a`` minus that of ``b``, on the same units in the same order, with its interval.

    Raises:
        UserError: the numbers of units differ, or there are fewer than two.
    """
    if a.units != b.units:
        raise UserError(f"{a.units} and {b.units} units cannot be paired: score both on the same pictures.")
    found = a.draws(seed=seed, draws=draws) - b.draws(seed=seed, draws=draws)
    found, value = found[np.isfinite(found)], a.point() - b.point()
    if not len(found):
        raise UserError("A difference of nothing was asked for: no picture counts for this metric.")
    if a.kind in BIASED:
        value = 2 * value - float(found.mean()) if BIASED[a.kind] else value
        half = 1.959964 * float(found.std(ddof=1))
        return Estimate(value, value - half, value + half, a.units)
    return from_draws(value, found, a.units)


def accuracy(right: Bool[np.ndarray, " N"], clusters: Shaped[np.ndarray, " N"] | None = None) -> Tally:
    """The share of answers that are right (top-1)."""
    return ratio(right.astype(np.float64), np.ones(len(right)), clusters)


def ratio(
    over: Float[np.ndarray, " N"],
    under: Float[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"] | None = None,
) -> Tally:
    """One sum divided by another: shape decisions among those that are for shape or texture, say."""
    return _tally(np.stack([over, under], axis=1), "ratio", clusters)


def balanced_accuracy(
    answers: Int64[np.ndarray, " N"],
    truth: Int64[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"] | None = None,
) -> Tally:
    """The mean over classes of the share of each class that is answered rightly (its recall).

    As scikit-learn's ``balanced_accuracy_score``: classes without a picture do not count.
    """
    classes = _classes(answers, truth)
    hit, there = _marks(truth, classes, answers == truth), _marks(truth, classes)
    return _tally(sparse.hstack([hit, there]), "recall", clusters)


def macro_f1(
    answers: Int64[np.ndarray, " N"],
    truth: Int64[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"] | None = None,
) -> Tally:
    """The mean over classes of F1, the harmonic mean of precision and recall.

    As scikit-learn's ``f1_score(average="macro")``: over classes that occur among truths or answers.
    """
    classes = _classes(answers, truth)
    hit, there = _marks(truth, classes, answers == truth), _marks(truth, classes)
    return _tally(sparse.hstack([hit, there, _marks(answers, classes)]), "f1", clusters)


def calibration_error(
    confidence: Float[np.ndarray, " N"],
    right: Bool[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"] | None = None,
) -> Tally:
    """Expected calibration error over 15 equal bins of the answer's probability (Guo et al. 2017).

    Like every plug-in estimate of it, it is too large by what chance leaves in the bins; differences between
    encoders on the same pictures share that.

    Raises:
        UserError: a confidence lies outside [0, 1].
    """
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise UserError("A confidence lies outside [0, 1]: give probabilities.")
    # Open below and closed above, as in the paper; 0 is in the first.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap = _marks(bins, BINS, confidence - right)
    return _tally(sparse.hstack([gap, _marks(bins, BINS)]), "calibration", clusters)


def mean_iou(
    confusion: Int64[np.ndarray, "N C C"], clusters: Shaped[np.ndarray, " N"] | None = None
) -> Tally:
    """Mean over classes of intersection over union, of all pixels of all pictures together.

    Args:
        confusion: pixels of each picture by truth and answer.
        clusters: pictures that are not independent share one.
    """
    return _tally(confusion.reshape(len(confusion), -1).astype(np.float64), "iou", clusters)


def _tally(sums: Any, kind: Kind, clusters: Shaped[np.ndarray, " N"] | None) -> Tally:
    """Sums per unit; pictures of one cluster are one unit."""
    rows = sparse.csr_array(sums)
    if not rows.shape[0]:
        raise UserError("There is nothing to score: give at least two pictures.")
    if clusters is None:
        return Tally(rows, kind)
    names, place = np.unique(clusters, return_inverse=True)
    ones = np.ones(len(place))
    joined = sparse.csr_array((ones, (place, np.arange(len(place)))), shape=(len(names), len(place)))
    return Tally(sparse.csr_array(joined @ rows), kind)


def _classes(answers: Int64[np.ndarray, " N"], truth: Int64[np.ndarray, " N"]) -> int:
    return int(max(answers.max(initial=0), truth.max(initial=0))) + 1


def _marks(place: Int64[np.ndarray, " N"], width: int, weight: Shaped[np.ndarray, " N"] | None = None) -> Any:
    """One entry a row."""
    values = np.ones(len(place)) if weight is None else np.asarray(weight, np.float64)
    return sparse.csr_array((values, (np.arange(len(place)), place)), shape=(len(place), width))


def _divided(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by."""
    out = np.full(np.broadcast_shapes(over.shape, under.shape), np.nan)
    np.divide(over, under, out=out, where=under > 0)
    return out


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(values)
    return _divided(np.where(there, values, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _divided(sums[:, 0], sums[:, 1])


def _mean_recall(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _nanmean(_divided(*np.split(sums, 2, axis=1)))


def _mean_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    hit, there, said = np.split(sums, 3, axis=1)
    return _nanmean(_divided(2 * hit, there + said))


def _calibration(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    gap, count = np.split(sums, 2, axis=1)
    return _divided(np.abs(gap).sum(axis=1), count.sum(axis=1))


def _mean_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = round(sums.shape[1] ** 0.5)
    confusion = sums.reshape(-1, classes, classes)
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(axis=1) + confusion.sum(axis=2) - hit
    return _nanmean(_divided(hit, union))


VALUES: dict[Kind, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "ratio": _ratio,
    "recall": _mean_recall,
    "f1": _mean_f1,
    "calibration": _calibration,
    "iou": _mean_iou,
}
