"""Clocks of whole calls: a network, a solve, a step. What the host spends on launches counts."""

from __future__ import annotations

import math
import time
from typing import Protocol

import torch

from .timing import Work

SHORTEST = {"cpu": 5e-3, "cuda": 2e-2}  # seconds; shorter calls are repeated within one sample
MOST_REPEATS = 50
WARMED = 0.2  # seconds; on a CPU shorter samples follow an untimed run


class Stopwatch(Protocol):
    """How whole calls are timed on one kind of device."""

    def prepare(self, work: Work) -> float:
        """About how many seconds one call takes; the first call was made before."""

    def seconds(self, work: Work, about: float) -> float:
        """Mean seconds of one call in one sample."""


class CPUStopwatch:
    """Wall-clock seconds. A short sample follows an untimed run, so that caches hold its data."""

    def prepare(self, work: Work) -> float:
        """About how many seconds one call takes."""
        return _elapsed(work, 1)

    def seconds(self, work: Work, about: float) -> float:
        """Mean seconds of one call in one sample."""
        if about < WARMED:
            work()
        return _elapsed(work, repeats("cpu", about))


class CUDAStopwatch:
    """Seconds between two events around calls that find the GPU idle.

    Unlike in the timing of single kernels nothing keeps the GPU busy in front of the call: where
    the host is slower than the GPU, its time is what a user waits for.
    """

    def prepare(self, work: Work) -> float:
        """About how many seconds one call takes."""
        return self._between(work, 1)

    def seconds(self, work: Work, about: float) -> float:
        """Mean seconds of one call in one sample."""
        return self._between(work, repeats("cuda", about))

    @staticmethod
    def _between(work: Work, count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / count


def stopwatch(device: str) -> Stopwatch:
    """The clock of a kind of device, "cpu" or "cuda"."""
    return CUDAStopwatch() if device == "cuda" else CPUStopwatch()


def repeats(device: str, about: float) -> int:
    """Calls within one sample, if one takes `about` seconds."""
    return max(1, min(MOST_REPEATS, math.ceil(SHORTEST[device] / max(about, 1e-9))))


def _elapsed(work: Work, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count
