"""A language model that sees: LLaVA-1.5 (Liu et al. 2024), as one more objective for the one loop.

    <patches through the connector> <start> prompt answer <end>

Loss: next-token cross-entropy on the answer and its end, summed over the global batch and divided by its
number of target tokens, whatever the chunks (additive). Without an encoder it is a plain language model.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from paribus.encoders.vision import VisionEncoder, widen
from paribus.objectives.base import Objective
from paribus.types import Batch, Clock, Encoded, Losses
from paribus.vlm.connector import MLPConnector
from paribus.vlm.conversation import Tokens, tokenize
from paribus.vlm.language import PreTrainedModel

Part = Literal["connector", "language"]


class Eyes(nn.Module):
    """A frozen encoder and a connector.

    Args:
        encoder: any; its weights never move here.
        connector: patches to word embeddings.
        layer: which layer of the encoder is read; -2 is LLaVA's.
    """

    def __init__(self, encoder: VisionEncoder, connector: MLPConnector, layer: int = -2) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.connector, self.layer = connector, layer

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N H"]:
        """Word embeddings of the patches; the class token is left out."""
        with torch.no_grad():
            patches = self.encoder(images, layer=self.layer).patches
        out: Tensor = self.connector(patches)
        return out


class VisionLanguage(Objective):
    """Next-token prediction with or without pictures.

    Args:
        language: any transformers causal language model.
        tokenizer: its words.
        context: the longest conversation in tokens, pictures not counted.
        eyes: encoder and connector; None for text alone.
        trained: which parts move; the rest is frozen.
    """

    additive = True

    def __init__(
        self,
        language: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        context: int,
        eyes: Eyes | None = None,
        trained: Sequence[Part] = ("language",),
    ) -> None:
        super().__init__()
        self.language, self.tokenizer, self.context, self.eyes = language, tokenizer, context, eyes
        language.requires_grad_("language" in trained)
        if eyes is not None:
            eyes.connector.requires_grad_("connector" in trained)

    def encoder(self) -> nn.Module:
        """The language model is what this objective trains."""
        return self.language

    def terms(self, batch: Batch) -> int:
        """Target tokens of the batch."""
        return int(self._tokens(batch).target.sum())

    def encode(self, batch: Batch) -> Encoded:
        """Per sample: summed negative log-likelihood of its answer ``[B]`` and its target tokens ``[B]``."""
        tokens = self._tokens(batch)
        hidden = self._hidden(batch, tokens)
        rows, columns = tokens.target.nonzero(as_tuple=True)
        logits = self._words(hidden[rows, columns - 1])
        nll = F.cross_entropy(widen(logits), tokens.ids[rows, columns], reduction="none")
        summed = torch.zeros(len(batch), device=nll.device, dtype=nll.dtype).index_add(0, rows, nll)
        return {"nll": summed, "terms": tokens.target.sum(dim=1)}

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """Mean over target tokens."""
        del clock
        total = encoded["nll"].sum() / encoded["terms"].sum()
        return Losses(total, {"nll": total.detach()})

    @torch.no_grad()
    def choose(self, batch: Batch, choices: Sequence[str]) -> Float[Tensor, "B C"]:
        """Log-likelihood of each choice as the answer's first token, after the prompt.

        Raises:
            ValueError: two choices begin with the same token.
        """
        first = [self.tokenizer.encode(choice).ids[0] for choice in choices]
        if len(set(first)) != len(first):
            raise ValueError(f"choices {list(choices)} do not differ in their first token")
        tokens = self._tokens(batch)
        place = tokens.target.int().argmax(dim=1) - 1
        hidden = self._hidden(batch, tokens)
        logits = self._words(hidden[torch.arange(len(batch), device=hidden.device), place])
        return widen(logits).log_softmax(dim=-1)[:, first]

    def _tokens(self, batch: Batch) -> Tokens:
        tokens = tokenize(self.tokenizer, batch.prompts, batch.texts, self.context)
        return Tokens(*(part.to(self.language.device) for part in tokens))

    def _hidden(self, batch: Batch, tokens: Tokens) -> Float[Tensor, "B T H"]:
        """Last hidden states at the text positions."""
        words = self.language.get_input_embeddings()(tokens.ids)
        if self.eyes is not None:
            (view,) = batch.views.values()
            seen = self.eyes(view[:, 0]).to(words.dtype)
            words = torch.cat([seen, words], dim=1)
        # Padding stands on the right and attention is causal, so no target ever sees it: no mask is needed.
        hidden: Tensor = self.language.base_model(inputs_embeds=words, use_cache=False).last_hidden_state
        return hidden[:, -tokens.ids.shape[1] :]

    def _words(self, hidden: Float[Tensor, "rows H"]) -> Float[Tensor, "rows words"]:
        head: nn.Module = self.language.get_output_embeddings()  # type: ignore[no-untyped-call]
        logits: Tensor = head(hidden)
        return logits
