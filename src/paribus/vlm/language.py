"""Causal language models, built or read by transformers, each with its own wording."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from paribus.encoders.weights import architecture, check_vocabulary, known, load_model, load_tokenizer
from paribus.errors import UserError
from paribus.peers import mend_torchvision
from paribus.rng import torch_seed
from paribus.types import Config
from paribus.vlm.conversation import SPOT, TEMPLATES, Template, specials
from paribus.vlm.packing import use_packed

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel as PreTrainedModel
    from transformers import PreTrainedTokenizerBase
else:  # transformers takes seconds to import, and only a run that builds a model needs it
    PreTrainedModel = nn.Module


class Shape(NamedTuple):
    """What a decoder's cost follows from."""

    hidden: int
    inner: int
    layers: int
    heads: int
    shared: int
    vocabulary: int
    tied: bool

    @property
    def block_parameters(self) -> int:
        """Weights of one block: four projections of attention, three of the gated perceptron."""
        keys = self.hidden * self.shared // self.heads
        return 2 * self.hidden * (self.hidden + keys) + 3 * self.hidden * self.inner

    @property
    def parameters(self) -> int:
        """All weights but norms and biases."""
        return self.layers * self.block_parameters + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def forward(self, tokens: float, targets: float) -> float:
        """FLOPs of one sample's forward pass; words are predicted at its targets only."""
        attention = 4 * self.hidden * tokens**2 / 2
        blocks = self.layers * (2 * self.block_parameters * tokens + attention)
        return blocks + 2.0 * self.hidden * self.vocabulary * targets


