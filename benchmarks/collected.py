"""The committed results of all files, per machine, the newest of every case."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from . import outcome, record
from .outcome import Outcome
from .record import RESULTS, Record

T = TypeVar("T")


@dataclass(frozen=True)
class Line(Generic[T]):
    """One result with where it comes from."""

    about: dict[str, Any]  # facts of the machine
    file: str  # name of the file
    result: T

    @property
    def commit(self) -> str:
        """Commit and date, in words."""
        changed = " with changes" if self.about.get("dirty") else ""
        return f"{self.about.get('commit')}{changed}, {self.about.get('date')}"


@dataclass
class Machine:
    """All that was measured on one machine."""

    name: str  # processor or GPU, and threads
    on_gpu: bool
    kernels: list[Line[Record]] = field(default_factory=list)
    outcomes: list[Line[Outcome]] = field(default_factory=list)

    @property
    def slug(self) -> str:
        """The name for a file."""
        plain = re.sub(r"\((r|tm|c)\)", "", self.name.lower())
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")

    @property
    def benches(self) -> list[str]:
        """Benchmarks of networks and what is made of them, in the order in which they appear."""
        return list(dict.fromkeys(line.result.bench for line in self.outcomes))

    def of_bench(self, bench: str) -> list[Line[Outcome]]:
        """The outcomes of one benchmark."""
        return [line for line in self.outcomes if line.result.bench == bench]


def collect(folder: Path = RESULTS) -> list[Machine]:
    """Every machine of the result files in a folder, GPUs first, then by name.

    A case that was timed on several days counts on the last one.

    Raises:
        ValueError: a file cannot be read, or two files of one day hold the same case.
    """
    kernels: list[Line[Record]] = []
    outcomes: list[Line[Outcome]] = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.name.startswith(outcome.PREFIX):
            outcomes += [Line(about, path.name, one) for about, one in outcome.read(path)]
        else:
            about, records = record.read(path)
            kernels += [Line(about, path.name, one) for one in records]
    machines: dict[str, Machine] = {}
    for line in _newest(kernels, lambda r: (r.op, r.case, r.mode)):
        _machine(machines, line.about).kernels.append(line)
    for other in _newest(outcomes, lambda o: (o.bench, o.case)):
        _machine(machines, other.about).outcomes.append(other)
    return sorted(machines.values(), key=lambda machine: (not machine.on_gpu, machine.name))


def _machine(machines: dict[str, Machine], about: dict[str, Any]) -> Machine:
    name = machine_name(about)
    return machines.setdefault(name, Machine(name, _on_gpu(about)))


def machine_name(about: dict[str, Any]) -> str:
    """The machine, with its threads where the processor computes."""
    if _on_gpu(about):
        return str(about.get("machine"))
    threads = about.get("threads")
    return f"{about.get('machine')}, {threads} thread{'' if threads == 1 else 's'}"


def _on_gpu(about: dict[str, Any]) -> bool:
    return about.get("gpu") is not None and about.get("machine") == about.get("gpu")


def _newest(lines: Iterable[Line[T]], case: Callable[[T], Hashable]) -> list[Line[T]]:
    """The lines of every machine's cases that come from the last day they were timed on."""
    files: dict[Hashable, dict[str, str]] = {}
    kept = list(lines)
    for line in kept:
        days = files.setdefault((machine_name(line.about), case(line.result)), {})
        days[line.file] = str(line.about.get("date"))

    def best(line: Line[T]) -> bool:
        days = files[machine_name(line.about), case(line.result)]
        newest = max(days.values())
        same_day = sorted(file for file, day in days.items() if day == newest)
        if len(same_day) > 1:
            raise ValueError(
                f"{' and '.join(same_day)} hold the same case of the same day "
                f"({case(line.result)}); keep one of them"
            )
        return line.file == same_day[0]

    return [line for line in kept if best(line)]
