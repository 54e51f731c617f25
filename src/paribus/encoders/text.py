"""Text towers: what turns a caption into one vector, and the tokenizer they share with the corpus."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from paribus.encoders.vision import Block, init_linear
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.rng import torch_seed
from paribus.types import Config

PAD, START, END = "<pad>", "<start>", "<end>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; GPT-2's byte alphabet) trained on the texts.

    Ids 0, 1 and 2 are pad, start and end. Every string can be encoded, whatever the texts were.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special(tokenizer: Tokenizer, token: str) -> int:
    """A special token's id.

    Raises:
        UserError: the tokenizer has no such token.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise UserError(f"The tokenizer has no token {token}: train it with paribus.encoders.text.")
    return found


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer's JSON, whole or not at all."""
    with whole_file(path) as temporary:
        tokenizer.save(str(temporary))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer's JSON.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain Exception on bad JSON
        raise UserError(
            f"{path} is missing or damaged: delete its folder and run the study again."
        ) from error


Projection = Literal["linear", "mlp", "adaptor"]


class TowerConfig(Config):
    """What every kind of text tower says of itself."""

    kind: str
    projection: Projection = Field("linear", description="from the tower's width to the joint space")


@dataclass(frozen=True)
class Material:
    """What a text tower is built from besides its config; a stage made it.

    Without any, a tower is built for counting only: blank weights, a stand-in vocabulary.

    Args:
        tokenizer: for a tower from scratch.
        folder: weights and tokenizer of a pretrained tower, or a folder of caption vectors.
    """

    tokenizer: Tokenizer | None = None
    folder: Path | None = None


def clean(text: str) -> str:
    """A text that can be encoded as UTF-8: half characters (lone surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Tower(nn.Module, ABC):
    """What turns captions into vectors of ``width``."""

    width: int

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """One vector a text; text i's depends on text i alone."""


class TextConfig(TowerConfig):
    """The from-scratch text transformer; the defaults are CLIP's for ViT-B."""

    kind: Literal["scratch"] = "scratch"
    context: int = Field(77, ge=3)
    vocabulary: int = Field(49_408, ge=300)
    width: int = Field(512, ge=8)
    depth: int = Field(12, ge=1)
    heads: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> "TextConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


STAND_IN = ("a picture of a thing, and what is said of it",)
"""What the vocabulary of a tower that only counts is made of."""


class TextTower(Tower):
    """CLIP's text transformer (Radford et al. 2021): causal, read at the end token.

    Args:
        config: its sizes.
        material: the tokenizer, which turns words into ids; its vocabulary is the embedding's.
        seed: the study's root seed; weights come from their own stream.
    """

    def __init__(self, config: TextConfig, material: Material, seed: int = 0) -> None:
        super().__init__()
        tokenizer = material.tokenizer or train_tokenizer(STAND_IN, 300)
        self.config, self.tokenizer, self.width = config, tokenizer, config.width
        with torch_seed(seed, "text"):
            self.token_embed = nn.Embedding(tokenizer.get_vocab_size(), config.width)
            self.pos_embed = nn.Parameter(torch.empty(config.context, config.width))
            self.blocks = nn.ModuleList(
                Block(config.width, config.heads, 4.0, eps=1e-5) for _ in range(config.depth)
            )
            self.norm = nn.LayerNorm(config.width)
            init_linear(self, 0.02 * (512 / config.width) ** 0.5)
            nn.init.normal_(self.token_embed.weight, std=0.02)
            nn.init.normal_(self.pos_embed, std=0.01)

    def tokenize(self, texts: Sequence[str]) -> Int64[Tensor, "B T"]:
        """Ids between start and end, cut to the context, padded to the longest of the batch."""
        start, end = special(self.tokenizer, START), special(self.tokenizer, END)
        room = self.config.context - 2
        # A token is seldom longer than a word: what a megabyte of text says later is never read.
        cut = [clean(text)[: 40 * self.config.context] for text in texts]
        rows = [[start, *row.ids[:room], end] for row in self.tokenizer.encode_batch(cut)]
        longest = max(len(row) for row in rows)
        pad = special(self.tokenizer, PAD)
        return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """One vector a text: the final norm's output at the end token."""
        ids = self.tokenize(texts).to(self.pos_embed.device)
        x = self.token_embed(ids) + self.pos_embed[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        end = ids.eq(special(self.tokenizer, END)).int().argmax(dim=1)
        out: Tensor = self.norm(x[torch.arange(len(x), device=x.device), end])
        return out
