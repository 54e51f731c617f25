"""Reading: letters by place, and which words and fonts each split holds."""

import numpy as np
import pytest

from paribus.errors import UserError
from paribus.stimuli.reading import letters_of, word_of, written


def test_letters_by_place():
    np.testing.assert_array_equal(letters_of(["cat", "zebra"]), [[3, 1, 20, 0, 0], [26, 5, 2, 18, 1]])


def test_words_are_spelt_back(corpus):
    found = written(corpus.columns)
    assert [word_of(row) for row in found.targets] == found.word.tolist()
    assert word_of(np.array([3, 0, 20, 0, 0])) == "c-t"
    assert word_of(np.zeros(5, np.uint8)) == ""


def test_splits_hold_out_words_and_fonts(corpus):
    found = written(corpus.columns)
    words = {split: set(found.word[found.split == split]) for split in ("train", "redraw", "test")}
    fonts = {split: set(found.font[found.split == split]) for split in words}
    assert words["train"] == words["redraw"]
    assert not words["train"] & words["test"]
    assert fonts["redraw"] == fonts["test"]
    assert not fonts["train"] & fonts["test"]
    np.testing.assert_array_equal(corpus.columns["text"][found.rows], found.word)


@pytest.mark.parametrize("word", ["zebras", "Cat", "", "naïf"])
def test_what_has_no_letters_is_refused(word):
    with pytest.raises(UserError, match="is no target of reading"):
        letters_of([word])


def test_a_corpus_without_words_is_refused(corpus):
    rows = corpus.columns["kind"] == "emoji"
    with pytest.raises(UserError, match="shows no written words"):
        written({name: column[rows] for name, column in corpus.columns.items()})
