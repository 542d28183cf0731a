"""Energy of a stretch of work: of a GPU through NVML, of a processor through RAPL."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import torch

from ctm_fast.trainer.power import Meter, Unreadable, nvml_meter

POWERCAP = Path("/sys/class/powercap")
SHORTEST = 1.0  # seconds; the counters move every 20 to 100 ms, so shorter stretches mean little


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
            self._meter = nvml_meter() if self._device == "cuda" else Rapl()
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
        """As `taken`; nothing has to end."""
        return self.taken()

    def taken(self) -> float:
        """Joules since `start`, or since the last call."""
        before, self._began = self._began, self._read()
        spans = zip(before, self._began, self._ranges)
        # The last value before a counter starts again is its range itself.
        used = [now - start + (size + 1 if now < start else 0) for start, now, size in spans]
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
