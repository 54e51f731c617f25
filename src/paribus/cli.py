"""The command line: ``paribus run | plan | audit | report | corpus``.

There are no hyper-parameter flags: ``--set path=value`` changes the study file's content and is validated
like it. Where and how a study runs is a ``Runtime``; its options cannot change a result.
"""

import logging
import os
import re
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from paribus.cli_annotate import annotate
from paribus.cli_compare import compare
from paribus.cli_download import datacomp
from paribus.cli_embed import embed, mine
from paribus.cli_encoder import app as encoder_app
from paribus.cli_lmms import task
from paribus.cli_options import make_runtime, read_slurm
from paribus.cli_probe import knn, map_abilities, photos, probe, retrieve, zeroshot
from paribus.cli_vlm import app as vlm_app
from paribus.cli_vlm import chat
from paribus.errors import UserError

app = typer.Typer(
    help="What does the supervision signal do to a vision encoder, all else equal?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="Build, verify and look at a built-in corpus.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
app.add_typer(encoder_app, name="encoder")
app.add_typer(vlm_app, name="vlm")
vlm_app.command()(task)
app.command()(chat)
app.command()(compare)
app.command()(embed)
app.command()(mine)
app.command()(probe)
app.command()(knn)
app.command()(zeroshot)
app.command()(retrieve)
app.command("map")(map_abilities)
corpus_app.command()(photos)
corpus_app.command("datacomp-12m")(datacomp)
app.command()(annotate)

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY", help="a study file, e.g. studies/quickstart.yaml")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="change a setting of the study file")
]
Runs = Annotated[Path, typer.Option("--runs", help="where reports go")]
Cache = Annotated[Path, typer.Option("--cache", help="where art, stages and checkpoints lie")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Workers = Annotated[int, typer.Option(min=1, help="threads and processes that prepare data")]
Chunk = Annotated[
    int | None, typer.Option(min=1, help="samples encoded at once; changes results by rounding")
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="make activations again in the backward pass: memory for time")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="compile the transformer blocks; changes results by rounding")
]
Shard = Annotated[
    bool, typer.Option("--shard", help="spread a language model's weights over the processes of torchrun")
]
Checkpoints = Annotated[int, typer.Option(min=1, help="how many are kept of a training that goes on")]
Patience = Annotated[
    int, typer.Option(min=1, help="steps in a row with a collapse or a fallen throughput until a run ends")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="write events to CACHE/logs while training")]


class Place(StrEnum):
    """Where stages run that are jobs of their own."""

    LOCAL = "local"
    SLURM = "slurm"


Cluster = Annotated[
    Place | None, typer.Option(help="each stage is a job of its own: a process here, or one that SLURM runs")
]
Ask = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="what a job asks SLURM for, e.g. partition=gpu"),
]
Corpus = Annotated[str, typer.Argument(help="the corpus; there is one: glyphs")]
Size = Annotated[int, typer.Option(min=8, max=1024, help="side of the pictures in pixels")]
RUNS, CACHE = Path("runs"), Path("cache")


class Split(StrEnum):
    """Parts of a corpus."""

    TRAIN = "train"
    REDRAW = "redraw"
    TEST = "test"


INTERRUPTED = 130
"""What typer exits with after Control-C, having said nothing."""


def say(line: str) -> None:
    """Progress for a person, apart from results."""
    print(line, file=sys.stderr, flush=True)


@app.command()
def run(
    study: StudyFile,
    change: Changes = None,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
    chunk: Chunk = None,
    recompute: Recompute = False,
    compile_blocks: Compile = False,
    shard: Shard = False,
    checkpoints: Checkpoints = 2,
    patience: Patience = 200,
    tensorboard: TensorBoard = False,
    cluster: Cluster = None,
    slurm: Ask = None,
) -> None:
    """Run a study to its report; what is done already is not done again."""
    from paribus.report.page import write_report
    from paribus.report.schema import write_results
    from paribus.report.tables import summary, write_tables
    from paribus.study.collect import collect, pictures
    from paribus.study.run import execute, need_space, settle
    from paribus.study.study import load_study

    if slurm and cluster is not Place.SLURM:
        raise UserError("--slurm says what jobs ask SLURM for: it goes with --cluster slurm.")
    loaded = load_study(study, tuple(change or ()))
    settle(device)
    runtime = make_runtime(
        runs=runs,
        cache=cache,
        device=device,
        workers=workers,
        chunk=chunk,
        recompute=recompute,
        compile=compile_blocks,
        shard=shard,
        checkpoints=checkpoints,
        patience=patience,
        tensorboard=tensorboard,
        cluster=cluster and cluster.value,
        slurm=read_slurm(slurm or []),
    )
    need_space(cache, 600)
    if not execute(loaded, runtime, say):
        return  # one of several processes, and another one writes the report
    results = collect(loaded, study.stem, runtime)
    folder = runs / study.stem
    write_results(results, folder)
    write_tables(results, folder)
    page = write_report(results, folder, pictures(loaded, runtime))
    print(summary(results))
    print(f"Report: {page}")


