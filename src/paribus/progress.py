"""One progress bar for everything that takes more than two seconds."""

import sys
from collections.abc import Iterable
from typing import TypeVar, cast

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T] | None = None,
    *,
    label: str,
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
    silent: bool = False,
) -> "tqdm[T]":
    """A bar with rate and time left, on stderr; silent for work that ends within two seconds.

    Away from a terminal it writes a line only every ten seconds, so that logs stay readable.
    """
    terminal = sys.stderr.isatty()
    bar = tqdm(
        items,
        desc=label,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=total is not None and total > 10_000,
        delay=2.0,
        mininterval=0.2 if terminal else 10.0,
        dynamic_ncols=terminal,
        leave=True,
        disable=silent,
    )
    return cast("tqdm[T]", bar)  # without items it only counts


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41.3 s, 4 min 10 s, 2 h 05 min, 12 days, 120 years."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    days = minutes / 60 / 24
    if days < 2:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{days:,.0f} days" if days < 2 * 365 else f"{days / 365:,.0f} years"
