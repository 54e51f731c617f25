"""Drawings as pixels: SVG bodies, pictures and words on a background, and the colours they are named by.

Nothing here imports torch, so that the processes that draw a corpus start in a fraction of a second.
Images are ``uint8`` RGB, ``[S S 3]``; a *layer* is ``uint8`` RGBA with straight alpha, ``[S S 4]``.
"""

import functools
import hashlib
import math
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import resvg_py
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from paribus.errors import UserError

RGB = tuple[int, int, int]
Number = int | float
WHITE: RGB = (255, 255, 255)

COLOURS: dict[str, RGB] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (214, 32, 40),
    "orange": (238, 112, 12),
    "yellow": (252, 212, 44),
    "green": (48, 150, 60),
    "blue": (38, 100, 214),
    "purple": (136, 56, 176),
    "pink": (252, 165, 200),
    "brown": (124, 76, 44),
}
"""The eleven basic colour terms (Berlin and Kay 1969), each with the colour it is drawn in."""

LEAST_CONTRAST = 3.0
"""Least contrast ratio of fill and background: what WCAG 2.1 (1.4.11) asks of graphics and large text."""

_SHADES: dict[str, tuple[RGB, ...]] = {
    "black": ((36, 36, 40),),
    "white": ((240, 240, 243),),
    "grey": ((84, 88, 92), (172, 176, 180), (208, 210, 214)),
    "red": ((150, 18, 28), (238, 76, 72)),
    "orange": ((255, 160, 64),),
    "yellow": ((255, 238, 130), (226, 186, 60)),
    "green": ((20, 90, 44), (124, 196, 76), (0, 166, 128)),
    "blue": ((24, 44, 110), (96, 178, 240), (172, 214, 244), (0, 136, 176), (70, 110, 150)),
    "purple": ((86, 40, 118), (178, 140, 220)),
    "pink": ((238, 98, 146), (222, 56, 140)),
    "brown": ((78, 46, 28), (166, 112, 72)),
}
"""Further colours that go by each term: art has light blues and dark greens too."""


def lab(rgb: UInt8[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """CIELAB (D65) of sRGB colours: L* in [0, 100], a* and b* in about [-128, 127]."""
    flat = np.ascontiguousarray(rgb.reshape(1, -1, 3), dtype=np.float32) / 255.0
    converted: Float[np.ndarray, "1 N 3"] = cv2.cvtColor(flat, cv2.COLOR_RGB2Lab)
    return converted.reshape(rgb.shape)


_TERMS = tuple(COLOURS)
_NAMED = [(place, rgb) for place, term in enumerate(_TERMS) for rgb in (COLOURS[term], *_SHADES[term])]
_NAMED_TERMS = np.array([place for place, _ in _NAMED])
_NAMED_LAB = lab(np.array([rgb for _, rgb in _NAMED], np.uint8))


def luminance(colour: RGB) -> float:
    """Relative luminance of an sRGB colour, in [0, 1] (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: RGB, second: RGB) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2.1)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@functools.cache
def backgrounds(fill: str) -> tuple[str, ...]:
    """The colour terms on which a fill can be told from its background."""
    return tuple(term for term in _TERMS if contrast(COLOURS[fill], COLOURS[term]) >= LEAST_CONTRAST)


def composite(layer: UInt8[np.ndarray, "S S 4"], background: RGB) -> UInt8[np.ndarray, "S S 3"]:
    """Lay a layer over an even background (source-over in sRGB, as browsers do)."""
    alpha = layer[..., 3:].astype(np.uint32)
    mixed = layer[..., :3] * alpha + np.array(background, np.uint32) * (255 - alpha)
    image: UInt8[np.ndarray, "S S 3"] = ((mixed + 127) // 255).astype(np.uint8)
    return image


def svg_layer(
    body: str,
    width: Number,
    height: Number,
    size: int,
    *,
    fill: RGB | None = None,
    left: Number = 0.0,
    top: Number = 0.0,
    mirrored: bool = False,
) -> UInt8[np.ndarray, "S S 4"]:
    """Rasterise an SVG body with resvg, letterboxed into a square of ``size`` pixels.

    Args:
        body: what stands between ``<svg>`` and ``</svg>``.
        width: of the view box, in the body's units.
        height: of the view box.
        size: side of the result in pixels.
        fill: what ``currentColor`` stands for; black if None.
        left: of the view box.
        top: of the view box.
        mirrored: flip left and right.

    Raises:
        UserError: the body is no SVG.
    """
    if mirrored:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}" '
        f'color="{hex_colour(fill or (0, 0, 0))}">{body}</svg>'
    )
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    except ValueError as error:
        raise UserError(f"Cannot draw the SVG that begins with {body[:40]!r}: {error}.") from error
    return _decoded(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]


def _decoded(blob: UInt8[np.ndarray, "bytes"], mode: int) -> UInt8[np.ndarray, "H W C"]:
    """A picture as OpenCV reads it, blue first."""
    decoded = cv2.imdecode(blob, mode)
    if decoded is None:
        raise ValueError("not a picture")
    picture: UInt8[np.ndarray, "H W C"] = np.asarray(decoded, np.uint8)
    return picture


def hex_colour(colour: RGB) -> str:
    """A colour as SVG writes it: ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def draw_svg(
    body: str, width: Number, height: Number, size: int, *, fill: RGB | None = None, background: RGB = WHITE
) -> UInt8[np.ndarray, "S S 3"]:
    """An SVG body on an even background; see ``svg_layer``."""
    return composite(svg_layer(body, width, height, size, fill=fill), background)


def bitmap_layer(path: Path, size: int) -> UInt8[np.ndarray, "S S 4"]:
    """A picture file (any format OpenCV reads), letterboxed and reduced by area averaging.

    Colours are averaged weighted by their alpha, so that what hides under transparent pixels does not
    bleed into the edges.

    Raises:
        UserError: the file is missing or no picture.
    """
    decoded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.ndim != 3:
        raise UserError(f"Cannot read the picture {path}: delete the art folder and fetch it again.")
    if decoded.shape[2] == 3:
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2BGRA)
    height, width = decoded.shape[:2]
    side = max(height, width)
    rows, columns = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[rows : rows + height, columns : columns + width] = decoded
    square[..., :3] *= square[..., 3:] / 255.0
    small = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    colour = small[..., 2::-1] * 255.0 / np.maximum(small[..., 3:], 1e-6)
    layer = np.concatenate([colour, small[..., 3:]], axis=-1)
    rounded: UInt8[np.ndarray, "S S 4"] = np.clip(np.rint(layer), 0, 255).astype(np.uint8)
    return rounded


@functools.lru_cache(maxsize=256)
def _font(path: Path, points: float) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), points, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UserError(f"Cannot open the font {path}: delete the art folder and fetch it again.") from error


