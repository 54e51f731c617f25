"""Views of decoded pictures: the ways to make them that there are, in speed and in distance to PIL's pixels.

    .venv/bin/python benchmarks/views.py [--device cuda]

CLIP's view and DINO's two global and eight local crops of 512-pixel pictures, encoder at 224, in bytes (in
floats from ``torch`` and kornia). All but kornia's own pipeline get the same draws, so crops can be compared:
a distance is the mean difference, in levels of 255, to torchvision's v2 on PIL pictures. Ours are made by
OpenCV, in one thread; torch's ways run where ``--device`` says, with the pictures there already. On the CPU
everything has one thread, sides take turns and seconds are the processor's; on CUDA they are the clock's.

``torch``: a crop, its resize and its flip are two matrix products (area averages or cubics, as ours), colour
is a matrix a step (hue turns about YIQ's grey axis), blur a grouped convolution; batched, in float32.
"""

import argparse
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
import torch.nn.functional as TF
from inputs import photographs
from PIL import Image, ImageFilter

from paribus.data.areas import shrink
from paribus.data.decoding import decode_image
from paribus.data.views import _ORDERS, Draws, blur_kernel, draw_views, make_views, view_sides
from paribus.objectives.dino import Dino
from paribus.objectives.joint import OWN
from paribus.peers import mend_torchvision
from paribus.rng import mix, stream
from paribus.types import ViewSpec

mend_torchvision()

from torchvision.transforms.v2 import InterpolationMode  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402

try:
    import kornia.augmentation as K
except ImportError:
    K = None

SIDE, SEED, WIDEST = 224, 0, 13
LUMA = torch.tensor([0.299, 0.587, 0.114])
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
JITTER = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)

Pictures = list[np.ndarray]
Planned = list[tuple[str, int, Draws]]
"""Name, side and draws of each view."""


def planned(specs: tuple[ViewSpec, ...], ids: np.ndarray, sizes: np.ndarray) -> Planned:
    keys, sides = ids ^ mix(np.zeros(len(ids), np.uint64)), view_sides(specs, SIDE)
    return [
        (spec.name, sides[spec.name], draw_views(spec, stream(SEED, "views", spec.name, view), keys, sizes))
        for spec in specs
        for view in range(spec.count)
    ]


# torchvision, picture by picture.


def by_torchvision(images: list, plan: Planned) -> list[torch.Tensor]:
    """PIL pictures or 8-bit tensors; v2 takes one parameter a call, so nothing can be batched."""
    return [
        torch.stack([_one(image, draws, row, side) for row, image in enumerate(images)])
        for _, side, draws in plan
    ]


def _one(image, draws: Draws, row: int, side: int) -> torch.Tensor:
    box = draws.boxes[row].tolist()
    image = F.resized_crop(image, *box, [side, side], InterpolationMode.BICUBIC, antialias=True)
    if draws.flip[row]:
        image = F.horizontal_flip(image)
    if draws.order[row] >= 0:
        for operation in _ORDERS[draws.order[row]]:
            image = JITTER[operation](image, float(draws.factors[row, operation]))
    if draws.gray[row]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if sigma := float(draws.sigma[row]):
        pil = isinstance(image, Image.Image)
        blur = ImageFilter.GaussianBlur(sigma)
        image = image.filter(blur) if pil else F.gaussian_blur(image, [23, 23], [sigma, sigma])
    if draws.solarize[row]:
        image = F.solarize(image, 128)
    return F.to_image(image)


# Own batched torch.


@functools.lru_cache(4096)
def table(extent: int, side: int) -> np.ndarray:
    """What resizes ``extent`` pixels to ``side`` by area averages or cubics, ``[side extent]``."""
    way = cv2.INTER_AREA if extent >= side else cv2.INTER_CUBIC
    return cv2.resize(np.eye(extent, dtype=np.float32), (extent, side), interpolation=way)


def tables(starts: np.ndarray, extents: np.ndarray, size: int, side: int, flip: np.ndarray) -> torch.Tensor:
    made = np.zeros((len(starts), side, size), np.float32)
    for row, (start, extent) in enumerate(zip(starts.tolist(), extents.tolist(), strict=True)):
        made[row, :, start : start + extent] = table(extent, side)[:: -1 if flip[row] else 1]
    return torch.from_numpy(made)


def by_torch(pictures: torch.Tensor, plan: Planned) -> list[torch.Tensor]:
    """Floats ``[B 3 S S]`` in [0, 1] of bytes ``[B 3 H W]``, on their device."""
    return [_batched(pictures, draws, side) for _, side, draws in plan]


