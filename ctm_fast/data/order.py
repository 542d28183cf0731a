"""Infinite shuffling without state: which images the training step reads."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ctm_fast.rng import stream

_ORDER = 0x6F72646572  # keeps these streams apart from others with the same seed


def batch_indices(step: int, batch_size: int, size: int, seed: int) -> Tensor:
    """Indices of the images of one training step, (batch_size,) int64 in [0, size).

    All steps together are one infinite sequence: epoch e is a permutation of the whole set drawn
    from (seed, e), epochs follow each other without a gap, and step n reads elements
    n * batch_size to (n + 1) * batch_size. So the k-th image of a run does not depend on the batch
    size, and a resumed run needs nothing but its step number.

    Args:
        step: number of the optimizer step, >= 0.
        batch_size: images per step over all processes, >= 1; may exceed `size`.
        size: images in the data set, >= 1.
        seed: any integer.

    Raises:
        ValueError: for a negative step or a batch_size or size below 1.
    """
    for name, value, least in (("step", step, 0), ("batch_size", batch_size, 1), ("size", size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    first, end = step * batch_size, (step + 1) * batch_size
    parts = []
    while first < end:
        epoch, start = divmod(first, size)
        stop = min(size, start + end - first)
        parts.append(_permutation(epoch, size, seed)[start:stop])
        first += stop - start
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _permutation(epoch: int, size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=stream(seed, _ORDER, epoch))
