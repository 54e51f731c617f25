"""The colour-histogram baseline against numpy.histogramdd."""

import numpy as np
from sklearn.datasets import load_sample_image

from paribus.probes.histogram import colour_histogram


def photos() -> list[np.ndarray]:
    """Pieces of real photographs, of different sizes."""
    return [
        load_sample_image(name)[10 : 10 + side, 20 : 20 + 2 * side]
        for name in ("china.jpg", "flower.jpg")
        for side in (7, 48, 150)
    ]


def test_equals_histogramdd():
    made = colour_histogram(photos())
    assert made.shape == (6, 64)
    assert made.dtype == np.float32
    for row, photo in zip(made, photos(), strict=True):
        counts, _ = np.histogramdd(photo.reshape(-1, 3).astype(float), bins=4, range=[(0, 256)] * 3)
        np.testing.assert_allclose(row, np.sqrt(counts.ravel() / counts.sum()), atol=1e-6)
        assert np.isclose(np.linalg.norm(row), 1.0, atol=1e-6)


def test_every_bin_edge():
    """All 256 grey levels, 64 to a bin of the diagonal."""
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    made = colour_histogram([grey])[0]
    assert np.flatnonzero(made).tolist() == [0, 21, 42, 63]
    np.testing.assert_allclose(made[[0, 21, 42, 63]], 0.5)


def test_array_and_list_agree_and_place_does_not_matter():
    stack = np.stack([photo[:7, :14] for photo in photos()])
    assert np.array_equal(colour_histogram(stack), colour_histogram(list(stack)))
    assert np.array_equal(colour_histogram(stack), colour_histogram(stack[:, ::-1, ::-1]))


def test_nothing_in_nothing_out():
    assert colour_histogram([]).shape == (0, 64)
