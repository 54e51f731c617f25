"""How a conversation becomes tokens, and which of them are learnt: a template for each family of models.

A conversation is worded as one text, tokenised as a whole on both sides of the picture, as at inference; what
is learnt is found by characters, not by counting tokens of parts. So the mask cannot be off by one, as
LLaVA's is for tokenizers other than Llama's ("tokenization mismatch", where the loss silently becomes 0).
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from tokenizers import Encoding, Tokenizer

from paribus.encoders.text import END, START
from paribus.errors import UserError
from paribus.types import IMAGE, Config, Turn, Turns

PICTURE = -200
"""The id that stands for one token of the picture (LLaVA's IMAGE_TOKEN_INDEX)."""

SPOT = "{}"
LEAST = 8
"""Tokens that a context must leave for words beside a picture."""

REMEMBERED = 20_000
"""Conversations whose tokens are kept: a batch is asked for its lengths, its targets and its tokens."""


class Template(Config):
    """One family's wording. ``ask`` and ``reply`` hold ``{}``; all of ``reply`` is learnt, nothing else is.

    ``begin`` is a special token in front of all, ``cue`` is what an answer follows, ``after`` stands between
    a reply and the next question.
    """

    begin: str = ""
    system: str = ""
    ask: str
    cue: str
    reply: str
    after: str = ""

    @property
    def stop(self) -> str:
        """What ends a reply."""
        return self.reply.split(SPOT)[1]


def chatml(system: str) -> Template:
    """The wording of Qwen2, SmolLM2 and others, with a system message of their own."""
    return Template(
        system=f"<|im_start|>system\n{system}<|im_end|>\n",
        ask="<|im_start|>user\n{}<|im_end|>\n",
        cue="<|im_start|>assistant\n",
        reply="{}<|im_end|>",
        after="\n",
    )


TEMPLATES: dict[str, Template] = {
    # LLaVA's conv_llava_plain (stage 1): the picture, the caption, a new line; the question is dropped.
    "plain": Template(ask=IMAGE, cue="", reply="{}\n"),
    # LLaVA's conv_vicuna_v1, of "version v1".
    "vicuna_v1": Template(
        begin="<s>",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
        ask="USER: {} ",
        cue="ASSISTANT:",
        reply=" {}</s>",
    ),
    # LLaVA-NeXT's conv_qwen. Its preprocess_qwen also learns the markers around a reply; here as everywhere
    # only the reply and its end are learnt.
    "qwen2": chatml("You are a helpful assistant."),
    "smollm2": chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    # LLaVA-NeXT's llava_llama_3.
    "llama3": Template(
        begin="<|begin_of_text|>",
        system="<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and assist the "
        "user with a variety of tasks using natural language.<|eot_id|>",
        ask="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        cue="<|start_header_id|>assistant<|end_header_id|>\n\n",
        reply="{}<|eot_id|>",
    ),
    # Our own, for language models that are trained here from nothing.
    "bare": Template(ask=f"{START}{{}}", cue=START, reply=f"{{}}{END}"),
}
"""Name -> wording, pinned byte for byte by a test."""


class Spoken(NamedTuple):
    """A conversation as tokens, ``PICTURE`` once for each of the picture's; and which of them are learnt."""

    ids: Int64[np.ndarray, " T"]
    target: Bool[np.ndarray, " T"]


Pieces = list[tuple[str, bool]]
"""A conversation as text, and whether each piece is learnt."""


def worded(template: Template, turns: Turns, *, cue: bool = False) -> Pieces:
    """A conversation as the template words it.

    Args:
        template: the wording.
        turns: what was asked and answered.
        cue: whether the last reply is left open, for the model to write.
    """
    pieces = [(template.begin + template.system, False)]
    shown = template.ask if pictured(turns) else template.ask.replace(IMAGE, "")
    for number, turn in enumerate(turns):
        pieces.append((shown.replace(SPOT, turn.ask) + template.cue, False))
        if not cue or number < len(turns) - 1:
            pieces += [(template.reply.replace(SPOT, turn.reply), True), (template.after, False)]
    return pieces


def pictured(turns: Turns) -> bool:
    """Whether a picture belongs to a conversation."""
    return IMAGE in turns[0].ask


class Chat:
    """A tokenizer and a wording: conversations to tokens.

    Args:
        tokenizer: the language model's.
        template: how it is spoken to.
        context: the most tokens of a conversation, the picture's among them; what is longer loses its end.
        picture: tokens of a picture.
        own: how the language model is spoken to in general, where this wording is for one lesson only.

    Raises:
        UserError: the tokenizer does not know a special token of the template, or nothing fits beside the
            picture.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        context: int,
        picture: int = 0,
        own: Template | None = None,
    ) -> None:
        self.own = own or template
        self.tokenizer, self.template, self.context, self.picture = tokenizer, template, context, picture
        tokenizer.no_padding()
        tokenizer.no_truncation()
        for token in specials(template):
            if tokenizer.token_to_id(token) is None:
                raise UserError(
                    f"The tokenizer has no token {token}, which the template needs: choose another "
                    f"vlm.language.template, one of {', '.join(TEMPLATES)}."
                )
        lead = template.begin + template.system + template.ask.split(SPOT)[0].replace(IMAGE, "")
        taken = picture + len(tokenizer.encode(lead, add_special_tokens=False).ids)
        if taken + LEAST > context:
            seen = f"A picture has {picture} tokens, {taken} with what" if picture else f"{taken} tokens"
            raise UserError(
                f"{seen} stand before a question, and the language model's context is {context}: raise "
                "vlm.language.context, or take a resampler for vlm.eyes.connector."
            )
        self._kept: OrderedDict[tuple[Turns, bool], Spoken] = OrderedDict()

    def speak(self, conversations: Sequence[Turns], *, cue: bool = False) -> list[Spoken]:
        """Conversations as tokens; with ``cue`` the last reply is left open for the model."""
        wanted = [(turns, cue) for turns in conversations]
        new = [key for key in dict.fromkeys(wanted) if key not in self._kept]
        self._kept.update(zip(new, self._tokens(new), strict=True))
        found = [self._kept[key] for key in wanted]
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return found

    def first(self, reply: str) -> int:
        """The token that a reply begins with, after its cue."""
        (spoken,) = self.speak([(Turn("?", reply),)])
        return int(spoken.ids[spoken.target][0])

    def _tokens(self, asked: Sequence[tuple[Turns, bool]]) -> list[Spoken]:
        told = [(worded(self.template, turns, cue=cue), pictured(turns)) for turns, cue in asked]
        found = self._encoded([_parts(*each, apart=False) for each in told])
        torn = [number for number, spoken in enumerate(found) if spoken is None]
        for number, spoken in zip(
            torn, self._encoded([_parts(*told[n], apart=True) for n in torn]), strict=True
        ):
            found[number] = spoken  # a token reached over a reply's border: encoded apart, as when asked
        return [spoken for spoken in found if spoken is not None]

    def _encoded(self, told: Sequence[Sequence["Part | None"]]) -> list[Spoken | None]:
        """Tokens of each conversation's parts; None where a token is learnt by half."""
        texts = [part.text for parts in told for part in parts if part is not None]
        encoded = iter(self.tokenizer.encode_batch(texts, add_special_tokens=False))
        return [self._spoken([(part, part and next(encoded)) for part in parts]) for parts in told]

    def _spoken(self, parts: Sequence[tuple["Part | None", Encoding | None]]) -> Spoken | None:
        ids, target = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=bool)]
        for part, encoded in parts:
            if part is None or encoded is None:
                ids.append(np.full(self.picture, PICTURE, dtype=np.int64))
                target.append(np.zeros(self.picture, dtype=bool))
                continue
            first, last = _ends(np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2), part.learnt)
            if (first != last).any():
                return None
            ids.append(np.array(encoded.ids, dtype=np.int64))
            target.append(first & last)
        whole, mask = np.concatenate(ids)[: self.context], np.concatenate(target)[: self.context]
        mask[:1] = False  # nothing stands before it that it could be told from
        return Spoken(whole, mask)


