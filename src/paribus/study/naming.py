"""The stage that asks an arm in words: zero-shot classification through its own text tower.

It tells the representation from the alignment: an arm whose words were fitted afterwards to another's frozen
encoder has that encoder's probes, and a zero-shot accuracy of its own. A caption policy that an arm was never
told in is asked all the same, and should not be above chance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from paribus.data.captions import captions
from paribus.data.glyphs import Glyphs
from paribus.errors import UserError
from paribus.objectives.base import Joint
from paribus.probes.zeroshot import choose
from paribus.study.corpora import ALL, Corpus, Split
from paribus.study.evaluate import encode_images, labels_of
from paribus.study.probing import ProbeRecord, Scored, labelled, scored
from paribus.study.stages import Pretrain
from paribus.types import Runtime


class Naming(NamedTuple):
    """What is asked for, of which pictures, and the policy that words the captions to choose from."""

    name: str
    column: str
    kinds: tuple[str, ...]
    split: Split
    policy: str


NAMINGS = (
    Naming("name, unseen thing", "name", ("emoji",), "test", "thing"),
    Naming("style", "style", ("emoji",), "test", "style"),
    Naming("colour", "colour", ("emoji", "icon"), "test", "colour"),
    Naming("word, unseen font", "text", ("word",), "redraw", "text"),
)
"""Thing, style, colour and written word, on things and fonts that nothing was trained on."""


class Question(NamedTuple):
    """A naming on a corpus: its pictures, their labels, and every different caption with its label."""

    name: str
    rows: NDArray[np.intp]
    labels: NDArray[Any]
    captions: list[str]
    says: NDArray[Any]

    @property
    def chance(self) -> float:
        """What always choosing one caption gives at best, as for the probes."""
        return max(float(np.mean(self.labels == label)) for label in set(self.says.tolist()))


def question(naming: Naming, source: Glyphs) -> Question:
    """Captions of the pictures themselves, without keywords, each once and in order."""
    columns = labels_of(source)
    rows = labelled(columns, naming.column, naming.kinds, naming.split)
    records = [{name: str(columns[name][row]) for name in source.columns} | {"keywords": ""} for row in rows]
    labels = columns[naming.column][rows]
    said = dict(zip(captions(records, naming.policy), labels.tolist(), strict=True))
    return Question(naming.name, rows, labels, sorted(said), np.array([said[text] for text in sorted(said)]))


class ZeroShot(Scored):
    """Test pictures named by an arm's own words, scored once."""

    name: ClassVar[str] = "zeroshot"
    version: int = 2
    encoder: Pretrain
    corpus: Corpus
    precision: Literal["bf16", "fp32"]
    seed: int

    def compute(self, folder: Path, runtime: Runtime) -> ProbeRecord:
        """Ask every question; ``answers.parquet`` holds each picture's outcome, for paired comparisons."""
        source = self.corpus.open(runtime, ALL)
        asked = [found for naming in NAMINGS if len((found := question(naming, source)).rows)]
        if not asked:
            raise UserError("The corpus has nothing to name in its test split: use a larger one.")
        texts = sorted({text for each in asked for text in each.captions})
        space = self.encoder.joint(texts, folder, runtime)
        words = dict(zip(texts, read_texts(space, texts, half=self.precision == "bf16"), strict=True))
        columns = labels_of(source)
        encoder = self.encoder.open(runtime).to(runtime.torch_device)
        results = []
        for each in asked:
            images = [source.image(int(row)) for row in each.rows]
            seen = encode_images(encoder, images, half=self.precision == "bf16", read=space.see)
            chosen = choose(seen, np.stack([words[text] for text in each.captions]))
            correct = each.says[chosen] == each.labels
            picked = {name: columns[name][each.rows] for name in ("key", "concept")}
            results.append(scored(each.name, "zeroshot", correct, each.chance, picked, self.seed))
        return self.keep(results, folder)


@torch.no_grad()
def read_texts(
    space: Joint, texts: Sequence[str], *, half: bool, block: int = 256
) -> Float32[np.ndarray, "C D"]:
    """Texts as a joint space reads them, some at a time; ``half`` is bf16, as in training."""
    device = next(space.parameters()).device
    rows = []
    for start in range(0, len(texts), block):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            rows.append(space.read(list(texts[start : start + block])).float().cpu().numpy())
    return np.concatenate(rows)
