"""Stages: identity, addresses, records, damage, waiting; on small real stages, and on those of the study."""

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from paribus.errors import UserError
from paribus.files import write_text
from paribus.study.stage import Stage, walk
from paribus.study.study import Study, load_study
from paribus.types import Config, Runtime
from study import begin, cut, edit_json, leftovers, paribus, small_settings


class Number(Config):
    """A record."""

    value: float


class Add(Stage[Number]):
    """Adds up what its input and its own setting are, and leaves a file."""

    name: ClassVar[str] = "add"
    version: int = 1
    below: "Add | None" = None
    plus: float = 1.0

    def compute(self, folder: Path, runtime: Runtime) -> Number:
        base = 0.0 if self.below is None else self.below.run(runtime).value
        CALLS.append(self.address())
        write_text(folder / "sum.txt", str(base + self.plus))
        (folder / ".scratch").write_text("not kept")
        return Number(value=base + self.plus)


CALLS: list[str] = []


@pytest.fixture
def runtime(tmp_path):
    CALLS.clear()
    return Runtime(cache=tmp_path / "cache")


def test_a_stage_is_computed_once_and_its_inputs_first(runtime):
    one, two = Add(plus=2.0), Add(below=Add(plus=2.0), plus=3.0)
    assert two.cached(runtime) is None
    assert two.run(runtime) == Number(value=5.0) == two.run(runtime)
    assert one.run(runtime) == Number(value=2.0)
    assert [one.address(), two.address()] == CALLS
    stored = json.loads((two.folder(runtime) / "record.json").read_text())
    assert stored["stage"] == "add" and stored["record"] == {"value": 5.0}
    assert list(stored["files"]) == ["sum.txt"]
    assert stored["config"] == two.identity() == two.stored_config(runtime)


def test_every_setting_is_part_of_the_address_defaults_included(runtime):
    class Changed(Add):
        plus: float = 1.5

    class Newer(Add):
        version: int = 2

    class Renamed(Add):
        name: ClassVar[str] = "sum"

    stages = [Add(), Add(plus=2.0), Add(below=Add()), Add(below=Add(plus=2.0)), Changed(), Newer(), Renamed()]
    assert len({stage.address() for stage in stages}) == len(stages)
    # Said or by default is the same thing, or a default that changed would be served from an old result.
    assert Add(plus=1.0, version=1).address() == Add().address() == Changed(plus=1.0).address()
    assert "plus" in Add().identity() and "version" in Add().identity()


def test_where_and_how_is_no_part_of_the_address(tmp_path):
    place = {"folder": str(tmp_path)}
    infras = ({}, place, {"cluster": "local", **place}, {"cluster": "slurm", "cpus_per_task": 3, **place})
    assert len({Add(infra=infra).address() for infra in infras}) == 1
    runtimes = [
        Runtime(cache=tmp_path, runs=tmp_path / "runs", device="cpu", workers=7, chunk=3),
        Runtime(cache=tmp_path, checkpoint_seconds=0, cluster="local"),
    ]
    assert len({Add().folder(runtime) for runtime in runtimes}) == 1
    assert not {"infra", *Runtime.model_fields} & set(json.dumps(Add(below=Add()).identity()).split('"'))


def test_addresses_are_the_same_in_another_process(tmp_path, tiny_study, tiny_cache):
    """No hash of this process, no order of its sets, may get into an address."""
    done = paribus(tmp_path, "plan", tiny_study, "--cache", tiny_cache, environment={"PYTHONHASHSEED": "123"})
    assert done.code == 0, done.err
    printed = {line.split()[0] for line in done.out.splitlines() if line.strip()}
    expected = {stage.address() for stage in walk(Study.model_validate(small_settings()).stages())}
    assert len(expected) > 25 and expected <= printed


def test_a_bumped_version_moves_all_that_hangs_below_and_nothing_else(runtime):
    base, beside = Add(plus=2.0), Add(plus=7.0)
    bumped = base.changed(version=2)
    assert Add(below=bumped).address() != Add(below=base).address()
    before = {stage.address() for stage in walk([Add(below=base), beside])}
    after = {stage.address() for stage in walk([Add(below=bumped), beside])}
    assert before & after == {beside.address()}


def test_what_one_setting_of_the_real_study_moves():
    def addresses(**changes):
        settings = small_settings()
        for path, value in changes.items():
            place = settings["control"]
            *parents, last = path.split("__")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return {stage.address() for stage in walk(Study.model_validate(settings).stages())}

    def kinds(found):
        return {address.split("-")[0] for address in found}

    before = addresses()
    everything = kinds(before)
    data = {"corpus", "words", "questions", "captions", "asking", "stimuli"}
    assert kinds(before & addresses(precision="fp32")) == data | {"untrained", "histogram"}
    assert kinds(before - addresses(vlm__eyes__layer=-1)) == {"align", "instruct", "answer"}
    assert kinds(before - addresses(data__source__seed=5)) == everything - {"untrained", "histogram"}


