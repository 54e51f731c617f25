"""The stages that ask an encoder's own text tower about pictures: zero-shot classification, and retrieval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from tqdm import tqdm

from paribus import stats
from paribus.datasets.captions import read_captions
from paribus.encoders.eye import Sight
from paribus.encoders.words import read_words, reads_words
from paribus.errors import UserError
from paribus.files import whole_file
from paribus.probes.retrieval import RANKS, retrieve
from paribus.probes.zeroshot import PLAIN, TEMPLATES, choose, ensembled, worded
from paribus.progress import progress
from paribus.study.evaluate import Histogram
from paribus.study.labelled import CLASS, Look
from paribus.study.naming import read_texts
from paribus.study.outcomes import Answered, Asked, JudgeRecord, keep_answers, scores_of
from paribus.study.seeing import AnyLooker, eye_of, prepared_blocks, sights, weights_of
from paribus.study.stage import Stage
from paribus.study.stages import Pretrain, Untrained
from paribus.types import Config, Features, Runtime


def templates_of(given: Sequence[str]) -> tuple[str, ...]:
    """Templates, or the sets of them that are called by a name."""
    return tuple(each for name in given for each in TEMPLATES.get(name, (name,))) or PLAIN


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """What classes are called in words: without the numbers of CUB's birds, and underscores are spaces."""
    return tuple(re.sub(r"^\d+\.", "", name).replace("_", " ") for name in classes)


def read_names(path: Path, classes: int) -> tuple[str, ...]:
    """What classes are called as a file says, a line each.

    Raises:
        UserError: the file cannot be read, or has another number of names.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: give a text file with a name a line.") from error
    found = tuple(line for line in lines if line)
    if len(found) != classes:
        raise UserError(f"{path} has {len(found):,} names for {classes:,} classes: give one a line.")
    return found


def words_of(encoder: AnyLooker) -> bool:
    """Whether an encoder has a text tower to ask; none is asked for of a folder that is not there yet."""
    if isinstance(encoder, Pretrain):
        return encoder.objective.reads_text
    if isinstance(encoder, Untrained | Histogram):
        return False
    return reads_words(weights_of(encoder))


class Met(NamedTuple):
    """Test pictures and texts where they meet."""

    pictures: Float[np.ndarray, "N E"]
    texts: Float[np.ndarray, "M E"]


def meet(look: Look, texts: Sequence[str], folder: Path, runtime: Runtime) -> Met:
    """The test pictures of a look that has run, and texts, in the space of the encoder's text tower.

    Args:
        look: what the encoder saw.
        texts: what its text tower is to read.
        folder: where a language model's vectors of them are kept.
        runtime: where stages are.

    Raises:
        UserError: there is no text tower.
    """
    if isinstance(look.encoder, Pretrain):
        return _meet_in_study(look, look.encoder, texts, folder, runtime)
    if isinstance(look.encoder, Untrained | Histogram):
        raise UserError("A baseline holds no text tower: name an encoder that read captions.")
    seen = look.open("test", runtime)
    assert seen is not None  # every dataset has a test part
    words = read_words(weights_of(look.encoder), texts)
    return Met(words.see(seen.readings[CLASS]), words.texts)


@torch.no_grad()
def _meet_in_study(
    look: Look, encoder: Pretrain, texts: Sequence[str], folder: Path, runtime: Runtime
) -> Met:
    """A study's arm is looked at once more: its words may meet more of a picture than the class token."""
    half, device = look.precision == "bf16", runtime.torch_device
    space = encoder.joint(list(dict.fromkeys(texts)), folder, runtime)
    eye, part = eye_of(encoder, runtime).to(device), look.dataset.config.open().parts["test"]
    blocks = prepared_blocks(part.read, np.arange(len(part)), eye, runtime.workers)
    bar: tqdm[Any] = progress(label="pictures and words", total=len(part), unit="picture")
    with bar:
        pictures = [
            space.see(_features(sight, device)).float().cpu()
            for sight in sights(eye, blocks, bar, half=half, device=device, patches=True)
        ]
    return Met(torch.cat(pictures).numpy(), read_texts(space, texts, half=half))


def _features(sight: Sight, device: torch.device) -> Features:
    assert sight.patches is not None  # they were asked for, and a study's encoders have some
    return Features(sight.vector.to(device), None, sight.patches.to(device))


