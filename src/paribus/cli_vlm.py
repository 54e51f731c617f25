"""The command line's part for models that see: ``paribus vlm check | answers | export``, ``paribus chat``."""

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paribus.errors import UserError

if TYPE_CHECKING:  # these need torch, and `paribus --help` must not wait for it
    import numpy as np
    from jaxtyping import UInt8

    from paribus.study.answers import Answer
    from paribus.study.finished import Finished, Query
    from paribus.study.stage import Stage
    from paribus.study.talks import Mix
    from paribus.types import Runtime

app = typer.Typer(help="Check and publish models that see.", no_args_is_help=True)


class Format(StrEnum):
    """What can be written."""

    LLAVA = "llava"


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="the study file of a finished run")]
Arm = Annotated[str, typer.Argument(metavar="ARM", help="whose eyes: an arm of the study, or a baseline")]
Seed = Annotated[int | None, typer.Option("--seed", help="one of the study's; the first, if not said")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="a change that the run was made with")
]
Cache = Annotated[Path, typer.Option("--cache", help="where art, stages and checkpoints lie")]
CACHE = Path("cache")


@app.command()
def check(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="a study file, run or not")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="change a setting of the study file"),
    ] = None,
    cache: Cache = CACHE,
    workers: Annotated[int, typer.Option(min=1, help="threads that read pictures")] = 2,
) -> None:
    """Read a study's conversations: what is lost of them, and what they hold of its benchmarks."""
    from paribus.study.overlap import Overlap, overlaps
    from paribus.study.sources import renew
    from paribus.study.study import load_study
    from paribus.types import Runtime

    loaded = load_study(study, tuple(change or ()))
    runtime = Runtime(cache=cache, workers=workers)
    found = list(overlaps(answer for branch in loaded.branches() for answer in branch.answers))
    mixes = {overlap.talks.address(): overlap.talks for overlap in found}
    if not mixes:
        raise UserError(
            f"{study} teaches no model with conversations, so there is nothing to check: give a lesson of "
            "control.vlm data of kind llava."
        )
    asked = {overlap.questions.address(): overlap.questions for overlap in found}
    for changed in renew([*mixes.values(), *asked.values()], runtime, (Overlap.name,)):
        print(f"{changed} since the last run: reading again.", file=sys.stderr)
    for mix in mixes.values():  # all of them before any picture is compared, which takes longer
        _tell(mix, runtime)
    for overlap in found:
        print(f"{overlap.questions.title} in {overlap.talks.config.file}")
        print(overlap.run(runtime).spell(), flush=True)


def _tell(mix: "Mix", runtime: "Runtime") -> None:
    """Read a mix, and print what it holds; also if it is not as many records as were declared."""
    from paribus.data.preflight import preflight, spell

    told = mix.cached(runtime)
    if told is not None and told.lost:  # pictures that were brought since are not looked for
        print(f"Read before: to read it again, delete {mix.folder(runtime)}.", file=sys.stderr)
    refused = None
    try:
        mix.run(runtime)
    except UserError as error:
        refused = error
    meta = mix.meta(runtime)
    if meta is not None:
        print(f"{mix.config.file}\n{spell(preflight(meta))}", flush=True)
    if refused is not None:
        raise refused


@app.command()
def answers(
    study: StudyFile,
    arm: Arm,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="the .csv or .json to write")],
    benchmark: Annotated[str, typer.Option(help="answers to which one, by its name")] = "vmcbench",
    seed: Seed = None,
    change: Changes = None,
    cache: Cache = CACHE,
) -> None:
    """Write a finished arm's answers for others to score, as a split without published answers needs."""
    if out.exists():
        raise UserError(f"{out} is there already: choose another file with --out, or remove it.")
    given, runtime = _answering(study, arm, seed, change, cache)
    named = {answer.questions.title: answer for answer in given}
    answer = named.get(benchmark) or named.get(f"{benchmark}-test")
    if answer is None:
        raise UserError(
            f"{arm} is not asked {benchmark!r}: choose with --benchmark one of {', '.join(named)}."
        )
    _see_done(answer, f"What {arm} answers to {answer.questions.title}", study, runtime)
    print(f"{answer.hand_in(runtime, out):,} answers: {out}")


