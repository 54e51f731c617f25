"""Text towers from pretrained encoders: RoBERTa, BERT, MiniLM and their kin, wholly or partly unlocked.

Follows open_clip 2.30's ``HFTextEncoder`` (Cherti et al. 2023), to whose locking "RoBERTa-10" and "RoBERTa-4"
of the study refer: the groups are [embeddings, layer 0, layer 1, ...]; with ``unlocked: n`` all but the last
n are frozen, with 0 the whole transformer is. LayerNorms in frozen groups stay trainable unless
``freeze_layer_norm``. The projection stands outside the lock. (From June 2026 open_clip counts the projection
as a group, so that the same number means one layer less there.)

Deviation: all dropout is off, because a batch that is split over chunks or processes has to give the same
gradients as a whole one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from paribus.encoders.text import Material, Projection, Tower, TowerConfig
from paribus.encoders.vision import widen
from paribus.encoders.weights import (
    blank_model,
    check_vocabulary,
    load_model,
    load_tokenizer,
    tokenize,
)
from paribus.errors import UserError
from paribus.rng import torch_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel
else:  # transformers takes seconds to import, and only a run that builds a model needs it
    PreTrainedModel = nn.Module

ASSUMED_TOKENS = 16
"""A caption's length where a tower only counts."""


class PretrainedConfig(TowerConfig):
    """Which weights, how they are read out, and how many of them may move."""

    kind: Literal["pretrained"] = "pretrained"
    weights: str = Field(min_length=1, description="a name in weights.json, or a folder")
    pooling: Literal["mean", "cls"] = "mean"
    projection: Projection = "mlp"
    unlocked: int | None = Field(None, ge=0, description="last groups that train; None: all")
    freeze_layer_norm: bool = False
    context: int = Field(77, ge=3)


class PretrainedTower(Tower):
    """A transformers encoder, read at its mean or first token.

    Args:
        config: which, and how much of it trains.
        material: the folder of the weights; without one, blank weights for counting.
        seed: of blank weights only; pretrained ones leave nothing to draw.

    Raises:
        UserError: the folder's parts do not fit together, or more is to be unlocked than there is.
    """

    def __init__(self, config: PretrainedConfig, material: Material, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        if material.folder is None:
            self.tokenizer = None
            with torch_seed(seed, "text"):
                self.model = blank_model(config.weights, attn_implementation="eager")
            check_context(positions_of(self.model), config)
        else:
            self.tokenizer = load_tokenizer(material.folder)
            # Left to itself transformers takes the fused attention where a model has it.
            attention: dict[str, Any] = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
            self.model = load_model(material.folder, dtype=torch.float32, **attention)
            check_fit(self.tokenizer, self.model, config)
        self.width = int(self.model.config.hidden_size)
        lock(self.model, config.unlocked, config.freeze_layer_norm)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """The mean over a text's tokens, or its first token's output."""
        device = next(self.model.parameters()).device
        if self.tokenizer is None:
            ids = torch.zeros(len(texts), ASSUMED_TOKENS, dtype=torch.long, device=device)
            blank: Tensor = self.model(input_ids=ids).last_hidden_state
            return blank.mean(dim=1)
        given = {
            name: value.to(device)
            for name, value in tokenize(self.tokenizer, texts, self.config.context).items()
        }
        hidden: Tensor = self.model(**given).last_hidden_state
        if self.config.pooling == "cls":
            return hidden[:, 0]
        mask: Tensor = given["attention_mask"].unsqueeze(-1)
        out: Tensor = (widen(hidden) * mask).sum(dim=1) / mask.sum(dim=1)
        return out


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers, found by their number."""
    count = model.config.num_hidden_layers
    found = [
        module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} keeps its layers where no list of {count} is: it cannot be locked."
        )
    return found[0]


def groups_of(model: PreTrainedModel) -> list[nn.Module]:
    """What is locked and unlocked: the embeddings, then layer by layer."""
    embeddings = getattr(model, "embeddings", None) or model.get_input_embeddings()
    return [embeddings, *layers_of(model)]


def lock(model: PreTrainedModel, unlocked: int | None, freeze_layer_norm: bool) -> None:
    """Freeze all but the last ``unlocked`` groups, as open_clip 2.30 does.

    Raises:
        UserError: there are fewer groups.
    """
    if unlocked is None:
        return
    groups = groups_of(model)
    if unlocked > len(groups):
        raise UserError(
            f"text.unlocked is {unlocked}, but {type(model).__name__} has {len(groups)} groups "
            f"(embeddings and {len(groups) - 1} layers): unlock at most {len(groups)}."
        )
    frozen: list[nn.Module] = [model] if unlocked == 0 else groups[:-unlocked]
    for module in frozen:
        for name, parameter in module.named_parameters():
            norm = "LayerNorm" in name.split(".")
            parameter.requires_grad = norm and not freeze_layer_norm


def check_fit(tokenizer: Any, model: PreTrainedModel, config: Any) -> None:
    """See that every id has an embedding, and every token of the context a position."""
    table: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    check_vocabulary(tokenizer, table.num_embeddings, config.weights)
    check_context(positions_of(model), config)


def check_context(room: int, config: Any) -> None:
    """See that a text of the context has a position for every token."""
    if config.context > room:
        raise UserError(
            f"text.context is {config.context}, but {config.weights} has {room} positions: lower it."
        )


def positions_of(model: PreTrainedModel) -> int:
    """How many tokens a text may have; RoBERTa's positions begin after its padding id."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    offset = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
    return int(model.config.max_position_embeddings) - offset
