"""What several commands of the command line have in common."""

from typing import TYPE_CHECKING

from paribus.errors import UserError

if TYPE_CHECKING:  # it needs torch, and `paribus --help` must not wait for it
    from paribus.types import Runtime


def make_runtime(**settings: object) -> "Runtime":
    """Where and how a command runs.

    Raises:
        UserError: there is no such device.
    """
    import torch
    from pydantic import ValidationError

    from paribus.types import Runtime

    try:
        runtime = Runtime.model_validate(settings)
        torch.empty(0, device=runtime.torch_device)
    except (ValidationError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {settings.get('device')}: {reason}; use auto or cpu.") from error
    return runtime
