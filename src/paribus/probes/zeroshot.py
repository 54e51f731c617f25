"""Zero-shot classification: which of the given captions says it, in a space where pictures meet words."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from paribus.errors import UserError


def choose(
    pictures: Float[np.ndarray, "N D"], captions: Float[np.ndarray, "C D"], block: int = 4096
) -> Int64[np.ndarray, " N"]:
    """The most cosine-similar caption of each picture; ties go to the earlier one.

    Radford et al. 2021, section 3.1. The scale of the logits plays no part in which is the largest.

    Args:
        pictures: vectors in the joint space; their length does not matter.
        captions: likewise.
        block: pictures at a time.

    Raises:
        UserError: there is no caption, or a vector is not finite.
    """
    if not len(captions):
        raise UserError("Zero-shot classification has no caption to choose from: use a larger corpus.")
    if not (np.isfinite(pictures).all() and np.isfinite(captions).all()):
        raise UserError("A vector is not finite: the training diverged, so run it again at a lower rate.")
    words = captions / np.maximum(np.linalg.norm(captions, axis=1, keepdims=True), 1e-12)
    chosen: list[NDArray[np.int64]] = [
        (pictures[start : start + block] @ words.T).argmax(axis=1) for start in range(0, len(pictures), block)
    ]
    return np.concatenate([np.empty(0, np.int64), *chosen])


PLAIN = ("a photo of a {}.",)
SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that CLIP's authors found to do on ImageNet what all eighty do (their notebook)."""
TEMPLATES: dict[str, tuple[str, ...]] = {"plain": PLAIN, "seven": SEVEN}


def worded(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template, class by class.

    Raises:
        UserError: a template has no place for a class, or there are fewer than two classes.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"The template {template!r} must have one {{}} where the class goes: write a photo of a {{}}."
            )
    if len(names) < 2:
        raise UserError(f"There are {len(names)} classes, and a choice needs 2: label more pictures.")
    return [template.replace("{}", name) for name in names for template in templates]


def ensembled(texts: Float[np.ndarray, "CT D"], templates: int) -> Float[np.ndarray, "C D"]:
    """One vector a class: the mean of its templates' unit vectors, made a unit vector (Radford et al. 2021).

    Args:
        texts: vectors of ``worded``'s texts, in its order; their length does not matter.
        templates: how many each class has.
    """
    unit = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
    mean = unit.reshape(-1, templates, unit.shape[1]).mean(axis=1)
    found: Float[np.ndarray, "C D"] = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return found
