"""The stages of a study up to its encoders: corpus, words, pre-training, and the untrained baseline."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer

from paribus.data import art as art_module
from paribus.data import glyphs
from paribus.data.loader import Loader
from paribus.encoders.text import load_tokenizer, save_tokenizer, train_tokenizer
from paribus.encoders.vision import (
    EncoderConfig,
    VisionEncoder,
    load_weights,
    save_weights,
    weights_digest,
)
from paribus.errors import UserError
from paribus.files import sha256, write_json
from paribus.objectives import AnyObjective, build_objective
from paribus.objectives.base import Objective
from paribus.results import Attribution
from paribus.study.stage import CHECKPOINTS, Stage, Training
from paribus.train.cost import peak_memory_mb, training_flops
from paribus.train.loop import fit
from paribus.train.optim import trainable
from paribus.types import Batch, Budget, Config, Recipe, Runtime, ViewSpec

Split = Literal["train", "redraw", "test"]


def art_folder(runtime: Runtime) -> Path:
    """Where third-party art lies."""
    return runtime.cache / "art"


def fetched_art(runtime: Runtime) -> Path:
    """The art folder, once every package in it is there and is what was pinned.

    Raises:
        UserError: a package differs from its pin, or cannot be fetched.
    """
    return _fetched(art_folder(runtime))


@functools.cache
def _fetched(folder: Path) -> Path:
    """Once a process: to read all the art takes half a second, and several stages draw from it."""
    art_module.fetch(folder)
    return folder


PINS_DIGEST = sha256(art_module.PINS)[:16]


class CorpusRecord(Config):
    """What was built."""

    digest: str
    counts: dict[str, int]
    attributions: list[Attribution]


class Corpus(Stage[CorpusRecord]):
    """The pictures, drawn once at the study's resolution."""

    name: ClassVar[str] = "corpus"
    version: int = 1
    source: glyphs.GlyphsConfig
    art: str = Field(PINS_DIGEST, description="digest of the pins: other art is another corpus")

    def compute(self, folder: Path, runtime: Runtime) -> CorpusRecord:
        """Fetch the art if need be, verify it, draw everything."""
        built = folder / "glyphs"
        glyphs.build(self.source, fetched_art(runtime), built, runtime.workers)
        meta = glyphs.verify(built)
        columns = self.open(runtime, ("train", "redraw", "test")).columns
        parts, counts = np.unique(columns["split"], return_counts=True)
        return CorpusRecord(
            digest=meta.digest,
            counts={str(part): int(count) for part, count in zip(parts, counts, strict=True)},
            attributions=meta.attributions,
        )

    def open(
        self, runtime: Runtime, splits: Sequence[Split] = ("train",), captions: str = "thing"
    ) -> glyphs.Glyphs:
        """The corpus as a source."""
        return glyphs.Glyphs(self.folder(runtime) / "glyphs", splits=tuple(splits), captions=captions)


class TokenizerRecord(Config):
    """What was trained."""

    vocabulary: int


class Words(Stage[TokenizerRecord]):
    """A BPE tokenizer trained on the training captions."""

    name: ClassVar[str] = "words"
    version: int = 1
    corpus: Corpus
    captions: str
    vocabulary: int

    def compute(self, folder: Path, runtime: Runtime) -> TokenizerRecord:
        """Train and save it."""
        source = self.corpus.open(runtime, captions=self.captions)
        tokenizer = train_tokenizer((source[index].text for index in range(len(source))), self.vocabulary)
        save_tokenizer(tokenizer, folder / "tokenizer.json")
        return TokenizerRecord(vocabulary=tokenizer.get_vocab_size())

    def open(self, runtime: Runtime) -> Tokenizer:
        """The tokenizer."""
        return load_tokenizer(self.folder(runtime) / "tokenizer.json")


