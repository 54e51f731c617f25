"""Cutouts against the layers that the corpus was drawn from, and laying them on one another."""

import numpy as np
import pytest

from paribus.data.art import Art
from paribus.data.draw import COLOURS
from paribus.stimuli.cutouts import cut, mean_colour, one_ink_styles, outer, paste, pixels, scaled


def rows_of(corpus, count):
    rows = np.flatnonzero(corpus.columns["kind"] == "emoji")
    return np.random.default_rng(0).choice(rows, count, replace=False).tolist()


def cut_row(corpus, row):
    columns = corpus.columns
    ink = str(columns["colour"][row]) if columns["style"][row] in one_ink_styles() else None
    return cut(corpus.image(row), ink=ink, background=str(columns["background"][row]))


def placed(image, cutout, background):
    """The cutout on its own background, at the place where it fits the picture best."""
    height, width = cutout.shape[:2]
    best = np.inf
    for top in range(image.shape[0] - height + 1):
        for left in range(image.shape[1] - width + 1):
            canvas = np.ones(image.shape, np.float32) * np.float32(np.array(COLOURS[background]) / 255)
            paste(canvas, cutout, top, left)
            best = min(best, np.abs(pixels(canvas).astype(int) - image).max())
    return best


def test_a_cutout_on_its_own_background_is_the_picture_again(corpus):
    """But for margins fainter than 4 %, which are cropped, and near-white, which is white."""
    for row in rows_of(corpus, 40):
        found = placed(corpus.image(row), cut_row(corpus, row), str(corpus.columns["background"][row]))
        assert found <= 12, corpus.columns["key"][row]


@pytest.mark.parametrize("style", ["twemoji", "openmoji", "noto", "fluent-emoji-3d", "emojione-monotone"])
def test_alpha_is_that_of_the_art(corpus, shared_art, style):
    art = Art(shared_art)
    (package,) = [package for package in art.of_role("emoji") if package.style == style]
    rows = {key: row for row, key in enumerate(corpus.columns["key"].tolist())}
    overlaps = []
    for concept, drawing in art.emoji_set(package).drawings(art.concepts)[::12]:
        row = rows.get(f"{style}/{concept.slug}")
        if row is None:
            continue
        fill = COLOURS[str(corpus.columns["colour"][row])] if package.one_colour else None
        alpha = drawing.layer(48, fill)[..., 3] / 255
        got = cut_row(corpus, row)[..., 3]
        # Cropped as the cutout is, so that the two lie on each other.
        lines, columns = np.flatnonzero(alpha.max(axis=1) > 0.04), np.flatnonzero(alpha.max(axis=0) > 0.04)
        true = alpha[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]
        if true.shape == got.shape:
            overlaps.append(((true > 0.5) & (got > 0.5)).sum() / ((true > 0.5) | (got > 0.5)).sum())
    assert len(overlaps) > 50
    # White that is enclosed cannot be told from a hole.
    assert np.mean(overlaps) > 0.94


def test_one_ink_is_cut_out_exactly(corpus, shared_art):
    styles = corpus.columns["style"]
    row = int(np.flatnonzero((styles == "emojione-monotone") & (corpus.columns["background"] != "white"))[0])
    cutout = cut_row(corpus, row)
    expected = np.array(COLOURS[str(corpus.columns["colour"][row])]) / 255
    solid = cutout[..., 3] > 0.99
    assert solid.any()
    np.testing.assert_allclose(cutout[solid][:, :3], np.broadcast_to(expected, (solid.sum(), 3)), atol=0.02)
    np.testing.assert_allclose(mean_colour(cutout), expected, atol=1e-3)


def test_only_what_reaches_the_frame_is_outside():
    empty = np.zeros((7, 7), bool)
    empty[0] = empty[1, 3] = True
    empty[3:5, 3:5] = True
    reached = outer(empty)
    assert reached[0].all()
    assert reached[1, 3]
    assert not reached[3:5, 3:5].any()


def test_scaling_keeps_the_share_of_ink():
    rng = np.random.default_rng(1)
    cutout = np.zeros((40, 24, 4), np.float32)
    cutout[5:30, 4:20] = np.float32(rng.random((25, 16, 1))) * np.float32([0.5, 0.2, 0.1, 1])
    half = scaled(cutout, 0.5)
    assert half.shape == (20, 12, 4)
    assert half[..., 3].sum() * 4 == pytest.approx(cutout[..., 3].sum(), rel=1e-4)
    assert scaled(cutout, 0.001).shape == (1, 1, 4)


def test_the_later_lies_over_the_earlier():
    canvas = np.zeros((10, 10, 3), np.float32)
    red, blue = np.zeros((2, 6, 6, 4), np.float32)
    red[..., [0, 3]] = 1
    blue[..., [2, 3]] = 0.5
    first, second = paste(canvas, red, 0, 0), paste(canvas, blue, 3, 3)
    np.testing.assert_array_equal(canvas[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(canvas[4, 4], [0.5, 0, 0.5])
    np.testing.assert_array_equal(canvas[8, 8], [0, 0, 0.5])
    assert first.sum() == second.sum() == 36
