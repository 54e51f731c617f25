"""``paribus encoder`` from end to end: real folders, and for a push a process and a hub on the loopback."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from encoders.checkpoints import clip_vision, perturbed, vit
from encoders.test_hub import TOKEN, arrived, stand_in
from report import build
from study import Done, leftovers

from paribus.encoders.folders import Trained, read_folder, write_paribus
from paribus.encoders.towers_exchange import read_open_clip_joint, read_transformers_joint
from paribus.encoders.vision import VisionEncoder, preset, weights_digest
from paribus.report.schema import write_results
from paribus.study.study import load_study
from paribus.types import Runtime


@pytest.fixture
def own(tmp_path):
    """A trained encoder of ours, of a published size in all but its depth."""
    config = preset("tiny", 16, 32).model_copy(update={"depth": 2})
    encoder = perturbed(VisionEncoder(config))
    write_paribus(encoder, tmp_path / "own", Trained(objective="x", data="d" * 64, samples=640, seed=1))
    return tmp_path / "own"


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


def process(*argv, **environment):
    """``paribus ARGV`` in a process of its own, because huggingface_hub reads the environment on import."""
    line = [sys.executable, "-c", "from paribus.cli import main; main()", *map(str, argv)]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | environment)
    return Done(done.returncode, done.stdout, done.stderr)


def told(done):
    assert done.code == 0, done.err
    return dict(line.split("  ", 1) for line in done.out.splitlines() if "  " in line)


def test_info_says_what_a_checkpoint_is(tmp_path, own, paribus):
    said = {name: value.strip() for name, value in told(paribus("encoder", "info", own)).items()}
    assert said["format"] == "paribus" and said["patch"] == "16 pixels" and said["activation"] == "gelu"
    assert said["weights"] == f"sha256 {weights_digest(read_folder(own).encoder)}"
    assert (said["objective"], said["data digest"], said["samples seen"]) == ("x", "d" * 64, "640")
    assert said["preprocessing"] == "resize the shorter side to 32 (bicubic), crop the centre 32"
    _, folder = clip_vision(tmp_path / "theirs")
    said = {name: value.strip() for name, value in told(paribus("encoder", "info", folder)).items()}
    assert said["format"] == "transformers" and said["activation"] == "quick_gelu"
    assert "LayerNorm before the blocks" in said["architecture"] and said["LayerNorm eps"] == "1e-05"


@pytest.mark.parametrize("to", ["transformers", "timm", "open_clip", "paribus"])
def test_export_and_import_bring_the_encoder_back(tmp_path, to, paribus):
    _, folder = vit(tmp_path / "theirs")
    digest = weights_digest(read_folder(folder).encoder)
    done = paribus("encoder", "import", folder, "--out", tmp_path / "in")
    assert done.code == 0, done.err
    assert weights_digest(read_folder(tmp_path / "in").encoder) == digest
    done = paribus("encoder", "export", tmp_path / "in", "--to", to, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    again = read_folder(tmp_path / "out")
    assert again.about.format == to
    if to != "open_clip":  # it has no place for the patches' bias, which goes into the positions
        assert weights_digest(again.encoder) == digest
    assert not leftovers(tmp_path)


def test_refusals_are_one_sentence_and_exit_2(tmp_path, own, paribus):
    done = paribus("encoder", "info", tmp_path / "nothing")
    assert "neither a folder nor a published encoder" in done.refused()
    done = paribus("encoder", "export", own, "--to", "timm", "--out", own)
    assert "is there already" in done.refused()
    assert read_folder(own), "and it is still what it was"
    (own / "encoder.safetensors").unlink()
    assert "holds no weights" in paribus("encoder", "info", own).refused()
    (own / "encoder.json").write_text("{}")
    assert "has no field 'encoder'" in paribus("encoder", "info", own).refused()
    done = paribus("encoder", "info", "clip-vicuna", "--root", tmp_path)
    assert "download the repository Leonardo6/clip-vicuna" in done.refused()


def test_push_takes_hub_and_token_from_the_usual_places(tmp_path, own):
    results, _ = build()
    path = write_results(results, tmp_path / "run")
    arm = list(results.arms)[1]
    with stand_in() as hub:
        usual = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        line = ("encoder", "push", own, "me/encoder", "--results", path, "--arm", arm, "--private")
        done = process(*line, **usual)
        assert done.code == 0, done.err
        files = arrived(hub)
        wrong = process(*line, **usual | {"HF_TOKEN": "hf_wrong"})
        assert "does not know the token (401)" in wrong.refused()
    assert done.out.strip() == f"{hub.address}/me/encoder/commit/1"
    assert files["encoder.safetensors"] == (own / "encoder.safetensors").read_bytes()
    assert json.loads(files["encoder.json"]) == json.loads((own / "encoder.json").read_text())
    assert f"Arm `{arm}` of `{results.study}`" in files["README.md"].decode()
    gone = process(*line, **usual)
    assert "cannot be reached" in gone.refused()


def stage_of(finished, kind):
    return next((finished / "cache" / "stages").glob(f"pretrain-{kind}-*"))


@torch.no_grad()
def test_an_arm_that_read_captions_goes_out_whole(finished, tmp_path, paribus):
    """What other libraries are given is the space that the study itself asks in words."""
    (arm,) = (a for a in load_study(finished / "tiny.yaml").all_arms() if a.name == "clip")
    runtime = Runtime(cache=finished / "cache")
    space, encoder = arm.encoder.joint([], tmp_path, runtime), arm.encoder.open(runtime).eval()
    texts, pictures = ["a red apple", 'the word "yes"'], torch.rand(2, 3, 32, 32)
    for to, read in (("transformers", read_transformers_joint), ("open_clip", read_open_clip_joint)):
        folder = tmp_path / to
        line = ("encoder", "export", stage_of(finished, "clip"), "--to", to, "--out", folder, "--whole")
        assert paribus(*line).out == f"{to}, both towers: {folder}\n"
        back = read(folder)
        seen = F.normalize(back.image(pictures).cls @ back.image_proj.T, dim=-1)
        said = F.normalize(back.text(texts) @ back.text_proj.T, dim=-1)
        assert torch.allclose(seen, space.see(encoder(pictures)), atol=1e-5)
        assert torch.allclose(said, space.read(texts), atol=1e-5)
        assert torch.equal(back.scale_log, space.scale_log)


def test_what_has_no_second_tower_does_not_go_out_whole(finished, own, tmp_path, paribus):
    for stage, to, why in (
        (stage_of(finished, "dino"), "transformers", "only an arm that read captions"),
        (
            stage_of(finished, "clip"),
            "timm",
            "timm has no text towers: choose one of transformers, open_clip",
        ),
    ):
        line = ("encoder", "export", stage, "--to", to, "--out", tmp_path / "out", "--whole")
        assert why in paribus(*line).refused()
    assert (
        paribus("encoder", "export", own, "--to", "open_clip", "--out", tmp_path / "out", "--whole").code == 2
    )
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)
