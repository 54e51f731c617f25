"""A study on tar shards of one's own, of which a list says what to keep."""

import subprocess
import sys

import pytest
import torch
from data.test_shards import write_shards
from safetensors.torch import load_file
from train.processes import free_port

from study import ROOT, copied, paribus, records, small_settings, write_study


@pytest.fixture
def place(tmp_path, tiny_cache):
    """A study of four tars with 52 samples, 30 of which are listed."""
    write_shards(tmp_path / "tars")
    (tmp_path / "keep.txt").write_text("\n".join(f"{number:09d}" for number in range(10, 40)))
    settings = small_settings()
    source = {"kind": "shards", "root": str(tmp_path / "tars"), "keep": str(tmp_path / "keep.txt")}
    settings["control"]["data"] |= {"source": source, "captions": "own"}
    settings["control"]["measured_on"] = None
    write_study(tmp_path, settings | {"measure": [], "baselines": [], "vlms": {}})
    return tmp_path


def test_arms_see_what_is_listed_and_another_list_is_another_corpus(place, tiny_cache):
    line = ("run", place / "tiny.yaml", "--cache", tiny_cache, "--runs", place / "runs")
    done = paribus(place, *line)
    assert done.code == 0, done.err
    (corpus,) = [kept for name, kept in records(tiny_cache).items() if name.startswith("shards-")]
    assert corpus["record"]["counts"] == {"train": 30, "not listed": 22}
    (place / "keep.txt").write_text("\n".join(f"{number:09d}" for number in range(5, 40)))
    assert paribus(place, *line).code == 0
    found = [kept for name, kept in records(tiny_cache).items() if name.startswith("shards-")]
    assert sorted(kept["record"]["counts"]["train"] for kept in found) == [30, 35]
    (place / "keep.txt").write_text("nobody")
    assert "names none of the 52 samples" in paribus(place, *line).refused()
    (place / "keep.txt").unlink()
    assert "keep.txt cannot be read" in paribus(place, *line).refused()


@pytest.mark.slow
def test_two_processes_train_the_quickstarts_arms_as_one_does(place, tmp_path, tiny_cache):
    """By ``torchrun``, from the same shards: the same order, and weights that differ by rounding."""
    line = ["run", str(place / "tiny.yaml"), "--set", "control.precision=fp32", "--runs", str(place / "runs")]
    together = copied(tiny_cache, tmp_path / "together")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "paribus"]
    command = [*torchrun, *line, "--cache", str(together)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=250)
    assert done.returncode == 0, done.stderr
    assert paribus(place, *line, "--cache", tiny_cache).code == 0
    ours, alone = records(together), records(tiny_cache)
    arms = [address for address in alone if address.startswith("pretrain")]
    assert {address.split("-")[1] for address in arms} == {"clip", "dino"}
    for address in arms:
        two, one = ours[address]["record"], alone[address]["record"]
        assert (two["processes"], one["processes"]) == (2, 1)
        same = ("order", "start", "data", "samples", "flops_per_sample")
        assert {name: two[name] for name in same} == {name: one[name] for name in same}
        trained = load_file(tiny_cache / "stages" / address / "encoder.safetensors")
        for name, weight in load_file(together / "stages" / address / "encoder.safetensors").items():
            assert torch.allclose(weight, trained[name], rtol=2e-3, atol=2e-4), (address, name)
