"""The stages that give each encoder to a language model and teach the two: LLaVA-1.5's two lessons."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.numpy import save_file

from paribus.data.loader import Loader
from paribus.encoders.published import Fit
from paribus.encoders.text import load_tokenizer, save_tokenizer, train_tokenizer
from paribus.encoders.vision import load_weights, parameters, save_weights, weights_digest
from paribus.encoders.weights import architecture, find, parts
from paribus.encoders.weights import digest as digest_of_weights
from paribus.encoders.weights import load_tokenizer as read_tokenizer
from paribus.errors import UserError
from paribus.files import whole_file, write_json
from paribus.progress import progress
from paribus.study.corpora import Corpus
from paribus.study.looking import EyeLoader, Kept
from paribus.study.recipe import Lesson
from paribus.study.sources import differing, stamped
from paribus.study.stage import AnyStage, Stage
from paribus.study.stages import AnyEncoder
from paribus.study.talks import AnyTalks, Questions
from paribus.study.training import Training
from paribus.train.distributed import share
from paribus.types import Config, Runtime, Stamp
from paribus.vlm.connector import MLPConfig, build_connector
from paribus.vlm.conversation import LEAST, TEMPLATES, Chat
from paribus.vlm.eyes import Eyes, EyesConfig, build_eyes
from paribus.vlm.language import (
    LanguageConfig,
    PretrainedLanguageConfig,
    Speaker,
    backend,
    build_language_model,
    read_language_model,
    wording,
)
from paribus.vlm.lora import add_lora, merge_lora
from paribus.vlm.model import VisionLanguage
from paribus.vlm.texts import Texts
from paribus.vqa.benchmark import prompt

WEIGHTS = "weights"
"""The folder under the cache where published weights lie that come in no package."""


class TrainedRecord(Config):
    """What one downstream training consumed and left."""

    order: str
    digest: str = Field(description="of the weights that were trained")
    seconds: float
    samples: int
    trainable_parameters: int
    flops: float = Field(description="predicted of the whole training")


class Language(Training[TrainedRecord]):
    """A small language model trained from scratch on training text, once, for all arms."""

    name: ClassVar[str] = "language"
    kind: Literal["scratch"] = "scratch"
    version: int = 2
    corpus: Corpus
    questions: Questions
    template: str
    captions: str
    config: LanguageConfig

    def compute(self, folder: Path, runtime: Runtime) -> TrainedRecord:
        """Train tokenizer and model; leave both."""
        model, loader = self.prepare(runtime)
        save_tokenizer(model.chat.tokenizer, folder / "tokenizer.json")
        result = self.fit(model, loader, runtime)
        write_json(folder / "history.json", result.history)
        return _recorded(self, folder, result.order, result.seconds, {"language": model.language})

    def prepare(self, runtime: Runtime) -> tuple[VisionLanguage, Loader]:
        """A language model without eyes, and texts."""
        texts = self._texts(runtime)
        tokenizer = train_tokenizer(
            [*texts.captions, *(prompt(question, self.template) for question in texts.questions)],
            self.config.vocabulary,
        )
        model = build_language_model(self.config, tokenizer.get_vocab_size(), self.seed, runtime.torch_device)
        objective = VisionLanguage(model, Chat(tokenizer, self.config.wording(), self.config.context))
        loader = Loader(
            texts,
            (),
            image_size=1,
            batch=self.budget.batch,
            seed=self.seed,
            workers=runtime.workers,
            share=share(),
        )
        return objective.to(runtime.torch_device), loader

    def _texts(self, runtime: Runtime) -> Texts:
        source = self.corpus.open(runtime, captions=self.captions)
        train = self.questions.open(runtime, "train")
        return Texts(
            captions=source.captions,
            questions=[train.question(index) for index in range(len(train))],
            template=self.template,
            seed=self.seed,
            digest=f"{source.digest}{train.digest}",
        )

    def open(self, runtime: Runtime) -> Speaker:
        """The trained model, its tokenizer and its wording."""
        tokenizer = load_tokenizer(self.folder(runtime) / "tokenizer.json")
        model = build_language_model(self.config, tokenizer.get_vocab_size(), self.seed, runtime.torch_device)
        load_weights(model, self.folder(runtime) / "language.safetensors")
        return Speaker(model, tokenizer, self.config.wording())

    def flops(self) -> float:
        """Forward and twice that backward."""
        return 3 * self.budget.samples * self.config.shape().forward(60.0, 2.0)

    def disk(self) -> float:
        """The weights."""
        return 4.0 * self.config.shape().parameters


class ReadRecord(Config):
    """Which weights were read."""

    digest: str
    files: dict[str, Stamp]


class PublishedLanguage(Stage[ReadRecord]):
    """A published language model; its weights stay where they are."""

    name: ClassVar[str] = "language"
    kind: Literal["published"] = "published"
    version: int = 3
    config: PretrainedLanguageConfig

    def check(self, runtime: Runtime) -> None:
        """See that the weights are there."""
        self._folder(runtime)

    def compute(self, folder: Path, runtime: Runtime) -> ReadRecord:
        """Take the weights' digest, and see that the model can be spoken to, before anything is trained."""
        del folder
        weights = self._folder(runtime)
        tokenizer = read_tokenizer(weights)
        Chat(backend(tokenizer), wording(self.config, tokenizer), self.config.context)
        return ReadRecord(digest=digest_of_weights(weights), files=stamped(parts(weights)))

    def outdated(self, runtime: Runtime) -> str:
        """Of its files, if its folder is at hand."""
        record = self.cached(runtime)
        return "" if record is None else differing(record.files, lambda: parts(self._folder(runtime)))

    def open(self, runtime: Runtime) -> Speaker:
        """The model, its tokenizer and its wording.

        Raises:
            UserError: its files are not those that lessons began with.
        """
        weights, record = self._folder(runtime), self.cached(runtime)
        if record is not None and record.digest != digest_of_weights(weights):
            raise UserError(
                f"{weights} has changed since models were taught with it: put the files back, or delete "
                f"{self.folder(runtime)} and what was taught."
            )
        return read_language_model(self.config, weights)

    def _folder(self, runtime: Runtime) -> Path:
        return find(self.config.weights, runtime.cache / WEIGHTS)