class Part(NamedTuple):
    """A stretch of text that is encoded as one, and which of its characters are learnt."""

    text: str
    learnt: Bool[np.ndarray, " characters"]


def specials(template: Template) -> list[str]:
    """The special tokens of a template."""
    text = "".join((template.begin, template.system, template.ask, template.cue, template.reply))
    return [token for token in dict.fromkeys(re.findall(r"<[^<>\s]+>", text)) if token != IMAGE]


def _parts(pieces: Pieces, shown: bool, *, apart: bool) -> list[Part | None]:
    """What is encoded as one: all before and all after the picture (None), or each piece by itself."""
    groups = [[piece] for piece in pieces] if apart else [pieces]
    parts: list[Part | None] = []
    for group in groups:
        text = "".join(text for text, _ in group)
        learnt = np.repeat([flag for _, flag in group], [len(text) for text, _ in group])
        cut = text.find(IMAGE) if shown and None not in parts else -1
        if cut < 0:
            parts.append(Part(text, learnt))
        else:
            after = cut + len(IMAGE)
            parts += [Part(text[:cut], learnt[:cut]), None, Part(text[after:], learnt[after:])]
    return parts


def _ends(
    offsets: Int64[np.ndarray, "T 2"], learnt: Bool[np.ndarray, " characters"]
) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """Whether each token's first character is learnt, and whether its last is.

    A token of white space alone may claim no character, its offsets being those of its end: it is the
    character before.
    """
    if not len(learnt):
        return np.zeros(len(offsets), dtype=bool), np.zeros(len(offsets), dtype=bool)
    last = np.clip(offsets[:, 1] - 1, 0, len(learnt) - 1)
    return learnt[np.minimum(offsets[:, 0], last)], learnt[last]
