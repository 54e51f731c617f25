"""Checkpoints: all that a run needs, two of them, whole or refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from objectives import same_bits, tiny_loader, tiny_objective
from safetensors.torch import load_file, save_file
from vlm import tiny_vlm

from paribus.errors import UserError
from paribus.files import sha256
from paribus.objectives import OBJECTIVES
from paribus.train.optim import build_optimizer
from paribus.train.split import backward
from paribus.train.state import Progress, checkpoints, load_state, save_state
from paribus.types import Clock, Recipe

RECIPE = Recipe(lr=1e-2)


def trained(kind="clip", seed=0, steps=3):
    """An objective and its optimiser after a few steps."""
    objective = tiny_objective(kind, seed)
    optimizer = build_optimizer(objective, RECIPE)
    for step, batch in enumerate(tiny_loader(kind)(0, steps)):
        clock = Clock(step, step, 10)
        backward(objective, batch, clock, None, "fp32")
        objective.before_step(clock)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(clock)
    return objective, optimizer


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 3 and 4."""
    objective, optimizer = trained()
    for step in (3, 4):
        save_state(tmp_path, Progress(step, f"digest{step}", 1.5, [{"loss": step / 3}]), objective, optimizer)
    return tmp_path


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_model_optimizer_and_progress_come_back_bit_for_bit(tmp_path, kind):
    objective, optimizer = trained(kind)
    progress = Progress(3, "abc", 12.25, [{"loss": 0.1, "lr": 1 / 3}, {"loss": float(np.pi), "lr": 1e-30}])
    save_state(tmp_path, progress, objective, optimizer)
    other = tiny_objective(kind, seed=1)
    fresh = build_optimizer(other, RECIPE)
    assert load_state(tmp_path, other, fresh) == progress
    assert same_bits(other.state_dict(), objective.state_dict())
    pairs = list(zip(objective.parameters(), other.parameters(), strict=True))
    states = [(optimizer.state.get(a, {}), fresh.state.get(b, {})) for a, b in pairs]
    assert sum(bool(state) for state, _ in states) > 10
    assert all(same_bits(a, b) for a, b in states)


def test_the_next_step_is_the_same_after_coming_back(tmp_path):
    objective, optimizer = trained("dino")
    save_state(tmp_path, Progress(3), objective, optimizer)
    other = tiny_objective("dino", seed=1)
    fresh = build_optimizer(other, RECIPE)
    load_state(tmp_path, other, fresh)
    batch = tiny_loader("dino").make(3)
    for model, steps in ((objective, optimizer), (other, fresh)):
        backward(model, batch, Clock(3, 3, 10), None, "fp32")
        steps.step()
        model.after_step(Clock(3, 3, 10))
    assert same_bits(objective.state_dict(), other.state_dict())


def test_tied_weights_stay_tied(tmp_path):
    """A language model's embedding is its output layer; both names are stored, one tensor moves."""
    model = tiny_vlm(eyes=False)
    optimizer = build_optimizer(model, RECIPE)
    save_state(tmp_path, Progress(1), model, optimizer)
    other = tiny_vlm(eyes=False, seed=5)
    load_state(tmp_path, other, build_optimizer(other, RECIPE))
    assert same_bits(other.state_dict(), model.state_dict())
    embedding = other.language.get_input_embeddings().weight
    assert embedding is other.language.get_output_embeddings().weight


def test_no_checkpoint_is_a_fresh_start(tmp_path):
    objective = tiny_objective("clip")
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    assert load_state(tmp_path / "none", objective, build_optimizer(objective, RECIPE)) == Progress()
    assert same_bits(objective.state_dict(), before)


def test_two_checkpoints_are_kept_and_the_newest_is_read(tmp_path):
    objective, optimizer = trained()
    for step in (1, 2, 9, 10, 11):
        save_state(tmp_path, Progress(step), objective, optimizer)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000011"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert load_state(tmp_path, objective, optimizer).step == 11


def test_a_checkpoint_is_two_plain_files(saved):
    newest = checkpoints(saved)[-1]
    assert sorted(path.name for path in newest.iterdir()) == ["progress.json", "state.safetensors"]
    progress = json.loads((newest / "progress.json").read_text())
    assert progress["sha256"] == sha256(newest / "state.safetensors")
    assert progress["order"] == "digest4"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))


def empty(path):
    path.write_bytes(b"")


def other_tensors(path):
    save_file({"model/x": torch.zeros(2)}, path)


DAMAGES = [
    ("state.safetensors", cut),
    ("state.safetensors", flip_a_bit),
    ("state.safetensors", empty),
    ("state.safetensors", other_tensors),
    ("state.safetensors", lambda path: path.unlink()),
    ("progress.json", cut),
    ("progress.json", empty),
    ("progress.json", lambda path: path.write_text("null")),
    ("progress.json", lambda path: path.write_text("{}")),
    ("progress.json", lambda path: path.write_text(path.read_text().replace('"step"', '"stop"'))),
    ("progress.json", lambda path: path.unlink()),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_it_is_good(saved, name, damage):
    newest = checkpoints(saved)[-1]
    damage(newest / name)
    objective = tiny_objective("clip", seed=1)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    with pytest.raises(UserError, match=r"step-00000004 is damaged: delete that folder") as raised:
        load_state(saved, objective, build_optimizer(objective, RECIPE))
    assert str(saved) in str(raised.value)
    assert same_bits(objective.state_dict(), before), "a refused checkpoint changes nothing"
    shutil.rmtree(newest)
    assert load_state(saved, objective, build_optimizer(objective, RECIPE)).step == 3
    assert same_bits(objective.state_dict(), trained()[0].state_dict())


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint(saved):
    """The temporary folder of a process that was killed while it saved: passed over, then cleared away."""
    litter = saved / ".step-00000005.1234.tmp"
    litter.mkdir()
    (litter / "state.safetensors").write_bytes(b"half")
    (saved / "notes.txt").write_text("mine")
    objective, optimizer = trained()
    assert load_state(saved, objective, optimizer).step == 4
    save_state(saved, Progress(5), objective, optimizer)
    assert [path.name for path in checkpoints(saved)] == ["step-00000004", "step-00000005"]
    assert (saved / "notes.txt").exists()
    assert not litter.exists()


def test_checkpoints_hold_tensors_by_name(saved):
    tensors = load_file(checkpoints(saved)[-1] / "state.safetensors")
    objective, _ = trained()
    names = {name.removeprefix("model/") for name in tensors if name.startswith("model/")}
    assert names == set(objective.state_dict())
    moments = {name for name in tensors if name.startswith("optimizer/")}
    assert {name.split("/")[1] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
