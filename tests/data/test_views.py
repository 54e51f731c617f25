"""Views: keyed draws, torchvision's crops, PIL's colour operations, no dependence on batching."""

import itertools
import math
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import ks_2samp, kstest
from sklearn.datasets import load_sample_image

from paribus.data import views
from paribus.data.views import crop_boxes, draw_views, make_views
from paribus.errors import UserError
from paribus.rng import mix, stream, uniforms
from paribus.types import ViewSpec

DINO = [
    ViewSpec(name="global1", scale=(0.4, 1.0), flip=0.5, jitter=0.8, grayscale=0.2, blur=1.0),
    ViewSpec(name="global2", scale=(0.4, 1.0), flip=0.5, jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2),
    ViewSpec(
        name="local", count=4, size=0.5, scale=(0.05, 0.4), flip=0.5, jitter=0.8, grayscale=0.2, blur=0.5
    ),
]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Forty pieces of two real photographs, of different sizes."""
    rng = np.random.default_rng(0)
    out = []
    for name, _ in itertools.product(("china.jpg", "flower.jpg"), range(20)):
        photo = load_sample_image(name)
        h, w = rng.integers(30, 120, 2)
        top, left = rng.integers(0, photo.shape[0] - h), rng.integers(0, photo.shape[1] - w)
        out.append(np.ascontiguousarray(photo[top : top + h, left : left + w]))
    return out


def batch(images, **changes):
    given = {"ids": np.arange(len(images), dtype=np.uint64), "epoch": np.zeros(len(images), np.int64)}
    given |= {"specs": DINO, "image_size": 48, "seed": 3} | changes
    return make_views(images, **given)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_shapes_dtype_and_range(photos):
    made = batch(photos)
    assert {name: tuple(view.shape) for name, view in made.items()} == {
        "global1": (40, 1, 3, 48, 48),
        "global2": (40, 1, 3, 48, 48),
        "local": (40, 4, 3, 24, 24),
    }
    for view in made.values():
        assert view.dtype == torch.uint8
        assert view.is_contiguous()
        assert view.min() < 25
        assert view.max() > 230


def test_any_batching_gives_the_same_pixels(photos):
    """Reversed, sample by sample, chunked by a pool of threads or processes: bit for bit the same."""
    whole = batch(photos)
    n = len(photos)
    ids = np.arange(n, dtype=np.uint64)
    back = batch(photos[::-1], ids=ids[::-1].copy())
    assert equal(whole, {name: view.flip(0) for name, view in back.items()})
    for row in (0, 17, n - 1):
        alone = batch(photos[row : row + 1], ids=ids[row : row + 1])
        assert equal({name: view[row : row + 1] for name, view in whole.items()}, alone)
    with ThreadPoolExecutor(3) as threads:
        assert equal(whole, batch(photos, pool=threads))
    with ProcessPoolExecutor(2) as processes:
        assert equal(whole, batch(photos, pool=processes))


def test_one_view_does_not_move_another(photos):
    """An arm that asks for more views still gets the same pixels for those it shares with another arm."""
    assert torch.equal(batch(photos)["global2"], batch(photos, specs=DINO[1:2])["global2"])
    more = batch(photos, specs=[DINO[2].model_copy(update={"count": 7})])
    assert torch.equal(batch(photos)["local"], more["local"][:, :4])


def test_each_key_matters(photos):
    """Seed, epoch, id, name and index each give different pixels."""
    base = batch(photos, specs=DINO[:1])["global1"]
    n = len(photos)
    renamed = DINO[0].model_copy(update={"name": "other"})
    others = [
        batch(photos, specs=DINO[:1], seed=4)["global1"],
        batch(photos, specs=DINO[:1], epoch=np.ones(n, np.int64))["global1"],
        batch(photos, specs=DINO[:1], ids=np.arange(n, dtype=np.uint64) + np.uint64(n))["global1"],
        batch(photos, specs=[renamed])["other"],
        batch(photos, specs=[DINO[0].model_copy(update={"count": 2})])["global1"][:, 1:],
    ]
    for other in others:
        assert (base != other).flatten(1).any(1).float().mean() > 0.97


def test_epochs_are_per_sample(photos):
    epochs = np.arange(len(photos), dtype=np.int64) % 2
    mixed = batch(photos, epoch=epochs)["global1"]
    first, second = (batch(photos, epoch=np.full(len(photos), e))["global1"] for e in (0, 1))
    assert torch.equal(
        mixed, torch.where(torch.from_numpy(epochs == 0)[:, None, None, None, None], first, second)
    )


def test_eval_view_is_the_image(photos):
    """Scale (1, 1) without photometric operations: the same pixels, whatever the seed and the epoch."""
    squares = [np.ascontiguousarray(photo[:30, :30]) for photo in photos]
    made = batch(squares, specs=[ViewSpec(name="eval")], image_size=30, seed=9)["eval"]
    expected = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    assert torch.equal(made[:, 0], expected)


def test_eval_view_takes_the_centred_square():
    image = np.zeros((20, 61, 3), np.uint8)
    image[:, 20:40] = 255
    made = batch([image, image.transpose(1, 0, 2)], specs=[ViewSpec(name="eval")], image_size=20)["eval"]
    assert made.min() == 255


def reference_get_params(height, width, scale, ratio, draw):
    """torchvision.transforms.RandomResizedCrop.get_params in its loop form; ``draw(kind, try)`` in [0, 1)."""
    area = height * width
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for attempt in range(10):
        target_area = area * (scale[0] + draw("area", attempt) * (scale[1] - scale[0]))
        aspect = math.exp(log_ratio[0] + draw("ratio", attempt) * (log_ratio[1] - log_ratio[0]))
        w = round(math.sqrt(target_area * aspect))
        h = round(math.sqrt(target_area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draw("top", 0) * (height - h + 1)), int(draw("left", 0) * (width - w + 1)), h, w
    in_ratio = width / height
    w, h = width, height
    if in_ratio < min(ratio):
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        w = round(h * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.25), (0.9, 1.0), (0.97, 1.0)])
def test_crops_equal_the_loop_form(scale):
    """Draw for draw equal to torchvision's loop, fallback included."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(5, 200, (3000, 2))
    sizes[::3] = 48
    spec = ViewSpec(name="v", scale=scale)
    u = uniforms(5, np.arange(3000, dtype=np.uint64), 22)
    boxes = crop_boxes(spec, u, sizes)
    slot = {"area": 0, "ratio": 10, "top": 20, "left": 21}
    for row, (h, w) in enumerate(sizes.tolist()):
        expected = reference_get_params(h, w, scale, spec.ratio, lambda kind, k, r=row: u[r, slot[kind] + k])
        assert tuple(boxes[row].tolist()) == expected


