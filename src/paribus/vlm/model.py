"""A language model that sees: LLaVA-1.5 (Liu et al. 2024), as one more objective for the one loop.

Loss: next-token cross-entropy on the replies, summed over the global batch and divided by its number of
target tokens, whatever the chunks and processes (additive). LLaVA's trainer divides by each device's own
number and averages those, so that there the loss depends on how a batch is spread. Without eyes it is a plain
language model. Samples are packed (see ``packing``).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paribus.encoders.vision import widen
from paribus.errors import UserError
from paribus.objectives.base import Objective
from paribus.types import Batch, Clock, Encoded, Losses
from paribus.vlm.conversation import PICTURE, Chat, Spoken, pictured
from paribus.vlm.eyes import Eyes
from paribus.vlm.language import PreTrainedModel
from paribus.vlm.packing import Pack, pack, places

Part = Literal["encoder", "connector", "language"]

SEEN = "seen"
"""The view of a batch that holds features that were kept, in place of pictures."""

TILE = 2048
"""Target tokens whose logits exist at once: of 152,064 words in float32 they are 1.2 GB."""


class Row(NamedTuple):
    """A packed row of tokens, and where each sample's own stand."""

    ids: Int64[Tensor, " T"]
    packed: Pack


def lay(spoken: Sequence[Spoken]) -> Row:
    """Put conversations into one row."""
    lengths = [len(each.ids) for each in spoken]
    packed = pack(lengths)
    row = torch.zeros(len(packed.positions), dtype=torch.int64)
    row[torch.from_numpy(places(packed, lengths))] = torch.from_numpy(np.concatenate([s.ids for s in spoken]))
    return Row(row, packed)


