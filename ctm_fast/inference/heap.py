"""What glibc does with memory that a network has freed between two calls."""

from __future__ import annotations

import ctypes
import os
import platform

LARGEST = 32 << 20  # bytes; larger blocks still go back at once. The most that glibc allows
KEPT = 256 << 20  # bytes that the process may hold on to
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_heap() -> bool:
    """Has glibc keep up to `KEPT` bytes of freed memory for the next call; whether it does.

    By default activations are given back to the system and asked for again at every call, and the
    page faults that follow are 7 to 10 % of a frozen CIFAR-10 network's time. Nothing is changed
    where the environment sets these thresholds or another allocator, and outside of glibc.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))


def trim_heap() -> bool:
    """Gives the freed memory between blocks in use back to the system; False outside of glibc.

    A block that was aligned when it was allocated leaves a hole that is too small for another of
    its size, so exchanging tensors one by one would otherwise need their memory twice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
