"""The stages that give each encoder to a language model and ask it questions."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from paribus.data.loader import Loader
from paribus.encoders.text import load_tokenizer, save_tokenizer, train_tokenizer
from paribus.encoders.vision import load_weights, save_weights, weights_digest
from paribus.files import whole_file, write_json
from paribus.progress import progress
from paribus.study.corpora import Corpus, fetched_art
from paribus.study.stage import Stage
from paribus.study.stages import AnyEncoder
from paribus.study.training import Training
from paribus.train.distributed import share
from paribus.types import Config, Runtime, Source, ViewSpec
from paribus.vlm.connector import ConnectorConfig, MLPConnector
from paribus.vlm.language import LanguageConfig, PreTrainedModel, build_language_model
from paribus.vlm.model import Eyes, Part, VisionLanguage
from paribus.vlm.texts import Texts
from paribus.vqa import glyphqa, scoring
from paribus.vqa.benchmark import LETTERS, Question, prompt
from paribus.vqa.questions import Split

PROMPT = "short"
WHOLE = ViewSpec(name="image")


class QuestionsRecord(Config):
    """What was made."""

    train: int
    test: int
    digest: str


class Questions(Stage[QuestionsRecord]):
    """The benchmark's questions and pictures."""

    name: ClassVar[str] = "questions"
    version: int = 1
    corpus: Corpus
    config: glyphqa.GlyphQAConfig

    def compute(self, folder: Path, runtime: Runtime) -> QuestionsRecord:
        """Make them all."""
        corpus = self.corpus.folder(runtime) / "glyphs"
        glyphqa.build(self.config, corpus, fetched_art(runtime), folder / "glyphqa", runtime.workers)
        test = self.open(runtime, "test")
        return QuestionsRecord(train=len(self.open(runtime, "train")), test=len(test), digest=test.digest)

    def open(self, runtime: Runtime, split: Split) -> glyphqa.GlyphQA:
        """One split, as benchmark and as source."""
        return glyphqa.GlyphQA(self.folder(runtime) / "glyphqa", split, PROMPT)


class TrainedRecord(Config):
    """What one downstream training consumed and left."""

    order: str
    digest: str = Field(description="of the weights that were trained")
    seconds: float


class Language(Training[TrainedRecord]):
    """A small language model trained from scratch on training text, once, for all arms."""

    name: ClassVar[str] = "language"
    version: int = 1
    corpus: Corpus
    questions: Questions
    captions: str
    config: LanguageConfig

    def compute(self, folder: Path, runtime: Runtime) -> TrainedRecord:
        """Train tokenizer and model; leave both."""
        model, loader = self.prepare(runtime)
        save_tokenizer(model.tokenizer, folder / "tokenizer.json")
        return _trained(self, model, loader, folder, runtime)

    def prepare(self, runtime: Runtime) -> tuple[VisionLanguage, Loader]:
        """A language model without eyes, and texts."""
        texts = self._texts(runtime)
        tokenizer = train_tokenizer(
            [*texts.captions, *(prompt(question, PROMPT) for question in texts.questions)],
            self.config.vocabulary,
        )
        model = build_language_model(self.config, tokenizer.get_vocab_size(), self.seed, runtime.torch_device)
        objective = VisionLanguage(model, tokenizer, context=self.config.context)
        return _prepared(self, objective, texts, (), 1, runtime)

    def _texts(self, runtime: Runtime) -> Texts:
        source = self.corpus.open(runtime, captions=self.captions)
        train = self.questions.open(runtime, "train")
        return Texts(
            captions=[source[index].text for index in range(len(source))],
            questions=[train.question(index) for index in range(len(train))],
            template=PROMPT,
            seed=self.seed,
            digest=f"{source.digest}{train.digest}",
        )

    def open(self, runtime: Runtime) -> tuple[PreTrainedModel, Tokenizer]:
        """The trained model and its tokenizer."""
        tokenizer = load_tokenizer(self.folder(runtime) / "tokenizer.json")
        model = build_language_model(self.config, tokenizer.get_vocab_size(), self.seed, runtime.torch_device)
        load_weights(model, self.folder(runtime) / "language.safetensors")
        return model, tokenizer

    def flops(self) -> float:
        """Six operations a parameter and token."""
        return self.budget.samples * self.config.flops(tokens=60)


class Align(Training[TrainedRecord]):
    """LLaVA's first stage: the connector alone, on captions."""

    name: ClassVar[str] = "align"
    version: int = 1
    encoder: AnyEncoder
    language: Language
    connector: ConnectorConfig = ConnectorConfig()
    layer: int

    def compute(self, folder: Path, runtime: Runtime) -> TrainedRecord:
        """Train the connector."""
        return _trained(self, *self.prepare(runtime), folder, runtime)

    def prepare(self, runtime: Runtime) -> tuple[VisionLanguage, Loader]:
        """The model with a new connector, and captioned pictures."""
        model = self._build(runtime, ("connector",))
        source = self.language.corpus.open(runtime, captions=self.language.captions)
        return _prepared(self, model, source, (WHOLE,), self.encoder.encoder.image_size, runtime)

    def _build(self, runtime: Runtime, trained: tuple[Part, ...]) -> VisionLanguage:
        language, tokenizer = self.language.open(runtime)
        connector = MLPConnector(self.encoder.encoder.width, language.config.hidden_size, self.seed)
        eyes = Eyes(self.encoder.open(runtime), connector, self.layer)
        return VisionLanguage(
            language, tokenizer, context=self.language.config.context, eyes=eyes, trained=trained
        )

    def open(self, runtime: Runtime, trained: tuple[Part, ...]) -> VisionLanguage:
        """The model with its aligned connector."""
        model = self._build(runtime, trained)
        assert model.eyes is not None
        load_weights(model.eyes.connector, self.folder(runtime) / "connector.safetensors")
        return model

    def flops(self) -> float:
        """Forward and the gradient to the connector, through the frozen language model."""
        tokens = self.encoder.encoder.grid**2 + 20
        return self.budget.samples * self.language.config.flops(tokens) * 2 / 3


