"""What a run prints and writes: a table per case, geometric means, and one JSON line per record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .record import Record, geometric_mean
from .session import ABSENT, FAILED, OURS, RIVAL

COLUMNS = (
    "variant",
    *("ms", "quartiles", "x eager", "x best rival", "x base", "host us", "GB/s", "of copy"),
)


def report(
    batches: Iterable[list[Record]], about: Mapping[str, Any], out: Path | None = None
) -> bool:
    """Prints every batch as it comes and appends it to a file.

    Args:
        batches: the records of one case and mode each.
        about: the facts of the machine.
        out: the file, made if need be; none if None.

    Returns:
        passed: whether no variant FAILED.
    """
    for name, value in about.items():
        if value is not None:
            print(f"{name}: {value}")
    seen: list[Record] = []
    for batch in batches:
        seen += batch
        print(f"\n{batch[0].op}, {batch[0].mode}: {batch[0].case}")
        print("\n".join(table(batch)), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a", encoding="utf-8") as file:
                file.writelines(record.to_json(about) + "\n" for record in batch)
    print("\n" + "\n".join(summary(seen)))
    failed = [record for record in seen if record.status == FAILED]
    if failed:
        print(f"\n{len(failed)} FAILED the accuracy rule or did not run")
    return not failed


def table(batch: list[Record]) -> list[str]:
    """Lines of the table of one case; columns without any number are left out."""
    rows = [_cells(record) for record in batch]
    shown = [
        i
        for i, name in enumerate(COLUMNS)
        if name in COLUMNS[:2] or any(len(row) > i and row[i] for row in rows)
    ]
    whole = [COLUMNS, *(row for row in rows if len(row) > 1)]
    width = {i: max(len(row[i]) for row in whole) for i in shown}
    width[0] = max(len(record.variant) for record in batch) + 2

    def line(row: tuple[str, ...]) -> str:
        first, *others = shown
        cells = [row[first].ljust(width[0]), *(row[i].rjust(width[i]) for i in others)]
        return ("  " + "  ".join(cells)).rstrip()

    lines = [line(COLUMNS)]
    for record, row in zip(batch, rows):
        if len(row) > 1:
            lines.append(line(row) + (f"  less accurate: {record.note}" if record.note else ""))
        else:
            status = f"  {record.variant.ljust(width[0])}  {record.status}"
            lines.append(f"{status}: {record.note}")
    return lines


def _cells(record: Record) -> tuple[str, ...]:
    """The row of a record; only its name if it has no time."""
    if record.median is None or record.quartiles is None:
        return (record.variant,)
    low, high = (_milliseconds(value) for value in record.quartiles)
    return (
        record.variant + (" *" if record.auto else ""),
        _milliseconds(record.median),
        f"{low} .. {high}",
        _number(record.ratio, "{:.2f}"),
        _number(record.ratio_to_rival, "{:.2f}"),
        _number(record.ratio_to_base, "{:.2f}"),
        _number(record.host and record.host * 1e6, "{:.1f}"),
        _number(record.share and record.bandwidth and record.bandwidth * 1e-9, "{:.0f}"),
        _number(record.share and record.share * 100, "{:.0f} %"),
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _number(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)


def summary(records: list[Record]) -> list[str]:
    """Geometric means over the cases of each op and mode, of the backends that `auto` takes."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.auto and record.kind == OURS:
            groups.setdefault((record.op, record.mode), []).append(record)
    lines = ["* is what auto takes. Its geometric means over the cases, other / this:"]
    for (op, mode), group in groups.items():
        words = []
        for name, ratios in (
            ("eager", [r.ratio for r in group]),
            ("best rival", [r.ratio_to_rival for r in group]),
            ("base", [r.ratio_to_base for r in group]),
        ):
            numbers = [ratio for ratio in ratios if ratio is not None]
            if numbers:
                words.append(f"{geometric_mean(numbers):.2f} x {name} ({len(numbers)} cases)")
        lines.append(f"  {op}, {mode}: {', '.join(words) or 'nothing to compare'}")
    missing = {r.note for r in records if r.kind == RIVAL and r.status == ABSENT}
    return lines + [f"  not compared: {note}" for note in sorted(missing)]
