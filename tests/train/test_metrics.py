"""The log of a training: a line a step, the same after any interruption, and TensorBoard reads its events."""

import subprocess
import sys
from pathlib import Path

import pytest
from objectives import tiny_loader, tiny_objective

from paribus.errors import UserError
from paribus.train.loop import fit
from paribus.train.metrics import Metrics, read_lines
from paribus.types import Budget, Runtime

from . import BATCH, RECIPE, STEPS


class PowerCutError(Exception):
    """What a test raises in place of one."""


def train(folder, *, stop=None, every=0.0, tensorboard=False):
    loader = tiny_loader("dino", batch=BATCH)

    def batches(start, end):
        for number, batch in enumerate(loader(start, end), start):
            if number == stop:
                raise PowerCutError
            yield batch

    return fit(
        tiny_objective("dino"),
        batches,
        recipe=RECIPE,
        budget=Budget(samples=STEPS * BATCH, batch=BATCH),
        precision="fp32",
        folder=folder / "checkpoints",
        runtime=Runtime(device="cpu", checkpoint_seconds=every, tensorboard=tensorboard),
        label="pretrain dino",
        log=folder / "logs" / "dino-1",
    )


def read(folder):
    return read_lines(folder / "logs" / "dino-1.jsonl")


def test_every_step_has_a_line_that_is_its_line_of_the_history(tmp_path):
    result = train(tmp_path)
    lines = read(tmp_path)
    assert [line.pop("step") for line in lines] == list(range(STEPS))
    assert all(line.pop("images_per_second") > 0 for line in lines)
    assert lines == result.history
    assert {"teacher_entropy", "teacher_information", "teacher_spread", "centre_norm"} < set(lines[0])


@pytest.mark.parametrize("every", [0.0, 1000.0])
def test_steps_that_are_taken_again_are_told_once(tmp_path, every):
    for stop in (3, 5):
        with pytest.raises(PowerCutError):
            train(tmp_path, stop=stop, every=every)
    assert [line["step"] for line in read(tmp_path)] == list(range(5))
    torn = tmp_path / "logs" / "dino-1.jsonl"
    torn.write_text(torn.read_text() + '{"step": 5, "lo')
    result = train(tmp_path, every=every)
    assert [line["step"] for line in read(tmp_path)] == list(range(STEPS))
    assert [line["loss"] for line in read(tmp_path)] == [line["loss"] for line in result.history]


def test_tensorboard_reads_the_events(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(PowerCutError):
        train(tmp_path, stop=5, every=1000.0, tensorboard=True)
    result = train(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "logs" / "dino-1"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {*result.history[0], "images_per_second"}
    told = events.Scalars("loss")
    assert [event.step for event in told] == list(range(STEPS))
    assert [event.value for event in told] == pytest.approx(
        [line["loss"] for line in result.history], rel=1e-6
    )


def test_without_tensorboard_there_is_a_sentence(tmp_path):
    program = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path\nfrom paribus.train.metrics import Metrics\n"
        f"Metrics(Path({str(tmp_path / 'log')!r}), 0, tensorboard=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "UserError: --tensorboard needs TensorBoard: pip install 'paribus[tensorboard]'." in done.stderr


def test_a_full_disk_is_one_sentence():
    log = Metrics(None, 0, tensorboard=False)
    log.path = Path("/dev/full")
    full = pytest.raises(UserError, match="No space left on the disk that holds /dev/full")
    with log.path.open("a") as log.lines, full, log:
        log.write(0, {"loss": 1.0})


def test_nowhere_is_nowhere(tmp_path):
    with Metrics(None, 0, tensorboard=True) as log:
        log.write(0, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_lines_are_plain_json_also_of_what_is_no_number(tmp_path):
    with Metrics(tmp_path / "a", 0, tensorboard=False) as log:
        log.write(0, {"loss": 0.1, "part": float("nan")})
    assert (tmp_path / "a.jsonl").read_text() == '{"step": 0, "loss": 0.1, "part": null}\n'


@pytest.mark.parametrize("torn", [b"\xff\xfe\x00", b"[1]", b"3", b'{"loss": 1}', b'{"step": 1, "lo'])
def test_a_damaged_log_is_read_up_to_there(torn, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"step": 0, "loss": 0.1}\n' + torn + b'\n{"step": 2}\n')
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 0, "loss": 0.1}]
    with Metrics(tmp_path / "a", 1, tensorboard=False) as log:
        log.write(1, {"loss": 0.2})
    assert [line["step"] for line in read_lines(tmp_path / "a.jsonl")] == [0, 1]
