"""The pictures and pairs of a comparison as the page holds them: small, each once, and never markup."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from paribus.comparison import Comparison, Shown
from paribus.report.explore_tables import identity

SIDE = 160
"""Longest side of a picture of a pair, in pixels; smaller ones are kept as they are."""
THUMB = 56
"""The same of a picture that is only ever a neighbour."""
SHEET = 640
"""Longer side of the sheet of symbols."""
BUDGET = 9_500_000
"""Bytes of all pictures of a page; where there are more, they are drawn more coarsely."""
COARSER = ((82, 1.0), (68, 1.0), (50, 1.0), (50, 0.7), (45, 0.5))
"""Qualities and scales that are tried in turn."""
TEXT, NAME = 600, 120
"""Letters of a text in the page, of pairs and of neighbours; comparison.json has them all."""


def thumbnails(found: Comparison, folder: Path) -> dict[int, str]:
    """Every picture of the page by its place in ``shown``, as base64 of WebP; damaged ones are missing.

    They are drawn anew, so that the page holds pixels and nothing else.
    """
    paired = _paired(found)
    used = paired | _neighbours(found)
    flat = {place: _opened(folder / found.shown[place].picture, _side(place in paired)) for place in used}
    drawn: dict[int, bytes] = {}
    for quality, scale in COARSER:
        drawn = {
            place: _webp(image, quality if place in paired else quality - 12, scale)
            for place, image in flat.items()
            if image is not None
        }
        if sum(map(len, drawn.values())) <= BUDGET:
            break
    return {place: base64.b64encode(data).decode() for place, data in sorted(drawn.items())}


def _side(paired: bool) -> int:
    return SIDE if paired else THUMB


def _paired(found: Comparison) -> set[int]:
    return {place for pair in found.pairs for place in (pair.left, pair.right)}


def _neighbours(found: Comparison) -> set[int]:
    paired = _paired(found)
    return {
        near.place
        for place, sides in found.near.items()
        for nearest in sides.values()
        for near in nearest
        if int(place) in paired
    }


def _opened(path: Path, side: int) -> Image.Image | None:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # a page with a gap is worth more than no page
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    flat.thumbnail((side, side), Image.Resampling.LANCZOS)
    return flat


def _webp(image: Image.Image, quality: int, scale: float) -> bytes:
    out = io.BytesIO()
    if scale < 1:
        image = image.resize([max(1, round(scale * side)) for side in image.size])
    finer = quality + 10 if max(image.size) <= THUMB else quality  # the small are looked at magnified
    image.save(out, "WEBP", quality=min(95, finer), method=4)
    return out.getvalue()


def address(data: str) -> str:
    """A picture as the source of an image."""
    return f"data:image/webp;base64,{data}"


def sheet(path: Path) -> str | None:
    """The sheet of symbols as the source of an image; None if it is damaged."""
    image = _opened(path, SHEET)
    return None if image is None else address(base64.b64encode(_webp(image, 82, 1.0)).decode())


def called(shown: Shown, length: int = TEXT) -> str:
    """What a picture is called in a line: its caption, else its label, else its path."""
    return cut(shown.caption.strip() or shown.label.strip() or shown.key, length)


def cut(text: str, length: int) -> str:
    """At most so many letters, without halves of surrogates that no page could be written with."""
    text = text if len(text) <= length else text[: length - 1] + "\u2026"
    return text.encode("utf-8", "replace").decode()


def factors(found: Comparison) -> list[str]:
    """Names of the factors that pairs are told by, as the page has them."""
    return list(dict.fromkeys(cut(name, NAME) for pair in found.pairs for name in pair.factors))


def data(found: Comparison, pictures: Mapping[int, str], in_page: set[int]) -> dict[str, Any]:
    """What the page's script reads; pictures ``in_page`` are taken from the page's own images.

    ``factors``: their names. ``counted``: how many pictures pairs are of, 0 if not told. ``exact``: whether
    ranks are. ``shown``: [name, caption, label, path]; of neighbours the name and the path.
    ``pairs``: {id, l, r, w, s, p, k, f, h}: places, who finds them alike; cosines, percentiles and ranks of a
    and b; factors; what they share. ``near``: place -> [of a, of b], each [place, cosine].
    """
    paired = _paired(found)
    neighbours = _neighbours(found)
    shown: dict[str, list[str]] = {}
    for place in sorted(paired | neighbours):
        one = found.shown[place]
        if place in paired:
            texts = [cut(text, TEXT) for text in (one.caption, one.label, one.key)]
            shown[str(place)] = [called(one), *texts]
        else:
            shown[str(place)] = [called(one, NAME), "", "", cut(one.key, NAME)]
    return {
        "factors": factors(found),
        "counted": found.mined.get("images", 0) - found.mined.get("placeholder_images", 0),
        "exact": found.exact_ranks,
        "names": [found.encoders["a"].name, found.encoders["b"].name],
        "shown": shown,
        "pairs": [_pair(found, place) for place in range(len(found.pairs))],
        "near": {
            place: [[[near.place, near.similarity] for near in sides.get(which, [])] for which in ("a", "b")]
            for place, sides in found.near.items()
            if int(place) in paired
        },
        "pictures": {str(place): text for place, text in pictures.items() if place not in in_page},
    }


def _pair(found: Comparison, place: int) -> dict[str, Any]:
    pair = found.pairs[place]
    return {
        "id": identity(found, place),
        "l": pair.left,
        "r": pair.right,
        "w": pair.alike,
        "s": [pair.similarity["a"], pair.similarity["b"]],
        "p": [pair.percentile["a"], pair.percentile["b"]],
        "k": [pair.rank["a"], pair.rank["b"]],
        "f": {cut(name, NAME): value for name, value in pair.factors.items()},
        "h": [cut(name, NAME) for name in pair.shares],
    }


_UNSAFE = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&'\u2028\u2029"})


def block(value: Any) -> str:
    """JSON that can stand in a script element: no sign in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_UNSAFE)
