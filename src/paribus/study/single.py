"""One number about one encoder and one's own labelled pictures: linear probe, nearest neighbours."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from paribus import stats
from paribus.errors import UserError
from paribus.probes.knn import knn_predict
from paribus.probes.linear import Grid, fit_grid
from paribus.stats import Estimate

TESTED = 0.25
"""The share of each label's pictures that is tested on."""


class Split(NamedTuple):
    """Labelled pictures, those to learn from and those to be tested on; files of equal bytes are one."""

    names: tuple[str, ...]
    train: Int64[np.ndarray, " N"]
    test: Int64[np.ndarray, " M"]
    classes: Int64[np.ndarray, " pictures"]
    """The label of every picture, -1 for none."""
    unlabelled: int
    rare: int
    """Pictures of labels that have too few to be split."""


class Single(NamedTuple):
    """An accuracy, what the most frequent label would give, and how many pictures and labels it is of."""

    accuracy: Estimate
    chance: float
    split: Split


def split_labels(labels: Sequence[str], contents: Sequence[str], seed: int) -> Split:
    """A quarter of each label's pictures to test on, chosen by what is in them and nothing else.

    Args:
        labels: one for each picture, empty for none.
        contents: SHA-256 of each picture's file; the second of two equal ones is left out.
        seed: another one, another choice.

    Raises:
        UserError: fewer than two labels have four pictures.
    """
    seen: set[str] = set()
    by_label: dict[str, list[tuple[str, int]]] = {}
    for place, (label, content) in enumerate(zip(labels, contents, strict=True)):
        if label and content not in seen:
            seen.add(content)
            keyed = sha256(f"{seed} {content}".encode()).hexdigest()
            by_label.setdefault(label, []).append((keyed, place))
    enough = {label: sorted(some) for label, some in sorted(by_label.items()) if len(some) >= 4}
    if len(enough) < 2:
        raise UserError(
            f"There are {len(enough)} labels with at least 4 different pictures, and a probe needs 2: label "
            "more pictures."
        )
    classes = np.full(len(labels), -1, dtype=np.int64)
    train, test = list[int](), list[int]()
    for number, some in enumerate(enough.values()):
        places = [place for _, place in some]
        classes[places] = number
        cut = max(1, round(TESTED * len(places)))
        test += places[:cut]
        train += places[cut:]
    return Split(
        names=tuple(enough),
        train=np.sort(np.array(train)),
        test=np.sort(np.array(test)),
        classes=classes,
        unlabelled=sum(not label for label in labels),
        rare=sum(len(some) for label, some in by_label.items() if label not in enough),
    )


def linear(
    features: Float32[np.ndarray, "N D"], split: Split, seed: int, device: str
) -> Int64[np.ndarray, " M"]:
    """What a linear probe says of the test pictures; its setting is chosen on a part of the others."""
    known = split.classes[split.train]
    groups = split.train.astype(str)  # each picture is its own
    probe = fit_grid(features[split.train], known, groups, len(split.names), Grid(), seed, device=device)
    return probe.predict(features[split.test])


def nearest(
    features: Float32[np.ndarray, "N D"], split: Split, seed: int, device: str
) -> Int64[np.ndarray, " M"]:
    """What the nearest neighbours vote for."""
    del seed
    known = split.classes[split.train]
    return knn_predict(features[split.train], known, features[split.test], device=device)


Reader = Callable[[NDArray[np.float32], Split, int, str], NDArray[np.int64]]
READERS: dict[str, Reader] = {"linear probe": linear, "nearest neighbours": nearest}
"""How a label is read off features."""


class Both(NamedTuple):
    """The same of two encoders: each one's accuracy, a minus b picture by picture, and McNemar's p-value."""

    a: Single
    b: Single
    step: Estimate
    p: float


def both(
    how: str,
    a: Float32[np.ndarray, "N Da"],
    b: Float32[np.ndarray, "N Db"],
    split: Split,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Both:
    """Accuracy of one of ``READERS`` of two encoders on the same test pictures, and the difference."""
    one, two = (_right(how, features, split, seed, device) for features in (a, b))
    step = stats.bootstrap_difference(one.astype(np.float64), two.astype(np.float64), seed=seed)
    return Both(_told(one, split), _told(two, split), step, stats.mcnemar(one, two))


def _right(
    how: str, features: Float32[np.ndarray, "N D"], split: Split, seed: int, device: str
) -> Bool[np.ndarray, " M"]:
    """Which test pictures are told rightly."""
    right: Bool[np.ndarray, " M"] = READERS[how](features, split, seed, device) == split.classes[split.test]
    return right


def _told(right: Bool[np.ndarray, " M"], split: Split) -> Single:
    most = np.bincount(split.classes[split.train]).argmax()
    chance = float(np.mean(split.classes[split.test] == most))
    return Single(stats.proportion(right), chance, split)
