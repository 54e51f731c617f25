"""Drawings against geometry, loop-form float64 programs and published colour formulas."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from paribus.data import draw
from paribus.data.draw import COLOURS, BitmapArt, Cell, Job, SvgArt, WordArt
from paribus.errors import UserError

ICONS = Path(__file__).parents[1] / "fixtures" / "icons"
FONTS = ICONS / "node_modules" / "@expo-google-fonts"
CHEWY = FONTS / "chewy" / "400Regular" / "Chewy_400Regular.ttf"
ELITE = FONTS / "special-elite" / "400Regular" / "SpecialElite_400Regular.ttf"
ASTRONAUT = ICONS / "node_modules" / "@lobehub" / "fluent-emoji-3d" / "assets" / "1f9d1-200d-1f680.webp"


def lab_loop(rgb: tuple[int, int, int]) -> list[float]:
    """CIELAB of an sRGB colour under D65, written out from the CIE's definition."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    white = [sum(row) for row in matrix]
    ratios = [
        sum(m * v for m, v in zip(row, linear, strict=True)) / w for row, w in zip(matrix, white, strict=True)
    ]
    x, y, z = (r ** (1 / 3) if r > (6 / 29) ** 3 else r / (3 * (6 / 29) ** 2) + 4 / 29 for r in ratios)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_lab_is_the_cie_formula():
    colours = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    expected = [lab_loop(tuple(map(int, colour))) for colour in colours]
    np.testing.assert_allclose(draw.lab(colours), expected, atol=0.25)


def test_contrast_matches_wcag_examples():
    assert draw.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)
    assert draw.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)
    assert draw.contrast((255, 255, 255), (118, 118, 118)) == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("term", COLOURS)
def test_every_fill_has_backgrounds_that_it_stands_out_from(term):
    grounds = draw.backgrounds(term)
    assert len(grounds) >= 2
    assert term not in grounds
    assert all(draw.contrast(COLOURS[term], COLOURS[ground]) >= 3 for ground in grounds)


def test_composite_is_source_over():
    rng = np.random.default_rng(1)
    layer, ground = rng.integers(0, 256, (9, 9, 4), dtype=np.uint8), (200, 10, 90)
    got = draw.composite(layer, ground)
    for row in range(9):
        for column in range(9):
            *colour, alpha = map(int, layer[row, column])
            for channel in range(3):
                exact = colour[channel] * alpha / 255 + ground[channel] * (1 - alpha / 255)
                assert abs(int(got[row, column, channel]) - exact) <= 0.5 + 1e-9


def test_svg_is_letterboxed_and_not_stretched():
    image = draw.draw_svg('<path d="M0 0h10v20h-10z" fill="#ff0000"/>', 10, 20, 40, background=(0, 0, 255))
    np.testing.assert_array_equal(image[:, 10:30], np.full((40, 20, 3), (255, 0, 0)))
    np.testing.assert_array_equal(image[:, :10], np.full((40, 10, 3), (0, 0, 255)))
    np.testing.assert_array_equal(image[:, 30:], np.full((40, 10, 3), (0, 0, 255)))


def test_svg_view_box_may_start_anywhere():
    body = '<rect x="-8" y="4" width="8" height="8" fill="#00ff00"/>'
    layer = draw.svg_layer(body, 8, 8, 16, left=-8, top=4)
    np.testing.assert_array_equal(layer, np.full((16, 16, 4), (0, 255, 0, 255)))


def test_svg_covers_what_geometry_says():
    layer = draw.svg_layer('<circle cx="32" cy="32" r="25"/>', 64, 64, 64)
    assert layer[..., 3].sum() / 255 == pytest.approx(math.pi * 25**2, rel=0.005)


