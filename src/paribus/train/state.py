"""Everything that a resumed run needs, in files that are whole or not there.

Tensors are stored whole whatever the processes hold, so that any number of them can go on, cut or not.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paribus.errors import UserError
from paribus.files import sha256, whole_folder, write_json
from paribus.objectives.base import Objective
from paribus.train import distributed
from paribus.train.optim import trainable


@dataclass
class Progress:
    """Where training stands, besides tensors. ``order`` is the running digest of the samples consumed."""

    step: int = 0
    order: str = ""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def _values(objective: Objective, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """All there is to keep, by name, as each process holds it; numbers as int64."""
    for name, value in objective.state_dict().items():
        yield f"model/{name}", value
    for name, parameter in trainable(objective).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"optimizer/{key}/{name}", value if isinstance(value, Tensor) else torch.tensor(int(value))


def _tensors(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What is to be stored, in the first process; the others give their rows."""
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in _values(objective, optimizer):
        gathered = distributed.whole(value)
        if not distributed.share().first:
            continue
        tensor = gathered.cpu().contiguous()
        shared = tensor.data_ptr() in taken  # tied weights: safetensors wants each to own its memory
        stored[name] = tensor.clone() if shared else tensor
        taken.add(tensor.data_ptr())
    return stored


def save_state(
    folder: Path, progress: Progress, objective: Objective, optimizer: torch.optim.Optimizer, keep: int = 2
) -> None:
    """Write checkpoint ``step-N``; drop all but the last ``keep``, and what a killed run left half written.

    The first process writes. The others must call it too if the objective is cut, and need not otherwise.
    """
    tensors = _tensors(objective, optimizer)
    if not distributed.share().first:
        return
    target = folder / f"step-{progress.step:08d}"
    with whole_folder(target) as temporary:
        save_file(tensors, temporary / "state.safetensors")
        digest = sha256(temporary / "state.safetensors")
        write_json(temporary / "progress.json", {"sha256": digest, **asdict(progress)})
    for old in [*checkpoints(folder)[:-keep], *folder.glob(".step-*.tmp")]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def load_state(folder: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> Progress:
    """Fill model and optimiser from the newest checkpoint; a fresh ``Progress`` if there is none.

    Raises:
        UserError: the newest checkpoint is damaged.
    """
    found = checkpoints(folder)
    if not found:
        return Progress()
    newest = found[-1]
    try:
        fields = json.loads((newest / "progress.json").read_text(encoding="utf-8"))
        if fields.pop("sha256") != sha256(newest / "state.safetensors"):
            raise ValueError("sha256 differs")
        stored = safe_open(newest / "state.safetensors", framework="pt")
        progress = Progress(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"The checkpoint {newest} is damaged: delete that folder and run again; "
            "training goes on from the one before it."
        ) from error
    with stored as tensors:
        _restore(tensors, objective, optimizer)
    return progress


def _restore(tensors: Any, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """One tensor after another: all of them may fit no memory where each process needs some rows only."""
    held, names = objective.state_dict(), trainable(objective)
    model: dict[str, Tensor] = {}
    for full in tensors.keys():  # noqa: SIM118 - an open file is no dict
        kind, name = full.split("/", 1)
        value = tensors.get_tensor(full)
        if kind == "model":
            model[name] = distributed.cut_like(value, held[name]) if name in held else value
            continue
        key, name = name.split("/", 1)
        optimizer.state[names[name]][key] = _as_kept(value, names[name])
    objective.load_state_dict(model)


def _as_kept(value: Tensor, parameter: Tensor) -> Any:
    """A stored value as the optimiser keeps it: a number, or a tensor in its place."""
    if value.dtype == torch.int64 and not value.ndim:
        return int(value)
    return distributed.cut_like(value, parameter).to(parameter.device)
