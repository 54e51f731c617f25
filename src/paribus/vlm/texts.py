"""What the small language model reads before it ever sees a picture: captions, and questions in words.

A published language model brings its knowledge along; one trained from scratch here has to be given the same
two skills, from training text alone, once, and shared by all arms: say a caption again that stands before it
(what the connector will have to trigger), and find the option that names what stands before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paribus.rng import numpy_rng
from paribus.types import Sample
from paribus.vqa.benchmark import LETTERS, Question, options, prompt

NOTHING = np.zeros((1, 1, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Texts:
    """A source of text alone: even samples repeat a caption, odd ones answer a question put in words.

    Args:
        captions: training captions.
        questions: training questions; their pictures are not looked at.
        template: the prompt's, a name in ``PROMPTS``.
        seed: decides nothing but which caption stands with which question.
        digest: of both sources.
    """

    captions: Sequence[str]
    questions: Sequence[Question]
    template: str
    seed: int
    digest: str

    def __len__(self) -> int:
        return 2 * len(self.questions)

    def __getitem__(self, index: int, /) -> Sample:
        number, asked = divmod(index, 2)
        if asked:
            question = self.questions[number]
            seen = options(question)[LETTERS.index(question.answer)]
            words = f" {seen}\n{prompt(question, self.template)}"
            return Sample(f"question/{number}", NOTHING, question.answer, words)
        rng = numpy_rng(self.seed, "texts", number)
        caption = self.captions[int(rng.integers(len(self.captions)))]
        return Sample(f"caption/{number}", NOTHING, caption, f" {caption}\n")
