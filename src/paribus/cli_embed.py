"""The command line's part for features of one's own shards: embed, mine."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from paribus.cli_named import CACHE, HERE, Cache, Device, EncoderName, Precision, Root, Workers, encoder_stage
from paribus.cli_options import Cosines, make_runtime, read_cosines
from paribus.errors import UserError


class Store(StrEnum):
    """What features are written in."""

    FP16 = "fp16"
    FP32 = "fp32"


def embed(
    encoder: EncoderName,
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="the folder of .tar shards")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder of the table")],
    index: Annotated[
        Path | None,
        typer.Option("--index", metavar="DIR", help="their index, built if need be; else SHARDS/index"),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="uids of the samples to keep, as of corpus index")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="one of N parts from 0 on; else SLURM's array says which"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures at once; results may round by it")] = 128,
    store: Annotated[Store, typer.Option(help="what features are written in")] = Store.FP16,
    looks: Annotated[
        bool,
        typer.Option("--looks", help="keep what tells near-duplicates and placeholders, for mine"),
    ] = False,
    precision: Precision = Precision.BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Write the features of one's own shards as one table; by part, and going on where it was."""
    from paribus.study.embed import FEATURES, Embedding, encoder_digest, indexed, part_of
    from paribus.study.run import settle
    from paribus.study.seeing import eye_of

    own = part_of(part)
    settle(device)
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    stage = encoder_stage(encoder, root, runtime)
    source = indexed(shards, index or shards / "index", keep, workers)
    work = Embedding(
        out=out,
        source=source,
        eye=eye_of(stage, runtime).to(runtime.torch_device),
        digest=encoder_digest(stage, runtime),
        runtime=runtime,
        precision=precision.value,
        batch=batch,
        kept=store.value,
        looks=looks,
    )
    work.begin()
    work.run(own)
    table = work.join()
    if isinstance(table, int):
        whole = len(work.whole)
        print(f"Part {own.rank} of {own.size} is done; {table:,} of {whole:,} shards are left to others.")
        return
    about = table.about
    print(
        f"{about.samples:,} samples of {len(work.whole):,} shards, {about.width:,} wide, "
        f"{about.setting.kept}: {out / FEATURES}; digest {about.features[:16]}"
    )


def mine(
    one: Annotated[Path, typer.Argument(metavar="A", help="a table that paribus embed made")],
    two: Annotated[Path, typer.Argument(metavar="B", help="another encoder's, of the same samples")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="the parquet of pairs")],
    keep: Annotated[int, typer.Option(min=1, help="pairs a direction")] = 1_000,
    cosines: Cosines = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="pairs of random blocks that are searched, else all pairs")
    ] = None,
    block: Annotated[int, typer.Option(min=8, help="samples in a block")] = 100_000,
    device: Device = "auto",
) -> None:
    """Write the pairs of samples that one encoder finds alike and another does not."""
    from paribus.study.mining import mine_tables

    runtime = make_runtime(device=device)
    if out.exists():
        raise UserError(f"{out} is there already: choose another file with --out, or remove it.")
    thresholds = None if cosines is None else read_cosines(cosines)
    found = mine_tables(one, two, out, keep, thresholds, None if blocks is None else (blocks, block), runtime)
    for name, alike, other in (("a_high", "A", "B"), ("b_high", "B", "A")):
        kept, candidates = (found.counts[f"{name}_{what}"] for what in ("kept", "candidates"))
        print(f"{kept:,} pairs alike to {alike} and not to {other}, of {candidates:,}")
    print(f"{found.pairs['searched']:,} of {found.pairs['population']:,} pairs were searched")
    print(f"{found.counts['placeholder_images']:,} of {found.counts['images']:,} samples are placeholders")
    print(f"Pairs: {out}")
