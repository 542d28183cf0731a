"""All processes as one: sums, shares of the work, and errors that stop everyone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """(number of this process, number of processes); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_batches(total: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """(first, end) of every batch of this process, out of the images 0 to total - 1.

    Batches are cut the same way for any number of processes and dealt in turn, so that the
    networks see the same batches and give the same numbers.
    """
    rank, size = rank_and_size()
    for start in range(rank * batch_size, total, size * batch_size):
        yield start, min(start + batch_size, total)


def summed(values: Tensor) -> Tensor:
    """Sum over all processes, in place. Values must lie where the process group can reach them."""
    if rank_and_size()[1] > 1:
        dist.all_reduce(values)
    return values


def assembled(parts: list[tuple[int, Tensor]], total: int, like: Tensor) -> Tensor:
    """Rows of all processes in order, (total, D), on every process.

    Args:
        parts: (first row, rows) of this process.
        total: rows of all processes together.
        like: (..., D) in the dtype and on the device of the result.
    """
    whole = torch.zeros(total, like.shape[-1], dtype=like.dtype, device=like.device)
    for start, rows in parts:
        whole[start : start + len(rows)] = rows
    return summed(whole)


def raise_together(error: Exception | None) -> None:
    """Raise on every process when any of them has an error, so that none waits for ever.

    Raises:
        Exception: this process's own error if it has one.
        RuntimeError: another process's error, with its number.
    """
    _, size = rank_and_size()
    if size > 1:
        found: list[str | None] = [None] * size
        dist.all_gather_object(found, None if error is None else f"{type(error).__name__}: {error}")
        for number, text in enumerate(found):
            if text is not None and error is None:
                raise RuntimeError(f"process {number} stopped: {text}")
    if error is not None:
        raise error


def all_agree(value: int) -> bool:
    """Whether a small number is the same on all processes."""
    _, size = rank_and_size()
    if size == 1:
        return True
    found: list[int | None] = [None] * size
    dist.all_gather_object(found, value)
    return len(set(found)) == 1