@pytest.mark.parametrize("size", [(48, 48), (60, 40)])
def test_crop_distribution(size):
    """Area, ratio and place of the drawn crops are distributed as an independently drawn loop's."""
    n = 4000
    spec = ViewSpec(name="v", scale=(0.25, 1.0))
    boxes = draw_views(spec, 11, np.arange(n, dtype=np.uint64), np.tile(np.array(size), (n, 1))).boxes
    rng = random.Random(2)
    other = np.array(
        [reference_get_params(*size, spec.scale, spec.ratio, lambda *_: rng.random()) for _ in range(n)]
    )
    for of in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        assert ks_2samp(of(boxes), of(other)).pvalue > 1e-3


def test_probabilities_and_strengths():
    """Operations happen as often as asked and independently; strengths are uniform; all orders occur."""
    n = 20_000
    spec = ViewSpec(name="v", flip=0.5, jitter=0.8, grayscale=0.2, blur=0.3, solarize=0.1)
    keys = np.arange(n, dtype=np.uint64)
    drawn = draw_views(spec, 7, keys, np.full((n, 2), 48), blur_ratio=0.5)
    happened = np.stack([drawn.flip, drawn.order >= 0, drawn.gray, drawn.sigma > 0, drawn.solarize], 1)
    asked = np.array([0.5, 0.8, 0.2, 0.3, 0.1])
    assert np.all(np.abs(happened.mean(0) - asked) < 4 * np.sqrt(asked * (1 - asked) / n))
    assert np.abs(np.corrcoef(happened.T) - np.eye(5)).max() < 4 / math.sqrt(n)
    for column, (low, width) in enumerate([(0.6, 0.8), (0.6, 0.8), (0.8, 0.4), (-0.1, 0.2)]):
        assert kstest(drawn.factors[:, column], "uniform", args=(low, width)).pvalue > 1e-3
    assert kstest(drawn.sigma[drawn.sigma > 0], "uniform", args=(0.05, 0.95)).pvalue > 1e-3
    orders = np.bincount(drawn.order[drawn.order >= 0], minlength=24)
    assert len(orders) == 24
    assert orders.min() > 0.8 * orders.mean()


