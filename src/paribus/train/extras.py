"""What a training needs that Paribus does not bring along: seen to before anything is done."""

from typing import Any

import torch
from torch import Tensor

from paribus.errors import UserError
from paribus.types import Runtime


def see_extras(runtime: Runtime) -> None:
    """See that what a runtime asks of every training is there.

    Where SLURM's jobs compile is another machine, on which the same must be there.

    Raises:
        UserError: TensorBoard is asked for and not installed, or nothing can be compiled.
    """
    if runtime.tensorboard:
        summary_writer()
    if runtime.compile and runtime.cluster != "slurm":
        see_compiler(runtime.torch_device)


def summary_writer() -> Any:
    """TensorBoard's writer, which is an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install 'paribus[tensorboard]'.") from error
    return SummaryWriter


def see_compiler(device: torch.device) -> None:
    """Compile a trifle as blocks will be: a compiler may be missing, and so may what it needs.

    Raises:
        UserError: it cannot be compiled.
    """
    try:
        torch.compile(_trifle)(torch.ones(8, device=device))
    except RuntimeError as error:  # torch's own are, whatever the cause
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"--compile: torch cannot compile here ({why}): install a C++ compiler, name it by CXX, or "
            "leave the option out."
        ) from error


def _trifle(x: Tensor) -> Tensor:
    return x.sin() + 1.0
