"""Clocks: what is run how often, in which order, and what the numbers mean."""

import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import CPUClock, CUDAClock, copy_bandwidth, quartiles


def test_quartiles() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)


def test_a_cpu_sample_is_the_mean_of_several_short_runs() -> None:
    runs: list[float] = []

    def work() -> None:
        runs.append(time.perf_counter())

    clock = CPUClock()
    repeats = clock.prepare(work)
    assert 1 < repeats <= timing.MOST_REPEATS
    runs.clear()
    seconds = clock.seconds(work, repeats)
    assert len(runs) == repeats + 1, "one run warms the caches"
    assert 0 < seconds < 1e-3
    assert clock.prepare(lambda: time.sleep(1e-3)) == 1
    assert clock.host(work) is None


class StandIn:
    """A GPU that takes one second per call and keeps a diary."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.now = 0.0
        stand_in = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                stand_in.diary.append("event")
                self.time = stand_in.now

            def synchronize(self) -> None:
                stand_in.diary.append("wait")

            def elapsed_time(self, end: "Event") -> float:
                return (end.time - self.time) * 1e3

        self.cuda = SimpleNamespace(
            Event=Event,
            current_device=lambda: 0,
            get_device_properties=lambda device: SimpleNamespace(L2_cache_size=1 << 10),
            mem_get_info=lambda: (1 << 12, 1 << 12),
            synchronize=lambda: self.diary.append("synchronize"),
            _sleep=self.sleep,
        )
        self.int8 = torch.int8
        self.empty_like = torch.empty_like

    def sleep(self, cycles: int) -> None:
        self.diary.append("sleep")
        self.now += cycles / 1e9

    def empty(self, size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        assert device == "cuda"
        diary = self.diary

        class Flushed(torch.Tensor):
            def zero_(self) -> torch.Tensor:
                diary.append("flush")
                return self

        return torch.empty(min(size, 1 << 12), dtype=dtype).as_subclass(Flushed)

    def work(self) -> None:
        self.diary.append("work")
        self.now += 1.0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(timing, "torch", stand_in)
    return stand_in


def test_a_gpu_sample_follows_a_flush_and_a_backlog(gpu: StandIn) -> None:
    clock = CUDAClock()
    assert clock._cycles_per_second == pytest.approx(1e9)
    backlog = clock.prepare(gpu.work)
    assert 1e-4 < backlog < 1
    gpu.diary.clear()
    assert clock.seconds(gpu.work, backlog) == pytest.approx(1.0)
    assert gpu.diary == ["synchronize", "flush", "sleep", "event", "work", "event", "wait"]


def test_host_time_is_that_of_queueing(gpu: StandIn) -> None:
    clock = CUDAClock()
    gpu.diary.clear()
    host = clock.host(gpu.work)
    assert host is not None and 0 < host < 0.1
    assert gpu.diary[:3] == ["synchronize", "work", "work"] and gpu.diary[-1] == "synchronize"


@pytest.mark.gpu
def test_a_copy_reaches_a_plausible_bandwidth() -> None:
    assert 1e11 < copy_bandwidth() < 1e14


@pytest.mark.gpu
def test_a_kernel_takes_less_time_than_its_launch() -> None:
    x = torch.zeros(16, device="cuda")
    clock = CUDAClock()

    def work() -> None:
        x.add_(1)

    seconds = clock.seconds(work, clock.prepare(work))
    assert 0 < seconds < 1e-4
