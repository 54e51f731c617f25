"""Reading: which letters the corpus's written words show, as targets for a probe of each place."""

import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8

from paribus.errors import UserError

PLACES = 5
LETTERS = string.ascii_lowercase
"""Class 0 is no letter, class 1 the first of these."""


class Written(NamedTuple):
    """The corpus's pictures of words: which they are, what they say, and what each tests.

    ``split`` is "train" (a seen word in a font that is trained on), "redraw" (a seen word in a held-out
    font) or "test" (an unseen word in a held-out font).
    """

    rows: Int64[np.ndarray, " N"]
    targets: UInt8[np.ndarray, "N 5"]
    split: Shaped[np.ndarray, " N"]
    word: Shaped[np.ndarray, " N"]
    font: Shaped[np.ndarray, " N"]


def written(columns: Mapping[str, Shaped[np.ndarray, " rows"]]) -> Written:
    """The pictures of words among a corpus's columns.

    Raises:
        UserError: there are none.
    """
    rows = np.flatnonzero(columns["kind"] == "word")
    if not len(rows):
        raise UserError("The corpus shows no written words: build it with words and fonts.")
    texts = columns["text"][rows]
    return Written(rows, letters_of(texts.tolist()), columns["split"][rows], texts, columns["style"][rows])


def letters_of(words: Sequence[str]) -> UInt8[np.ndarray, "N 5"]:
    """The letters of words by place: 1 to 26 for a to z, 0 after the end.

    Raises:
        UserError: a word is longer than five letters, empty, or not in lower-case a to z.
    """
    targets = np.zeros((len(words), PLACES), np.uint8)
    for place, word in enumerate(words):
        if not 0 < len(word) <= PLACES or not set(word) <= set(LETTERS):
            raise UserError(
                f"The word {word!r} is no target of reading: use words of one to {PLACES} letters a to z."
            )
        targets[place, : len(word)] = [LETTERS.index(letter) + 1 for letter in word]
    return targets


def word_of(letters: Int[np.ndarray, "5"] | UInt8[np.ndarray, "5"]) -> str:
    """The word that letters by place spell; a gap in the middle, which no word has, is written as a dash."""
    spelt = "".join("-" if letter == 0 else LETTERS[letter - 1] for letter in letters.tolist())
    return spelt.rstrip("-")