AnyLanguageStage = Annotated[Language | PublishedLanguage, Field(discriminator="kind")]


class SeenRecord(Config):
    """What was kept."""

    pictures: int
    tokens: int
    width: int


class Seen(Stage[SeenRecord]):
    """What frozen encoders see in a source's pictures, each picture once, kept for many lessons.

    Kept in the precision that the lessons run in, so that nothing is rounded that would not be anyway.
    """

    name: ClassVar[str] = "seen"
    version: int = 1
    encoders: tuple[AnyEncoder, ...]
    talks: AnyTalks
    eyes: EyesConfig
    fit: Fit
    precision: Literal["bf16", "fp32"]

    @property
    def half(self) -> bool:
        """Whether two bytes a number are kept."""
        return self.precision == "bf16"

    def inputs(self) -> Iterator[AnyStage]:
        """Encoders and talks."""
        yield from self.encoders
        yield self.talks

    @torch.no_grad()
    def compute(self, folder: Path, runtime: Runtime) -> SeenRecord:
        """Look at each picture once."""
        source, device = self.talks.open(runtime), runtime.torch_device
        eyes = build_eyes(self.eyes, [stage.open(runtime) for stage in self.encoders], 1, 0).to(device).eval()
        rows, firsts = _pictures(source)
        shape = (len(firsts), eyes.seen_tokens, eyes.width)
        configs = [stage.encoder for stage in self.encoders]
        loader = EyeLoader(source, configs, fit=self.fit, batch=1, seed=0, workers=1)
        with whole_file(folder / "features.bin") as path:
            kind = np.uint16 if self.half else np.float32
            room = (
                max(shape[0], 1),
                *shape[1:],
            )  # of no picture at all one row of zeros: no file can be empty
            kept = np.memmap(path, kind, "w+", shape=room)
            for start in progress(range(0, len(firsts), BLOCK), label="looking", unit="block"):
                part = firsts[start : start + BLOCK]
                nothing = np.zeros(len(part), dtype=np.int64)
                views = loader.look(loader.fetch(part), nothing.astype(np.uint64), part, nothing)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                    seen = eyes.look([view.to(device) for view in views.values()]).cpu()
                kept[start : start + len(part)] = (
                    seen.bfloat16().view(torch.uint16).numpy() if self.half else seen.float().numpy()
                )
            kept.flush()
        with whole_file(folder / "rows.safetensors") as path:
            save_file({"rows": rows, "shape": np.array(room, dtype=np.int64)}, path)
        return SeenRecord(pictures=shape[0], tokens=shape[1], width=shape[2])

    def open(self, runtime: Runtime) -> Kept:
        """The features."""
        return Kept(self.folder(runtime), self.half)

    def disk(self) -> float:
        """Two or four bytes a number; of a mix as if every record had a picture of its own."""
        tokens, width = self.eyes.seen([stage.encoder for stage in self.encoders])
        return (2.0 if self.half else 4.0) * self.talks.expected() * tokens * width


