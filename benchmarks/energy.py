"""Energy of a stretch of work: of a GPU through NVML, of a processor through RAPL."""

from __future__ import annotations

import importlib
import itertools
import math
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
INTERVAL = 0.02  # seconds between two samples of the power
SHORTEST = 1.0  # seconds; the counters move every 20 to 100 ms, so shorter stretches mean little


class Unreadable(Exception):
    """The machine does not tell its energy; the message says why."""


class Meter(Protocol):
    """Something that counts joules."""

    source: str  # what it reads

    def start(self) -> None:
        """Begins."""

    def stop(self) -> float:
        """Joules since `start`. Raises Unreadable."""


class Energy:
    """Context that measures the energy of its body, for example `with Energy("cuda") as used:`.

    The device finishes its queue at both ends. Everything that runs on it counts, idle power
    included, whoever asked for it.

    Args:
        device: "cpu" or "cuda" (the current GPU).

    Attributes:
        joules: of the body; None where the machine does not tell, or after an exception.
        seconds: of the body.
        source: what was read, in words; empty if nothing was.
        note: why there is no number, or why it means little; empty otherwise.
    """

    def __init__(self, device: str = "cpu") -> None:
        if device not in ("cpu", "cuda"):
            raise ValueError(f"unknown device {device!r}; choose 'cpu' or 'cuda'")
        self.joules: float | None = None
        self.seconds = 0.0
        self.source = self.note = ""
        self._device = device
        self._meter: Meter | None = None

    def __enter__(self) -> Energy:
        try:
            self._meter = _nvml_meter() if self._device == "cuda" else Rapl()
            self._wait()
            self._meter.start()
            self.source = self._meter.source
        except Unreadable as reason:
            self._meter, self.note = None, str(reason)
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._wait()
        self.seconds = time.perf_counter() - self._started
        if self._meter is None:
            return
        try:
            joules = self._meter.stop()
        except Unreadable as reason:
            self.source, self.note = "", str(reason)
            return
        if kind is None:
            self.joules = joules
            if self.seconds < SHORTEST:
                self.note = f"over {self.seconds:.2g} s only; the counters need {SHORTEST:g} s"

    def per(self, count: float) -> float | None:
        """Joules per unit, for example per image; None where there are no joules."""
        return None if self.joules is None else self.joules / count

    def _wait(self) -> None:
        if self._device == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize()


def _nvml_meter() -> Meter:
    """The energy counter of the current GPU where it has one (Volta and later), or its power."""
    if not torch.cuda.is_available():
        raise Unreadable("no NVIDIA GPU")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise Unreadable("nvidia-ml-py is not installed: pip install ctm_fast[bench]") from error
    try:
        nvml.nvmlInit()
        # CUDA may hide or reorder GPUs; their identifiers stay.
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError as error:
        raise Unreadable(f"NVML: {error}") from error
    for meter in (NvmlCounter(nvml, handle), NvmlPower(nvml, handle)):
        try:
            meter.read()
        except nvml.NVMLError as error:
            reason = error
        else:
            return meter
    raise Unreadable(f"NVML: {reason}")


class NvmlCounter:
    """The GPU's own count of its energy."""

    source = "NVML energy counter"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) * 1e-3

    def start(self) -> None:
        """Begins."""
        self._began = self.read()

    def stop(self) -> float:
        """Joules since `start`."""
        try:
            return self.read() - self._began
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error


class NvmlPower:
    """The integral of power samples that a thread takes every INTERVAL seconds."""

    source = "NVML power samples"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._samples: list[tuple[float, float]] = []
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def read(self) -> float:
        """Watts."""
        return self._nvml.nvmlDeviceGetPowerUsage(self._handle) * 1e-3

    def start(self) -> None:
        """Begins."""
        self._sample()
        self._thread.start()

    def stop(self) -> float:
        """Joules since `start`."""
        self._ended.set()
        self._thread.join()
        self._sample()
        if self._error is not None:
            raise Unreadable(f"NVML: {self._error}") from self._error
        return integral(self._samples)

    def _watch(self) -> None:
        while self._error is None and not self._ended.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        try:
            self._samples.append((time.perf_counter(), self.read()))
        except self._nvml.NVMLError as error:
            self._error = error


def integral(samples: list[tuple[float, float]]) -> float:
    """By the trapezoidal rule, of (time, value) pairs in order."""
    pairs = itertools.pairwise(samples)
    return math.fsum((t1 - t0) * (v0 + v1) / 2 for (t0, v0), (t1, v1) in pairs)


class Rapl:
    """The counters of all processor packages and, where they count apart, of their memory.

    A counter starts again from zero at its range, minutes of work; one such turn is put right.

    Raises:
        Unreadable: the system has no such counters, or keeps them for its administrator.
    """

    source = "RAPL"

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or POWERCAP
        zones = [zone for zone in sorted(folder.glob("*-rapl:*")) if _counts(zone)]
        if not zones:
            raise Unreadable(f"no energy counters of the processor in {folder}")
        self._zones = zones
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._read()

    def start(self) -> None:
        """Begins."""
        self._began = self._read()

    def stop(self) -> float:
        """Joules since `start`."""
        spans = zip(self._began, self._read(), self._ranges)
        # The last value before a counter starts again is its range itself.
        used = [now - before + (size + 1 if now < before else 0) for before, now, size in spans]
        return sum(used) * 1e-6

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


def _counts(zone: Path) -> bool:
    """Whether a zone is a package, or memory, which no package contains; cores are within one."""
    try:
        name = (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unreadable(f"{file} cannot be read ({error})") from error
