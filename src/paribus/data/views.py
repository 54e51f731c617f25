"""Views of a batch: crops and photometric changes, drawn for the whole batch and rendered sample by sample.

What is drawn is a pure function of (seed, epoch, sample id, view name, view index), so neither the batch a
sample is in, nor the number of workers, nor a resumed run can change a pixel. The distributions are
torchvision's (RandomResizedCrop, ColorJitter) in the order of DINO's ``DataAugmentationDINO``: crop, flip,
jitter, greyscale, blur, solarise (facebookresearch/dino, main_dino.py). Pixels stay 8-bit, as PIL's do in the
published recipes; the encoder makes them float, on its own device.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8, UInt64
from numpy.typing import NDArray
from torch import Tensor

from paribus.data.areas import shrink
from paribus.errors import UserError
from paribus.rng import U64, mix, stream, uniforms
from paribus.types import ViewSpec

# OpenCV's own threads only get in the way of the pool's: a view is a few thousand pixels.
cv2.setNumThreads(0)

Image = UInt8[np.ndarray, "_ _ 3"]
"""One picture, ``[H W 3]``, red green blue."""

TRIES = 10
"""How often torchvision's RandomResizedCrop draws a crop before it falls back on the centre."""

SLOTS = 2 * TRIES + 13
"""Uniforms per view; slots are fixed, so that turning one operation off leaves the others as they were."""

CHUNK = 32
"""Samples a worker renders at a time."""

BLUR_RADIUS = (0.1, 2.0)
"""DINO's range of the Gaussian's standard deviation, in pixels of an encoder that sees 224."""

LEAST_BLUR_RATIO = 0.25
"""That range shrinks with the image size, but no further: below, 8-bit views hardly change."""

SOLARIZE_FROM = 128

_ORDERS = tuple(itertools.permutations(range(4)))
_LUMA = np.array([0.299, 0.587, 0.114])
# saturate_cast rounds to nearest where PIL's blend truncates; 0.499 keeps whole numbers where they are.
_TRUNCATE = -0.499
_SOLARIZED: NDArray[np.uint8] = np.array([v if v < SOLARIZE_FROM else 255 - v for v in range(256)], np.uint8)


class Draws(NamedTuple):
    """What was drawn for one view of each sample."""

    boxes: Int64[np.ndarray, "B 4"]
    """Top, left, height, width, in source pixels."""
    flip: Bool[np.ndarray, " B"]
    order: Int64[np.ndarray, " B"]
    """Which of the 24 orders of the colour jitter; -1: no jitter."""
    factors: Float64[np.ndarray, "B 4"]
    """Brightness, contrast, saturation (1: unchanged) and hue (turns; 0: unchanged)."""
    gray: Bool[np.ndarray, " B"]
    sigma: Float64[np.ndarray, " B"]
    """Standard deviation of the blur in pixels; 0: no blur."""
    solarize: Bool[np.ndarray, " B"]

    def rows(self, rows: slice) -> "Draws":
        """The same draws for some of the samples."""
        return Draws(*(values[rows] for values in self))


def make_views(
    images: Sequence[Image],
    ids: UInt64[np.ndarray, " B"],
    specs: Sequence[ViewSpec],
    *,
    image_size: int,
    seed: int,
    epoch: NDArray[np.integer[Any]],
    pool: Executor | None = None,
) -> dict[str, UInt8[Tensor, "B _ 3 _ _"]]:
    """Crop, resize and colour every image as each spec asks.

    A spec with scale (1, 1) and no photometric operation is the plain resized image (its largest centred
    square, as in the published evaluation transforms).

    Args:
        images: B pictures of any sizes, 8-bit.
        ids: their 64-bit names (``paribus.rng.key_id``).
        specs: the views wanted; names must differ.
        image_size: side of the encoder's image in pixels; a view's side is ``round(spec.size * image_size)``.
        seed: the study's root seed.
        epoch: how often each sample has been seen before, ``[B]``.
        pool: renders chunks of the batch at once (threads suffice: OpenCV releases the lock).

    Returns:
        Name -> bytes ``[B V 3 side side]``, contiguous.

    Raises:
        UserError: two specs share a name, or a view would have no pixel.
    """
    if not len(images) == len(ids) == len(epoch):
        raise ValueError(f"{len(images)} images, {len(ids)} ids, {len(epoch)} epochs: one of each per sample")
    sides = view_sides(specs, image_size)
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    keys = ids ^ mix(epoch.astype(np.uint64))
    ratio = max(image_size / 224, LEAST_BLUR_RATIO)
    draws = {spec.name: _draw_spec(spec, seed, keys, sizes, ratio) for spec in specs}
    if pool is None:
        made = _render((images, draws, sides))
    else:
        jobs = []
        for start in range(0, len(images), CHUNK):
            rows = slice(start, start + CHUNK)
            part = {name: [view.rows(rows) for view in drawn] for name, drawn in draws.items()}
            jobs.append((images[rows], part, sides))
        parts = list(pool.map(_render, jobs)) or [_render((images, draws, sides))]
        made = {name: np.concatenate([part[name] for part in parts]) for name in sides}
    return {name: torch.from_numpy(pixels) for name, pixels in made.items()}