class VisionLanguage(Objective):
    """Next-token prediction with or without pictures.

    Args:
        language: a transformers causal language model that attends as ``packing`` says.
        chat: how it is spoken to.
        eyes: encoders and connector; None for text alone.
        trained: which parts move; the rest is frozen.
    """

    additive = True

    def __init__(
        self,
        language: PreTrainedModel,
        chat: Chat,
        *,
        eyes: Eyes | None = None,
        trained: Sequence[Part] = ("language",),
    ) -> None:
        super().__init__()
        self.language, self.chat, self.eyes = language, chat, eyes
        language.requires_grad_("language" in trained)
        if eyes is not None:
            eyes.connector.requires_grad_("connector" in trained)
            eyes.encoders.requires_grad_("encoder" in trained)

    def encoder(self) -> nn.Module:
        """The language model is what this objective trains."""
        return self.language

    def economise(self) -> None:
        """Recompute each block of the language model in the backward pass."""
        self.language.activation_checkpointing_enable()

    def blocks(self) -> list[nn.Module]:
        """The language model's."""
        return list(self.language.base_model.layers)  # type: ignore[arg-type]

    def lengths(self, batch: Batch) -> Sequence[int]:
        """Tokens of each sample, the picture's among them."""
        return [len(spoken.ids) for spoken in self.chat.speak(batch.turns)]

    def terms(self, batch: Batch) -> int:
        """Target tokens of the batch."""
        return sum(int(spoken.target.sum()) for spoken in self.chat.speak(batch.turns))

    def encode(self, batch: Batch) -> Encoded:
        """Per sample: summed negative log-likelihood of its replies ``[B]`` and their tokens ``[B]``."""
        spoken = self.chat.speak(batch.turns)
        hidden, words = self._said(batch, spoken)
        return self._summed(self._nll(hidden, words), spoken)

    def loss(self, encoded: Encoded, clock: Clock) -> Losses:
        """Mean over target tokens.

        Raises:
            UserError: there is none.
        """
        del clock
        if not len(encoded["nll"]) or not encoded["terms"].any():
            raise UserError(
                f"No reply of a batch fits into the {self.chat.context} tokens of vlm.language.context: "
                "raise it, or take a resampler for vlm.eyes.connector."
            )
        total = encoded["nll"].sum() / encoded["terms"].sum()
        return Losses(total, {"nll": total.detach()})

    @torch.no_grad()
    def replies(self, batch: Batch) -> Float[Tensor, " B"]:
        """Log-likelihood of each conversation's replies, to the token that ends them."""
        spoken = self.chat.speak(batch.turns)
        hidden, words = self._said(batch, spoken)
        with torch.autocast(hidden.device.type, enabled=False):  # see next_words
            return -self._summed(self._nll(widen(hidden), words), spoken)["nll"]

    @torch.no_grad()
    def next_words(self, batch: Batch) -> Float[Tensor, "B words"]:
        """Log-likelihood of every word as the first of the last reply, which is left open."""
        spoken = self.chat.speak(batch.turns, cue=True)
        row = lay(spoken)
        last = row.packed.starts + np.array([len(each.ids) for each in spoken]) - 1
        hidden = widen(self._hidden(batch, row)[torch.from_numpy(last)])
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 the options of one question tie
            return widen(self._words(hidden)).log_softmax(dim=-1)

    def sight(self, batch: Batch) -> Float[Tensor, "pictured M H"] | None:
        """Word embeddings of the samples' pictures, of those that have one; None without any."""
        shown = [row for row, turns in enumerate(batch.turns) if pictured(turns)]
        if self.eyes is None or not shown:
            return None
        rows = torch.tensor(shown)
        if SEEN in batch.views:
            seen = batch.views[SEEN][rows]
            out: Tensor = self.eyes.project(seen)
        else:
            out = self.eyes([view[rows] for view in batch.views.values()])
        return out

    def _said(
        self, batch: Batch, spoken: Sequence[Spoken]
    ) -> tuple[Float[Tensor, "targets H"], Int64[Tensor, " targets"]]:
        """What target words are predicted from, and they themselves, conversation by conversation."""
        row = lay(spoken)
        starts = row.packed.starts.tolist()
        said = np.concatenate(
            [np.flatnonzero(each.target) + s for each, s in zip(spoken, starts, strict=True)]
        )
        hidden = self._hidden(batch, row)
        places_of = torch.from_numpy(said).to(hidden.device)
        return hidden[places_of - 1], row.ids.to(hidden.device)[places_of]

    def _summed(self, nll: Float[Tensor, " targets"], spoken: Sequence[Spoken]) -> Encoded:
        """Negative log-likelihoods conversation by conversation, and how many there are of each."""
        counts = torch.tensor([int(each.target.sum()) for each in spoken])
        owner = torch.arange(len(spoken)).repeat_interleave(counts).to(nll.device)
        summed = torch.zeros(len(spoken), device=nll.device, dtype=nll.dtype).index_add(0, owner, nll)
        return {"nll": summed, "terms": counts.to(nll.device)}

    def _hidden(self, batch: Batch, row: Row) -> Float[Tensor, "T H"]:
        """Last hidden states of the row."""
        device = self.language.device
        words = self.embed(row.ids.to(device))
        seen = self.sight(batch)
        if seen is not None:
            shown = np.array([pictured(turns) for turns in batch.turns])
            rank = np.cumsum(shown) - 1  # a sample's place among the pictures
            order = [rank[sample] for sample in row.packed.order.tolist() if shown[sample]]
            spots = torch.from_numpy(np.flatnonzero((row.ids == PICTURE).numpy())).to(device)
            words = words.index_copy(0, spots, seen[torch.tensor(order)].flatten(0, 1).to(words.dtype))
        out = self.language.base_model(
            inputs_embeds=words.unsqueeze(0),
            position_ids=row.packed.positions.to(device).unsqueeze(0),
            use_cache=False,
            groups=row.packed.groups,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden[0]

    def embed(self, ids: Int64[Tensor, "*T"]) -> Float[Tensor, "*T H"]:
        """Words as vectors; where a picture stands, anything."""
        words: Tensor = self.language.get_input_embeddings()(ids.clamp(min=0))
        return words

    def _words(self, hidden: Float[Tensor, "rows H"]) -> Float[Tensor, "rows words"]:
        head: nn.Module = self.language.get_output_embeddings()  # type: ignore[no-untyped-call]
        logits: Tensor = head(hidden)
        return logits

    def _nll(self, hidden: Float[Tensor, "rows H"], words: Int64[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Negative log-likelihoods; of many, a tile at a time and again in the backward pass."""
        if len(hidden) <= TILE:
            return self._tile(hidden, words)
        tiles = zip(torch.split(hidden, TILE), torch.split(words, TILE), strict=True)
        return torch.cat([checkpoint(self._tile, *tile, use_reentrant=False) for tile in tiles])

    def _tile(self, hidden: Float[Tensor, "rows H"], words: Int64[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        return F.cross_entropy(widen(self._words(hidden)), words, reduction="none")
