"""An objective whose weights fit no process alone: each holds some rows of every one, until training ends.

The objective is changed in place, and put back in place: its modules get back their classes, hooks and
attributes, and their very parameters, whole, so that nothing of FSDP2 is left for those who use it later.
Meanwhile its hooks around a step see rows; and if training ends by an error, it stays cut.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from paribus.objectives.base import Objective
from paribus.train import distributed
from paribus.types import Batch, Encoded, device_of


def shard(objective: Objective) -> "Shards | None":
    """Cut an objective's weights, if there are several processes to hold them.

    One whose loss joins all samples stays whole: it is asked twice for what it encodes, with the same
    weights, and no encoder of today needs more than one GPU.

    Raises:
        UserError: the installed torch cannot do it.
    """
    if distributed.share().size == 1 or not objective.additive:
        return None
    return Shards(objective)


class Shards:
    """An objective that is cut: what is left of its whole self, and which parameters a step has used."""

    def __init__(self, objective: Objective) -> None:
        distributed.check_same(objective)  # what is cut cannot be compared any more
        self._objective = objective
        self._modules = [_Module(module) for module in objective.modules()]
        self._slots = _slots(objective)
        _hear_encode(objective, self._listen)
        distributed.cut(objective, objective.blocks(), "encode")
        for block in objective.blocks():
            block.register_forward_pre_hook(_take_part, prepend=True, with_kwargs=True)
            block.register_forward_pre_hook(lambda *_: self._listen())
        for kept in self._modules:
            kept.note_added()
        spread = {n: s for n, s in self._slots.items() if distributed.is_cut(getattr(s[0], s[1]))}
        for _, _, parameter in spread.values():
            parameter.data = parameter.data.new_empty(0)
        self._unheard = {n: slot for n, slot in spread.items() if slot[2].requires_grad}
        self._used: set[str] = set()

    def _listen(self) -> None:
        """Note from now on which parameters get a gradient, as soon as they are first put together."""
        for name, (module, key, _) in list(self._unheard.items()):
            parameter = getattr(module, key)
            if not distributed.is_cut(parameter):
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._used.add(name))
                del self._unheard[name]

    def drop_unused(self) -> None:
        """Take away gradients of what no process has used in this step: zeros would move it too.

        What is empty is not cut, and the optimiser knows one kind only.
        """
        trained = {n: p for n, p in self._objective.named_parameters() if p.requires_grad}
        used = distributed.anywhere([name in self._used for name in trained])
        for parameter, somewhere in zip(trained.values(), used, strict=True):
            if not somewhere or not distributed.is_cut(parameter):
                parameter.grad = None
        self._used.clear()

    @torch.no_grad()
    def join(self) -> None:
        """Give every process all of it again: where it was if there is room, else in main memory."""
        distributed.rest(self._objective)
        place = _room(self._objective)
        done: set[int] = set()
        for module, key, parameter in self._slots.values():
            if id(parameter) not in done:  # tied weights have several slots
                parameter.data = distributed.whole(getattr(module, key)).to(place)
                done.add(id(parameter))
        for kept in self._modules:
            kept.put_back()
        for module, key, parameter in self._slots.values():
            module._parameters[key] = parameter
        self._objective.to(place)  # buffers too
        gc.collect()  # the rows go with the cycles that hold them
        distributed.check_same(self._objective)


Slot = tuple[nn.Module, str, nn.Parameter]
"""Where a parameter is: its module and its name there."""


def _slots(objective: Objective) -> dict[str, Slot]:
    """Every place of every parameter, by full name."""
    return {
        f"{path}.{key}".removeprefix("."): (module, key, parameter)
        for path, module in objective.named_modules(remove_duplicate=False)
        for key, parameter in module._parameters.items()
        if parameter is not None
    }


class _Module:
    """What a module was before it was cut, but for its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind = module, type(module)
        self._known = set(vars(module))
        self._hooks = {k: dict(v) for k, v in vars(module).items() if "hooks" in k and isinstance(v, dict)}
        self._added: set[str] = set()

    def note_added(self) -> None:
        self._added = set(vars(self._module)) - self._known

    def put_back(self) -> None:
        distributed.forget(self._module)
        self._module.__class__ = self._kind
        for name in self._added:
            vars(self._module).pop(name, None)
        for name, hooks in self._hooks.items():
            live = vars(self._module)[name]
            live.clear()
            live.update(hooks)


def _hear_encode(objective: Objective, listen: Callable[[], None]) -> None:
    """Call ``listen`` whenever the objective encodes, when its own parameters have been put together."""
    encode = objective.encode

    def heard(batch: Batch) -> Encoded:
        listen()
        return encode(batch)

    objective.encode = heard  # type: ignore[method-assign]


def _take_part(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
    """Make the backward pass go through a block also where nothing before it is trained.

    Otherwise processes whose samples reach no trained weight before it would not meet the others there.
    """
    del block
    tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
    if not torch.is_grad_enabled() or any(value.requires_grad for value in tensors):
        return None
    first, *others = inputs  # what a block works on comes first
    return (first.detach().requires_grad_(), *others), named


def _room(objective: Objective) -> torch.device:
    """Where the whole objective has room."""
    device = device_of(objective)
    if device.type != "cuda":
        return device
    torch.cuda.empty_cache()
    need = sum(value.numel() * value.element_size() for value in objective.parameters())
    return device if need < 0.9 * torch.cuda.mem_get_info(device)[0] else torch.device("cpu")
