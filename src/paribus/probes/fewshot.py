"""Few-shot classification: the nearest class mean of a handful of pictures, with nothing to choose."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray

from paribus.errors import UserError
from paribus.rng import numpy_rng

DRAWS = 5


def few_shot(
    train_x: Float[np.ndarray, "N D"],
    train_y: Int64[np.ndarray, " N"],
    test_x: Float[np.ndarray, "M D"],
    test_y: Int64[np.ndarray, " M"],
    shots: int,
    seed: int,
    *,
    draws: int = DRAWS,
    names: Sequence[str] | None = None,
) -> Bool[np.ndarray, "draws M"]:
    """Which test samples are right, of each draw of ``shots`` training samples a class.

    SimpleShot's CL2N (Wang, Chao, Weinberger and van der Maaten 2019), without base classes: features are
    centred by the mean of the drawn ones and scaled to length one, and the nearest class mean in Euclidean
    distance wins, the lower class in a tie. Draws are nested: those of two a class hold those of one.

    Args:
        train_x: features to draw from.
        train_y: their classes, from 0.
        test_x: features to classify, in float64 like everything here.
        test_y: their classes; one that training lacks counts as one with too few.
        shots: training samples a class.
        seed: of the draws.
        draws: how many.
        names: the classes' names, for messages.

    Raises:
        UserError: a class has too few training samples, no test sample, or a feature is not finite.
    """
    if not (np.isfinite(train_x).all() and np.isfinite(test_x).all()):
        raise UserError("A feature is not finite: the encoder diverged, so train it again at a lower rate.")
    if not len(test_y):
        raise UserError("Few-shot classification has no test sample: choose another task or split.")
    classes = np.union1d(train_y, test_y)
    _enough(train_y, classes, shots, names)
    outcomes = []
    for draw in range(draws):
        order = numpy_rng(seed, "few-shot", draw).permutation(len(train_y))
        support = np.stack([order[train_y[order] == label][:shots] for label in classes])
        said = classes[_nearest_mean(train_x[support].astype(np.float64), test_x.astype(np.float64))]
        outcomes.append(said == test_y)
    return np.stack(outcomes)


def _enough(
    y: Int64[np.ndarray, " N"], classes: Int64[np.ndarray, " C"], shots: int, names: Sequence[str] | None
) -> None:
    counts = [int((y == label).sum()) for label in classes]
    least = int(np.argmin(counts))
    if counts[least] < shots:
        label = int(classes[least])
        name = f"Class {label}" if names is None else f"The class {names[label]!r}"
        lacking = sum(count < shots for count in counts)
        others = f" (and {lacking - 1} more of {len(counts)} classes)" if lacking > 1 else ""
        raise UserError(
            f"{name}{others} has {counts[least]} training pictures but {shots} a class are to be drawn: "
            "draw fewer, or leave the class out."
        )


def _nearest_mean(support: Float64[np.ndarray, "C k D"], x: Float64[np.ndarray, "M D"]) -> NDArray[np.intp]:
    centre = support.mean(axis=(0, 1))
    means = _unit(support - centre).mean(axis=1)
    # |x - m|^2 without |x|^2, which is the same for every mean.
    distance: Float64[np.ndarray, "M C"] = (means**2).sum(axis=1) - 2.0 * _unit(x - centre) @ means.T
    nearest: NDArray[np.intp] = distance.argmin(axis=1)
    return nearest


def _unit(x: Float64[np.ndarray, "... D"]) -> Float64[np.ndarray, "... D"]:
    """Rows of length one; rows of zeros stay zero."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    unit: Float64[np.ndarray, "... D"] = x / np.where(length > 0, length, 1.0)
    return unit
