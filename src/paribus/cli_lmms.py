"""The command line's part for other harnesses: ``paribus vlm task``."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from paribus.cli_vlm import CACHE, Cache, Changes, StudyFile
from paribus.errors import UserError


def task(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write")],
    change: Changes = None,
    cache: Cache = CACHE,
) -> None:
    """Write a finished study's questions as tasks of lmms-eval, asked in the study's own words."""
    from paribus.files import whole_folder
    from paribus.lmms.task import write_task
    from paribus.study.study import load_study
    from paribus.types import Runtime

    if out.exists():
        raise UserError(f"{out} is there already: choose another folder with --out, or remove it.")
    branches = load_study(study, tuple(change or ())).branches()
    answers = next((branch.answers for branch in branches if branch.answers), ())
    if not answers:
        raise UserError(f"{study} asks no questions: add vqa to measure, and run it.")
    runtime = Runtime(cache=cache)
    for answer in answers:
        if answer.questions.cached(runtime) is None:
            raise UserError(
                f"The questions of {answer.questions.title} are not in {cache}: run `paribus run {study}` "
                "first, with the same --set and --cache."
            )
    written: list[str] = []
    with whole_folder(out) as folder:
        for answer in answers:
            if not answer.run(runtime).accuracy:
                print(f"{answer.questions.title}: no published answers, so no task", file=sys.stderr)
                continue
            name = f"paribus_{re.sub(r'[^0-9A-Za-z]+', '_', answer.questions.title)}"
            written += write_task(answer.questions.test(runtime), answer.ask.template, folder, name)
        if not written:
            raise UserError(f"No benchmark of {study} has published answers: lmms-eval could score nothing.")
    print(f"{out}: {', '.join(written)}")
