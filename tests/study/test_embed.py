"""Features of shards: what the encoder sees, and the same table whoever makes which part of it, and when."""

import functools
import io
import json
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from data.test_shards import write_shards
from encoders.checkpoints import perturbed
from safetensors.numpy import load_file, save_file
from train.processes import free_port

from paribus.data.decoding import decode_image
from paribus.data.shards import Shards, ShardsConfig, build_index
from paribus.encoders.eyes import open_eye
from paribus.encoders.folders import read_folder, write_paribus
from paribus.encoders.vision import VisionEncoder, preset
from paribus.errors import UserError
from paribus.study import embed as module
from paribus.study.embed import Embedding, indexed, open_table
from paribus.types import Runtime, Share
from study import ROOT, begin, leftovers, paribus

FILES = ("features.npy", "samples.parquet", "table.json")
SHARDS, EACH, BATCH = 7, 13, 5


def write_encoder(folder, depth=2):
    config = preset("tiny", 8, 32).model_copy(update={"depth": depth, "width": 24, "heads": 2})
    write_paribus(perturbed(VisionEncoder(config)), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Seven indexed shards and an encoder; read only."""
    folder = tmp_path_factory.mktemp("place")
    write_shards(folder / "tars", shards=SHARDS, each=EACH)
    build_index(ShardsConfig(root=str(folder / "tars")), folder / "index", 1)
    write_encoder(folder / "encoder")
    return folder


def work(place, out, workers=1, index="index", **settings):
    """An embedding of the shards into a folder, which is claimed."""
    runtime = Runtime(device="cpu", workers=workers)
    source, eye = Shards(place / index, place / "tars"), open_eye(str(place / "encoder"))
    chosen = {"precision": "fp32", "batch": BATCH, **settings}
    found = Embedding(out=out, source=source, eye=eye, digest="e" * 64, runtime=runtime, **chosen)
    found.begin()
    return found


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    """The table that one process makes at once."""
    out = tmp_path_factory.mktemp("alone") / "out"
    one = work(place, out)
    one.run(Share())
    one.join()
    return out


def line(place, out, *more):
    """The command that makes the same table but for the encoder's digest."""
    index = ("--index", place / "index", "--batch", str(BATCH), "--precision", "fp32", "--device", "cpu")
    return ("embed", place / "encoder", place / "tars", "--out", out, *index, *more)


@pytest.fixture(scope="module")
def commanded(place, tmp_path_factory):
    """The table of one command, and what it said."""
    folder = tmp_path_factory.mktemp("commanded")
    done = paribus(folder, *line(place, folder / "out"))
    assert done.code == 0, done.err
    return folder / "out", done.out


# What is in it.


def test_the_table_holds_what_the_encoder_sees_of_each_sample(place, alone):
    """Against tarfile and the encoder alone, picture by picture."""
    encoder, _ = read_folder(place / "encoder")
    encoder.eval()
    eye = open_eye(str(place / "encoder"))
    keys, seen = [], []
    for path in sorted((place / "tars").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.name.endswith((".jpg", ".jpeg", ".png", ".webp")):
                    keys.append((f"{path.stem}/{info.name.partition('.')[0]}", path.name))
                    pixels = eye.prepare([decode_image(tar.extractfile(info).read())])
                    with torch.no_grad():
                        seen.append(encoder(pixels).cls[0].numpy())
    table = open_table(alone)
    assert isinstance(table.features, np.memmap) and table.features.dtype == np.float16
    assert table.features.shape == (SHARDS * EACH, 24)
    assert np.allclose(table.features, np.stack(seen), rtol=2e-3, atol=2e-3)
    rows = pq.read_table(alone / "samples.parquet").to_pylist()
    assert [(row["key"], row["shard"]) for row in rows] == keys
    assert table.keys() == [key for key, _ in keys]
    left = {path.name for path in alone.iterdir()}
    assert left == {".lock", "manifest.json", *FILES}, "what each shard gave goes when the table is there"


def test_features_can_be_kept_whole(place, alone, tmp_path):
    whole = work(place, tmp_path / "out", kept="fp32")
    whole.run(Share())
    features = whole.join().features
    assert features.dtype == np.float32
    assert np.array_equal(features.astype(np.float16), open_table(alone).features)


def test_a_batch_ends_with_its_shard(place, tmp_path):
    sizes = []

    class Counting(type(open_eye(str(place / "encoder")))):
        def look(self, pixels, **wanted):
            sizes.append(len(pixels))
            return super().look(pixels, **wanted)

    one = work(place, tmp_path / "out", workers=3)
    one.eye.__class__ = Counting
    one.run(Share())
    assert sizes == [5, 5, 3] * SHARDS


# Whatever the split.


@pytest.mark.parametrize(("parts", "workers"), [(1, 4), (2, 1), (3, 2), (SHARDS + 2, 1)])
def test_parts_in_any_order_make_the_same_table(place, alone, tmp_path, parts, workers):
    left = []
    for rank in reversed(range(parts)):
        one = work(place, tmp_path / "out", workers)
        one.run(Share(rank, parts))
        left.append(one.join())
    assert all(isinstance(each, int) and each > 0 for each in left[:-1])
    assert contents(tmp_path / "out") == contents(alone)
    assert not leftovers(tmp_path)


def test_parts_are_all_shards_and_share_none(place, tmp_path):
    one = work(place, tmp_path / "out")
    for size in range(1, 9):
        cut = [one.whole[rank::size] for rank in range(size)]
        assert sorted(number for part in cut for number in part) == list(range(SHARDS))


def test_called_again_nothing_is_computed(place, alone, tmp_path, monkeypatch):
    for rank in (0, 1):
        work(place, tmp_path / "out").run(Share(rank, 2))
    again = work(place, tmp_path / "out")

    def refuse(*_):
        raise AssertionError("it looks again")

    monkeypatch.setattr(Embedding, "_see", refuse)
    again.run(Share())
    again.join()
    again.run(Share())
    assert again.join().about == open_table(alone).about


def test_a_process_whose_shards_another_has_joined_leaves_the_table_alone(place, alone, tmp_path):
    """Two jobs at the same part: the later one writes a shard after the table is there."""
    slow, fast = work(place, tmp_path / "out"), work(place, tmp_path / "out")
    reads = slow._reads(slow._blocks([0]))
    parts = [next(reads)]
    fast.run(Share())
    fast.join()
    parts += list(reads)
    keys = [key for part in parts for key in part.keys]
    slow._write(0, keys, torch.cat([slow._see(part.pixels) for part in parts]))
    assert slow.left(slow.whole) == []
    assert not isinstance(slow.join(), int)
    assert contents(tmp_path / "out") == contents(alone)
    assert not (tmp_path / "out" / "shards").exists()


@pytest.mark.parametrize("harm", ["cut", "other setting", "other rows", "no setting", "no safetensors"])
def test_a_shard_that_is_not_whole_or_of_other_features_is_made_again(place, alone, tmp_path, harm):
    one = work(place, tmp_path / "out")
    one.run(Share(0, 2))
    path = one._part(2)
    whole = path.read_bytes()
    arrays = load_file(path)
    if harm == "cut":
        path.write_bytes(whole[:-10])
    elif harm == "no safetensors":
        path.write_bytes(b"hello")
    else:
        about = {"setting": one.manifest.setting.digest, "made": "x"}
        if harm == "no setting":
            del about["setting"]
        elif harm == "other setting":
            about["setting"] = "f" * 64
            arrays["features"] = arrays["features"] + 1
        else:
            arrays["features"] = arrays["features"][:-1].copy()
        save_file(arrays, path, {"about": json.dumps(about)})
    assert one.left(one.whole) == [1, 2, 3, 5]
    one.run(Share())
    assert path.read_bytes() == whole
    one.join()
    assert contents(tmp_path / "out") == contents(alone)


def slowed(seconds):
    """For ``before``: every batch takes a while."""
    see = Embedding._see

    def slow(self, pixels):
        time.sleep(seconds)
        return see(self, pixels)

    Embedding._see = slow


@pytest.mark.slow
def test_commands_that_are_killed_and_cut_make_the_same_table(place, commanded, tmp_path):
    """One killed while it works, then two at once at the whole, one of them killed."""
    out = tmp_path / "out"
    slow = functools.partial(slowed, 0.1)

    def done(count):
        return lambda: len(list(out.glob("shards/*.safetensors"))) >= count

    first = begin(tmp_path, *line(place, out), before=slow)
    assert first.kill_when(done(2), delay=0.05)
    made = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.safetensors")}
    assert 2 <= len(made) < SHARDS
    pair = [begin(tmp_path, *line(place, out, "--workers", n), before=slow) for n in ("1", "3")]
    assert pair[0].kill_when(done(len(made) + 1), delay=0.05)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items() if path.exists())
    end = pair[1].wait()
    assert end.code == 0, end.err
    assert end.out == commanded[1].replace(str(commanded[0]), str(out))
    assert contents(out) == contents(commanded[0])


@pytest.mark.slow
def test_an_array_of_slurm_jobs_makes_the_same_table(place, commanded, tmp_path):
    """`sbatch --array=1-3`: all at once, and one that is requeued after the table is there."""
    out = tmp_path / "out"

    def task(number):
        told = {"ID": number, "COUNT": 3, "MIN": 1, "MAX": 3, "STEP": 1}
        return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()}

    running = [begin(tmp_path, *line(place, out), environment=task(number)) for number in (1, 2, 3)]
    ends = [each.wait() for each in running]
    assert [end.code for end in ends] == [0, 0, 0], ends
    assert contents(out) == contents(commanded[0])
    assert any(f"{SHARDS * EACH} samples of {SHARDS} shards, 24 wide, fp16: " in end.out for end in ends)
    assert paribus(tmp_path, *line(place, out), environment=task(2)).code == 0
    assert contents(out) == contents(commanded[0])


