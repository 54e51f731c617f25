"""Retrieval against a loop, and against CLIP_benchmark's definition."""

import numpy as np
import pytest
import torch

from paribus.errors import UserError
from paribus.probes import retrieval
from paribus.probes.retrieval import retrieve


def space(images=60, captions=5, seed=0, dtype=np.float32):
    """Pictures, several noisy captions of each in mixed order, and whose they are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(images, 16)).astype(dtype)
    counts = 1 + rng.integers(0, captions, images)
    image_of = rng.permutation(np.repeat(np.arange(images), counts))
    texts = x[image_of] + 1.5 * rng.normal(size=(len(image_of), 16)).astype(dtype)
    return x, texts.astype(dtype), image_of


def loop(x, t, image_of, ranks):
    """Sort candidates of every query, non-matching ones first among equals."""
    x, t = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x.astype(float), t.astype(float)))
    similarity = (x @ t.T).astype(np.float32)
    to_text, to_image = [], []
    for i in range(len(x)):
        order = sorted(range(len(t)), key=lambda j: (-similarity[i, j], image_of[j] == i))
        to_text.append([any(image_of[j] == i for j in order[:k]) for k in ranks])
    for j in range(len(t)):
        order = sorted(range(len(x)), key=lambda i: (-similarity[i, j], image_of[j] == i))
        to_image.append([image_of[j] in order[:k] for k in ranks])
    return np.array(to_text), np.array(to_image)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_equals_a_loop(seed, ties):
    x, t, image_of = space(seed=seed)
    if ties:  # coarse vectors: equal captions of different pictures, equal pictures
        x, t = np.round(x[:, :2]) + 1e-3, np.round(t[:, :2]) + 1e-3
    made = retrieve(x, t, image_of)
    to_text, to_image = loop(x, t, image_of, (1, 5, 10))
    assert made.ranks == (1, 5, 10)
    assert np.array_equal(made.image_to_text, to_text)
    assert np.array_equal(made.text_to_image, to_image)


def recall_at_k(scores, positive, k):
    """CLIP_benchmark's zeroshot_retrieval: share of positives among the k first; over zero counts."""
    first = torch.topk(scores, k, dim=1)[1]
    return (torch.gather(positive, 1, first).sum(1) / positive.sum(1)) > 0


@pytest.mark.parametrize("k", [1, 5, 10])
def test_equals_clip_benchmark(k):
    x, t, image_of = space(images=80, seed=9, dtype=np.float64)
    unit = [torch.nn.functional.normalize(torch.from_numpy(v), dim=1) for v in (x, t)]
    scores = unit[1] @ unit[0].T
    positive = torch.from_numpy(image_of[:, None] == np.arange(80)).double()
    made = retrieve(x, t, image_of, ranks=(k,))
    assert np.array_equal(made.text_to_image[:, 0], recall_at_k(scores, positive, k).numpy())
    assert np.array_equal(made.image_to_text[:, 0], recall_at_k(scores.T, positive.T, k).numpy())
    assert 0.1 < made.text_to_image.mean() < 1


def test_a_tie_counts_against():
    """Every vector the same: rank is the number of others, whatever the order."""
    x, image_of = np.ones((12, 3), np.float32), np.arange(12)
    made = retrieve(x, x, image_of, ranks=(1, 11, 12))
    assert made.image_to_text.tolist() == [[False, False, True]] * 12
    assert made.text_to_image.tolist() == [[False, False, True]] * 12


def test_equal_captions_of_one_picture_help_each_other():
    x = np.eye(2, dtype=np.float32)
    made = retrieve(x, x[[0, 0, 1]], np.array([0, 0, 1]), ranks=(1,))
    assert made.image_to_text.all()
    assert made.text_to_image.all()


def test_blocks_and_lengths_do_not_matter(monkeypatch):
    x, t, image_of = space()
    whole = retrieve(x, t, image_of)
    monkeypatch.setattr(retrieval, "BLOCK", 500)
    parts = retrieve(x * 7, t * 0.1, image_of)
    assert np.array_equal(parts.image_to_text, whole.image_to_text)
    assert np.array_equal(parts.text_to_image, whole.text_to_image)


def test_unrelated_captions_give_chance():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(2, 2000, 8))
    hits = retrieve(x, t, np.arange(2000), ranks=(100,))
    for found in (hits.image_to_text, hits.text_to_image):
        assert abs(found.mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_bad_input():
    x, t, image_of = space()
    with pytest.raises(UserError, match="Picture 3 has no caption"):
        retrieve(x, t[image_of != 3], image_of[image_of != 3])
    with pytest.raises(UserError, match="number the pictures from 0"):
        retrieve(x, t, image_of + 1)
    with pytest.raises(UserError, match="not finite"):
        retrieve(x, np.where(t > 2, np.inf, t), image_of)
    with pytest.raises(UserError, match="no pictures or no captions"):
        retrieve(x[:0], t[:0], image_of[:0])
    with pytest.raises(ValueError, match="one per caption"):
        retrieve(x, t[1:], image_of)
