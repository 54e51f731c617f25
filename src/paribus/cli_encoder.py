"""The command line's part for checkpoints: ``paribus encoder info | export | import | push``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from paribus.errors import UserError

app = typer.Typer(help="Read, convert and publish encoders.", no_args_is_help=True)


class Format(StrEnum):
    """What can be written."""

    PARIBUS = "paribus"
    TRANSFORMERS = "transformers"
    TIMM = "timm"
    OPEN_CLIP = "open_clip"


Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="a folder: paribus, transformers, timm, open_clip or a finished stage; or a published name",
    ),
]
Root = Annotated[Path, typer.Option("--root", help="where folders of published encoders lie")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write")]
To = Annotated[Format, typer.Option("--to", help="the format to write")]
Whole = Annotated[bool, typer.Option("--whole", help="both towers, of an arm that read captions")]
HERE = Path()


@app.command()
def info(path: Checkpoint, root: Root = HERE) -> None:
    """Print what a checkpoint is and how it was trained."""
    from paribus.encoders.card import described
    from paribus.encoders.published import load

    lines = described(load(path, root=root))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


@app.command()
def export(path: Checkpoint, to: To, out: Out, root: Root = HERE, whole: Whole = False) -> None:
    """Write an encoder as transformers, timm or open_clip read it."""
    from paribus.encoders.folders import WRITERS, write_paribus
    from paribus.encoders.published import load

    _free(out)
    if whole:
        _export_whole(Path(path), to, out)
        return
    encoder, about = load(path, root=root)
    if to is Format.PARIBUS:
        write_paribus(encoder, out, about.trained)
    else:
        WRITERS[to.value](encoder, out)
    print(f"{to.value}: {out}")


def _export_whole(folder: Path, to: Format, out: Path) -> None:
    from paribus.encoders.towers_exchange import WHOLE, read_stage_joint

    if to.value not in WHOLE:
        raise UserError(f"--whole: {to.value} has no text towers: choose one of {', '.join(WHOLE)}.")
    WHOLE[to.value](read_stage_joint(folder), out)
    print(f"{to.value}, both towers: {out}")


@app.command("import")
def import_(path: Checkpoint, out: Out, root: Root = HERE) -> None:
    """Write a published encoder as Paribus reads it."""
    export(path, Format.PARIBUS, out, root)


@app.command()
def push(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="the folder of a checkpoint")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub")],
    results: Annotated[
        Path | None, typer.Option("--results", help="results.json of the study, for the model card")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="which arm of the study it is")] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
) -> None:
    """Upload a checkpoint with a model card to the Hugging Face hub."""
    from paribus.encoders.hub import push as pushed
    from paribus.report.schema import load_results

    found = None if results is None else load_results(results)
    print(pushed(path, repo, private=private, results=found, arm=arm))


def _free(out: Path) -> None:
    """See that a folder is not there yet, since it would be replaced.

    Raises:
        UserError: it is.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another folder with --out, or remove it.")