def _ink(text: str, path: Path, points: float) -> Image.Image:
    """A word's coverage, cropped to its ink: a font's own box counts the space around it too."""
    face = _font(path, points)
    left, top, right, bottom = face.getbbox(text)
    pad = math.ceil(points)
    canvas = Image.new("L", (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad), 0)
    ImageDraw.Draw(canvas).text((pad - left, pad - top), text, fill=255, font=face)
    return canvas.crop(canvas.getbbox() or (0, 0, 1, 1))


def _fitting_ink(text: str, path: Path, box: Number) -> Image.Image:
    """A word at the largest size, in quarter points, at which it fits a square box."""
    points = math.floor(4 * 100.0 * box / max(_ink(text, path, 100.0).size)) / 4 + 0.5
    ink = _ink(text, path, points)
    while max(ink.size) > box and points > 1.0:
        points -= 0.25
        ink = _ink(text, path, points)
    return ink


def text_layer(
    text: str, font: Path, size: int, *, fill: RGB, margin: float = 0.06
) -> UInt8[np.ndarray, "S S 4"]:
    """A word as large as the box allows, its ink centred; ``margin`` is a share of ``size`` on each side.

    Raises:
        UserError: the font cannot be opened.
    """
    ink = _fitting_ink(text, font, size * (1 - 2 * margin))
    alpha = Image.new("L", (size, size), 0)
    alpha.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    layer = np.empty((size, size, 4), np.uint8)
    layer[..., :3], layer[..., 3] = fill, np.asarray(alpha)
    return layer


def draw_text(
    text: str, font: Path, size: int, *, fill: RGB, background: RGB, margin: float = 0.06
) -> UInt8[np.ndarray, "S S 3"]:
    """A word on an even background; see ``text_layer``."""
    return composite(text_layer(text, font, size, fill=fill, margin=margin), background)


def missing_letters(font: Path, letters: str = string.ascii_letters) -> str:
    """Those of ``letters`` that a font has no ink of its own for; empty for a usable font.

    Raises:
        UserError: the font cannot be opened.
    """
    face = _font(font, 40.0)
    absent = bytes(face.getmask("\U0010ffff"))
    inks = {letter: bytes(face.getmask(letter)) for letter in letters}
    return "".join(letter for letter, ink in inks.items() if not any(ink) or ink == absent)


def colour_shares(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"] | None = None
) -> dict[str, float]:
    """How much of the drawing is nearest to (a shade of) each basic colour term, in CIELAB.

    The shares sum to one.

    Args:
        image: the picture.
        mask: which pixels are drawing. If None, those that differ from the most frequent border pixel
            (or all, if none does).
    """
    if mask is None:
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        values, counts = np.unique(border, axis=0, return_counts=True)
        mask = np.abs(image.astype(np.int16) - values[counts.argmax()]).max(axis=-1) > 24
    pixels = image[mask] if mask.any() else image.reshape(-1, 3)
    # |x - t|^2 less |x|^2, which is the same for every t.
    distance = np.square(_NAMED_LAB).sum(axis=1) - 2 * lab(pixels) @ _NAMED_LAB.T
    counts = np.bincount(_NAMED_TERMS[distance.argmin(axis=1)], minlength=len(_TERMS))
    return dict(zip(_TERMS, (counts / counts.sum()).tolist(), strict=True))


