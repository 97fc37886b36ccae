"""Several processes that train one model: each takes rows of its own, and all take the same steps.

On a CPU two processes of one thread, each bound to a core, take more rows a second than one process with two threads.
The environment names the processes as PyTorch's launcher does: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``,
``MASTER_PORT``. Without others every function here leaves things as they are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """Join the other processes of this run, where the environment names some, and leave them at the end.

    A process that ends without leaving may be aborted by the threads that gloo still has.

    Yields:
        Rank of this process and number of processes; (0, 1) without others.
    """
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def agree(value: float) -> float:
    """The first process's ``value``, so that all stop after the same step."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


def part(number: int) -> int:
    """How many of ``number`` this process takes."""
    return number // dist.get_world_size() if dist.is_initialized() else number


def begin_alike(parameters: list[nn.Parameter]) -> None:
    """Give every process the first one's parameters."""
    if dist.is_initialized():
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def average(parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes."""
    if not dist.is_initialized():
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
