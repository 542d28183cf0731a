"""How fast a run is: images and teacher evaluations per second, and where the time goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PREPARED = "prepare"  # the part that ends with the teacher's work of a step
PENDING = 512  # intervals of a GPU that may wait to be read


class HostLaps:
    """Time of each part of a step, by the host's clock, from one call to the next."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget everything; time runs from here."""
        self._sums: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, part: str) -> None:
        """The time since the last call belongs to `part`."""
        now = time.perf_counter()
        self._sums[part] = self._sums.get(part, 0.0) + now - self._last
        self._last = now

    def taken(self) -> dict[str, float]:
        """Seconds of each part since this was last asked."""
        sums, self._sums = self._sums, {}
        return sums


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)


class DeviceLaps:
    """The same on a GPU's own clock, by an event in its queue at every call.

    Nothing waits: intervals are read once the GPU has passed them, so those of the last steps may
    count for the line after. A GPU that waits for the host counts for the part it waits in.

    Args:
        device: the GPU, whose current stream is measured.
        event: makes an event with `record`, `query` and `elapsed_time` in ms.
        stream: gives the stream.
    """

    def __init__(
        self,
        device: torch.device,
        event: Callable[[], Any] = _event,
        stream: Callable[[torch.device], Any] = torch.cuda.current_stream,
    ) -> None:
        self.device, self._new, self._stream = device, event, stream
        self._free: list[Any] = []
        self.start()

    def start(self) -> None:
        """Forget everything; time runs from here."""
        self._sums: dict[str, float] = {}
        self._pending: deque[tuple[str, Any, Any]] = deque()
        self._last = self._recorded()

    def __call__(self, part: str) -> None:
        """The time since the last call belongs to `part`."""
        before, self._last = self._last, self._recorded()
        self._pending.append((part, before, self._last))
        if len(self._pending) > PENDING:
            self._read()

    def taken(self) -> dict[str, float]:
        """Seconds of each part that the GPU has ended since this was last asked."""
        self._read()
        sums, self._sums = self._sums, {}
        return sums

    def _read(self) -> None:
        while self._pending and self._pending[0][2].query():
            part, begin, end = self._pending.popleft()
            self._sums[part] = self._sums.get(part, 0.0) + begin.elapsed_time(end) / 1000
            self._free.append(begin)

    def _recorded(self) -> Any:
        event = self._free.pop() if self._free else self._new()
        event.record(self._stream(self.device))
        return event


class Evaluations:
    """Counts the images that pass through a network, in CUDA graphs as well.

    On a GPU the count is a number there, to which every pass adds: a graph that is replayed counts
    like one that is run, with the images that fill up its batch; the runs before a capture count,
    too. It travels to the host without a wait at `note`, and can be read once the device is
    known to have come that far.

    Args:
        network: a module, or a `Denoiser`, whose network is counted; others are not counted.
        device: where it runs.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        net = getattr(network, "net", network)
        self.module = net if isinstance(net, nn.Module) else None
        self._host = 0
        self._count = self._copy = None
        if self.module is not None and device.type == "cuda":
            self._count = torch.zeros((), dtype=torch.int64, device=device)
            self._copy = torch.zeros((), dtype=torch.int64, pin_memory=True)
        self._handle: Any = None

    def start(self) -> None:
        """Begin to count."""
        if self.module is not None and self._handle is None:
            self._handle = self.module.register_forward_pre_hook(self._add)

    def stop(self) -> None:
        """Count no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def note(self) -> None:
        """Send the count to the host."""
        if self._copy is not None and self._count is not None:
            self._copy.copy_(self._count, non_blocking=True)

    def read(self) -> int:
        """Images so far, at the last `note` that the device has passed."""
        return self._host if self._copy is None else int(self._copy)

    def _add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = len(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else 0
        if self._count is None:
            self._host += images
        else:
            self._count.add_(images)


class Throughput:
    """What a log line says of speed.

    Args:
        device: that trains.
        teacher: whose evaluations are counted, or None.
        processes: that share the batch; each is taken to call the teacher as often as this one.
    """

    def __init__(self, device: torch.device, teacher: Any = None, processes: int = 1) -> None:
        self.processes = processes
        self._laps = DeviceLaps(device) if device.type == "cuda" else HostLaps()
        self._evaluations = None if teacher is None else Evaluations(teacher, device)

    def start(self) -> None:
        """Begins; what was before does not count."""
        self._laps.start()
        if self._evaluations is not None:
            self._evaluations.start()
            self._seen = self._evaluations.read()
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """The time since the last call belongs to `part` of a step."""
        self._laps(part)
        if part == PREPARED and self._evaluations is not None:
            self._evaluations.note()

    def entry(self, images: int) -> dict[str, Any]:
        """Numbers since the last call, in which all processes saw `images` images.

        sec_per_kimg, images_per_s, teacher_evals_per_s with a teacher whose calls can be counted
        (images through its network), and share, the time of each part as a share of all.
        """
        now = time.perf_counter()
        seconds, self._since = max(now - self._since, 1e-9), now
        found: dict[str, Any] = {
            "sec_per_kimg": round(seconds / max(images, 1) * 1000, 4),
            "images_per_s": round(images / seconds, 3),
        }
        if self._evaluations is not None and self._evaluations.module is not None:
            before, self._seen = self._seen, self._evaluations.read()
            calls = (self._seen - before) * self.processes
            found["teacher_evals_per_s"] = round(calls / seconds, 3)
        parts = self._laps.taken()
        total = sum(parts.values())
        found["share"] = {part: round(t / total, 4) for part, t in parts.items()} if total else {}
        return found

    def stop(self) -> None:
        """Ends; the teacher is as before."""
        if self._evaluations is not None:
            self._evaluations.stop()
