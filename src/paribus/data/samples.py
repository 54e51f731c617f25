"""What every source of one's own pairs does alike: what makes a sample, and what leaves one out."""

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
from pydantic import Field

from paribus.data.decoding import clean_caption, decode_image, pixels_of
from paribus.types import Config

LARGEST_IMAGE = 2**30
"""Bytes of an image file; a larger one is left out (a ``pread`` gives at most 2 GiB)."""


class Limits(Config):
    """What a sample must keep to, whatever it comes in."""

    max_caption: int = Field(2_000, gt=0, lt=2**20, description="characters; longer captions are cut")
    max_pixels: int = Field(
        2**26, gt=0, description="a larger picture is left out before it is decoded (a decompression bomb)"
    )
    check: bool = Field(
        True, description="decode every image while indexing, so that none can stop a run: 1.2 ms at 512 px"
    )


class Reading(Limits):
    """What is read of files that a key joins: all that decides which samples come out."""

    image: tuple[str, ...] = Field(
        ("jpg", "jpeg", "png", "webp"), min_length=1, description="extensions; a sample's first one counts"
    )
    caption: str = Field("txt", min_length=1, description="extension of the caption")


class Taken(NamedTuple):
    """A sample that can be trained on: its picture's file, its caption as it comes out, and its digest."""

    blob: bytes
    text: str
    digest: bytes
    mended: list[str]
    """What had to be done to the caption; see ``clean_caption``."""


def take(key: str, raw: bytes, size: int, picture: Callable[[], bytes], limits: Limits) -> Taken | str:
    """A sample, or why it is left out.

    Args:
        key: its name in the digest.
        raw: the caption as it lies, or the beginning of it.
        size: bytes of the picture's file.
        picture: reads that file; not called where it need not be.
        limits: what it must keep to.
    """
    if size > LARGEST_IMAGE:
        return "image over 1 GiB"
    text, mended = clean_caption(raw, limits.max_caption)
    if not text:
        return "empty caption"
    blob = picture()
    pixels = pixels_of(blob)
    if pixels > limits.max_pixels:
        return f"image over {limits.max_pixels:,} pixels"
    # What does not say how large it is may be as large as it likes: it is not decoded.
    if not blob or (limits.check and not (pixels and _decodes(blob))):
        return "undecodable image"
    return Taken(blob, text, sample_digest(key, blob, text), mended)


def _decodes(blob: bytes) -> bool:
    try:
        decode_image(blob)
    except ValueError:
        return False
    return True


def sample_digest(key: str, image: bytes, text: str) -> bytes:
    """SHA-256 of a sample; lengths go first, so that no two samples are the same string of bytes."""
    parts = (key.encode(), image, text.encode())
    digest = hashlib.sha256(struct.pack("<3Q", *map(len, parts)))
    for part in parts:
        digest.update(part)
    return digest.digest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV from writing a line about every broken picture: they are counted and listed."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def told(left_out: dict[str, int]) -> str:
    """What was left out, as a clause."""
    said = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.items())
    return f"left out: {said or 'none'}"
