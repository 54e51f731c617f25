"""Factors measured from the pictures themselves: how alike two are in colour, texture, layout, text, meaning.

For pictures of which nothing is known. Each factor gives a number for each pair, larger for more alike:

    colour   minus the earth mover's distance between palettes in CIELAB (Rubner et al. 2000)
    texture  minus the distance between filter-bank statistics of the luminance: energies and correlations of
             Gabor filters at three scales and four orientations (Portilla and Simoncelli 2000, in short)
    layout   correlation of 8 x 8 luminance thumbnails
    text     whether something is written in both (a label, not a number)
    words    Jaccard index of the words that stand in two pictures
    meaning  cosine of what is said of two pictures, words weighed by how rare they are

Colour knows nothing of where it is, layout and texture nothing of hue.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from scipy.optimize import linear_sum_assignment

from paribus.analysis.similarity import unit
from paribus.errors import UserError

COLOURS = 16
"""Of a palette; each stands for an equal share of the picture, so that EMD is an assignment."""
_SIDE, _THUMBNAIL, _TEXTURE = 64, 8, 128
_WAVELENGTHS = (4.0, 8.0, 16.0)
_ORIENTATIONS = 4
_BLOCK = 4_096
"""Pairs that are held against each other at once: 25 MB."""
_QUIET = 1e-2
"""Energy of a filter, of a luminance from 0 to 100, below which there is nothing but rounding."""

_KNEE = 6 / 29
_VALUES = np.arange(256) / 255
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4)
_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / np.array([[0.95047], [1.0], [1.08883]])
"""Linear sRGB to XYZ, relative to the white of D65."""

_Palette = Float[np.ndarray, "16 3"]


@dataclass(frozen=True)
class Looked:
    """What is measured of some pictures, in their order."""

    palettes: Float[np.ndarray, "N 16 3"]
    textures: Float[np.ndarray, "N T"]
    layouts: Float[np.ndarray, "N L"]

    def __len__(self) -> int:
        return len(self.palettes)

    def likeness(
        self, left: Int[np.ndarray, " P"], right: Int[np.ndarray, " P"]
    ) -> dict[str, Float[np.ndarray, " P"]]:
        """How alike pairs of these pictures are, factor by factor."""
        out = {name: np.empty(len(left)) for name in ("colour", "texture", "layout")}
        for start in range(0, len(left), _BLOCK):
            some = slice(start, start + _BLOCK)
            one, other = left[some], right[some]
            step = self.textures[one] - self.textures[other]
            out["colour"][some] = [-_assigned(c) for c in _costs(self.palettes[one], self.palettes[other])]
            out["texture"][some] = -np.sqrt((step**2).mean(axis=1))
            out["layout"][some] = (self.layouts[one] * self.layouts[other]).sum(axis=1)
        return out

    def similarities(self, rows: Int[np.ndarray, " n"]) -> dict[str, Float[np.ndarray, "n n"]]:
        """How alike each two of some pictures are, factor by factor, as the regression takes it."""
        left, right = pairs_of(len(rows))
        found = self.likeness(rows[left], rows[right])
        return {name: square(values, len(rows)) for name, values in found.items()}


def measure_pictures(images: Iterable[UInt8[np.ndarray, "_ _ 3"]], sample: int | None = None) -> Looked:
    """Measure RGB pictures of any sizes, in one pass; of each a few hundred numbers are kept.

    Args:
        images: the pictures.
        sample: how many of the first ones say what unit a filter's response is measured in; None: all.

    Raises:
        UserError: there is none.
    """
    bank = _bank()
    found = [_look(image, bank) for image in images]
    if not found:
        raise UserError("There are no pictures to measure: give at least two, since pairs are compared.")
    palettes, textures, layouts = (np.stack(column) for column in zip(*found, strict=True))
    spread = textures[:sample].std(axis=0)
    scaled = (textures - textures[:sample].mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return Looked(palettes, scaled, layouts)


def lab(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """RGB (sRGB, D65) as CIELAB: L from 0 to 100, a and b about -100 to 100 (CIE 15, IEC 61966-2-1).

    In full, since OpenCV's own is a table that is off by up to a third of a unit.
    """
    xyz = _LINEAR[image] @ _XYZ.T
    root = np.where(xyz > _KNEE**3, np.cbrt(xyz), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def palette(pixels: Float[np.ndarray, "P 3"]) -> _Palette:
    """Sixteen colours of equal weight, by median cut (Heckbert 1982) across the axis of the largest variance.

    A box is cut by number of pixels, in the order of the values and then of the pixels' place, so that equal
    pictures have equal palettes; of a picture of fewer pixels each is taken several times.
    """
    repeats = -(-COLOURS // len(pixels))
    boxes = [np.repeat(pixels, repeats, axis=0)]
    while len(boxes) < COLOURS:
        boxes = [half for box in boxes for half in _halves(box)]
    return np.stack([box.mean(axis=0) for box in boxes])


def _halves(box: Float[np.ndarray, "P 3"]) -> list[Float[np.ndarray, "_ 3"]]:
    axis = int(np.argmax(box.var(axis=0)))
    return np.array_split(box[np.argsort(box[:, axis], kind="stable")], 2)


def emd(a: _Palette, b: _Palette) -> float:
    """Earth mover's distance of two palettes of equal weights, in units of CIELAB: the best assignment."""
    return _assigned(_costs(a[None], b[None])[0])


