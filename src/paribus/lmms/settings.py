"""What lmms-eval's command line and its tasks say to a model, read and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from paribus.errors import UserError
from paribus.study.control import one_sentence
from paribus.types import Config, Runtime

LIMIT = 32
"""The most tokens of a reply where a task does not say: as in Paribus."""


def _changes(given: Any) -> Any:
    """``PATH=VALUE;PATH=VALUE`` as several changes."""
    return tuple(filter(None, _word(given).split(";"))) if isinstance(given, str) else given


def _there(device: str) -> str:
    """A device, if this machine has it."""
    try:
        torch.empty(0, device=Runtime(device=device).torch_device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{str(error).splitlines()[0]}; use auto or cpu") from error
    return device


def _word(given: Any) -> str:
    """What lmms-eval took for a number, as it was written; what was quoted for its commas, without quotes."""
    text = str(given)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


Word = Annotated[str, BeforeValidator(_word)]


class Settings(Config):
    """Which model it is, and how it is run."""

    study: Annotated[Path, BeforeValidator(_word)]
    arm: Word
    seed: int | None = None
    cache: Annotated[Path, BeforeValidator(_word)] = Path("cache")
    change: Annotated[tuple[str, ...], BeforeValidator(_changes)] = ()
    batch_size: int = Field(1, ge=1)
    device: Annotated[str, AfterValidator(_there)] = "auto"


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Check ``--model_args``, ``--batch_size`` and ``--device``.

    Raises:
        UserError: something is missing, unknown, or not what it should be.
    """
    try:
        return Settings.model_validate(dict(given))
    except ValidationError as error:
        named = ", ".join(Settings.model_fields)
        reason = one_sentence(error, "--model_args").rstrip(".")
        raise UserError(f"{reason}; a model of Paribus is told {named}.") from error


class Writing(NamedTuple):
    """How a task wants replies: the most tokens, and what ends them."""

    limit: int
    until: tuple[str, ...]

    def cut(self, text: str) -> str:
        """A reply up to what ends it."""
        return text[: min((text.find(end) for end in self.until if end in text), default=len(text))].strip()


def read_writing(wishes: Mapping[str, Any]) -> Writing:
    """A task's ``generation_kwargs``.

    Raises:
        UserError: it asks for anything but the likeliest words.
    """
    heat = wishes.get("temperature")
    drawn = wishes.get("do_sample", False) if heat is None else heat > 0
    if drawn or (wishes.get("num_beams") or 1) > 1:
        raise UserError(
            "A task wants replies that are drawn or searched for, but Paribus writes the likeliest word each "
            "time: say --gen_kwargs do_sample=False,temperature=0,num_beams=1."
        )
    until = wishes.get("until") or ()
    ends = (until,) if isinstance(until, str) else tuple(until)
    return Writing(int(wishes.get("max_new_tokens") or LIMIT), tuple(filter(None, ends)))
