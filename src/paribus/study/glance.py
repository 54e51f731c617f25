"""The stage that has any encoder look at a folder of pictures, each once, prepared its own way."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256 as hashed
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch import Tensor

from paribus.data.folder import Folder, key_of
from paribus.data.symbols import symbol_grid
from paribus.encoders.eye import Eye, EyeAbout, Sight
from paribus.encoders.eyes import open_eye
from paribus.encoders.folders import read_files
from paribus.encoders.hub import fetched
from paribus.encoders.published import PUBLISHED
from paribus.errors import UserError
from paribus.files import sha256, whole_file
from paribus.progress import progress
from paribus.rng import numpy_rng
from paribus.study.pictures import Pictures
from paribus.study.stage import Stage
from paribus.types import Config, Runtime

SAMPLED = 1_000
"""Most pictures that layers are compared on."""
_BLOCK = 32

Block = Int[np.ndarray, " b"]
Image = UInt8[np.ndarray, "_ _ 3"]


class GlanceRecord(Config):
    """What looked, at how many pictures."""

    about: EyeAbout
    pictures: int
    layers: int


class Glance(Stage[GlanceRecord]):
    """All pictures of a folder, and the symbols, through one frozen encoder."""

    name: ClassVar[str] = "glance"
    version: int = 2
    weights: str = Field(description="a folder, or the name of a released encoder")
    digest: str = Field(description="of the folder's files")
    root: str = Field("", description="where folders of released encoders lie")
    pictures: Pictures
    precision: Literal["bf16", "fp32"] = "fp32"

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("weights", "root")

    def compute(self, folder: Path, runtime: Runtime) -> GlanceRecord:
        """Write ``features.safetensors`` and the layers.

        Features are of pictures ``[N D]``, symbols ``[S T D]``, and of the sampled pictures again, cut and
        flipped ``[M D]``.

        Raises:
            UserError: the encoder cannot be opened, or sees what is not finite.
        """
        eye = self.eye().to(runtime.torch_device)
        images, half = self.pictures.open(runtime), self.precision == "bf16"
        sampled = sample(len(images))
        rest = np.setdiff1d(np.arange(len(images)), sampled)
        see = functools.partial(_see, eye, half=half, device=runtime.torch_device)
        read = functools.partial(_read, images, eye=eye, workers=runtime.workers)
        vectors, layers = _gathered(see(read(sampled), layers=True, total=len(sampled)))
        others, _ = _gathered(see(read(rest), layers=False, total=len(rest)))
        features = np.empty((len(images), vectors.shape[1]), dtype=np.float32)
        features[sampled] = vectors
        if len(rest):
            features[rest] = others
        _check(features, self.weights, images)
        again, _ = _gathered(see(read(sampled, change=cut_and_flipped), layers=False, total=len(sampled)))
        grid = symbol_grid()
        drawn = [image for row in grid for image in row]
        parts = [drawn[at : at + _BLOCK] for at in range(0, len(drawn), _BLOCK)]
        symbols, _ = _gathered(see((eye.prepare(part) for part in parts), layers=False, total=len(drawn)))
        with whole_file(folder / "features.safetensors") as path:
            shaped = symbols.reshape(len(grid), len(grid[0]), -1)
            kept = {"pictures": features, "symbols": shaped, "sampled": sampled, "again": again}
            save_file(kept, path)
        with whole_file(folder / "layers.safetensors") as path:
            save_file({f"{place:03d}": rows for place, rows in enumerate(layers)}, path)
        return GlanceRecord(about=eye.about, pictures=len(images), layers=len(layers))

    def check(self, runtime: Runtime) -> None:
        """See that the encoder can be opened, if it is still to look."""
        if self.stored_config(runtime) is None:
            self.eye()

    def eye(self) -> Eye:
        """The encoder."""
        return open_eye(self.weights, Path(self.root))

    def open(self, runtime: Runtime) -> dict[str, np.ndarray]:
        """Pictures, symbols, which pictures were sampled, and those cut and flipped."""
        return load_file(self.folder(runtime) / "features.safetensors")

    def layers(self, runtime: Runtime) -> list[Float32[np.ndarray, "S _"]]:
        """What each layer says of the sampled pictures, from the first on."""
        found = load_file(self.folder(runtime) / "layers.safetensors")
        return [found[name] for name in sorted(found)]


def glance_of(weights: str, pictures: Pictures, precision: Literal["bf16", "fp32"], root: Path) -> Glance:
    """The stage of an encoder as it is now.

    Raises:
        UserError: there is none.
    """
    folder = folder_of(weights, root)
    files = read_files(folder)
    if not files:
        open_eye(weights, root)  # says what is wrong
    weights = weights if weights in PUBLISHED else str(folder)
    whole = hashed()
    for path in files:
        whole.update(f"{path.name} {sha256(path)}\n".encode())
    return Glance(
        weights=weights, root=str(root), digest=whole.hexdigest(), pictures=pictures, precision=precision
    )


def folder_of(name: str, root: Path) -> Path:
    """Where an encoder lies: a folder, a released one by its name, or one of the hub, which is fetched.

    Raises:
        UserError: there is none.
    """
    place = Path(name).expanduser()
    if place.exists():
        return place
    return root / name if name in PUBLISHED else fetched(name)


def sample(count: int) -> Int[np.ndarray, " S"]:
    """Which pictures layers are compared on: at most ``SAMPLED``, the same for every encoder."""
    chosen: Int[np.ndarray, " S"] = np.sort(numpy_rng(0, "glance", "sample").permutation(count)[:SAMPLED])
    return chosen


def cut_and_flipped(image: Image, row: int) -> Image:
    """A window of half of a picture's area or more, as wide for its height, half of them mirrored."""
    rng = numpy_rng(0, "glance", "view", row)
    share = float(np.sqrt(rng.uniform(0.5, 1.0)))
    height, width = (max(1, round(share * side)) for side in image.shape[:2])
    top, left = (
        int(rng.integers(side - part + 1)) for side, part in zip(image.shape, (height, width), strict=False)
    )
    window = image[top : top + height, left : left + width]
    return np.ascontiguousarray(window[:, ::-1] if rng.random() < 0.5 else window)


