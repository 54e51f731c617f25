"""How a prompt and an answer become tokens and a mask of what is learnt."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer
from torch import Tensor

from paribus.encoders.text import END, PAD, START
from paribus.errors import UserError


class Tokens(NamedTuple):
    """Right-padded ids, which of them are real, and which are to be predicted."""

    ids: Int64[Tensor, "B T"]
    real: Bool[Tensor, "B T"]
    target: Bool[Tensor, "B T"]


def tokenize(
    tokenizer: Tokenizer, prompts: Sequence[str], answers: Sequence[str], context: int
) -> Tokens:
    """``<start> prompt answer <end>``; only the answer and its end are learnt.

    Prompt and answer are encoded apart, so that the boundary between them is a token boundary and the mask
    cannot be off by one (LLaVA's "tokenization mismatch").

    Raises:
        UserError: a conversation is longer than the context.
    """
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    heads = [[start, *row.ids] for row in tokenizer.encode_batch(list(prompts))]
    tails = [[*row.ids, end] for row in tokenizer.encode_batch(list(answers))]
    longest = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    if longest > context:
        raise UserError(
            f"A conversation has {longest} tokens and the language model's context is {context}: "
            "raise language.context in the study."
        )
    pad = tokenizer.token_to_id(PAD)
    ids = torch.full((len(heads), longest), pad)
    real = torch.zeros(len(heads), longest, dtype=torch.bool)
    target = torch.zeros_like(real)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        whole = len(head) + len(tail)
        ids[row, :whole] = torch.tensor(head + tail)
        real[row, :whole] = True
        target[row, len(head) : whole] = True
    return Tokens(ids, real, target)
