"""What an encoder's own text tower makes of pictures: zero-shot classification, and retrieval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paribus import stats
from paribus.datasets.captions import Captions, read_captions
from paribus.encoders.words import read_words
from paribus.errors import UserError
from paribus.probes.retrieval import retrieve
from paribus.probes.zeroshot import PLAIN, TEMPLATES, choose, ensembled, worded
from paribus.stats import Estimate
from paribus.study.judging import Answered, SetScores, scores_of
from paribus.study.labelled import CLASS, Look
from paribus.types import Runtime


def templates_of(given: Sequence[str]) -> tuple[str, ...]:
    """Templates, or the sets of them that are called by a name."""
    return tuple(each for name in given for each in TEMPLATES.get(name, (name,))) or PLAIN


def class_names(classes: Sequence[str], names: Path | None) -> list[str]:
    """What classes are called in words: underscores are spaces; or as a file says, a line each.

    Raises:
        UserError: the file cannot be read, or has another number of names.
    """
    if names is None:
        return [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in classes]  # CUB numbers its birds
    try:
        lines = [line.strip() for line in names.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{names} cannot be read: give a text file with a name a line.") from error
    found = [line for line in lines if line]
    if len(found) != len(classes):
        raise UserError(f"{names} has {len(found):,} names for {len(classes):,} classes: give one a line.")
    return found


def name_classes(
    look: Look, folder: Path, templates: Sequence[str], names: Path | None, runtime: Runtime, seed: int = 0
) -> SetScores:
    """How often the class whose words are most like a test picture is its own.

    Args:
        look: what the encoder saw; it must have run.
        folder: the encoder with its text tower.
        templates: how classes are worded; the vectors of several are averaged.
        names: a file of the classes' names.
        runtime: where stages are.
        seed: of the intervals.

    Raises:
        UserError: there is no text tower, or names or templates cannot be used.
    """
    about, seen = look.dataset.run(runtime), look.open("test", runtime)
    assert seen is not None  # every dataset has a test part
    words = read_words(folder, worded(class_names(about.classes, names), templates))
    said = choose(words.see(seen.readings[CLASS]), ensembled(words.texts, len(templates)))
    chance = float(np.bincount(seen.labels).max() / len(seen.labels))
    return scores_of(about.name, Answered(seen.keys, seen.labels, said, None), chance, seed)


class Recalls(NamedTuple):
    """Recall at each depth, in both directions, with its interval over queries."""

    image_to_text: dict[int, Estimate]
    text_to_image: dict[int, Estimate]


def recalls(look: Look, folder: Path, runtime: Runtime) -> tuple[Captions, Recalls]:
    """How often a picture finds one of its captions, and a caption its picture.

    Intervals are over pictures: captions of one picture are resampled together.

    Args:
        look: what the encoder saw of a table of captions; it must have run.
        folder: the encoder with its text tower.
        runtime: where stages are.

    Raises:
        UserError: there is no text tower.
    """
    config, seen = look.dataset.config, look.open("test", runtime)
    assert seen is not None  # every dataset has a test part
    told = read_captions(Path(config.at.partition(":")[2]).expanduser(), config.settings())
    words = read_words(folder, list(told.texts))
    found = retrieve(words.see(seen.readings[CLASS]), words.texts, told.image_of)
    of_image = {k: stats.proportion(found.image_to_text[:, place]) for place, k in enumerate(found.ranks)}
    of_text = {
        k: stats.bootstrap_mean(found.text_to_image[:, place], clusters=told.image_of, seed=0)
        for place, k in enumerate(found.ranks)
    }
    return told, Recalls(of_image, of_text)
