"""The command line's part for people who judge pairs: ``paribus annotate``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paribus.errors import UserError

if TYPE_CHECKING:  # `paribus --help` must not wait for these
    from paribus.annotate.server import Desk
    from paribus.annotate.store import Given, Pair, Store


def annotate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder that `paribus compare` wrote")],
    annotator: Annotated[
        str | None,
        typer.Option("--annotator", metavar="NAME", help="who labels; if not said, the login name"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page; 0: any that is free")] = 0,
    seed: Annotated[int, typer.Option(help="of the order of pairs, and of --report's intervals")] = 0,
    report: Annotated[
        bool, typer.Option("--report", help="print agreement and verdict of the labels there are, and end")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page")] = True,
) -> None:
    """Label pairs that two encoders disagree on, blind, on a local page; every label is kept at once."""
    from paribus.annotate.store import Store, has_labels, read_pairs

    pairs = read_pairs(run)
    if report and not has_labels(run):
        raise UserError(
            f"There are no labels in {str(run)!r}: make some with `paribus annotate {run}` first."
        )
    store = Store(run, pairs)
    try:
        if not report:
            _serve(store, pairs, annotator or _login(), port, seed, browser)
            return
        alike = {pair.id: pair.alike for pair in pairs}
        for line in _report(store.all(), alike, seed):
            print(line)
    finally:
        store.close()


def _serve(
    store: "Store", pairs: "Sequence[Pair]", annotator: str, port: int, seed: int, browser: bool
) -> None:
    """Show the page until Control-C, which is how a person ends."""
    import threading
    import webbrowser

    from paribus.annotate.server import Desk, Server

    desk = Desk(pairs, store, annotator, seed)
    with Server(desk, port) as server:
        print(f"{annotator} has labelled {_kept(desk)}. Control-C ends; every label is kept at once.")
        print(f"Open {server.address}", flush=True)
        if browser:  # a browser of the terminal's would not return
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\n{annotator} has labelled {_kept(desk)}; run the same command again to go on.")


def _kept(desk: "Desk") -> str:
    labels = desk.labels()
    return f"{len(labels) - labels.count(None)} of {len(labels)} pairs"


def _report(given: "Sequence[Given]", alike: Mapping[str, str], seed: int) -> Iterator[str]:
    """Who labelled how much, agreement, and the verdict; what cannot be said is said to be so."""
    from statistics import median

    from paribus.analysis.agreement import Judgement, agreement, verdict
    from paribus.annotate.store import LABELS

    if not given:
        raise UserError("Nobody has labelled a pair yet: run the command without --report first.")
    for name in sorted({one.annotator for one in given}):
        seconds = [one.seconds for one in given if one.annotator == name]
        yield f"{name}: {len(seconds)} of {len(alike)} pairs, {median(seconds):.1f} s a pair (median)"
    said = [Judgement(one.annotator, one.pair, one.label) for one in given]
    try:
        yield f"Agreement: {agreement(said, seed=seed).spell()}"
    except UserError as error:
        yield str(error)
    try:
        yield verdict(said, alike, LABELS, seed=seed).spell(LABELS[:2])
    except UserError as error:
        yield str(error)


def _login() -> str:
    """The login name.

    Raises:
        UserError: there is none, as in some containers.
    """
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise UserError("You have no login name here: say who labels with --annotator NAME.") from error
