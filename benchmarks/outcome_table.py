"""What the benchmarks of networks, solves, steps and samplers print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .outcome import ABSENT, FAILED, OURS, READY, Outcome, append
from .record import geometric_mean

MIB = 1 << 20

COLUMNS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("x best other", lambda o: _number(o.ratio_to_best, "{:.2f}")),
    ("x official", lambda o: _number(o.ratio_to_official, "{:.2f}")),
    ("x official fp32", lambda o: _number(o.ratio_to_official_fp32, "{:.2f}")),
    ("ms", lambda o: _number(o.median, "{:.4g}", 1e3)),
    ("quartiles", lambda o: _quartiles(o)),
    ("images/s", lambda o: _number(o.images_per_second, "{:.4g}")),
    ("GFLOP/s", lambda o: _number(o.flops_per_second, "{:.4g}", 1e-9)),
    ("of matmul", lambda o: _number(o.matmul_share, "{:.0f} %", 100)),
    ("MiB held", lambda o: _number(o.held, "{:.0f}", 1 / MIB)),
    ("MiB peak", lambda o: _number(o.peak, "{:.0f}", 1 / MIB)),
    ("J/image", lambda o: _number(o.energy_per_image, "{:.3g}")),
    ("first call s", lambda o: _number(o.cold_start, "{:.1f}")),
    ("error", lambda o: _number(o.error, "{:.1e}")),
)
"""Ratios are other / this: above 1, the arm of the line is faster."""


def table(outcomes: list[Outcome]) -> list[str]:
    """Lines of the table of one case; columns without any number are left out."""
    timed = [o for o in outcomes if o.status == READY]
    columns = [(head, show) for head, show in COLUMNS if any(show(o) for o in timed)]
    rows = [["", *(head for head, _ in columns)]]
    rows += [[o.arm, *(show(o) for _, show in columns)] for o in timed]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = max(widths[0], *(len(o.arm) for o in outcomes))

    def line(row: list[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths))
        return "  " + "  ".join([row[0].ljust(len(first)), *others]).rstrip()

    lines = [line(rows[0])]
    whole = {o.arm: row for o, row in zip(timed, rows[1:])}
    for outcome in outcomes:
        if outcome.arm in whole:
            lines.append(line(whole[outcome.arm]))
        else:
            lines.append(f"  {outcome.arm.ljust(widths[0])}  {outcome.status}: {outcome.note}")
    notes = {o.note for o in timed if o.note}
    lines += [
        f"  {', '.join(o.arm for o in timed if o.note == note)}: {note}" for note in sorted(notes)
    ]
    return lines


def report(
    batches: Iterable[list[Outcome]], about: Mapping[str, Any], out: Path | None
) -> tuple[bool, list[Outcome]]:
    """Prints every case as it comes and appends it to a file.

    Args:
        batches: the outcomes of one case each.
        about: the facts of the machine.
        out: the file, made if need be; none if None.

    Returns:
        passed: whether no arm FAILED.
        outcomes: all of them.
    """
    seen: list[Outcome] = []
    for outcomes in batches:
        seen += outcomes
        if out is not None:
            append(out, outcomes, about)
        if outcomes:
            print(f"\n{outcomes[0].bench}: {outcomes[0].case}")
            print("\n".join(table(outcomes)), flush=True)
    return not any(o.status == FAILED for o in seen), seen


def summary(outcomes: list[Outcome]) -> list[str]:
    """Our ratios to the best other arm, per benchmark, and what could not be compared."""
    lines = []
    for bench in dict.fromkeys(o.bench for o in outcomes):
        own = [o for o in outcomes if o.bench == bench and o.kind == OURS]
        ratios = [o.ratio_to_best for o in own if o.ratio_to_best is not None]
        if ratios:
            mean, low = geometric_mean(ratios), min(ratios)
            cases = f"{len(ratios)} cases" if len(ratios) > 1 else "1 case"
            lines.append(
                f"{bench}: ours is {mean:.2f} x the best other arm ({cases}, {low:.2f} at least)"
            )
    for status in (FAILED, ABSENT):
        names = dict.fromkeys(f"{o.arm}: {o.note}" for o in outcomes if o.status == status)
        lines += [f"{status}: {words}" for words in names]
    return lines


def _number(value: float | None, how: str, factor: float = 1.0) -> str:
    return "" if value is None else how.format(value * factor)


def _quartiles(outcome: Outcome) -> str:
    if outcome.quartiles is None:
        return ""
    return " .. ".join(f"{seconds * 1e3:.4g}" for seconds in outcome.quartiles)
