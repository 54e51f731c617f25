"""Asking a model that sees: how likely each option is, or what it writes. Both are deterministic."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from paribus.errors import UserError
from paribus.types import IMAGE, Batch, Turns
from paribus.vlm.conversation import PICTURE, Chat
from paribus.vlm.language import attention_for
from paribus.vlm.model import VisionLanguage
from paribus.vlm.packing import PACKED

ABSENT = -1
"""Stands for an option that a question does not have."""


def first_words(chat: Chat, says: Sequence[Sequence[str]]) -> Int64[np.ndarray, "Q C"]:
    """The token that each option's answer begins with; ``ABSENT`` where a question has fewer options.

    Raises:
        UserError: two options of a question begin with the same token.
    """
    known = {said: chat.first(said) for row in says for said in row}
    table = np.full((len(says), max(map(len, says))), ABSENT, dtype=np.int64)
    for number, row in enumerate(says):
        tokens = [known[said] for said in row]
        if len(set(tokens)) < len(tokens):
            raise UserError(
                f"The answers {', '.join(row)} begin with one token for this language model: letter them."
            )
        table[number, : len(row)] = tokens
    return table


def option_scores(
    model: VisionLanguage, batch: Batch, words: Int64[np.ndarray, "B C"]
) -> Float[Tensor, "B C"]:
    """Log-likelihood of each option as what the last, open reply begins with; -inf where there is none."""
    given = torch.from_numpy(words)
    likely = model.next_words(batch).cpu()
    scores = likely.gather(1, given.clamp(min=0))
    return scores.masked_fill(given == ABSENT, float("-inf"))


def reply_scores(model: VisionLanguage, batch: Batch, says: Sequence[Sequence[str]]) -> Float[Tensor, "B C"]:
    """Log-likelihood of each option as the whole last, open reply; -inf where there is none."""
    each = np.array([row for row, options in enumerate(says) for _ in options])
    turns = [given for row, options in enumerate(says) for given in replied(batch.turns[row], options)]
    views = {name: view[torch.from_numpy(each)] for name, view in batch.views.items()}
    asked = Batch(batch.ids[each], views, [""] * len(turns), turns)
    likely = model.replies(asked).cpu()
    place = np.concatenate([np.arange(len(options)) for options in says])
    scores = likely.new_full((len(says), max(map(len, says))), float("-inf"))
    scores[torch.from_numpy(each), torch.from_numpy(place)] = likely
    return scores


def replied(turns: Turns, says: Sequence[str]) -> list[Turns]:
    """An open conversation with each of some replies."""
    return [(*turns[:-1], turns[-1]._replace(reply=said)) for said in says]


def without_picture(turns: Turns) -> Turns:
    """The same conversation about nothing that is shown."""
    first, *rest = turns
    return (first._replace(ask=first.ask.replace(f"{IMAGE}\n", "").replace(IMAGE, "")), *rest)


@torch.no_grad()
def write(model: VisionLanguage, batch: Batch, limit: int = 32) -> list[str]:
    """What the model replies, word by word the likeliest, for every conversation's last, open turn.

    transformers' own ``generate`` with its cache; conversations are padded on the left.

    Args:
        model: the model.
        batch: conversations; their last reply is not looked at.
        limit: the most tokens of a reply.
    """
    words, mask = _padded(model, batch)
    chat = model.chat
    stop = chat.tokenizer.token_to_id(chat.template.stop)
    with _plainly_writing(model, _greedy(limit, stop)):
        out: Tensor = model.language.generate(  # type: ignore[operator]
            inputs_embeds=words, attention_mask=mask
        )
    ended = [row[: row.index(stop)] if stop in row else row for row in out.tolist()]
    return [text.strip() for text in chat.tokenizer.decode_batch(ended)]


def _padded(model: VisionLanguage, batch: Batch) -> tuple[Float[Tensor, "B T H"], Int64[Tensor, "B T"]]:
    """Word embeddings, pictures among them, padded on the left."""
    device = model.language.device
    spoken = model.chat.speak(batch.turns, cue=True)
    longest = max(len(each.ids) for each in spoken)
    ids, mask = torch.zeros(2, len(spoken), longest, dtype=torch.int64).unbind()
    for row, each in enumerate(spoken):
        ids[row, longest - len(each.ids) :] = torch.from_numpy(each.ids)
        mask[row, longest - len(each.ids) :] = 1
    words = model.embed(ids.to(device))
    seen = model.sight(batch)
    if seen is not None:
        spots = (ids == PICTURE).to(device)
        words = words.masked_scatter(spots.unsqueeze(-1), seen.to(words.dtype))
    return words, mask.to(device)


def _greedy(limit: int, stop: int | None) -> Any:
    from transformers import GenerationConfig

    settings: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=stop or 0, use_cache=True
    )
    return settings


@contextlib.contextmanager
def _plainly_writing(model: VisionLanguage, settings: Any) -> Iterator[None]:
    """Attention that knows a cache, and these settings alone, for as long as replies are written.

    Settings that are handed to ``generate`` are not enough: it takes what they leave open from the model's
    own, and published folders bring penalties, suppressed words and beams along.
    """
    language: Any = model.language
    published = language.generation_config
    language.generation_config = settings
    language.set_attn_implementation(attention_for(language.device))
    try:
        yield
    finally:
        language.generation_config = published
        language.set_attn_implementation(PACKED)
