"""Causal language models, built by transformers."""

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from paribus.peers import mend_torchvision
from paribus.rng import torch_seed
from paribus.types import Config

if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel
else:  # transformers takes seconds to import, and only a run that builds a model needs it
    PreTrainedModel = nn.Module


class LanguageConfig(Config):
    """A small causal language model, trained from scratch on the corpus' words."""

    kind: Literal["qwen2", "llama"] = "qwen2"
    hidden: int = Field(192, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(3.0, gt=0)
    context: int = Field(160, ge=8)
    vocabulary: int = Field(2048, ge=300)

    def flops(self, tokens: int) -> float:
        """Forward and backward over one sequence: six operations a weight and token."""
        weights = self.layers * self.hidden**2 * (4 + 3 * self.mlp_ratio)
        return 6.0 * tokens * weights


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
    return model
