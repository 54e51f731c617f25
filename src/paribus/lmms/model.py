"""lmms-eval's model ``paribus``: a finished arm of a study, asked with another harness's questions.

``--model paribus --model_args study=FILE,arm=NAME[,seed=N][,cache=DIR][,change=PATH=VALUE;PATH=VALUE]``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms

from paribus.cli_vlm import finished_model
from paribus.errors import UserError
from paribus.lmms.asking import query
from paribus.lmms.settings import read_settings, read_writing
from paribus.progress import progress
from paribus.study.finished import Finished, Query, Reply

Visual = Callable[[Any], Any]
Question = tuple[str, str, int, str]
"""Task, split, document and text: what options of one question share."""


class Paribus(lmms):  # type: ignore[misc]
    """A finished arm.

    Args:
        given: see ``settings.Settings``.

    Raises:
        UserError: an argument is wrong, the arm is not finished, or several processes were started.
    """

    is_simple = True

    def __init__(self, **given: Any) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "A model of Paribus answers in one process: start lmms-eval without accelerate or torchrun."
            )
        settings = read_settings(given)
        study, changes = settings.study, settings.change
        answer, runtime = finished_model(study, settings.arm, settings.seed, list(changes), settings.cache)
        there = runtime.model_copy(update={"device": settings.device})
        self.finished = Finished(answer.vlm, answer.ask.template, there)
        self.batch_size = settings.batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the arm writes; questions keep their order, so that batches are those of Paribus."""
        texts: list[str] = []
        for block in self._blocks(requests, "writing"):
            texts += self._written(block)
        return texts

    def _written(self, block: Sequence[Instance]) -> list[str]:
        ways = [read_writing(request.args[1]) for request in block]
        queries = [
            self._query(text, see, (task, split, place))
            for text, _, see, place, task, split in (request.args for request in block)
        ]
        texts = [""] * len(block)
        for way in dict.fromkeys(ways):
            rows = [row for row, wanted in enumerate(ways) if wanted == way]
            written = self.finished.write([queries[row] for row in rows], way.limit)
            for row, text in zip(rows, written, strict=True):
                texts[row] = way.cut(text)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Minus each option's log-likelihood, as the study compares them, and whether it would be written.

        lmms-eval takes the least value for the answer, whatever its documentation says; and of a bare pair
        it keeps only the text, so it is handed one that it passes on as it is.

        Raises:
            UserError: options cannot be told apart by their first tokens.
        """
        options: dict[Question, dict[str, None]] = {}
        sights: dict[Question, Visual] = {}
        places = [self._place(request) for request in requests]
        for request, (question, said) in zip(requests, places, strict=True):
            options.setdefault(question, {})[said] = None
            sights[question] = request.args[2]
        found: dict[tuple[Question, str], Reply] = {}
        for block in self._blocks(list(options), "options"):
            queries = [self._query(each[3], sights[each], (each[0], each[1], each[2])) for each in block]
            says = [list(options[each]) for each in block]
            for question, row, replies in zip(block, says, self.finished.options(queries, says), strict=True):
                found |= {(question, word): reply for word, reply in zip(row, replies, strict=True)}
        return [GenerationResult((-found[place].score, found[place].greedy)) for place in places]

    def _place(self, request: Instance) -> tuple[Question, str]:
        """Which question a request belongs to, and the option, without the space that tasks put before it."""
        text, said, _, place, task, split = request.args
        option = said(self.task_dict[task][split][place]) if callable(said) else said
        return (task, split, place, text), str(option).removeprefix(" ")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not there.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("A model of Paribus remembers nothing: leave out tasks of several rounds.")

    def _query(self, text: str, see: Visual, where: tuple[str, str, int]) -> Query:
        task, split, place = where
        return query(text, see(self.task_dict[task][split][place]))

    def _blocks(self, items: Sequence[Any], label: str) -> Iterator[Any]:
        starts = range(0, len(items), self.batch_size)
        for start in progress(starts, label=label, unit="block"):
            yield items[start : start + self.batch_size]
