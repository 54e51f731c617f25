"""The command line's part for any encoders and one's own pictures: compare, probe, knn and zeroshot."""

import shlex
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paribus.cli_options import make_runtime
from paribus.errors import UserError
from paribus.files import whole_file

if TYPE_CHECKING:  # these need torch, and `paribus --help` must not wait for it
    import numpy as np
    from numpy.typing import NDArray

    from paribus.comparison import Comparison
    from paribus.study.pictures import Pictures
    from paribus.types import Runtime

EncoderName = Annotated[
    str,
    typer.Argument(
        help="a folder of paribus, transformers, timm or open_clip; STUDY.yaml:ARM; or OWNER/NAME of the hub"
    ),
]
"""What stands for an encoder."""


Labelled = Annotated[Path, typer.Argument(metavar="DIR", help="a folder of pictures")]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="a table with the columns file, label; none: the folder that a picture is in",
    ),
]
Column = Annotated[str, typer.Option(help="which column of the table has the labels")]
Root = Annotated[Path, typer.Option("--root", help="where folders of released encoders lie")]
Cache = Annotated[Path, typer.Option("--cache", help="where features lie")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Workers = Annotated[int, typer.Option(min=1, help="threads that read pictures")]
HERE, CACHE = Path(), Path("cache")


class Precision(StrEnum):
    """What encoders run in."""

    BF16 = "bf16"
    FP32 = "fp32"


def compare(
    a: EncoderName,
    b: EncoderName,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="the folder of pictures")],
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="a table with the columns file, caption")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="a table with the column file; any other is a factor"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="the folder of the report")] = None,
    keep: Annotated[int, typer.Option(min=1, help="pairs that are shown a direction")] = 100,
    cosines: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,LOW",
            help="cosines instead of percentiles: alike to A, to B, not alike; 0.7,0.8,0.5",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option("--words", help="what is written in the pictures is a factor too; needs the extra ocr"),
    ] = False,
    precision: Annotated[
        Precision,
        typer.Option(help="bf16 is two to three times as fast, and as good as the same to a cosine"),
    ] = Precision.BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Show where two encoders differ on a folder of pictures, and why; features are made once."""
    from paribus.report.explore import check_folder, said, write_comparison
    from paribus.study.collect import environment
    from paribus.study.glance import glance_of
    from paribus.study.pictures import pictures_of
    from paribus.study.told import column_of, read_told
    from paribus.study.versus import PAIRS, Pairing, versus_of
    from paribus.study.written import check_reader

    runtime = make_runtime(cache=cache, device=device, workers=workers)
    pairing = Pairing(keep=keep, cosines=None if cosines is None else _cosines(cosines))
    folder = out or Path("runs") / f"compare-{_name(a)}-{_name(b)}-{_name(str(images))}"
    _apart(images, folder, cache)
    check_folder(folder)
    for table in (captions, labels):
        if table is not None and not table.is_file():
            raise UserError(f"There is no table {table}: give a .csv, .tsv, .jsonl, .json or .parquet.")
    pictures = pictures_of(images.expanduser())
    glances = [
        glance_of(folder, pictures, precision.value, root)
        for folder in (_folder(a, cache), _folder(b, cache))
    ]
    if glances[0].digest == glances[1].digest:
        raise UserError(f"{a} and {b} are the same encoder: give two.")
    for glance in glances:
        glance.check(runtime)
    if words:
        check_reader()
    pictures.run(runtime)
    keys = pictures.open(runtime).keys
    texts = () if captions is None else column_of(read_told(captions, keys), "caption", captions)
    known = {} if labels is None else read_told(labels, keys)
    known.pop("caption", None)
    versus = versus_of(glances[0], glances[1], texts, known, pairing, words=words)
    found = versus.run(runtime)
    typed = shlex.join(["paribus", *sys.argv[1:]])
    now = found.found_at(str(pictures.root), {"a": glances[0].weights, "b": glances[1].weights})
    found = now.called(_name(a), _name(b)).model_copy(
        update={"environment": environment(runtime), "command": typed}
    )
    _keep_labels(folder, found, versus.folder(runtime) / "pairs")
    page = write_comparison(found, versus.folder(runtime) / "pairs", folder)
    with whole_file(folder / PAIRS) as temporary:
        shutil.copyfile(versus.folder(runtime) / PAIRS, temporary)
    for sentence in said(found):
        print(f"{sentence}.")
    print(f"Report: {page}")


def _keep_labels(folder: Path, found: "Comparison", pictures: Path) -> None:
    """Refuse to replace pairs that people have labelled.

    Raises:
        UserError: the folder has labels of a pair that the comparison does not have, or has otherwise.
    """
    from paribus.annotate.store import FILE, labelled, pair_digest
    from paribus.files import sha256
    from paribus.report.explore_tables import identity

    kept, names = labelled(folder), {which: encoder.name for which, encoder in found.encoders.items()}
    for place, pair in enumerate(found.pairs if kept else ()):
        left, right = (sha256(pictures / found.shown[side].picture) for side in (pair.left, pair.right))
        other = names["b" if pair.alike == "a" else "a"]
        if kept.get(identity(found, place)) == pair_digest(left, right, names[pair.alike], other):
            del kept[identity(found, place)]
    if kept:
        raise UserError(
            f"{folder / FILE} has labels of {len(kept)} pairs that are not among these, or of encoders or "
            "pictures that have changed: choose another folder with --out, or move the labels away."
        )


def _apart(images: Path, *places: Path) -> None:
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


def _cosines(given: str) -> dict[Literal["a", "b"], tuple[float, float]]:
    """Not alike up to and alike from, of each encoder.

    Raises:
        UserError: it is not three cosines in order.
    """
    try:
        a, b, low = (float(each) for each in given.split(","))
        if not -1 <= low < min(a, b) <= max(a, b) <= 1:
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"--cosines {given}: give three cosines, alike to A, alike to B, not alike: e.g. 0.7,0.8,0.5."
        ) from error
    return {"a": (low, a), "b": (low, b)}


def _name(given: str) -> str:
    """What an encoder is called in the report: an arm's name, or its folder's."""
    arm = given.rpartition(":")[2] if ".yaml:" in given else given
    return Path(arm).name or Path(arm).expanduser().resolve().name


def _folder(given: str, cache: Path) -> str:
    """The folder that a name stands for; of a study's arm the stage that left it.

    Raises:
        UserError: there is no such study or arm, or it is not done.
    """
    if ".yaml:" not in given:
        return given
    from paribus.study.study import load_study
    from paribus.types import Runtime

    path, _, arm = given.rpartition(":")
    study, runtime = load_study(Path(path)), Runtime(cache=cache)
    arms = {one.name: one.encoder for one in study.all_arms() if one.seed == study.seeds[0]}
    if arm not in arms:
        raise UserError(f"{path} has no arm {arm!r}; there are {', '.join(arms)}.")
    if arms[arm].cached(runtime) is None:
        raise UserError(f"{arm} is not trained in {cache}: run `paribus run {path}` first.")
    return str(arms[arm].folder(runtime))


def probe(
    encoder: EncoderName,
    images: Labelled,
    labels: Labels = None,
    column: Column = "label",
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how well a linear probe reads the labels of a folder of pictures off an encoder."""
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    print(_single("linear probe", encoder, images, _told(labels, column), root, runtime))


