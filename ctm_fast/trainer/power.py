"""Power and energy of an NVIDIA GPU through NVML, whose Python module is optional."""

from __future__ import annotations

import importlib
import itertools
import math
import threading
import time
from typing import Any, Protocol

import torch

INTERVAL = 0.02  # seconds between two samples of the power


class Unreadable(Exception):
    """The machine does not tell its energy; the message says why."""


class Meter(Protocol):
    """Something that counts joules."""

    source: str  # what it reads

    def start(self) -> None:
        """Begins."""
        ...

    def taken(self) -> float:
        """Joules since `start`, or since the last call. Raises Unreadable."""
        ...

    def stop(self) -> float:
        """The same, and ends. Raises Unreadable."""
        ...


def nvml_meter(device: torch.device | None = None) -> Meter:
    """The energy counter of a GPU where it has one (Volta and later), else its power.

    Args:
        device: the GPU; None for the current one.

    Raises:
        Unreadable: without GPU, without nvidia-ml-py, or where the driver tells neither.
    """
    if not torch.cuda.is_available():
        raise Unreadable("no NVIDIA GPU")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise Unreadable("nvidia-ml-py is not installed: pip install ctm_fast[bench]") from error
    index = None if device is None else device.index
    index = torch.cuda.current_device() if index is None else index
    try:
        nvml.nvmlInit()
        # CUDA may hide or reorder GPUs; their identifiers stay.
        uuid = torch.cuda.get_device_properties(index).uuid
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
        joules: float = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) * 1e-3
        return joules

    def start(self) -> None:
        """Begins."""
        self._before = 0.0
        self.taken()

    def taken(self) -> float:
        """Joules since `start`, or since the last call."""
        try:
            before, self._before = self._before, self.read()
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error
        return self._before - before

    def stop(self) -> float:
        """The same; nothing has to end."""
        return self.taken()


class NvmlPower:
    """The integral of power samples that a thread takes every INTERVAL seconds."""

    source = "NVML power samples"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._samples: list[tuple[float, float]] = []
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def read(self) -> float:
        """Watts."""
        watts: float = self._nvml.nvmlDeviceGetPowerUsage(self._handle) * 1e-3
        return watts

    def start(self) -> None:
        """Begins."""
        self._sample()
        self._thread.start()

    def taken(self) -> float:
        """Joules since `start`, or since the last call."""
        self._sample()
        if self._error is not None:
            raise Unreadable(f"NVML: {self._error}") from self._error
        with self._lock:
            samples, self._samples = self._samples, self._samples[-1:]
        return integral(samples)

    def stop(self) -> float:
        """The same; the thread ends."""
        self._ended.set()
        self._thread.join()
        return self.taken()

    def _watch(self) -> None:
        while self._error is None and not self._ended.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            try:
                self._samples.append((time.perf_counter(), self.read()))
            except self._nvml.NVMLError as error:
                self._error = error


def integral(samples: list[tuple[float, float]]) -> float:
    """By the trapezoidal rule, of (time, value) pairs in order."""
    pairs = itertools.pairwise(samples)
    return math.fsum((t1 - t0) * (v0 + v1) / 2 for (t0, v0), (t1, v1) in pairs)


class Power:
    """What a log line says of energy: that of this process's GPU, idle power included.

    Where the machine does not tell, the first line says why, and the others say nothing.

    Args:
        device: that trains; None, and every device but a GPU, is not read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._meter: Meter | None = None
        self._since = 0.0
        self._reason = ""  # why there are no numbers, until a line has said it

    def start(self) -> None:
        """Begins."""
        try:
            if self.device.type != "cuda":
                raise Unreadable(f"the device is {self.device.type}, not an NVIDIA GPU")
            self._meter = nvml_meter(self.device)
            self._meter.start()
        except Unreadable as reason:
            self._meter, self._reason = None, str(reason)
        self._since = time.perf_counter()

    def entry(self, images: int) -> dict[str, Any]:
        """Numbers since the last call, of which `images` were this process's.

        energy_j, the mean power_w, and wh_per_kimg, watt-hours per 1000 images; or no_power, once.
        """
        if self._meter is None:
            reason, self._reason = self._reason, ""
            return {"no_power": reason} if reason else {}
        try:
            joules = self._meter.taken()
        except Unreadable as reason:
            self.stop()
            return {"no_power": str(reason)}
        before, self._since = self._since, time.perf_counter()
        return {
            "power_w": round(joules / max(self._since - before, 1e-9), 2),
            "energy_j": round(joules, 3),
            "wh_per_kimg": round(joules / 3.6 / max(images, 1), 6),
        }

    def stop(self) -> None:
        """Ends."""
        meter, self._meter, self._reason = self._meter, None, ""
        if meter is not None:
            try:
                meter.stop()
            except Unreadable:
                # Nobody asks for what was used since the last line.
                return
