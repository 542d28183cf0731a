"""The seeded noise of csrc/, registered with torch."""

from collections.abc import Sequence
from typing import Any

import torch

from . import _native
from ._normal_op import arguments, new, register

Tensor = torch.Tensor


def _normal(seeds: Tensor, step: int, shape: Sequence[int]) -> Tensor:
    noise = new(seeds, step, shape)
    if noise.numel() > 0:
        seeds = seeds.contiguous()
        batch = len(seeds)
        sizes = (batch, noise.numel() // batch)
        threads = torch.get_num_threads()
        _native.module.normal(seeds.data_ptr(), step, noise.data_ptr(), *sizes, threads)
    return noise


LIBRARY = register("", _normal, ("CPU",))


def native_normal(*args: Any, **kwargs: Any) -> Tensor:
    """`reference` in one pass by csrc/."""
    return torch.ops.ctm_fast.normal(*arguments(*args, **kwargs))
