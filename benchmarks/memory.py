"""Bytes that a call needs: what the allocator of a GPU says, or how far the process grows."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held(device: str) -> int | None:
    """Bytes in use now; None where nobody tells. Differences of it mean something."""
    settle()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return _of_process("VmRSS")


def peak(work: Callable[[], Any], device: str) -> int | None:
    """Bytes that one call of `work` needs on top of what is in use; None where nobody tells."""
    settle()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before_call = _of_process("VmRSS")
    try:
        RESET.write_text("5")  # the highest use so far becomes the present one
    except OSError:
        return None
    work()
    highest = _of_process("VmHWM")
    if highest is None or before_call is None:
        return None
    return max(0, highest - before_call)


def settle() -> None:
    """Gives back what is free: dead objects, the C library's heap, the cache of the GPU."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _of_process(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024
