"""Inputs from tar shards: an index at the speed of the disk, and views beside the peers' pipelines, per core.

    .venv/bin/python benchmarks/inputs.py

Pictures are 512-pixel JPEGs of scikit-learn's two photographs, in tars as img2dataset writes them. Ours reads
the tar, decodes, crops and collates; the peers' transforms (open_clip's ``image_transform``, DINO's
``DataAugmentationDINO`` out of torchvision on PIL) get the bytes in memory and are collated by a stack. Both
run in one thread, in turns, in processor's seconds; a ratio is that of the medians. Ours are bytes, which the
training device makes floats of; the second ratio has that done here too, before a CPU's encoder would do it.
The index of 10^8 samples that is opened has a table that is a hole in the disk.
"""

import argparse
import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_image

from paribus.data.loader import Loader
from paribus.data.shards import ROW, Shards, ShardsConfig, build_index
from paribus.encoders.vision import in_unit
from paribus.objectives.dino import Dino
from paribus.objectives.joint import OWN
from paribus.peers import mend_torchvision
from paribus.types import ViewSpec

mend_torchvision()

from torchvision import transforms as T  # noqa: E402

SIDE, BATCH = 224, 64


def photographs(count: int) -> list[bytes]:
    """JPEGs of 512 pixels, no two alike, about 50 kB each."""
    rng, found = np.random.default_rng(0), []
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    for number in range(count):
        photo = photos[number % 2]
        top, left = rng.integers(0, photo.shape[0] - 300), rng.integers(0, photo.shape[1] - 300)
        crop = cv2.resize(
            photo[top : top + 300, left : left + 300], (512, 512), interpolation=cv2.INTER_CUBIC
        )
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def write_tars(root: Path, blobs: list[bytes], samples: int, each: int) -> int:
    """Shards of ``samples`` samples, the pictures in turns; returns their bytes."""
    root.mkdir()
    for start in range(0, samples, each):
        with tarfile.open(root / f"{start // each:08d}.tar", "w") as tar:
            for number in range(start, min(start + each, samples)):
                told = json.dumps({"uid": hashlib.md5(str(number).encode()).hexdigest()}).encode()
                for kind, content in (
                    ("jpg", blobs[number % len(blobs)]), ("txt", f"picture {number}".encode()), ("json", told)
                ):  # fmt: skip
                    info = tarfile.TarInfo(f"{number:09d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return sum(path.stat().st_size for path in root.iterdir())


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def worked(run: Callable[[int], object], step: int) -> float:
    """The processor's seconds, in which other work on it does not count."""
    start = time.process_time()
    run(step)
    return time.process_time() - start


def turns(ways: Sequence[Callable[[int], object]], rounds: int) -> list[float]:
    """Medians of each, in turns after a warm-up."""
    for run in ways:
        run(0)
    taken = [[worked(run, step) for run in ways] for step in range(1, rounds + 1)]
    return [statistics.median(each) for each in zip(*taken, strict=True)]


def line(name: str, ours: float, peer: float, what: str, images: int) -> None:
    print(
        f"{name} ratio {peer / ours:.2f} (ours {images / ours:,.0f} images/s, {what} {images / peer:,.0f} "
        "images/s, a core)",
        flush=True,
    )


class Blur:
    """DINO's GaussianBlur."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) > self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * float(torch.rand(()))))


class Solarize:
    """DINO's Solarization."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if torch.rand(()) < 0.2 else image


def dino_crops() -> Callable[[Image.Image], list[torch.Tensor]]:
    """``DataAugmentationDINO`` of facebookresearch/dino, main_dino.py: two global and eight local crops."""
    colour = [
        T.RandomHorizontalFlip(0.5),
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        T.RandomGrayscale(0.2),
    ]
    norm = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]

    def crop(side: int, scale: tuple[float, float]) -> T.RandomResizedCrop:
        return T.RandomResizedCrop(side, scale, interpolation=T.InterpolationMode.BICUBIC)

    one = T.Compose([crop(224, (0.4, 1.0)), *colour, Blur(1.0), *norm])
    two = T.Compose([crop(224, (0.4, 1.0)), *colour, Blur(0.1), Solarize(), *norm])
    local = T.Compose([crop(96, (0.05, 0.4)), *colour, Blur(0.5), *norm])
    return lambda image: [one(image), two(image), *(local(image) for _ in range(8))]