def _batched(pictures: torch.Tensor, draws: Draws, side: int) -> torch.Tensor:
    device, (top, left, h, w) = pictures.device, draws.boxes.T
    never = np.zeros_like(draws.flip)
    across = tables(left, w, pictures.shape[3], side, draws.flip).to(device)
    down = tables(top, h, pictures.shape[2], side, never).to(device)
    x = down[:, None] @ (pictures.float() @ across[:, None].mT) / 255
    x = x.clamp(0, 1)
    order = torch.tensor([_ORDERS[number] if number >= 0 else (-1,) * 4 for number in draws.order])
    for place in order.T if (order >= 0).any() else ():
        x = _coloured(x, place.to(device), torch.from_numpy(draws.factors).float().to(device))
    gray = torch.from_numpy(draws.gray).to(device)[:, None, None, None]
    if gray.any():
        x = torch.where(gray, torch.einsum("bchw,c->bhw", x, LUMA.to(device))[:, None], x)
    if draws.sigma.any():
        x = _blurred(x, draws.sigma)
    turned = torch.from_numpy(draws.solarize).to(device)[:, None, None, None] & (x >= 128 / 255)
    return torch.where(turned, 1 - x, x)


def _coloured(x: torch.Tensor, which: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """One step of the jitter: a colour matrix and an offset for each sample."""
    eye, luma, yiq = (each.to(x.device) for each in (torch.eye(3), LUMA, YIQ))
    factor = factors.gather(1, which.clamp(min=0)[:, None])[:, :, None]
    angle = factors[:, 3] * (-2 * torch.pi)  # from red to green is backwards in this plane
    turn = eye.repeat(len(x), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrices = torch.stack(
        [
            factor * eye,
            factor * eye,
            factor * eye + (1 - factor) * luma,
            torch.linalg.inv(yiq) @ turn @ yiq,
            eye.expand(len(x), 3, 3),
        ]
    )
    matrix = matrices[which, torch.arange(len(x), device=x.device)]
    mean = x.mean(dim=(2, 3)) @ luma
    offset = torch.where(which == 1, (1 - factor[:, 0, 0]) * mean, 0.0)
    return (torch.einsum("bij,bjhw->bihw", matrix, x) + offset[:, None, None, None]).clamp(0, 1)


def _blurred(x: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    kernels = torch.zeros(len(x), WIDEST)
    for row, sigma in enumerate(sigmas.tolist()):
        kernel = torch.from_numpy(blur_kernel(sigma)) if sigma else torch.ones(1)
        start = (WIDEST - len(kernel)) // 2
        kernels[row, start : start + len(kernel)] = kernel
    each, pad = kernels.to(x.device).repeat_interleave(3, dim=0)[:, None], WIDEST // 2
    flat = TF.pad(x.flatten(0, 1)[None], (pad,) * 4, mode="replicate")
    wide = TF.conv2d(flat, each[:, :, None], groups=len(each))
    return TF.conv2d(wide, each[:, :, :, None], groups=len(each)).view_as(x)


# kornia.


def kornias(specs: tuple[ViewSpec, ...]) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Its own pipeline with draws of its own, one order of the jitter a batch."""

    def one(spec: ViewSpec) -> torch.nn.Module:
        side = view_sides((spec,), SIDE)[spec.name]
        steps = [K.RandomResizedCrop((side, side), spec.scale, spec.ratio, "bicubic", align_corners=False)]
        if spec.flip:
            steps.append(K.RandomHorizontalFlip(spec.flip))
        if spec.jitter:
            strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
            steps.append(K.ColorJitter(*strengths, p=spec.jitter))
        if spec.grayscale:
            steps.append(K.RandomGrayscale(p=spec.grayscale))
        if spec.blur:
            steps.append(K.RandomGaussianBlur((WIDEST, WIDEST), (0.1, 2.0), p=spec.blur))
        if spec.solarize:
            steps.append(K.RandomSolarize(0.0, 0.0, p=spec.solarize))
        return torch.nn.Sequential(*steps)

    chains = [one(spec) for spec in specs for _ in range(spec.count)]
    return lambda pictures: [chain(pictures.float() / 255) for chain in chains]


# Measuring.


def timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def medians(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of each, in turns after a warm-up."""
    for run in ways.values():
        run()
    taken = [{name: timed(run, device) for name, run in ways.items()} for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in taken) for name in ways}


def told(label: str, took: dict[str, float], images: int, away: dict[str, float], unit: str) -> None:
    ours = took["ours"]
    print(f"{label} ours: {away['ours']:.2f} levels from PIL", flush=True)
    for name, seconds in itertools.islice(took.items(), 1, None):
        far = f"; {away[name]:.2f} levels from PIL" if name in away else "; draws of its own"
        print(
            f"{label}-{name} ratio {seconds / ours:.2f} (ours {images / ours:,.0f} {unit}, {name} "
            f"{images / seconds:,.0f} {unit}{far})",
            flush=True,
        )


def distance(made: list[torch.Tensor], pil: list[torch.Tensor]) -> float:
    """Mean difference in levels of 255, each view as much as another."""

    def levels(view: torch.Tensor) -> torch.Tensor:
        return view.cpu().float() * (1 if view.dtype == torch.uint8 else 255)

    return statistics.mean(
        float((levels(a) - levels(b)).abs().mean()) for a, b in zip(made, pil, strict=True)
    )


def resizes(pictures: list[np.ndarray], rounds: int) -> None:
    """The resize alone, most of a 512-pixel picture to 224; PIL's is antialiased and bicubic."""
    crops = [picture[5:503, 7:505] for picture in pictures]
    lying = [torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] for crop in crops]  # channels last

    def each(way: int) -> list[np.ndarray]:
        return [cv2.resize(crop, (SIDE, SIDE), interpolation=way) for crop in crops]

    def torchs() -> list[torch.Tensor]:
        size = (SIDE, SIDE)
        return [TF.interpolate(crop, size, mode="bicubic", antialias=True) for crop in lying]

    def pillows() -> list[np.ndarray]:
        images = (Image.fromarray(crop) for crop in crops)
        return [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]

    ways: dict[str, Callable[[], list]] = {
        "ours": lambda: [shrink(crop, SIDE, SIDE) for crop in crops],
        "opencv-area": lambda: each(cv2.INTER_AREA),
        "opencv-linear": lambda: each(cv2.INTER_LINEAR),
        "torch-uint8-bicubic": torchs,
        "pillow-bicubic": pillows,
    }
    took = medians(ways, rounds, torch.device("cpu"))
    pil = np.stack(pillows()).astype(float)
    made = {name: run() for name, run in ways.items()}
    made["torch-uint8-bicubic"] = [view[0].permute(1, 2, 0).numpy() for view in made["torch-uint8-bicubic"]]
    away = {name: float(np.abs(np.stack(found) - pil).mean()) for name, found in made.items()}
    told("resize", took, len(crops), away, "images/s a core")


def views(pictures: list[np.ndarray], rounds: int, device: torch.device) -> None:
    ids, epoch = np.arange(len(pictures), dtype=np.uint64), np.zeros(len(pictures), np.int64)
    sizes = np.array([picture.shape[:2] for picture in pictures])
    images = [Image.fromarray(picture) for picture in pictures]
    tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    there = torch.stack(tensors).contiguous().to(device)
    for label, specs in (("views-clip", (OWN,)), ("views-dino-10-crops", Dino.Config().views())):
        plan = planned(specs, ids, sizes)
        ways: dict[str, Callable[[], list[torch.Tensor]]] = {
            "ours": lambda specs=specs: _ours(pictures, ids, specs, epoch),
            "torchvision-pil": lambda plan=plan: by_torchvision(images, plan),
            "torchvision-uint8": lambda plan=plan: by_torchvision(tensors, plan),
            "torch": lambda plan=plan: by_torch(there, plan),
        }
        pil = ways["torchvision-pil"]()
        away = {name: distance(run(), pil) for name, run in ways.items()}
        if K is not None:
            ways["kornia"] = functools.partial(kornias(specs), there)
        told(label, medians(ways, rounds, device), len(pictures), away, "images/s")


def _ours(
    pictures: list, ids: np.ndarray, specs: tuple[ViewSpec, ...], epoch: np.ndarray
) -> list[torch.Tensor]:
    made = make_views(pictures, ids, specs, image_size=SIDE, seed=SEED, epoch=epoch)
    return [view for spec in specs for view in made[spec.name].unbind(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where torch's and kornia's ways run")
    parser.add_argument("--pictures", type=int, default=32, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    where = "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    load = os.getloadavg()[0]
    print(f"{given.pictures} pictures of 512 pixels, one thread, torch on {where}, load {load:.1f}")
    if K is None:
        print("kornia is left out: it is not installed (pip install kornia)")
    pictures = [decode_image(blob) for blob in photographs(given.pictures)]
    resizes(pictures, given.rounds)
    with torch.inference_mode():
        views(pictures, given.rounds, device)


if __name__ == "__main__":
    main()
