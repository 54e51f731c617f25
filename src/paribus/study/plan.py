"""Plan: what a study will cost, from its file and the configs of published models; no data, no memory."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from paribus.progress import duration
from paribus.study.downstream import Taught
from paribus.study.keeping import Choice, alike, choose, keep, kept_lessons, listed
from paribus.study.measuring import Rate, keep_rates, key, known_rates, measure
from paribus.study.memory import predict
from paribus.study.stage import AnyStage, walk
from paribus.study.stages import Pretrain
from paribus.study.study import Study
from paribus.train.extras import see_extras
from paribus.types import Runtime

ASSUMED_RATE = 60e9 * (os.cpu_count() or 1)
"""FLOP/s assumed of a CPU that has not finished a training yet; then its own rate counts."""

GPU_RATE = 350e12
"""FLOP/s that a current data-centre GPU sustains in bf16: the rate that GPU-hours are counted at."""


class Planned(NamedTuple):
    """One stage of a plan; ``disk`` in bytes, 0 for both once it is done."""

    address: str
    done: bool
    flops: float
    seconds: float
    depth: int
    disk: float


class ArmCost(NamedTuple):
    """What one arm under one seed will cost, whether it is done or not; ``rate`` if it was measured."""

    name: str
    seed: int
    steps: int
    samples: int
    forwards: float
    flops: float
    rate: Rate | None

    @property
    def gpu_hours(self) -> float:
        """At ``GPU_RATE``."""
        return self.flops / GPU_RATE / 3600

    @property
    def hours(self) -> float:
        """At the measured rate; nought without one."""
        return 0.0 if self.rate is None else self.samples / self.rate.images_per_second / 3600


TOLD = 1e8
"""Bytes to which memory is told."""


class Needed(NamedTuple):
    """Lessons that need about as much, and the bytes that each needs on one device."""

    lessons: tuple[str, ...]
    bytes: float


def settled(study: Study, runtime: Runtime) -> tuple[list[AnyStage], list[Choice]]:
    """The ends of the graph as they would be run, and what was decided about features that could be kept."""
    ends = study.stages()
    choices = list(choose(ends, runtime, assumed_rate(runtime)).values())
    return keep(ends, kept_lessons(choices, runtime.cache)), choices


def needed(ends: Sequence[AnyStage], runtime: Runtime, processes: int) -> list[Needed]:
    """Memory of the lessons that are still to come, on one of several devices."""
    found: dict[float, list[str]] = {}
    for stage in walk(list(ends)):
        if isinstance(stage, Taught) and stage.cached(runtime) is None:
            about = round(predict(stage, runtime, processes).total / TOLD) * TOLD
            found.setdefault(about, []).append(stage.address())
    return [Needed(tuple(lessons), size) for size, lessons in found.items()]


def plan(ends: Sequence[AnyStage], runtime: Runtime, rate: float) -> Iterator[Planned]:
    """The graph from its ends down, each stage once, with what it is predicted to cost at ``rate`` FLOP/s.

    Of an arm that was measured on this device, at what was measured.
    """
    seen: set[str] = set()
    rates = known_rates(runtime.cache)

    def seconds(stage: AnyStage, flops: float) -> float:
        if isinstance(stage, Pretrain) and flops:
            known = rates.get(key(stage, runtime))
            if known is not None:
                return stage.budget.steps * stage.budget.batch / known.images_per_second
        return flops / rate

    def visit(stage: AnyStage, depth: int) -> Iterator[Planned]:
        address = stage.address()
        if address in seen:
            return
        seen.add(address)
        done = stage.cached(runtime) is not None
        flops, disk = (0.0, 0.0) if done else (stage.flops(), stage.disk())
        yield Planned(address, done, flops, seconds(stage, flops), depth, disk)
        for below in stage.inputs():
            yield from visit(below, depth + 1)

    for stage in ends:
        yield from visit(stage, 0)


def measured_rate(study: Study, runtime: Runtime) -> float:
    """FLOP/s that this machine reached in the study's finished pre-trainings, or the assumed rate."""
    flops = seconds = 0.0
    for stage in walk(study.stages()):
        if isinstance(stage, Pretrain):
            record = stage.cached(runtime)
            if record is not None:
                flops += record.flops_per_sample * record.samples
                seconds += record.seconds
    return flops / seconds if seconds else assumed_rate(runtime)


def assumed_rate(runtime: Runtime) -> float:
    """FLOP/s assumed of a kind of device."""
    return GPU_RATE if runtime.torch_device.type == "cuda" else ASSUMED_RATE


def measure_arms(study: Study, runtime: Runtime) -> None:
    """Measure, one after another, what is not known yet of this device; what was measured is kept at once.

    Raises:
        UserError: they are to be compiled, and cannot be, or a step does not fit the device.
    """
    see_extras(runtime)
    for arm in study.all_arms():
        if key(arm.encoder, runtime) not in known_rates(runtime.cache):
            rate = measure(arm.encoder, runtime, arm.name)
            keep_rates(runtime.cache, {key(arm.encoder, runtime): rate})


