"""Letters and digits in several cuts and colours, drawn without any font file (Appendix B's test).

The font is the one inside Pillow (Aileron), upright, bold, slanted and in outline, so that the test runs
wherever pictures can be decoded, and is the same everywhere. Studies on the built-in corpus draw their
symbols in real font families.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
INKS: dict[str, tuple[Colour, Colour]] = {
    "black on white": ((0, 0, 0), (255, 255, 255)),
    "white on blue": ((255, 255, 255), (30, 70, 180)),
    "red on white": ((200, 30, 30), (255, 255, 255)),
}
"""Fill and ground."""
_SIDE, _SIZE, _STROKE, _SLANT = 224, 150, 6, 0.3


def _upright(symbol: str, fill: Colour, ground: Colour) -> Image.Image:
    return _drawn(symbol, fill, ground, stroke=0)


def _bold(symbol: str, fill: Colour, ground: Colour) -> Image.Image:
    return _drawn(symbol, fill, ground, stroke=_STROKE)


def _slanted(symbol: str, fill: Colour, ground: Colour) -> Image.Image:
    shear = (1, _SLANT, -_SLANT * _SIDE / 2, 0, 1, 0)
    upright = _upright(symbol, fill, ground)
    return upright.transform(
        upright.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC, fillcolor=ground
    )


def _outline(symbol: str, fill: Colour, ground: Colour) -> Image.Image:
    return _drawn(symbol, ground, ground, stroke=_STROKE, edge=fill)


CUTS: dict[str, Callable[[str, Colour, Colour], Image.Image]] = {
    "upright": _upright,
    "bold": _bold,
    "slanted": _slanted,
    "outline": _outline,
}


def symbol_styles() -> list[str]:
    """The names of ``symbol_grid``'s columns."""
    return [f"{cut}, {ink}" for cut in CUTS for ink in INKS]


def symbol_grid() -> list[list[UInt8[np.ndarray, "224 224 3"]]]:
    """Each symbol (rows) in each cut and colour (columns), in the middle of the picture."""
    return [
        [np.array(draw(symbol, *ink)) for draw in CUTS.values() for ink in INKS.values()]
        for symbol in SYMBOLS
    ]


def _drawn(
    symbol: str, fill: Colour, ground: Colour, *, stroke: int, edge: Colour | None = None
) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), ground)
    ImageDraw.Draw(image).text(
        (_SIDE / 2, _SIDE / 2),
        symbol,
        fill=fill,
        font=ImageFont.load_default(_SIZE),
        anchor="mm",
        stroke_width=stroke,
        stroke_fill=edge or fill,
    )
    return image
