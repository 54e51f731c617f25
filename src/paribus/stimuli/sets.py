"""The sets of stimuli, each picture a pure function of the corpus, a seed, the set's name and its number."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from paribus.data.glyphs import Glyphs
from paribus.rng import numpy_rng
from paribus.stimuli.conflict import conflict, shapes_of
from paribus.stimuli.correspondence import POINTS, pair
from paribus.stimuli.counting import counted
from paribus.stimuli.pool import Pool, side_of
from paribus.stimuli.scenes import CLASSES, scene

__all__ = ["CLASSES", "Correspondences", "Stimuli", "conflicts", "correspondences", "counts", "scenes"]

T = TypeVar("T")


class Stimuli(NamedTuple):
    """Pictures and what is known of each; "concept" joins the concepts that it shows, to be resampled by."""

    images: UInt8[np.ndarray, "N S S 3"]
    columns: dict[str, Shaped[np.ndarray, " N"]]
    masks: UInt8[np.ndarray, "N S S"] | None = None


class Correspondences(NamedTuple):
    """Pairs of pictures and matching points (x, y) in pixels; see ``correspondence``."""

    source: UInt8[np.ndarray, "N S S 3"]
    target: UInt8[np.ndarray, "N S S 3"]
    points: Float32[np.ndarray, "N P 2"]
    matches: Float32[np.ndarray, "N P 2"]
    keys: Shaped[np.ndarray, " N"]
    concepts: Shaped[np.ndarray, " N"]


def scenes(corpus: Glyphs, size: int | None, train: int, test: int, seed: int) -> Stimuli:
    """Scenes to segment; masks hold indices into ``CLASSES``; columns key, split, concept.

    Args:
        corpus: opened with all splits.
        size: side of the pictures in pixels; None: the corpus's.
        train: how many scenes of train concepts.
        test: how many scenes of test concepts.
        seed: of all that is drawn.

    Raises:
        UserError: the corpus lacks a split, or its pictures are too small.
    """
    side = side_of(corpus, size)
    # Line drawings in one ink would have masks full of holes.
    splits, made = _parts(
        corpus, "scene", (train, test), seed, lambda pool, rng: scene(pool, side, rng), coloured=True
    )
    columns = _columns("scene", splits, concept=["+".join(each.concepts) for each in made])
    masks = _stacked([each.mask for each in made], (side, side))
    return Stimuli(_stacked([each.image for each in made], (side, side, 3)), columns, masks)


def counts(corpus: Glyphs, size: int | None, train: int, test: int, seed: int) -> Stimuli:
    """Pictures to count in; columns key, split, count, concept. Arguments and errors as of ``scenes``."""
    side = side_of(corpus, size)
    splits, made = _parts(corpus, "count", (train, test), seed, lambda pool, rng: counted(pool, side, rng))
    columns = _columns("count", splits, count=[e.things for e in made], concept=[e.concept for e in made])
    return Stimuli(_stacked([each.image for each in made], (side, side, 3)), columns)


def conflicts(corpus: Glyphs, size: int | None, test: int, seed: int) -> Stimuli:
    """Shape against texture; columns key, split, shape, texture, shape_concept, texture_concept, concept.

    Arguments and errors as of ``scenes``; all are of test concepts.
    """
    side = side_of(corpus, size)
    pool = Pool(corpus, "test", coloured=True)
    shapes = shapes_of(pool) if test else {}
    made = list(_made("conflict", test, seed, lambda rng: conflict(pool, shapes, side, rng)))
    columns = _columns(
        "conflict",
        ["test"] * test,
        shape=[each.shape for each in made],
        texture=[each.texture for each in made],
        shape_concept=[each.shape_concept for each in made],
        texture_concept=[each.texture_concept for each in made],
        concept=[f"{each.shape_concept}+{each.texture_concept}" for each in made],
    )
    return Stimuli(_stacked([each.image for each in made], (side, side, 3)), columns)


def correspondences(corpus: Glyphs, size: int | None, test: int, seed: int) -> Correspondences:
    """Pairs of pictures of one drawing of a test concept. Arguments and errors as of ``scenes``."""
    side = side_of(corpus, size)
    pool = Pool(corpus, "test")
    made = list(_made("pair", test, seed, lambda rng: pair(pool, side, rng)))
    return Correspondences(
        source=_stacked([each.source for each in made], (side, side, 3)),
        target=_stacked([each.target for each in made], (side, side, 3)),
        points=_places([each.points for each in made]),
        matches=_places([each.matches for each in made]),
        keys=_keys("pair", ["test"] * test),
        concepts=np.array([each.concept for each in made], np.str_),
    )


def _parts(
    corpus: Glyphs,
    name: str,
    sizes: tuple[int, int],
    seed: int,
    make: Callable[[Pool, np.random.Generator], T],
    *,
    coloured: bool = False,
) -> tuple[list[str], list[T]]:
    """Train stimuli of train concepts, then test stimuli of test concepts; the split of each, and all."""
    splits: list[str] = []
    made: list[T] = []
    for split, total in zip(("train", "test"), sizes, strict=True):
        if total:
            pool = Pool(corpus, split, coloured=coloured)
            made += _made(f"{name}/{split}", total, seed, functools.partial(make, pool))
            splits += [split] * total
    return splits, made


def _made(name: str, total: int, seed: int, make: Callable[[np.random.Generator], T]) -> Iterator[T]:
    """So many stimuli, each from a generator of its own: none depends on how many there are."""
    return (make(numpy_rng(seed, "stimuli", name, number)) for number in range(total))


def _keys(name: str, splits: Sequence[str]) -> Shaped[np.ndarray, " N"]:
    """``scene/train/00007``: a name of each stimulus, numbered within its split."""
    counters = dict.fromkeys(splits, 0)
    keys = []
    for split in splits:
        keys.append(f"{name}/{split}/{counters[split]:05d}")
        counters[split] += 1
    return np.array(keys, np.str_)


def _columns(name: str, splits: list[str], **values: list[str] | list[int]) -> dict[str, np.ndarray]:
    told = {column: np.array(value) for column, value in values.items()}
    return {"key": _keys(name, splits), "split": np.array(splits, np.str_), **told}


def _stacked(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> Shaped[np.ndarray, "N ..."]:
    """Arrays of one shape as one array, also if there are none."""
    return np.stack(parts) if parts else np.zeros((0, *shape), np.uint8)


def _places(parts: Sequence[Float32[np.ndarray, "P 2"]]) -> Float32[np.ndarray, "N P 2"]:
    return np.stack(parts) if parts else np.zeros((0, POINTS, 2), np.float32)
