"""The generated parts of `docs/performance.md`: tables and plots of the committed results."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import rates
from .collected import Machine, collect
from .drawing import Plot, drawn, fingerprint, stored_fingerprint
from .plots import kernel_plots, outcome_plots
from .record import RESULTS
from .tables import TITLES, kernel_table, outcome_tables, summary_table, where

PAGE = RESULTS.parents[1] / "docs" / "performance.md"
BLOCK = re.compile(
    r"(?P<begin><!-- begin (?P<name>[a-z]+): python -m benchmarks page -->\n)"
    r".*?(?P<end><!-- end (?P=name) -->\n)",
    re.DOTALL,
)
NOTHING = "Nothing was measured yet."


@dataclass(frozen=True)
class Page:
    """Rewrite what is made of the committed results: docs/performance.md, its plots, the rates."""

    check: bool = False  # only say whether they are up to date
    results: Path = RESULTS  # folder of JSON lines
    page: Path = PAGE  # markdown file with the markers of the generated parts

    def run(self) -> int:
        """Exit status: 1 if `check` finds something out of date.

        Raises:
            ValueError: results cannot be read or contradict each other, the page lacks its markers,
                or plots have to be drawn without matplotlib.
        """
        machines = collect(self.results)
        plots = {f"{plot.name}.svg": plot for m in machines for plot in _plots(m)}
        text = self.page.read_text(encoding="utf-8")
        new = rewritten(text, machines)
        folder = self.page.parent / "plots"
        # The package knows the rates of the committed results, not of others.
        table = rates.text_of(machines) if self.results == RESULTS else None
        there = {path.name: path for path in sorted(folder.glob("*.svg"))}
        stale = [name for name in there if name not in plots]
        missing = [
            name
            for name, plot in plots.items()
            if stored_fingerprint(folder / name) != fingerprint(plot)
        ]
        if self.check:
            wrong = [self.page.name] * (new != text) + missing + stale
            if table is not None and table != rates.FILE.read_text(encoding="utf-8"):
                wrong.append(rates.FILE.name)
            if wrong:
                print(
                    f"out of date: {', '.join(wrong)}; run python -m benchmarks page",
                    file=sys.stderr,
                )
            return 1 if wrong else 0
        try:
            images = {name: drawn(plots[name]) for name in missing}
        except ImportError as error:
            raise ValueError(str(error)) from error
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (folder / name).write_bytes(image)
        for name in stale:
            there[name].unlink()
        self.page.write_text(new, encoding="utf-8")
        if table is not None:
            rates.FILE.write_text(table, encoding="utf-8")
        return 0


def rewritten(text: str, machines: list[Machine]) -> str:
    """A page with its generated parts made anew.

    Args:
        text: with one pair of markers for each of "kernels" and "engine":
            `<!-- begin kernels: python -m benchmarks page -->`, `<!-- end kernels -->`.
        machines: what was measured.

    Raises:
        ValueError: a pair is missing, twice there or unknown.
    """
    parts = {"kernels": _kernels, "engine": _engine}
    names = sorted(found["name"] for found in BLOCK.finditer(text))
    if names != sorted(parts):
        raise ValueError(f"the page has generated parts {names}; it needs {sorted(parts)}")

    def part(found: re.Match[str]) -> str:
        lines = list(parts[found["name"]](machines)) or [NOTHING]
        return found["begin"] + "\n" + "\n".join(lines).strip() + "\n\n" + found["end"]

    return BLOCK.sub(part, text)


def _kernels(machines: list[Machine]) -> Iterator[str]:
    for machine in machines:
        if machine.kernels:
            yield from (where(machine, machine.kernels), "")
            yield from kernel_table(machine)
            yield ""
            yield from _pictures(kernel_plots(machine))


def _engine(machines: list[Machine]) -> Iterator[str]:
    for machine in machines:
        summary = list(summary_table(machine))
        if summary:
            yield from (f"### Summary: {machine.name}", "", *summary, "")
        order = [*TITLES, *(bench for bench in machine.benches if bench not in TITLES)]
        for bench in order:
            lines = machine.of_bench(bench)
            if lines:
                yield from (f"### {TITLES.get(bench, bench)}: {machine.name}", "")
                yield from (where(machine, lines), "")
                yield from _pictures(outcome_plots(machine, bench))
                yield from outcome_tables(lines)
                yield ""


def _plots(machine: Machine) -> Iterator[Plot]:
    yield from kernel_plots(machine)
    for bench in machine.benches:
        yield from outcome_plots(machine, bench)


def _pictures(plots: Iterator[Plot]) -> Iterator[str]:
    for plot in plots:
        yield from (f"![{plot.title}](plots/{plot.name}.svg)", "")
