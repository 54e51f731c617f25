"""Factors measured from pictures: against definitions, by what must not change them, and on planted truth."""

import math
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab
from sklearn.datasets import load_sample_images
from sklearn.feature_extraction.text import TfidfTransformer

from paribus.analysis import measured as module
from paribus.analysis import reading
from paribus.analysis.factors import factor_difference, factor_effects
from paribus.analysis.measured import (
    COLOURS,
    emd,
    lab,
    meaning,
    measure_pictures,
    pairs_of,
    palette,
    square,
    text_factors,
    vectors_alike,
    words_alike,
)
from paribus.errors import UserError

CHINA, FLOWER = (photo[:384, :512] for photo in load_sample_images().images)


def pieces(count, side=64, seed=0):
    rng, photos = np.random.default_rng(seed), load_sample_images().images
    for number in range(count):
        photo = photos[number % 2]
        top, left = rng.integers(0, photo.shape[0] - side), rng.integers(0, photo.shape[1] - side)
        yield photo[top : top + side, left : left + side]


def likeness(*images):
    """Of the first picture with each of the others."""
    looked = measure_pictures(images)
    others = np.arange(1, len(images))
    return looked.likeness(np.zeros_like(others), others)


def test_lab_equals_known_colours():
    """Of the CIE's own white, and of the primaries as published for sRGB (Lindbloom), to two decimals."""
    known = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (0, 0, 0): (0.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.74, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (128, 128, 128): (53.59, 0.0, 0.0),
    }
    image = np.array([list(known)], dtype=np.uint8)
    assert np.allclose(lab(image)[0], list(known.values()), atol=0.006)


def cie_lab(rgb):
    """One colour from the definitions alone: the matrix out of sRGB's chromaticities and D65's white."""
    primaries = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.95047, 1.0, 1.08883])
    matrix = columns * np.linalg.solve(columns, white)
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
    ratios = [float(row @ linear) / w for row, w in zip(matrix, white, strict=True)]
    f = [r ** (1 / 3) if r > (6 / 29) ** 3 else r * (29 / 6) ** 2 / 3 + 4 / 29 for r in ratios]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def test_lab_is_the_cies_definition():
    steps = np.arange(0, 256, 17)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    dark = np.repeat(np.arange(14, dtype=np.uint8), 3).reshape(1, -1, 3)
    for image in (colours, dark):
        expected = [cie_lab(colour) for colour in image[0].tolist()]
        assert np.abs(lab(image)[0] - expected).max() < 1e-3


def test_lab_is_scikit_images():
    """To the six digits of its matrix's entries."""
    assert np.abs(lab(FLOWER) - rgb2lab(FLOWER)).max() < 0.01


def test_lab_is_opencvs_but_for_its_table():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    theirs = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    assert np.abs(lab(image) - theirs).max() < 0.5 and np.abs(lab(image) - theirs).mean() < 0.1


def test_emd_is_the_optimal_transport():
    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = rng.normal(size=(2, COLOURS, 3)) * 30
        cost = np.linalg.norm(a[:, None] - b[None], axis=2)
        sums = np.zeros((2 * COLOURS, COLOURS**2))
        for at in range(COLOURS):
            sums[at, at * COLOURS : (at + 1) * COLOURS] = 1
            sums[COLOURS + at, at::COLOURS] = 1
        plan = linprog(cost.ravel(), A_eq=sums, b_eq=np.full(2 * COLOURS, 1 / COLOURS))
        assert emd(a, b) == pytest.approx(plan.fun)
    line = np.zeros((2, COLOURS, 3))
    line[:, :, 0] = rng.normal(size=(2, COLOURS)) * 20
    assert emd(*line) == pytest.approx(wasserstein_distance(line[0, :, 0], line[1, :, 0]))
    assert emd(line[0], line[0]) == 0.0


