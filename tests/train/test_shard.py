"""Weights cut over processes (FSDP2 on gloo): the same model as without, and whole again afterwards."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from objectives import tiny_objective
from safetensors.torch import load_file

from paribus.errors import UserError
from paribus.train import distributed
from paribus.train.sharding import shard
from paribus.train.state import checkpoints
from paribus.types import Share

from .processes import together_run
from .words import RECIPE, STEPS, Words, train, trained

BY_TENSOR = RECIPE.model_copy(update={"clip_by": "tensor", "clip": 0.05})
SHORT = RECIPE.model_copy(update={"clip": 0.001})
EIGHT = RECIPE.model_copy(update={"optimizer": "adamw8bit"})
CASES = {
    "all": {},
    "chunks": {"runtime": {"chunk": 1, "recompute": True}},
    "connector": {"frozen": ("language",), "runtime": {"chunk": 1}, "recipe": SHORT},
    "connector again": {"frozen": ("language",), "runtime": {"chunk": 2, "recompute": True}, "recipe": SHORT},
    "some": {"frozen": ("q_proj", "layers.1.", "embed"), "runtime": {"chunk": 2}, "recipe": BY_TENSOR},
}
BF16 = {"precision": "bf16", "dtype": torch.float32, "runtime": {"chunk": 2, "recompute": True}}
WIDE = {"width": 256, "hidden": 260, "dtype": torch.float32, "recipe": EIGHT}
STOP = 4

quantised = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes")


def cut(settings):
    """The same settings with weights cut."""
    return {**settings, "runtime": settings.get("runtime", {}) | {"shard": True}}


def everything(folder):
    """For a process of two: every case with and without cut weights, killed and resumed, and what is left."""
    said = {}
    for name, case in CASES.items():
        said[name] = trained(f"{folder}/{name}", **case), trained(f"{folder}/{name} cut", **cut(case))
    for name in ("killed", "resumed"):
        train(f"{folder}/{name}", stop=STOP, **cut({}))
    said["resumed"] = trained(f"{folder}/resumed", **cut({}))
    said["begun"] = trained(f"{folder}/begun", **cut({}))
    said["bf16"] = trained(f"{folder}/bf16", **BF16), trained(f"{folder}/bf16 cut", **cut(BF16))
    if importlib.util.find_spec("bitsandbytes"):
        train(f"{folder}/eight resumed", stop=STOP, **cut(WIDE))
        said["eight resumed"] = trained(f"{folder}/eight resumed", **cut(WIDE))
        said["eight"] = trained(f"{folder}/eight", **cut(WIDE))
    said["left"] = left_behind(folder)
    said["joined is cut"] = shard(tiny_objective("clip")) is not None
    return said


def left_behind(folder):
    """What is not as it was after an objective has been cut, twice."""
    objective = Words()
    before = list(objective.parameters()), self_of(objective)
    for name in ("left", "left again"):
        train(f"{folder}/{name}", objective, steps=2, **cut({}))
    after = list(objective.parameters()), self_of(objective)
    same = all(a is b for a, b in zip(before[0], after[0], strict=True))
    tied = objective.language.lm_head.weight is objective.language.get_input_embeddings().weight
    return {
        "parameters": None if same and tied else "others",
        "modules": [a for a, b in zip(before[1], after[1], strict=True) if a != b],
    }


def self_of(objective):
    """Class, attributes and number of hooks of each module."""
    return [
        (type(m).__name__, sorted(vars(m)), [len(v) for k, v in sorted(vars(m).items()) if "hooks" in k])
        for m in objective.modules()
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with checkpoints; of ``begun``, those that one process left."""
    folder = tmp_path_factory.mktemp("shard")
    train(folder / "begun", stop=STOP)
    return folder


@pytest.fixture(scope="module")
def pair(runs):
    """What each of two processes said."""
    return together_run(2, runs / "said", __name__, "everything", str(runs))


@pytest.fixture(scope="module")
def alone(runs):
    """What one process says of the same cases."""
    return {name: trained(runs / f"{name} alone", **case) for name, case in CASES.items()}


def apart(a, b):
    """The largest difference of weights or losses."""
    states = max(float(np.abs(a[0][name] - value).max(initial=0.0)) for name, value in b[0].items())
    return max(states, max(abs(x - y) for x, y in zip(a[1], b[1], strict=True)))


@pytest.mark.parametrize("name", CASES)
def test_cut_or_not_one_process_or_two_train_one_model(name, pair, alone):
    """Also where a process has no term, all chunks of one have no picture, and no process has one."""
    for process in pair:
        for found in process[name]:
            assert apart(found, alone[name]) < 1e-10
    start = Words().state_dict()["connector.0.weight"].numpy()
    assert np.abs(alone[name][0]["connector.0.weight"] - start).max() > 1e-3, "something trains"


