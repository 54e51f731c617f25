"""Words that stand in pictures, read by RapidOCR (PP-OCR's small models, which come inside its wheel)."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from paribus.analysis.measured import split_words
from paribus.errors import UserError

_LONGEST, _LOWEST = 960, 8
"""Longer side that is looked at, and height below which no letter can be told, in pixels."""
_PARTS = {"Det": "det", "Cls": "cls", "Rec": "rec"}
"""Its settings' name of each model -> the files' name."""
_NEEDED = "Reading words in pictures needs rapidocr and onnxruntime: run `pip install 'paribus[ocr]'`."

_Image = UInt8[np.ndarray, "H W 3"]


def read_words(images: Iterable[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[frozenset[str]]:
    """The words in each RGB picture as it comes, without case and punctuation.

    Up to a second a picture on one core; letters under some 8 pixels are read badly. Nothing is downloaded.

    Raises:
        UserError: the extra ``ocr`` is not installed, or its package has no models inside.
    """
    engine = reader()
    return (words_of(_lines(engine, image)) for image in images)


def words_of(lines: Iterable[str]) -> frozenset[str]:
    """Words of lines of text (``split_words``)."""
    return frozenset(word for line in lines for word in split_words(line))


def reader() -> Callable[[_Image], Any]:
    """RapidOCR on its own files: given their paths, it has no reason to download any.

    Raises:
        UserError: as ``read_words``.
    """
    try:
        import onnxruntime  # noqa: F401 - what it runs on, and does not ask for
        import rapidocr
    except ImportError as error:
        raise UserError(_NEEDED) from error
    folder = Path(rapidocr.__file__).parent / "models"
    # By the shorter side, as it would, a banner of 1 x 300 pixels takes half a minute.
    settings = {"Global.log_level": "critical", "Det.limit_type": "max", "Det.limit_side_len": _LONGEST}
    models = {f"{part}.model_path": str(_model(folder, name)) for part, name in _PARTS.items()}
    engine: Callable[[_Image], Any] = rapidocr.RapidOCR(params=settings | models)
    return engine


def _model(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"*_{name}_*.onnx"))
    if len(found) != 1:
        raise UserError(
            f"rapidocr has {len(found)} models *_{name}_*.onnx inside but should have one: "
            "run `pip install rapidocr==3.10.0`."
        )
    return found[0]


def _lines(engine: Callable[[_Image], Any], image: _Image) -> tuple[str, ...]:
    """What is written, line by line; nothing where a picture is too low to hold a letter."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    size = (round(width * scale), round(height * scale))
    if min(size) < _LOWEST:
        return ()
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    blue_first = np.ascontiguousarray(small[..., ::-1])
    return tuple(engine(blue_first).txts or ())