class PretrainRecord(Config):
    """What the control is audited by, and what the arm cost."""

    data: str = Field(description="digest of the data")
    order: str = Field(description="digest of the sample order really consumed")
    start: str = Field(description="digest of the encoder's weights at step 0")
    end: str = Field(description="digest of the shipped encoder's weights")
    samples: int
    steps: int
    flops_per_sample: float
    image_forwards: float = Field(description="per sample")
    trainable_parameters: int
    encoder_parameters: int
    seconds: float
    peak_memory_mb: float


class Pretrain(Training[PretrainRecord]):
    """One arm's encoder, trained."""

    name: ClassVar[str] = "pretrain"
    kind: Literal["pretrain"] = "pretrain"
    version: int = 1
    corpus: Corpus
    captions: str
    words: Words | None
    encoder: EncoderConfig
    objective: AnyObjective
    recipe: Recipe
    views: tuple[ViewSpec, ...]
    budget: Budget
    precision: Literal["bf16", "fp32"]
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> PretrainRecord:
        """Train, ship the encoder, write down what was really done."""
        source = self.corpus.open(runtime, captions=self.captions)
        if len(source) < 1:
            raise UserError("The corpus has no training sample: build it again with more of its parts.")
        loader = self._loader(source, runtime)
        encoder = VisionEncoder(self.encoder, self.seed)
        start = weights_digest(encoder)
        objective = self._objective(encoder, runtime).to(runtime.torch_device)
        flops = training_flops(objective, loader.make(0)[:4].to(runtime.torch_device))
        result = fit(
            objective,
            loader,
            recipe=self.recipe,
            budget=self.budget,
            precision=self.precision,
            folder=folder / CHECKPOINTS,
            runtime=runtime,
            label=f"pretrain {self.objective.kind} (seed {self.seed})",
        )
        shipped = objective.encoder()
        save_weights(shipped, folder / "encoder.safetensors")
        write_json(folder / "history.json", result.history)
        return PretrainRecord(
            data=source.digest,
            order=result.order,
            start=start,
            end=weights_digest(shipped),
            samples=self.budget.steps * self.budget.batch,
            steps=self.budget.steps,
            flops_per_sample=flops,
            image_forwards=objective.image_forwards(),
            trainable_parameters=sum(p.numel() for p in trainable(objective).values()),
            encoder_parameters=sum(p.numel() for p in shipped.parameters()),
            seconds=round(result.seconds, 1),
            peak_memory_mb=round(peak_memory_mb(), 1),
        )

    def label(self) -> str:
        """Names the objective, so that a person can tell folders apart."""
        return f"{self.name}-{self.objective.kind}"

    def _objective(self, encoder: VisionEncoder, runtime: Runtime) -> Objective:
        tokenizer = None if self.words is None else self.words.open(runtime)
        return build_objective(self.objective, encoder, tokenizer, self.seed)

    def _loader(self, source: glyphs.Glyphs, runtime: Runtime) -> Loader:
        return Loader(
            source,
            self.views,
            image_size=self.encoder.image_size,
            batch=self.budget.batch,
            seed=self.seed,
            workers=runtime.workers,
        )

    def flops(self) -> float:
        """Counted on meta tensors: no memory, no data."""
        tokenizer = train_tokenizer(["a picture of a thing"], 300) if self.objective.reads_text else None
        with torch.device("meta"):
            objective = build_objective(
                self.objective, VisionEncoder(self.encoder, self.seed), tokenizer, self.seed
            )
            views = {
                view.name: torch.empty(2, view.count, 3, *[round(view.size * self.encoder.image_size)] * 2)
                for view in self.views
            }
        batch = Batch(np.arange(2, dtype=np.uint64), views, ["a picture of a thing"] * 2, [""] * 2)
        return training_flops(objective, batch) * self.budget.steps * self.budget.batch

    def open(self, runtime: Runtime) -> VisionEncoder:
        """The trained encoder."""
        encoder = VisionEncoder(self.encoder, self.seed)
        load_weights(encoder, self.folder(runtime) / "encoder.safetensors")
        return encoder


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


AnyEncoder = Annotated[Pretrain | Untrained, Field(discriminator="kind")]