def test_a_palette_is_of_equal_shares():
    pixels = np.repeat(np.array([[10.0, 0, 0], [90.0, 20, -20]]), [300, 100], axis=0)
    found = palette(np.random.default_rng(0).permutation(pixels))
    assert found.shape == (COLOURS, 3) and (found[:, 0] == 90).sum() == COLOURS // 4
    assert np.array_equal(palette(pixels[:1]), np.repeat(pixels[:1], COLOURS, axis=0))
    whole = lab(CHINA).reshape(-1, 3)
    assert np.allclose(palette(whole).mean(axis=0), whole.mean(axis=0), atol=0.1)


def test_what_is_turned_over_keeps_its_colours_and_loses_its_layout():
    alike = likeness(CHINA, CHINA[::-1, ::-1], FLOWER)
    assert alike["colour"][0] > -1.0 > -10 > alike["colour"][1]
    assert alike["texture"][0] > -0.3 > alike["texture"][1]
    assert alike["layout"][0] < 0.5


def test_what_is_recoloured_keeps_texture_and_layout():
    """Hue turned and luminance kept."""
    space = cv2.cvtColor(CHINA.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    space[..., 1], space[..., 2] = -space[..., 2], space[..., 1].copy()
    turned = np.clip(cv2.cvtColor(space, cv2.COLOR_LAB2RGB) * 255, 0, 255).astype(np.uint8)
    alike = likeness(CHINA, turned, FLOWER)
    assert alike["colour"][0] < -8
    assert alike["texture"][0] > alike["texture"][1] + 0.5 and alike["layout"][0] > 0.95


def test_what_is_shuffled_in_blocks_keeps_colour_and_texture_alone():
    blocks = [CHINA[i : i + 128, j : j + 128] for i in range(0, 384, 128) for j in range(0, 512, 128)]
    mixed = [blocks[at] for at in np.random.default_rng(0).permutation(len(blocks))]
    shuffled = np.concatenate([np.concatenate(mixed[at : at + 4], axis=1) for at in range(0, 12, 4)])
    alike = likeness(CHINA, shuffled, FLOWER, *pieces(30, side=150))
    assert alike["colour"][0] > -3
    assert alike["texture"][0] > np.quantile(alike["texture"][1:], 0.75)
    assert abs(alike["layout"][0]) < 0.5


def test_size_is_no_matter():
    small = cv2.resize(CHINA, (200, 150), interpolation=cv2.INTER_AREA)
    alike = likeness(CHINA, small, FLOWER)
    assert alike["colour"][0] > -1 and alike["layout"][0] > 0.99
    assert alike["texture"][0] > alike["texture"][1] + 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (64, 64)])
