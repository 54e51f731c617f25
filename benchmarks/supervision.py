"""Losses and towers beside the code that they are proven against: time and memory as ratios, in one run.

    .venv/bin/python benchmarks/supervision.py

Each pair takes turns on the same tensors, forward and backward; the ratio is that of the medians. Memory is
what the resident set grows by in one pass.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F

from paribus.encoders.vision import EncoderConfig, VisionEncoder
from paribus.objectives.contrastive import info_nce, nt_xent, sigmoid_loss
from paribus.objectives.dino import dino_loss
from paribus.peers import mend_torchvision

mend_torchvision()

TURNS = 5
Pass = Callable[[], None]


def units(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values, dim=-1).requires_grad_()


def clip_loss(ours: bool) -> Pass:
    from open_clip.loss import ClipLoss

    image, text, scale = units(8192, 512, seed=0), units(8192, 512, seed=1), torch.tensor(14.3)
    theirs = ClipLoss()
    return lambda: (info_nce if ours else theirs)(image, text, scale).backward()


def siglip_loss(ours: bool) -> Pass:
    from open_clip.loss import SigLipLoss

    image, text = units(8192, 512, seed=0), units(8192, 512, seed=1)
    scale, bias, theirs = torch.tensor(10.0), torch.tensor(-10.0), SigLipLoss()
    return lambda: (sigmoid_loss if ours else theirs)(image, text, scale, bias).backward()


def simclr_loss(ours: bool) -> Pass:
    from lightly.loss import NTXentLoss

    views, theirs = units(4096, 2, 256, seed=0), NTXentLoss(temperature=0.1)
    if ours:
        return lambda: nt_xent(views, 0.1).backward()
    return lambda: theirs(views[:, 0], views[:, 1]).backward()


def distillation_loss(ours: bool) -> Pass:
    from lightly.loss import DINOLoss

    generator = torch.Generator().manual_seed(0)
    student = torch.randn(64, 6, 8192, generator=generator, requires_grad=True)
    teacher = torch.randn(64, 2, 8192, generator=generator)
    theirs = DINOLoss(output_dim=8192, warmup_teacher_temp_epochs=0, teacher_temp=0.04)
    if ours:
        return lambda: dino_loss(student, teacher, torch.zeros(8192), 0.04).backward()
    return lambda: theirs(list(teacher.unbind(1)), list(student.unbind(1)), epoch=0).backward()


def vit(ours: bool) -> Pass:
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"embed_dim": 192, "depth": 12, "num_heads": 3}
    model = (
        VisionEncoder(EncoderConfig(patch=8, width=192, depth=12, heads=3, image_size=64))
        if ours
        else VisionTransformer(img_size=64, patch_size=8, num_classes=0, **sizes)
    )
    images = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            seen = model(images)
        (seen.cls if ours else seen).float().square().mean().backward()

    return step


CASES: dict[str, tuple[Callable[[bool], Pass], str]] = {
    "InfoNCE, 8,192 pairs of 512": (clip_loss, "open_clip ClipLoss"),
    "sigmoid loss, 8,192 pairs of 512": (siglip_loss, "open_clip SigLipLoss"),
    "NT-Xent, 4,096 pairs of 256": (simclr_loss, "lightly NTXentLoss"),
    "DINO loss, 64 x (2 + 6) x 8,192": (distillation_loss, "lightly DINOLoss"),
    "ViT-Ti/8, 64 images of 64 px, bf16": (vit, "timm VisionTransformer"),
}


def seconds(run: Pass) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident(what: str) -> float:
    """MB of this process (Linux): VmRSS now, VmHWM the most since the mark was last put back."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def grown(name: str, ours: bool) -> float:
    """MB that a pass takes at most beyond what is held before it, by name, in this process."""
    run = CASES[name][0](ours)
    run()
    Path("/proc/self/clear_refs").write_text("5")  # puts VmHWM back to VmRSS
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def memory(name: str, ours: bool) -> float:
    """The same in a process of its own, whose allocator gives memory back at once."""
    eager = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    code = f"import supervision; print(supervision.grown({name!r}, {ours}))"
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(
        command, cwd=here, env=os.environ | eager, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    print(f"{'what':<36}{'peer':<24}{'ours s':>8}{'peer s':>8}{'time':>7}{'ours MB':>9}{'peer MB':>9}")
    for name, (make, peer) in CASES.items():
        passes = make(True), make(False)
        for run in passes:
            run()
        taken = [[seconds(run) for run in passes] for _ in range(TURNS)]
        ours, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
        mine, other = memory(name, True), memory(name, False)
        row = f"{ours:>8.3f}{theirs:>8.3f}{ours / theirs:>7.2f}{mine:>9.0f}{other:>9.0f}"
        print(f"{name:<36}{peer:<24}{row}", flush=True)


if __name__ == "__main__":
    main()
