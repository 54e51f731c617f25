"""The stages that text towers are built from: a tokenizer, checked weights, or vectors of every caption."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from tokenizers import Tokenizer

from paribus.encoders import weights as weights_module
from paribus.encoders.pretrained import ASSUMED_TOKENS, PretrainedConfig
from paribus.encoders.text import Material, TowerConfig, load_tokenizer, save_tokenizer, train_tokenizer
from paribus.encoders.vectors import FrozenConfig, compute_vectors, vector_flops
from paribus.errors import UserError
from paribus.study.corpora import AnyCorpus
from paribus.study.stage import R, Stage
from paribus.types import Config, Runtime


class TextStage(Stage[R]):
    """What a text tower is built from, and what of it stays with a trained arm."""

    def material(self, runtime: Runtime) -> Material:
        """For a tower that trains."""
        raise NotImplementedError

    def reading(self, texts: Sequence[str], folder: Path, runtime: Runtime) -> Material:
        """For a trained tower that is to read these texts; what that takes is kept in ``folder``."""
        del texts, folder
        return self.material(runtime)

    def leave(self, folder: Path, runtime: Runtime) -> None:
        """Put beside a trained tower what it cannot be read without."""
        del folder, runtime

    def read_with(self, runtime: Runtime) -> str:
        """The digest of the pretrained weights, if there are any."""
        del runtime
        return ""

    def describe(self) -> str:
        """For the ledger."""
        raise NotImplementedError


class TokenizerRecord(Config):
    """What was trained."""

    vocabulary: int


class Words(TextStage[TokenizerRecord]):
    """A BPE tokenizer trained on the training captions."""

    name: ClassVar[str] = "words"
    kind: Literal["words"] = "words"
    version: int = 2
    corpus: AnyCorpus
    captions: str
    vocabulary: int

    def compute(self, folder: Path, runtime: Runtime) -> TokenizerRecord:
        """Train and save it."""
        texts = self.corpus.texts(runtime, self.captions)
        tokenizer = train_tokenizer(texts, self.vocabulary)
        save_tokenizer(tokenizer, folder / "tokenizer.json")
        return TokenizerRecord(vocabulary=tokenizer.get_vocab_size())

    def open(self, runtime: Runtime) -> Tokenizer:
        """The tokenizer."""
        return load_tokenizer(self.folder(runtime) / "tokenizer.json")

    def describe(self) -> str:
        """For the ledger."""
        return f"BPE of {self.vocabulary} trained on the captions ({self.captions})"

    def material(self, runtime: Runtime) -> Material:
        """For a tower from scratch."""
        return Material(tokenizer=self.open(runtime))

    def leave(self, folder: Path, runtime: Runtime) -> None:
        """Beside a trained tower: the tokenizer, so that the folder is whole without this one."""
        save_tokenizer(self.open(runtime), folder / "tokenizer.json")


class WeightsRecord(Config):
    """Which weights these are."""

    digest: str = Field(description="SHA-256 over config, tokenizer and weights")


class Weights(TextStage[WeightsRecord]):
    """Pretrained weights, found and checked; they stay where they lie."""

    name: ClassVar[str] = "weights"
    kind: Literal["weights"] = "weights"
    version: int = 1
    weights: str

    def check(self, runtime: Runtime) -> None:
        """See that they are there and that their tokenizer is theirs."""
        tokenizer = weights_module.load_tokenizer(self._find(runtime))
        rows = int(weights_module.config_of(self.weights).vocab_size)
        weights_module.check_vocabulary(tokenizer, rows, self.weights)

    def compute(self, folder: Path, runtime: Runtime) -> WeightsRecord:
        """Find them and take their digest."""
        del folder
        return WeightsRecord(digest=weights_module.digest(self._find(runtime)))

    def _find(self, runtime: Runtime) -> Path:
        return weights_module.find(self.weights, runtime.cache / "weights")

    def path(self, runtime: Runtime) -> Path:
        """Where they are, still as they were.

        Raises:
            UserError: they are gone or have changed since the stage ran.
        """
        path, record = self._find(runtime), self.cached(runtime)
        if record is not None and weights_module.digest(path) != record.digest:
            raise UserError(
                f"The weights in {path} have changed since {self.folder(runtime)} was made: "
                "delete that folder to use the new ones, or bring the old ones back."
            )
        return path

    def read_with(self, runtime: Runtime) -> str:
        """The digest of the weights."""
        record = self.cached(runtime)
        return "" if record is None else record.digest

    def describe(self) -> str:
        """For the ledger."""
        return f"pretrained weights {self.weights}"

    def material(self, runtime: Runtime) -> Material:
        """For a pretrained tower."""
        return Material(folder=self.path(runtime))


class VectorsRecord(Config):
    """What was computed."""

    captions: int = Field(description="different ones")
    width: int


class Vectors(TextStage[VectorsRecord]):
    """Every caption's vector from a frozen language model, computed once for all arms and seeds."""

    name: ClassVar[str] = "vectors"
    kind: Literal["vectors"] = "vectors"
    version: int = 1
    corpus: AnyCorpus
    captions: str
    weights: Weights
    layer: int
    pooling: str
    context: int

    def _config(self) -> FrozenConfig:
        return FrozenConfig.model_validate(
            {"weights": self.weights.weights, "layer": self.layer, "pooling": self.pooling}
            | {"context": self.context}
        )

    def compute(self, folder: Path, runtime: Runtime) -> VectorsRecord:
        """Run the language model over the captions of all splits."""
        meta = compute_vectors(
            self._config(),
            self.weights.path(runtime),
            self.corpus.texts(runtime, self.captions, everything=True),
            folder,
            device=runtime.torch_device,
        )
        return VectorsRecord(captions=meta.captions, width=meta.width)

    def flops(self) -> float:
        """Forward passes over as many captions as there are samples."""
        return vector_flops(self._config(), self.corpus.expected(), ASSUMED_TOKENS)

    def disk(self) -> float:
        """Two bytes a value, and eight for the caption's name."""
        width = weights_module.config_of(self.weights.weights).hidden_size
        return float(self.corpus.expected() * (2 * width + 8))

    def read_with(self, runtime: Runtime) -> str:
        """The digest of the weights."""
        return self.weights.read_with(runtime)

    def describe(self) -> str:
        """For the ledger."""
        return f"caption vectors of {self.weights.weights}, layer {self.layer}, {self.pooling} pooling"

    def material(self, runtime: Runtime) -> Material:
        """For a tower that looks vectors up."""
        return Material(folder=self.folder(runtime))

    def reading(self, texts: Sequence[str], folder: Path, runtime: Runtime) -> Material:
        """The same for texts of any kind, whose vectors are computed now and kept in ``folder/read``."""
        place, weights = folder / "read", self.weights.path(runtime)
        compute_vectors(self._config(), weights, texts, place, device=runtime.torch_device)
        return Material(folder=place)


