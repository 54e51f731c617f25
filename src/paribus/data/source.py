"""The registry of sources: adding one is one new file and one line here.

A source is anything that fulfils ``paribus.types.Source``. The classes are named, not imported, so that
one source's libraries are not needed to read another.
"""

import importlib
from collections.abc import Callable

from paribus.errors import UserError
from paribus.types import Source

SOURCES: dict[str, str] = {
    "glyphs": "paribus.data.glyphs:Glyphs",
    "llava": "paribus.data.conversations:Conversations",
    "folder": "paribus.data.pairs:Pairs",
    "table": "paribus.data.pairs:Pairs",
    "huggingface": "paribus.data.pairs:Pairs",
    "shards": "paribus.data.shards:Shards",
}
"""Kind -> ``module:class``; the class opens with the folder (or file) where the samples are."""


def source_class(kind: str) -> Callable[..., Source]:
    """The class that opens a kind of source.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in SOURCES:
        raise UserError(f"Unknown data source {kind!r}: choose one of {', '.join(sorted(SOURCES))}.")
    module, name = SOURCES[kind].split(":")
    found: Callable[..., Source] = getattr(importlib.import_module(module), name)
    return found
