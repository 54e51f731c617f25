"""The stages that make encoders: pre-training, and the untrained baseline."""

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Optional, cast

import numpy as np
import torch
from pydantic import Field

from paribus.data.loader import Loader
from paribus.encoders.folders import read_files
from paribus.encoders.published import PUBLISHED, load
from paribus.encoders.text import Material, Tower
from paribus.encoders.vision import (
    EncoderConfig,
    VisionEncoder,
    load_weights,
    save_weights,
    weights_digest,
)
from paribus.errors import UserError
from paribus.files import write_json
from paribus.objectives import AnyObjective, build_objective
from paribus.objectives.base import Joint, Objective
from paribus.study.corpora import AnyCorpus
from paribus.study.sources import differing, stamped
from paribus.study.stage import Stage
from paribus.study.texts import AnyText
from paribus.study.training import Training
from paribus.train.cost import peak_memory_mb, training_flops
from paribus.train.distributed import share
from paribus.train.optim import trainable
from paribus.types import Batch, Config, Runtime, Share, Source, Stamp, TrainingSource, ViewSpec

logger = logging.getLogger(__name__)


COUNTED = 64
"""Samples of the first batch that FLOPs are counted on: texts are padded to the longest of a batch."""


class PretrainRecord(Config):
    """What the control is audited by, and what the arm cost."""

    data: str = Field(description="digest of pictures and captions")
    pictures: str = Field(description="digest of the pictures alone")
    order: str = Field(description="digest of the sample order really consumed")
    start: str = Field(description="digest of the encoder's weights at step 0")
    end: str = Field(description="digest of the shipped encoder's weights")
    samples: int
    steps: int
    flops_per_sample: float
    image_forwards: float = Field(description="per sample")
    words: str = Field("", description="digest of the pretrained weights that read its captions")
    trainable_parameters: int
    trainable: list[str] = Field(description="tensors that moved")
    frozen: list[str] = Field(description="tensors of towers that did not")
    encoder_parameters: int
    seconds: float
    peak_memory_mb: float
    processes: int = Field(1, description="that trained together; with chunk, what rounding depends on")
    chunk: int | None = None


