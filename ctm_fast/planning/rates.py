"""What the committed benchmarks of training steps reached, in operations per second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rates.json")  # written by `python -m benchmarks page`
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Rate:
    """One machine, network and dtype."""

    machine: str
    gpu: bool  # one GPU; else a CPU
    network: str  # preset of the teacher
    dtype: str  # bfloat16 | float16 | float32
    batch: int  # images per step that was timed
    flops_per_second: float
    date: str
    commit: str

    def hours(self, flops: float) -> float:
        """Hours for so many floating-point operations."""
        return flops / self.flops_per_second / 3600

    def __str__(self) -> str:
        return (
            f"{self.flops_per_second / 1e12:.3g} TFLOP/s in CTM's step with {self.network}, "
            f"{self.dtype}, batch {self.batch}, on {self.machine} ({self.commit}, {self.date})"
        )


def rates(file: Path = FILE) -> list[Rate]:
    """The table of the installed package."""
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [Rate(**entry) for entry in entries]


def fitting(network: str, dtype: str, *, gpu: bool, table: list[Rate] | None = None) -> list[Rate]:
    """The rates that a network was timed with, one per machine, the same or the other half dtype.

    Args:
        network: name of a preset; that of a student counts as its teacher's.
        dtype: of the computation.
        gpu: on GPUs, or on CPUs.
        table: by default the one of the package.
    """
    wanted = HALF if dtype in HALF else (dtype,)
    best: dict[str, Rate] = {}
    for rate in rates() if table is None else table:
        if rate.gpu != gpu or rate.network != network.removeprefix("ctm-"):
            continue
        if rate.dtype not in wanted:
            continue
        before = best.get(rate.machine)
        if before is None or (rate.dtype == dtype, rate.flops_per_second) > (
            before.dtype == dtype,
            before.flops_per_second,
        ):
            best[rate.machine] = rate
    return sorted(best.values(), key=lambda rate: -rate.flops_per_second)