def arm_costs(study: Study, runtime: Runtime) -> list[ArmCost]:
    """Steps, samples and FLOPs of every arm, and its rate on this device if it was measured."""
    rates = known_rates(runtime.cache)
    return [
        ArmCost(
            name=arm.name,
            seed=arm.seed,
            steps=arm.encoder.budget.steps,
            samples=arm.encoder.budget.steps * arm.encoder.budget.batch,
            forwards=arm.encoder.image_forwards(),
            flops=arm.encoder.flops(),
            rate=rates.get(key(arm.encoder, runtime)),
        )
        for arm in study.all_arms()
    ]


def spell(
    data: str,
    arms: Sequence[ArmCost],
    stages: Sequence[Planned],
    choices: Sequence[Choice],
    needs: Sequence[Needed],
    runtime: Runtime,
    processes: int,
) -> str:
    """The plan as text: the graph, what to download, the arms, what lessons keep and need, the sum."""
    lines = [_stage(stage) for stage in stages]
    lines += [
        "",
        *([data, ""] if data else ()),
        *_arms(arms),
        *(choice.words() for choice in alike(choices)),
        *(_needed(need, runtime, processes) for need in needs),
        *([""] if needs else ()),
        _sum(stages, runtime.cache, processes),
    ]
    return "\n".join(lines)


def _arms(arms: Sequence[ArmCost]) -> list[str]:
    """What each arm costs, under a head; nothing where none is trained."""
    if not arms:
        return []
    width = max(len(arm.name) for arm in arms)
    return [
        f"{'arm':<{width}}  seed     steps      samples  forwards  FLOPs/sample     FLOPs  GPU-hours",
        *(_arm(arm, width) for arm in arms),
        f"(forwards: of a full-size image, a sample; GPU-hours at {GPU_RATE / 1e12:.0f} TFLOP/s)",
        "",
        *_measured([arm for arm in arms if arm.rate is not None], width),
    ]


def _measured(arms: Sequence[ArmCost], width: int) -> list[str]:
    """What this device was measured to do, and what that makes of the budget."""
    rates = [arm.rate for arm in arms if arm.rate is not None]
    if not rates:
        return []
    width = max(width, len("measured"))
    rows = [
        f"{arm.name:<{width}}  {arm.seed:>4}  {rate.samples:>6,}  {rate.images_per_second:>8,.1f}"
        f"  {rate.flops_per_second / 1e12:>7.3g}  {_hours(arm.hours):>7}  {rate.inputs_per_second:>8,.0f}"
        f"  {math.ceil(rate.images_per_second / rate.inputs_per_second):>5}"
        for arm, rate in zip(arms, rates, strict=True)
    ]
    return [
        f"{'measured':<{width}}  seed  a step  images/s  TFLOP/s    hours  inputs/s  cores",
        *rows,
        f"(on one {rates[0].device}; inputs/s: that one core makes; cores: that keep up with the device)",
        "",
    ]


def _needed(need: Needed, runtime: Runtime, processes: int) -> str:
    how = [f"{processes} process{'es' if processes > 1 else ''}"]
    how += ["sharded"] * runtime.shard + ["recomputed"] * runtime.recompute
    how += [f"chunks of {runtime.chunk}"] if runtime.chunk else []
    return f"{listed(need.lessons)}: about {need.bytes / 1e9:.1f} GB on each device ({', '.join(how)})"


def _stage(stage: Planned) -> str:
    cost = f"{stage.flops:9.2e} FLOPs  ~{duration(stage.seconds)}" if stage.flops else "to do"
    return f"{'  ' * stage.depth + stage.address:<48}  {'cached' if stage.done else cost}"


def _arm(arm: ArmCost, width: int) -> str:
    each = arm.flops / arm.samples
    return (
        f"{arm.name:<{width}}  {arm.seed:>4}  {arm.steps:>8,}  {arm.samples:>11,}  {arm.forwards:>8.2f}"
        f"  {each:>12.2e}  {arm.flops:>8.2e}  {_hours(arm.gpu_hours):>9}"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def _sum(stages: Sequence[Planned], cache: Path, processes: int) -> str:
    waiting = [stage for stage in stages if not stage.done]
    flops, seconds = sum(stage.flops for stage in waiting), sum((stage.seconds for stage in waiting), 0.0)
    wall = f", {_hours(flops / GPU_RATE / 3600 / processes)} h on {processes} GPUs" if processes > 1 else ""
    hours, disk = flops / GPU_RATE / 3600, sum(stage.disk for stage in waiting)
    return (
        f"{len(stages)} stages, {len(stages) - len(waiting)} cached; the rest needs {flops:.2e} FLOPs: about "
        f"{duration(seconds)} of training at this machine's rate, or {_hours(hours)} "
        f"GPU-hours at {GPU_RATE / 1e12:.0f} TFLOP/s{wall}; and about {disk / 1e6:,.0f} MB of disk "
        f"beside the {disk_bytes(cache) / 1e6:,.0f} MB that are used."
    )


def disk_bytes(folder: Path) -> int:
    """What a folder holds; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