def views(root: Path, index: Path, blobs: list[bytes], rounds: int) -> None:
    """CLIP's one view and DINO's ten, beside the peers'."""
    from open_clip import image_transform

    source = Shards(index, root)
    clip_peer = image_transform(SIDE, is_train=True)

    def decoded(step: int) -> list[Image.Image]:
        some = (blobs[(step * BATCH + i) % len(blobs)] for i in range(BATCH))
        return [Image.open(io.BytesIO(blob)).convert("RGB") for blob in some]

    def loader(specs: tuple[ViewSpec, ...]) -> Loader:
        return Loader(source, specs, image_size=SIDE, batch=BATCH, seed=0, workers=1)

    def beside(name: str, specs: tuple[ViewSpec, ...], peer: Callable[[int], object], what: str) -> None:
        made = loader(specs).make
        floats = lambda step: [in_unit(view) for view in made(step).views.values()]  # noqa: E731
        ours, with_floats, theirs = turns((made, floats, peer), rounds)
        line(name, ours, theirs, what, BATCH)
        line(f"{name}-floats", with_floats, theirs, what, BATCH)

    def clips(step: int) -> torch.Tensor:
        return torch.stack([clip_peer(image) for image in decoded(step)])

    beside("inputs-clip", (OWN,), clips, "open_clip's transform on PIL")
    crops = dino_crops()

    def dinos(step: int) -> list[torch.Tensor]:
        return [torch.stack(same) for same in zip(*map(crops, decoded(step)), strict=True)]

    beside("inputs-dino-10-crops", Dino.Config().views(), dinos, "torchvision on PIL")


def index(root: Path, out: Path, size: int, samples: int) -> None:
    """Indexing, beside reading the same bytes."""
    paths = [str(path) for path in sorted(root.iterdir())]

    def read() -> None:
        subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)

    read()
    peer = seconds(read)
    for check in (False, True):
        config = ShardsConfig(root=str(root), check=check)
        ours = seconds(lambda c=config, to=out / str(check): build_index(c, to, 1))
        what = "decoding every picture" if check else "pictures not decoded"
        print(
            f"index ratio {peer / ours:.3f} (ours {samples / ours:,.0f} samples/s, {size / ours / 1e6:,.0f} "
            f"MB/s, {what}; cat out of the page cache {size / peer / 1e6:,.0f} MB/s; one thread)",
            flush=True,
        )


def opening(place: Path, samples: int, shards: int) -> None:
    """An index of ten million times ten samples: seconds and memory, in a process of its own."""
    root, folder = place / "many", place / "large"
    root.mkdir(), folder.mkdir()
    told = []
    for number in range(shards):
        path = root / f"{number:08d}.tar"
        path.touch()
        told.append({"name": path.name, "bytes": 0, "mtime": int(path.stat().st_mtime)})
    with (folder / "table.npy").open("wb") as table:
        header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (samples,)}
        np.lib.format.write_array_header_1_0(table, header)
        table.truncate(table.tell() + samples * ROW.itemsize)
    meta = {
        "reading": {},
        "digest": "0" * 64,
        "samples": samples,
        "left_out": {},
        "mended": {},
        "shards": told,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    done = subprocess.run(
        [sys.executable, __file__, "--open", str(folder), str(root)],
        check=True,
        capture_output=True,
        text=True,
    )
    took, memory = map(float, done.stdout.split())
    print(f"index-open {samples:,} samples in {shards:,} shards: {took:.2f} s, {memory:.0f} MB")


def opened(folder: Path, root: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = seconds(lambda: len(Shards(folder, root)))
    print(took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000, help="to index")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", nargs=2, type=Path, metavar=("INDEX", "ROOT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        opened(*given.open)
        return
    torch.set_num_threads(1)
    load, blobs = os.getloadavg()[0], photographs(512)
    print(
        f"{sum(map(len, blobs)) / len(blobs) / 1e3:.0f} kB a picture, one thread, load {load:.1f}", flush=True
    )
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        size = write_tars(place / "shards", blobs, given.samples, 1000)
        index(place / "shards", place / "index", size, given.samples)
        views(place / "shards", place / "index" / "False", blobs, given.rounds)
        opening(place, 10**8, 10_000)


if __name__ == "__main__":
    main()
