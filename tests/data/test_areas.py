"""Area averages as sparse products: OpenCV's pixels, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from paribus.data import areas
from paribus.data.areas import shrink, weights


def theirs(image, width, height):
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def cuts(count, seed, least=2):
    """Pieces of a photograph that are not contiguous, and sizes to shrink them to."""
    rng, photo = np.random.default_rng(seed), load_sample_image("china.jpg")
    for _ in range(count):
        h, w = rng.integers(least, 420, 2)
        top, left = rng.integers(0, photo.shape[0] - h), rng.integers(0, photo.shape[1] - w)
        yield photo[top : top + h, left : left + w], int(rng.integers(1, w + 1)), int(rng.integers(1, h + 1))


@pytest.fixture
def own(monkeypatch):
    """Our sums at any size, and how often they were made."""
    made = []
    averages = areas._averages
    monkeypatch.setattr(areas, "LEAST", 0)
    monkeypatch.setattr(areas, "_averages", lambda *given: made.append(given) or averages(*given))
    return made


@pytest.mark.skipif(not areas._same(), reason="products and sums are fused here, so OpenCV is called")
def test_pixels_are_opencvs(own):
    for image, width, height in cuts(200, seed=0):
        assert np.array_equal(shrink(image, width, height), theirs(image, width, height)), image.shape
    assert len(own) > 150, "whole ratios aside"


@pytest.mark.parametrize("strip", [1, 3_000])
def test_any_strips_give_the_same(own, monkeypatch, strip):
    monkeypatch.setattr(areas, "STRIP", strip)
    for image, width, height in cuts(10, seed=1):
        assert np.array_equal(shrink(image, width, height), theirs(image, width, height))


def test_one_axis_alone_whole_ratios_and_no_change():
    photo = load_sample_image("flower.jpg")[:400, :400]
    for width, height in ((400, 171), (171, 400), (200, 100), (200, 171), (400, 400), (399, 399), (1, 1)):
        assert np.array_equal(shrink(photo, width, height), theirs(photo, width, height))


def test_threads_do_not_share_their_memory():
    some = list(cuts(60, seed=2, least=100))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda given: shrink(*given), some))
    assert all(np.array_equal(ours, theirs(*given)) for ours, given in zip(made, some, strict=True))


def test_what_is_given_out_is_not_used_again():
    (first, width, height), (second, *size) = cuts(2, seed=3, least=100)
    kept = shrink(first, width, height)
    shrink(second, *size)
    assert np.array_equal(kept, theirs(first, width, height))


def test_where_sums_differ_opencv_is_called(own, monkeypatch):
    monkeypatch.setattr(areas, "_same", lambda: False)
    for image, width, height in cuts(5, seed=4):
        assert np.array_equal(shrink(image, width, height), theirs(image, width, height))
    assert not own


def test_the_trial_sees_a_difference_in_the_last_bit(monkeypatch):
    averages = areas._averages
    assert areas._same.__wrapped__() == areas._same()
    nearly = lambda *given: np.nextafter(averages(*given), np.float32(np.inf))  # noqa: E731
    monkeypatch.setattr(areas, "_averages", nearly)
    assert not areas._same.__wrapped__()


@pytest.mark.parametrize(("source", "target"), [(500, 224), (7, 7), (9, 1), (301, 300), (4000, 33), (1, 1)])
def test_weights_are_the_shares_of_source_pixels(source, target):
    """Each pixel's overlap with each target, by the definition; OpenCV drops what is under a thousandth."""
    scale = source / target
    start, pixel = np.arange(target)[:, None] * scale, np.arange(source)[None]
    overlap = np.clip(np.minimum(start + scale, pixel + 1) - np.maximum(start, pixel), 0.0, 1.0) / scale
    made = weights(source, target).toarray()
    assert made.dtype == np.float32
    assert np.abs(made - overlap).max() < 1.1e-3
    assert np.abs(made.sum(axis=1) - 1.0).max() < 2.1e-3