class Instruct(Training[TrainedRecord]):
    """LLaVA's second stage: connector and language model, on questions."""

    name: ClassVar[str] = "instruct"
    version: int = 1
    align: Align
    questions: Questions

    def compute(self, folder: Path, runtime: Runtime) -> TrainedRecord:
        """Train connector and language model."""
        return _trained(self, *self.prepare(runtime), folder, runtime)

    def prepare(self, runtime: Runtime) -> tuple[VisionLanguage, Loader]:
        """The aligned model, and questions."""
        model = self.align.open(runtime, ("connector", "language"))
        source, size = self.questions.open(runtime, "train"), self.align.encoder.encoder.image_size
        return _prepared(self, model, source, (WHOLE,), size, runtime)

    def open(self, runtime: Runtime) -> VisionLanguage:
        """The finished vision-language model."""
        model = self.align.open(runtime, ())
        assert model.eyes is not None
        load_weights(model.language, self.folder(runtime) / "language.safetensors")
        load_weights(model.eyes.connector, self.folder(runtime) / "connector.safetensors")
        return model

    def flops(self) -> float:
        """Six operations a parameter and token."""
        return self.budget.samples * self.align.language.config.flops(self.align.encoder.encoder.grid**2 + 50)


class AnswerRecord(Config):
    """How it went."""

    accuracy: float
    questions: int


class Answer(Stage[AnswerRecord]):
    """Every test question, answered by the likelihood of the option letters."""

    name: ClassVar[str] = "answer"
    version: int = 1
    vlm: Instruct
    questions: Questions

    def compute(self, folder: Path, runtime: Runtime) -> AnswerRecord:
        """Write ``logits.safetensors``: log-likelihoods ``[Q 4]`` of A to D."""
        model = self.vlm.open(runtime).to(runtime.torch_device).eval()
        source = self.questions.open(runtime, "test")
        size = self.vlm.align.encoder.encoder.image_size
        block = 50 if len(source) % 50 == 0 else 4
        loader = Loader(source, (WHOLE,), image_size=size, batch=block, seed=0, workers=runtime.workers)
        logits = np.empty((len(source), len(LETTERS)), dtype=np.float32)
        steps = range(len(source) // block)
        for step in progress(steps, label="questions", unit="batch"):
            batch = loader.make(step).to(runtime.torch_device)
            places, _ = loader.order(np.arange(step * block, (step + 1) * block, dtype=np.int64))
            logits[places] = model.choose(batch, tuple(LETTERS)).cpu().numpy()
        with whole_file(folder / "logits.safetensors") as path:
            save_file({"logits": logits}, path)
        correct = scoring.score(logits.astype(np.float64), [q.answer for q in self._asked(runtime)])
        return AnswerRecord(accuracy=float(correct.mean()), questions=len(correct))

    def _asked(self, runtime: Runtime) -> list[Question]:
        source = self.questions.open(runtime, "test")
        return [source.question(index) for index in range(len(source))]

    def open(self, runtime: Runtime) -> tuple[list[Question], Bool[np.ndarray, " Q"]]:
        """The questions, and which were answered rightly."""
        logits = load_file(self.folder(runtime) / "logits.safetensors")["logits"]
        questions = self._asked(runtime)
        return questions, scoring.score(logits.astype(np.float64), [q.answer for q in questions])


def _prepared(
    stage: Training[TrainedRecord],
    model: VisionLanguage,
    source: Source,
    views: tuple[ViewSpec, ...],
    size: int,
    runtime: Runtime,
) -> tuple[VisionLanguage, Loader]:
    """The model on its device, and batches of the source."""
    loader = Loader(
        source,
        views,
        image_size=size,
        batch=stage.budget.batch,
        seed=stage.seed,
        workers=runtime.workers,
        share=share(),
    )
    return model.to(runtime.torch_device), loader


def _trained(
    stage: Training[TrainedRecord], model: VisionLanguage, loader: Loader, folder: Path, runtime: Runtime
) -> TrainedRecord:
    """Fit and leave the weights of what was trained."""
    result = stage.fit(model, loader, runtime)
    write_json(folder / "history.json", result.history)
    parts: dict[str, torch.nn.Module] = {"language": model.language}
    if model.eyes is not None:
        parts["connector"] = model.eyes.connector
    moved = {name: part for name, part in parts.items() if any(p.requires_grad for p in part.parameters())}
    for name, part in moved.items():
        save_weights(part, folder / f"{name}.safetensors")
    digest = weights_digest(torch.nn.ModuleDict(moved))
    return TrainedRecord(order=result.order, digest=digest, seconds=round(result.seconds, 1))
