"""Files that lie outside of the cache: what is noticed when they change, and what is lost with it."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock
from pydantic import Field
from vqa.published import jpeg, mmvp, naturalbench, pope

from paribus.errors import UserError
from paribus.study import sources
from paribus.study import stage as stage_module
from paribus.study.sources import beside, differing, renew, rewritten, stamped
from paribus.study.stage import BEGUN, CHECKPOINTS, LOCK, RECORD, Stage
from paribus.study.talks import Published
from paribus.types import Config, Runtime, Stamp
from paribus.vqa import store
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
        assert differing(before, lambda: paths) == f"{paths[1]} has changed"
    assert differing(before, lambda: paths[:1]) == f"b, beside {paths[0]}, is gone"
    assert differing(before, lambda: [*paths, tmp_path / "0"]) == f"{tmp_path / '0'} is new"


def test_files_that_moved_are_the_same(tmp_path, monkeypatch):
    for place in ("home/one", "home/two"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.json").write_text(place)
    before = stamped((tmp_path / "home").rglob("*.json"))
    assert list(before) == ["one/a.json", "two/a.json"]
    shutil.copytree(tmp_path / "home", tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    for home in (tmp_path / "elsewhere", tmp_path / "link", Path("elsewhere"), tmp_path / "x/../home"):
        assert differing(before, lambda home=home: sorted(home.rglob("*.json"))) == ""
    (tmp_path / "elsewhere/two/a.json").write_text("another")
    assert differing(before, lambda: Path("elsewhere").rglob("*.json")) == "elsewhere/two/a.json has changed"


def test_pictures_beside_tables_are_compared_where_they_are(tmp_path):
    table, near, far = tmp_path / "t" / "q.csv", tmp_path / "t" / "p" / "1.jpg", tmp_path / "coco.jpg"
    for path in (table, near, far):
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name)
    stamps = {path: stamped([path])[path.name] for path in (far, near)}
    before = beside([table], stamps)
    assert set(before) == {"p/1.jpg", far.as_posix()}
    assert rewritten(before, lambda: [table]) == rewritten(before, list) == ""
    shutil.copytree(tmp_path / "t", tmp_path / "moved")
    moved = tmp_path / "moved" / "q.csv"
    assert rewritten(before, lambda: [moved]) == ""
    (moved.parent / "p" / "1.jpg").write_text("2.jpg")
    assert rewritten(before, lambda: [moved]) == f"{moved.parent / 'p' / '1.jpg'} has changed"
    assert rewritten(before, lambda: [table]) == ""
    near.unlink()
    far.write_text("another")
    assert rewritten(before, lambda: [table]) == f"{far} has changed", "and what is gone is kept"


def test_nothing_differs_where_nothing_is(tmp_path):
    (tmp_path / "a").write_text("one")
    before = stamped([tmp_path / "a"])

    def refused():
        raise UserError("There is no such folder.")

    def forbidden():
        raise PermissionError(13, "Permission denied")

    for find in (refused, forbidden, list):
        assert differing(before, find) == rewritten(before, find) == ""


def test_a_file_that_is_there_and_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a").write_text("one")
    before = stamped([tmp_path / "a"])
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(UserError, match=r"a cannot be read .*: mend that"):
        differing(before, lambda: [tmp_path / "a"])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt cannot be read"):
        stamped([tmp_path / "none.txt"])


def test_what_has_changed_is_read_again_and_what_tells_of_it_told_again(place):
    file, read, runtime = place
    tell = Tell(below=(read,))
    tell.run(runtime)
    assert forgotten(read, runtime) == []
    file.write_text("two")
    assert forgotten(read, runtime) == [f"{file} has changed"]
    assert tell.run(runtime).text == "TWO" and read.run(runtime).text == "two"
    assert not leftovers(runtime.cache)


def test_what_something_was_made_of_is_kept(place):
    file, read, runtime = place
    shout, other = Shout(below=(read,)), Shout(below=(Read(file=str(file.with_name("b.txt"))),))
    file.with_name("b.txt").write_text("other")
    other.run(runtime)
    shout.run(runtime)
    file.write_text("two")
    with pytest.raises(UserError, match=rf"a.txt has changed since {shout.address()} began with"):
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
        assert forgotten(read, runtime) == [f"{file} has changed"]
    assert not (read.folder(runtime) / BEGUN).exists(), "done, or forgotten"


def test_what_another_run_works_on_is_left_alone(place):
    file, read, runtime = place
    shout = Shout(below=(read,))
    file.write_text("two")
    with FileLock(read.folder(runtime) / LOCK), pytest.raises(UserError, match="Another run is working on"):
        forgotten(read, runtime)
    shout.folder(runtime).mkdir()
    (shout.folder(runtime) / BEGUN).write_text(json.dumps({"stage": "shout", "config": shout.identity()}))
    with (
        FileLock(shout.folder(runtime) / LOCK),
        pytest.raises(UserError, match=f"since {shout.address()} began"),
    ):
        forgotten(read, runtime)
    assert forgotten(read, runtime) == [f"{file} has changed"]


def test_folders_that_say_nothing_are_left_alone(place):
    file, read, runtime = place
    for name in ("empty", "damaged", "odd"):
        (runtime.cache / "stages" / name).mkdir()
    (runtime.cache / "stages" / "damaged" / RECORD).write_text("{")
    (runtime.cache / "stages" / "odd" / RECORD).write_text("[]")
    file.write_text("two")
    assert forgotten(read, runtime) == [f"{file} has changed"]
    assert (runtime.cache / "stages" / "damaged" / RECORD).exists()


class Killed(BaseException):
    """What no code catches."""


def test_a_kill_while_it_is_forgotten_leaves_a_stage_that_is_not_done(place, monkeypatch):
    file, read, runtime = place
    (read.folder(runtime) / "made").mkdir()
    file.write_text("two")

    def killed(path):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sources, "remove", killed)
        with pytest.raises(Killed):
            forgotten(read, runtime)
    assert read.cached(runtime) is None and forgotten(read, runtime) == []
    assert read.run(runtime).text == "two"


def test_a_stage_whose_folder_is_a_link_is_emptied_behind_it(place):
    file, read, runtime = place
    folder, elsewhere = read.folder(runtime), runtime.cache / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    (elsewhere / "kept").mkdir()
    (elsewhere / "link").symlink_to(file.parent)
    file.write_text("two")
    assert forgotten(read, runtime) == [f"{file} has changed"]
    assert folder.is_symlink() and [path.name for path in elsewhere.iterdir()] == [LOCK] and file.exists()
    assert read.run(runtime).text == "two"


def test_a_record_that_is_forgotten_as_it_is_read_is_no_damage(place, monkeypatch):
    _, read, runtime = place
    path = read.folder(runtime) / RECORD
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"files": {"made": "0"}}))
    intact = stage_module._intact

    def forgetting(*about):
        path.unlink()
        return intact(*about)

    monkeypatch.setattr(stage_module, "_intact", forgetting)
    assert read.cached(runtime) is None


def test_runs_that_begin_together_do_not_trip_over_each_other(place):
    file, read, runtime = place
    tell = Tell(below=(read,))
    for turn in range(10):
        tell.run(runtime)
        file.write_text(f"turn {turn}")

        def begin(_):
            found = forgotten(read, runtime)
            return found, tell.run(runtime).text

        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(begin, range(4)))
        assert {text for _, text in done} == {f"TURN {turn}"}
        assert sum(map(len, (found for found, _ in done))) == 1


@pytest.mark.parametrize(
    ("layout", "picture", "other"),
    [
        (pope, "val2014/COCO_val2014_000000000000.jpg", "val2014/never_asked.jpg"),
        (mmvp, "MMVP Images/3.jpg", "MMVP Images/99.jpg"),
    ],
)
@pytest.mark.parametrize("spelt", ["absolute", "relative"])
def test_a_benchmarks_pictures_are_noticed_too(tmp_path, monkeypatch, layout, picture, other, spelt):
    monkeypatch.chdir(tmp_path)
    given = layout(tmp_path)
    if spelt == "relative":
        given |= {key: os.path.relpath(given[key]) for key in ("path", "images") if key in given}
    stage = Published(config=given)
    runtime = Runtime(cache=tmp_path / "cache")
    before = stage.run(runtime)
    (tmp_path / other).write_bytes(jpeg(7))
    assert list(renew([stage], runtime, ())) == []
    (tmp_path / picture).write_bytes(jpeg(7))
    assert list(renew([stage], runtime, ())) == [f"{tmp_path / picture} has changed"]
    assert stage.run(runtime).digest != before.digest


def test_a_picture_that_changes_while_it_is_read_is_noticed_later(tmp_path, monkeypatch):
    stage, runtime = Published(config=mmvp(tmp_path)), Runtime(cache=tmp_path / "cache")
    write = store.write

    def write_and_change(*given):
        write(*given)
        (tmp_path / "MMVP Images" / "3.jpg").write_bytes(jpeg(9))

    monkeypatch.setattr(store, "write", write_and_change)
    stage.run(runtime)
    assert list(renew([stage], runtime, ())) == [f"{tmp_path / 'MMVP Images' / '3.jpg'} has changed"]


def test_questions_that_a_kill_left_in_part_are_read_anew(tmp_path):
    stage, runtime = Published(config=mmvp(tmp_path)), Runtime(cache=tmp_path / "cache")
    before = stage.run(runtime)
    (stage.folder(runtime) / RECORD).unlink()
    (stage.folder(runtime) / "questions" / "meta.json").unlink()
    assert stage.run(runtime) == before


def test_what_a_file_manager_leaves_is_no_part_of_a_benchmark(tmp_path):
    stage, runtime = Published(config=naturalbench(tmp_path)), Runtime(cache=tmp_path / "cache")
    stage.run(runtime)
    (tmp_path / "data" / "._train-00000-of-00003.parquet").write_bytes(b"nothing")
    (tmp_path / "README.md").write_text("of the benchmark")
    assert list(renew([stage], runtime, ())) == []
    assert stage.changed(version=99).run(runtime).questions == stage.run(runtime).questions
