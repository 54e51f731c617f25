"""Several processes that train as one: the only file that knows torch.distributed.

Start them with ``torchrun``, or with ``srun`` alone. A batch is cut into as many runs of rows as there are
processes. Each encodes its own rows; the encodings are gathered in order, so that every process takes the
loss on the joined ones of the whole batch, as one alone would; each sends the encodings' gradients back
through its own rows; and the parameters' gradients are summed. So the number of processes changes a result
by rounding only (which in bf16 grows over a run), and objectives know nothing of it. The loss is computed
by every process in full: for 32,768 pairs that is 4 TFLOP a step in float32, beside 60 in bf16 for the
encodings of 512 by a ViT-B/16.

There is no wrapper around the model (DDP's hooks fire once a backward pass and know one pass only): gradients
are summed in buckets after the last pass of a step.

What fits no process alone is cut: each process holds some rows of every weight (FSDP2; see ``sharding``).
"""

import contextlib
import datetime
import os
import platform
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import Store
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, zeros

from paribus.errors import UserError
from paribus.train.places import by_srun, by_torchrun
from paribus.types import Share, device_of

BUCKET = 64 * 2**20
"""Bytes of gradients that are summed at once."""

PATIENCE = datetime.timedelta(days=7)
"""How long a process waits to be told what comes next: what only the first one works on may take hours."""

STEP = datetime.timedelta(minutes=30)
"""How long a process waits for the others within a step of training."""

LEAVE = datetime.timedelta(seconds=30)
"""How long the first process waits for all to have read what one of them is refused for."""

_gpu = ""
"""The machine and the GPU on it that this process took; empty if it took none."""

_talk: dist.ProcessGroup | None = None
"""The group in which the first process tells the others what comes next."""


