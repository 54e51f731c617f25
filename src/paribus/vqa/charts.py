"""Charts and small tables drawn from real tables, legible at 48 pixels.

The numbers are vega-datasets' own rows. A row belongs to train or test by a hash of its label (or of its
place where it has none), so what a test chart shows was never shown in training.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from paribus.errors import UserError
from paribus.rng import stream

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "S S 3"]
Split = Literal["train", "test"]

_OVERSAMPLE = 4
_TEST_SHARE = 4  # one row in four is for test
_INK = (20, 20, 20)
_PAPER = (255, 255, 255)
_LINE = (150, 150, 150)


@dataclass(frozen=True)
class Column:
    """Which numbers of which file.

    ``label`` is the column that names a row; ``word`` picks one word of the name; ``lookup`` (file, column,
    column) replaces the name by what another table calls it; ``where`` (column, cell) keeps some rows only.
    """

    file: str
    value: str
    label: str | None = None
    word: int | None = None
    lookup: tuple[str, str, str] | None = None
    where: tuple[str, str] | None = None
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True)
class Row:
    """One row of a table: its label ("" where rows have none), its number, and the number as written."""

    label: str
    value: float
    text: str


_STATE = ("obesity.json", "id", "state")

STATES = (
    Column("obesity.json", "rate", "state", scale=100.0),
    Column("population_engineers_hurricanes.csv", "population", "id", lookup=_STATE, scale=1e-6, digits=1),
    Column("population_engineers_hurricanes.csv", "engineers", "id", lookup=_STATE, scale=1e4),
    Column("population_engineers_hurricanes.csv", "hurricanes", "id", lookup=_STATE),
)
"""Columns whose rows have two-letter names, which are legible under a bar."""

TABLES = (
    *STATES,
    Column("airports.csv", "latitude", "iata"),
    Column("flights-airport.csv", "count", "destination", where=("origin", "ORD"), scale=0.01),
    Column("gapminder-health-income.csv", "health", "country"),
    Column("gapminder.json", "life_expect", "country"),
    Column("gapminder.json", "fertility", "country", digits=1),
    Column("cars.json", "Horsepower", "Name", word=1),
    Column("cars.json", "Miles_per_Gallon", "Name", word=1),
    Column("movies.json", "Running Time min", "Title"),
    Column("movies.json", "IMDB Rating", "Title", digits=1),
)
"""Columns whose rows have names of two to five letters."""

SERIES = (
    Column("barley.json", "yield"),
    Column("cars.json", "Acceleration"),
    Column("cars.json", "Weight_in_lbs"),
    Column("penguins.json", "Body Mass (g)"),
    Column("seattle-weather.csv", "temp_max"),
    Column("seattle-weather.csv", "wind"),
    Column("stocks.csv", "price"),
    Column("wheat.json", "wheat"),
    Column("iowa-electricity.csv", "net_generation"),
    Column("movies.json", "IMDB Rating"),
    Column("gapminder-health-income.csv", "income"),
)
"""Columns that are only drawn, as bars or slices."""


def read_columns(folder: Path, columns: Sequence[Column], split: Split) -> list[list[Row]]:
    """The split's rows of each column.

    Args:
        folder: where the tables are.
        columns: which numbers to read.
        split: whose rows to keep.

    Raises:
        UserError: if a table is missing or cannot be read.
    """
    files = {column.file for column in columns} | {column.lookup[0] for column in columns if column.lookup}
    tables = {file: _read(folder / file) for file in sorted(files)}
    return [list(_rows(tables, column, split)) for column in columns]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            table = list(csv.DictReader(handle)) if path.suffix == ".csv" else json.load(handle)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The table {path} cannot be read ({error}): delete the art folder and run again."
        ) from error
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise UserError(f"The table {path} is not a list of rows: delete the art folder and run again.")
    return table


def _rows(tables: Mapping[str, list[dict[str, Any]]], column: Column, split: Split) -> Iterator[Row]:
    names: dict[str, Any] = {}
    if column.lookup is not None:
        file, key, name = column.lookup
        names = {str(cells.get(key)): cells.get(name) for cells in tables[file]}
    for place, cells in enumerate(tables[column.file]):
        if column.where is not None and cells.get(column.where[0]) != column.where[1]:
            continue
        label, value = _label(cells, column, names), _number(cells.get(column.value))
        if label is None or value is None:
            continue
        row = stream("chart row", column.file if not label else "", label or place)
        if (row % _TEST_SHARE == 0) == (split == "test"):
            yield Row(label, value * column.scale, f"{value * column.scale:.{column.digits}f}")


def _label(cells: Mapping[str, Any], column: Column, names: Mapping[str, Any]) -> str | None:
    """A name of two to five letters, "" where the column has no names, None where this row's does not fit."""
    if column.label is None:
        return ""
    name = cells.get(column.label)
    words = str((names.get(str(name)) if column.lookup else name) or "").split()
    if column.word is not None:
        words = words[column.word : column.word + 1]
    fits = len(words) == 1 and words[0].isascii() and words[0].isalpha() and 2 <= len(words[0]) <= 5
    return words[0] if fits else None


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def pick(
    tables: Sequence[Sequence[Row]],
    rng: np.random.Generator,
    *,
    count: int = 4,
    gap: float = 0.0,
    low: float = 0.0,
) -> list[Row]:
    """Draw rows of one table whose labels and numbers all differ.

    Args:
        tables: the tables to choose from.
        rng: the question's own generator.
        count: how many rows.
        gap: least difference between any two numbers, as a share of the highest.
        low: least number, as a share of the highest.

    Raises:
        RuntimeError: if no table can be drawn from.
    """
    for _ in range(2000):
        table = tables[int(rng.integers(len(tables)))]
        if len(table) < count:
            continue
        rows = [table[int(i)] for i in rng.choice(len(table), count, replace=False)]
        if _distinct(rows, gap, low):
            return rows
    raise RuntimeError(f"No {count} rows of any table differ by {gap} of the highest.")


