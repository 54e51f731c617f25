"""One number about labelled pictures: what is tested on, and that it is what the probes say."""

from hashlib import sha256

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from paribus.errors import UserError
from paribus.study.single import both, split_labels

NAMES = ["ant", "bee", "cat"]


def contents(count):
    return [sha256(str(number).encode()).hexdigest() for number in range(count)]


def planted(count=240, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    labels = [NAMES[number % 3] for number in range(count)]
    centres = np.eye(3, 8, dtype=np.float32)
    noise = rng.normal(size=(count, 8)).astype(np.float32)
    return labels, centres[[number % 3 for number in range(count)]] + spread * noise


def test_a_quarter_of_each_label_is_tested_on_whatever_the_order():
    labels, _ = planted()
    split = split_labels(labels, contents(240), 0)
    assert split.names == ("ant", "bee", "cat") and not set(split.train) & set(split.test)
    assert np.bincount(split.classes[split.test]).tolist() == [20, 20, 20]
    turned = split_labels(labels[::-1], contents(240)[::-1], 0)
    assert sorted(239 - turned.test) == split.test.tolist()
    assert split_labels(labels, contents(240), 1).test.tolist() != split.test.tolist()


def test_equal_files_are_one_and_rare_labels_are_left_out_and_told():
    labels, _ = planted(24)
    labels += ["dog"] * 3 + [""] * 5 + ["ant"]
    same = [*contents(32), contents(1)[0]]
    split = split_labels(labels, same, 0)
    assert len(split.train) + len(split.test) == 24
    assert (split.unlabelled, split.rare) == (5, 3) and 32 not in {*split.train, *split.test}


@pytest.mark.parametrize("how", ["linear probe", "nearest neighbours"])
def test_what_is_planted_is_read(how):
    labels, features = planted()
    split = split_labels(labels, contents(240), 0)
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    found = both(how, features, noise, split)
    assert found.a.accuracy.value == 1.0 and found.a.chance == pytest.approx(1 / 3)
    assert found.b.accuracy.low < 1 / 3 < found.b.accuracy.high and found.p < 0.001


def test_neighbours_vote_as_sklearns():
    labels, features = planted(spread=0.8)
    split = split_labels(labels, contents(240), 0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    peer = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    peer.fit(unit[split.train], split.classes[split.train])
    share = peer.score(unit[split.test], split.classes[split.test])
    found = both("nearest neighbours", features, features, split).a
    assert found.accuracy.value == pytest.approx(share)


def test_too_few_labels_are_refused():
    with pytest.raises(UserError, match="There are 1 labels with at least 4 different pictures"):
        split_labels(["ant"] * 9 + ["bee"] * 3, contents(12), 0)