def _as_it_is(image: Image, row: int) -> Image:
    del row
    return image


def _read(
    images: Folder,
    rows: Int[np.ndarray, " R"],
    eye: Eye,
    workers: int,
    change: Callable[[Image, int], Image] = _as_it_is,
) -> Iterator[Tensor]:
    """Prepared pictures, block by block; some blocks are made ahead in threads."""
    blocks = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]

    def prepared(block: Block) -> Tensor:
        return eye.prepare([change(images.image(row), row) for row in block.tolist()])

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(prepared, block) for block in blocks[: 2 * workers]]
        for place in range(len(blocks)):
            yield waiting.pop(0).result()
            ahead = place + 2 * workers
            if ahead < len(blocks):
                waiting.append(pool.submit(prepared, blocks[ahead]))


def _see(
    eye: Eye, blocks: Iterator[Tensor], *, layers: bool, total: int, half: bool, device: torch.device
) -> Iterator[Sight]:
    """What is seen, on the CPU in float32."""
    bar = progress(blocks, label="features", total=-(-total // _BLOCK), unit="block")
    for pixels in bar:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            seen = eye.look(pixels.to(device), layers=layers)
        yield Sight(seen.vector.float().cpu(), tuple(layer.float().cpu() for layer in seen.layers))


def _gathered(
    sights: Iterator[Sight],
) -> tuple[Float32[np.ndarray, "N D"], list[Float32[np.ndarray, "N _"]]]:
    found = list(sights)
    if not found:
        return np.empty((0, 0), np.float32), []
    layers = [torch.cat(parts).numpy() for parts in zip(*(sight.layers for sight in found), strict=True)]
    return torch.cat([sight.vector for sight in found]).numpy(), layers


def _check(features: Float32[np.ndarray, "N D"], name: str, images: Folder) -> None:
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        first = key_of(images.paths[int(wrong[0])])
        raise UserError(
            f"{name} sees what is not finite in {len(wrong):,} of {len(features):,} pictures, the first "
            f"{first}: its weights are damaged, or the precision is too low."
        )
    if float(features.std(axis=0).max()) <= 1e-6 * float(np.abs(features).max()):
        raise UserError(f"{name} sees the same in all {len(features):,} pictures: it has collapsed.")
