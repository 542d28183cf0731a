"""What a run says of itself: the log, one JSON line per entry, and the summary."""

from __future__ import annotations

import json
import math
import sys
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

    A term's means are over the steps in which it took part, and the total gradient norm's over
    those of the first term; a diagnostic's are over the steps that had a finite one. The sums are
    part of a checkpoint, so a resumed run writes the same lines.
    """

    def __init__(self, terms: Sequence[str], diagnostics: Sequence[str] = ()) -> None:
        self.terms = tuple(terms)
        self.diagnostics = dict.fromkeys(diagnostics, (0, 0.0))  # steps and sum of each
        self.steps = 0
        self.counts: list[int] = [0] * len(self.terms)  # steps of each term
        self.sums: list[float] = [0.0] * (3 * len(self.terms) + 1)

    def add(self, values: Sequence[float], active: Sequence[bool] | None = None) -> None:
        """One step's losses, weights, gradient norms per term, and total gradient norm.

        `active` says which terms took part; None: all.
        """
        took = [True] * len(self.terms) if active is None else list(active)
        self.steps += 1
        self.counts = [count + one for count, one in zip(self.counts, took)]
        counted = [*(took * 3), took[0]]
        self.sums = [a + b if one else a for a, b, one in zip(self.sums, values, counted)]

    def diagnose(self, values: Sequence[float]) -> None:
        """One step's diagnostics, in the order of their names; NaN where the step had none."""
        for (name, (steps, total)), value in zip(list(self.diagnostics.items()), values):
            if math.isfinite(value):
                self.diagnostics[name] = steps + 1, total + value

    def means(self) -> dict[str, Any]:
        """Means over the window, by name; of no step where a term never took part it has none."""
        k = len(self.terms)
        counts = [*(self.counts * 3), self.counts[0]]
        mean = [value / max(count, 1) for value, count in zip(self.sums, counts)]
        parts = {"loss": 0, "weight": k, "term_grad_norm": 2 * k}
        found = {
            name: {
                term: mean[first + i]
                for i, term in enumerate(self.terms)
                if self.counts[i] or not self.steps
            }
            for name, first in parts.items()
        }
        told = {name: total / n for name, (n, total) in self.diagnostics.items() if n}
        return {**found, "grad_norm": mean[3 * k], **({"diagnostics": told} if told else {})}

    def reset(self) -> None:
        """Start a new window."""
        self.steps, self.sums = 0, [0.0] * len(self.sums)
        self.counts = [0] * len(self.counts)
        self.diagnostics = dict.fromkeys(self.diagnostics, (0, 0.0))

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by `restore`."""
        found = {"steps": self.steps, "counts": self.counts, "sums": self.sums}
        return {**found, **({"diagnostics": self.diagnostics} if self.diagnostics else {})}

    def restore(self, data: dict[str, Any]) -> None:
        """Continue a window written by `to_json`; older ones counted every term in every step."""
        self.steps, self.sums = int(data["steps"]), [float(value) for value in data["sums"]]
        self.counts = [int(n) for n in data.get("counts", [self.steps] * len(self.terms))]
        for name, (steps, total) in data.get("diagnostics", {}).items():
            if name in self.diagnostics:
                self.diagnostics[name] = int(steps), float(total)


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

    def entries(self) -> list[dict[str, Any]]:
        """What the lines say, in order; to be called after `cut`."""
        if self.path is None or not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

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


def memory(device: torch.device) -> dict[str, float]:
    """Memory in MiB, as a log line says it.

    peak_memory_mib, the largest use so far: of the GPU's allocator, or of this process. On a GPU
    also memory_mib, what is allocated now, and peak_reserved_mib, the most that it had reserved.
    """
    if device.type == "cuda":
        found = {
            "peak_memory_mib": torch.cuda.max_memory_allocated(device),
            "memory_mib": torch.cuda.memory_allocated(device),
            "peak_reserved_mib": torch.cuda.max_memory_reserved(device),
        }
        return {name: round(value / 2**20, 1) for name, value in found.items()}
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"peak_memory_mib": round(used, 1)}