def _distinct(rows: Sequence[Row], gap: float, low: float) -> bool:
    names = [row.label for row in rows if row.label]
    if len(set(names)) < len(names) or len({row.text for row in rows}) < len(rows):
        return False
    values = sorted(row.value for row in rows)
    steps = np.diff(values)
    return bool(steps.min() >= gap * values[-1] and values[0] >= low * values[-1])


def bars(
    values: Sequence[float],
    colours: Sequence[Colour],
    size: int,
    *,
    labels: Sequence[str] = (),
    font: Path | None = None,
    horizontal: bool = False,
) -> Picture:
    """A bar chart from zero; with ``labels`` each bar has its name beneath.

    Args:
        values: one positive number a bar.
        colours: one RGB colour a bar.
        size: side in pixels.
        labels: one short name a bar, or none.
        font: a font file, needed where there are labels.
        horizontal: bars grow to the right instead of up (without labels).
    """
    side = size * _OVERSAMPLE
    canvas, draw = _canvas(side)
    edge, foot = float(round(0.04 * side)), float(side - round((0.27 if labels else 0.05) * side))
    slot = (side - 2 * edge) / len(values)
    for i, (value, colour) in enumerate(zip(values, colours, strict=True)):
        start, stop = edge + (i + 0.1) * slot, edge + (i + 0.9) * slot
        top = foot - value / max(values) * (foot - edge)
        draw.rectangle((start, top, stop, foot), fill=colour)
    draw.line((edge, foot, side - edge, foot), fill=_INK, width=_OVERSAMPLE)
    if labels and font is not None:
        lefts = [edge + i * slot for i in range(len(values))]
        air = 1.25 * _OVERSAMPLE
        boxes = [(left + air, foot, left + slot - air, side - edge / 2) for left in lefts]
        _write(draw, labels, boxes, font)
    image = _shrink(canvas, size)
    return np.ascontiguousarray(np.rot90(image, -1)) if horizontal else image


def pie(values: Sequence[float], colours: Sequence[Colour], size: int, *, turn: float = 0.0) -> Picture:
    """A pie chart of positive numbers; ``turn`` is where the first slice starts, in degrees."""
    side = size * _OVERSAMPLE
    canvas, draw = _canvas(side)
    edge, start = float(round(0.03 * side)), turn
    for value, colour in zip(values, colours, strict=True):
        stop = start + 360.0 * value / sum(values)
        draw.pieslice((edge, edge, side - edge, side - edge), start, stop, fill=colour)
        start = stop
    return _shrink(canvas, size)


def table(rows: Sequence[Row], size: int, font: Path, *, paper: Colour = _PAPER) -> Picture:
    """A table of names (left) and numbers (right), ruled between rows."""
    side = size * _OVERSAMPLE
    canvas, draw = _canvas(side, paper)
    edge, height, column = float(round(0.03 * side)), side / len(rows), 0.56 * side
    pad = 0.12 * height if len(rows) > 3 else 0.2 * height
    spans = [(i * height + pad, (i + 1) * height - pad) for i in range(len(rows))]
    _write(draw, [row.label for row in rows], [(edge, top, column - edge, foot) for top, foot in spans], font)
    _write(
        draw,
        [row.text for row in rows],
        [(column + edge, top, side - edge, foot) for top, foot in spans],
        font,
    )
    for i in range(1, len(rows)):
        draw.line((0, i * height, side, i * height), fill=_LINE, width=_OVERSAMPLE // 2)
    draw.line((column, 0, column, side), fill=_LINE, width=_OVERSAMPLE // 2)
    return _shrink(canvas, size)


def _canvas(side: int, paper: Colour = _PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (side, side), paper)
    return canvas, ImageDraw.Draw(canvas)


def _shrink(canvas: Image.Image, size: int) -> Picture:
    return np.asarray(
        cv2.resize(np.asarray(canvas), (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8
    )


@lru_cache(maxsize=512)
def _font(path: Path, points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), points, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=8192)
def _ink(path: Path, text: str) -> tuple[float, float, float, float]:
    """Where a text's ink lies (left, top, right, bottom), as shares of the font size."""
    left, top, right, bottom = _font(path, 100).getbbox(text)
    return left / 100, top / 100, right / 100, bottom / 100


def _write(
    draw: ImageDraw.ImageDraw,
    texts: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]],
    font: Path,
) -> None:
    """Write each text centred in its box, all at the largest size at which every one fits."""
    inks = [_ink(font, text) for text in texts]
    points = min(
        min((x1 - x0) / (right - left), (y1 - y0) / (bottom - top))
        for (left, top, right, bottom), (x0, y0, x1, y1) in zip(inks, boxes, strict=True)
    )
    size = max(1, math.floor(points))
    for text, (left, top, right, bottom), (x0, y0, x1, y1) in zip(texts, inks, boxes, strict=True):
        at = (x0 + x1 - size * (right + left)) / 2, (y0 + y1 - size * (bottom + top)) / 2
        draw.text(at, text, fill=_INK, font=_font(font, size))
