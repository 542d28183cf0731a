"""The commands `quality` and `quality-page`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from ..drawing import drawn, fingerprint, stored_fingerprint
from ..machine import facts, file_name
from .curves import quality_plots
from .methods import METHODS, WORLDS
from .records import QUALITY, append, read
from .report import PAGE, page
from .run import Settings, run
from .worlds import world_named

PICTURES = PAGE.parent / "quality"
BUDGETS = {"mixture": 16_000.0, "digits": 4_000.0}


@dataclass(frozen=True)
class Quality:
    """Train every method with as many network evaluations, and measure its samples.

    What the result file has already is not made again.
    """

    worlds: tuple[str, ...] = WORLDS
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 1.0  # factor of the network evaluations, > 0
    samples: int = 20_000  # points that are compared on the mixture
    threads: int | None = None  # of torch; as many as torch takes by default
    pictures: Path | None = PICTURES  # folder for samples of seed 0
    out: Path | None = None  # JSON lines; a file in benchmarks/results/quality/ if None

    def run(self) -> int:
        """Exit status 0.

        Raises:
            ValueError: for an option outside its range.
        """
        if not self.budget > 0:
            raise ValueError(f"budget must be positive, got {self.budget}")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        about = facts("cpu")
        out = self.out or QUALITY / file_name(about)
        files = [out] if self.out else sorted(QUALITY.glob("*.jsonl"))
        rows = [row for row, _ in read(file for file in files if file.exists())]
        budgets = {name: self.budget * value for name, value in BUDGETS.items()}
        for row in rows:
            if row.world in self.worlds and row.budget != budgets.get(row.world):
                raise ValueError(
                    f"there are rows of {row.world} with a budget of {row.budget:g}, asked for is "
                    f"{budgets[row.world]:g}; use the same --budget, or another file: --out FILE"
                )
        known = {row.key for row in rows}
        settings = Settings(
            self.worlds,
            self.methods,
            self.seeds,
            budgets,
            self.pictures,
            {name: self._options(name) for name in self.worlds},
        )
        for row in run(settings, known):
            append(out, row, about)
            print(f"{row.world}, {row.method}, seed {row.seed}: {_text(row.measures)}", flush=True)
        return 0

    def _options(self, name: str) -> dict[str, int]:
        """Of a world: smaller budgets have less trained teachers, larger ones the usual ones."""
        steps = round(world_named(name).teacher_steps * min(1.0, self.budget))
        options = {"teacher_steps": max(1, steps)}
        return options | ({"samples": self.samples} if name == "mixture" else {})


@dataclass(frozen=True)
class QualityPage:
    """Write docs/quality.md and its plots from the committed results."""

    check: bool = False  # only say whether they are up to date

    def run(self) -> int:
        """Exit status: 1 if `check` finds something out of date."""
        rows = read(sorted(QUALITY.glob("*.jsonl")))
        text = page(rows)
        plots = {PICTURES / f"{p.name}.svg": p for p in quality_plots([row for row, _ in rows])}
        old = [path for path in plots if stored_fingerprint(path) != fingerprint(plots[path])]
        if self.check:
            fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
            wrong = [path.name for path in old] + [PAGE.name] * (not fresh)
            if wrong:
                print(f"out of date: {', '.join(wrong)}; run quality-page", file=sys.stderr)
            return 1 if wrong else 0
        for path in old:
            path.write_bytes(drawn(plots[path]))
        PAGE.write_text(text, encoding="utf-8")
        return 0


def _text(measures: object) -> str:
    assert isinstance(measures, dict)
    parts = []
    for nfe, values in measures.items():
        numbers = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        parts.append(f"[{nfe}] {numbers}" if nfe else numbers)
    return "; ".join(parts)
