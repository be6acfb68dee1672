"""Several processes for one command, as torchrun starts them: my rank, my share of the work, how results are put together."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from src.common.cli import UserError
from src.common.devices import device_count, resolve_device


class Processes:
    """The processes that share the work of one command. For a process alone every method is free."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print, once for all processes."""
        if self.is_first:
            print(text)

    def share(self, count: int) -> slice:
        """My part of `count` things: contiguous, in the order of the ranks; parts differ in size by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes: one message for all of them, in place."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over all processes; a parameter that got none here counts as zero."""
        if self.size == 1:
            return
        parameters = list(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.sum(parameter.grad for parameter in parameters)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process. Every process must ask."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        dist.all_reduce(total)
        return bool(total.item())

    def first_says(self, value: Any) -> Any:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of the ranks, for all."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes(device_name: str) -> Iterator[tuple[Processes, torch.device]]:
    """Inside the block this process works with the others that torchrun started; gives them, and this process's device.

    Device "cuda" gives each process of a machine a GPU of its own (NCCL), the CPU is shared by all (gloo). Raises UserError for
    fewer GPUs than processes, and for devices that processes cannot share: one GPU, mps.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield Processes(), resolve_device(device_name)
        return
    absent = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if absent:
        raise UserError(
            f"the environment has WORLD_SIZE={size}, but not {', '.join(absent)}: start several processes with torchrun "
            f"--nproc_per_node={size}, or a single one without WORLD_SIZE"
        )
    local = _number("LOCAL_RANK", 0)
    device = resolve_device(device_name, print if _number("RANK", 0) == 0 else lambda text: None)
    if device.type != "cpu" and device_name != "cuda":
        raise UserError(f"--device {device_name}: several processes cannot share it; give cuda, a GPU for each, or cpu")
    if device.type == "cuda":
        here, count = _number("LOCAL_WORLD_SIZE", local + 1), device_count("cuda")
        if here > count:
            raise UserError(f"{here} processes on a machine with {count} CUDA device(s): start as many, or give --device cpu")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    """A whole number of the environment. Raises UserError for anything else."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"the environment has {name}={text!r}, expected a whole number as torchrun sets it")
    return int(text)
