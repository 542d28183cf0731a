"""What a run says of itself: the log, one JSON line per entry, and the summary."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.files import write_text


@dataclass(frozen=True)
class Summary:
    """What `Trainer.fit` did."""

    steps: int  # finished steps in all
    images: int  # images seen in all
    seconds: float  # time spent in this call
    loss: dict[str, float]  # last logged mean of each term
    checkpoint: Path | None  # newest checkpoint


class Window:
    """Sums of what the steps since the last log line measured.

    The sums are part of a checkpoint, so a resumed run writes the same lines.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self.terms = tuple(terms)
        self.steps = 0
        self.sums: list[float] = [0.0] * (3 * len(self.terms) + 1)

    def add(self, values: Sequence[float]) -> None:
        """One step's losses, weights, gradient norms per term, and total gradient norm."""
        self.steps += 1
        self.sums = [a + b for a, b in zip(self.sums, values)]

    def means(self) -> dict[str, Any]:
        """Means over the window, by name."""
        k = len(self.terms)
        mean = [value / max(self.steps, 1) for value in self.sums]
        return {
            "loss": dict(zip(self.terms, mean[:k])),
            "weight": dict(zip(self.terms, mean[k : 2 * k])),
            "term_grad_norm": dict(zip(self.terms, mean[2 * k : 3 * k])),
            "grad_norm": mean[3 * k],
        }

    def reset(self) -> None:
        """Start a new window."""
        self.steps, self.sums = 0, [0.0] * len(self.sums)

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by `restore`."""
        return {"steps": self.steps, "sums": self.sums}

    def restore(self, data: dict[str, Any]) -> None:
        """Continue a window written by `to_json`."""
        self.steps, self.sums = int(data["steps"]), [float(value) for value in data["sums"]]


class Log:
    """Appends lines to `log.jsonl`; a path of None keeps nothing.

    Args:
        path: the file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def cut(self, step: int) -> None:
        """Remove the lines after `step`, which the run is about to write again.

        A line that a kill has cut off is removed, too.
        """
        if self.path is not None and self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            kept = "".join(line for line in text.splitlines(keepends=True) if _before(line, step))
            if kept != text:
                write_text(self.path, kept)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def _before(line: str, step: int) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class Clock:
    """Seconds per thousand images since the last reading, without the time between fits."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.images = 0

    def add(self, images: int) -> None:
        """Count images."""
        self.images += images

    def restart(self) -> float:
        """Seconds per thousand images so far; starts again."""
        now = time.perf_counter()
        value = (now - self.started) / max(self.images, 1) * 1000
        self.started, self.images = now, 0
        return value


def peak_memory(device: torch.device) -> float:
    """Largest memory use so far in MiB: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
