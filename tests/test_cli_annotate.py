"""``paribus annotate``: as a process that is killed, and here for what it prints and refuses."""

import contextlib
import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from annotate import ENCODERS, ask, build, rewrite, rows_of, served
from study import Done


@pytest.fixture
def paribus(monkeypatch, capsys):
    """``paribus ARGV`` here, under the check of types and shapes."""

    def run(*argv):
        from paribus.cli import main

        monkeypatch.setattr(sys, "argv", ["paribus", *map(str, argv)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Done(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def run(tmp_path):
    return build(tmp_path / "run")


def _label(run: Path, annotator: str, label, pairs: int = 6) -> None:
    """What someone says of the first pairs, by the encoder that finds each alike."""
    from paribus.annotate.store import Store, read_pairs

    found = read_pairs(run)
    store = Store(run, found)
    for pair in found[:pairs]:
        store.put(annotator, pair.id, label(pair), 2.0)
    store.close()


def _heed_interrupts() -> None:
    """A test that was started in the background inherits that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def _process(run: Path, *argv: str):
    """The command as a person runs it, and the address it prints."""
    line = [
        sys.executable,
        "-c",
        "from paribus.cli import main; main()",
        "annotate",
        str(run),
        "--no-browser",
    ]
    with subprocess.Popen(
        [*line, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    ) as child:
        try:
            said = child.stdout.readline()
            address = child.stdout.readline().removeprefix("Open ").strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32,}/", address), child.stderr.read()
            yield child, said, address
        finally:
            child.kill()


def _state(address: str) -> list:
    return json.loads(ask(address + "state").content)["labels"]


def test_killed_it_loses_nothing_and_goes_on(run):
    with _process(run, "--annotator", "ada") as (child, said, address):
        assert said.startswith("ada has labelled 0 of 6 pairs.")
        for place, label in ((0, "semantic"), (4, "both"), (0, "neither")):
            sent = {"place": place, "label": label, "seconds": 1.0}
            assert ask(address + "label", sent).status == 200
        child.send_signal(signal.SIGKILL)
        child.wait()
    with _process(run, "--annotator", "ada") as (child, said, address):
        assert said.startswith("ada has labelled 2 of 6 pairs.")
        assert _state(address) == ["neither", None, None, None, "both", None]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        assert child.returncode == 0
        assert "ada has labelled 2 of 6 pairs; run the same command again to go on." in out
        assert err == ""
    assert not (run / "labels.sqlite-wal").exists()


def test_two_at_once_each_in_an_order_of_their_own(run):
    with _process(run, "--annotator", "ada") as ada, _process(run, "--annotator", "ben") as ben:
        for place in range(6):
            for (_, _, address), label in ((ada, "semantic"), (ben, "both")):
                sent = {"place": place, "label": label, "seconds": 0.5}
                assert ask(address + "label", sent).status == 200
        assert (_state(ada[2]), _state(ben[2])) == (["semantic"] * 6, ["both"] * 6)


def test_it_starts_without_torch(run):
    code = (
        "import sys\nfrom pathlib import Path\nfrom paribus.annotate.server import Desk, Server\n"
        "from paribus.annotate.store import Store, read_pairs\n"
        f"run = Path({str(run)!r})\npairs = read_pairs(run)\nServer(Desk(pairs, Store(run, pairs), 'ada'))\n"
        "assert 'paribus' in sys.modules\nassert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_of_several(tmp_path, paribus):
    run, first = build(tmp_path / "run", pairs=12), ENCODERS[0]
    _label(run, "ada", lambda pair: "semantic" if pair.alike == first else "perceptual", 12)
    _label(run, "ben", lambda pair: "semantic" if pair.alike == first else "neither", 12)
    done = paribus("annotate", run, "--report")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:2] == [f"{name}: 12 of 12 pairs, 2.0 s a pair (median)" for name in ("ada", "ben")]
    assert re.fullmatch(r"Agreement: Cohen's kappa 0\.\d\d \[.*\] over 12 pairs that both judged", lines[2])
    assert lines[3].startswith(f"Pairs that only {first} finds alike (n=6): semantic 100% [")
    assert lines[4].startswith(f"Pairs that only {ENCODERS[1]} finds alike (n=6): semantic 0% [")
    assert f"only {first} finds alike are judged semantic 100 points more often [" in lines[5]
    assert f"only {first} finds alike are judged perceptual 50 points less often [" in lines[6]
    assert paribus("annotate", run, "--report").out == done.out
    _label(run, "cy", lambda pair: "both", pairs=2)
    assert "Fleiss' kappa" in paribus("annotate", run, "--report").out


def test_the_report_says_what_cannot_be_said(run, paribus):
    _label(run, "ada", lambda pair: "both", pairs=1)
    done = paribus("annotate", run, "--report")
    assert done.code == 0
    assert done.out.splitlines()[1:] == [
        "Agreement needs at least 2 people but there is 1: let another one label the pairs.",
        f"No pair that only {ENCODERS[1]} finds alike is judged yet: label more pairs for a verdict.",
    ]
    for name in ("ada", "ben"):
        _label(run, name, lambda pair: "both")
    said = paribus("annotate", run, "--report").out
    assert "Kappa is undefined because all 6 pairs got the same label: label pairs that differ." in said
    assert "nan" not in said


def test_no_labels_yet(run, paribus):
    assert "There are no labels in" in paribus("annotate", run, "--report").refused()
    assert not (run / "labels.sqlite").exists()
    with served(run):
        pass
    assert "Nobody has labelled a pair yet" in paribus("annotate", run, "--report").refused()


def test_what_is_wrong_is_one_sentence(run, tmp_path, paribus):
    def refused(*argv):
        return paribus("annotate", *argv, "--no-browser").refused()

    assert "There is no pairs/pairs.json in" in refused(tmp_path / "nowhere")
    assert "--annotator" in refused(run, "--annotator", "two\nlines")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} is in use" in refused(run, "--port", port)
    rows = rows_of(run)
    name = "no\n<script>\"'.png"
    rewrite(run, [{**rows[0], "left": name}])
    assert repr(name) in refused(run)
    rewrite(run, [rows[0], rows[0]])
    assert "Two pairs of" in refused(run)
    (run / "pairs" / "pairs.json").write_text("{")
    assert "is damaged" in refused(run)
    rewrite(run, rows)
    (run / "labels.sqlite").write_text("no database, " * 100)
    assert "is no whole database of labels" in refused(run)
    assert "is no whole database of labels" in paribus("annotate", run, "--report").refused()
    (run / "labels.sqlite").unlink()
    _label(run, "ada", lambda pair: "both")
    rewrite(run, [{**rows[0], "left": rows[1]["left"]}, *rows[1:]])
    assert "are of other pairs" in refused(run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to(run, paribus):
    run.chmod(0o500)
    assert "that you may write to" in paribus("annotate", run, "--no-browser").refused()
    run.chmod(0o700)


def test_nobody_in_particular(run, paribus, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert "say who labels with --annotator NAME" in paribus("annotate", run, "--no-browser").refused()
