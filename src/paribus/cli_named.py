"""How encoders are named on the command line, and the options that all commands about encoders share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paribus.errors import UserError

if TYPE_CHECKING:  # these need torch, and `paribus --help` must not wait for it
    from paribus.study.seeing import AnyLooker
    from paribus.types import Runtime

EncoderName = Annotated[
    str,
    typer.Argument(
        help="a folder of paribus, transformers, timm or open_clip; STUDY.yaml:ARM; or OWNER/NAME of the hub"
    ),
]
"""What stands for an encoder."""
Root = Annotated[Path, typer.Option("--root", help="where folders of released encoders lie")]
Cache = Annotated[Path, typer.Option("--cache", help="where features lie")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Workers = Annotated[int, typer.Option(min=1, help="threads that read pictures")]
HERE, CACHE = Path(), Path("cache")


class Precision(StrEnum):
    """What encoders run in."""

    BF16 = "bf16"
    FP32 = "fp32"


def apart(images: Path, *places: Path) -> None:
    """Refuse to look at what Paribus wrote itself.

    Raises:
        UserError: a place that it writes to lies among the pictures.
    """
    for place in places:
        if place.resolve().is_relative_to(images.expanduser().resolve()):
            raise UserError(
                f"{place} lies in {images}, whose pictures are looked at: write elsewhere with --cache or "
                "--out, or give the folder of pictures alone."
            )


def called(given: str) -> str:
    """What an encoder is called in the report: an arm's name, or its folder's."""
    arm = given.rpartition(":")[2] if ".yaml:" in given else given
    return Path(arm).name or Path(arm).expanduser().resolve().name


def encoder_stage(given: str, root: Path, runtime: "Runtime") -> "AnyLooker":
    """The stage that a name stands for.

    Raises:
        UserError: there is no such encoder, study or arm, or it is not trained.
    """
    from paribus.study.seeing import found_encoder
    from paribus.study.study import load_study

    if ".yaml:" not in given:
        return found_encoder(given, root)
    path, _, name = given.rpartition(":")
    study = load_study(Path(path))
    encoders = study.encoders(study.seeds[0])
    if name not in encoders:
        raise UserError(f"{path} has no arm {name!r}; there are {', '.join(encoders)}.")
    return _trained(encoders[name], name, path, runtime)


def _trained(stage: "AnyLooker", name: str, path: str, runtime: "Runtime") -> "AnyLooker":
    if stage.cached(runtime) is None:
        if list(stage.inputs()):
            raise UserError(f"{name} is not trained in {runtime.cache}: run `paribus run {path}` first.")
        stage.run(runtime)  # what was not taught is made in a moment
    return stage


def encoder_folder(given: str, root: Path, runtime: "Runtime") -> Path:
    """The folder that a name stands for; of a study's arm the stage that left it.

    Raises:
        UserError: as ``encoder_stage``.
    """
    from paribus.study.seeing import folder_of

    if ".yaml:" not in given:
        return folder_of(given, root)
    return encoder_stage(given, root, runtime).folder(runtime)
