"""Light, colour, warps and coding, as in ImageNet-C."""

import io

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from scipy import ndimage

from paribus.stimuli.severities import Numbers

Picture = Float64[np.ndarray, "H W 3"]


def brightness(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """More light: the value of HSV raised."""
    hsv = _hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + strength[0], 0, 1)
    return _rgb(hsv)


def saturate(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Less colour, then more: the saturation of HSV scaled and raised."""
    hsv = _hsv(image)
    hsv[..., 1] = np.clip(hsv[..., 1] * strength[0] + strength[1], 0, 1)
    return _rgb(hsv)


def _hsv(image: Picture) -> Picture:
    converted: Picture = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV).astype(np.float64)
    return converted


def _rgb(hsv: Picture) -> Picture:
    converted: Picture = cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB).astype(np.float64)
    return converted


def contrast(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Less contrast: each channel drawn towards its mean."""
    means = image.mean(axis=(0, 1), keepdims=True)
    drawn: Picture = (image - means) * strength[0] + means
    return drawn


def elastic(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """A random affine map of three points, then each pixel moved along a smooth random field."""
    far, wide, corners = strength
    height, width = image.shape[:2]
    middle, third = np.array([width // 2, height // 2]), min(height, width) // 3
    before = (middle + third * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    after = before + rng.uniform(-corners, corners, before.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(before, after)
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    steps = [
        far * ndimage.gaussian_filter(rng.uniform(-1, 1, (height, width)), wide, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    rows, columns = np.mgrid[:height, :width]
    places = [rows + steps[1], columns + steps[0]]
    channels = [ndimage.map_coordinates(moved[..., c], places, order=1, mode="reflect") for c in range(3)]
    warped: Picture = np.stack(channels, axis=-1)
    return warped


def pixelate(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Averaged to fewer pixels, and blown up again."""
    height, width = image.shape[:2]
    fewer = (max(1, int(width * strength[0])), max(1, int(height * strength[0])))
    small = Image.fromarray(_eight(image)).resize(fewer, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255.0


def jpeg(image: Picture, strength: Numbers, rng: np.random.Generator) -> Picture:
    """Coded as JPEG, and decoded."""
    coded = io.BytesIO()
    Image.fromarray(_eight(image)).save(coded, "JPEG", quality=round(strength[0]))
    return np.asarray(Image.open(coded)) / 255.0


def _eight(image: Picture) -> UInt8[np.ndarray, "H W 3"]:
    eight: UInt8[np.ndarray, "H W 3"] = np.rint(image * 255).astype(np.uint8)
    return eight
