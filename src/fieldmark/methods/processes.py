"""Data-parallel training under `torchrun`: which process this is, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

# The others wait while the first process makes anchors; torch gives up after 10 or 30 minutes.
# A process that dies is seen by torchrun, however long this is.
_LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        local_rank: number of this process on its host, which is also the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """Return this process's GPU where `device` is one and there are several processes."""
        if device.type == "cuda" and self.world > 1:
            return torch.device("cuda", self.local_rank)
        return device

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            distributed.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in one message.

        A parameter without a gradient here counts as 0, so a process with no image of its own
        in the last batch of an epoch takes part all the same.
        """
        if self.world == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = flat.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone when it started none.

    Example:
        >>> with join_processes() as processes:
        ...     processes.world
        1
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield Processes(rank=distributed.get_rank(), world=world, local_rank=local_rank)
    finally:
        distributed.destroy_process_group()
