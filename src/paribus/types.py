"""The nouns that every part of Paribus shares.

Shapes: B samples, V views, N patches, R registers, D width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Config(BaseModel):
    """A frozen, closed configuration: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stamp(Config):
    """What a file was like when it was read."""

    bytes: int
    mtime: int = Field(description="when it was last written, in nanoseconds; if equal, nothing is compared")
    sha256: str


class Features(NamedTuple):
    """What a vision encoder returns, and the only thing it returns."""

    cls: Float[Tensor, "B D"]
    registers: Float[Tensor, "B R D"] | None
    patches: Float[Tensor, "B N D"]


IMAGE = "<image>"
"""Where a picture stands in what is asked; at most once in a conversation (LLaVA-1.5)."""

NOTHING = np.zeros((1, 1, 3), dtype=np.uint8)
"""The picture of a sample that is text alone."""


class Turn(NamedTuple):
    """One exchange of a conversation."""

    ask: str
    reply: str


Turns = tuple[Turn, ...]


@dataclass(frozen=True)
class Sample:
    """One image and what is said of it: a caption, or a conversation.

    ``factors`` are the known ones: concept, subgroup, group, style, colour, text. A caption is a
    conversation too: the picture is shown, and the caption is the reply.
    """

    key: str
    image: UInt8[np.ndarray, "H W 3"]
    text: str
    factors: Mapping[str, str] = field(default_factory=dict)
    turns: Turns = ()

    def conversation(self) -> Turns:
        """What is said of the image, as turns."""
        return self.turns or (Turn(IMAGE, self.text),)


@runtime_checkable
class Source(Protocol):
    """Where samples come from: random access, and a digest of all that can come out."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    @property
    def digest(self) -> str:
        """SHA-256 over keys, pixels and texts: equal digests mean equal data."""
        ...


class TrainingSource(Source, Protocol):
    """A source that arms train on, and may be told different things about."""

    @property
    def pictures(self) -> str:
        """SHA-256 over keys and pixels alone."""
        ...


class ViewSpec(Config):
    """Which crops an objective wants of each image; ``data/views.py`` makes them.

    The random draws are keyed by (seed, epoch, sample key, view name), so two arms that ask for the same
    view get the same pixels. ``size`` is a fraction of the encoder's image size, so that one recipe serves
    every resolution. ``scale`` is the crop's share of the image area (RandomResizedCrop).
    """

    name: str
    count: int = Field(1, ge=1)
    size: float = Field(1.0, gt=0, le=1)
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(0.0, ge=0, le=1)
    jitter: float = Field(0.0, ge=0, le=1, description="probability of the colour jitter")
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    solarize: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Batch:
    """Samples on the training device: ``views[name]`` is ``[B V 3 H W]`` in bytes; texts stay words.

    An encoder makes floats of the bytes that it is given, so a batch takes a quarter of their memory, and of
    the way to the device. Of a frozen encoder ``views[name]`` may be pictures prepared as it was published,
    floats in [0, 1] ``[B 3 H W]``, or features that were kept, ``[B N D]``.

    ``seed`` is this step's stream: with ``ids`` it keys everything that is random inside the model, so that
    no chunking and no resumption can change a draw.
    """

    ids: NDArray[np.uint64]
    views: Mapping[str, UInt8[Tensor, "B ..."] | Float[Tensor, "B ..."]]
    texts: Sequence[str]
    turns: Sequence[Turns]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "Batch":
        views = {name: view[rows] for name, view in self.views.items()}
        return replace(self, ids=self.ids[rows], views=views, texts=self.texts[rows], turns=self.turns[rows])

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its views on ``device``."""
        views = {name: view.to(device, non_blocking=True) for name, view in self.views.items()}
        return replace(self, views=views)


