"""What training needs that is installed apart is missed before anything is done."""

import functools
import sys

import pytest
from study import counted, counting, paribus, records


def without_tensorboard(log):
    counting(log)
    sys.modules["tensorboard"] = None


def without_compiler(log):
    counting(log)
    import torch._inductor.config as config

    config.cpp.cxx = (None, "no-such-compiler")


@pytest.mark.parametrize(
    ("option", "lacks", "said"),
    [
        ("--tensorboard", without_tensorboard, "--tensorboard needs TensorBoard: pip install"),
        (
            "--compile",
            without_compiler,
            "--compile: torch cannot compile here (InvalidCxxCompiler: No working",
        ),
    ],
)
def test_what_is_missing_is_told_before_any_stage(option, lacks, said, tmp_path, tiny_study, tiny_cache):
    where = ("run", tiny_study, "--cache", tiny_cache, "--runs", tmp_path / "runs", "--device", "cpu")
    log, before = tmp_path / "computed", records(tiny_cache)
    own = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = paribus(tmp_path, *where, option, environment=own, before=functools.partial(lacks, log))
    assert done.refused().startswith(said)
    assert counted(log) == [] and records(tiny_cache) == before


def test_a_plan_that_measures_compiled_steps_misses_the_compiler_too(tmp_path, tiny_study, tiny_cache):
    own = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    where = ("plan", tiny_study, "--cache", tiny_cache, "--device", "cpu", "--compile")
    before = functools.partial(without_compiler, tmp_path / "computed")
    assert paribus(tmp_path, *where, environment=own, before=before).code == 0
    said = paribus(tmp_path, *where, "--measure", environment=own, before=before).refused()
    assert said.startswith("--compile: torch cannot compile here (InvalidCxxCompiler")
