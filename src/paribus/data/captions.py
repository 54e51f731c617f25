"""What is said of a picture: captions composed from known factors.

So a study can choose what they mention. A caption depends on the row, its key and the seed only; no picture
is looked at.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.draw import COLOURS
from paribus.errors import UserError
from paribus.rng import key_id, mix, stream, uniforms

Row = Mapping[str, str]

MOST_KEYWORDS = 3
_COLOUR_WORDS = frozenset({*COLOURS, "gray", "colour", "color"})


class Policy(NamedTuple):
    """Which factors a caption mentions, and whether it is another sample's."""

    thing: bool = False
    style: bool = False
    colour: bool = False
    text: bool = False
    shuffled: bool = False


CAPTION_POLICIES: dict[str, Policy] = {
    "thing": Policy(thing=True, text=True),
    "style": Policy(style=True),
    "colour": Policy(colour=True),
    "text": Policy(text=True),
    "all": Policy(thing=True, style=True, colour=True, text=True),
    "shuffled": Policy(thing=True, text=True, shuffled=True),
}


def find_policy(name: str) -> Policy:
    """A policy by name.

    Raises:
        UserError: there is no such policy.
    """
    if name not in CAPTION_POLICIES:
        raise UserError(f"Unknown caption policy {name!r}: choose one of {', '.join(CAPTION_POLICIES)}.")
    return CAPTION_POLICIES[name]


def shuffles(name: str | None) -> bool:
    """Whether a policy gives every picture another one's caption; what is no policy of ours does not."""
    return name in CAPTION_POLICIES and CAPTION_POLICIES[name].shuffled


def usable_keywords(row: Row) -> list[str]:
    """A row's keywords, less those that name a colour or repeat the name."""
    said = set(row["name"].lower().split())
    keywords = [word for word in row["keywords"].split(", ") if word and word.lower() not in said]
    return [word for word in keywords if not _COLOUR_WORDS & set(word.lower().split())]


def _thing(row: Row, draws: NDArray[np.float64]) -> str:
    """The name and up to three keywords; ``draws`` ``[1 + MOST_KEYWORDS]`` say how many and which."""
    left = usable_keywords(row)
    count = min(int(draws[0] * (MOST_KEYWORDS + 1)), len(left))
    chosen = [left.pop(int(draw * len(left))) for draw in draws[1 : 1 + count]]
    return ", ".join([row["name"], *chosen])


def _compose(row: Row, policy: Policy, draws: NDArray[np.float64]) -> str:
    head = ""
    if row["text"]:
        head = f'the word "{row["text"]}"' if policy.text else ""
    elif policy.thing:
        head = _thing(row, draws)
    parts = [head or "a picture"]
    if policy.style:
        parts.append(f"in the {row['style'].replace('-', ' ')} style")
    if policy.colour:
        parts.append(f"{row['colour']} on {row['background']}")
    return ", ".join(parts)


def _draws(keys: Sequence[str], seed: int) -> NDArray[np.float64]:
    """The keyed uniforms that choose keywords, ``[len(keys), 1 + MOST_KEYWORDS]``."""
    ids = np.array([key_id(key) for key in keys], np.uint64)
    return uniforms(stream(seed, "keywords"), ids, 1 + MOST_KEYWORDS)


def caption(row: Row, policy: str, *, seed: int = 0, donor: Row | None = None) -> str:
    """One sample's caption.

    Args:
        row: the sample's columns: key, text, name, keywords, style, colour, background.
        policy: a name in ``CAPTION_POLICIES``.
        seed: of the choice of keywords.
        donor: for a shuffled policy, the row whose caption this sample gets.

    Raises:
        UserError: there is no such policy.
    """
    if not find_policy(policy).shuffled:
        return captions([row], policy, seed=seed)[0]
    if donor is None:
        raise ValueError(f"policy {policy!r} needs a donor row")
    return _compose(donor, find_policy(policy), _draws([donor["key"]], seed)[0])


def donors(keys: Sequence[str], pool: Sequence[str], seed: int) -> list[str]:
    """Whose caption each sample gets when captions are shuffled: a train sample's, never its own.

    The pool is put into a keyed order and every member of it takes the next one's caption, so that over the
    pool the captions are permuted. A sample outside takes that of a keyed place in the order.

    Args:
        keys: the samples' keys.
        pool: the keys of the train samples.
        seed: of the permutation.
    """
    if len(pool) < 2:
        raise UserError("Shuffled captions need at least two train samples: use a larger corpus.")
    start = np.uint64(stream(seed, "shuffled"))
    ids = np.array([key_id(key) for key in pool], np.uint64)
    ring = [pool[place] for place in np.argsort(mix(ids ^ start), kind="stable")]
    places = {key: place for place, key in enumerate(ring)}

    def place(key: str) -> int:
        return places[key] + 1 if key in places else stream(seed, "shuffled", key)

    return [ring[place(key) % len(ring)] for key in keys]


def captions(rows: Sequence[Row], policy: str, *, seed: int = 0, pool: Sequence[Row] = ()) -> list[str]:
    """Captions of many samples.

    Args:
        rows: the samples.
        policy: a name in ``CAPTION_POLICIES``.
        seed: of keywords and of the shuffling.
        pool: the train samples, from which shuffled captions come; unused by the other policies.

    Raises:
        UserError: there is no such policy, or it shuffles and the pool has fewer than two samples.
    """
    chosen = find_policy(policy)
    if chosen.shuffled:
        by_key = {row["key"]: row for row in pool}
        rows = [by_key[key] for key in donors([row["key"] for row in rows], list(by_key), seed)]
    draws = _draws([row["key"] for row in rows], seed)
    return [_compose(row, chosen, of_row) for row, of_row in zip(rows, draws, strict=True)]