@app.command()
def plan(
    study: StudyFile,
    change: Changes = None,
    cache: Cache = CACHE,
    device: Device = "auto",
    chunk: Chunk = None,
    recompute: Recompute = False,
    shard: Shard = False,
    compile_blocks: Compile = False,
    processes: Annotated[int, typer.Option(min=1, help="that will train together, one on each GPU")] = 1,
    measured: Annotated[
        bool, typer.Option("--measure", help="train every arm for a few steps on made-up pixels first")
    ] = False,
) -> None:
    """Print the stage graph, what is cached, and what each arm and the rest will cost; reads no data.

    With --measure hours are those of this device; rates are kept in the cache, and later plans show them.
    Of published encoders the folders are read, which must be there unless they are the paper's.
    """
    from paribus.study.plan import arm_costs, measure_arms, measured_rate, needed, settled, spell
    from paribus.study.plan import plan as planned
    from paribus.study.study import load_study

    loaded = load_study(study, tuple(change or ()))
    runtime = make_runtime(
        cache=cache, device=device, chunk=chunk, recompute=recompute, shard=shard, compile=compile_blocks
    )
    if measured:
        measure_arms(loaded, runtime)
    ends, choices = settled(loaded, runtime)
    stages = list(planned(ends, runtime, measured_rate(loaded, runtime)))
    needs = needed(ends, runtime, processes)
    data, arms = loaded.corpus.ahead(), arm_costs(loaded, runtime)
    print(spell(data, arms, stages, choices, needs, runtime, processes))


@app.command()
def audit(study: StudyFile, change: Changes = None, cache: Cache = CACHE) -> None:
    """Print the ledger; exit 0 only if all arms agree and every departure is declared."""
    from paribus.study.audit import audit as audited
    from paribus.study.audit import spell
    from paribus.study.study import load_study

    found = audited(load_study(study, tuple(change or ())), make_runtime(cache=cache))
    print(spell(found))
    raise typer.Exit(1 if found.faults else 0)


@app.command()
def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="the study file of a finished run")],
    change: Changes = None,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
) -> None:
    """Draw the report of a finished study again from its results."""
    from paribus.report.page import write_report
    from paribus.report.schema import load_results
    from paribus.report.tables import summary, write_tables
    from paribus.study.collect import pictures
    from paribus.study.study import load_study

    folder = runs / study.stem
    results = load_results(folder / "results.json")
    write_tables(results, folder)
    page = write_report(
        results, folder, pictures(load_study(study, tuple(change or ())), make_runtime(cache=cache))
    )
    print(summary(results))
    print(f"Report: {page}")


@corpus_app.command("build")
def corpus_build(corpus: Corpus, size: Size = 48, cache: Cache = CACHE, workers: Workers = 2) -> None:
    """Fetch the art, verify it, and draw the corpus at a resolution."""
    stage, runtime = _corpus(corpus, size, cache, workers)
    record = stage.run(runtime)
    counts = ", ".join(f"{count} {split}" for split, count in record.counts.items())
    print(f"{corpus} at {size} px: {counts}; digest {record.digest[:16]}; in {stage.folder(runtime)}")


@corpus_app.command("verify")
def corpus_verify(corpus: Corpus, size: Size = 48, cache: Cache = CACHE) -> None:
    """Check the art and the built corpus against their digests."""
    from paribus.data import art, glyphs
    from paribus.study.corpora import art_folder

    stage, runtime = _corpus(corpus, size, cache, 1)
    art.verify(art_folder(runtime))
    meta = glyphs.verify(stage.folder(runtime) / "glyphs")
    print(f"{corpus} at {size} px is whole: art as pinned, digest {meta.digest[:16]}")