def pil_hue(image: Image.Image, turns: float) -> Image.Image:
    """torchvision.transforms._functional_pil.adjust_hue."""
    h, s, v = image.convert("HSV").split()
    shifted = np.array(h, np.uint8) + np.array(turns * 255).astype(np.int32).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted, "L"), s, v)).convert("RGB")


PIL_JITTER = (
    lambda image, f: ImageEnhance.Brightness(image).enhance(f),
    lambda image, f: ImageEnhance.Contrast(image).enhance(f),
    lambda image, f: ImageEnhance.Color(image).enhance(f),
    pil_hue,
)


def distance(ours, theirs) -> np.ndarray:
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.parametrize("factor", [0.6, 0.83, 1.0, 1.17, 1.4])
def test_tone_operations_follow_pil(photos, factor):
    for photo in photos:
        for ours, theirs in zip(
            (views.brightness, views.contrast, views.saturation), PIL_JITTER[:3], strict=True
        ):
            apart = distance(ours(photo, factor), theirs(Image.fromarray(photo), factor))
            assert apart.mean() < 0.75
            assert apart.max() <= 2


@pytest.mark.parametrize("turns", [-0.1, -0.03, 0.0, 0.05, 0.1])
def test_hue_follows_pil(photos, turns):
    """PIL and OpenCV round 8-bit HSV differently: about a level on average."""
    apart = [
        distance(views.hue(photo, turns), pil_hue(Image.fromarray(photo), turns)).mean() for photo in photos
    ]
    assert max(apart) < 2.0
    assert np.mean(apart) < 1.3


def test_jitter_follows_pil_in_every_order(photos):
    rng = np.random.default_rng(4)
    apart = []
    for number, order in enumerate(itertools.permutations(range(4))):
        photo = photos[number]
        factors = [*rng.uniform(0.6, 1.4, 2), rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)]
        expected = Image.fromarray(photo)
        for operation in order:
            expected = PIL_JITTER[operation](expected, factors[operation])
        apart.append(distance(views.color_jitter(photo, number, factors), expected).mean())
    assert max(apart) < 2.5
    assert np.mean(apart) < 1.5


@pytest.mark.parametrize("sigma", [0.025, 0.1, 0.3, 0.5, 1.0, 2.0])
def test_blur_follows_pil(photos, sigma):
    for photo in photos:
        expected = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma))
        assert distance(views.blur(photo, sigma), expected).mean() < 1.5


@pytest.mark.parametrize("sigma", [0.025, 0.2, 0.5, 1.3, 2.0, 5.0])
def test_blur_kernel_has_the_variance_asked_for(sigma):
    kernel = views.blur_kernel(sigma)
    place = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1.0)
    assert kernel @ place**2 == pytest.approx(sigma**2)
    white = np.full((9, 9, 3), 255, np.uint8)
    assert np.array_equal(views.blur(white, sigma), white)


def test_grayscale_solarise_and_flip_follow_pil(photos):
    """Each certain on its own, through the public function; an eval crop keeps the geometry out of it."""
    squares = [np.ascontiguousarray(photo[:30, :30]) for photo in photos]
    references = {
        "grayscale": lambda image: image.convert("L").convert("RGB"),
        "solarize": lambda image: ImageOps.solarize(image, 128),
        "flip": ImageOps.mirror,
    }
    for name, reference in references.items():
        made = batch(squares, specs=[ViewSpec(name=name, **{name: 1.0})], image_size=30)[name][:, 0]
        pixels = made.numpy().transpose(0, 2, 3, 1)
        for ours, photo in zip(pixels, squares, strict=True):
            apart = distance(ours, reference(Image.fromarray(photo)))
            assert apart.max() <= (1 if name == "grayscale" else 0)


