"""How fast this machine trains an arm and makes its inputs: measured on a few steps, kept for ``plan``.

What is measured is the loop that trains (``fit``) on the arm's own networks and views. Weights are blank,
pixels made up and captions as long as the plan assumes, so neither data nor published weights are needed.
"""

import hashlib
import itertools
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from pydantic import ValidationError

from paribus.data.decoding import decode_image
from paribus.data.views import make_views
from paribus.encoders.text import Material
from paribus.encoders.vision import VisionEncoder
from paribus.errors import UserError
from paribus.files import write_json
from paribus.objectives import build_objective
from paribus.rng import stream
from paribus.study.stages import ASSUMED_CAPTION, Pretrain
from paribus.train.cost import peak_memory_mb
from paribus.train.loop import fit
from paribus.types import Batch, Budget, Config, Runtime

WARM, TIMED = 2, 3
"""Steps of each phase that are not timed, for what is set up at the first ones, and steps that are."""

LEAST, ENOUGH = 8, 2e12
"""Samples and FLOPs of a step on a CPU, on which a published batch would take hours."""

SIDE, PICTURES = 512, 32
"""Of the pictures that inputs are made of: a side that img2dataset leaves, and enough to time."""

UNINTERRUPTED = 1e9


class Rate(Config):
    """What was measured for one arm on one device."""

    device: str
    samples: int
    images_per_second: float
    flops_per_second: float
    peak_memory_mb: float
    inputs_per_second: float


def device_name(runtime: Runtime) -> str:
    """What the rates belong to."""
    device = runtime.torch_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def rates_file(cache: Path) -> Path:
    """Where rates are kept."""
    return cache / "rates.json"


def known_rates(cache: Path) -> dict[str, Rate]:
    """What was measured before, by ``key``; a file that cannot be read is as good as none."""
    try:
        stored = json.loads(rates_file(cache).read_text(encoding="utf-8"))
        return {key: Rate.model_validate(rate) for key, rate in stored.items()}
    except (OSError, ValueError, AttributeError, ValidationError):
        return {}


def key(stage: Pretrain, runtime: Runtime) -> str:
    """Names an arm's networks and views on a device, and how a step is taken there."""
    parts = [part.model_dump(mode="json") for part in (stage.encoder, stage.objective, *stage.views)]
    how = [stage.precision, device_name(runtime), _samples(stage, runtime)]
    how += [runtime.chunk, runtime.recompute, runtime.compile]
    return hashlib.sha256(json.dumps([parts, how]).encode()).hexdigest()[:16]


def measure(stage: Pretrain, runtime: Runtime, label: str) -> Rate:
    """Train an arm for a few steps, and make some of its inputs with one thread.

    With ``chunk`` a step has two chunks, so that what is encoded twice counts twice.

    Raises:
        UserError: a step does not fit the device.
    """
    samples = _samples(stage, runtime)
    if runtime.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = _mean(*_steps(stage, runtime, samples, label))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{label}: {samples} samples do not fit the device at once: give --chunk, or --recompute."
        ) from error
    return Rate(
        device=device_name(runtime),
        samples=samples,
        images_per_second=samples / seconds,
        flops_per_second=_flops(stage) * samples / seconds,
        peak_memory_mb=peak_memory_mb(),
        inputs_per_second=_inputs(stage),
    )


def _samples(stage: Pretrain, runtime: Runtime) -> int:
    if runtime.chunk is not None:
        return min(stage.budget.batch, 2 * runtime.chunk)
    if runtime.torch_device.type == "cuda":
        return stage.budget.batch
    return min(stage.budget.batch, max(LEAST, int(ENOUGH / _flops(stage))))


def _flops(stage: Pretrain) -> float:
    """Of one sample."""
    return stage.flops() / (stage.budget.steps * stage.budget.batch)


def _mean(seconds: Sequence[float], starts: Sequence[float]) -> float:
    """Of a step over the whole budget: each phase's median counts for its share of it."""
    total = 0.0
    for start, end in zip(starts, (*starts[1:], 1.0), strict=True):
        own = [took for step, took in enumerate(seconds) if start <= step / len(seconds) < end]
        total += (end - start) * statistics.median(own[WARM:] or own)
    return total


def _steps(
    stage: Pretrain, runtime: Runtime, samples: int, label: str
) -> tuple[list[float], tuple[float, ...]]:
    """Seconds of each step, and when phases begin; the loop waits for the device at the end of a step."""
    batch, asked = _made_up(stage, samples), []

    def batches(start: int, stop: int) -> Iterator[Batch]:
        for _ in range(start, stop):
            asked.append(time.perf_counter())
            yield batch
        asked.append(time.perf_counter())

    objective = build_objective(stage.objective, VisionEncoder(stage.encoder), Material(), stage.seed)
    starts = objective.phases()
    shortest = min(end - start for start, end in zip(starts, (*starts[1:], 1.0), strict=True))
    steps = math.ceil((WARM + TIMED) / shortest)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            objective.to(runtime.torch_device),
            batches,
            recipe=stage.recipe,
            budget=Budget(samples=samples * steps, batch=samples),
            precision=stage.precision,
            folder=Path(folder),
            runtime=runtime.model_copy(update={"checkpoint_seconds": UNINTERRUPTED, "patience": None}),
            label=f"measuring {label}",
        )
    return [end - start for start, end in itertools.pairwise(asked)], starts


def _made_up(stage: Pretrain, samples: int) -> Batch:
    """A batch of noise in the arm's views."""
    drawn = torch.Generator().manual_seed(0)
    views = {}
    for view in stage.views:
        shape = (samples, view.count, 3, *[round(view.size * stage.encoder.image_size)] * 2)
        views[view.name] = torch.randint(256, shape, dtype=torch.uint8, generator=drawn)
    ids = np.arange(samples, dtype=np.uint64)
    return Batch(ids, views, [ASSUMED_CAPTION] * samples, [()] * samples, seed=stream(0, "measure"))


def _inputs(stage: Pretrain) -> float:
    """Pictures a second that one core decodes and makes views of."""
    encoded, ids = _jpeg(), np.arange(PICTURES, dtype=np.uint64)

    def once() -> float:
        start = time.perf_counter()
        images = [decode_image(encoded) for _ in range(PICTURES)]
        make_views(images, ids, stage.views, image_size=stage.encoder.image_size, seed=0, epoch=ids)
        return time.perf_counter() - start

    once()
    return PICTURES / statistics.median(once() for _ in range(3))


def _jpeg() -> bytes:
    """A picture of 512 pixels that takes as many bytes as a photograph: smooth shapes and a little grain."""
    drawn = np.random.default_rng(0)
    shapes = cv2.resize(drawn.integers(0, 256, (24, 24, 3)).astype(np.float32), (SIDE, SIDE))
    grained = np.clip(shapes + drawn.normal(0, 4, shapes.shape), 0, 255).astype(np.uint8)
    stored: bytes = cv2.imencode(".jpg", grained, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return stored


def keep_rates(cache: Path, rates: dict[str, Rate]) -> None:
    """Write what was measured beside what was known."""
    known = known_rates(cache) | rates
    write_json(rates_file(cache), {name: rate.model_dump(mode="json") for name, rate in known.items()})
