"""How any encoder looks at pictures, block by block, and which stages stand for an encoder."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256 as hashed
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from paribus.encoders.eye import Eye, EyeAbout, Pictures, Sight
from paribus.encoders.eyes import open_eye
from paribus.encoders.folders import read_files
from paribus.encoders.hub import fetched
from paribus.encoders.published import PUBLISHED
from paribus.errors import UserError
from paribus.files import sha256
from paribus.probes.dense import Window
from paribus.probes.histogram import WIDTH, colour_histogram
from paribus.progress import progress
from paribus.study.evaluate import Histogram
from paribus.study.stage import Stage
from paribus.study.stages import Pretrain, PublishedEncoder, Untrained
from paribus.types import Config, Runtime

PIXELS, MOST = 32 * 224**2, 256
"""Pixels of prepared pictures that are looked at together, and pictures at most."""

Image = UInt8[np.ndarray, "_ _ 3"]
Rows = Int[np.ndarray, " R"]


class Found(Stage[Config]):
    """An encoder in a folder, or a released one by its name, as its files are now."""

    name: ClassVar[str] = "found"
    kind: Literal["found"] = "found"
    version: int = 1
    weights: str = Field(description="a folder, or the name of a released encoder")
    digest: str = Field(description="of the folder's files")
    root: str = Field("", description="where folders of released encoders lie")

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("weights", "root")

    def compute(self, folder: Path, runtime: Runtime) -> Config:
        """Nothing to prepare."""
        del folder, runtime
        return Config()


AnyLooker = Annotated[
    Pretrain | Untrained | PublishedEncoder | Histogram | Found, Field(discriminator="kind")
]
"""A stage that stands for an encoder."""


def found_encoder(weights: str, root: Path) -> Found:
    """The stage of an encoder as it is now.

    Raises:
        UserError: there is none.
    """
    folder = folder_of(weights, root)
    files = read_files(folder)
    if not files:
        open_eye(weights, root)  # says what is wrong
    weights = weights if weights in PUBLISHED else str(folder)
    return Found(weights=weights, root=str(root), digest=files_digest(files))


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the names and digests of files."""
    whole = hashed()
    for path in files:
        whole.update(f"{path.name} {sha256(path)}\n".encode())
    return whole.hexdigest()


def folder_of(name: str, root: Path) -> Path:
    """Where an encoder lies: a folder, a released one by its name, or one of the hub, which is fetched.

    Raises:
        UserError: there is none.
    """
    place = Path(name).expanduser()
    if place.exists():
        return place
    return root / name if name in PUBLISHED else fetched(name)


def weights_of(encoder: Found | PublishedEncoder) -> Path:
    """Where an encoder from elsewhere lies.

    Raises:
        UserError: there is none.
    """
    if isinstance(encoder, Found):
        return folder_of(encoder.weights, Path(encoder.root))
    return Path(encoder.weights).expanduser()


class ColourEye:
    """The colour histogram as an encoder: it sees which colours there are and nothing else."""

    def __init__(self) -> None:
        self.about = EyeAbout(
            where="", format="", model="colour histogram", parameters=0, width=WIDTH, size=0,
            prepared="as they are", read="shares of 64 colours",
        )  # fmt: skip

    def prepare(self, pictures: Pictures) -> Float[Tensor, "B 3 S S"]:
        """Their histograms, laid out as the 8 by 8 pixels of a picture."""
        rows = torch.from_numpy(colour_histogram(pictures))
        return rows.view(-1, 1, 8, 8).expand(-1, 3, -1, -1)

    def look(self, pixels: Float[Tensor, "B 3 S S"], *, layers: bool, patches: bool = False) -> Sight:
        """They have no layers and no patches."""
        del patches
        vector = pixels[:, 0].flatten(1)
        return Sight(vector, (vector,) if layers else ())

    def to(self, device: torch.device) -> "ColourEye":
        """It has no weights."""
        del device
        return self


def eye_of(encoder: AnyLooker, runtime: Runtime) -> Eye:
    """The encoder that a stage stands for.

    Raises:
        UserError: it cannot be opened.
    """
    if isinstance(encoder, Histogram):
        return ColourEye()
    if isinstance(encoder, Found):
        return open_eye(encoder.weights, Path(encoder.root))
    if isinstance(encoder, PublishedEncoder):
        encoder.open(runtime)  # refuses weights that have changed
        place = Path(encoder.weights).expanduser()
        return open_eye(place.name, place.parent) if place.name in PUBLISHED else open_eye(encoder.weights)
    return open_eye(str(encoder.folder(runtime)))


def anywhere(about: EyeAbout) -> EyeAbout:
    """What an encoder is, without where it lies: a record must not depend on that."""
    return about.model_copy(update={"where": ""})


