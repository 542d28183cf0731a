"""What the C++ and the Triton version of `normal` share: arguments and registration."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _native, _triton

Tensor = torch.Tensor


def new(seeds: Tensor, step: int, shape: Sequence[int]) -> Tensor:
    """Memory for the result, which is also all that a compiler has to know about it."""
    return torch.empty((seeds.shape[0], *shape), dtype=torch.float32, device=seeds.device)


def arguments(
    seeds: Tensor, step: int, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, int, list[int]]:
    """Arguments of `normal` in the order of its schema; step as a signed 64-bit number."""
    return seeds, (int(step) + 2**63) % 2**64 - 2**63, list(shape)


def register(
    suffix: str, run: Callable[..., Tensor], devices: Sequence[str]
) -> torch.library.Library:
    """Defines ctm_fast::normal<suffix>; the op exists as long as the returned library does."""
    library = torch.library.Library("ctm_fast", "FRAGMENT")
    name = f"normal{suffix}"
    library.define(f"{name}(Tensor seeds, int step, SymInt[] shape) -> Tensor")
    for device in devices:
        library.impl(name, run, device)
    torch.library.register_fake(f"ctm_fast::{name}", new, lib=library)
    return library


def registered(*args: Any, **kwargs: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The registered ops of one call that run here, with their arguments."""
    values = arguments(*args, **kwargs)
    runs = {"": values[0].is_cpu and _native.ABSENT is None}
    runs["_triton"] = _triton.why_not([values[0]]) is None
    ops = torch.ops.ctm_fast
    return [(getattr(ops, f"normal{s}").default, values) for s, there in runs.items() if there]
