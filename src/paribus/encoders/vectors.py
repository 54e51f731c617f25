"""A language model as text tower: frozen, and asked only once for every caption.

Follows LLM2CLIP (Huang et al. 2024) in what follows the vectors (see ``projection``): training reads them
from a file and never touches the language model. Vectors are computed in bf16 and kept as float16.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from paribus.encoders.pretrained import check_context, check_fit, layers_of
from paribus.encoders.text import Material, Projection, Tower, TowerConfig, clean
from paribus.encoders.weights import blank_model, config_of, digest, load_model, load_tokenizer, tokenize
from paribus.errors import UserError
from paribus.files import write_json
from paribus.progress import progress
from paribus.rng import key_id
from paribus.types import Config

CHECKPOINTS = ".checkpoints"
SAVE_EVERY = 20
"""Blocks between two notes of how far the work has come."""


class FrozenConfig(TowerConfig):
    """Which language model, and where it is read."""

    kind: Literal["frozen"] = "frozen"
    weights: str = Field(min_length=1, description="a name in weights.json, or a folder")
    layer: int = Field(-1, le=-1, description="of its hidden states; -1 is the last, after the final norm")
    pooling: Literal["mean", "last", "cls"] = "mean"
    context: int = Field(77, ge=1)
    projection: Projection = "adaptor"


class VectorsMeta(Config):
    """What a folder of vectors holds."""

    captions: int
    width: int


def compute_vectors(
    config: FrozenConfig,
    weights: Path,
    captions: Iterable[str],
    folder: Path,
    *,
    device: torch.device,
    batch: int = 64,
) -> VectorsMeta:
    """Write ``ids.npy``, ``vectors.npy`` ``[captions width]`` and ``meta.json``; each caption once.

    Interrupted, it goes on where it was. Captions of like length share a batch; which ones depends on the
    captions alone, so the result does not depend on interruptions.

    Raises:
        UserError: the weights cannot be read, or there is no such layer.
    """
    texts = {key_id(cleaned): cleaned for cleaned in map(clean, captions)}
    ids = np.array(sorted(texts), dtype=np.uint64)
    model = _cut(load_model(weights, attn_implementation="eager", dtype=torch.bfloat16), config)
    model, tokenizer = model.to(device).eval().requires_grad_(False), load_tokenizer(weights)
    check_fit(tokenizer, model, config)
    meta = VectorsMeta(captions=len(ids), width=int(model.config.hidden_size))
    work = folder / CHECKPOINTS
    work.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(ids)), key=lambda row: (len(texts[int(ids[row])]), int(ids[row])))
    blocks = [order[start : start + batch] for start in range(0, len(order), batch)]
    task = hashlib.sha256(f"{digest(weights)} {config!r} {batch} ".encode() + ids.tobytes()).hexdigest()
    out, done = _opened(work, meta, task)
    bar = progress(blocks[done:], label=f"captions through {config.weights}", total=len(blocks), initial=done)
    for number, rows in enumerate(bar, done + 1):
        chosen = [texts[int(ids[row])] for row in rows]
        out[rows] = embed(model, tokenizer, chosen, config).cpu().numpy().astype(np.float16)
        if number % SAVE_EVERY == 0:
            out.flush()
            write_json(work / "done.json", {"blocks": number, "task": task})
    out.flush()
    np.save(work / "ids.npy", ids, allow_pickle=False)
    for name in ("ids.npy", "vectors.npy"):
        shutil.move(work / name, folder / name)
    write_json(folder / "meta.json", meta.model_dump())
    return meta


def _opened(work: Path, meta: VectorsMeta, task: str) -> tuple[np.memmap[Any, np.dtype[np.float16]], int]:
    """The file of vectors, new or as an interrupted run left it, and how many blocks are in it."""
    path, shape = work / "vectors.npy", (meta.captions, meta.width)
    try:
        note = json.loads((work / "done.json").read_text())
        np.load(path, mmap_mode="r")  # writable, numpy would fill up a table that was cut short
        out = np.lib.format.open_memmap(path, mode="r+")
        if out.shape == shape and note["task"] == task:
            return out, int(note["blocks"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape), 0


def _check_layer(config: FrozenConfig, count: int) -> None:
    if -config.layer > count:
        raise UserError(
            f"text.layer is {config.layer}, but {config.weights} has {count} layers: choose -1 to -{count}."
        )


def _cut(model: Any, config: FrozenConfig) -> Any:
    """The model without the layers that come after the one that is read."""
    layers = layers_of(model)
    _check_layer(config, len(layers))
    # Hidden states end with the normalised last one; the one before it is the second-to-last layer's own
    # output, so one more layer than is read has to stay.
    if config.layer < -1:
        del layers[len(layers) + config.layer + 2 :]
        model.config.num_hidden_layers = len(layers)
    return model


def _mean(hidden: Float[Tensor, "B T D"], mask: Int64[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    return (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _last(hidden: Float[Tensor, "B T D"], mask: Int64[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]


def _first(hidden: Float[Tensor, "B T D"], mask: Int64[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    del mask
    return hidden[:, 0]


POOLS = {"mean": _mean, "last": _last, "cls": _first}


@torch.inference_mode()
def embed(model: Any, tokenizer: Any, texts: Sequence[str], config: FrozenConfig) -> Float[Tensor, "B D"]:
    """One unit vector a text in float32, pooled from the chosen layer.

    A language model's first token carries values in the tens of thousands, near the end of float16's range;
    the adaptor looks at the direction only.
    """
    given = {
        name: value.to(model.device) for name, value in tokenize(tokenizer, texts, config.context).items()
    }
    states = model(**given, output_hidden_states=True, use_cache=False).hidden_states
    hidden: Tensor = states[-1 if config.layer == -1 else -2].float()
    return F.normalize(POOLS[config.pooling](hidden, given["attention_mask"]), dim=-1)


def vector_flops(config: FrozenConfig, captions: int, tokens: int) -> float:
    """Two operations a weight and token, over the layers that are run."""
    with torch.device("meta"):
        layers = layers_of(blank_model(config.weights))
    run = layers[: len(layers) + min(0, config.layer + 2)]
    matrices = sum(weight.numel() for weight in run.parameters() if weight.ndim == 2)
    return float(2.0 * matrices * tokens * captions)


@functools.cache
def _table(folder: Path) -> tuple[NDArray[np.uint64], NDArray[np.float16]]:
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    return ids, np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)


def _foreseen(config: FrozenConfig) -> int:
    """The width, after a look at what the config tells."""
    sizes = config_of(config.weights)
    _check_layer(config, sizes.num_hidden_layers)
    check_context(sizes.max_position_embeddings, config)
    if sizes.hidden_size % sizes.num_attention_heads:
        raise UserError(
            f"{config.weights}: its width {sizes.hidden_size} is not a multiple of its heads, "
            f"{sizes.num_attention_heads}: copy the model's whole folder."
        )
    return int(sizes.hidden_size)


class VectorTower(Tower):
    """Looks a caption's vector up; there is nothing to train in it and nothing to save.

    Args:
        config: the language model's; its width is known from the vectors.
        material: the folder that ``compute_vectors`` filled; without one, zeros for counting.
        seed: unused; there are no weights.
    """

    def __init__(self, config: FrozenConfig, material: Material, seed: int = 0) -> None:
        super().__init__()
        del seed
        self.config, self.folder = config, material.folder
        # A tower without parameters still has to know where its output belongs.
        self.register_buffer("place", torch.zeros(()), persistent=False)
        try:
            self.width = int(_foreseen(config) if self.folder is None else _table(self.folder)[1].shape[1])
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"{self.folder} holds no caption vectors: delete it and run the study again."
            ) from error

    place: Tensor

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Vectors in the order of the texts.

        Raises:
            UserError: a caption's vector was never computed.
        """
        if self.folder is None:
            return self.place.new_zeros(len(texts), self.width)
        ids, vectors = _table(self.folder)
        cleaned = [clean(text) for text in texts]
        wanted = np.array([key_id(text) for text in cleaned], dtype=np.uint64)
        rows = np.searchsorted(ids, wanted)
        known = rows < len(ids)
        known[known] = ids[rows[known]] == wanted[known]
        missing = np.flatnonzero(~known)
        if len(missing):
            raise UserError(
                f"The caption {cleaned[missing[0]][:60]!r} has no vector in {self.folder}: "
                "delete that folder and run the study again."
            )
        found = torch.from_numpy(np.asarray(vectors[rows], dtype=np.float32))
        return found.to(self.place.device, self.place.dtype)