class Pretrain(Training[PretrainRecord]):
    """One arm's encoder, trained."""

    name: ClassVar[str] = "pretrain"
    kind: Literal["pretrain"] = "pretrain"
    version: int = 4
    corpus: AnyCorpus
    captions: str
    text: AnyText | None = Field(None, description="what the text tower is built from")
    encoder: EncoderConfig
    objective: AnyObjective
    after: Optional["Pretrain"] = Field(None, description="the run whose encoder this one begins with")
    views: tuple[ViewSpec, ...]

    def compute(self, folder: Path, runtime: Runtime) -> PretrainRecord:
        """Train, ship the encoder, write down what was really done."""
        objective, loader = self.prepare(runtime)
        source = cast(TrainingSource, loader.source)  # prepare took it from the corpus
        start = weights_digest(objective.encoder())
        moving, frozen = moved(objective)
        whole = self._loader(source, Share(), runtime)  # whatever the number of processes
        flops = training_flops(objective, whole.make(0)[:COUNTED].to(runtime.torch_device))
        result = self.fit(objective, loader, runtime)
        shipped = objective.encoder()
        save_weights(shipped, folder / "encoder.safetensors")
        joint = objective.joint_space()
        if joint is not None and self.text is not None:
            save_weights(joint, folder / "joint.safetensors")
            self.text.leave(folder, runtime)
        write_json(folder / "history.json", result.history)
        return PretrainRecord(
            data=source.digest,
            pictures=source.pictures,
            order=result.order,
            start=start,
            end=weights_digest(shipped),
            samples=self.budget.steps * self.budget.batch,
            steps=self.budget.steps,
            flops_per_sample=flops,
            image_forwards=objective.image_forwards(),
            words="" if self.text is None else self.text.read_with(runtime),
            trainable_parameters=sum(p.numel() for p in trainable(objective).values()),
            trainable=moving,
            frozen=frozen,
            encoder_parameters=sum(p.numel() for p in shipped.parameters()),
            seconds=round(result.seconds, 1),
            peak_memory_mb=round(peak_memory_mb(), 1),
            processes=share().size,
            chunk=runtime.chunk,
        )

    def label(self) -> str:
        """Names the objective, so that a person can tell folders apart."""
        return f"{self.name}-{self.objective.kind}"

    def title(self) -> str:
        """Names the objective."""
        return f"{self.name} {self.objective.kind} (seed {self.seed})"

    def prepare(self, runtime: Runtime) -> tuple[Objective, Loader]:
        """The objective on its encoder: a fresh one, or as another run left it."""
        source = self.corpus.open(runtime, captions=self.captions)
        if len(source) < 1:
            raise UserError("The corpus has no training sample: build it again with more of its parts.")
        encoder = VisionEncoder(self.encoder, self.seed) if self.after is None else self.after.open(runtime)
        material = Material() if self.text is None else self.text.material(runtime)
        objective = build_objective(self.objective, encoder, material, self.seed).to(runtime.torch_device)
        return objective, self._loader(source, share(), runtime)

    def _loader(self, source: Source, share: Share, runtime: Runtime) -> Loader:
        return Loader(
            source,
            self.views,
            image_size=self.encoder.image_size,
            batch=self.budget.batch,
            seed=self.seed,
            workers=runtime.workers,
            share=share,
        )

    def blank(self) -> Objective:
        """The objective without weights, to be counted and looked at.

        Raises:
            UserError: its text tower cannot be built as its config says.
        """
        with torch.device("meta"):
            return build_objective(self.objective, VisionEncoder(self.encoder), Material(), 0)

    def flops(self) -> float:
        """Counted on meta tensors: no memory, no data, no weights; captions of an assumed length."""
        return self._sketch().flops * self.budget.steps * self.budget.batch

    def disk(self) -> float:
        """What ships: the encoder, and tower and projections where there are any."""
        return self._sketch().bytes

    def image_forwards(self) -> float:
        """Full-size image forwards for one sample."""
        return self._sketch().forwards

    def _sketch(self) -> "Sketch":
        """What one sample costs, counted once a process."""
        key = json.dumps(
            [part.model_dump(mode="json") for part in (self.encoder, self.objective, *self.views)]
        )
        if key not in _sketched:
            _sketched[key] = _sketch(self)
        return _sketched[key]

    def open(self, runtime: Runtime) -> VisionEncoder:
        """The trained encoder."""
        encoder = VisionEncoder(self.encoder, self.seed)
        load_weights(encoder, self.folder(runtime) / "encoder.safetensors")
        return encoder

    def joint(self, texts: Sequence[str], folder: Path, runtime: Runtime) -> Joint:
        """The trained joint space, ready to read the texts.

        Args:
            texts: what it will be asked to read; a language model is asked for their vectors now.
            folder: where those are kept.
            runtime: where the run is.

        Raises:
            UserError: the arm read no captions.
        """
        material = Material() if self.text is None else self.text.reading(texts, folder, runtime)
        objective = build_objective(self.objective, self.open(runtime), material, self.seed)
        space = objective.joint_space()
        if space is None:
            raise UserError(f"{self.folder(runtime)} read no captions: there is nothing to ask it in words.")
        load_weights(space, self.folder(runtime) / "joint.safetensors")
        return space.to(runtime.torch_device).eval()


class Sketch(NamedTuple):
    """What a pre-training costs, as counted on meta tensors."""

    flops: float
    forwards: float
    bytes: float


_sketched: dict[str, Sketch] = {}


def _sketch(stage: Pretrain) -> Sketch:
    objective = stage.blank()
    with torch.device("meta"):
        views = {
            view.name: torch.empty(2, view.count, 3, *[round(view.size * stage.encoder.image_size)] * 2)
            for view in stage.views
        }
        batch = Batch(np.arange(2, dtype=np.uint64), views, [ASSUMED_CAPTION] * 2, [()] * 2)
        flops = training_flops(objective, batch)
    shipped = (objective.encoder(), objective.joint_space())
    weights = sum(p.numel() for part in shipped if part is not None for p in part.parameters())
    return Sketch(flops, objective.image_forwards(), 4.0 * weights)


ASSUMED_CAPTION = "a picture of a thing, and what is said of it"
"""As long as captions are about: what costs are predicted with before any was read."""


def moved(objective: Objective) -> tuple[list[str], list[str]]:
    """Names of the tensors that train and of those that were frozen; says so if a tower is partly frozen.

    Copies that never train by design, such as an EMA teacher, are left out of the second.
    """
    moving = list(trainable(objective))
    towers = [(name, tower) for name, tower in objective.named_modules() if isinstance(tower, Tower)]
    held = {
        f"{name}.{part}": not parameter.requires_grad
        for name, tower in towers
        for part, parameter in tower.named_parameters()
    }
    if any(held.values()):
        total, frozen = len(held), sum(held.values())
        logger.info("the text tower has %d of %d tensors frozen: %s", frozen, total, grouped(held))
    return moving, [name for name, frozen in held.items() if frozen]


