"""Files are whole or not there, whatever goes wrong, and a full disk is one sentence."""

import errno
import hashlib
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paribus.encoders.text import save_tokenizer, train_tokenizer
from paribus.errors import UserError
from paribus.files import disk_errors, sha256, whole_file, whole_folder, write_json, write_text


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def file_limit():
    """No file may grow beyond 4 KiB: the kernel's own refusal, without being root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_text(path: Path) -> None:
    write_text(path, "x" * 200_000)


def fill_safetensors(path: Path) -> None:
    with whole_file(path) as temporary:
        save_file({"a": torch.zeros(50_000)}, temporary)


def fill_tokenizer(path: Path) -> None:
    save_tokenizer(train_tokenizer([f"word{i} thing{i * 7}" for i in range(3000)], 4000), path)


def fill_folder(path: Path) -> None:
    with whole_folder(path) as temporary:
        (temporary / "small.txt").write_text("small")
        save_file({"a": torch.zeros(50_000)}, temporary / "big.safetensors")


FILLERS = [fill_text, fill_safetensors, fill_tokenizer, fill_folder]


def test_text_and_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None], "a": "dégât 猫"}
    write_json(tmp_path / "deep" / "er" / "x.json", value)
    written = (tmp_path / "deep" / "er" / "x.json").read_bytes()
    assert json.loads(written) == value
    assert "猫".encode() in written, "people read these files"
    assert written.index(b'"b"') < written.index(b'"a"'), "keys stay in the order given"
    assert names(tmp_path / "deep" / "er") == ["x.json"]


def test_sha256_is_hashlibs(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 1000)
    assert sha256(tmp_path / "x") == hashlib.sha256(bytes(range(256)) * 1000).hexdigest()


def test_a_block_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old", "nothing shows before the block has ended"
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "step"
    with whole_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), whole_folder(target) as temporary:
        (temporary / "b").write_text("2")
        raise ZeroDivisionError
    assert names(target) == ["a"]
    with whole_folder(target) as temporary:
        (temporary / "c").write_text("3")
    assert names(target) == ["c"], "nothing of the old folder stays"
    assert names(tmp_path) == ["step"]


@pytest.mark.parametrize("fill", FILLERS)
def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tiny_disk, fill):
    write_text(tiny_disk / "old.txt", "old")
    with pytest.raises(UserError, match=r"No space left.*new"):
        fill(tiny_disk / "new")
    assert names(tiny_disk) == ["old.txt"]
    assert (tiny_disk / "old.txt").read_text() == "old"


@pytest.mark.parametrize("fill", FILLERS)
def test_a_file_that_may_not_grow_is_one_sentence(tmp_path, file_limit, fill):
    """safetensors and tokenizers are Rust and raise errors of their own, without errno."""
    with pytest.raises(UserError, match=r"No space left.*new"):
        fill(tmp_path / "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM])
def test_errors_of_the_disk_name_the_path(number):
    with pytest.raises(UserError, match=r"runs/x\.json") as raised, disk_errors(Path("runs/x.json")):
        raise OSError(number, os.strerror(number))
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output"), ValueError("space (os error 5)")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, disk_errors(Path("x")):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("fill", FILLERS)
def test_a_disk_mounted_read_only(tiny_disk, fill):
    """Refuses even root, which permission bits do not."""
    write_text(tiny_disk / "old.txt", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for target in (tiny_disk / "new", tiny_disk / "deep" / "new"):
        with pytest.raises(UserError, match=r"Cannot write to .*new: choose a folder"):
            fill(target)
    assert names(tiny_disk) == ["old.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="choose a folder you may write to"):
        write_text(tmp_path / "deep" / "x.txt", "x")
