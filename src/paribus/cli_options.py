"""What several commands of the command line have in common."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paribus.errors import UserError

if TYPE_CHECKING:  # it needs torch, and `paribus --help` must not wait for it
    from paribus.types import Runtime, Slurm

Cosines = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,LOW",
        help="cosines instead of percentiles: alike to A, to B, not alike; 0.7,0.8,0.5",
    ),
]


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


def read_slurm(given: list[str]) -> "Slurm":
    """What SLURM is asked for, from ``key=value``; ``setup`` is a list, ``sbatch.NAME`` is any option.

    Raises:
        UserError: there is no such key, or it has no such value.
    """
    from pydantic import ValidationError

    from paribus.types import Slurm

    settings: dict[str, object] = {}
    setup: list[str] = []
    sbatch: dict[str, str] = {}
    for one in given:
        key, sign, value = one.partition("=")
        if not sign or not value:
            raise UserError(f"--slurm {one}: write KEY=VALUE, e.g. --slurm partition=gpu.")
        if key == "setup":
            setup.append(value)
        elif key.startswith("sbatch."):
            sbatch[key.removeprefix("sbatch.")] = value
        else:
            settings[key] = value
    try:
        return Slurm.model_validate(settings | {"setup": setup, "sbatch": sbatch})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(name for name in Slurm.model_fields if name != "sbatch")
            raise UserError(
                f"--slurm {key}: there is no such key; there are {known}, and sbatch.NAME for other options."
            ) from error
        message = first["msg"]
        raise UserError(
            f"--slurm {key}={settings[key]}: {message[0].lower()}{message[1:]}; correct it."
        ) from error


def read_cosines(given: str) -> dict[Literal["a", "b"], tuple[float, float]]:
    """Not alike up to and alike from, of each encoder.

    Raises:
        UserError: it is not three cosines in order.
    """
    try:
        a, b, low = (float(each) for each in given.split(","))
        if not -1 <= low < min(a, b) <= max(a, b) <= 1:
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"--cosines {given}: give three cosines, alike to A, alike to B, not alike: e.g. 0.7,0.8,0.5."
        ) from error
    return {"a": (low, a), "b": (low, b)}
