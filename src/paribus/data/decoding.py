"""What comes out of the bytes of a sample: its picture as RGB, and its caption as text.

Pictures come as img2dataset makes them: stored rows and columns (EXIF orientation and colour profiles are
ignored), transparency on white (rom1504/img2dataset, ``resizer.py``); grey, palette and CMYK become RGB. Of
animations the first frame comes. Formats are JPEG, PNG, WebP, GIF, BMP and TIFF.
"""

import codecs
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

JPEG = b"\xff\xd8"
_JPEG = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(blob: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as RGB: sixteen bits become eight, transparency becomes white.

    Raises:
        ValueError: it is of no format whose size can be told beforehand (``pixels_of``), OpenCV cannot decode
            it, or it has no colours of 8 or 16 bits.
    """
    if blob[:2] not in _HEADERS:
        raise ValueError("not a picture")
    # No JPEG has transparency, so it comes as RGB at once, without a copy on the way.
    flags = _JPEG if blob.startswith(JPEG) else cv2.IMREAD_UNCHANGED
    try:
        decoded: Any = cv2.imdecode(np.frombuffer(blob, np.uint8), flags)
    except cv2.error as error:
        raise ValueError("not a picture") from error
    if decoded is None or decoded.dtype not in (np.uint8, np.uint16):
        raise ValueError("not a picture")
    if decoded.dtype == np.uint16:
        decoded = (decoded >> 8).astype(np.uint8)
    if flags == _JPEG:
        rgb: UInt8[np.ndarray, "H W 3"] = decoded
    elif decoded.ndim == 2:
        rgb = cv2.cvtColor(decoded, cv2.COLOR_GRAY2RGB)
    elif decoded.shape[2] == 3:
        rgb = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    else:
        rgb = _on_white(decoded)
    return rgb


def _on_white(bgra: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    alpha = bgra[..., 3:].astype(np.float32) / 255.0
    mixed = alpha * bgra[..., 2::-1] + (1.0 - alpha) * 255.0
    white: UInt8[np.ndarray, "H W 3"] = np.rint(mixed).astype(np.uint8)
    return white


def _control_characters() -> dict[int, str | None]:
    """Those that part words become a space; the others, NUL among them, go."""
    codes = [*range(0x20), *range(0x7F, 0xA0)]
    return {code: " " if chr(code).isspace() else None for code in codes}


_CONTROL = _control_characters()


def caption_bytes(longest: int) -> int:
    """How much of a caption's file is read: enough for ``longest`` characters and some that go."""
    return 16 * longest


def clean_caption(raw: bytes, longest: int) -> tuple[str, list[str]]:
    """The text of a caption's file (its first ``caption_bytes``), and what had to be mended.

    Bytes that are not UTF-8 become U+FFFD, control characters go (line ends and tabs become spaces), then
    the text is stripped and cut to ``longest`` code points. Every script stays as it is.
    """
    whole = len(raw) < caption_bytes(longest)
    mended = []
    try:
        text = codecs.utf_8_decode(raw, "strict", whole)[0]
    except UnicodeDecodeError:
        text = codecs.utf_8_decode(raw, "replace", whole)[0]
        mended.append("not UTF-8")
    plain = text.removeprefix("\ufeff").translate(_CONTROL)
    if len(plain) != len(text.removeprefix("\ufeff")):
        mended.append("control characters")
    plain = plain.strip()
    if not whole or len(plain) > longest:
        mended.append("cut")
    return plain[:longest].rstrip(), mended


_HEADERS: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {
    JPEG: JpegImageFile,
    b"\x89P": PngImageFile,
    b"RI": WebPImageFile,
    b"GI": GifImageFile,
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
}
"""How files begin -> what reads their size and decodes nothing. ``Image.open`` would warn of large ones."""


def pixels_of(blob: bytes) -> int:
    """How many pixels an image file says that it has; 0 if its headers cannot be read."""
    header = _HEADERS.get(blob[:2])
    try:
        width, height = header(io.BytesIO(blob)).size if header is not None else (0, 0)
    except Exception:  # each of Pillow's readers has its own for damaged bytes
        return 0
    return int(width * height)
