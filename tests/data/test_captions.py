"""Captions mention exactly the factors that their policy names."""

from collections import Counter

import numpy as np
import pytest

from paribus.data.captions import CAPTION_POLICIES, MOST_KEYWORDS, caption, captions, donors, usable_keywords
from paribus.data.draw import COLOURS
from paribus.errors import UserError

BASE = {"key": "noto/lemon", "text": "", "name": "lemon", "keywords": "fruit, nature, yellow, citrus, sour"}
LEMON = BASE | {"style": "noto-v1", "colour": "pink", "background": "black"}
WORD = {"key": "lora/cat", "text": "cat", "name": "cat", "keywords": "", "style": "Lora"}
CAT = WORD | {"colour": "red", "background": "white"}


def named(count: int) -> list[dict[str, str]]:
    return [LEMON | {"key": f"noto/{place}", "name": f"thing{place}"} for place in range(count)]


def test_what_each_policy_says_of_a_drawing():
    assert caption(LEMON, "style") == "a picture, in the noto v1 style"
    assert caption(LEMON, "colour") == "a picture, pink on black"
    assert caption(LEMON, "text") == "a picture"
    thing = caption(LEMON, "thing")
    assert thing.startswith("lemon")
    assert caption(LEMON, "all") == f"{thing}, in the noto v1 style, pink on black"


def test_what_each_policy_says_of_a_word():
    assert caption(CAT, "thing") == 'the word "cat"'
    assert caption(CAT, "text") == 'the word "cat"'
    assert caption(CAT, "style") == "a picture, in the Lora style"
    assert caption(CAT, "colour") == "a picture, red on white"
    assert caption(CAT, "all") == 'the word "cat", in the Lora style, red on white'


def test_thing_takes_zero_to_three_keywords_without_colours():
    rows = [LEMON | {"key": f"noto/{place}"} for place in range(400)]
    said = captions(rows, "thing")
    keywords = [text.split(", ")[1:] for text in said]
    assert {len(words) for words in keywords} == set(range(MOST_KEYWORDS + 1))
    assert all(len(set(words)) == len(words) for words in keywords)
    counts = Counter(word for words in keywords for word in words)
    assert set(counts) == {"fruit", "nature", "citrus", "sour"}
    # 400 rows, 1.5 keywords each, over four: 150 each, standard deviation about 10.
    assert all(110 < count < 190 for count in counts.values())


def test_keywords_neither_repeat_the_name_nor_name_a_colour():
    row = LEMON | {"name": "Red apple", "keywords": "apple, red, gray sky, fruit, " + ", ".join(COLOURS)}
    assert usable_keywords(row) == ["fruit"]


def test_captions_depend_on_key_row_and_seed_only():
    rows = [LEMON | {"key": f"noto/{place}"} for place in range(50)]
    together = captions(rows, "thing", seed=1)
    assert [caption(row, "thing", seed=1) for row in rows] == together
    assert captions(rows[::-1], "thing", seed=1) == together[::-1]
    assert captions(rows, "thing", seed=2) != together


@pytest.mark.parametrize("policy", sorted(CAPTION_POLICIES))
def test_every_policy_speaks_of_every_row(policy):
    rows = [*named(5), CAT]
    said = captions(rows, policy, pool=rows)
    assert len(said) == 6
    assert all(said)


def test_shuffled_permutes_the_pool_and_nobody_keeps_their_own():
    rows = named(101)
    things, said = captions(rows, "thing"), captions(rows, "shuffled", pool=rows)
    assert sorted(said) == sorted(things)
    assert all(mine != own for mine, own in zip(said, things, strict=True))
    assert said != captions(rows, "shuffled", pool=rows, seed=1)


def test_shuffling_does_not_depend_on_the_order_of_rows_or_pool():
    rows = named(40)
    said = captions(rows, "shuffled", pool=rows)
    order = np.random.default_rng(0).permutation(40)
    again = captions([rows[place] for place in order], "shuffled", pool=rows[::-1])
    assert again == [said[place] for place in order]


def test_a_sample_outside_the_pool_gets_a_train_caption():
    pool, outside = named(30), LEMON | {"key": "noto/outside", "name": "outside"}
    [said] = captions([outside], "shuffled", pool=pool)
    assert said in captions(pool, "thing")
    keys = [f"x{place}" for place in range(3000)]
    counts = Counter(donors(keys, [row["key"] for row in pool], 0))
    assert len(counts) == 30
    assert max(counts.values()) < 150


def test_one_donor_is_named_by_the_caller():
    assert caption(LEMON, "shuffled", donor=CAT) == 'the word "cat"'
    with pytest.raises(ValueError, match="donor"):
        caption(LEMON, "shuffled")


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"'poem'.*thing"):
        caption(LEMON, "poem")
    with pytest.raises(UserError, match="two train samples"):
        captions([LEMON], "shuffled", pool=[LEMON])
