"""Every crop beside torchvision's v2 with the very same parameters, on PIL pictures and on 8-bit tensors.

The pixels are defined by what is done here (area averages, OpenCV's sums), so they are near, not the same.
What deviates, in levels of 255 on photographs: the resize by 1.0 to 1.3 on average and up to 29 at edges
(areas, where torchvision has antialiased cubics; a growing crop's cubics are of another family, 0.4 and 16);
hue by 0.4 and up to 11 (8-bit HSV is rounded otherwise); blur by 0.4 (PIL's repeated box) and, beside v2's
kernel on tensors, up to 65 along the border (repeated here, mirrored there); saturation by 0.4 and at most 1;
the others by rounding or not at all.
"""

import itertools

import cv2
import numpy as np
import peers  # noqa: F401 - mends torchvision
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from paribus.data import views
from paribus.data.views import draw_views, make_views
from paribus.objectives.dino import Dino
from paribus.objectives.joint import OWN
from paribus.rng import mix, stream

SIDE, SEED = 224, 5
JITTER = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
ORDERS = tuple(itertools.permutations(range(4)))


@pytest.fixture(scope="module")
def photos():
    rng, found = np.random.default_rng(0), []
    for number in range(12):
        photo = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
        h, w = rng.integers(250, 427, 2)
        top, left = rng.integers(0, photo.shape[0] - h + 1), rng.integers(0, photo.shape[1] - w + 1)
        found.append(np.ascontiguousarray(photo[top : top + h, left : left + w]))
    return found


def on_pil(photo):
    return Image.fromarray(photo)


def on_tensor(photo):
    return torch.from_numpy(photo).permute(2, 0, 1)


def levels(image):
    array = np.asarray(image) if isinstance(image, Image.Image) else image.permute(1, 2, 0).numpy()
    return array.astype(int)


def apart(ours, theirs):
    return np.abs(levels(ours) - levels(theirs))


def blurred(image, sigma):
    """DINO's blur of PIL pictures, and v2's of tensors, in the kernel that SimCLR's copies use."""
    if isinstance(image, Image.Image):
        return image.filter(ImageFilter.GaussianBlur(sigma))
    return F.gaussian_blur(image, [23, 23], [sigma, sigma])


def theirs(image, drawn, row, side):
    """One crop by torchvision's functions, in DINO's order, with what was drawn."""
    box = drawn.boxes[row].tolist()
    image = F.resized_crop(image, *box, [side, side], InterpolationMode.BICUBIC, antialias=True)
    if drawn.flip[row]:
        image = F.horizontal_flip(image)
    if drawn.order[row] >= 0:
        for operation in ORDERS[drawn.order[row]]:
            image = JITTER[operation](image, float(drawn.factors[row, operation]))
    if drawn.gray[row]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if drawn.sigma[row]:
        image = blurred(image, float(drawn.sigma[row]))
    return F.solarize(image, 128) if drawn.solarize[row] else image


def keys_of(ids):
    """What draws are keyed by in the first epoch."""
    return ids ^ mix(np.zeros(len(ids), np.uint64))


@pytest.mark.parametrize(("given", "mean", "largest"), [(on_pil, 4.0, 50), (on_tensor, 4.5, 80)])
@pytest.mark.parametrize("specs", [(OWN,), Dino.Config().views()], ids=["clip", "dino"])
def test_each_crop_is_near_torchvisions(photos, specs, given, mean, largest):
    ids, epoch = np.arange(len(photos), dtype=np.uint64), np.zeros(len(photos), np.int64)
    made = make_views(photos, ids, specs, image_size=SIDE, seed=SEED, epoch=epoch)
    sizes = np.array([photo.shape[:2] for photo in photos])
    means, happened = [], set()
    for spec in specs:
        side = round(spec.size * SIDE)
        for view in range(spec.count):
            drawn = draw_views(
                spec, stream(SEED, "views", spec.name, view), ids ^ mix(epoch.astype(np.uint64)), sizes
            )
            for row, photo in enumerate(photos):
                away = apart(made[spec.name][row, view], theirs(given(photo), drawn, row, side))
                assert away.mean() < mean, (spec.name, view, row)
                assert away.max() < largest, (spec.name, view, row)
                means.append(away.mean())
            happened |= {name for name in ("flip", "gray", "solarize") if getattr(drawn, name).any()}
    assert np.mean(means) < 1.6
    assert specs == (OWN,) or happened == {"flip", "gray", "solarize"}


