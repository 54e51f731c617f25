"""Names of files in their order, packed: a folder may have tens of millions of them.

A name takes its bytes and at most 24 more while they are sorted, where a list of texts takes 100 and more.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 4_096


def sort_names(names: Iterable[str]) -> Callable[[], Iterator[str]]:
    """Names in the order of ``sorted``; what is returned iterates over them as often as is wished.

    Args:
        names: as the system has them, which need not be UTF-8 (``os.fsdecode``).
    """
    packed, ends = bytearray(), array("q", [0])
    for name in names:
        packed += name.encode(errors="surrogatepass")  # in the order of texts, also where it is no UTF-8
        ends.append(len(packed))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(packed)]
    held = pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)
    order: pa.Array = pc.array_sort_indices(held)
    if len(held) < 2**32:
        order = order.cast(pa.uint32())
    return partial(_iterate, held, order)


def _iterate(held: pa.Array, order: pa.Array) -> Iterator[str]:
    for start in range(0, len(order), _AT_ONCE):
        for name in held.take(order[start : start + _AT_ONCE]).to_pylist():
            yield name.decode(errors="surrogatepass")
