"""Forward times of every op's backends on this machine, as ratios to the reference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ctm_fast.evaluation import environment
from ctm_fast.kernels import BACKENDS, OPS


@dataclass(frozen=True)
class Line:
    """One op, case and backend."""

    op: str
    case: str  # shape, dtype and what else the op's `bench` table says
    backend: str
    milliseconds: float  # median over the rounds
    ratio: float  # reference / this backend; above 1 is faster


def measure(op: str | None = None, rounds: int = 15, device: str | None = None) -> Iterator[Line]:
    """Lines of all cases; backends take turns within a round, so that load hits all alike.

    Args:
        op: only this one.
        rounds: timed rounds, >= 1; two more warm up.
        device: "cpu" or "cuda"; the GPU if there is one.

    Raises:
        ValueError: for an unknown op or fewer than one round.
    """
    if op is not None and op not in OPS:
        raise ValueError(f"unknown op {op!r}; choose from {sorted(OPS)}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name, each in OPS.items():
        for case in each.bench if op in (None, name) else ():
            args, kwargs = each.example(device=device, **case)
            backends = [b for b in BACKENDS if each.why_not(b, *args, **kwargs) is None]
            calls = {b: _call(each, b, args, kwargs) for b in backends}
            medians = interleaved(calls, rounds, device)
            for backend, seconds in medians.items():
                ratio = medians["reference"] / seconds
                yield Line(name, words(case), backend, seconds * 1e3, ratio)


def interleaved(
    calls: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of every call, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, rounds):
        for name, call in calls.items():
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            if turn >= 0:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def report(lines: Iterator[Line]) -> None:
    """Print machine and table."""
    for name, value in environment().items():
        print(f"{name}: {value}")
    print(f"\n{'op':<14}{'backend':<11}{'ms':>9}{'x reference':>13}  case")
    for line in lines:
        numbers = f"{line.milliseconds:>9.3f}{line.ratio:>13.2f}"
        print(f"{line.op:<14}{line.backend:<11}{numbers}  {line.case}", flush=True)


def words(case: dict[str, Any]) -> str:
    """A case in words."""
    return ", ".join(f"{key} {str(value).removeprefix('torch.')}" for key, value in case.items())


def _call(op: Any, backend: str, args: Any, kwargs: Any) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return op(*args, backend=backend, **kwargs)

    return call


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