BLOCK = 256


def _pictures(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's row among the pictures, -1 without one; and the first sample of each picture."""
    if not hasattr(source, "picture_key"):
        each = np.arange(len(source), dtype=np.int64)
        return each, each
    place: dict[str, int] = {}
    rows = np.full(len(source), -1, dtype=np.int64)
    firsts: list[int] = []
    for index in range(len(source)):
        key = source.picture_key(index)
        if key and key not in place:
            place[key] = len(firsts)
            firsts.append(index)
        rows[index] = place[key] if key else -1
    return rows, np.array(firsts, dtype=np.int64)


class Taught(Training[TrainedRecord]):
    """A lesson: a model with eyes, and conversations."""

    talks: AnyTalks
    lesson: Lesson
    keep: bool = Field(False, description="look at each picture once and keep what was seen")

    _exclude_from_cls_uid: ClassVar[tuple[str, ...]] = ("keep",)  # it rounds as little as a chunk does

    @model_validator(mode="after")
    def _still(self) -> "Taught":
        if self.keep and self.blinks():
            raise ValueError("what an encoder sees can only be kept while the encoder stays as it is")
        return self

    def blinks(self) -> bool:
        """Whether encoders see otherwise at the end of the lesson than before all lessons."""
        return "encoder" in self.lesson.trained

    def eyes(self) -> EyesConfig:
        """What the eyes are."""
        raise NotImplementedError

    def looks(self) -> "tuple[AnyEncoder, ...]":
        """Whose eyes they are."""
        raise NotImplementedError

    def mind(self) -> "Language | PublishedLanguage":
        """Who looks through them."""
        raise NotImplementedError

    def model(self, runtime: Runtime) -> VisionLanguage:
        """The model as it comes into the lesson; the parts that the lesson moves are free."""
        raise NotImplementedError

    def inputs(self) -> Iterator[AnyStage]:
        """What it is made of, and what was kept."""
        yield from super().inputs()
        yield from self.looks()
        if self.keep:
            yield self.seen()

    def foresee(self) -> None:
        """See from configs alone that encoders, connector and language model go together.

        Raises:
            UserError: they do not; or nothing is known of the language model.
        """
        configs = [stage.encoder for stage in self.looks()]
        language, eyes = self.mind().config, self.eyes()
        shape, words = language.shape(), eyes.words(configs)
        if isinstance(language, LanguageConfig) and shape.hidden % (2 * shape.heads):
            raise UserError(
                f"vlm.language.hidden is {shape.hidden}, no multiple of twice its {shape.heads} heads: take "
                "another number of heads."
            )
        if not isinstance(language, LanguageConfig):
            _check_room(language)
        if words + LEAST > language.context:
            raise UserError(
                f"A picture has {words} tokens and the language model's context is {language.context}: raise "
                "vlm.language.context, or take a resampler for vlm.eyes.connector."
            )
        self._check_rates()
        with torch.device("meta"):
            for width in eyes.widths(configs):
                build_connector(eyes.connector, width, shape.hidden, self.seed)

    def _check_rates(self) -> None:
        """See now what training would refuse after days: a rate of a part that does not move."""
        parts = {"language": "language", "connector": "connector", "encoder": "encoders"}
        moving = [parts[name] for name in self.moved()]
        unknown = [name for name in self.recipe.rates if name not in moving]
        if unknown:
            raise UserError(
                f"vlm.{self.name}.recipe.rates: nothing that trains is called {unknown[0]}; there is "
                f"{', '.join(moving)}."
            )

    def seen(self) -> Seen:
        """What may be kept."""
        return Seen(
            encoders=self.looks(),
            talks=self.talks,
            eyes=self.eyes().model_copy(update={"connector": MLPConfig(), "merge": "channel"}),  # for any
            fit=self.lesson.fit,
            precision=self.precision,
        )

    def compute(self, folder: Path, runtime: Runtime) -> TrainedRecord:
        """Teach; leave what moved."""
        model, loader = self.prepare(runtime)
        result = self.fit(model, loader, runtime)
        write_json(folder / "history.json", result.history)
        if self.lesson.lora is not None:
            merge_lora(model.language)
        assert model.eyes is not None
        parts = _places(model.language, model.eyes)
        moved = {name: part for name, part in parts.items() if name in self.moved()}
        return _recorded(self, folder, result.order, result.seconds, moved)

    def moved(self) -> tuple[str, ...]:
        """Names of the parts that the lesson moves."""
        more = ("language",) if self.lesson.lora is not None else ()
        return tuple(dict.fromkeys((*self.lesson.trained, *more)))

    def prepare(self, runtime: Runtime) -> tuple[VisionLanguage, Loader]:
        """The model and its conversations."""
        model = self.model(runtime)
        if self.lesson.lora is not None:
            add_lora(model.language, self.lesson.lora, self.seed)
        kept = self.seen().open(runtime) if self.keep else None
        loader = EyeLoader(
            self.talks.open(runtime),
            [stage.encoder for stage in self.looks()],
            fit=self.lesson.fit,
            batch=self.budget.batch,
            seed=self.seed,
            workers=runtime.workers,
            share=share(),
            kept=kept,
            grouped=self.lesson.grouped,
        )
        return model.to(runtime.torch_device), loader

    def chat(self, speaker: Speaker, eyes: Eyes) -> Chat:
        """How the lesson is worded."""
        own = speaker.template
        plain = TEMPLATES["plain"].model_copy(update={"begin": own.begin})
        template = {"plain": plain, "chat": own}[self.lesson.wording]
        return Chat(speaker.tokenizer, template, self.mind().config.context, eyes.tokens, own)

    def flops(self) -> float:
        """Eyes, connector and language model, forward and backward; encoders only where nothing is kept."""
        configs = [stage.encoder for stage in self.looks()]
        shape = self.mind().config.shape()
        tokens = self.eyes().words(configs) + self.lesson.words
        inside = shape.forward(float(tokens), float(self.lesson.targets))
        through = 3.0 if "language" in self.moved() else 2.0  # a frozen one passes gradients on
        connect = 3.0 * self.eyes().flops(configs, shape.hidden)
        looking = 0.0 if self.keep else sum(forward_flops(config) for config in configs)
        return self.budget.samples * (through * inside + connect + looking)

    def sizes(self) -> dict[str, float]:
        """About how many parameters each part has."""
        shape = self.mind().config.shape()
        configs = [stage.encoder for stage in self.looks()]
        return {
            "language": float(shape.parameters),
            "connector": float(self.eyes().parameters(configs, shape.hidden)),
            "encoder": float(sum(map(parameters, configs))),
        }

    def disk(self) -> float:
        """The weights that moved."""
        return 4.0 * sum(size for name, size in self.sizes().items() if name in self.moved())


def _places(language: torch.nn.Module, eyes: Eyes) -> dict[str, torch.nn.Module]:
    """Where each part of a model is."""
    return {"language": language, "connector": eyes.connector, "encoder": eyes.encoders}


def _check_room(config: PretrainedLanguageConfig) -> None:
    room = architecture(config.weights).get("max_position_embeddings")
    if room is not None and config.context > room:
        raise UserError(
            f"vlm.language.context is {config.context}, but {config.weights} has {room} positions: lower it."
        )


def forward_flops(config: Any) -> float:
    """FLOPs of an encoder's forward pass over one picture."""
    tokens = config.tokens(config.image_size)
    block = 2 * tokens * config.width**2 * (4 + 2 * config.mlp_ratio) + 4 * tokens**2 * config.width
    return float(config.depth * block + 2 * config.grid**2 * 3 * config.patch**2 * config.width)


class Align(Taught):
    """LLaVA's first lesson: the connector, on captions."""

    name: ClassVar[str] = "align"
    version: int = 2
    encoders: tuple[AnyEncoder, ...]
    language: AnyLanguageStage
    sight: EyesConfig

    def eyes(self) -> EyesConfig:
        """What the eyes are."""
        return self.sight

    def looks(self) -> tuple[AnyEncoder, ...]:
        """Whose eyes they are."""
        return self.encoders

    def mind(self) -> Language | PublishedLanguage:
        """Who looks through them."""
        return self.language

    def model(self, runtime: Runtime) -> VisionLanguage:
        """The language model with new eyes."""
        speaker = self.language.open(runtime)
        eyes = build_eyes(
            self.sight,
            [stage.open(runtime) for stage in self.encoders],
            int(speaker.model.config.hidden_size),
            self.seed,
        )
        chat = self.chat(speaker, eyes)
        return VisionLanguage(speaker.model, chat, eyes=eyes, trained=self.lesson.trained)


class Instruct(Taught):
    """LLaVA's second lesson: connector and language model, on conversations."""

    name: ClassVar[str] = "instruct"
    version: int = 2
    align: Align

    def eyes(self) -> EyesConfig:
        """As they were aligned."""
        return self.align.sight

    def looks(self) -> tuple[AnyEncoder, ...]:
        """As they were aligned."""
        return self.align.encoders

    def mind(self) -> Language | PublishedLanguage:
        """As it was aligned with."""
        return self.align.language

    def foresee(self) -> None:
        """See the same of both lessons."""
        self.align.foresee()
        super().foresee()

    def inputs(self) -> Iterator[AnyStage]:
        """What it is made of, and what was kept; encoders come with the first lesson."""
        yield from Stage.inputs(self)
        if self.keep:
            yield self.seen()

    def blinks(self) -> bool:
        """In either lesson."""
        return self.align.blinks() or super().blinks()

    def model(self, runtime: Runtime) -> VisionLanguage:
        """The aligned model."""
        return self._after(self.align, self.align.model(runtime), runtime)

    def open(self, runtime: Runtime) -> VisionLanguage:
        """The finished vision-language model, nothing of it free to move."""
        model = self._after(self, self.model(runtime), runtime)
        return model.requires_grad_(False)

    def _after(self, stage: Taught, model: VisionLanguage, runtime: Runtime) -> VisionLanguage:
        """The model with what a lesson left, and spoken to as in this one."""
        assert model.eyes is not None
        places = _places(model.language, model.eyes)
        for name in stage.moved():
            load_weights(places[name], stage.folder(runtime) / f"{name}.safetensors")
        speaker = Speaker(model.language, model.chat.tokenizer, model.chat.own)
        chat = self.chat(speaker, model.eyes)
        return VisionLanguage(model.language, chat, eyes=model.eyes, trained=self.lesson.trained)


def _recorded(
    stage: Training[TrainedRecord],
    folder: Path,
    order: str,
    seconds: float,
    moved: dict[str, torch.nn.Module],
) -> TrainedRecord:
    """Leave the weights that moved, and what is to be remembered."""
    for name, part in moved.items():
        save_weights(part, folder / f"{name}.safetensors")
    return TrainedRecord(
        order=order,
        digest=weights_digest(torch.nn.ModuleDict(moved)),
        seconds=round(seconds, 1),
        samples=stage.budget.steps * stage.budget.batch,
        trainable_parameters=sum(p.numel() for part in moved.values() for p in part.parameters()),
        flops=stage.flops(),
    )