def window_of(eye: Eye) -> Window:
    """Which part of a square picture an encoder's preparation leaves, seen on a ramp of grey."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    up, down = eye.prepare([np.ascontiguousarray(each) for each in (ramp, 255 - ramp)])[:, 0].mean(dim=1)
    row = (up + 1 - down).double().numpy() / 2  # whichever way halves are rounded
    places = (np.arange(len(row)) + 0.5) / len(row)
    middle = slice(len(row) // 8, len(row) - len(row) // 8)  # resizing bends the ends
    slope, start = np.polyfit(places[middle], (255 * row[middle] + 0.5) / 256, 1)
    return Window(round(float(start), 4), round(float(start + slope), 4))


class Seen(NamedTuple):
    """What an encoder sees in some pictures, in order."""

    vectors: Float32[np.ndarray, "N D"]
    layers: list[Float32[np.ndarray, "N _"]]
    patches: Float32[np.ndarray, "N P E"] | None


def check_vectors(vectors: Float32[np.ndarray, "N D"], name: str, keys: Sequence[str]) -> None:
    """See that what an encoder sees is numbers, and differs.

    Raises:
        UserError: it is not, or does not.
    """
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{name} sees what is not finite in {len(wrong):,} of {len(vectors):,} pictures, the first "
            f"{keys[int(wrong[0])]}: its weights are damaged, or the precision is too low."
        )
    if len(vectors) > 1 and float(vectors.std(axis=0).max()) <= 1e-6 * float(np.abs(vectors).max()):
        raise UserError(f"{name} sees the same in all {len(vectors):,} pictures: it has collapsed.")


def prepared_blocks(
    image: Callable[[int], Image], rows: Rows, eye: Eye, workers: int
) -> Iterator[Float[Tensor, "B 3 S S"]]:
    """Prepared pictures, block by block; some blocks are made ahead in threads."""
    size = max(1, min(MOST, PIXELS // max(1, eye.about.size) ** 2))
    blocks = [rows[at : at + size] for at in range(0, len(rows), size)]

    def prepared(block: Rows) -> Float[Tensor, "B 3 S S"]:
        return eye.prepare([image(row) for row in block.tolist()])

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(prepared, block) for block in blocks[: 2 * workers]]
        for place in range(len(blocks)):
            yield waiting.pop(0).result()
            ahead = place + 2 * workers
            if ahead < len(blocks):
                waiting.append(pool.submit(prepared, blocks[ahead]))


def sights(
    eye: Eye,
    blocks: Iterator[Float[Tensor, "B 3 S S"]],
    bar: "tqdm[Any]",
    *,
    half: bool,
    device: torch.device,
    layers: bool = False,
    patches: bool = False,
) -> Iterator[Sight]:
    """What is seen in each block, on the CPU in float32; the bar counts pictures."""
    for pixels in blocks:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            seen = eye.look(pixels.to(device), layers=layers, patches=patches)
        yield Sight(
            seen.vector.float().cpu(),
            tuple(layer.float().cpu() for layer in seen.layers),
            None if seen.patches is None else seen.patches.float().cpu(),
        )
        bar.update(len(pixels))


def gathered(found: Iterator[Sight]) -> Seen:
    """All blocks as one."""
    every = list(found)
    if not every:
        return Seen(np.empty((0, 0), np.float32), [], None)
    layers = [torch.cat(parts).numpy() for parts in zip(*(sight.layers for sight in every), strict=True)]
    places = [sight.patches for sight in every if sight.patches is not None]
    patches = torch.cat(places).numpy() if places else None
    return Seen(torch.cat([sight.vector for sight in every]).numpy(), layers, patches)


def watched(
    eye: Eye,
    blocks: Iterator[Float[Tensor, "B 3 S S"]],
    total: int,
    *,
    half: bool,
    device: torch.device,
    layers: bool = False,
    patches: bool = False,
    label: str = "features",
) -> Seen:
    """``sights`` of all blocks, ``total`` pictures, with a progress bar."""
    bar: tqdm[Any] = progress(label=label, total=total, unit="picture")
    with bar:
        return gathered(sights(eye, blocks, bar, half=half, device=device, layers=layers, patches=patches))


def look_at_all(
    eye: Eye,
    image: Callable[[int], Image],
    count: int,
    runtime: Runtime,
    *,
    half: bool,
    patches: bool = False,
    label: str = "features",
) -> Seen:
    """Pictures ``0 .. count - 1`` through an encoder."""
    blocks = prepared_blocks(image, np.arange(count), eye, runtime.workers)
    return watched(eye, blocks, count, half=half, device=runtime.torch_device, patches=patches, label=label)