class Prompted(Asked):
    """Test pictures named by an encoder's own words; nothing is learnt."""

    name: ClassVar[str] = "prompted"
    version: int = 1
    look: Look
    templates: tuple[str, ...] = Field((), description="how a class is worded, or the name of such a set")
    names: tuple[str, ...] = Field((), description="what classes are called; none: as the dataset says")

    def compute(self, folder: Path, runtime: Runtime) -> JudgeRecord:
        """Choose and score; ``answers.parquet`` has every test picture's outcome.

        Raises:
            UserError: there is no text tower, or names or templates cannot be used.
        """
        about, seen = self.look.dataset.run(runtime), self.look.open("test", runtime)
        assert seen is not None  # every dataset has a test part
        names = self.names or class_names(about.classes)
        if len(names) != len(about.classes):
            raise UserError(
                f"names: {len(names):,} are given for the {len(about.classes):,} classes of {about.name}: "
                "give one a class."
            )
        templates = templates_of(self.templates)
        met = meet(self.look, worded(names, templates), folder, runtime)
        said = choose(met.pictures, ensembled(met.texts, len(templates)))
        answered = Answered(seen.keys, seen.labels, said, None)
        keep_answers([(about.name, answered)], folder)
        chance = float(np.bincount(seen.labels).max() / len(seen.labels))
        notes = [*about.notes, *self.look.run(runtime).notes]
        sets = [scores_of(about.name, answered, chance, self.seed)]
        return JudgeRecord(sets=sets, learnt=0, classes=len(about.classes), notes=notes)


WAYS = ("image to text", "text to image")


class Recall(Config):
    """How many queries find a match among so many first, with an interval over pictures."""

    way: str
    k: int
    value: float
    low: float
    high: float


class RecallRecord(Config):
    """How pictures and captions find each other."""

    name: str
    pictures: int
    captions: int
    recalls: list[Recall]


class Outcome(NamedTuple):
    """What queries of one way found, and the picture that each is of."""

    found: Bool[np.ndarray, "Q K"]
    picture: Int64[np.ndarray, " Q"]


class Retrieved(Stage[RecallRecord]):
    """Pictures that find their captions, and captions their pictures (Recall@k)."""

    name: ClassVar[str] = "retrieved"
    version: int = 1
    look: Look
    seed: int = 0

    def compute(self, folder: Path, runtime: Runtime) -> RecallRecord:
        """Rank all captions and all pictures; a file a way has every query's outcome.

        Intervals are over pictures: captions of one picture are resampled together.

        Raises:
            UserError: there is no text tower.
        """
        config = self.look.dataset.config
        told = read_captions(config.place(), config.settings())
        met = meet(self.look, told.texts, folder, runtime)
        found = retrieve(met.pictures, met.texts, told.image_of, device=str(runtime.torch_device))
        by_way = (
            Outcome(found.image_to_text, np.arange(len(told.files))),
            Outcome(found.text_to_image, told.image_of),
        )
        for way, outcome in zip(WAYS, by_way, strict=True):
            columns = {str(k): outcome.found[:, place] for place, k in enumerate(RANKS)}
            with whole_file(folder / f"{way}.parquet") as path:
                pq.write_table(pa.table({"picture": outcome.picture} | columns), path)
        recalls = [
            Recall(way=way, k=k, **_estimate(outcome, place, self.seed))
            for way, outcome in zip(WAYS, by_way, strict=True)
            for place, k in enumerate(RANKS)
        ]
        name = self.look.dataset.run(runtime).name
        return RecallRecord(name=name, pictures=len(told.files), captions=len(told.texts), recalls=recalls)

    def outcomes(self, runtime: Runtime) -> dict[str, Outcome]:
        """Every query's outcome, way by way."""
        found = {}
        for way in WAYS:
            table = pq.read_table(self.folder(runtime) / f"{way}.parquet")
            columns = [table[str(k)].to_numpy() for k in RANKS]
            found[way] = Outcome(np.stack(columns, axis=1), table["picture"].to_numpy())
        return found


def _estimate(outcome: Outcome, place: int, seed: int) -> dict[str, float]:
    right = outcome.found[:, place]
    alone = len(np.unique(outcome.picture)) == len(right)
    found = (
        stats.proportion(right) if alone else stats.bootstrap_mean(right, clusters=outcome.picture, seed=seed)
    )
    return {"value": found.value, "low": found.low, "high": found.high}
