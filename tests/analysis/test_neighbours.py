"""The neighbour table against a loop over images, scikit-learn, and cases with known answers."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from paribus.analysis import neighbours
from paribus.analysis.neighbours import neighbour_table
from paribus.errors import UserError
from paribus.stats import bootstrap_mean

RNG = np.random.default_rng(0)
N = 60
FEATURES = RNG.normal(size=(N, 8)).astype(np.float32)
CONCEPT = np.array([f"c{c}" for c in RNG.integers(0, 15, N)])
STYLE = np.array([f"s{s}" for s in RNG.integers(0, 4, N)])
TEXT = np.array([f"t{t}" if t < 3 else "" for t in RNG.integers(0, 6, N)])
FACTORS = {"concept": CONCEPT, "style": STYLE, "text": TEXT}


def loop(labels: np.ndarray, forbidden: np.ndarray) -> tuple[np.ndarray, float]:
    """Hits (NaN: left out) and chance, one image and one neighbour at a time."""
    x = FEATURES.astype(float) / np.linalg.norm(FEATURES.astype(float), axis=1, keepdims=True)
    hits, chances = np.full(N, np.nan), []
    for i in range(N):
        pool = [j for j in range(N) if j != i and not forbidden[i, j]]
        matches = [j for j in pool if labels[j] == labels[i] and labels[i] != ""]
        if matches:
            hits[i] = max(pool, key=lambda j: x[i] @ x[j]) in matches
            chances.append(len(matches) / len(pool))
    return hits, float(np.mean(chances))


@pytest.mark.parametrize("cells", [1 << 22, 7 * N])
@pytest.mark.parametrize("exclude", [None, "labels", "matrix"])
def test_table_is_the_loop(exclude, cells, monkeypatch):
    monkeypatch.setattr(neighbours, "_CELLS", cells)
    matrix = np.random.default_rng(5).random((N, N)) < 0.5
    given = {"labels": STYLE, "matrix": matrix}.get(exclude)
    forbidden = {None: np.zeros((N, N), bool), "labels": STYLE[:, None] == STYLE, "matrix": matrix}[exclude]
    found = neighbour_table(FEATURES, FACTORS, exclude=given, clusters=CONCEPT, seed=2, draws=100)
    for name, labels in FACTORS.items():
        if exclude == "labels" and name == "style":
            continue
        hits, chance = loop(labels, forbidden)
        np.testing.assert_array_equal(found.hits[name], hits)
        used = np.isfinite(hits)
        assert found.left_out[name] == N - used.sum()
        assert found.chance[name] == pytest.approx(chance, rel=1e-12)
        assert found.table[name] == bootstrap_mean(hits[used], clusters=CONCEPT[used], seed=2, draws=100)


def test_table_agrees_with_sklearn():
    index = NearestNeighbors(n_neighbors=2, metric="cosine").fit(FEATURES).kneighbors(FEATURES)[1][:, 1]
    found = neighbour_table(FEATURES, {"style": STYLE}, clusters=CONCEPT, seed=0, draws=10)
    assert found.table["style"].value == (STYLE[index] == STYLE).mean()
    assert found.table["style"].n == len(np.unique(CONCEPT))


def test_excluding_the_style_leaves_nothing_to_share_of_it():
    found = neighbour_table(FEATURES, FACTORS, exclude=STYLE, clusters=CONCEPT, seed=0, draws=10)
    assert "style" not in found.table
    assert found.left_out["style"] == N
    assert np.isnan(found.hits["style"]).all()


def test_empty_exclusion_labels_forbid_nothing():
    blank = neighbour_table(FEATURES, FACTORS, exclude=np.full(N, ""), clusters=CONCEPT, seed=0, draws=10)
    plain = neighbour_table(FEATURES, FACTORS, clusters=CONCEPT, seed=0, draws=10)
    assert blank.table == plain.table


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_collapsed_encoder_scores_chance(noise):
    features = 1 + noise * RNG.normal(size=(N, 8))
    found = neighbour_table(features.astype(np.float32), FACTORS, clusters=CONCEPT, seed=0, draws=10)
    for name in FACTORS:
        assert found.table[name].value == pytest.approx(found.chance[name], rel=1e-12)


def test_ties_count_by_share_whatever_the_order():
    features = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    labels = np.array(["x", "x", "y", "x"])
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        found = neighbour_table(
            features[order], {"f": labels[order]}, clusters=np.arange(4), seed=0, draws=10
        )
        assert found.hits["f"][0] == 0.5
        assert found.hits["f"][3] == 0.5


def test_hits_of_two_encoders_pair():
    other = neighbour_table(FEATURES[:, ::-1] ** 3, FACTORS, clusters=CONCEPT, seed=0, draws=10)
    first = neighbour_table(FEATURES, FACTORS, clusters=CONCEPT, seed=0, draws=10)
    for name in FACTORS:
        np.testing.assert_array_equal(np.isnan(first.hits[name]), np.isnan(other.hits[name]))


@pytest.mark.parametrize("exclude", [np.zeros((N, N)), np.zeros(N - 1, bool), np.zeros((N, 2), bool)])
def test_bad_exclusions_are_named(exclude):
    with pytest.raises(UserError, match="exclude has shape"):
        neighbour_table(FEATURES, FACTORS, exclude=exclude, clusters=CONCEPT, seed=0)
