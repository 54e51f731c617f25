"""The stage that has any encoder look at a folder of pictures, each once, prepared its own way."""

import functools
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int, UInt8
from pydantic import Field
from safetensors.numpy import load_file, save_file

from paribus.data.symbols import symbol_grid
from paribus.encoders.eye import Eye, EyeAbout
from paribus.encoders.eyes import open_eye
from paribus.files import whole_file
from paribus.rng import numpy_rng
from paribus.study.pictures import Pictures
from paribus.study.seeing import check_vectors, found_encoder, prepared_blocks, watched
from paribus.study.stage import Stage
from paribus.types import Config, Runtime

SAMPLED = 1_000
"""Most pictures that layers are compared on."""

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
        see = functools.partial(watched, eye, half=half, device=runtime.torch_device)
        read = functools.partial(prepared_blocks, eye=eye, workers=runtime.workers)
        vectors, layers, _ = see(read(images.image, sampled), len(sampled), layers=True)
        others = see(read(images.image, rest), len(rest)).vectors
        features = np.empty((len(images), vectors.shape[1]), dtype=np.float32)
        features[sampled] = vectors
        if len(rest):
            features[rest] = others
        check_vectors(features, self.weights, images.keys)
        changed = read(lambda row: cut_and_flipped(images.image(row), row), sampled)
        again = see(changed, len(sampled)).vectors
        grid = symbol_grid()
        drawn = [image for row in grid for image in row]
        symbols = see(read(drawn.__getitem__, np.arange(len(drawn))), len(drawn)).vectors
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
    found = found_encoder(weights, root)
    return Glance(
        weights=found.weights, root=found.root, digest=found.digest, pictures=pictures, precision=precision
    )


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