def test_pictures_of_one_colour_or_a_pixel_are_measured(shape):
    flat = np.full((*shape, 3), (10, 200, 30), np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(CHINA, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    looked = measure_pictures([flat, grey, CHINA, flat])
    left, right = pairs_of(4)
    alike = looked.likeness(left, right)
    assert len(looked) == 4 and all(np.isfinite(values).all() for values in alike.values())
    assert alike["colour"][2] == 0.0 and alike["texture"][2] == 0.0 and alike["layout"][2] == 0.0


def test_words_and_meaning_equal_their_definitions():
    words = [{"stop", "ahead"}, {"stop"}, set(), {"exit", "ahead"}]
    found = words_alike(words)
    for i, one in enumerate(words):
        for j, other in enumerate(words):
            share = len(one & other) / len(one | other) if i != j and one | other else 0.0
            assert found[i, j] == pytest.approx(share)
    texts = ["a red apple", "A red red car", "", "a blue car"]
    counts = np.array([[1, 1, 1, 0, 0], [1, 2, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1]])
    sparse = TfidfTransformer(norm=None, smooth_idf=False, sublinear_tf=True).fit_transform(counts).toarray()
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    expected = sparse - tf  # scikit-learn adds one to every idf
    rows = meaning(texts)
    assert np.allclose(np.sort(rows, axis=1), np.sort(expected, axis=1))
    alike = vectors_alike(rows)
    norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-12)
    cosine = expected @ expected.T / norms[:, None] / norms[None]
    np.fill_diagonal(cosine, 0.0)
    assert np.allclose(alike, cosine) and not vectors_alike(meaning(["", ""])).any()


def test_a_square_holds_all_pairs():
    values = np.arange(6.0) + 1
    found = square(values, 4)
    assert np.array_equal(found, found.T) and not np.diag(found).any()
    assert [found[i, j] for i, j in zip(*pairs_of(4), strict=True)] == values.tolist()


def test_similarities_are_of_all_pairs_and_blocks_change_nothing(monkeypatch):
    looked = measure_pictures(pieces(9))
    rows = np.array([7, 2, 5, 0])
    found = looked.similarities(rows)
    assert list(found) == ["colour", "texture", "layout"]
    for name, alike in found.items():
        assert np.array_equal(alike, alike.T) and not np.diag(alike).any()
        one = looked.likeness(rows[1:2], rows[3:4])[name]
        assert alike[1, 3] == one[0]
    assert found["colour"][0, 1] == -emd(looked.palettes[7], looked.palettes[2])
    monkeypatch.setattr(module, "_BLOCK", 4)
    for name, alike in looked.similarities(rows).items():
        assert np.array_equal(alike, found[name])


def test_no_pictures_are_an_error():
    with pytest.raises(UserError, match="no pictures to measure"):
        measure_pictures(iter(()))


# Words in pictures.


def test_text_is_a_label_and_a_number():
    words = [{"stop"}, {"exit"}, set(), {"stop", "ahead"}] * 5
    found = text_factors(words)
    assert found["text"].tolist() == ["text", "text", "", "text"] * 5
    assert np.array_equal(found["words"], words_alike(words))
    features = np.random.default_rng(0).normal(size=(20, 3))
    effects = factor_effects(features, found, seed=0, draws=10)
    assert effects.shared == {"text": 15 * 14 // 2} and set(effects.beta) == {"text", "words"}


def test_words_are_without_case_and_punctuation():
    assert reading.words_of(["STOP ahead!", "Exit-42", "\uff25xit", "--"]) == {"stop", "ahead", "exit", "42"}


def test_an_absent_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(UserError, match=r"pip install 'paribus\[ocr\]'"):
        reading.read_words([])


def test_the_reader_sees_blue_first_and_nothing_too_low(monkeypatch):
    seen = []

    def engine(image):
        seen.append(image)
        return SimpleNamespace(txts=("A b",) if image[0, 0, 0] == 30 else None)

    monkeypatch.setattr(reading, "reader", lambda: engine)
    shapes = [(20, 30), (2000, 4000), (1, 300), (8, 5000)]
    found = list(reading.read_words(np.full((*shape, 3), (10, 20, 30), np.uint8) for shape in shapes))
    assert found == [{"a", "b"}, {"a", "b"}, frozenset(), frozenset()]
    assert [image.shape for image in seen] == [(20, 30, 3), (480, 960, 3)]


def _refuse(*_):
    raise AssertionError("it asked the network")


def test_words_are_really_read(monkeypatch):
    """With every connection refused."""
    monkeypatch.setattr("socket.socket.connect", _refuse)
    image = np.full((240, 480, 3), 250, np.uint8)
    for line, text in enumerate(("STOP AHEAD", "Exit 42")):
        at = (30, 80 + 80 * line)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 1.5, (200, 20, 20), 3, cv2.LINE_AA)
    assert list(reading.read_words([image, image[:, :8]])) == [{"stop", "ahead", "exit", "42"}, frozenset()]


# The regression over pairs.


@pytest.fixture(scope="module")
def measured():
    """Factors of 120 pieces of photographs, as matrices."""
    looked = measure_pictures(pieces(120))
    return {name: square(values, 120) for name, values in looked.likeness(*pairs_of(120)).items()}


def standard(values):
    pairs = values[np.triu_indices(len(values), 1)]
    return (pairs - pairs.mean()) / pairs.std()


def test_numbers_are_regressed_as_by_statsmodels(measured):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 6))
    labels = np.array([f"l{number % 3}" for number in range(120)])
    found = factor_effects(features, {"label": labels, **measured}, seed=0, draws=20)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    same = (labels[:, None] == labels[None]).astype(float)[np.triu_indices(120, 1)]
    columns = np.stack([same, *(standard(values) for values in measured.values())], axis=1)
    fit = sm.OLS(standard(unit @ unit.T), sm.add_constant(columns)).fit()
    names = ["label", *measured]
    assert [found.coefficient[name].value for name in names] == pytest.approx(fit.params[1:])
    assert found.r2.value == pytest.approx(fit.rsquared)
    assert found.beta["label"].value == pytest.approx(fit.params[1] * same.std())
    for place, name in enumerate(names):
        without = sm.OLS(standard(unit @ unit.T), sm.add_constant(np.delete(columns, place, axis=1))).fit()
        assert found.unique_r2[name].value == pytest.approx(fit.rsquared - without.rsquared, abs=1e-9)
        if name != "label":
            assert found.beta[name].value == pytest.approx(found.coefficient[name].value)
    assert found.shared == {"label": int(same.sum())}