@pytest.mark.slow
def test_the_processes_of_torchrun_make_the_same_table(place, commanded, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "paribus"]
    asked = [*start, *map(str, line(place, tmp_path / "out"))]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(commanded[0])


# Lists, arms, and what is refused.


def test_an_index_is_made_if_there_is_none_and_its_list_is_kept(place, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("\n".join(f"{number:09d}" for number in [*range(5, 15), *range(40, 50)]))
    source = indexed(place / "tars", tmp_path / "index", keep, 1)
    assert [len(source.of_shard(number)) for number in range(SHARDS)] == [8, 2, 0, 10, 0, 0, 0]
    assert len(indexed(place / "tars", tmp_path / "index", None, 1)) == 20
    (place / "kept").symlink_to(tmp_path / "index")
    one = work(place, tmp_path / "out", index="kept")
    assert one.whole == [0, 1, 3]
    one.run(Share())
    keys = one.join().keys()
    assert keys[0] == "00000000/000000005" and keys[-1] == "00000003/000000049" and len(keys) == 20
    keep.write_text("000000001")
    with pytest.raises(UserError, match="was not made with the list"):
        indexed(place / "tars", tmp_path / "index", keep, 1)
    with pytest.raises(UserError, match="was not made with the list"):
        indexed(place / "tars", place / "index", keep, 1)


@pytest.mark.slow
def test_an_arm_of_a_study_is_an_encoder_like_any_other(place, finished, tmp_path):
    study = finished / "tiny.yaml"
    asked = ("embed", f"{study}:dino", place / "tars", "--out", tmp_path / "out", "--index", place / "index")
    done = paribus(tmp_path, *asked, "--cache", finished / "cache")
    assert done.code == 0, done.err
    assert open_table(tmp_path / "out").features.shape == (SHARDS * EACH, 16)
    histogram = ("embed", f"{study}:colour-histogram", *asked[2:4], tmp_path / "colours", *asked[5:])
    assert paribus(tmp_path, *histogram, "--cache", finished / "cache").code == 0
    assert open_table(tmp_path / "colours").features.shape == (SHARDS * EACH, 64)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"batch": 4}, "another --batch"),
        ({"kept": "fp32"}, "another --store"),
        ({"precision": "bf16"}, "another --precision"),
    ],
)
def test_other_settings_are_refused(place, alone, settings, why):
    with pytest.raises(UserError, match=rf"were begun with {why}: give another folder with\s--out"):
        work(place, alone, **settings)


