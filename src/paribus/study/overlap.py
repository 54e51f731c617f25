"""The stage that says how much of what a model is asked was in its lessons."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from paribus.analysis.contamination import Contamination, contamination
from paribus.analysis.contamination import Mix as Readable
from paribus.study.answers import Answer
from paribus.study.stage import Stage
from paribus.study.talks import AnyQuestions, Mix
from paribus.types import Runtime


class Overlap(Stage[Contamination]):
    """How much of a benchmark is in the conversations of a lesson, source by source."""

    name: ClassVar[str] = "overlap"
    version: int = 1
    talks: Mix
    questions: AnyQuestions

    def compute(self, folder: Path, runtime: Runtime) -> Contamination:
        """Look at each picture of both."""
        del folder
        mix, benchmark = self.talks.open(runtime), self.questions.test(runtime)
        assert isinstance(mix, Readable)
        questions = (benchmark.question(index) for index in range(len(benchmark)))
        told = ((question.source, question.question, question.image) for question in questions)
        return contamination(mix, told, runtime.workers)


def overlaps(answers: Iterable[Answer]) -> Iterator[Overlap]:
    """Every mix of conversations of a lesson with every benchmark that is asked after it, once."""
    found: dict[str, Overlap] = {}
    for answer in answers:
        for lesson in (answer.vlm.align, answer.vlm):
            if isinstance(lesson.talks, Mix):
                overlap = Overlap(talks=lesson.talks, questions=answer.questions)
                found.setdefault(overlap.address(), overlap)
    yield from found.values()