def test_operations_come_in_dino_order(photos):
    """Everything at once against the same chain written with PIL, from the same draws."""
    spec = ViewSpec(name="v", flip=1.0, jitter=1.0, blur=1.0, solarize=1.0)
    squares = [np.ascontiguousarray(photo[:30, :30]) for photo in photos]
    rendered = views._render(
        (
            squares,
            {"v": [draws := draw_views(spec, 1, np.arange(40, dtype=np.uint64), np.full((40, 2), 30))]},
            {"v": 30},
        )
    )["v"][:, 0].transpose(0, 2, 3, 1)
    orders = tuple(itertools.permutations(range(4)))
    apart = []
    for row, square in enumerate(squares):
        image = ImageOps.mirror(Image.fromarray(square))
        for operation in orders[draws.order[row]]:
            image = PIL_JITTER[operation](image, float(draws.factors[row, operation]))
        image = image.filter(ImageFilter.GaussianBlur(float(draws.sigma[row])))
        # Solarising is not continuous at 128: compare where the blurred value is not within rounding of it.
        blurred = np.asarray(image).astype(int)
        clear = np.abs(blurred - 128) > 8
        apart.append(distance(rendered[row], ImageOps.solarize(image, 128))[clear].mean())
    assert np.mean(apart) < 2.0


@pytest.mark.parametrize("shape", [(96, 96), (50, 70), (20, 23), (30, 64), (64, 30), (48, 48)])
def test_resize_follows_pil(shape):
    """Near PIL's antialiased bicubic on photographs, shrinking, growing and one of each."""
    photo = load_sample_image("china.jpg")[100 : 100 + shape[0], 200 : 200 + shape[1]]
    ours = views.crop_resize(photo, (0, 0, *shape), 48)
    theirs = Image.fromarray(photo).resize((48, 48), Image.Resampling.BICUBIC)
    assert distance(ours, theirs).mean() < 6.0
    plain = np.asarray(Image.fromarray(photo).resize((48, 48), Image.Resampling.NEAREST))
    if shape != (48, 48):
        assert distance(ours, theirs).mean() < 0.6 * distance(plain, theirs).mean()


def test_shrinking_does_not_alias():
    """A one-pixel checkerboard becomes grey, also where only one axis shrinks."""
    board = np.indices((96, 96)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    for box in ((0, 0, 96, 96), (3, 5, 20, 90), (0, 0, 90, 20)):
        small = views.crop_resize(image, box, 24)
        assert np.abs(small.astype(int) - 127.5).max() < 40


@pytest.mark.parametrize(("image_size", "ratio"), [(336, 1.5), (224, 1.0), (112, 0.5), (48, 0.25)])
def test_blur_scales_with_the_encoder_but_not_with_the_view(image_size, ratio):
    """DINO blurs 224 and 96 pixel crops with the same radius; small encoders stop at a quarter of it."""
    photo = load_sample_image("flower.jpg")
    for size in (1.0, 0.5):
        side = round(image_size * size)
        spec = ViewSpec(name="v", blur=1.0, size=size)
        image = np.ascontiguousarray(photo[:side, 100 : 100 + side])
        made = batch([image] * 6, specs=[spec], image_size=image_size)["v"][:, 0]
        keys = np.arange(6, dtype=np.uint64) ^ mix(np.zeros(1, np.uint64))
        drawn = draw_views(spec, stream(3, "views", "v", 0), keys, np.full((6, 2), side))
        expected = np.stack([views.blur(image, radius * ratio) for radius in drawn.sigma])
        assert np.array_equal(made.numpy(), expected.transpose(0, 3, 1, 2))


def test_inputs_are_left_alone(photos):
    before = [photo.copy() for photo in photos]
    batch(photos)
    assert all(np.array_equal(a, b) for a, b in zip(before, photos, strict=True))


def test_empty_batch():
    made = batch([], ids=np.empty(0, np.uint64), epoch=np.empty(0, np.int64))
    assert made["local"].shape == (0, 4, 3, 24, 24)


def test_bad_requests():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="share a name"):
        batch([image], specs=[ViewSpec(name="a"), ViewSpec(name="a")])
    with pytest.raises(UserError, match="no pixel"):
        batch([image], specs=[ViewSpec(name="a", size=0.01)])
    with pytest.raises(ValueError, match="one of each"):
        batch([image], ids=np.arange(2, dtype=np.uint64))
