"""CLIP's loss in float64 loops: Radford et al. 2021, figure 3."""

import math


def info_nce(image, text, scale):
    """Mean of the two cross-entropies; ``image`` and ``text`` are lists of unit vectors."""
    count = len(image)
    logits = [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for y in text] for x in image]
    rows = sum(_cross_entropy(logits[i], i) for i in range(count))
    columns = sum(_cross_entropy([logits[i][j] for i in range(count)], j) for j in range(count))
    return (rows + columns) / (2 * count)


def _cross_entropy(logits, right):
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[right]
