"""How a prompt and an answer become tokens and a mask of what is learnt."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer
from torch import Tensor

from paribus.encoders.text import END, PAD, START, special
from paribus.errors import UserError


class Tokens(NamedTuple):
    """Right-padded ids, and which of them are to be predicted."""

    ids: Int64[Tensor, "B T"]
    target: Bool[Tensor, "B T"]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], answers: Sequence[str], context: int) -> Tokens:
    """``<start> prompt answer <end>``; only the answer and its end are learnt.

    Prompt and answer are encoded apart, so that the boundary between them is a token boundary and the mask
    cannot be off by one (LLaVA's "tokenization mismatch").

    Raises:
        UserError: a conversation is longer than the context.
    """
    start, end = special(tokenizer, START), special(tokenizer, END)
    heads = [[start, *row.ids] for row in tokenizer.encode_batch(list(prompts))]
    tails = [[*row.ids, end] for row in tokenizer.encode_batch(list(answers))]
    longest = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    if longest > context:
        raise UserError(
            f"A conversation has {longest} tokens and the language model's context is {context}: "
            "raise language.context in the study."
        )
    ids = torch.full((len(heads), longest), special(tokenizer, PAD))
    target = torch.zeros(len(heads), longest, dtype=torch.bool)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        whole = len(head) + len(tail)
        ids[row, :whole] = torch.tensor(head + tail)
        target[row, len(head) : whole] = True
    return Tokens(ids, target)