def dominant_colour(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"] | None = None) -> str:
    """The basic colour term with the largest share of the drawing; see ``colour_shares``."""
    shares = colour_shares(image, mask)
    return max(shares, key=lambda term: shares[term])


def encode(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as PNG."""
    done, blob = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    return bytes(blob)


def decode(blob: UInt8[np.ndarray, "bytes"]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a PNG."""
    image: UInt8[np.ndarray, "H W 3"] = cv2.cvtColor(_decoded(blob, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return image


class SvgArt(NamedTuple):
    """An SVG body in its view box."""

    body: str
    width: Number
    height: Number
    left: Number = 0.0
    top: Number = 0.0
    mirrored: bool = False

    def layer(self, size: int, fill: RGB | None) -> UInt8[np.ndarray, "S S 4"]:
        """The drawing as RGBA."""
        body, width, height, left, top, mirrored = self
        return svg_layer(body, width, height, size, fill=fill, left=left, top=top, mirrored=mirrored)


class BitmapArt(NamedTuple):
    """A picture file."""

    path: Path

    def layer(self, size: int, fill: RGB | None) -> UInt8[np.ndarray, "S S 4"]:
        """The drawing as RGBA; its colours are its own, so ``fill`` changes nothing."""
        return bitmap_layer(self.path, size)


class WordArt(NamedTuple):
    """A written word."""

    text: str
    font: Path

    def layer(self, size: int, fill: RGB | None) -> UInt8[np.ndarray, "S S 4"]:
        """The drawing as RGBA."""
        return text_layer(self.text, self.font, size, fill=fill or (0, 0, 0))


Drawing = SvgArt | BitmapArt | WordArt


class Job(NamedTuple):
    """What to draw; ``fill`` is None where the drawing has its own colours."""

    art: Drawing
    fill: str | None
    background: str
    size: int


class Drawn(NamedTuple):
    """A drawing, packed.

    ``sha256`` is of the picture's pixels, ``shape`` of what was drawn whatever its paint, ``ink`` the share
    of the picture that it covers.
    """

    png: bytes
    sha256: str
    shape: str
    colour: str
    ink: float


def draw(job: Job) -> Drawn:
    """Draw one picture and name its colour: the fill's, or the dominant one where it has its own colours."""
    layer = job.art.layer(job.size, COLOURS[job.fill] if job.fill else None)
    image = composite(layer, COLOURS[job.background])
    mask = layer[..., 3] > 127
    colour = job.fill or dominant_colour(image, mask)
    shape = layer[..., 3] if job.fill else image
    return Drawn(encode(image), _sha256(image), _sha256(shape), colour, float(mask.mean()))


def _sha256(pixels: UInt8[np.ndarray, "..."]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


class Cell(NamedTuple):
    """A picture on a sheet, and the few words under it."""

    image: UInt8[np.ndarray, "H W 3"]
    label: str


_SIDE, _GAP, _LEGEND, _HEAD = 96, 16, 30, 140
_INK, _FAINT, _RULE = (28, 28, 32), (110, 110, 118), (226, 226, 230)


Face = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _shortened(text: str, face: Face, width: Number) -> str:
    """The text, cut with an ellipsis to fit a width in pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,-") + "…"


def _wrapped(text: str, face: Face, width: Number) -> str:
    """The text on at most two lines, broken after a space or hyphen, the second shortened."""
    breaks = [match.end() for match in re.finditer("[ -]", text)] + [len(text)]
    fitting = [end for end in breaks if face.getlength(text[:end].rstrip()) <= width]
    first = text[: max(fitting, default=0)]
    return f"{first.rstrip()}\n{_shortened(text[len(first) :], face, width)}".strip("\n")


def sheet(rows: Sequence[tuple[str, Sequence[Cell | None]]]) -> UInt8[np.ndarray, "H W 3"]:
    """A contact sheet: one line a row, its name on the left, labels under the pictures.

    Args:
        rows: (name, pictures); None leaves a place empty.
    """
    widest = max(len(cells) for _, cells in rows)
    pitch = _SIDE + _GAP + _LEGEND
    page = Image.new("RGB", (_HEAD + widest * (_SIDE + _GAP) + _GAP, len(rows) * pitch + _GAP), WHITE)
    pen, bold, small = ImageDraw.Draw(page), ImageFont.load_default(14), ImageFont.load_default(11)
    for line, (name, cells) in enumerate(rows):
        top = _GAP + line * pitch
        label = _wrapped(name, bold, _HEAD - 2 * _GAP)
        pen.multiline_text((_GAP, top + _SIDE / 2), label, fill=_INK, font=bold, anchor="lm")
        for place, cell in enumerate(cells):
            if cell is None:
                continue
            left = _HEAD + place * (_SIDE + _GAP)
            picture = Image.fromarray(cell.image).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            page.paste(picture, (left, top))
            pen.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_RULE)
            text = _wrapped(cell.label, small, _SIDE + _GAP - 6)
            place_of_text = (left + _SIDE / 2, top + _SIDE + 4)
            pen.multiline_text(
                place_of_text, text, fill=_FAINT, font=small, anchor="ma", align="center", spacing=2
            )
    return np.asarray(page)
