"""The sets: the same pixels whenever and however many, and nothing shared by train and test."""

import numpy as np
import pytest

from paribus.data.glyphs import Glyphs, family
from paribus.errors import UserError
from paribus.stimuli.sets import CLASSES, conflicts, correspondences, counts, scenes


def same(one, other, rows):
    np.testing.assert_array_equal(one.images[rows], other.images[rows])
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column[rows], other.columns[name][rows])


def test_pictures_do_not_depend_on_how_many_there_are(corpus):
    few, many = scenes(corpus, 48, 4, 3, seed=1), scenes(corpus, 48, 4, 8, seed=1)
    same(few, many, slice(0, 7))
    np.testing.assert_array_equal(few.masks, many.masks[:7])
    same(counts(corpus, 48, 3, 2, seed=1), counts(corpus, 48, 3, 5, seed=1), slice(0, 5))
    same(conflicts(corpus, 48, 3, seed=1), conflicts(corpus, 48, 6, seed=1), slice(0, 3))
    few_pairs, many_pairs = correspondences(corpus, 48, 3, seed=1), correspondences(corpus, 48, 6, seed=1)
    for name in few_pairs._fields:
        np.testing.assert_array_equal(getattr(few_pairs, name), getattr(many_pairs, name)[:3])
    assert (scenes(corpus, 48, 4, 3, seed=2).images != few.images).any()


def parted(corpus, stimuli):
    """The concepts that train and test show."""
    shown = {"train": set(), "test": set()}
    for split, concept in zip(stimuli.columns["split"], stimuli.columns["concept"], strict=True):
        shown[split] |= set(concept.split("+"))
    for split, concepts in shown.items():
        rows = (corpus.columns["kind"] == "emoji") & (corpus.columns["split"] == split)
        assert concepts <= set(corpus.columns["concept"][rows])
    return shown


@pytest.mark.parametrize("make", [scenes, counts])
def test_train_and_test_share_no_family(corpus, make):
    shown = parted(corpus, make(corpus, None, 120, 120, seed=0))
    train, test = ({family(concept) for concept in shown[split]} for split in ("train", "test"))
    assert len(train) > 60
    assert len(test) > 60
    assert not train & test


def test_conflicts_and_pairs_are_of_test_concepts(corpus):
    emoji = corpus.columns["kind"] == "emoji"
    held_out = set(corpus.columns["concept"][emoji & (corpus.columns["split"] == "test")])
    made = conflicts(corpus, 48, 40, seed=0)
    assert set(made.columns["shape_concept"]) | set(made.columns["texture_concept"]) <= held_out
    assert set(correspondences(corpus, 48, 40, seed=0).concepts) <= held_out


def test_columns_and_shapes(corpus):
    made = scenes(corpus, 32, 5, 3, seed=0)
    assert made.images.shape == (8, 32, 32, 3)
    assert made.masks.shape == (8, 32, 32)
    assert made.masks.max() < len(CLASSES)
    assert made.columns["key"].tolist()[4:6] == ["scene/train/00004", "scene/test/00000"]
    assert made.columns["split"].tolist() == ["train"] * 5 + ["test"] * 3
    number = counts(corpus, 32, 5, 3, seed=0)
    assert set(number.columns) == {"key", "split", "count", "concept"}
    assert number.columns["count"].dtype.kind == "i"
    cue = conflicts(corpus, None, 4, seed=0)
    assert cue.images.shape == (4, 48, 48, 3)
    assert set(cue.columns) == {
        *("key", "split", "shape", "texture", "shape_concept", "texture_concept", "concept")
    }
    pairs = correspondences(corpus, 40, 4, seed=0)
    assert pairs.source.shape == pairs.target.shape == (4, 40, 40, 3)
    assert pairs.points.shape == pairs.matches.shape == (4, 16, 2)
    assert len(set(pairs.keys)) == 4


def test_none_asked_for_are_none(corpus):
    assert scenes(corpus, 48, 0, 2, seed=0).columns["split"].tolist() == ["test"] * 2
    assert counts(corpus, 48, 0, 0, seed=0).images.shape == (0, 48, 48, 3)
    assert conflicts(corpus, 48, 0, seed=0).images.shape == (0, 48, 48, 3)
    assert correspondences(corpus, 48, 0, seed=0).matches.shape == (0, 16, 2)


@pytest.mark.parametrize("size", [31, 49, 224])
def test_no_drawing_is_blown_up(corpus, size):
    with pytest.raises(UserError, match=f"Stimuli of {size} pixels cannot be made from a corpus of 48"):
        scenes(corpus, size, 1, 1, seed=0)


def test_a_corpus_without_the_split_is_refused(whole_corpus):
    with pytest.raises(UserError, match="no emoji of the split 'test'"):
        conflicts(Glyphs(whole_corpus, splits=("train",)), 48, 1, seed=0)