def seeing(alike, rank=40):
    """An encoder whose cosine is, as nearly as may be, the given likeness: its leading eigenvectors."""
    centred = np.where(np.eye(len(alike), dtype=bool), 0, alike)
    scale = np.abs(centred).max()
    values, vectors = np.linalg.eigh(centred / scale + np.eye(len(alike)))
    keep = np.argsort(-values)[:rank]
    return vectors[:, keep] * np.sqrt(np.maximum(values[keep], 0))


@pytest.mark.parametrize("name", ["colour", "texture", "layout"])
def test_an_encoder_that_sees_one_factor_is_found_out(measured, name):
    wanted = {each: (square(standard(values), 120)) for each, values in measured.items()}
    found = factor_effects(seeing(wanted[name]), measured, seed=0, draws=100)
    betas = found.beta
    assert betas[name].low > 0.5, betas
    others = [estimate for each, estimate in betas.items() if each != name]
    assert all(abs(estimate.value) < 0.35 * betas[name].value for estimate in others), betas
    assert found.unique_r2[name].low > max(found.unique_r2[each].high for each in measured if each != name)


def test_two_encoders_differ_by_what_each_sees(measured):
    wanted = {each: square(standard(values), 120) for each, values in measured.items()}
    found = factor_difference(seeing(wanted["colour"]), seeing(wanted["layout"]), measured, seed=0, draws=100)
    assert found.beta["colour"].low > 0.3 and found.beta["layout"].high < -0.3
    assert found.unique_r2["colour"].low > 0 > found.unique_r2["layout"].high


