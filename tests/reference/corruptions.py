"""The corruptions of ImageNet-C as loops in float64, from the published formulas and numbers.

Each takes a picture in [0, 1], its numbers and a generator, and draws in the order that the published code
draws in. Where that uses scikit-image or SciPy, so does this; pixels are moved one by one.
"""

import colorsys
import math

import cv2
import numpy as np
import skimage
from scipy import ndimage

IMAGENET = {
    "gaussian_noise": [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
    "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
    "impulse_noise": [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
    "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    "snow": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
    "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
    "elastic_transform": [
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ],
    "pixelate": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
    "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
    "speckle_noise": [(0.15,), (0.2,), (0.35,), (0.45,), (0.6,)],
    "gaussian_blur": [(1,), (2,), (3,), (4,), (6,)],
    "spatter": [
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ],
    "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
}
"""make_imagenet_c.py, pictures of 224 pixels."""

CIFAR = {
    "gaussian_noise": [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)],
    "shot_noise": [(500,), (250,), (100,), (75,), (50,)],
    "impulse_noise": [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "brightness": [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)],
    "contrast": [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)],
    "elastic_transform": [
        (0, 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ],
    "pixelate": [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)],
    "jpeg_compression": [(80,), (65,), (58,), (50,), (40,)],
    "speckle_noise": [(0.06,), (0.1,), (0.12,), (0.16,), (0.2,)],
    "gaussian_blur": [(0.4,), (0.6,), (0.7,), (0.8,), (1,)],
    "spatter": [
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
}
"""make_cifar_c.py, pictures of 32 pixels."""


def gaussian_noise(x, c, rng):
    return x + rng.normal(size=x.shape, scale=c[0])


def shot_noise(x, c, rng):
    return rng.poisson(x * c[0]) / c[0]


def impulse_noise(x, c, rng):
    return skimage.util.random_noise(x, mode="s&p", amount=c[0], rng=rng)


def speckle_noise(x, c, rng):
    return x + x * rng.normal(size=x.shape, scale=c[0])


def gaussian_blur(x, c, rng):
    return skimage.filters.gaussian(x, sigma=c[0], channel_axis=-1)


def glass_blur(x, c, rng):
    sigma, reach, rounds = c
    x = np.uint8(skimage.filters.gaussian(x, sigma=sigma, channel_axis=-1) * 255)
    height, width = x.shape[:2]
    for _ in range(rounds):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = rng.integers(-reach, reach, 2)
                # NumPy's right-hand side is two views, so the second assignment reads what the first wrote.
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    return skimage.filters.gaussian(x / 255.0, sigma=sigma, channel_axis=-1)


def defocus_blur(x, c, rng):
    radius, soft = c
    reach = 8 if radius <= 8 else math.ceil(radius)
    disc = np.zeros((2 * reach + 1, 2 * reach + 1))
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            disc[reach + i, reach + j] = i * i + j * j <= radius * radius
    disc /= disc.sum()
    half = 1 if radius <= 8 else 2
    taps = np.array([math.exp(-(k * k) / (2 * soft * soft)) for k in range(-half, half + 1)])
    return _correlated(x, _correlated(disc[..., None], np.outer(taps, taps) / taps.sum() ** 2)[..., 0])


def _correlated(x, kernel):
    """Each pixel's neighbourhood weighted by a kernel; beyond the edge the picture is mirrored at it."""
    height, width = x.shape[:2]
    reach = len(kernel) // 2
    out = np.zeros(x.shape)
    for h in range(height):
        for w in range(width):
            for i, j in np.argwhere(kernel):
                place = _mirrored(h + i - reach, height), _mirrored(w + j - reach, width)
                out[h, w] += kernel[i, j] * x[place]
    return out


def _mirrored(place, length):
    while not 0 <= place < length:
        place = -place if place < 0 else 2 * (length - 1) - place
    return place


def motion_blur(x, c, rng):
    return _moving(x, c[0], c[1], rng.uniform(-45, 45))


def _moving(x, radius, sigma, angle):
    """ImageMagick's motion blur, as imagecorruptions writes it out: shifted copies, edges repeated."""
    width = 2 * radius + 1
    weights = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(width)]
    out = np.zeros(x.shape)
    for i, weight in enumerate(weights):
        dy = -math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        dx = -math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        for h in range(x.shape[0]):
            for w in range(x.shape[1]):
                source = min(max(h - dy, 0), x.shape[0] - 1), min(max(w - dx, 0), x.shape[1] - 1)
                out[h, w] += weight / sum(weights) * x[source]
    return out