def test_fill_replaces_current_colour_only():
    body = '<path d="M0 0h8v16H0z" fill="currentColor"/><path d="M8 0h8v16H8z" fill="#0000ff"/>'
    image = draw.draw_svg(body, 16, 16, 16, fill=(1, 2, 3))
    np.testing.assert_array_equal(image[0, 0], (1, 2, 3))
    np.testing.assert_array_equal(image[0, 15], (0, 0, 255))


def test_mirrored_is_flipped_about_the_middle_of_the_view_box():
    body = '<path d="M3 2h4v9h-2z" fill="#123456"/>'
    kwargs = {"left": 1.0, "top": 0.0}
    straight = draw.svg_layer(body, 16, 16, 64, **kwargs)
    mirrored = draw.svg_layer(body, 16, 16, 64, **kwargs, mirrored=True)
    assert straight[..., 3].any()
    # Antialiasing may round one step differently from the other side.
    assert np.abs(straight[:, ::-1].astype(int) - mirrored).max() <= 40
    assert np.abs(straight[:, ::-1].astype(int) - mirrored).mean() < 0.5


def test_broken_svg_says_which():
    with pytest.raises(UserError, match="<path d="):
        draw.draw_svg('<path d="M0', 8, 8, 8)


def box_average(picture: np.ndarray, size: int) -> np.ndarray:
    """Premultiplied area average of an RGBA picture whose side is a multiple of ``size``, pixel by pixel."""
    step = picture.shape[0] // size
    out = np.zeros((size, size, 4))
    for row in range(size):
        for column in range(size):
            block = picture[row * step : (row + 1) * step, column * step : (column + 1) * step].reshape(-1, 4)
            weight = block[:, 3].astype(np.float64).sum()
            out[row, column, 3] = weight / len(block)
            if weight:
                out[row, column, :3] = (block[:, :3] * block[:, 3:].astype(np.float64)).sum(axis=0) / weight
    return out


def test_bitmap_is_averaged_by_alpha(tmp_path):
    rng = np.random.default_rng(2)
    rgba = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    rgba[:32, :, 3] = 0
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    layer = draw.bitmap_layer(tmp_path / "a.png", 16)
    expected = box_average(rgba, 16)
    np.testing.assert_allclose(layer[..., 3], expected[..., 3], atol=0.51)
    seen = expected[..., 3] > 0
    np.testing.assert_allclose(layer[seen][:, :3], expected[seen][:, :3], atol=0.51)


def test_bitmap_of_another_shape_is_letterboxed(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((20, 40, 3), (255, 0, 0), np.uint8))
    layer = draw.bitmap_layer(tmp_path / "wide.png", 20)
    np.testing.assert_array_equal(layer[5:15], np.full((10, 20, 4), (0, 0, 255, 255)))
    assert not layer[:5, :, 3].any()
    assert not layer[15:, :, 3].any()


def test_webp_of_the_3d_set_is_drawn():
    layer = draw.bitmap_layer(ASTRONAUT, 48)
    assert 0.3 < (layer[..., 3] > 127).mean() < 0.95
    assert layer[0, 0, 3] == 0


def test_missing_or_broken_pictures_and_fonts_are_named(tmp_path):
    (tmp_path / "b.webp").write_bytes(b"RIFFxxxx")
    with pytest.raises(UserError, match=r"b\.webp"):
        draw.bitmap_layer(tmp_path / "b.webp", 8)
    with pytest.raises(UserError, match=r"none\.ttf"):
        draw.draw_text("cat", tmp_path / "none.ttf", 48, fill=(0, 0, 0), background=(255, 255, 255))


@pytest.mark.parametrize("font", [CHEWY, ELITE], ids=["chewy", "special-elite"])
@pytest.mark.parametrize("word", ["cat", "jig", "queue", "mmmmm", "ill"])
@pytest.mark.parametrize("size", [48, 224])
def test_words_fit_fill_and_are_centred(font, word, size):
    layer = draw.text_layer(word, font, size, fill=(9, 9, 9), margin=0.06)
    rows, columns = np.nonzero(layer[..., 3])
    box = size * (1 - 2 * 0.06)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    assert box * 0.97 - 1.5 <= extent <= box
    assert abs((rows.min() + rows.max() + 1) / 2 - size / 2) <= 0.5
    assert abs((columns.min() + columns.max() + 1) / 2 - size / 2) <= 0.5


