"""The command line's part for fetching the study's pictures: ``paribus corpus datacomp-12m``."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def datacomp(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="the folder that gets all")],
    metadata: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="metadata that lie there, parquet or tars; else the hub's are fetched"
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="uids of the pictures to fetch: npy, parquet or text")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="refuse pictures whose sha256 is not the listed one")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="when all was tried: try again what timed out or was refused for now (5xx, 429)"
        ),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="of img2dataset")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="of each of them")] = 128,
    program: Annotated[
        str | None,
        typer.Option(
            "--img2dataset", metavar="PROGRAM", envvar="PARIBUS_IMG2DATASET", help="if it is not on the path"
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="pictures a second, for the time that --dry-run tells")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be fetched, disk and time; fetch nothing")
    ] = False,
) -> None:
    """Download DataComp-12M's pictures with img2dataset; what is done already is not done again."""
    from paribus.data.download import download, plan
    from paribus.data.img2dataset import Settings

    settings = Settings(verify=verify, processes=processes, threads=threads)
    if dry_run:
        for line in plan(root, settings, metadata=metadata, keep=keep, rate=rate):
            print(line)
        return
    manifest = download(
        root,
        settings,
        program,
        metadata=metadata,
        keep=keep,
        again=again,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for line in manifest.spell():
        print(line)
    print(f"All of it: {root / 'download.json'}. Next: paribus corpus index {root / 'shards'}")
