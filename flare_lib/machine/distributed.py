"""Training in several processes that act as one: each sees its part of the batch, all take the same step.

`torchrun --nproc-per-node 2 -m flare_lib.cli train ...` starts the processes and gives each its rank. A loss that is a
ratio of sums over the batch (Dice) is not the mean of the losses of its parts, so the sums are taken over all processes
before the ratio. Two processes then give the same result as one with twice the batch.

Reference: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def init_distributed(device: torch.device) -> torch.device:
    """Join the other processes if torchrun started this one; return the device of this one.

    Communication is by nccl on GPUs, one GPU per process, and by gloo otherwise. Without torchrun, nothing happens.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def end_distributed() -> None:
    """Leave the other processes; nothing happens if there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """Return the number of this process and how many there are: (0, 1) if it is the only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first_process() -> bool:
    """Return whether this process speaks for all: torchrun's first or only one, joined to others yet or not."""
    return os.environ.get("RANK", "0") == "0"


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes, gradients included; the tensor itself if there is only one."""
    return tensor if rank_and_count()[1] == 1 else _Sum.apply(tensor)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Every process's loss depends on it, so its gradient is summed over them as well."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def average_gradients(net: nn.Module) -> None:
    """Replace every gradient by its mean over all processes."""
    count = rank_and_count()[1]
    if count == 1:
        return
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])  # one message instead of one per parameter
    dist.all_reduce(flat)
    flat /= count
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first process run the block alone, then all the others, which find its work already done."""
    rank, count = rank_and_count()
    if count > 1 and rank > 0:
        dist.barrier()
    yield
    if count > 1 and rank == 0:
        dist.barrier()