def test_another_encoder_other_samples_and_wrong_parts_are_refused(place, commanded, tmp_path):
    out = commanded[0]
    write_encoder(tmp_path / "encoder", depth=3)
    write_shards(tmp_path / "tars", shards=SHARDS - 1, each=EACH)
    other = paribus(tmp_path, "embed", tmp_path / "encoder", *line(place, out)[2:])
    assert "were begun with another encoder" in other.refused()
    others = paribus(tmp_path, "embed", place / "encoder", tmp_path / "tars", "--out", out, "--batch", "5")
    assert "were begun with other samples" in others.refused()
    assert "counted from 0" in paribus(tmp_path, *line(place, out, "--part", "3/3")).refused()
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "manifest.json").write_text("{}")
    assert "is damaged" in paribus(tmp_path, *line(place, strange)).refused()
    with pytest.raises(UserError, match="holds no finished table"):
        open_table(strange)


def test_what_is_not_finite_is_named_and_nothing_is_written(place, tmp_path):
    one = work(place, tmp_path / "out")
    with torch.no_grad():
        one.eye.encoder.norm.weight.fill_(1e6)
    with pytest.raises(UserError, match=r"^00000000/000000000 has features beyond fp16: use --store fp32\.$"):
        one.run(Share())
    with torch.no_grad():
        one.eye.encoder.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"in 00000000/000000000 is not finite"):
        one.run(Share())
    assert not list((tmp_path / "out").rglob("*.safetensors")) and not leftovers(tmp_path)


def test_a_damaged_table_is_told(place, alone, tmp_path):
    for name in FILES[:1] + FILES[2:]:
        (tmp_path / name).write_bytes((alone / name).read_bytes())
    (tmp_path / "features.npy").write_bytes((alone / "features.npy").read_bytes()[:-8])
    with pytest.raises(UserError, match="is damaged"):
        open_table(tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 3), np.float16))
    (tmp_path / "features.npy").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="is damaged"):
        open_table(tmp_path)


def test_the_table_says_what_it_was_made_on(alone, monkeypatch, place, tmp_path):
    assert open_table(alone).about.made == (module.machine(torch.device("cpu")),)
    one = work(place, tmp_path / "out")
    one.run(Share(0, 2))
    monkeypatch.setattr(module, "machine", lambda device: "another machine")
    one.run(Share(1, 2))
    assert one.join().about.made == tuple(sorted(["another machine", *open_table(alone).about.made]))
