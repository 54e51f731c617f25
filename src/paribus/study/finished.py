"""Asking a finished model anything: any text, about one picture or about none, as its study asks it."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from paribus.encoders.published import evaluate
from paribus.study.downstream import Instruct
from paribus.types import IMAGE, NOTHING, Batch, Runtime, Turn
from paribus.vlm.answering import first_words, reply_scores, write
from paribus.vlm.model import SEEN, VisionLanguage
from paribus.vqa.benchmark import lists_options

logger = logging.getLogger(__name__)

Pictures = Sequence[UInt8[np.ndarray, "_ _ 3"]]


class Query(NamedTuple):
    """What is asked, and the picture that it is about."""

    text: str
    picture: UInt8[np.ndarray, "H W 3"] | None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """As a conversation whose reply is open; a picture comes first."""
        return (Turn(self.text if self.picture is None else f"{IMAGE}\n{self.text}", ""),)


class Reply(NamedTuple):
    """How likely one option is, and whether it is what the model would write."""

    score: float
    greedy: bool


@contextlib.contextmanager
def rounding(stage: Instruct, device: torch.device) -> Iterator[None]:
    """The precision that a study asks in; nothing is learnt."""
    half = stage.precision == "bf16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield


def looked(model: VisionLanguage, stage: Instruct, pictures: Pictures) -> Float[torch.Tensor, "B N D"]:
    """What a model's eyes see in pictures, prepared as for its lessons."""
    eyes, device = model.eyes, model.language.device
    assert eyes is not None
    with rounding(stage, device):
        return eyes.look(
            [evaluate(eye.encoder, pictures, stage.lesson.fit).to(device) for eye in stage.looks()]
        )


class Finished:
    """A finished model that is asked as its study asks it, in the study's precision.

    Args:
        stage: the lesson that left it.
        template: in what words the study asks; where they list no options, these are compared as whole
            replies, else by their first tokens.
        runtime: where it lies, and where it runs.
    """

    def __init__(self, stage: Instruct, template: str, runtime: Runtime) -> None:
        self.stage, self.device = stage, runtime.torch_device
        self.listed = lists_options(template)
        self.model = stage.open(runtime).to(self.device).eval()

    def room(self, queries: Sequence[Query]) -> int:
        """Tokens of the model's context that the longest question leaves; 0 if it may have lost its end."""
        spoken = self.model.chat.speak([query.turns for query in queries], cue=True)
        return self.model.chat.context - max(len(each.ids) for each in spoken)

    def write(self, queries: Sequence[Query], limit: int) -> list[str]:
        """What it replies, word by word the likeliest, at most ``limit`` tokens."""
        with rounding(self.stage, self.device):
            return write(self.model, self._batch(queries), limit)

    def options(self, queries: Sequence[Query], says: Sequence[Sequence[str]]) -> list[list[Reply]]:
        """How likely each option is that a question's reply may say.

        Raises:
            UserError: they are compared by their first tokens, and two of a question begin with the same.
        """
        with rounding(self.stage, self.device):
            batch = self._batch(queries)
            return self._by_first_token(batch, says) if self.listed else self._whole(batch, says)

    def _by_first_token(self, batch: Batch, says: Sequence[Sequence[str]]) -> list[list[Reply]]:
        words = first_words(self.model.chat, says)
        likely = self.model.next_words(batch).float().cpu()
        found = []
        for row, tokens, said in zip(likely, words, says, strict=True):
            scores, most = row[torch.from_numpy(tokens[: len(said)])], row.max()
            found.append([Reply(float(score), bool(score == most)) for score in scores])
        return found

    def _whole(self, batch: Batch, says: Sequence[Sequence[str]]) -> list[list[Reply]]:
        likely = reply_scores(self.model, batch, says).float().tolist()
        texts = write(self.model, batch)
        return [
            [Reply(score, option == text) for option, score in zip(said, row, strict=False)]
            for said, row, text in zip(says, likely, texts, strict=True)
        ]

    def _batch(self, queries: Sequence[Query]) -> Batch:
        """Questions, prepared as for the lesson."""
        if self.room(queries) < 1:  # a benchmark is not refused for one question
            context = self.model.chat.context
            logger.warning("a question fills the %d tokens that are read: its end may be lost", context)
        shown = any(query.picture is not None for query in queries)
        views = {SEEN: self._seen(queries)} if shown else {}
        ids = np.zeros(len(queries), dtype=np.uint64)
        return Batch(ids, views, [""] * len(queries), [query.turns for query in queries])

    def _seen(self, queries: Sequence[Query]) -> Float[torch.Tensor, "B N D"]:
        """What the eyes see; of a question without a picture something that nobody looks at."""
        pictures = [NOTHING if query.picture is None else query.picture for query in queries]
        return looked(self.model, self.stage, pictures)
