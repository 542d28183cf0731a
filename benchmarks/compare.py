"""Two result files side by side, and one file as the tables of a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .record import Record, geometric_mean, read

MACHINE = ("machine", "driver", "torch", "triton", "threads")


def compare(before: str | Path, after: str | Path) -> Iterator[str]:
    """Lines with the ratio of the medians, before / after; above 1, the second file is faster.

    Raises:
        ValueError: a file cannot be read, or they have no line in common.
    """
    (about_before, old), (about_after, new) = read(before), read(after)
    times = {record.key: record.median for record in old if record.median is not None}
    pairs = [(r, times[r.key], r.median) for r in new if r.key in times and r.median is not None]
    if not pairs:
        raise ValueError(f"{before} and {after} have no time of the same case and variant")
    for name in MACHINE:
        if about_before.get(name) != about_after.get(name):
            yield f"different {name}: {about_before.get(name)}, {about_after.get(name)}"
    yield f"commits: {_commit(about_before)}, {_commit(about_after)}"
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for record, first, second in pairs:
        ratios.setdefault((record.op, record.mode, record.variant), []).append(first / second)
    yield f"{'ratio':>7}{'before ms':>12}{'after ms':>12}  op, mode, variant, case"
    for record, first, second in pairs:
        numbers = f"{first / second:>7.2f}{first * 1e3:>12.4g}{second * 1e3:>12.4g}"
        yield f"{numbers}  {record.op}, {record.mode}, {record.variant}: {record.case}"
    yield "geometric means"
    for key, values in ratios.items():
        yield f"{geometric_mean(values):>7.2f}  {', '.join(key)} ({len(values)} cases)"


def markdown(path: str | Path) -> Iterator[str]:
    """Lines of one table per op and mode, with where its numbers come from.

    Raises:
        ValueError: the file cannot be read.
    """
    about, records = read(path)
    where = [f"{about.get('machine')}", f"torch {about.get('torch')}"]
    if about.get("gpu"):
        where += [f"triton {about.get('triton')}", f"driver {about.get('driver')}"]
    where += [f"{about.get('threads')} threads", f"commit {_commit(about)}", f"{about.get('date')}"]
    yield ", ".join(where) + "."
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.op, record.mode), []).append(record)
    for (op, mode), group in groups.items():
        yield from ("", f"**{op}, {mode}**", "")
        with_share = any(record.share is not None for record in group)
        heads = ["case", "variant", "ms (quartiles)", "x eager", "x best rival"]
        heads += ["of copy"] if with_share else []
        yield _row(heads)
        yield _row(["---", "---", *["---:"] * (len(heads) - 2)])
        above = ""
        for record in group:
            case, *others = _cells(record)[: len(heads)]
            yield _row(["" if case == above else case, *others])
            above = case


def _cells(record: Record) -> list[str]:
    case, name = record.case, f"**{record.variant}**" if record.auto else record.variant
    name += " (less accurate)" if record.note and record.median is not None else ""
    if record.median is None or record.quartiles is None:
        return [case, name, record.status, "", "", ""]
    low, high = (f"{value * 1e3:.3g}" for value in record.quartiles)
    time = f"{record.median * 1e3:.3g} ({low} to {high})"
    ratios = ("" if r is None else f"{r:.2f}" for r in (record.ratio, record.ratio_to_rival))
    share = "" if record.share is None else f"{record.share:.0%}"
    return [case, name, time, *ratios, share]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _commit(about: dict[str, object]) -> str:
    return f"{about.get('commit')}{' with changes' if about.get('dirty') else ''}"
