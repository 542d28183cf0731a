"""The clocks of whole calls."""

import time

import pytest
import torch

from benchmarks.stopwatch import MOST_REPEATS, CPUStopwatch, repeats, stopwatch


def test_short_calls_are_repeated_after_an_untimed_one() -> None:
    calls = []
    watch = CPUStopwatch()
    about = watch.prepare(lambda: calls.append(1))
    assert len(calls) == 1
    assert 0 < watch.seconds(lambda: calls.append(1), about) < 1
    assert len(calls) == 2 + repeats("cpu", about)
    assert repeats("cpu", 1e-9) == MOST_REPEATS and repeats("cuda", 5.0) == 1


def test_long_calls_run_once() -> None:
    calls = []
    CPUStopwatch().seconds(lambda: calls.append(1), about=1.0)
    assert len(calls) == 1


def test_it_measures_seconds_of_one_call() -> None:
    seconds = CPUStopwatch().seconds(lambda: time.sleep(2e-3), about=2e-3)
    assert 2e-3 <= seconds < 1


def test_each_device_has_its_clock() -> None:
    assert isinstance(stopwatch("cpu"), CPUStopwatch)


@pytest.mark.gpu
def test_on_a_gpu_the_work_of_the_device_counts() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    watch = stopwatch("cuda")
    about = watch.prepare(lambda: a @ a)
    # 137 GFLOP take longer than any launch.
    assert watch.seconds(lambda: a @ a, about) > 1e-4