def test_other_parameters_are_far(photos):
    """The bounds above tell crops apart: with a neighbour's parameters they are passed many times over."""
    ids, epoch = np.arange(len(photos), dtype=np.uint64), np.zeros(len(photos), np.int64)
    spec = Dino.Config().views()[2]
    made = make_views(photos, ids, (spec,), image_size=SIDE, seed=SEED, epoch=epoch)[spec.name]
    sizes = np.array([photo.shape[:2] for photo in photos])
    wrong = draw_views(spec, stream(SEED, "views", spec.name, 1), keys_of(ids), sizes)
    away = [
        apart(made[row, 0], theirs(on_pil(photo), wrong, row, made.shape[-1])).mean()
        for row, photo in enumerate(photos)
    ]
    assert np.median(away) > 20


def grey(image, _):
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarised(image, _):
    return cv2.LUT(image, views._SOLARIZED)


@pytest.mark.parametrize(
    ("ours", "peer", "values", "pil", "tensor"),
    [
        (lambda x, _: cv2.flip(x, 1), lambda x, _: F.horizontal_flip(x), [0], (0, 0), (0, 0)),
        (views.brightness, F.adjust_brightness, [0.6, 0.83, 1.4], (0, 0), (0, 0)),
        (views.contrast, F.adjust_contrast, [0.6, 0.83, 1.4], (0.2, 1), (0.6, 1)),
        (views.saturation, F.adjust_saturation, [0.8, 0.93, 1.2], (0.6, 1), (0.6, 1)),
        (views.hue, F.adjust_hue, [-0.1, 0.05, 0.1], (1.0, 15), (1.5, 15)),
        (grey, lambda x, _: F.rgb_to_grayscale(x, 3), [0], (0.01, 1), (0.6, 1)),
        (views.blur, blurred, [0.1, 0.5, 1.0, 2.0], (0.6, 35), (0.5, 80)),
        (solarised, lambda x, _: F.solarize(x, 128), [0], (0, 0), (0, 0)),
    ],
    ids=["flip", "brightness", "contrast", "saturation", "hue", "grey", "blur", "solarise"],
)
def test_which_operation_deviates_and_by_how_much(photos, ours, peer, values, pil, tensor):
    """On the same pixels: the mean difference of every photograph, and the largest of any pixel."""
    for photo, value in itertools.product(photos, values):
        pixels = views.crop_resize(photo, (0, 0, *photo.shape[:2]), SIDE)
        for given, (mean, largest) in ((on_pil, pil), (on_tensor, tensor)):
            away = np.abs(ours(pixels, value).astype(int) - levels(peer(given(pixels), value)))
            assert away.mean() <= mean, value
            assert away.max() <= largest, value


@pytest.mark.parametrize(
    ("side", "box", "mean", "largest"),
    [(224, None, 2.2, 40), (96, None, 2.6, 40), (224, (10, 10, 60, 70), 2.0, 25)],
)
def test_the_resize_deviates_most(photos, side, box, mean, largest):
    """Shrinking to a global and a local crop, and growing."""
    for photo in photos:
        cut = box or (0, 0, *photo.shape[:2])
        ours = views.crop_resize(photo, cut, side).astype(int)
        for given in (on_pil, on_tensor):
            peer = F.resized_crop(given(photo), *cut, [side, side], InterpolationMode.BICUBIC, antialias=True)
            away = np.abs(ours - levels(peer))
            assert away.mean() < mean
            assert away.max() < largest
