"""How much of a benchmark a language model has been trained on: by picture, by question, and by name.

A picture is in the mix if the same pixels are, or if a near-duplicate is (another size or compression):
``looks.py``'s hash and colours are alike, and so, since those of drawings on white often are, is a
finer thumbnail. A question is in the mix if somebody asks the same words there,
whatever the picture, so common questions count. By name, a source is in-domain if LLaVA-1.5's mix has
training questions of the same data set; these are its train splits, not the benchmark's own questions.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field

from paribus.analysis.looks import Looks, alike, look_at
from paribus.progress import progress
from paribus.types import IMAGE, Config, Sample

IN_DOMAIN: dict[str, str] = {
    "VQAv2": "82,783 training questions of VQAv2",
    "GQA": "72,140 training questions of GQA",
    "OKVQA": "8,998 training questions of OKVQA",
    "OCRVQA": "80,000 training questions of OCR-VQA",
    "A-OKVQA": "66,160 training questions of A-OKVQA",
    "TextVQA": "21,953 captions of TextVQA's training pictures (TextCaps)",
}
"""Source of VMCBench -> its part of LLaVA-1.5's 665,298 conversations (haotian-liu/LLaVA, issue 702)."""

OTHERS = (
    "SEEDBench",
    "MMStar",
    "VizWiz",
    "MMVet",
    "MMMU",
    "MathVista",
    "ScienceQA",
    "RealWorldQA",
    "MathVision",
    "AI2D",
    "ChartQA",
    "DocVQA",
    "InfoVQA",
    "TableVQABench",
)
"""VMCBench's other sources."""

BITS = 6
"""Of 64: most bits of the hash in which near-duplicates differ."""

_Fine = Float[np.ndarray, " F"]
_WORDS = re.compile(r"\w+")
_BLOCK = 64
_FINE = 32
"""Side of the finer thumbnail, in grey."""
_ALIKE = 0.95
"""Least correlation of two of them."""


@runtime_checkable
class Mix(Protocol):
    """What a language model is trained on; ``data/conversations.py`` has one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def said(self, index: int) -> Sample:
        """A sample without its picture."""
        ...

    def picture_key(self, index: int) -> str:
        """A name that equal pictures share; empty for text alone."""
        ...


class Asked(NamedTuple):
    """A question of a benchmark."""

    source: str
    question: str
    image: UInt8[np.ndarray, "H W 3"]


class Overlap(Config):
    """Of one source, the shares of questions that are in a mix, and whether its data set is."""

    questions: int
    same_picture: float = Field(description="share whose pixels are in the mix")
    near_picture: float = Field(description="share whose picture, or a near-duplicate, is in the mix")
    same_question: float = Field(description="share whose words are asked in the mix, of any picture")
    in_domain: bool | None = Field(description="by name; None if the source is not known")
    why: str


class Contamination(Config):
    """By source of the benchmark, in the order of its names."""

    sources: dict[str, Overlap]

    def spell(self) -> str:
        """As a table, a line a source."""
        head = ("source", "questions", "same picture", "or near it", "same question", "by name")
        rows = [head, *(_cells(name, found) for name, found in self.sources.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _cells(source: str, found: Overlap) -> tuple[str, ...]:
    """One line of the table."""
    shares = (found.same_picture, found.near_picture, found.same_question)
    named = {True: "in LLaVA-1.5's mix", False: "not in LLaVA-1.5's mix", None: "-"}[found.in_domain]
    return (source, f"{found.questions:,}", *(f"{100 * share:.1f}%" for share in shares), named)


class _Benchmark(NamedTuple):
    """What is compared: one row a question."""

    sources: list[str]
    questions: list[str]
    pixels: list[bytes]
    looks: Looks
    fine: Float[np.ndarray, "Q F"]


def contamination(mix: Mix, benchmark: Iterable[tuple[str, str, np.ndarray]], workers: int) -> Contamination:
    """How much of each source of a benchmark is in a mix.

    Every different picture of the mix is decoded once; no picture of the benchmark is kept.

    Args:
        mix: what is trained on.
        benchmark: (source, question, RGB image) one by one, read once.
        workers: threads that decode the mix's pictures.
    """
    asked = _digest(Asked(*each) for each in benchmark)
    same, near = _pictures(mix, asked, workers)
    words = _questions(mix, set(asked.questions))
    told = np.array([question in words for question in asked.questions], bool)
    sources = np.array(asked.sources)
    found = {}
    for source in sorted(set(asked.sources)):
        here = sources == source
        in_domain, why = by_name(source)
        found[source] = Overlap(
            questions=int(here.sum()),
            same_picture=float(same[here].mean()),
            near_picture=float((same | near)[here].mean()),
            same_question=float(told[here].mean()),
            in_domain=in_domain,
            why=why,
        )
    return Contamination(sources=found)


def by_name(source: str) -> tuple[bool | None, str]:
    """Whether LLaVA-1.5's mix has a source's data set, and why; None if the source is not VMCBench's."""
    if source in IN_DOMAIN:
        return True, f"LLaVA-1.5's mix has {IN_DOMAIN[source]}"
    if source in OTHERS:
        return False, f"no part of LLaVA-1.5's mix is named {source}"
    return None, f"{source} is no source of VMCBench, which the table is of"