def test_chunks_and_recomputing_change_nothing(alone):
    assert apart(alone["chunks"], alone["all"]) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_summed_and_clipped_as_a_whole(name, pair, alone):
    """Adam would hide a common factor."""
    expected = alone[name][2]["slopes"]
    for process in pair:
        for _, _, notes in process[name]:
            for ours, theirs in zip(notes["slopes"], expected, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-14)
    recipe = CASES[name].get("recipe", RECIPE)
    lengths = [max(step) if recipe.clip_by == "tensor" else np.linalg.norm(step) for step in expected if step]
    assert max(lengths) == pytest.approx(recipe.clip, rel=2e-3)


def test_each_process_holds_its_rows_only(pair):
    whole = sum(parameter.numel() for parameter in Words().parameters())
    held = [process["all"][1][2]["held"] for process in pair]
    assert all(len(numbers) == 1 for numbers in held)
    assert sum(numbers.pop() for numbers in held) == whole
    assert all(process["all"][0][2]["held"] == {whole} for process in pair)


def test_all_processes_make_as_many_passes(pair):
    """Three rows in one and two in the other, one by one; the shorter takes part once more."""
    passes = [[counts["passes"] for _, _, counts in process["chunks"]] for process in pair]
    assert passes == [[3 * STEPS, 3 * STEPS], [2 * STEPS - 2, 3 * STEPS]]


def test_recomputing_is_a_second_forward(pair, alone):
    everyone = alone["chunks"][2], pair[0]["chunks"][0][2], pair[0]["chunks"][1][2]
    assert all(counts["forwards"] == 2 * counts["passes"] for counts in everyone)
    assert alone["some"][2]["forwards"] == alone["some"][2]["passes"]


# Checkpoints.


def stored(folder):
    """The newest checkpoint's tensors, but for moments of what is empty, which a cut run does not keep."""
    tensors = load_file(checkpoints(folder)[-1] / "state.safetensors")
    return {name: v for name, v in tensors.items() if not re.fullmatch("optimizer/.*/registers", name)}


def test_checkpoints_are_those_of_one_process(pair, runs):
    """Names, shapes and values, moments included; both processes have written one set of files."""
    names = ("all cut", "all alone")
    assert len({tuple(path.name for path in checkpoints(runs / name)) for name in names}) == 1
    ours, theirs = (stored(runs / name) for name in names)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-10) for name in theirs)


def test_what_was_cut_and_killed_goes_on_with_the_same_bits(pair):
    for process in pair:
        resumed, (_, whole) = process["resumed"], process["all"]
        assert all(np.array_equal(resumed[0][name], whole[0][name]) for name in whole[0])
        assert resumed[1] == whole[1]


def test_what_was_cut_and_killed_one_process_finishes(pair, runs, alone):
    del pair
    assert [path.name for path in checkpoints(runs / "killed")] == ["step-00000003", "step-00000004"]
    assert apart(trained(runs / "killed"), alone["all"]) < 1e-10


def test_what_one_process_began_is_finished_cut(pair, alone):
    assert all(apart(process["begun"], alone["all"]) < 1e-10 for process in pair)


@quantised
def test_moments_of_eight_bits_are_cut_too(pair, runs):
    """Rounding to 8 bits is a step function: what differs by rounding before may differ by a step after."""
    alone, full = trained(runs / "eight alone", **WIDE), trained(runs / "full", **WIDE | {"recipe": RECIPE})
    for process in pair:
        whole, resumed = process["eight"], process["eight resumed"]
        assert all(np.array_equal(whole[0][name], resumed[0][name]) for name in whole[0])
        assert whole[1] == resumed[1] == pytest.approx(alone[1], rel=1e-4)
    ours, theirs = (stored(runs / name) for name in ("eight", "eight alone"))
    kinds = [{name: (v.shape, v.dtype) for name, v in tensors.items()} for tensors in (ours, theirs)]
    assert kinds[0] == kinds[1]
    assert {v.dtype for name, v in ours.items() if "/exp_avg/" in name} == {torch.uint8, torch.float32}
    assert apart(alone, full) > 1e-6, "it does round"


# What is left, and what cannot be.


def test_nothing_is_left_of_it(pair):
    assert all(process["left"] == {"parameters": None, "modules": []} for process in pair)


def test_bf16_is_autocast_as_ever(pair):
    for process in pair:
        plain, spread = process["bf16"]
        assert spread[1] == pytest.approx(plain[1], rel=2e-3)
        assert {value.dtype for value in spread[0].values()} == {np.dtype("float32")}


def test_what_has_a_loss_that_joins_samples_stays_whole(pair):
    assert not any(process["joined is cut"] for process in pair)


def test_alone_nothing_is_cut(tmp_path, alone):
    found = trained(tmp_path, **cut({}))
    assert apart(found, alone["all"]) == 0.0
    assert shard(tiny_objective("clip")) is None


def test_an_older_torch_is_refused_by_name(monkeypatch):
    monkeypatch.delattr(distributed.FSDPModule, "set_reduce_scatter_unused_params")
    monkeypatch.setattr(distributed, "share", lambda: Share(0, 2))
    with pytest.raises(UserError, match=r"runtime\.shard needs torch 2\.13 or newer, not 2"):
        distributed.cut(Words(), [], "encode")
