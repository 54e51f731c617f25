"""What the small language model reads before it ever sees a picture: captions, and questions in words.

A published language model brings its knowledge along; one trained from scratch here has to be given the same
two skills, from training text alone, once, and shared by all arms: say a caption again that stands before it
(what the connector will have to trigger), and find the option that names what stands before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from paribus.encoders.text import START
from paribus.rng import numpy_rng
from paribus.types import Sample
from paribus.vqa.benchmark import LETTERS, Question, options, prompt

NOTHING = np.zeros((1, 1, 3), dtype=np.uint8)
CAPTIONS = 12
"""One sample in this many repeats a caption; a caption has many target tokens, a letter one."""
VARIANTS = 16
"""How often each question is asked in words: other places for its options, another one right."""


@dataclass(frozen=True)
class Texts:
    """A source of text alone. What a picture would show stands before the start token, as patches will.

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
            return Sample(f"caption/{index}", NOTHING, caption, f" {caption}{START}")
        question = self.questions[index % len(self.questions)]
        places, answer = rng.permutation(len(LETTERS)), int(rng.integers(len(LETTERS)))
        given = [options(question)[place] for place in places]
        a, b, c, d = given
        asked = replace(question, A=a, B=b, C=c, D=d, answer=LETTERS[answer])
        words = f" {given[answer]}{START}{prompt(asked, self.template)}"
        return Sample(f"question/{index}", NOTHING, asked.answer, words)
