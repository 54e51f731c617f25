"""Features of a folder of JPEG files: ours beside the plain transformers pipeline, processor and model.

Both read the same files and run the same published layout (random weights of ViT-S at 224 pixels) on one
thread. Ours runs as `paribus compare` does by default, in bf16; how far its features are from transformers'
float32 is printed beside the ratio, and the float32 ratio too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paribus.data.conversations import decode_picture
from paribus.encoders.eyes import open_eye
from paribus.peers import mend_torchvision

BATCH = 32
TOWER = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files of 500 x 375 pixels, pieces of two photographs."""
    from sklearn.datasets import load_sample_images

    rng, photos, files = np.random.default_rng(0), load_sample_images().images, []
    for number in range(count):
        top, left = rng.integers(0, 427 - 375), rng.integers(0, 640 - 500)
        piece = photos[number % 2][top : top + 375, left : left + 500]
        files.append(folder / f"{number:04d}.jpg")
        Image.fromarray(piece).save(files[-1], quality=90)
    return files


def clip(folder: Path) -> None:
    """CLIP's image tower and processor, as published."""
    import transformers as hf

    hf.CLIPVisionModel(hf.CLIPVisionConfig(**TOWER, intermediate_size=1536, patch_size=16)).save_pretrained(
        folder
    )
    size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    hf.CLIPImageProcessorPil(**size).save_pretrained(folder)


def dinov2(folder: Path) -> None:
    """DINOv2's, as published."""
    import transformers as hf

    hf.Dinov2Model(hf.Dinov2Config(**TOWER, image_size=518, patch_size=14)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    hf.BitImageProcessorPil(**size, resample=3).save_pretrained(folder)


def plain(folder: Path, files: list[Path]) -> Callable[[], Tensor]:
    """What the model's card shows: AutoImageProcessor and AutoModel."""
    import transformers as hf

    processor, model = (
        hf.AutoImageProcessor.from_pretrained(folder),
        hf.AutoModel.from_pretrained(folder).eval(),
    )

    @torch.no_grad()
    def run() -> Tensor:
        found = []
        for at in range(0, len(files), BATCH):
            images = [Image.open(file).convert("RGB") for file in files[at : at + BATCH]]
            found.append(model(**processor(images=images, return_tensors="pt")).pooler_output)
        return torch.cat(found)

    return run


def ours(folder: Path, files: list[Path], half: bool) -> Callable[[], Tensor]:
    """An eye."""
    eye = open_eye(str(folder))

    def run() -> Tensor:
        found = []
        for at in range(0, len(files), BATCH):
            pixels = eye.prepare([decode_picture(file.read_bytes()) for file in files[at : at + BATCH]])
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found.append(eye.look(pixels, layers=False).vector.float())
        return torch.cat(found)

    return run


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of the processor: the machine may be shared."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    mend_torchvision()
    with tempfile.TemporaryDirectory() as place:
        files = photographs(Path(place), given.pictures)
        for make in (clip, dinov2):
            torch.manual_seed(0)
            folder = Path(place) / make.__name__
            make(folder)
            sides = {
                "transformers": plain(folder, files),
                "bf16": ours(folder, files, half=True),
                "fp32": ours(folder, files, half=False),
            }
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            seen: dict[str, Tensor] = {}
            for _ in range(given.rounds):
                for name, run in sides.items():
                    took, seen[name] = timed(run)
                    seconds[name].append(took)
            rate = {name: len(files) / statistics.median(each) for name, each in seconds.items()}
            peer, theirs = rate["transformers"], seen["transformers"]
            for name in ("bf16", "fp32"):
                apart = max(0.0, 1 - torch.cosine_similarity(seen[name], theirs).min().item())
                print(
                    f"features of {make.__name__}, {name} ratio {rate[name] / peer:.2f} (ours "
                    f"{rate[name]:.1f} pictures/s, transformers {peer:.1f} pictures/s; cosine within "
                    f"{apart:.1e})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
