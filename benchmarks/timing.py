"""Clocks: seconds of one call on a CPU, and on a GPU by events behind queued work."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Work = Callable[[], None]

SHORTEST = 5e-4  # seconds; shorter calls are repeated within one sample on a CPU
MOST_REPEATS = 100
COPIED = 1 << 30  # bytes that the measurement of the copy bandwidth moves one way


class Clock(Protocol):
    """How one variant is timed on one kind of device."""

    def prepare(self, work: Work) -> float:
        """What `seconds` needs to know about a piece of work, found by running it."""

    def seconds(self, work: Work, prepared: float) -> float:
        """Seconds of one run."""

    def host(self, work: Work) -> float | None:
        """Seconds of one run until the host is free again; None if the host does the work."""


class CPUClock:
    """Wall-clock seconds. Every sample follows an untimed run, so that caches hold its own data."""

    def prepare(self, work: Work) -> float:
        """Runs within one sample."""
        return min(MOST_REPEATS, math.ceil(SHORTEST / max(_elapsed(work, 1), 1e-9)))

    def seconds(self, work: Work, prepared: float) -> float:
        """Mean over the runs of one sample."""
        work()
        return _elapsed(work, int(prepared))

    def host(self, work: Work) -> float | None:
        """None: there is no other device."""
        return None


class CUDAClock:
    """Seconds between two events on the current stream.

    Before each sample the L2 cache is overwritten, and the GPU is kept busy until the host has
    queued everything, so that a kernel of a few microseconds is timed and not its launch.
    """

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flushed = torch.empty(max(4 * cache, 1 << 26), dtype=torch.int8, device="cuda")
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._sleep(1 << 20)  # the first one also loads its kernel
        cycles = 1 << 24
        self._cycles_per_second = cycles / self._between(lambda: self._sleep(cycles))

    def prepare(self, work: Work) -> float:
        """Seconds for which the GPU is kept busy: more than the host needs to queue the work."""
        slowest = 0.0
        for _ in range(3):
            torch.cuda.synchronize()
            slowest = max(slowest, _elapsed(work, 1))
        return 2 * slowest + 1e-4

    def seconds(self, work: Work, prepared: float) -> float:
        """Time on the device of one run."""
        torch.cuda.synchronize()
        self._flushed.zero_()
        self._sleep(int(prepared * self._cycles_per_second))
        return self._between(work)

    def host(self, work: Work) -> float | None:
        """Median time in which the host queues one run, of several without waiting for any."""
        samples = []
        for _ in range(15):
            torch.cuda.synchronize()
            # More of them could fill the queue of launches, and the host would wait.
            samples.append(_elapsed(work, 4))
        torch.cuda.synchronize()
        return statistics.median(samples)

    def _between(self, work: Work) -> float:
        self._start.record()
        work()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) * 1e-3

    @staticmethod
    def _sleep(cycles: int) -> None:
        torch.cuda._sleep(cycles)


def clock(device: str) -> Clock:
    """The clock of a kind of device, "cpu" or "cuda"."""
    return CUDAClock() if device == "cuda" else CPUClock()


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least one sample."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of the median of 21 large copies within the GPU."""
    free = torch.cuda.mem_get_info()[0]
    size = min(COPIED, free // 4)
    source = torch.empty(size, dtype=torch.int8, device="cuda").zero_()
    target = torch.empty_like(source)
    watch = CUDAClock()

    def work() -> None:
        target.copy_(source)

    prepared = watch.prepare(work)
    return 2 * size / statistics.median(watch.seconds(work, prepared) for _ in range(21))


def _elapsed(work: Work, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats
