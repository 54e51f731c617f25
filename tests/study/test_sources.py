"""Files that lie outside of the cache: what is noticed when they change, and what is lost with it."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock
from pydantic import Field

from paribus.errors import UserError
from paribus.study.sources import Stamp, differing, renew, stamped
from paribus.study.stage import BEGUN, CHECKPOINTS, LOCK, RECORD, Stage
from paribus.types import Config, Runtime
from study import leftovers


class Text(Config):
    """A record."""

    text: str
    files: dict[str, Stamp] = Field({})


class Read(Stage[Text]):
    """Reads a file that stays where it is."""

    name: ClassVar[str] = "read"
    file: str

    def compute(self, folder, runtime):
        return Text(text=Path(self.file).read_text(), files=stamped([Path(self.file)]))

    def outdated(self, runtime):
        record = self.cached(runtime)
        here = record is not None and Path(self.file).exists()
        return differing(record.files, lambda: [Path(self.file)]) if here else ""


class Shout(Stage[Text]):
    """Is made of what was read; ``tries`` is how often it fails, with something to go on from."""

    name: ClassVar[str] = "shout"
    below: tuple[Read, ...]
    fails: bool = False

    def inputs(self):
        yield from self.below

    def compute(self, folder, runtime):
        if self.fails:
            (folder / CHECKPOINTS).mkdir()
            raise KeyboardInterrupt
        return Text(text=self.below[0].run(runtime).text.upper())


class Tell(Shout):
    """The same, and disposable."""

    name: ClassVar[str] = "tell"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    runtime = Runtime(cache=tmp_path / "cache")
    read = Read(file=str(tmp_path / "a.txt"))
    read.run(runtime)
    return tmp_path / "a.txt", read, runtime


def forgotten(read, runtime):
    return list(renew([read], runtime, ("tell",)))


def test_a_file_is_another_if_its_bytes_are(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text("one")
    before = stamped(paths)
    assert differing(before, lambda: paths) == ""
    paths[0].write_text("one")  # later, and equal
    assert differing(before, lambda: paths) == ""
    for text in ("two", "longer"):
        paths[1].write_text(text)
        assert differing(before, lambda: paths) == str(paths[1])
    assert differing(before, lambda: paths[:1]) == str(paths[1]), "it is gone"
    assert differing(before, lambda: [*paths, tmp_path / "0"]) == str(tmp_path / "0"), "it is new"


def test_nothing_differs_where_nothing_is(tmp_path):
    (tmp_path / "a").write_text("one")
    before = stamped([tmp_path / "a"])

    def refused():
        raise UserError("There is no such folder.")

    assert differing(before, refused) == differing(before, list) == ""


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt cannot be read"):
        stamped([tmp_path / "none.txt"])


def test_what_has_changed_is_read_again_and_what_tells_of_it_told_again(place):
    file, read, runtime = place
    tell = Tell(below=(read,))
    tell.run(runtime)
    assert forgotten(read, runtime) == []
    file.write_text("two")
    assert forgotten(read, runtime) == [str(file)]
    assert tell.run(runtime).text == "TWO" and read.run(runtime).text == "two"
    assert not leftovers(runtime.cache)


def test_what_something_was_made_of_is_kept(place):
    file, read, runtime = place
    shout, other = Shout(below=(read,)), Shout(below=(Read(file=str(file.with_name("b.txt"))),))
    file.with_name("b.txt").write_text("other")
    other.run(runtime)
    shout.run(runtime)
    file.write_text("two")
    with pytest.raises(UserError, match=rf"a.txt is not what it was when {shout.address()} began with it"):
        forgotten(read, runtime)
    assert shout.run(runtime).text == "ONE"
    file.unlink()  # a finished study is looked at elsewhere
    assert forgotten(read, runtime) == [] and read.run(runtime).text == "one"


@pytest.mark.parametrize("going", [True, False])
def test_what_was_begun_counts_if_it_would_go_on(place, going):
    file, read, runtime = place
    shout = Shout(below=(read,), fails=True)
    with pytest.raises(KeyboardInterrupt):
        shout.run(runtime)
    folder = shout.folder(runtime)
    assert json.loads((folder / BEGUN).read_text()) == {"stage": "shout", "config": shout.identity()}
    if not going:
        (folder / CHECKPOINTS).rmdir()
    file.write_text("two")
    if going:
        with pytest.raises(UserError, match=shout.address()):
            forgotten(read, runtime)
    else:
        assert forgotten(read, runtime) == [str(file)]
    assert not (read.folder(runtime) / BEGUN).exists(), "done, or forgotten"


def test_what_another_run_works_on_is_left_alone(place):
    file, read, runtime = place
    shout = Shout(below=(read,))
    file.write_text("two")
    with FileLock(read.folder(runtime) / LOCK), pytest.raises(UserError, match="Another run is working on"):
        forgotten(read, runtime)
    shout.folder(runtime).mkdir()
    (shout.folder(runtime) / BEGUN).write_text(json.dumps({"stage": "shout", "config": shout.identity()}))
    with FileLock(shout.folder(runtime) / LOCK), pytest.raises(UserError, match=f"when {shout.address()}"):
        forgotten(read, runtime)
    assert forgotten(read, runtime) == [str(file)]


def test_folders_that_say_nothing_are_left_alone(place):
    file, read, runtime = place
    for name in ("empty", "damaged", "odd"):
        (runtime.cache / "stages" / name).mkdir()
    (runtime.cache / "stages" / "damaged" / RECORD).write_text("{")
    (runtime.cache / "stages" / "odd" / RECORD).write_text("[]")
    file.write_text("two")
    assert forgotten(read, runtime) == [str(file)]
    assert sorted(path.name for path in (runtime.cache / "stages").iterdir()) == ["damaged", "empty", "odd"]