class Share(NamedTuple):
    """Which of several processes that train as one this is, and so which rows of every batch are its own."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """Its run of rows of a batch; all runs in order are the batch, as equal in length as can be."""
        each, more = divmod(total, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))


class Clock(NamedTuple):
    """The only unit of time for schedules: samples seen, of the whole budget."""

    step: int
    seen: int
    total: int

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, in [0, 1]."""
        return min(1.0, self.seen / self.total)


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from ``start`` (fraction 0) to ``end`` (fraction 1)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * fraction))


Encoded = dict[str, Tensor]
"""Per-sample encodings: every tensor has the batch as its first dimension."""


class Losses(NamedTuple):
    """The loss to descend, and its named parts for the log (detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


class Recipe(Config):
    """How an arm is optimised. Times are fractions of the budget, rates are absolute peaks."""

    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(0.0, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    final_weight_decay: float | None = Field(None, description="cosine from weight_decay; None: constant")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0)
    clip: float | None = Field(None, gt=0, description="largest gradient norm; None: no clipping")
    clip_by: Literal["global", "tensor"] = "global"
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps its state in 8 bits, which rounds (Dettmers et al. 2022)"
    )
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="peak rates of parts that have their own, by name, e.g. {text: 5e-5}"
    )


class Budget(Config):
    """How much is seen: ``samples`` images in steps of ``batch``. The batch belongs to the control."""

    samples: int = Field(gt=0)
    batch: int = Field(gt=0)

    @property
    def steps(self) -> int:
        """Optimiser steps; the last partial batch is dropped, so that every step weighs the same."""
        return max(1, self.samples // self.batch)


class Confound(Config):
    """A declared departure of one arm from the control: where, to what, why, and who says so."""

    path: str
    value: Any
    why: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Slurm(Config):
    """What a stage's job asks SLURM for; None leaves it to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = Field(
        1_440, gt=0, description="minutes until a job is ended; run again, a training goes on from there"
    )
    nodes: int = Field(1, gt=0, description="of a stage that trains; all others are one process")
    tasks_per_node: int = Field(1, gt=0, description="processes of a stage that trains, on each node")
    gpus_per_node: int | None = Field(None, ge=0, description="None: one a process; none with device cpu")
    cpus_per_task: int | None = Field(None, gt=0, description="None: as many as there are workers")
    mem_gb: float | None = Field(None, gt=0)
    jobs: int = Field(16, gt=0, description="at a time; stages that rest on others wait for them anyway")
    setup: tuple[str, ...] = Field((), description="shell lines that come before the stage")
    sbatch: dict[str, str] = Field({}, description="any other option of sbatch, by its long name")


class Runtime(Config):
    """How and where a study runs. Nothing here changes a result but by rounding, nor enters an identity."""

    runs: Path = Path("runs")
    cache: Path = Path("cache")
    device: str = "auto"
    workers: int = Field(2, ge=1)
    chunk: int | None = Field(None, gt=0, description="samples encoded at once; None: the whole batch")
    recompute: bool = Field(False, description="recompute activations in the backward pass: memory for time")
    compile: bool = Field(
        False, description="compile the transformer blocks: a wait at first, then less time; rounds otherwise"
    )
    shard: bool = Field(False, description="spread weights over the processes (FSDP2): for what fits no one")
    checkpoint_seconds: float = Field(20.0, ge=0, description="the least between checkpoints; 0: each step")
    checkpoints: int = Field(2, ge=1, description="how many are kept of a training that goes on")
    patience: int | None = Field(
        200, ge=1, description="steps in a row with a collapse or fallen throughput that end a run; None: any"
    )
    tensorboard: bool = Field(False, description="write events for TensorBoard beside the log")
    cluster: Literal["local", "slurm"] | None = Field(
        None, description="each stage is a job of its own: a process (local), or one that SLURM runs"
    )
    slurm: Slurm = Slurm()

    @property
    def torch_device(self) -> torch.device:
        """The device that ``auto`` stands for on this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters live."""
    return next(module.parameters()).device
