"""The only file that imports triton: a stand-in when it is absent, and `autotune`.

Kernel files write `from ._triton import tl, triton` and define their kernels unconditionally; the
stand-in lets them be imported without triton, and `why_not` says that they cannot run.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""Whether kernels run in Triton's CPU interpreter. Set before the package is imported."""

ABSENT: str | None = None
"""Why triton is not there, or None if it is."""


class _StandIn:
    """Accepts what the definition of a kernel does to `triton` and `tl`; nothing of it runs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError(f"triton is not installed: {ABSENT}")


try:
    import triton
    import triton.language as tl
except ImportError as error:
    ABSENT = f"triton cannot be imported ({error})"
    INTERPRETED = False
    triton = tl = _StandIn()


def why_not(tensors: Sequence[torch.Tensor]) -> str | None:
    """Reason why no Triton kernel can run on these tensors, or None."""
    if ABSENT is not None:
        return ABSENT
    kinds = sorted({t.device.type for t in tensors})
    if INTERPRETED:
        return None if kinds == ["cpu"] else f"the interpreter needs CPU tensors, not {kinds}"
    if kinds != ["cuda"]:
        return f"triton needs CUDA tensors, not {kinds} (TRITON_INTERPRET=1 runs CPU tensors)"
    if len({t.device.index for t in tensors}) > 1:
        return "the tensors lie on different devices"
    if torch.version.hip is None and torch.cuda.get_device_capability(tensors[0].device) < (8, 0):
        return "triton kernels need compute capability 8.0 or later"
    return None


def first_config(configs: Sequence[Any]) -> dict[str, Any]:
    """Launch keywords of the first configuration: its constants, warps and stages."""
    config = configs[0]
    return {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}


class _Tuned:
    """A kernel tuned on a GPU and launched with its first configuration elsewhere."""

    def __init__(self, kernel: Any, configs: Sequence[Any], key: Sequence[str]) -> None:
        self.kernel, self.configs, self.key = kernel, list(configs), list(key)
        self.tuner: Any = None

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        if INTERPRETED or not torch.cuda.is_available():
            keywords = first_config(self.configs)
            return lambda *args, **kwargs: self.kernel[grid](*args, **{**keywords, **kwargs})
        if self.tuner is None:
            self.tuner = triton.autotune(configs=self.configs, key=self.key)(self.kernel)
        return self.tuner[grid]


def autotune(configs: Sequence[Any], key: Sequence[str]) -> Callable[[Any], Any]:
    """`triton.autotune` that works without a GPU driver, where it takes the first configuration."""

    def decorate(kernel: Any) -> Any:
        return kernel if ABSENT is not None else _Tuned(kernel, configs, key)

    return decorate
