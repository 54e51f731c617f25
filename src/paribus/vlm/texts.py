"""What the small language model reads before it ever sees a picture: captions, and questions in words.

A published language model brings its knowledge along; one trained from scratch here has to be given the same
two skills, from training text alone, once, and shared by all arms: say a caption again that stands before it
(what the connector will have to trigger), and find the option that names what stands before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from paribus.rng import numpy_rng
from paribus.types import NOTHING, Sample, Turn
from paribus.vqa.benchmark import Question, prompt, worded

CAPTIONS = 12
"""One sample in this many repeats a caption; a caption has many target tokens, a letter one."""
VARIANTS = 16
"""How often each question is asked in words: other places for its options, another one right."""


@dataclass(frozen=True)
class Texts:
    """A source of text alone.

    One sample in ``CAPTIONS`` repeats a caption; the others answer a question whose right option was named.
    In words any of the four options may be the right one, so each question makes many.

    Args:
        captions: training captions.
        questions: training questions; their pictures are not looked at.
        template: the prompt's, a name in ``PROMPTS``.
        seed: decides which variant stands where.
        digest: of both sources.
    """

    captions: Sequence[str]
    questions: Sequence[Question]
    template: str
    seed: int
    digest: str

    def __len__(self) -> int:
        return VARIANTS * len(self.questions)

    def __getitem__(self, index: int, /) -> Sample:
        rng = numpy_rng(self.seed, "texts", index)
        if index % CAPTIONS == 0:
            caption = self.captions[int(rng.integers(len(self.captions)))]
            return Sample(f"caption/{index}", NOTHING, caption, turns=(Turn(f" {caption}", caption),))
        question = worded(self.questions[index % len(self.questions)], self.template)
        places, answer = rng.permutation(len(question.says)), int(rng.integers(len(question.says)))
        given = tuple(question.options[place] for place in places)
        asked = replace(question, options=given, answer="")
        asked = replace(asked, answer=asked.says[answer])
        words = f" {given[answer]}\n{prompt(asked, self.template)}"
        return Sample(f"question/{index}", NOTHING, asked.answer, turns=(Turn(words, asked.answer),))
