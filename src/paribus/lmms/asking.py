"""Asking a finished model what others ask: any text, about one picture or about none."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from paribus.data.conversations import decode_picture
from paribus.encoders.published import evaluate
from paribus.encoders.text import clean
from paribus.errors import UserError
from paribus.lmms.settings import LIMIT
from paribus.study.downstream import Instruct
from paribus.types import IMAGE, NOTHING, Batch, Runtime, Turn
from paribus.vlm.answering import first_words, reply_scores, write
from paribus.vlm.model import SEEN
from paribus.vqa.benchmark import lists_options

logger = logging.getLogger(__name__)


class Query(NamedTuple):
    """What is asked, and the picture that it is about."""

    text: str
    picture: UInt8[np.ndarray, "H W 3"] | None


class Reply(NamedTuple):
    """How likely one option is, and whether it is what the model would write."""

    score: float
    greedy: bool


def query(text: str, visuals: Sequence[Any] | None) -> Query:
    """What a harness asks; its marks for a picture are dropped, because a picture comes first here.

    Raises:
        UserError: there are several pictures, or something that is no picture.
    """
    shown = [visual for visual in visuals or () if visual is not None]
    if len(shown) > 1:
        raise UserError(
            f"A question comes with {len(shown)} pictures and this model looks at one: choose tasks of one "
            "picture a question."
        )
    words = clean(text.replace(f"{IMAGE}\n", "").replace(IMAGE, ""))
    return Query(words, pixels(shown[0]) if shown else None)


def pixels(visual: Any) -> UInt8[np.ndarray, "H W 3"]:
    """A harness's picture as Paribus reads one from a file.

    Raises:
        UserError: it is no picture, or one that cannot be shown.
    """
    if not isinstance(visual, Image.Image):
        raise UserError(
            f"A question comes with a {type(visual).__name__}, which is no picture: choose tasks of pictures."
        )
    if visual.mode == "RGB" and not visual.has_transparency_data:
        return np.array(visual)
    try:
        blob = io.BytesIO()
        kept = visual.convert("RGB") if visual.mode in ("CMYK", "YCbCr", "LAB", "HSV") else visual
        kept.save(blob, "PNG")
        return decode_picture(blob.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(f"A picture of mode {visual.mode} cannot be shown: leave its task out.") from error


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

    def write(self, queries: Sequence[Query], limit: int) -> list[str]:
        """What it replies, word by word the likeliest, at most ``limit`` tokens."""
        with self._rounding():
            return write(self.model, self._batch(queries), limit)

    def options(self, queries: Sequence[Query], says: Sequence[Sequence[str]]) -> list[list[Reply]]:
        """How likely each option is that a question's reply may say.

        Raises:
            UserError: they are compared by their first tokens, and two of a question begin with the same.
        """
        with self._rounding():
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
        texts = write(self.model, batch, LIMIT)
        return [
            [Reply(score, option == text) for option, score in zip(said, row, strict=False)]
            for said, row, text in zip(says, likely, texts, strict=True)
        ]

    @contextlib.contextmanager
    def _rounding(self) -> Iterator[None]:
        """The precision that the study asks in."""
        half = self.stage.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            yield

    def _batch(self, queries: Sequence[Query]) -> Batch:
        """Questions, prepared as for the lesson."""
        views = {SEEN: self._seen(queries)} if any(each.picture is not None for each in queries) else {}
        asks = [each.text if each.picture is None else f"{IMAGE}\n{each.text}" for each in queries]
        turns = [(Turn(ask, ""),) for ask in asks]
        self._see_room(turns)
        return Batch(np.zeros(len(turns), dtype=np.uint64), views, [""] * len(turns), turns)

    def _seen(self, queries: Sequence[Query]) -> Float[torch.Tensor, "B N D"]:
        """What the eyes see; of a question without a picture something that nobody looks at."""
        pictures = [NOTHING if each.picture is None else each.picture for each in queries]
        configs, fit = [eye.encoder for eye in self.stage.looks()], self.stage.lesson.fit
        assert self.model.eyes is not None
        return self.model.eyes.look([evaluate(config, pictures, fit).to(self.device) for config in configs])

    def _see_room(self, turns: Sequence[tuple[Turn, ...]]) -> None:
        chat = self.model.chat
        longest = max(len(spoken.ids) for spoken in chat.speak(turns, cue=True))
        if longest >= chat.context:  # as in Paribus, which does not refuse a benchmark for one question
            logger.warning("a question fills the %d tokens that are read: its end may be lost", chat.context)