class LanguageConfig(Config):
    """A small causal language model, trained from scratch on the corpus' words."""

    kind: Literal["qwen2", "llama"] = "qwen2"
    hidden: int = Field(192, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(3.0, gt=0)
    context: int = Field(160, ge=8, description="the most tokens of a conversation, picture and all")
    vocabulary: int = Field(2048, ge=300)

    def shape(self) -> Shape:
        """As it will be built."""
        inner = int(self.hidden * self.mlp_ratio)
        return Shape(self.hidden, inner, self.layers, self.heads, self.heads, self.vocabulary, tied=True)

    def wording(self) -> Template:
        """Its template: one of our own, for there is no published one."""
        return TEMPLATES["bare"]


class PretrainedLanguageConfig(Config):
    """A published causal language model."""

    kind: Literal["pretrained"] = "pretrained"
    weights: str = Field(min_length=1, description="a name in weights.json, or a folder")
    template: str | None = Field(
        None, description="its wording; None: the row's own, or for a folder its tokenizer's chat template"
    )
    context: int = Field(2048, ge=8, description="the most tokens of a conversation, picture and all")

    def shape(self) -> Shape:
        """As its config describes.

        Raises:
            UserError: it is no decoder.
        """
        described = architecture(self.weights)
        try:
            heads = described["num_attention_heads"]
            return Shape(
                hidden=described["hidden_size"],
                inner=described["intermediate_size"],
                layers=described["num_hidden_layers"],
                heads=heads,
                shared=described.get("num_key_value_heads") or heads,
                vocabulary=described["vocab_size"],
                tied=bool(described.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise UserError(
                f"{self.weights} is no causal language model: its config has no {error}."
            ) from error


AnyLanguage = Annotated[LanguageConfig | PretrainedLanguageConfig, Field(discriminator="kind")]


class Speaker(NamedTuple):
    """A language model ready to be trained or asked."""

    model: PreTrainedModel
    tokenizer: "Tokenizer"
    template: Template


def attention_for(device: torch.device) -> str:
    """The attention kernel that is fast: torch's fused one, but for bf16 on CPU (see ``vision.attend``)."""
    return "eager" if device.type == "cpu" else "sdpa"


def build_language_model(
    config: LanguageConfig, vocabulary: int, seed: int, device: torch.device
) -> PreTrainedModel:
    """A transformers ``AutoModelForCausalLM`` with random weights from the seed's own stream.

    Weights begin with standard deviation ``hidden ** -0.5``: at these widths transformers' 0.02 leaves
    attention so flat that finding an option in the prompt is not learnt within the budget (docs/lab.md).
    """
    mend_torchvision()
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(
        config.kind,
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=int(config.hidden * config.mlp_ratio),
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        initializer_range=config.hidden**-0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
    )
    with torch_seed(seed, "language"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            settings, attn_implementation=attention_for(device)
        )
    use_packed(model, config.kind, config.context)
    return model


def read_language_model(config: PretrainedLanguageConfig, folder: Path) -> Speaker:
    """A published model in float32, its tokenizer and its wording.

    Args:
        config: which, and how it is spoken to.
        folder: where its files are.

    Raises:
        UserError: parts are missing or do not belong together, or it has no wording that is known.
    """
    tokenizer = load_tokenizer(folder)
    template = wording(config, tokenizer)
    model = load_model(folder, head=True, dtype=torch.float32)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, config.weights)  # type: ignore[arg-type]
    room = int(model.config.max_position_embeddings)
    if config.context > room:
        raise UserError(
            f"vlm.language.context is {config.context}, but {config.weights} has {room} positions: lower it."
        )
    use_packed(model, config.weights, config.context)
    return Speaker(model, backend(tokenizer), template)


def backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """The fast tokenizer itself."""
    found: Tokenizer = tokenizer.backend_tokenizer
    return found


def wording(config: PretrainedLanguageConfig, tokenizer: "PreTrainedTokenizerBase") -> Template:
    """How a published model is spoken to: as the study says, as its row says, or as its tokenizer says.

    Raises:
        UserError: there is no such template, or its tokenizer has none or one that is of no known form.
    """
    row = known().get(config.weights)
    name = config.template or (row.template if row else "")
    if not name:
        return derived(tokenizer, config.weights)
    if name not in TEMPLATES:
        raise UserError(f"vlm.language.template: there is no {name!r}; choose one of {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def derived(tokenizer: "PreTrainedTokenizerBase", name: str) -> Template:
    """A template from a tokenizer's own chat template, by looking at what that makes of two exchanges.

    Raises:
        UserError: there is none, or it does not put a conversation together piece by piece.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of {name} has no chat template: say with vlm.language.template how it is spoken "
            f"to, one of {', '.join(TEMPLATES)}."
        )
    marks = ("QUESTION-ONE", "ANSWER-ONE", "QUESTION-TWO", "ANSWER-TWO")
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]

    def render(count: int, cue: bool) -> str:
        text: Any = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=cue)
        return str(text)

    try:
        lead, rest = render(1, True).split(marks[0])
        whole, closed = render(4, False), render(2, False)
        tail = closed.split(marks[1])[1]
        between = whole.split(marks[1])[1].split(marks[2])[0]
        stop = next(token for token in _enders(tokenizer) if tail.startswith(token))
        ask = between.removeprefix(tail)
        template = Template(
            system=lead.removesuffix(ask),
            ask=f"{ask}{SPOT}",
            cue=rest,
            reply=f"{SPOT}{stop}",
            after=tail[len(stop) :],
        )
        if _told(template, marks) != whole or not specials(template):
            raise ValueError("not put together piece by piece")
    except (ValueError, StopIteration, IndexError) as error:
        raise UserError(
            f"The chat template of {name} is of a form that is not understood: say with "
            f"vlm.language.template how it is spoken to, one of {', '.join(TEMPLATES)}."
        ) from error
    return template


def _enders(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Special tokens, the longest first."""
    return sorted(map(str, tokenizer.get_added_vocab()), key=len, reverse=True)


def _told(template: Template, marks: tuple[str, str, str, str]) -> str:
    """What the template makes of the two exchanges."""
    turns = ((marks[0], marks[1]), (marks[2], marks[3]))
    told = [
        template.ask.replace(SPOT, ask) + template.cue + template.reply.replace(SPOT, reply) + template.after
        for ask, reply in turns
    ]
    return template.begin + template.system + "".join(told)
