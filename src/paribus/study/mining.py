"""The pairs on which two encoders disagree, out of two tables of features of one's own shards."""

from pathlib import Path
from typing import Literal

import numpy as np

from paribus.analysis.disagreement import Cosines, Mined, Percentiles, mine, write_mined
from paribus.analysis.tiles import Blocks
from paribus.errors import UserError
from paribus.study.embed import Table, open_table
from paribus.types import Runtime


def mine_tables(
    one: Path,
    two: Path,
    out: Path,
    keep: int,
    cosines: dict[Literal["a", "b"], tuple[float, float]] | None,
    blocks: tuple[int, int] | None,
    runtime: Runtime,
) -> Mined:
    """Write pairs as ``write_mined`` does, by the samples' keys; a search that was stopped goes on.

    Features stay on the disk, mapped into memory. Near-duplicates and placeholders are left out where the
    first or the second table has looks.

    Args:
        one: a folder that ``Embedding`` filled.
        two: another, of the same samples.
        out: the parquet.
        keep: pairs a direction.
        cosines: (low, high) of each encoder; None: percentiles.
        blocks: how many pairs of random blocks are searched, and samples of each; None: all pairs.
        runtime: the device.

    Raises:
        UserError: a table is not finished, or they are of different samples or of the same encoder.
    """
    a, b = open_table(one), open_table(two)
    _check(a, b)
    search = out.with_name(f".{out.name}.search.safetensors")
    looks = a.looks()
    found = mine(
        np.asarray(a.features),
        np.asarray(b.features),
        images=b.looks() if looks is None else looks,
        keep=keep,
        thresholds=Percentiles() if cosines is None else Cosines(cosines["a"], cosines["b"]),
        blocks=None if blocks is None else Blocks(count=blocks[0], size=blocks[1]),
        resume=search,
        device=str(runtime.torch_device),
    )
    write_mined(found, a.keys(), out)
    search.unlink(missing_ok=True)
    return found


def _check(a: Table, b: Table) -> None:
    one, two = a.about.setting, b.about.setting
    if (one.samples, one.shards) != (two.samples, two.shards):
        raise UserError(
            f"{a.folder} and {b.folder} are of different samples: embed the same index with both encoders."
        )
    if one.encoder == two.encoder:
        raise UserError(f"{a.folder} and {b.folder} are of the same encoder: give tables of two.")