AnyText = Annotated[Words | Weights | Vectors, Field(discriminator="kind")]


def _words(tower: TowerConfig, corpus: AnyCorpus, captions: str, common: str, vocabulary: int) -> AnyText:
    del tower, captions  # the vocabulary is the control's, whatever an arm's captions mention
    return Words(corpus=corpus, captions=common, vocabulary=vocabulary)


def _weights(tower: TowerConfig, *_: object) -> AnyText:
    assert isinstance(tower, PretrainedConfig)
    return Weights(weights=tower.weights)


def _vectors(tower: TowerConfig, corpus: AnyCorpus, captions: str, *_: object) -> AnyText:
    assert isinstance(tower, FrozenConfig)
    return Vectors(
        corpus=corpus,
        captions=captions,
        weights=Weights(weights=tower.weights),
        layer=tower.layer,
        pooling=tower.pooling,
        context=tower.context,
    )


TEXTS: dict[str, Callable[..., AnyText]] = {"scratch": _words, "pretrained": _weights, "frozen": _vectors}
"""Kind of tower -> the stage it is built from."""


def text_stage(
    tower: TowerConfig | None, corpus: AnyCorpus, captions: str, common: str, vocabulary: int
) -> AnyText | None:
    """What an arm's text tower is built from; None for an arm without words.

    Args:
        tower: its config.
        corpus: whose captions.
        captions: the arm's caption policy.
        common: the control's, on which a vocabulary is trained.
        vocabulary: its size.
    """
    corpus.check_captions(captions)
    return None if tower is None else TEXTS[tower.kind](tower, corpus, captions, common, vocabulary)