@contextlib.contextmanager
def together() -> Iterator[Share]:
    """Within the block, the processes that were started together work as one; alone, nothing changes.

    Raises:
        UserError: two of them took one GPU, or one none and others some; every process says so.
    """
    global _talk
    if not started() or dist.is_initialized():
        yield share()
        return
    store, rank, size = next(rendezvous("env://", timeout=STEP))
    see_apart(_everyone(_gpu, store, Share(rank, size)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP)
    _talk = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield share()
    finally:
        _talk = None
        dist.destroy_process_group()


def started() -> bool:
    """Whether ``torchrun`` or ``srun`` started this process; torch reads of either what torchrun sets."""
    os.environ.update(by_srun(os.environ))
    return by_torchrun(os.environ)


def own_device(device: str) -> None:
    """Take this process's own GPU, before anything touches another.

    SLURM may let a task see all GPUs of its machine, its own alone, or the few nearest to its cores, and its
    variables hardly tell which. So the process takes, by its number on the machine, one of those it sees,
    counted round: the one of that number of all, and the first of one. Whether each has its own then is
    seen when they meet (``together``); those that never meet may share one.

    Raises:
        UserError: several processes are told to take one.
    """
    global _gpu
    if not started() or not torch.cuda.is_available() or device == "cpu":
        return
    if device not in ("auto", "cuda"):
        raise UserError(f"--device {device}: several processes cannot share one GPU; use auto, cuda or cpu.")
    place = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(place)
    _gpu = f"{platform.node()} {torch.cuda.get_device_properties(place).uuid}"


def see_apart(gpus: Sequence[str]) -> None:
    """See that every process has a GPU of its own, or none has one; ``gpus[r]`` is what process r took.

    Raises:
        UserError: they have not.
    """
    size = len(gpus)
    for rank, gpu in enumerate(gpus):
        other, machine = gpus.index(gpu), gpu.split(" ")[0]
        if not gpu and any(gpus):
            wrong = f"Process {rank + 1} of {size} sees no GPU, and others do"
        elif gpu and other < rank:
            wrong = f"Processes {other + 1} and {rank + 1} of {size} have one GPU of {machine} between them"
        else:
            continue
        raise UserError(f"{wrong}: start as many on each machine as it has GPUs, or use --device cpu.")


def _everyone(own: str, store: Store, share: Share) -> list[str]:
    """What every process says, in order, before they are a group."""
    store.set(f"own {share.rank}", own)
    said = [store.get(f"own {rank}").decode() for rank in range(share.size)]
    store.set(f"read {share.rank}", "")
    if share.first:  # what all read is kept by it
        store.wait([f"read {rank}" for rank in range(share.size)], LEAVE)
    return said


def share() -> Share:
    """Which of the processes this one is."""
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Share()


def agreed(value: bool) -> bool:
    """The first process's value, in every process; the others wait for it."""
    if not dist.is_initialized():
        return value
    said = torch.tensor(int(value))
    dist.broadcast(said, 0, group=_talk)
    return bool(said)


def gather(own: Tensor, counts: Sequence[int]) -> Tensor:
    """All processes' rows in order, without gradient; ``counts[r]`` of them are process r's."""
    if not dist.is_initialized():
        return own.detach()
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def counts_of(rows: int) -> list[int]:
    """How many rows each process has."""
    if not dist.is_initialized():
        return [rows]
    return [int(count) for count in gather(torch.tensor([rows]), [1] * share().size)]


def add(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over the processes, in buckets of one dtype."""
    if not dist.is_initialized():
        return
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or _bytes(bucket) + _bytes([tensor]) > BUCKET):
            _add_bucket(bucket)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _add_bucket(bucket)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _add_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def anywhere(said: Sequence[bool]) -> list[bool]:
    """Which of these any process says."""
    if not dist.is_initialized():
        return list(said)
    votes = torch.tensor(said, dtype=torch.uint8)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def names(own: Iterable[str]) -> list[str]:
    """All names that any process has, in order."""
    if not dist.is_initialized():
        return sorted(own)
    everyone: list[list[str]] = [[] for _ in range(share().size)]
    dist.all_gather_object(everyone, sorted(own), group=_talk)
    return sorted({name for some in everyone for name in some})


def add_gradients(module: nn.Module) -> None:
    """Sum every gradient over the processes; a parameter that has none anywhere keeps none."""
    if not dist.is_initialized():
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    used = anywhere([p.grad is not None for p in parameters])
    moved = [p for p, somewhere in zip(parameters, used, strict=True) if somewhere]
    for parameter in moved:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    add([parameter.grad for parameter in moved if parameter.grad is not None])


def check_same(module: nn.Module) -> None:
    """See that all processes hold the same weights and buffers; of what is cut each holds its own.

    Raises:
        RuntimeError: they have drifted apart.
    """
    held = [value for value in module.state_dict().values() if not is_cut(value)]
    if not dist.is_initialized() or not held:
        return
    sums = torch.stack([value.double().sum().cpu() for value in held])
    everyone = gather(sums[None], [1] * share().size)
    if not torch.equal(everyone, everyone[:1].expand_as(everyone)):
        raise RuntimeError("the processes have drifted apart: their weights differ")


# Cut weights.


def cut(module: nn.Module, blocks: Iterable[nn.Module], method: str) -> None:
    """Leave each process some rows of every parameter; ``method`` and blocks join them while they run.

    Gradients become the sum over the processes, not the mean, in every process's own rows. What a process
    does not use counts as a gradient of zero, for all must take part in every sum.

    Raises:
        UserError: the installed torch cannot do it.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(f"runtime.shard needs torch 2.13 or newer, not {torch.__version__}: update torch.")
    mesh = init_device_mesh(device_of(module).type, (share().size,))
    empty = {parameter for parameter in module.parameters() if not parameter.numel()}  # torch would trip
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, ignored_params=empty)
    register_fsdp_forward_method(module, method)
    for done in _cut_modules(module):
        done.set_gradient_divide_factor(1.0)
        done.set_force_sum_reduction_for_comms(True)  # gloo can only add
        done.set_reduce_scatter_unused_params(True, recurse=False)


def _cut_modules(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def rest(module: nn.Module) -> None:
    """See that every parameter of a cut module is a cut one now, also of what ran last."""
    for part in _cut_modules(module):
        part.reshard()


def forget(module: nn.Module) -> None:
    """Strike a module off torch's list of what was cut, which has no way out and refuses to cut it again."""
    _composable_state._module_state_mapping.pop(module, None)


def is_cut(tensor: Tensor) -> bool:
    """Whether each process holds some rows of the tensor only."""
    return isinstance(tensor, DTensor)


def holds_cut(module: nn.Module) -> bool:
    """Whether the module's weights are cut."""
    return any(is_cut(parameter) for parameter in module.parameters())


def own(tensor: Tensor) -> Tensor:
    """This process's rows, as a view; all of them if the tensor is not cut."""
    kept = tensor.detach()
    return kept.to_local() if isinstance(kept, DTensor) else kept


def whole(tensor: Tensor) -> Tensor:
    """All rows, in every process; all must ask for them."""
    kept = tensor.detach()
    return kept.full_tensor() if isinstance(kept, DTensor) else kept


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as another is and on its device, if that is cut and has as many rows."""
    if not isinstance(like, DTensor) or not tensor.ndim or len(tensor) != len(like):
        return tensor
    start = share().rank * -(-len(tensor) // share().size)  # as many rows for each, the last ones have fewer
    rows = tensor[start : start + len(like.to_local())].to(like.device, copy=True)
    shape, stride = tensor.size(), tensor.stride()
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride
    )


def row_zeros(like: Tensor, columns: int) -> Tensor:
    """Zeros in float32, one row for each of another tensor's, and cut as it is."""
    if not isinstance(like, DTensor):
        return torch.zeros(len(like), columns, device=like.device)
    return zeros(len(like), columns, device_mesh=like.device_mesh, placements=like.placements)
