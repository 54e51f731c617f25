"""Whole training steps from tar shards beside the peers' own training, and the loss of a large batch.

    .venv/bin/python benchmarks/pretrain.py --webdataset DIR [--only tiny-clip base-dino loss-clip ...]

Pictures are 512-pixel JPEGs of scikit-learn's two photographs with captions of about twelve words, in tars as
img2dataset writes them. All sides have the same pictures, batch, model sizes, bf16 autocast, learning rate,
two threads that compute and two workers that read; each run is a process of its own, the sides take turns,
and a rate is that between the first steps and the last, while inputs are still being made. Ratios are those
of the medians: by the clock, and of the processors' seconds, workers' included, which other work on the
machine hardly touches.

**clip, siglip**: ours is ``fit`` on a ``Loader`` of the shards. The peer is ``open_clip_train.main`` with its
webdataset pipeline and a configuration of our sizes; both use CLIP's vocabulary of 49,408. It needs
webdataset as old as 0.2.86, which nothing else here does, so that lies in a folder of its own: DIR.

**dino**: two global and eight local crops. The peer is lightly's recipe for a ViT of timm's (its
benchmarks/imagenet/vitb16/dino.py) without Lightning and its online classifier, on the same JPEGs as files,
since lightly reads folders. timm's fused attention, its default, is slow on CPU in bf16, so there the peer
gets the plain one, unless ``--fused`` asks for timm's own choice. Neither side clips gradients: lightly's
recipe does not.

Sizes: ``tiny`` is the encoder of ``studies/small.yaml`` (128 wide, 4 blocks, 48 pixels), ``ti`` ViT-Ti/8 at
64 pixels, ``base`` ViT-B/16 at 224.

**loss-clip, loss-siglip**: one pass forward and backward over a global batch, 512 wide in float32, beside
open_clip's loss in float32, and beside it by bf16 autocast as its training runs it; memory is what a pass
takes at most beyond its inputs. The peer's matrices of 32,768 pairs take 17 GB; with less memory free, the
batch is halved until they fit.

``--device cuda`` adds the share of the device's bf16 peak (MFU) and its memory; ``--compile`` compiles on
both sides. CUDA has not been tried: no machine with it was at hand.
"""

import argparse
import gc
import io
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from inputs import photographs
from supervision import resident
from torch import Tensor
from vlm import PEAKS

from paribus.peers import mend_torchvision

WORKERS = 2
PICTURES = 256
PEER_BYTES = 16.5
"""What open_clip's losses hold for each pair at most, in float32: four matrices of four bytes."""
WORDS = ["a", "the", "photo", "of", "red", "old", "big", "two", "temple", "flower", "water", "near", "with"]


class Size(NamedTuple):
    """A model, and how much of it is measured: steps before, during and after, which are not and are."""

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    text: tuple[int, int, int, int]
    """Width, blocks, heads and context of the text tower."""
    embed: int
    dino: dict[str, Any]
    batch: dict[str, int]
    steps: tuple[int, int, int]


KINDS = ("clip", "siglip", "dino")
HEAD = {"out": 2048, "hidden": 512, "bottleneck": 128, "local_crops": 8, "local_size": 0.5}
SIZES = {
    "tiny": Size(
        48, 8, 128, 4, 4, (128, 3, 4, 32), 128, HEAD, dict.fromkeys(KINDS, 64), (8, 24, 6)
    ),
    "ti": Size(
        64, 8, 192, 12, 3, (192, 6, 3, 32), 192, HEAD, dict.fromkeys(KINDS, 64), (4, 8, 2)
    ),
    "base": Size(
        224, 16, 768, 12, 12, (512, 12, 8, 77), 512, {}, {"clip": 16, "siglip": 16, "dino": 8}, (1, 3, 1)
    ),
}  # fmt: skip
TRAINED = [f"{size}-{kind}" for size in SIZES for kind in KINDS]
LOSSES = ["loss-clip", "loss-siglip"]
USUAL = ["tiny-clip", "tiny-siglip", "tiny-dino", "base-clip", "base-dino", *LOSSES]