def test_a_changed_stage_is_a_stage_like_any_other(runtime):
    changed = Add(below=Add(), plus=2.0).changed(plus=4.0)
    assert changed == Add(below=Add(), plus=4.0)
    assert Add(below=changed).run(runtime) == Number(value=6.0)


@pytest.mark.slow
def test_a_cluster_leaves_what_this_process_would_and_hands_back_what_it_refuses(tiny_study, tiny_cache):
    """exca's local cluster: a process of its own for each stage, as on SLURM."""
    here, there = Runtime(cache=tiny_cache), Runtime(cache=tiny_cache, cluster="local")
    words = load_study(tiny_study).all_arms()[0].encoder.text
    record = words.run(there)
    path = words.folder(there) / "record.json"
    stored = json.loads(path.read_text())
    shutil.rmtree(words.folder(here))
    assert words.run(here) == record
    assert json.loads(path.read_text()) == stored
    cut(words.folder(here) / "tokenizer.json")
    path.unlink()
    with pytest.raises(UserError, match=r"^Unknown caption policy 'poem': choose one of [^\n]*\.$"):
        words.changed(captions="poem").run(there)


def test_walk_gives_each_stage_once_and_inputs_first():
    base = Add()
    order = walk([Add(below=base, plus=2.0), Add(below=base, plus=3.0), base])
    assert [stage.plus for stage in order] == [1.0, 2.0, 3.0]


def test_what_a_killed_run_left_is_swept_away_and_never_recorded(runtime):
    stage = Add()
    folder = stage.folder(runtime)
    for name in (".corpus.4711.tmp/images.bin", ".sum.txt.4711.tmp", ".hidden/state"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("half")
    stage.run(runtime)
    assert list(json.loads((folder / "record.json").read_text())["files"]) == ["sum.txt"]
    assert not leftovers(folder)


def test_a_failed_computation_leaves_no_record(runtime):
    class Fails(Add):
        name: ClassVar[str] = "fails"

        def compute(self, folder, runtime):
            write_text(folder / "sum.txt", "half")
            raise UserError("no good.")

    with pytest.raises(UserError, match=r"no good\."):
        Fails().run(runtime)
    assert Fails().cached(runtime) is None and Fails().stored_config(runtime) is None
    assert not leftovers(runtime.cache)


def _rotten(folder: Path, how: str) -> None:
    record = folder / "record.json"
    match how:
        case "cut":
            cut(record)
        case "empty":
            record.write_text("")
        case "list":
            record.write_text("[]")
        case "bytes":
            record.write_bytes(b"\xff\xfe\x00")
        case "part":
            edit_json(record, lambda stored: stored.pop("files"))
        case "value":
            edit_json(record, lambda stored: stored.update(record={"value": "many"}))
        case "folder":
            record.unlink()
            record.mkdir()


@pytest.mark.parametrize("how", ["cut", "empty", "list", "bytes", "part", "value", "folder"])
def test_a_damaged_record_is_named_and_not_served(runtime, how):
    stage = Add()
    stage.run(runtime)
    _rotten(stage.folder(runtime), how)
    with pytest.raises(UserError, match=rf"{stage.address()}/record\.json is damaged: delete .* run again"):
        stage.cached(runtime)
    shutil.rmtree(stage.folder(runtime))
    assert stage.run(runtime) == Number(value=1.0)


@pytest.mark.parametrize("how", ["cut", "gone", "same length"])
def test_a_damaged_file_is_named_and_not_served(runtime, how):
    stage = Add(plus=1234.5)
    stage.run(runtime)
    path = stage.folder(runtime) / "sum.txt"
    match how:
        case "cut":
            cut(path)
        case "gone":
            path.unlink()
        case "same length":
            path.write_text("9234.5")
            os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match=r"sum\.txt is damaged or missing: delete .* and run again"):
        stage.cached(runtime)


def test_two_threads_that_want_one_stage_compute_it_once(runtime, caplog):
    class Slow(Add):
        name: ClassVar[str] = "slow"

        def compute(self, folder, runtime):
            time.sleep(0.8)
            return super().compute(folder, runtime)

    found = []
    threads = [threading.Thread(target=lambda: found.append(Slow().run(runtime))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Number(value=1.0)] * 3 and [Slow().address()] == CALLS
    assert "another run is working on slow: waiting for it" in caplog.text


def test_a_waiting_run_goes_on_when_the_other_is_killed(tmp_path, tiny_study, tiny_cache):
    """The lock is the kernel's: it does not outlive its holder."""
    line = ("run", tiny_study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--workers", "1")
    small = ("--set", "measure=[]", "--set", "baselines=[]")
    first = begin(tmp_path, *line, *small)
    assert first.kill_when(lambda: "[2/" in first.stderr.read_text())
    done = paribus(tmp_path, *line, *small)
    assert done.code == 0, done.err


def test_a_stage_that_names_no_record_is_a_defect():
    class Bare(Stage):
        name: ClassVar[str] = "bare"

    with pytest.raises(TypeError, match="does not name its record type"):
        Bare._record_type()
