"""The command line's part for any two encoders and one's own pictures: compare."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paribus.cli_named import (
    CACHE,
    HERE,
    Cache,
    Device,
    EncoderName,
    Precision,
    Root,
    Workers,
    apart,
    called,
    encoder_folder,
)
from paribus.cli_options import Cosines, make_runtime, read_cosines
from paribus.errors import UserError
from paribus.files import whole_file

if TYPE_CHECKING:  # these need torch, and `paribus --help` must not wait for it
    from paribus.comparison import Comparison


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
    cosines: Cosines = None,
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
    pairing = Pairing(keep=keep, cosines=None if cosines is None else read_cosines(cosines))
    folder = out or Path("runs") / f"compare-{called(a)}-{called(b)}-{called(str(images))}"
    apart(images, folder, cache)
    check_folder(folder)
    for table in (captions, labels):
        if table is not None and not table.is_file():
            raise UserError(f"There is no table {table}: give a .csv, .tsv, .jsonl, .json or .parquet.")
    pictures = pictures_of(images.expanduser())
    glances = [
        glance_of(str(encoder_folder(each, root, runtime)), pictures, precision.value, root)
        for each in (a, b)
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
    found = now.called(called(a), called(b)).model_copy(
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