class Run(NamedTuple):
    """What a process is to do, as its command line says."""

    size: Size
    kind: str
    place: Path
    device: str
    compile: bool
    fused: bool

    @property
    def batch(self) -> int:
        return self.size.batch[self.kind]

    @property
    def steps(self) -> int:
        return sum(self.size.steps)


class Stamp(NamedTuple):
    """When a step had its batch: by the clock, and in seconds of processors, workers' included."""

    clock: float
    work: float


def stamp() -> Stamp:
    """Now."""
    work = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        work += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Stamp(time.perf_counter(), work)


# What all sides read.


def write_data(place: Path, samples: int) -> None:
    """The same pictures as shards, and as files for who reads folders."""
    blobs, rng = photographs(PICTURES), np.random.default_rng(0)
    folder, shards = place / "pictures", place / "shards"
    folder.mkdir(), shards.mkdir()
    for start in range(0, samples, -(-samples // 4)):
        with tarfile.open(shards / f"{start:08d}.tar", "w") as tar:
            for number in range(start, min(start + -(-samples // 4), samples)):
                caption = " ".join(rng.choice(WORDS, rng.integers(6, 19))).encode()
                for kind, content in (("jpg", blobs[number % PICTURES]), ("txt", caption)):
                    info = tarfile.TarInfo(f"{number:09d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                first = folder / f"{number % PICTURES:09d}.jpg"
                if number < PICTURES:
                    first.write_bytes(blobs[number])
                else:
                    (folder / f"{number:09d}.jpg").hardlink_to(first)


# Ours.


def clip_tokenizer() -> Any:
    """open_clip's vocabulary, by the names that a text tower here knows."""
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers

    from paribus.encoders.text import END, PAD, START

    known = SimpleTokenizer()
    names = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {names.get(token, token): place for token, place in known.encoder.items()}
    merges = list(known.bpe_ranks)
    made = Tokenizer(models.BPE({**vocabulary, PAD: len(vocabulary)}, merges, end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def objective(run: Run) -> Any:
    from pydantic import TypeAdapter

    from paribus.encoders.text import Material
    from paribus.encoders.vision import EncoderConfig, VisionEncoder
    from paribus.objectives import AnyObjective, build_objective

    size = run.size
    width, depth, heads, context = size.text
    text = {"width": width, "depth": depth, "heads": heads, "context": context, "vocabulary": 49_409}
    told = size.dino if run.kind == "dino" else {"embed": size.embed, "text": text}
    config = TypeAdapter(AnyObjective).validate_python({"kind": run.kind, **told})
    encoder = EncoderConfig(
        patch=size.patch, width=size.width, depth=size.depth, heads=size.heads, image_size=size.side
    )
    material = Material(tokenizer=clip_tokenizer())
    return build_objective(config, VisionEncoder(encoder), material, 0).to(run.device)


def ours(run: Run) -> tuple[list[Stamp], float]:
    """When each step had its batch, and the FLOPs of a sample."""
    from paribus.data.loader import Loader
    from paribus.data.shards import Shards
    from paribus.train.cost import training_flops
    from paribus.train.loop import fit
    from paribus.types import Batch, Budget, Recipe, Runtime

    learner = objective(run)
    loader = Loader(
        Shards(run.place / "index", run.place / "shards"),
        learner.config.views(),
        image_size=run.size.side,
        batch=run.batch,
        seed=0,
        workers=WORKERS,
    )
    flops = 0.0
    if run.device != "cpu":
        flops = training_flops(learner, loader.make(0)[:2].to(torch.device(run.device)))
        torch.cuda.reset_peak_memory_stats()
    stamps = []

    def batches(start: int, stop: int) -> Iterator[Batch]:
        for batch in loader(start, stop):
            stamps.append(stamp())
            yield batch

    fit(
        learner,
        batches,
        recipe=Recipe(lr=5e-4, weight_decay=0.2),
        budget=Budget(samples=run.batch * run.steps, batch=run.batch),
        precision="bf16",
        folder=run.place / "none",
        runtime=Runtime(device=run.device, workers=WORKERS, checkpoint_seconds=1e9, compile=run.compile),
        label=run.kind,
    )
    return stamps, flops


# Theirs.


def open_clip(run: Run) -> list[Stamp]:
    """``open_clip_train``'s own main; its schedule is called when a step has its batch."""
    mend_torchvision()
    import open_clip
    from open_clip_train import main

    size = run.size
    width, depth, heads, context = size.text
    text = {"context_length": context, "vocab_size": 49408, "width": width, "heads": heads, "layers": depth}
    image = {"image_size": size.side, "layers": size.depth, "width": size.width, "patch_size": size.patch}
    image["head_width"] = size.width // size.heads
    configs = run.place / "configs"
    configs.mkdir(exist_ok=True)
    told = {"embed_dim": size.embed, "vision_cfg": image, "text_cfg": text}
    (configs / "ours.json").write_text(json.dumps(told))
    open_clip.add_model_config(configs)
    stamps, schedule = [], main.cosine_lr

    def stamped(*args: Any) -> Callable[[int], Any]:
        inner = schedule(*args)

        def at(step: int) -> Any:
            stamps.append(stamp())
            return inner(step)

        return at

    main.cosine_lr = stamped
    os.chdir(run.place)  # it makes a folder called none
    given = {
        "model": "ours",
        "train-data": str(run.place / "shards" / "{%s}.tar") % ",".join(
            path.stem for path in sorted((run.place / "shards").iterdir())
        ),
        "train-num-samples": run.batch * run.steps,
        "dataset-type": "webdataset",
        "batch-size": run.batch,
        "workers": WORKERS,
        "precision": "amp_bf16",
        "device": run.device,
        "epochs": 1,
        "warmup": 2,
        "logs": "none",
        "name": f"{time.time_ns()}",
    }  # fmt: skip
    argv = [f"--{name}={value}" for name, value in given.items()]
    main.main(argv + ["--siglip"] * (run.kind == "siglip") + ["--torchcompile"] * run.compile)
    return stamps


def lightly(run: Run) -> list[Stamp]:
    """lightly's DINO for a ViT of timm's, its loop written out."""
    mend_torchvision()
    import timm
    from lightly.data import LightlyDataset
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
    from lightly.models.utils import get_weight_decay_parameters, update_momentum
    from lightly.transforms import DINOTransform
    from lightly.utils.scheduler import cosine_schedule
    from timm.models.vision_transformer import VisionTransformer

    from paribus.objectives.dino import Dino

    if not run.fused:
        timm.layers.set_fused_attn(False)
    size, told = run.size, Dino.Config(**run.size.dino)
    sizes = {"img_size": size.side, "patch_size": size.patch, "embed_dim": size.width, "depth": size.depth}
    sizes |= {"num_heads": size.heads, "num_classes": 0, "dynamic_img_size": True}

    def network(drop: float) -> tuple[torch.nn.Module, torch.nn.Module]:
        vit = VisionTransformer(**sizes, drop_path_rate=drop)
        head = DINOProjectionHead(size.width, told.hidden, told.bottleneck, told.out)
        return MaskedVisionTransformerTIMM(vit=vit).to(run.device), head.to(run.device)

    teacher, teacher_head = network(0.0)
    student, student_head = network(told.drop_path)
    if run.compile:
        teacher.compile(), student.compile()
    transform = DINOTransform(
        global_crop_size=size.side,
        local_crop_size=round(told.local_size * size.side),
        n_local_views=told.local_crops,
    )
    loader = torch.utils.data.DataLoader(
        LightlyDataset(str(run.place / "pictures"), transform=transform),
        batch_size=run.batch,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        pin_memory=run.device != "cpu",
    )
    criterion = DINOLoss(output_dim=told.out, warmup_teacher_temp_epochs=0).to(run.device)
    decayed, other = get_weight_decay_parameters([student, student_head])
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4)
    stamps = []
    for step, (views, _, _) in enumerate(itertools.islice(loader, run.steps)):
        stamps.append(stamp())
        momentum = cosine_schedule(step, run.steps, 0.996, 1.0)
        update_momentum(student, teacher, m=momentum)
        update_momentum(student_head, teacher_head, m=momentum)
        views = [view.to(run.device, non_blocking=True) for view in views]
        with torch.autocast(torch.device(run.device).type, torch.bfloat16):
            wide, narrow = torch.cat(views[:2]), torch.cat(views[2:])
            with torch.no_grad():
                taught = teacher_head(teacher(wide).flatten(start_dim=1))
            said = [student_head(student(crops).flatten(start_dim=1)) for crops in (wide, narrow)]
            loss = criterion(
                teacher_out=list(taught.chunk(2)),
                student_out=list(torch.cat(said).chunk(len(views))),
                teacher_temp=0.04,
            )
        loss.backward()
        student_head.cancel_last_layer_gradients(current_epoch=0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # logged each step, as ours
    return stamps


PEERS = {"clip": open_clip, "siglip": open_clip, "dino": lightly}
NAMES = {"clip": "open_clip_train", "siglip": "open_clip_train", "dino": "lightly's recipe"}


def trained(side: str, run: Run) -> dict[str, float]:
    """Images a second of one side, in this process; on a device its FLOPs and memory too."""
    stamps, flops = ours(run) if side == "ours" else (PEERS[run.kind](run), 0.0)
    before, measured, _ = run.size.steps
    first, last = stamps[before], stamps[before + measured]
    rates = {
        "rate": measured * run.batch / (last.clock - first.clock),
        "work": (last.work - first.work) / (measured * run.batch),
    }
    memory = 0.0 if run.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return {**rates, "flops": flops, "memory": memory}


# The loss alone.


def loss_pass(side: str, kind: str, pairs: int, device: str) -> dict[str, float]:
    """Seconds of one pass, and MB that it takes at most beyond its inputs, in this process."""
    mend_torchvision()
    from open_clip.loss import ClipLoss, SigLipLoss

    from paribus.objectives.contrastive import info_nce, sigmoid_loss

    mine = {"clip": info_nce, "siglip": sigmoid_loss}[kind]
    theirs = {"clip": ClipLoss, "siglip": SigLipLoss}[kind]()
    extra = {"clip": (14.3,), "siglip": (10.0, -10.0)}[kind]

    def once(count: int) -> Callable[[], None]:
        generator = torch.Generator().manual_seed(0)
        image, text = (
            F.normalize(torch.randn(count, 512, generator=generator), dim=-1).to(device).requires_grad_()
            for _ in range(2)
        )
        learnt = [torch.tensor(value, device=device, requires_grad=True) for value in extra]

        def run() -> None:
            loss: Callable[..., Tensor] = mine if side == "ours" else theirs
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=side == "peer-bf16"):
                value = loss(image, text, *learnt)
            value.backward()
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    once(1024)()
    run = once(pairs)
    gc.collect()
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # puts VmHWM back to VmRSS
        held = resident("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() / 2**20
    before = stamp()
    run()
    after = stamp()
    most = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    took = {"seconds": after.clock - before.clock, "work": after.work - before.work}
    return took | {"memory": most - held}


# Turns.


def child(*words: object) -> dict[str, float]:
    """One side in a process of its own; what it says last is what it measured.

    Its allocator gives memory back at once, where memory is what is measured.
    """
    eager = (
        {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if "--pairs" in words else {}
    )
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        cwd=Path(__file__).parent,
        env=os.environ | eager,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(found: list[dict[str, float]], key: str) -> float:
    return statistics.median(line[key] for line in found)


def spread(found: list[dict[str, float]], key: str) -> str:
    return f"{min(line[key] for line in found):,.4g} to {max(line[key] for line in found):,.4g}"


def compare_training(case: str, given: argparse.Namespace, place: Path) -> None:
    """Both sides in turns."""
    kind = case.partition("-")[2]
    told = ["--case", case, "--place", place, "--device", given.device, "--webdataset", given.webdataset]
    told += ["--compile"] * given.compile + ["--fused"] * given.fused
    rounds = [[child("--side", side, *told) for side in ("ours", "peer")] for _ in range(given.rounds)]
    mine, other = ([pair[side] for pair in rounds] for side in (0, 1))
    ratios = [{"ratio": a["rate"] / b["rate"], "work": b["work"] / a["work"]} for a, b in rounds]
    rates = median(mine, "rate"), median(other, "rate")
    work = median(mine, "work"), median(other, "work")
    line = f"{case} ratio {rates[0] / rates[1]:.2f} (ours {rates[0]:,.1f} images/s, {NAMES[kind]} "
    line += f"{rates[1]:,.1f} images/s; of single rounds {spread(ratios, 'ratio')}); of processors' time "
    line += (
        f"{work[1] / work[0]:.2f} (ours {1e3 * work[0]:,.2f} ms an image, {1e3 * work[1]:,.2f} ms; of single "
    )
    line += f"rounds {spread(ratios, 'work')})"
    if given.device != "cpu":
        peak = next(flops for name, flops in PEAKS.items() if name in torch.cuda.get_device_name())
        flops = median(mine, "flops")
        line += f"; MFU {rates[0] * flops / peak:.1%}, {rates[1] * flops / peak:.1%}; memory "
        line += f"{median(mine, 'memory'):,.0f}, {median(other, 'memory'):,.0f} MB"
    print(line, flush=True)


def fitting(pairs: int, device: str) -> int:
    """As many pairs as the peer's matrices have room for."""
    if device == "cpu":
        told = Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]
        free = int(told) * 1024
    else:
        free = torch.cuda.mem_get_info()[0]
    while PEER_BYTES * pairs**2 * 1.1 > free:
        pairs //= 2
    return pairs


def compare_loss(case: str, given: argparse.Namespace) -> None:
    """Ours, the peer in float32, and the peer as its training runs it."""
    pairs = fitting(given.pairs, given.device)
    told = ["--case", case, "--pairs", pairs, "--device", given.device]
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": [], "peer-bf16": []}
    for _ in range(given.loss_rounds):
        for side, lines in found.items():
            lines.append(child("--side", side, *told))
    mine = found.pop("ours")
    for side, lines in found.items():
        took, memory = median(mine, "seconds"), median(mine, "memory")
        other, theirs = median(lines, "seconds"), median(lines, "memory")
        what = "open_clip by autocast" if side == "peer-bf16" else "open_clip"
        said = f"{case}-memory at {pairs:,} ratio {memory / theirs:.4f} (ours {memory:,.0f} MB, {what} "
        print(said + f"{theirs:,.0f} MB)", flush=True)
        said = f"{case}-time at {pairs:,} ratio {took / other:.2f} (ours {took:.1f} s, {what} {other:.1f} s)"
        work = median(mine, "work") / median(lines, "work")
        print(f"{said}; of processors' time {work:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=USUAL, choices=TRAINED + LOSSES, metavar="CASE")
    parser.add_argument(
        "--webdataset", type=lambda given: Path(given).resolve(), help="the folder of webdataset < 1"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loss-rounds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=32_768, help="global batch of the losses")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="on both sides")
    parser.add_argument("--fused", action="store_true", help="timm's fused attention on CPU too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        size, _, kind = given.case.partition("-")
        if given.case in LOSSES:
            print(json.dumps(loss_pass(given.side, kind, given.pairs, given.device)))
            return
        if given.webdataset:
            sys.path.append(str(given.webdataset))
        fused = given.fused or given.device != "cpu"
        run = Run(SIZES[size], kind, given.place, given.device, given.compile, fused)
        print(json.dumps(trained(given.side, run)))
        return
    cases = [case for case in given.only if case in TRAINED]
    if any(PEERS[case.partition("-")[2]] is open_clip for case in cases) and not given.webdataset:
        parser.error("--webdataset: open_clip_train needs webdataset below 1; say in which folder it lies")
    print(f"{torch.get_num_threads()} threads, {WORKERS} workers, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        from paribus.data.shards import ShardsConfig, build_index

        place = Path(name)
        write_data(place, 3072)
        build_index(ShardsConfig(root=str(place / "shards"), check=False), place / "index", 1)
        for case in cases:
            compare_training(case, given, place)
    for case in (case for case in given.only if case in LOSSES):
        compare_loss(case, given)


if __name__ == "__main__":
    main()
