"""Another harness's questions as Paribus asks them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from paribus.data.conversations import decode_picture
from paribus.encoders.text import clean
from paribus.errors import UserError
from paribus.study.finished import Query
from paribus.types import IMAGE


def query(text: str, visuals: Sequence[Any] | None) -> Query:
    """What a harness asks; its marks for a picture are dropped, because a picture comes first here.

    Raises:
        UserError: there are several pictures, or something that is no picture.
    """
    shown = [visual for visual in visuals or () if visual is not None]
    if len(shown) > 1:
        raise UserError(
            f"A question comes with {len(shown)} pictures and this model looks at one: choose tasks of one "
            "picture a question."
        )
    words = clean(text.replace(f"{IMAGE}\n", "").replace(IMAGE, ""))
    return Query(words, pixels(shown[0]) if shown else None)


def pixels(visual: Any) -> UInt8[np.ndarray, "H W 3"]:
    """A harness's picture as Paribus reads one from a file.

    Raises:
        UserError: it is no picture, or one that cannot be shown.
    """
    if not isinstance(visual, Image.Image):
        raise UserError(
            f"A question comes with a {type(visual).__name__}, which is no picture: choose tasks of pictures."
        )
    if visual.mode == "RGB" and not visual.has_transparency_data:
        return np.array(visual)
    try:
        blob = io.BytesIO()
        kept = visual.convert("RGB") if visual.mode in ("CMYK", "YCbCr", "LAB", "HSV") else visual
        kept.save(blob, "PNG")
        return decode_picture(blob.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(f"A picture of mode {visual.mode} cannot be shown: leave its task out.") from error