def knn(
    encoder: EncoderName,
    images: Labelled,
    labels: Labels = None,
    column: Column = "label",
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how often the nearest pictures of a folder have the same label to an encoder."""
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    print(_single("nearest neighbours", encoder, images, _told(labels, column), root, runtime))


def zeroshot(
    encoder: EncoderName,
    images: Labelled,
    labels: Labels = None,
    column: Column = "label",
    template: Annotated[
        str, typer.Option(help="how a label is worded; {} stands for it")
    ] = "a photo of a {}.",
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how often an encoder's own text tower names a picture's label; nothing is learnt."""
    from paribus.encoders.words import read_words
    from paribus.study.pictures import pictures_of
    from paribus.study.seeing import folder_of
    from paribus.study.single import name_pictures, worded

    runtime = make_runtime(cache=cache, device=device, workers=workers)
    _apart(images, cache)
    place = folder_of(_folder(encoder, runtime.cache), root)
    pictures = pictures_of(images.expanduser())
    told = _labelled(pictures, _told(labels, column), runtime)
    names = worded(told, template)
    words = read_words(place, list(names.values()))
    seen = words.see(_features(encoder, pictures, root, runtime))
    print(name_pictures(told, list(names), words.texts, seen).spell(f"zero-shot of {_name(encoder)}"))


Table = tuple[Path, str] | None
"""A table of labels, and its column; None: folders are labels."""


def _told(labels: Path | None, column: str) -> Table:
    return None if labels is None else (labels, column)


def _labelled(pictures: "Pictures", table: Table, runtime: "Runtime") -> tuple[str, ...]:
    """A label for each picture that can be decoded, empty for none."""
    from paribus.study.told import column_of, folders_of, read_told

    pictures.run(runtime)
    keys = pictures.open(runtime).keys
    return folders_of(keys) if table is None else column_of(read_told(table[0], keys), table[1], table[0])


def _features(encoder: str, pictures: "Pictures", root: Path, runtime: "Runtime") -> "NDArray[np.float32]":
    """What an encoder sees in each of them."""
    from paribus.study.glance import glance_of

    glance = glance_of(_folder(encoder, runtime.cache), pictures, "bf16", root)
    glance.run(runtime)
    return glance.open(runtime)["pictures"]


def _single(how: str, encoder: str, images: Path, table: Table, root: Path, runtime: "Runtime") -> str:
    from paribus.study.pictures import pictures_of
    from paribus.study.single import single, split_labels

    _apart(images, runtime.cache)
    pictures = pictures_of(images.expanduser())  # listed once: a file may arrive meanwhile
    told = _labelled(pictures, table, runtime)
    split = split_labels(told, pictures.contents(runtime), seed=0)
    features = _features(encoder, pictures, root, runtime)
    return single(how, features, split, device=str(runtime.torch_device)).spell(f"{how} of {_name(encoder)}")
