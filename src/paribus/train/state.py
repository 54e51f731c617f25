"""Everything that a resumed run needs, in files that are whole or not there."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paribus.errors import UserError
from paribus.files import sha256, whole_folder, write_json
from paribus.objectives.base import Objective
from paribus.train.optim import trainable

KEEP = 2


@dataclass
class Progress:
    """Where training stands, besides tensors. ``order`` is the running digest of the samples consumed."""

    step: int = 0
    order: str = ""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def _tensors(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model/{name}": value for name, value in objective.state_dict().items()}
    for name, parameter in trainable(objective).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        shared = tensor.data_ptr() in taken  # tied weights: safetensors wants each to own its memory
        stored[name] = tensor.clone() if shared else tensor
        taken.add(tensor.data_ptr())
    return stored


def save_state(
    folder: Path, progress: Progress, objective: Objective, optimizer: torch.optim.Optimizer
) -> None:
    """Write checkpoint ``step-N``; drop all but the last two, and what a killed run left half written."""
    target = folder / f"step-{progress.step:08d}"
    with whole_folder(target) as temporary:
        save_file(_tensors(objective, optimizer), temporary / "state.safetensors")
        digest = sha256(temporary / "state.safetensors")
        write_json(temporary / "progress.json", {"sha256": digest, **asdict(progress)})
    for old in [*checkpoints(folder)[:-KEEP], *folder.glob(".step-*.tmp")]:
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
        tensors = load_file(newest / "state.safetensors")
        progress = Progress(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"The checkpoint {newest} is damaged: delete that folder and run again; "
            "training goes on from the one before it."
        ) from error
    _restore(tensors, objective, optimizer)
    return progress


def _restore(tensors: dict[str, Tensor], objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    model = {
        name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")
    }
    objective.load_state_dict(model)
    names = trainable(objective)
    for name, value in tensors.items():
        if not name.startswith("optimizer/"):
            continue
        _, key, parameter_name = name.split("/", 2)
        parameter = names[parameter_name]
        place = "cpu" if key == "step" and parameter.device.type == "cpu" else parameter.device
        optimizer.state[parameter][key] = value.to(place)