def test_words_that_differ_by_a_letter_look_different():
    paint = {"fill": (0, 0, 0), "background": (255, 255, 255)}
    first, second = (draw.draw_text(word, CHEWY, 48, **paint).astype(int) for word in ("coast", "toast"))
    assert (np.abs(first - second).max(axis=-1) > 100).sum() > 20


def test_missing_letters_are_found():
    assert draw.missing_letters(CHEWY) == ""
    assert draw.missing_letters(CHEWY, "ab中c한") == "中한"


@pytest.mark.parametrize("term", COLOURS)
def test_the_colour_of_a_filled_shape_is_its_fill(term):
    ground = draw.backgrounds(term)[0]
    body = '<circle cx="16" cy="16" r="10" fill="currentColor"/>'
    image = draw.draw_svg(body, 32, 32, 48, fill=COLOURS[term], background=COLOURS[ground])
    assert draw.dominant_colour(image) == term
    word = draw.draw_text("hue", CHEWY, 48, fill=COLOURS[term], background=COLOURS[ground])
    mask = draw.text_layer("hue", CHEWY, 48, fill=COLOURS[term])[..., 3] > 127
    assert draw.dominant_colour(word, mask) == term


@pytest.mark.parametrize(
    ("rgb", "term"),
    [
        *[((150, 205, 240), "blue"), ((10, 30, 90), "blue"), ((20, 90, 40), "green")],
        *[((255, 221, 103), "yellow"), ((245, 90, 80), "red"), ((190, 190, 195), "grey")],
        *[((255, 150, 50), "orange"), ((90, 60, 40), "brown")],
    ],
)
def test_shades_go_by_their_term(rgb, term):
    image = np.full((8, 8, 3), rgb, np.uint8)
    assert draw.dominant_colour(image) == term


def test_shares_count_pixels_of_the_drawing_only():
    image = np.full((10, 10, 3), 255, np.uint8)
    image[2:8, 2:4] = COLOURS["red"]
    image[2:8, 4:8] = COLOURS["blue"]
    shares = draw.colour_shares(image)
    assert shares["blue"] == pytest.approx(2 / 3)
    assert shares["red"] == pytest.approx(1 / 3)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_png_is_lossless():
    image = np.random.default_rng(3).integers(0, 256, (31, 31, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw.decode(np.frombuffer(draw.encode(image), np.uint8)), image)
    with pytest.raises(ValueError, match="not a picture"):
        draw.decode(np.zeros(16, np.uint8))


def test_a_job_says_what_was_drawn():
    square = SvgArt('<path d="M0 0h16v8H0z" fill="currentColor"/>', 16, 16)
    red = draw.draw(Job(square, "red", "white", 16))
    blue = draw.draw(Job(square, "blue", "yellow", 16))
    assert (red.colour, blue.colour) == ("red", "blue")
    assert red.ink == 0.5
    assert red.shape == blue.shape
    assert red.sha256 != blue.sha256
    own = draw.draw(Job(BitmapArt(ASTRONAUT), None, "white", 48))
    assert own.colour in COLOURS
    assert draw.draw(Job(WordArt("cat", CHEWY), "red", "white", 48)).shape != red.shape


def test_sheet_shows_its_pictures():
    red = np.full((48, 48, 3), COLOURS["red"], np.uint8)
    page = draw.sheet(
        [("first", [Cell(red, "a rather long label that wraps"), None]), ("second", [Cell(red, "")])]
    )
    assert (page == COLOURS["red"]).all(axis=-1).sum() >= 2 * 90 * 90
    assert (page < 100).all(axis=-1).any()
