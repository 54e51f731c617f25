"""Corruptions against loop-form float64 programs that draw the same, and against the published tables."""

import numpy as np
import pytest
from reference import corruptions as reference

from paribus.errors import UserError
from paribus.stimuli import blurs, weather
from paribus.stimuli.corruptions import CORRUPTIONS, SEVERITIES, STANDARD, corrupt, corruption_rng
from paribus.stimuli.severities import PUBLISHED, numbers

FAMILIES = {
    "noise": {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"},
    "blur": {"defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"},
    "weather": {"snow", "frost", "fog", "brightness", "spatter"},
    "digital": {"contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"},
}
PUBLISHED_ELSEWHERE = sorted(set(CORRUPTIONS) - {"frost"})
"""All whose pixels the published code decides."""


def natural(side, seed):
    """A picture whose spectrum falls as those of photographs do (Field 1987)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    white = np.fft.fft2(rng.normal(size=(4, side, side)))
    layers = np.fft.ifft2(white / frequency**1.1).real
    planes = np.stack([layers[3] + 0.4 * layer for layer in layers[:3]], axis=-1)
    values = 0.5 + 0.2 * (planes - planes.mean()) / planes.std()
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def test_families_are_the_published_ones():
    assert {f: {n for n, c in CORRUPTIONS.items() if c.family == f} for f in FAMILIES} == FAMILIES
    assert len(STANDARD) == 15
    extra = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert set(CORRUPTIONS) - set(STANDARD) == extra


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize(("side", "table"), [(224, reference.IMAGENET), (32, reference.CIFAR)])
def test_numbers_are_the_published_ones_where_there_are_any(name, side, table):
    for severity in SEVERITIES:
        assert numbers(name, severity, side) == pytest.approx(table[name][severity - 1], rel=1e-12)


def test_between_and_beyond_the_published_sizes():
    halfway = round((32 * 224) ** 0.5)
    assert numbers("contrast", 1, halfway)[0] == pytest.approx((0.75 + 0.4) / 2, abs=0.005)
    share = (0.4 / 32 + 1 / 224) / 2
    assert numbers("gaussian_blur", 1, halfway)[0] == pytest.approx(share * halfway, rel=0.01)
    assert numbers("motion_blur", 5, 448) == pytest.approx((40, 30))
    assert numbers("gaussian_blur", 5, 16)[0] == pytest.approx(0.5)
    assert numbers("jpeg_compression", 5, 448) == (7,)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", PUBLISHED_ELSEWHERE)
def test_agrees_with_the_reference(name, severity):
    image = natural(32, 7)
    got = corrupt(image, name, severity, np.random.default_rng(3))
    strength = reference.CIFAR[name][severity - 1]
    expected = getattr(reference, name)(image / 255.0, strength, np.random.default_rng(3))
    # Whole numbers are cut, so a rounding error may cost one step; OpenCV's warp weighs in steps of 1/32, and
    # Pillow rounds between rows and columns.
    allowed = {"elastic_transform": 6, "jpeg_compression": 2}.get(name, 1)
    difference = np.abs(got.astype(int) - np.floor(np.clip(expected, 0, 1) * 255 + 1e-4).astype(int))
    assert difference.max() <= allowed
    assert (difference > 0).mean() < (0.5 if allowed > 1 or name == "pixelate" else 0.02)


@pytest.mark.parametrize("name", ["glass_blur", "defocus_blur", "snow", "pixelate", "spatter", "fog"])
def test_agrees_with_the_reference_at_the_numbers_of_imagenet(name):
    """Wider than the small tables reach: larger discs, enlarged flakes, pixels moved further."""
    image = natural(40, 8) / 255.0
    for severity in (3, 5):
        strength = reference.IMAGENET[name][severity - 1]
        got = CORRUPTIONS[name].apply(image, strength, np.random.default_rng(5))
        expected = getattr(reference, name)(image, strength, np.random.default_rng(5))
        # Pillow works in eight bits.
        np.testing.assert_allclose(got, expected, atol=1.01 / 255 if name == "pixelate" else 1e-5)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize("shape", [(48, 48, 3), (224, 224, 3), (40, 64, 3)])
def test_any_shape_is_corrupted_and_not_written_to(name, shape):
    image = natural(max(shape), 1)[: shape[0], : shape[1]].copy()
    before = image.copy()
    got = corrupt(image, name, 5, corruption_rng(0, "a", name, 5))
    np.testing.assert_array_equal(image, before)
    assert got.shape == shape
    assert np.square(got.astype(float) - image).mean() > 10


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_pixels_depend_on_seed_picture_name_and_severity_alone(name):
    image = natural(48, 2)

    def made(seed, key):
        return corrupt(image, name, 3, corruption_rng(seed, key, name, 3))

    np.testing.assert_array_equal(made(0, "a"), made(0, "a"))
    if name not in {"brightness", "contrast", "defocus_blur", "gaussian_blur", "jpeg_compression", "pixelate",
                    "saturate", "zoom_blur"}:  # fmt: skip
        assert (made(0, "a") != made(0, "b")).any()
        assert (made(0, "a") != made(1, "a")).any()


UNEVEN = {"glass_blur", "elastic_transform", "saturate", "spatter", "frost"}
"""By the published numbers, more severe need not mean more changed here.

Glass trades distance for rounds; elastic goes from warps of the whole picture to small ripples; saturate
first takes colour away and then adds it; spatter goes from water to mud; frost dims as it whitens.
"""


@pytest.mark.parametrize("side", [32, 48, 224])
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - UNEVEN))
def test_change_grows_with_severity(name, side):
    images = [natural(side, seed) for seed in range(4 if side == 224 else 16)]
    change = [
        # The same draws at each severity, so that it alone differs.
        np.mean([
            np.square(corrupt(image, name, severity, np.random.default_rng(place)).astype(float) - image)
            for place, image in enumerate(images)
        ])
        for severity in SEVERITIES
    ]  # fmt: skip
    # Motion's third and fourth steps, and snow's second and third, are level by the published numbers.
    assert np.all(np.diff(change) > -0.01 * np.array(change[:-1])), change
    assert change[4] > 1.25 * change[0]


@pytest.mark.parametrize("name", sorted(UNEVEN))
def test_every_severity_of_the_uneven_ones_changes_something(name):
    image = natural(48, 4)
    for severity in SEVERITIES:
        got = corrupt(image, name, severity, np.random.default_rng(0))
        assert np.square(got.astype(float) - image).mean() > 5


NOTHING = {
    "gaussian_noise": (0,),
    "impulse_noise": (0,),
    "brightness": (0,),
    "contrast": (1,),
    "saturate": (1, 0),
    "fog": (0, 2),
    "pixelate": (1,),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_strength_is_no_change(name):
    image = natural(48, 5) / 255.0
    got = CORRUPTIONS[name].apply(image, NOTHING[name], np.random.default_rng(0))
    np.testing.assert_allclose(got, image, atol=1e-5)


def test_ice_is_bright_bluish_and_uneven():
    """Nothing is published to compare it with: it is light, cold, patchy, and never twice the same."""
    one, other = (weather.ice(np.zeros((64, 64, 3)), np.random.default_rng(seed)) for seed in (0, 1))
    assert 0.25 < one.mean() < 0.75
    assert (one[..., 2] > one[..., 0]).all()
    assert one.std(axis=(0, 1)).min() > 0.05
    assert np.abs(one - other).mean() > 0.05
    assert one.min() >= 0
    assert one.max() <= 1


def test_motion_trails_to_one_side_and_keeps_the_light():
    dot = np.zeros((31, 31))
    dot[15, 15] = 1
    moved = blurs.moving(dot, 4, 2.0, 0.0)
    assert moved.sum() == pytest.approx(1)
    assert moved[15, 7:16].sum() == pytest.approx(1)
    assert moved[15, 15] == moved.max()


@pytest.mark.parametrize(
    ("name", "severity", "shape", "words"),
    [
        ("rain", 1, (48, 48, 3), "Unknown corruption 'rain': choose among gaussian_noise"),
        ("snow", 0, (48, 48, 3), "There is no severity 0: choose a whole number from 1 to 5."),
        ("snow", 6, (48, 48, 3), "There is no severity 6"),
        ("snow", 1, (48, 8, 3), "A picture of 48 x 8 pixels is too small to corrupt"),
    ],
)
def test_what_is_not_there_is_refused(name, severity, shape, words):
    with pytest.raises(UserError, match=words):
        corrupt(np.zeros(shape, np.uint8), name, severity, np.random.default_rng(0))


def test_every_corruption_has_its_numbers():
    assert set(PUBLISHED) == set(CORRUPTIONS)