def zoom_blur(x, c, rng):
    factors = np.arange(1, *c)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x, factor):
    side = len(x)
    kept = math.ceil(side / factor)
    top = (side - kept) // 2
    large = ndimage.zoom(x[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


def snow(x, c, rng):
    flakes = _zoomed(rng.normal(size=x.shape[:2], loc=c[0], scale=c[1])[..., None], c[2])
    flakes[flakes < c[3]] = 0
    flakes = (np.clip(flakes, 0, 1) * 255).astype(np.uint8) / 255
    flakes = np.round(_moving(flakes, c[4], c[5], rng.uniform(-135, -45)) * 255) / 255
    grey = x[..., :1] * 0.299 + x[..., 1:2] * 0.587 + x[..., 2:] * 0.114
    pale = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    return pale + flakes + flakes[::-1, ::-1]


def fog(x, c, rng):
    mist = _plasma(2 ** math.ceil(math.log2(max(x.shape))), c[1], rng)[: x.shape[0], : x.shape[1], None]
    return (x + c[0] * mist) * x.max() / (x.max() + c[0])


def _plasma(side, decay, rng):
    """Diamond-square on a torus, point by point; all squares of a step, then its edges across, then down."""
    surface, step, wibble = np.zeros((side, side)), side, 100

    def fill(rows, columns, neighbours):
        draws = rng.uniform(-wibble, wibble, (len(rows), len(columns)))
        for i, h in enumerate(rows):
            for j, w in enumerate(columns):
                near = [surface[(h + dh) % side, (w + dw) % side] for dh, dw in neighbours]
                surface[h, w] = sum(near) / 4 + wibble * draws[i, j]

    while step >= 2:
        half = step // 2
        whole, between = range(0, side, step), range(half, side, step)
        plus = [(-half, 0), (half, 0), (0, -half), (0, half)]
        fill(between, between, [(a, b) for a in (-half, half) for b in (-half, half)])
        fill(whole, between, plus)
        fill(between, whole, plus)
        step, wibble = half, wibble / decay
    surface -= surface.min()
    return surface / surface.max()


def spatter(x, c, rng):
    drops = skimage.filters.gaussian(rng.normal(size=x.shape[:2], loc=c[0], scale=c[1]), sigma=c[2])
    drops[drops < c[3]] = 0
    if c[5]:
        cover = skimage.filters.gaussian((drops > c[3]).astype(float), sigma=c[4])
        cover[cover < 0.8] = 0
        return x * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255
    liquid = (drops * 255).astype(np.uint8)
    rim = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    _, rim = cv2.threshold(rim, 20, 20, cv2.THRESH_TRUNC)
    rim = cv2.equalizeHist(cv2.blur(rim, (3, 3)).astype(np.uint8))
    rim = cv2.filter2D(rim, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    shine = liquid * cv2.blur(rim, (3, 3)).astype(np.float32)
    return x + c[4] * (shine / shine.max())[..., None] * np.array([175, 238, 238]) / 255


def contrast(x, c, rng):
    means = [x[..., channel].mean() for channel in range(3)]
    return np.stack([(x[..., k] - means[k]) * c[0] + means[k] for k in range(3)], axis=-1)


def brightness(x, c, rng):
    return _in_hsv(x, lambda h, s, v: (h, s, min(v + c[0], 1)))


def saturate(x, c, rng):
    return _in_hsv(x, lambda h, s, v: (h, min(s * c[0] + c[1], 1), v))


def _in_hsv(x, change):
    out = np.empty(x.shape)
    for place in np.ndindex(x.shape[:2]):
        out[place] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[place])))
    return out


def elastic_transform(x, c, rng):
    """The affine map by scikit-image, the field pixel by pixel."""
    side = len(x)
    middle, third = side // 2, side // 3
    before = middle + third * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + rng.uniform(-c[2], c[2], before.shape)
    affine = skimage.transform.AffineTransform.from_estimate(before, after)
    moved = skimage.transform.warp(x, affine.inverse, order=1, mode="reflect")
    dx, dy = (
        skimage.filters.gaussian(rng.uniform(-1, 1, x.shape[:2]), c[1], mode="reflect", truncate=3) * c[0]
        for _ in range(2)
    )
    out = np.zeros(x.shape)
    for h in range(side):
        for w in range(side):
            out[h, w] = _linear(moved, h + dy[h, w], w + dx[h, w])
    return out


def _linear(x, row, column):
    """Linear interpolation; beyond the edge the picture is mirrored about it, edge pixels twice."""
    top, left = math.floor(row), math.floor(column)
    out = np.zeros(3)
    for h, a in ((top, top + 1 - row), (top + 1, row - top)):
        for w, b in ((left, left + 1 - column), (left + 1, column - left)):
            out += a * b * x[_doubled(h, len(x)), _doubled(w, len(x))]
    return out


def _doubled(place, length):
    while not 0 <= place < length:
        place = -place - 1 if place < 0 else 2 * length - 1 - place
    return place


def pixelate(x, c, rng):
    side = len(x)
    fewer = int(side * c[0])
    return _boxed(np.round(_boxed(x, fewer) * 255) / 255, side)


def _boxed(x, side):
    """Means over boxes, each pixel whose middle lies in one counting whole; of the nearest, if none does.

    That is Pillow's box filter.
    """
    step = len(x) / side
    reach = max(step, 1) / 2
    spans = []
    for place in range(side):
        centre = (place + 0.5) * step
        low, high = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), len(x))
        inside = [k for k in range(low, high) if -reach < k + 0.5 - centre <= reach]
        spans.append(inside or [min(int(centre), len(x) - 1)])
    return np.array([[x[np.ix_(rows, columns)].mean(axis=(0, 1)) for columns in spans] for rows in spans])


def jpeg_compression(x, c, rng):
    """By OpenCV, where the published code uses Pillow; both call libjpeg."""
    eight = np.round(x[..., ::-1] * 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, c[0]])
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1] / 255.0
