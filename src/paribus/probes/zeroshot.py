"""Zero-shot classification: which of the given captions says it, in a space where pictures meet words."""

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
