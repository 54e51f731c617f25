"""The whole corpus, open with all splits, and pools of plain shapes whose pixels can be told apart."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def corpus(whole_corpus):
    from paribus.data.glyphs import Glyphs

    return Glyphs(whole_corpus, splits=("train", "redraw", "test"))


@pytest.fixture(scope="session")
def plain_pool():
    """A pool of nine square drawings, each in a colour of its own: ``PLAIN[row]`` of group ``row``."""
    from paribus.stimuli.pool import GROUPS, Pool

    class Plain(Pool):
        def __init__(self):
            self._rows = {group: [[row]] for row, group in enumerate(GROUPS)}

        def group(self, row):
            return GROUPS[row]

        def concept(self, row):
            return f"square-{row}"

        def cutout(self, row):
            square = np.ones((40, 40, 4), np.float32)
            square[..., :3] = PLAIN[row] / np.float32(255)
            return square

    return Plain()


PLAIN = np.array(
    [
        *([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]),
        *([255, 128, 0], [0, 128, 255], [128, 0, 255]),
    ],
    np.uint8,
)
"""Fully saturated, as no ground is."""