def _draw_spec(
    spec: ViewSpec, seed: int, keys: U64, sizes: Int64[np.ndarray, "B 2"], blur_ratio: float
) -> list[Draws]:
    """Draw the spec's views, each from its own stream."""
    streams = [stream(seed, "views", spec.name, view) for view in range(spec.count)]
    return [draw_views(spec, own, keys, sizes, blur_ratio=blur_ratio) for own in streams]


def view_sides(specs: Sequence[ViewSpec], image_size: int) -> dict[str, int]:
    """Name -> side in pixels.

    Raises:
        UserError: two specs share a name, or a view would have no pixel.
    """
    sides = {spec.name: round(spec.size * image_size) for spec in specs}
    if len(sides) != len(specs):
        raise UserError(f"Two views share a name in {[spec.name for spec in specs]}: name each view once.")
    for name, side in sides.items():
        if side < 1:
            raise UserError(f"View {name!r} has no pixel at image_size {image_size}: raise its size.")
    return sides


def draw_views(
    spec: ViewSpec, seed: int, keys: U64, sizes: Int64[np.ndarray, "B 2"], *, blur_ratio: float = 1.0
) -> Draws:
    """Draw one view of each sample: row i depends on ``seed``, ``keys[i]`` and ``sizes[i]`` only.

    DINO blurs its small crops with the same pixel radius as its large ones, so ``blur_ratio`` is the
    encoder's image size over 224, whatever the side of the view.
    """
    u = uniforms(seed, keys, SLOTS)
    at = 2 * TRIES
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation])
    low = np.maximum(0.0, 1.0 - strengths)
    tone = low + u[:, at + 5 : at + 8] * (1.0 + strengths - low)
    hue = (2.0 * u[:, at + 8 : at + 9] - 1.0) * spec.hue
    radius = BLUR_RADIUS[0] + u[:, at + 11] * (BLUR_RADIUS[1] - BLUR_RADIUS[0])
    return Draws(
        boxes=crop_boxes(spec, u[:, : at + 2], sizes),
        flip=u[:, at + 2] < spec.flip,
        order=np.where(u[:, at + 3] < spec.jitter, (u[:, at + 4] * len(_ORDERS)).astype(np.int64), -1),
        factors=np.concatenate([tone, hue], axis=1),
        gray=u[:, at + 9] < spec.grayscale,
        sigma=np.where(u[:, at + 10] < spec.blur, radius * blur_ratio, 0.0),
        solarize=u[:, at + 12] < spec.solarize,
    )


def crop_boxes(
    spec: ViewSpec, u: Float64[np.ndarray, "B 22"], sizes: Int64[np.ndarray, "B 2"]
) -> Int64[np.ndarray, "B 4"]:
    """RandomResizedCrop as torchvision draws it: ten tries at area and log-ratio, else the centre.

    Args:
        spec: its ``scale`` and ``ratio``; scale (1, 1) asks for no random crop and gives the centred square.
        u: uniforms: ten for areas, ten for ratios, top, left.
        sizes: height and width of each source image.

    Returns:
        Top, left, height and width.
    """
    heights, widths = sizes[:, 0], sizes[:, 1]
    if spec.scale == (1.0, 1.0):
        return _centred(*_within_ratio(heights, widths, (1.0, 1.0)), heights, widths)
    area = spec.scale[0] + u[:, :TRIES] * (spec.scale[1] - spec.scale[0])
    area = area * (heights * widths)[:, None]
    low, high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
    ratio = np.exp(low + u[:, TRIES : 2 * TRIES] * (high - low))
    w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= widths[:, None]) & (h > 0) & (h <= heights[:, None])
    first = fits.argmax(axis=1)
    h, w = h[np.arange(len(h)), first], w[np.arange(len(w)), first]
    top = (u[:, 2 * TRIES] * (heights - h + 1)).astype(np.int64)
    left = (u[:, 2 * TRIES + 1] * (widths - w + 1)).astype(np.int64)
    fallback = _centred(*_within_ratio(heights, widths, spec.ratio), heights, widths)
    return np.where(fits.any(axis=1)[:, None], np.stack([top, left, h, w], axis=1), fallback)