def grouped(held: dict[str, bool]) -> str:
    """How many tensors are frozen of each module, down to the numbered layer: ``layer.0 12 of 16, ...``."""
    groups: dict[str, list[bool]] = {}
    for name, frozen in held.items():
        words = name.split(".")
        place = next((index for index, word in enumerate(words) if word.isdigit()), len(words) - 3)
        groups.setdefault(".".join(words[max(0, place - 1) : place + 1]), []).append(frozen)
    return ", ".join(f"{name} {sum(group)} of {len(group)}" for name, group in groups.items())


class UntrainedRecord(Config):
    """The weights every arm began with."""

    start: str


class Untrained(Stage[UntrainedRecord]):
    """The encoder at step 0: what the architecture knows before any supervision."""

    name: ClassVar[str] = "untrained"
    kind: Literal["untrained"] = "untrained"
    version: int = 1
    encoder: EncoderConfig
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> UntrainedRecord:
        """Save the initial weights."""
        del runtime
        encoder = VisionEncoder(self.encoder, self.seed)
        save_weights(encoder, folder / "encoder.safetensors")
        return UntrainedRecord(start=weights_digest(encoder))

    def open(self, runtime: Runtime) -> VisionEncoder:
        """The untrained encoder."""
        encoder = VisionEncoder(self.encoder, self.seed)
        load_weights(encoder, self.folder(runtime) / "encoder.safetensors")
        return encoder


class PublishedRecord(Config):
    """Which weights were read."""

    end: str = Field(description="digest of the weights")
    files: dict[str, Stamp]


class PublishedEncoder(Stage[PublishedRecord]):
    """An encoder that was trained elsewhere; its weights stay where they are.

    Its folder is its name. What was found there is no part of its address, so that what was taught with one
    whose config is known (``published_encoder``) can be looked at where the folder is not.
    """

    name: ClassVar[str] = "encoder"
    kind: Literal["published"] = "published"
    version: int = 3
    weights: str
    encoder: EncoderConfig

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("encoder",)

    def check(self, runtime: Runtime) -> None:
        """See that the weights are there."""
        self.open(runtime)

    def compute(self, folder: Path, runtime: Runtime) -> PublishedRecord:
        """Take the weights' digest."""
        del folder
        files = stamped(_files_of(self.weights))
        return PublishedRecord(end=weights_digest(self.open(runtime)), files=files)

    def outdated(self, runtime: Runtime) -> str:
        """Of its files, if its folder is at hand."""
        record = self.cached(runtime)
        return "" if record is None else differing(record.files, lambda: _files_of(self.weights))

    def open(self, runtime: Runtime) -> VisionEncoder:
        """The encoder.

        Raises:
            UserError: its folder is not there, or its weights are not those that lessons began with.
        """
        encoder, record = _published(Path(self.weights)), self.cached(runtime)
        if record is not None and record.end != weights_digest(encoder):
            raise UserError(
                f"{self.weights} has changed since models were taught with it: put its files back, or give "
                "the new ones a folder of their own."
            )
        return encoder


def _files_of(weights: str) -> list[Path]:
    return read_files(Path(weights).expanduser())


def published_encoder(weights: str) -> PublishedEncoder:
    """The stage of a folder's encoder, its config read now.

    One of the paper's released encoders can be planned with before its folder is there, and what was taught
    with it looked at when it is there no more.

    Raises:
        UserError: the folder holds no encoder.
    """
    folder = Path(weights).expanduser()
    if folder.name in PUBLISHED and not folder.exists():
        entry = PUBLISHED[folder.name]
        config = EncoderConfig(patch=entry.patch, width=768, depth=12, heads=12, image_size=224)
        return PublishedEncoder(weights=weights, encoder=config)
    changed = max((path.stat().st_mtime_ns for path in _files_of(weights)), default=0)
    return PublishedEncoder(weights=weights, encoder=_config_of(folder, changed))


@functools.lru_cache
def _config_of(folder: Path, changed: int) -> EncoderConfig:
    """The config of a folder's encoder, once a process as long as it does not change."""
    del changed
    return _published(folder).config


def _published(folder: Path) -> VisionEncoder:
    """The encoder in a folder; one of the study's released ones is known by its folder's name."""
    folder = folder.expanduser()
    if folder.name in PUBLISHED:
        return load(folder.name, root=folder.parent).encoder
    return load(folder).encoder


AnyEncoder = Annotated[Pretrain | Untrained | PublishedEncoder, Field(discriminator="kind")]
