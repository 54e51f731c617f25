"""Which pictures are trained and tested on: as a folder or a table says it, or by a rule of ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from paribus.datasets.base import SplitName
from paribus.errors import UserError
from paribus.rng import stream

TESTED = 0.25
"""The share of each class that is tested on where nobody has made a split."""

MADE = f"Nothing says which pictures are tested on: hashes of their names chose {TESTED:.0%} of each class."

Places = dict[SplitName, Int64[np.ndarray, " M"]]


def make_split(keys: Sequence[str], labels: Int64[np.ndarray, " N"], seed: int) -> Places:
    """About a quarter of each class to test on, so that another picture more moves none of the others.

    Whether a picture is tested on depends on its key alone. Only where that would leave a class with nothing
    to test on, or nothing to learn from, the picture nearest to the threshold crosses it.

    Args:
        keys: what the pictures are called.
        labels: their classes.
        seed: another one, another choice.
    """
    draws = np.array([stream(seed, "tested on", key) * 2.0**-63 for key in keys])
    tested = draws < TESTED
    for label in np.unique(labels):
        (places,) = np.nonzero(labels == label)
        if len(places) > 1 and not tested[places].any():
            tested[places[draws[places].argmin()]] = True
        elif tested[places].all():
            tested[places[draws[places].argmax()]] = False
    return {"train": np.flatnonzero(~tested), "test": np.flatnonzero(tested)}


def given_split(words: Sequence[SplitName], where: Path) -> Places:
    """The places of each split; what is only validated on is tested on.

    Raises:
        UserError: there is nothing to learn from, or nothing to test on.
    """
    said = np.array(words)
    names: tuple[SplitName, ...] = ("train", "val", "test")
    found: Places = {name: np.flatnonzero(said == name) for name in names if name in words}
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    for name, what in (("train", "learn from"), ("test", "test on")):
        if name not in found:
            raise UserError(
                f"{where} has no pictures to {what}: call some of them {name}, or say nothing of splits and "
                f"{TESTED:.0%} of each class will be tested on."
            )
    return found