@corpus_app.command("show")
def corpus_show(
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="the PNG file to write")] = Path("glyphs.png"),
    size: Size = 48,
    cache: Cache = CACHE,
    workers: Workers = 2,
) -> None:
    """Write a contact sheet of the corpus."""
    from paribus.data import glyphs

    stage, runtime = _corpus(corpus, size, cache, workers)
    stage.run(runtime)
    glyphs.contact_sheet(stage.open(runtime, ("train", "redraw", "test")), out)
    print(f"Contact sheet: {out}")


@corpus_app.command("export")
def corpus_export(
    corpus: Corpus,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write")],
    split: Annotated[Split, typer.Option(help="which pictures: train, redraw or test")] = Split.TEST,
    size: Size = 48,
    cache: Cache = CACHE,
    workers: Workers = 2,
) -> None:
    """Write pictures of the corpus as files, and told.csv with what is known of each."""
    from paribus.data.glyphs import export

    if out.exists():
        raise UserError(f"{out} is there already: choose another folder with --out, or remove it.")
    stage, runtime = _corpus(corpus, size, cache, workers)
    stage.run(runtime)
    count = export(stage.open(runtime, (split.value,)), out)
    print(f"{count:,} pictures and told.csv: {out}")


@corpus_app.command("index")
def corpus_index(
    root: Annotated[
        Path,
        typer.Argument(
            metavar="PLACE",
            help="a folder of .tar shards, of pictures with captions, or of Hugging Face's files; "
            "or a .csv, .tsv or .jsonl",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="the folder of the index; else PLACE/index")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="of shards: uids of the samples to keep (npy, parquet or text)"),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="how many there must be")] = None,
    workers: Workers = 2,
) -> None:
    """Index pairs of one's own, and write the manifest: count, digest, what was left out and why."""
    from paribus.data.shards import IndexMeta, ShardsConfig
    from paribus.study.corpora import build, guess

    folder = out or (root.with_name(f"{root.name}.index") if root.is_file() else root / "index")
    config = guess(root).model_copy(update={"samples": samples})
    if keep is not None:
        if not isinstance(config, ShardsConfig):
            raise UserError(f"--keep is for tar shards, and {root} is a {config.kind}: remove the option.")
        config = config.model_copy(update={"keep": str(keep)})
    meta = build(config, folder, workers)
    form = f"in {len(meta.shards):,} shards" if isinstance(meta, IndexMeta) else f"of kind {config.kind}"
    print(f"{meta.samples:,} samples {form}; digest {meta.digest[:16]}; in {folder}")
    for reason, count in meta.left_out.items():
        print(f"  left out, {reason}: {count:,}")
    for what, count in meta.mended.items():
        print(f"  captions mended, {what}: {count:,}")
    if isinstance(meta, IndexMeta) and meta.listed:
        print(f"  {meta.absent:,} of {meta.listed:,} listed uids are in no shard")


def _corpus(name: str, size: int, cache: Path, workers: int):  # type: ignore[no-untyped-def]
    from paribus.data.glyphs import GlyphsConfig
    from paribus.study.corpora import Corpus as CorpusStage

    if name != "glyphs":
        raise UserError(f"There is no corpus {name!r}: the built-in one is called glyphs.")
    return CorpusStage(source=GlyphsConfig(size=size)), make_runtime(cache=cache, workers=workers)


def _home(word: str) -> str:
    """``--out=~/x`` as ``--out ~/x`` would be, which the shell sees to."""
    option, sign, value = word.partition("=")
    return (
        f"{option}={Path(value).expanduser()}" if sign and re.fullmatch(r"--[\w-]+=~(/.*)?", word) else word
    )


def _is_text(word: str) -> bool:
    """Whether a word can be written: bytes that are no UTF-8 come as half characters."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in word)


def main() -> None:
    """Run the command; a ``UserError`` is one sentence and exit code 2, an interruption 130."""
    logging.basicConfig(format="paribus: %(message)s", level=logging.WARNING)
    logging.getLogger("paribus").setLevel(logging.INFO)
    logging.getLogger("exca").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for word in sys.argv:
        if not _is_text(word):
            shown = os.fsencode(word).decode(errors="backslashreplace")
            print(f"paribus: {shown} is no UTF-8: rename it, or give a link to it.", file=sys.stderr)
            sys.exit(2)
    try:
        app([_home(word) for word in sys.argv[1:]])
    except UserError as error:
        print(f"paribus: {error}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:
        print(f"paribus: {error.filename or error} may not be read or written: mend that.", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("paribus: interrupted; run the same command again to go on", file=sys.stderr)
        raise