def plain(text: str) -> str:
    """A question's words alone, so that case, punctuation and spaces do not matter."""
    words = unicodedata.normalize("NFKC", text.replace(IMAGE, " ")).casefold()
    return " ".join(_WORDS.findall(words))


def _spellings(ask: str) -> Iterator[str]:
    """A question of the mix as a whole, and without what follows its first line: how to answer, options."""
    lines = [line for line in ask.replace(IMAGE, " ").splitlines() if line.strip()]
    yield plain(ask)
    if len(lines) > 1:
        yield plain(lines[0])


def _digest(benchmark: Iterable[Asked]) -> _Benchmark:
    sources, questions, pixels, fine = list[str](), list[str](), list[bytes](), list[_Fine]()

    def images() -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
        for asked in progress(benchmark, label="Looking at the benchmark", unit="question"):
            sources.append(asked.source)
            questions.append(plain(asked.question))
            pixels.append(_pixels(asked.image))
            fine.append(_thumbnail(asked.image))
            yield asked.image

    looks = look_at(images())
    return _Benchmark(sources, questions, pixels, looks, _stacked(fine))


def _pixels(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.digest()


def _thumbnail(image: UInt8[np.ndarray, "H W 3"]) -> _Fine:
    """A small grey picture of mean 0 and length 1, so that a product of two is their correlation."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_FINE, _FINE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1.0)


def _stacked(thumbnails: Sequence[_Fine]) -> Float[np.ndarray, "Q F"]:
    return np.stack([*thumbnails]) if thumbnails else np.empty((0, _FINE * _FINE), np.float32)


def _questions(mix: Mix, wanted: set[str]) -> set[str]:
    """Which of the wanted questions somebody asks in the mix."""
    wanted = wanted - {""}
    found: set[str] = set()
    for index in progress(range(len(mix)), label="Reading the mix", unit="record"):
        for turn in mix.said(index).turns:
            found.update(wanted.intersection(_spellings(turn.ask)))
    return found


def _pictures(
    mix: Mix, asked: _Benchmark, workers: int
) -> tuple[Bool[np.ndarray, " Q"], Bool[np.ndarray, " Q"]]:
    """Which questions' pictures are in the mix: the same pixels, and near-duplicates."""
    first: dict[str, int] = {}
    for index in range(len(mix)):
        key = mix.picture_key(index)
        if key:
            first.setdefault(key, index)
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(asked.pixels):
        rows.setdefault(digest, []).append(row)
    same, near = np.zeros(len(asked.pixels), bool), np.zeros(len(asked.pixels), bool)

    def look(indices: list[int]) -> tuple[list[int], Int[np.ndarray, " K"]]:
        images = [mix[index].image for index in indices]
        equal = [row for image in images for row in rows.get(_pixels(image), ())]
        return equal, _near(asked, images)

    everything = list(first.values())
    blocks = [everything[at : at + _BLOCK] for at in range(0, len(everything), _BLOCK)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(look, blocks)
        for equal, close in progress(found, label="Looking at the mix", total=len(blocks), unit="block"):
            same[equal] = True
            near[close] = True
    return same, near


def _near(asked: _Benchmark, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Int[np.ndarray, " K"]:
    """Rows of the benchmark that have a near-duplicate among some pictures."""
    seen, count = look_at(images), len(asked.pixels)
    left, right = np.nonzero(np.bitwise_count(asked.looks.hashes[:, None] ^ seen.hashes[None]) <= BITS)
    both = Looks(*(np.concatenate(pair) for pair in zip(asked.looks, seen, strict=True)))
    close = alike(both, left, right + count, BITS)
    left, right = left[close], right[close]
    thumbnails = {number: _thumbnail(images[number]) for number in set(right.tolist())}
    correlation = [
        asked.fine[row] @ thumbnails[number] for row, number in zip(left, right.tolist(), strict=True)
    ]
    return np.unique(left[np.array(correlation, np.float32) >= _ALIKE])
