"""Processes: starting under torchrun, agreeing, and telling the ranks apart."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .differences import differences


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int = 0  # 0 is the one that writes files and talks
    size: int = 1  # number of processes

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def start() -> World:
    """Join the processes that torchrun started; one process alone needs no launcher.

    gloo is used on CPU, nccl on CUDA. A process group that exists already is used as it is.
    """
    if not dist.is_available():
        return World()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return World()
        _warn_of_shared_store()
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(_local_rank())
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(stop)
    return World(dist.get_rank(), dist.get_world_size())


def stop() -> None:
    """Leave the process group, if there is one.

    gloo's threads may still hold the last tensors, and abort the program when they let go of them
    while Python is shutting down. They are joined when nothing refers to the group any more.
    """
    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def default_device() -> torch.device:
    """This process's GPU when there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", _local_rank())
    return torch.device("cpu")


def barrier(world: World) -> None:
    """Wait for all processes."""
    if world.size > 1:
        dist.barrier()


def from_first(world: World, value: Any) -> Any:
    """The first process's `value`, on every process; small picklable objects only."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def raise_together(world: World, error: Exception | None) -> None:
    """Raise on every process when any of them has an error, so that none waits for ever.

    Raises:
        Exception: this process's own error if it has one.
        RuntimeError: another process's error, with its rank.
    """
    if world.size > 1:
        found: list[str | None] = [None] * world.size
        dist.all_gather_object(found, None if error is None else f"{type(error).__name__}: {error}")
        for rank, text in enumerate(found):
            if text is not None and error is None:
                raise RuntimeError(f"process {rank} stopped: {text}")
    if error is not None:
        raise error


def any_process(world: World, flag: bool) -> bool:
    """Whether `flag` is true on any process."""
    if world.size == 1:
        return flag
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, flag)
    return any(found)


def check_same(world: World, what: str, value: Any) -> None:
    """Raise ValueError unless `value` (JSON types) is the same on all processes.

    The message names the fields that differ.
    """
    if world.size == 1:
        return
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, value)
    for rank, other in enumerate(found):
        different = list(differences(found[0], other, "process 0", f"process {rank}"))
        if different:
            raise ValueError(f"{what} differs between processes:\n  " + "\n  ".join(different))


@torch.no_grad()
def same_weights(world: World, module: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if world.size > 1:
        for tensor in module.state_dict().values():
            # Broadcasting needs row-major memory, which channels-last weights do not have.
            whole = tensor.contiguous()
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def sum_over_processes(world: World, values: torch.Tensor) -> torch.Tensor:
    """Sum of `values` over all processes, in place."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _warn_of_shared_store() -> None:
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if shared and restarts > 0 and os.environ.get("RANK") == "0":
        print(
            "ctm_fast: restarts under torchrun can hang; start it with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment",
            file=sys.stderr,
        )
