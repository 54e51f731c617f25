"""A folder of pictures: which files are pictures, in which order, and when it counts as changed."""

import os

import numpy as np
import pytest
from PIL import Image

from paribus.data.folder import Folder, list_pictures, listing_digest
from paribus.errors import UserError

ODD = ['a "quoted" name.png', "a\nnew line.jpg", "<script>alert(1)</script>.PNG", "ünïcode/ß.webp"]


def draw(path, colour=(200, 10, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path, path.suffix[1:].lower().replace("jpg", "jpeg"))


def names(root):
    return [one.key for one in list_pictures(root)]


def test_pictures_are_told_by_their_suffix_and_come_in_order(tmp_path):
    for name in (*ODD, "z/9.gif", "z/10.tiff", "b.bmp", ".hidden/c.png"):
        draw(tmp_path / name)
    draw(tmp_path / ".d.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.png").symlink_to(tmp_path / "b.bmp")
    found = names(tmp_path)
    assert sorted(found) == sorted([*ODD, "z/9.gif", "z/10.tiff", "b.bmp", "linked.png"])
    assert [os.fsencode(name) for name in found] == sorted(map(os.fsencode, found))


def test_a_name_need_not_be_unicode(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (one,) = list_pictures(tmp_path)
    assert one.path == b"caf\xe9.png" and one.key == "caf\\xe9.png"
    assert Folder(tmp_path, (one.path,)).image(0).shape == (6, 8, 3)


def test_a_folder_has_changed_if_a_file_has_another_name_size_or_time(tmp_path):
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
        os.utime(tmp_path / name, ns=(0, 1_000))
    before = listing_digest(list_pictures(tmp_path))
    assert listing_digest(list_pictures(tmp_path)) == before
    os.utime(tmp_path / "b.png", ns=(0, 1_001))
    assert listing_digest(list_pictures(tmp_path)) != before
    os.utime(tmp_path / "b.png", ns=(0, 1_000))
    assert listing_digest(list_pictures(tmp_path)) != before, "whoever sets the time back changes the file"
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert listing_digest(list_pictures(tmp_path)) != before


def test_a_picture_that_cannot_be_read_any_more_is_told(tmp_path):
    draw(tmp_path / "a.png")
    folder = Folder(tmp_path, (b"a.png",))
    assert np.array_equal(folder.image(0)[0, 0], (200, 10, 10)) and len(folder) == 1
    for spoil in (lambda path: path.write_bytes(b"no picture"), lambda path: path.unlink()):
        spoil(tmp_path / "a.png")
        with pytest.raises(UserError, match=r"a\.png could be decoded before and cannot be now"):
            folder.image(0)


def test_what_holds_no_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no picture in"):
        list_pictures(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        list_pictures(tmp_path / "nowhere")