@app.command()
def export(
    study: StudyFile,
    arm: Arm,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write")],
    form: Annotated[Format, typer.Option("--format", help="whose model it becomes")] = Format.LLAVA,
    seed: Seed = None,
    change: Changes = None,
    cache: Cache = CACHE,
) -> None:
    """Write a finished arm's model as transformers' LLaVA, which needs nothing of Paribus."""
    from paribus.encoders.weights import find
    from paribus.study.downstream import WEIGHTS
    from paribus.vlm.export import export_llava
    from paribus.vlm.language import PretrainedLanguageConfig

    if out.exists():
        raise UserError(f"{out} is there already: choose another folder with --out, or remove it.")
    answer, runtime = finished_model(study, arm, seed, change, cache)
    stage = answer.vlm
    mind = stage.mind().config
    folder = None
    if isinstance(mind, PretrainedLanguageConfig):
        folder = find(mind.weights, runtime.cache / WEIGHTS)
    export_llava(stage.open(runtime), folder, out, stage.lesson.fit)
    print(f"{form.value}: {out}")


def chat(
    study: StudyFile,
    arm: Arm,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="the file of a picture")],
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION]...", help="asked one by one; none: you type"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="the most tokens of an answer")] = 32,
    seed: Seed = None,
    change: Changes = None,
    cache: Cache = CACHE,
) -> None:
    """Ask a finished arm's model about a picture; it remembers nothing from question to question."""
    from paribus.encoders.text import clean
    from paribus.study.finished import Finished, Query

    answer, runtime = finished_model(study, arm, seed, change, cache)
    picture = _picture(image)
    finished = Finished(answer.vlm, answer.ask.template, runtime)
    for each in question or _typed():
        try:
            print(_written(finished, Query(clean(each), picture), limit), flush=True)
        except UserError as error:
            if question:
                raise
            print(error, file=sys.stderr)  # whoever types may ask otherwise


def finished_model(
    path: Path, arm: str, seed: int | None, changes: list[str] | None, cache: Path
) -> tuple["Answer", "Runtime"]:
    """An arm's model (``vlm``), and how it is asked.

    Raises:
        UserError: the study has no such arm, seed or model, or it is not done.
    """
    answers, runtime = _answering(path, arm, seed, changes, cache)
    _see_done(answers[0].vlm, f"The model of {arm}", path, runtime)
    return answers[0], runtime


def _answering(
    path: Path, arm: str, seed: int | None, changes: list[str] | None, cache: Path
) -> tuple[tuple["Answer", ...], "Runtime"]:
    """The stages that ask an arm's model, done or not.

    Raises:
        UserError: the study has no such arm, seed or model.
    """
    from paribus.study.study import load_study
    from paribus.types import Runtime

    study = load_study(path, tuple(changes or ()))
    seed = study.seeds[0] if seed is None else seed
    if seed not in study.seeds:
        raise UserError(
            f"--seed {seed}: {path} has no such seed; there are {', '.join(map(str, study.seeds))}."
        )
    models = {
        branch.name: branch.answers for branch in study.branches() if branch.seed == seed and branch.answers
    }
    if not models:
        raise UserError(f"{path} gives no encoder to a language model: add vqa to measure, and run it.")
    if arm not in models:
        raise UserError(f"{path} has no model of an arm {arm!r}; there are {', '.join(models)}.")
    return models[arm], Runtime(cache=cache)


def _see_done(stage: "Stage[Any]", what: str, path: Path, runtime: "Runtime") -> None:
    """See that a stage is done.

    Raises:
        UserError: it is not, or its files are damaged.
    """
    if stage.cached(runtime) is None:
        raise UserError(
            f"{what} is not done in {runtime.cache}: run `paribus run {path}` first, with the same --set "
            "and --cache."
        )


def _picture(path: Path) -> "UInt8[np.ndarray, 'H W 3']":
    """A picture file's pixels.

    Raises:
        UserError: it is not there, or no picture.
    """
    from paribus.data.conversations import decode_picture

    try:
        return decode_picture(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the file of a picture.") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be shown to the model: {error}; give another picture.") from error


def _typed() -> Iterator[str]:
    """Questions from the terminal, until it ends; empty ones are passed over."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        if line:
            yield line


def _written(finished: "Finished", query: "Query", limit: int) -> str:
    """What the model writes.

    Raises:
        UserError: the question leaves no room in the model's context.
    """
    if finished.room([query]) < 1:
        raise UserError(
            f"With its picture the question is longer than the {finished.model.chat.context} tokens that "
            "this model reads: ask in fewer words."
        )
    return finished.write([query], limit)[0]