def _within_ratio(
    heights: Int64[np.ndarray, " B"], widths: Int64[np.ndarray, " B"], ratio: tuple[float, float]
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """The largest height and width whose ratio (width over height) lies within ``ratio``."""
    tall, wide = widths < ratio[0] * heights, widths > ratio[1] * heights
    h = np.where(tall, np.rint(widths / ratio[0]).astype(np.int64), heights)
    w = np.where(wide, np.rint(heights * ratio[1]).astype(np.int64), widths)
    return h, w


def _centred(
    h: Int64[np.ndarray, " B"],
    w: Int64[np.ndarray, " B"],
    heights: Int64[np.ndarray, " B"],
    widths: Int64[np.ndarray, " B"],
) -> Int64[np.ndarray, "B 4"]:
    """Boxes of the given size in the middle."""
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)


_Job = tuple[Sequence[Image], Mapping[str, Sequence[Draws]], Mapping[str, int]]


def _render(job: _Job) -> dict[str, UInt8[np.ndarray, "_ _ 3 _ _"]]:
    """Render every view of some samples; one argument, so that any executor can map it."""
    images, draws, sides = job
    made = {}
    for name, views in draws.items():
        side = sides[name]
        out = made[name] = np.empty((len(images), len(views), 3, side, side), np.uint8)
        for number, view in enumerate(views):
            _render_view(images, view, out[:, number])
    return made


def _render_view(images: Sequence[Image], draws: Draws, out: UInt8[np.ndarray, "_ 3 side side"]) -> None:
    """Render one view of each sample into ``out``, plane by plane."""
    side = out.shape[-1]
    rows = zip(images, *(values.tolist() for values in draws), strict=True)
    for planes, (image, box, flip, order, factors, gray, sigma, solarize) in zip(out, rows, strict=True):
        view = crop_resize(image, box, side)
        if flip:
            view = cv2.flip(view, 1)
        if order >= 0:
            view = color_jitter(view, order, factors)
        if gray:
            view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if sigma:
            view = blur(view, sigma)
        if solarize:
            view = cv2.LUT(view, _SOLARIZED)
        cv2.split(view, list(planes))


def crop_resize(image: Any, box: Sequence[int], side: int) -> Any:
    """Cut ``box`` (top, left, height, width) out and make it square.

    An axis that shrinks is averaged over the pixels it covers (OpenCV's plain cubic would alias), one that
    grows is interpolated by cubics.
    """
    top, left, h, w = box
    crop = image[top : top + h, left : left + w]
    if h == w == side:
        return crop
    if h < side < w or w < side < h:
        # INTER_AREA falls back on linear as soon as one axis grows, so the other is averaged first.
        crop = shrink(crop, min(w, side), min(h, side))
        h = w = min(h, w)
    if h >= side and w >= side:
        return shrink(crop, side, side)
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)


def brightness(image: Any, factor: float) -> Any:
    """PIL's ImageEnhance.Brightness: away from black by ``factor``."""
    return cv2.addWeighted(image, factor, image, 0.0, _TRUNCATE)


def contrast(image: Any, factor: float) -> Any:
    """PIL's ImageEnhance.Contrast: away from the rounded mean grey by ``factor``."""
    mean = int(float(_LUMA @ cv2.mean(image)[:3]) + 0.5)
    return cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * mean + _TRUNCATE)


def saturation(image: Any, factor: float) -> Any:
    """PIL's ImageEnhance.Color: away from each pixel's grey by ``factor``."""
    weights = factor * np.eye(3) + (1.0 - factor) * _LUMA
    return cv2.transform(image, weights)


def hue(image: Any, turns: float) -> Any:
    """Add, as torchvision's adjust_hue does to PIL images, ``turns`` of the colour circle to an 8-bit hue."""
    shift = int(turns * 255)
    if shift == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(shift % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_JITTER: tuple[Callable[[Any, float], Any], ...] = (brightness, contrast, saturation, hue)


def color_jitter(image: Any, order: int, factors: Sequence[float]) -> Any:
    """Apply brightness, contrast, saturation and hue in the ``order``-th of their 24 orders."""
    for operation in _ORDERS[order]:
        image = _JITTER[operation](image, factors[operation])
    return image


def blur_kernel(sigma: float) -> Float64[np.ndarray, " K"]:
    """PIL's Gaussian: a box with fractional ends, three times (Gwosdek et al. 2011, "extended box").

    Its variance is ``sigma`` squared at any width; a Gaussian sampled at whole pixels has next to none
    below half a pixel, where views of small encoders live.
    """
    variance = sigma * sigma / 3.0
    reach = int((math.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    end = (2 * reach + 1) * (reach * (reach + 1) - 3.0 * variance)
    end /= 6.0 * (variance - (reach + 1) ** 2)
    box = np.ones(2 * reach + 3)
    box[0] = box[-1] = end
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box)


def blur(image: Any, sigma: float) -> Any:
    """PIL's ImageFilter.GaussianBlur with radius ``sigma`` in pixels, edges repeated."""
    kernel = blur_kernel(sigma)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