def linear(measured, weights, noise, seed):
    """A likeness that is a known mix of factors and noise."""
    rng = np.random.default_rng(seed)
    count = len(next(iter(measured.values())))
    error = square(rng.normal(size=count * (count - 1) // 2), count)
    mix = sum(weight * square(standard(measured[name]), count) for name, weight in weights.items())
    return mix + noise * error


def test_a_known_mix_is_recovered_within_its_intervals(measured, monkeypatch):
    """The cosine itself is planted, so that the truth is known exactly."""
    from paribus.analysis import factors as module

    weights = {"colour": 0.6, "texture": 0.0, "layout": 0.3}
    planted = linear(measured, weights, 0.7, seed=1)
    spread = math.sqrt(np.var(planted[np.triu_indices(120, 1)]))
    monkeypatch.setattr(module, "_standard_cosines", lambda features, whose: square(standard(planted), 120))
    found = factor_effects(np.zeros((120, 2)), measured, seed=0, draws=200)
    for name, weight in weights.items():
        assert found.beta[name].low <= weight / spread <= found.beta[name].high, (name, found.beta)
        assert found.beta[name].high - found.beta[name].low < 0.3


def encoder_of(alike):
    """Features whose cosine is exactly b * alike off the diagonal, for some b > 0: a Cholesky root."""
    values = alike / (1.1 * max(-np.linalg.eigvalsh(alike)[0], 1e-9))
    return np.linalg.cholesky(np.eye(len(alike)) + values)


def test_a_mix_that_is_planted_in_the_features_is_recovered(measured):
    """One encoder of colour and some layout, one of layout alone; noise of pairs on both."""
    weights = {"a": {"colour": 0.7, "layout": 0.3, "texture": 0.0}, "b": {"layout": 0.8}}
    planted = {side: linear(measured, mix, 0.5, seed=3) for side, mix in weights.items()}
    spread = {side: standard_deviation(values) for side, values in planted.items()}
    found = factor_difference(encoder_of(planted["a"]), encoder_of(planted["b"]), measured, seed=0, draws=300)
    for name in measured:
        truth = {side: weights[side].get(name, 0.0) / spread[side] for side in "ab"}
        for estimate, value in (
            (found.a.beta[name], truth["a"]),
            (found.b.beta[name], truth["b"]),
            (found.beta[name], truth["a"] - truth["b"]),
        ):
            assert estimate.low <= value <= estimate.high, (name, estimate, value)
    assert found.beta["colour"].low > 0 > found.beta["layout"].high
    assert found.b.unique_r2["colour"].low == 0 < found.a.unique_r2["colour"].low


def standard_deviation(values):
    return values[np.triu_indices(len(values), 1)].std()


def population(seed, count=60):
    """Three hidden factors, of which an encoder follows one, a little another, and the third not at all."""
    rng = np.random.default_rng(seed)
    hidden = {name: rng.normal(size=(count, 6)) for name in ("one", "two", "none")}
    noise = 0.8 * rng.normal(size=(count, 8))
    alike = {}
    for name, x in hidden.items():
        squares = (x**2).sum(axis=1)
        alike[name] = -np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0.0))
        np.fill_diagonal(alike[name], 0.0)
    return np.concatenate([hidden["one"], 0.6 * hidden["two"], noise], axis=1), alike


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Samples of an endless population, so that none is part of what it estimates.

    Measured with 1,000 samples of 60 pictures and 600 of 200, standard error under 1%: betas 94.9 to 96.5%
    and 95.0 to 95.3%, R2 95.4 and 94.5%, unique R2 of what matters 96 and 95%, of differences 95.5
    to 98.5% and 94.5 to 96.3%. Of factors in eight clusters betas 94 to 97%, R2 92.5 and 95.8%. Of log-normal
    ones, whose pairs hang on few pictures, betas 87 to 95% and 86 to 95%, R2 85 and 87%: neither BCa nor the
    jackknife mends that. ``unique_r2`` of a factor that does not matter: its low end is 0 where the
    coefficient's interval holds 0; percentiles alone would never hold it.
    """
    large = [factor_effects(*population(10_000 + at, 1200), seed=0, draws=2) for at in range(6)]
    quantities = {
        **{f"beta {name}": (lambda e, name=name: e.beta[name]) for name in ("one", "two", "none")},
        **{f"unique {name}": (lambda e, name=name: e.unique_r2[name]) for name in ("one", "none")},
        "r2": lambda e: e.r2,
    }
    truth = {name: np.mean([read(e).value for e in large]) for name, read in quantities.items()}
    truth |= {name: 0.0 for name in truth if name.endswith("none")}
    hits, trials = dict.fromkeys(quantities, 0), 300
    for trial in range(trials):
        effects = factor_effects(*population(trial), seed=trial, draws=200)
        for name, read in quantities.items():
            estimate = read(effects)
            hits[name] += estimate.low <= truth[name] <= estimate.high
    assert all(0.92 <= count / trials <= 0.99 for count in hits.values()), hits


def test_punctuation_is_no_part_of_a_word():
    told = meaning(["A beach.", "the BEACH, again", "a tree"])
    assert vectors_alike(told)[0, 1] > 0
