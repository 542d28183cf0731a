"""The only file that loads `ctm_fast._native`: what was built, and the reason when it is absent."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from .arguments import capability

INTERFACE = 5
"""Version of the calls below; a build of another version is refused instead of misread."""

ABSENT: str | None = None
"""Why the native part is not there, or None if it is."""

module: Any = None
try:
    module = importlib.import_module("ctm_fast._native")
    if module.interface != INTERFACE:
        ABSENT = f"ctm_fast._native is of version {module.interface}, not {INTERFACE}: reinstall"
except ModuleNotFoundError as error:
    if error.name != "ctm_fast._native":
        raise
    ABSENT = "the native part was not built: install again with a C++ compiler on PATH"
except ImportError as error:
    ABSENT = f"the native part does not load ({error})"

CUDA_BUILT = ABSENT is None and bool(module.cuda_architectures)
"""Whether the CUDA part was built."""

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
"""Codes of the element types in csrc/heun.h."""


def parts() -> list[str]:
    """What was built, in words, one entry per part; empty if nothing was."""
    if ABSENT is not None:
        return []
    threads = "OpenMP" if module.openmp else "one thread"
    tiles = " and matrix tiles" if module.tiles else ""
    cpu = f"CPU ({module.compiler}, {threads}, runs {module.cpu_target}{tiles})"
    if not CUDA_BUILT:
        return [cpu]
    return [cpu, f"CUDA {module.cuda_version} for {module.cuda_architectures}"]


def why_not(tensors: Sequence[torch.Tensor]) -> str | None:
    """Reason why no native kernel can run on these tensors, or None."""
    if ABSENT is not None:
        return ABSENT
    if tensors and all(t.is_cpu for t in tensors):
        return None
    kinds = sorted({t.device.type for t in tensors})
    if kinds != ["cuda"]:
        return f"native kernels need tensors on one device, cpu or cuda, not {kinds}"
    if not CUDA_BUILT:
        return "the CUDA part was not built: install again with nvcc on PATH"
    if len({t.device.index for t in tensors}) > 1:
        return "the tensors lie on different devices"
    if torch.version.hip is not None or capability(tensors[0].get_device()) < (8, 0):
        return "native CUDA kernels need an NVIDIA GPU of compute capability 8.0 or later"
    return None
