"""JPEGs as RGB at once: the pixels of OpenCV's plain decoding, which are Pillow's."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from paribus.data.decoding import decode_image

SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def pieces(count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        photo = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
        h, w = rng.integers(1, 200, 2)
        top, left = rng.integers(0, photo.shape[0] - h), rng.integers(0, photo.shape[1] - w)
        yield photo[top : top + h, left : left + w], int(rng.integers(5, 100))


def plainly(blob):
    """Whatever OpenCV reads, turned to RGB afterwards; None if it is no picture."""
    made = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)
    if made is None:
        return None
    return cv2.cvtColor(made, cv2.COLOR_GRAY2RGB if made.ndim == 2 else cv2.COLOR_BGR2RGB)


def pillow(blob):
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def saved(image, **settings):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [0, 1])
def test_colour_of_every_sampling(sampling, progressive):
    for piece, quality in pieces(12, seed=0):
        settings = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], cv2.IMWRITE_JPEG_QUALITY, quality]
        settings += [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
        blob = cv2.imencode(".jpg", piece, settings)[1].tobytes()
        assert np.array_equal(decode_image(blob), plainly(blob))
        assert np.array_equal(decode_image(blob), pillow(blob))


def test_grey_and_four_colours():
    for piece, quality in pieces(12, seed=1):
        grey = saved(Image.fromarray(piece).convert("L"), quality=quality)
        assert np.array_equal(decode_image(grey), plainly(grey))
        assert np.array_equal(decode_image(grey), pillow(grey))
        inks = saved(Image.fromarray(piece).convert("CMYK"), quality=quality)
        assert np.array_equal(decode_image(inks), plainly(inks))


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x112] = 6
    for piece, quality in pieces(6, seed=2):
        turned = saved(Image.fromarray(piece), quality=quality, exif=exif)
        assert np.array_equal(decode_image(turned), pillow(turned))
        assert decode_image(turned).shape == piece.shape


def test_broken_files_are_broken_alike():
    """Cut, with bytes changed, with bytes after the end."""
    rng, decoded = np.random.default_rng(3), 0
    for piece, quality in pieces(120, seed=3):
        whole = bytearray(saved(Image.fromarray(piece), quality=quality))
        changed = whole[:]
        for place in rng.integers(2, len(changed), 4):
            changed[place] = rng.integers(256)
        for blob in (whole[: rng.integers(3, len(whole))], changed, whole + b"more"):
            expected = plainly(bytes(blob))
            if expected is None:
                with pytest.raises(ValueError, match="not a picture"):
                    decode_image(bytes(blob))
            else:
                decoded += 1
                assert np.array_equal(decode_image(bytes(blob)), expected)
    assert decoded > 150