def _costs(
    a: Float[np.ndarray, "pairs 16 3"], b: Float[np.ndarray, "pairs 16 3"]
) -> Float[np.ndarray, "pairs 16 16"]:
    """Distances of each colour of one palette to each of the other."""
    cost: Float[np.ndarray, "pairs 16 16"] = np.sqrt(((a[:, :, None] - b[:, None]) ** 2).sum(axis=3))
    return cost


def _assigned(cost: Float[np.ndarray, "16 16"]) -> float:
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def split_words(text: str) -> list[str]:
    """Words of a text without punctuation, compatibility forms and case folded; digits are words too."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def text_factors(words: Sequence[AbstractSet[str]]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """What is written in pictures, as two factors: that something is, in both, and which words.

    Without the first, "both have text" would pass for "the same words".
    """
    written = np.array(["text" if some else "" for some in words], dtype=str)
    return {"text": written, "words": words_alike(words)}


def words_alike(words: Sequence[AbstractSet[str]]) -> Float[np.ndarray, "N N"]:
    """Jaccard index of each two sets of words, 0 where either is empty; zero diagonal."""
    known = {word: place for place, word in enumerate(sorted(set().union(*words)))}
    has = np.zeros((len(words), max(len(known), 1)))
    for row, some in enumerate(words):
        has[row, [known[word] for word in some]] = 1.0
    both = has @ has.T
    either = has.sum(axis=1)[:, None] + has.sum(axis=1)[None] - both
    index: Float[np.ndarray, "N N"] = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    np.fill_diagonal(index, 0.0)
    return index


def meaning(texts: Sequence[str]) -> Float[np.ndarray, "N V"]:
    """What is said of pictures as vectors; a word weighs log(N / texts that have it) (Sparck Jones 1972)."""
    said = [Counter(split_words(text)) for text in texts]
    in_texts = Counter(word for words in said for word in words)
    known = {word: place for place, word in enumerate(sorted(in_texts))}
    rows = np.zeros((len(texts), max(len(known), 1)))
    for row, words in enumerate(said):
        for word, count in words.items():
            rows[row, known[word]] = (1 + math.log(count)) * math.log(len(texts) / in_texts[word])
    return rows


def vectors_alike(rows: Float[np.ndarray, "N V"]) -> Float[np.ndarray, "N N"]:
    """Cosine of each two vectors; zero diagonal."""
    unit_rows = unit(rows.astype(np.float64))
    alike: Float[np.ndarray, "N N"] = unit_rows @ unit_rows.T
    np.fill_diagonal(alike, 0.0)
    return alike


def square(values: Float[np.ndarray, " pairs"], count: int) -> Float[np.ndarray, "N N"]:
    """What was measured of all pairs i < j, in the order of ``pairs_of``, as a matrix; zero diagonal."""
    out = np.zeros((count, count))
    left, right = pairs_of(count)
    out[left, right] = out[right, left] = values
    return out


def pairs_of(count: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """All pairs i < j of so many pictures."""
    left, right = np.triu_indices(count, 1)
    return left.astype(np.int64), right.astype(np.int64)


def _look(
    image: UInt8[np.ndarray, "H W 3"], bank: Sequence[Float[np.ndarray, "_ _"]]
) -> tuple[_Palette, Float[np.ndarray, " T"], Float[np.ndarray, " L"]]:
    small = lab(_shrunk(image, _SIDE))
    return palette(small.reshape(-1, 3)), _texture(image, bank), _layout(small[..., 0])


def _shrunk(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    """The whole picture as a square; what is longer shrinks by area, what is shorter grows between pixels."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (min(width, side), min(height, side)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)


def _layout(luminance: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " L"]:
    cells = luminance.reshape(_THUMBNAIL, _SIDE // _THUMBNAIL, _THUMBNAIL, -1).mean(axis=(1, 3)).ravel()
    cells -= cells.mean()
    length = float(np.linalg.norm(cells))
    return cells / length if length > _QUIET else np.zeros_like(cells)


def _bank() -> list[Float[np.ndarray, "_ _"]]:
    """Gabor filters without a mean, at three wavelengths and four orientations."""
    made = []
    for wavelength in _WAVELENGTHS:
        width = int(2 * round(wavelength) + 1)
        for turn in range(_ORIENTATIONS):
            angle = math.pi * turn / _ORIENTATIONS
            kernel = cv2.getGaborKernel((width, width), wavelength / 2, angle, wavelength, 1.0, 0.0)
            kernel -= kernel.mean()
            made.append(kernel / np.abs(kernel).sum())
    return made


def _texture(
    image: UInt8[np.ndarray, "H W 3"], bank: Sequence[Float[np.ndarray, "_ _"]]
) -> Float[np.ndarray, " T"]:
    """Log energies of the filters, and correlations of their magnitudes: which of them answer together."""
    luminance = lab(_shrunk(image, _TEXTURE))[..., 0].astype(np.float32)
    answers = np.stack([np.abs(cv2.filter2D(luminance, cv2.CV_32F, kernel)).ravel() for kernel in bank])
    answers = answers.astype(np.float64)
    energy = np.log(_QUIET + answers.mean(axis=1))
    step = answers - answers.mean(axis=1, keepdims=True)
    length = np.linalg.norm(step, axis=1, keepdims=True) / math.sqrt(step.shape[1])
    step = np.divide(step, length, out=np.zeros_like(step), where=length > _QUIET)
    together = step @ step.T / step.shape[1]
    return np.concatenate([energy, together[np.triu_indices(len(bank), 1)]])
