"""Markdown tables of collected results: ratios first, then times and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .collected import Line, Machine
from .outcome import ABSENT, OURS, READY, Outcome
from .record import Record, geometric_mean

TITLES = {
    "models": "Networks, one forward",
    "solve": "Teacher solve",
    "step": "Training step",
    "sampler": "Sampling",
}
"""Headings of the benchmarks, in the order of the page."""

MIB = 1 << 20

Column = tuple[str, Callable[[Outcome], "str | None"]]


def where(machine: Machine, lines: Sequence[Line[Record]] | Sequence[Line[Outcome]]) -> str:
    """One sentence: versions, commits and dates of some results."""
    about = lines[-1].about
    words = [f"torch {about.get('torch')}"]
    if machine.on_gpu:
        words += [f"triton {about.get('triton')}", f"driver {about.get('driver')}"]
    commits = list(dict.fromkeys(line.commit for line in lines))
    return f"{machine.name}, {', '.join(words)}; commit {'; commit '.join(commits)}."


def kernel_table(machine: Machine) -> Iterator[str]:
    """Per op and pass, geometric means over the cases of what `auto` takes; other / ours."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for line in machine.kernels:
        one = line.result
        if one.auto and one.kind == OURS and one.ratio_to_rival is not None:
            groups.setdefault((one.op, one.mode), []).append(one)
    shares = any(one.share is not None for group in groups.values() for one in group)
    heads = ["op", "pass", "cases", "x best other", "lowest", "highest", "x eager"]
    yield from _head(heads + ["of copy"] * shares, left=2)
    above = ""
    for (op, mode), group in groups.items():
        ratios = [one.ratio_to_rival for one in group if one.ratio_to_rival is not None]
        eager = [one.ratio for one in group if one.ratio is not None]
        copies = [one.share for one in group if one.share is not None]
        cells = ["" if op == above else op, mode.replace("+", " and "), str(len(group))]
        cells += [f"**{geometric_mean(ratios):.2f}**", f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
        cells += [f"{geometric_mean(eager):.2f}" if eager else ""]
        cells += [f"{geometric_mean(copies):.0%}" if copies else ""] * shares
        yield row(cells)
        above = op


def _number(value: float | None, how: str, scale: float = 1.0) -> str | None:
    return None if value is None else how.format(value * scale)


def _time(one: Outcome) -> str | None:
    if one.median is None:
        return None
    middle = significant(one.median * 1e3)
    if one.quartiles is None:
        return middle
    low, high = (significant(value * 1e3) for value in one.quartiles)
    return f"{middle} ({low} to {high})"


def significant(value: float, digits: int = 3) -> str:
    """A positive number with so many digits that count, never in powers of ten."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text else text


def _plain(value: float | None, scale: float = 1.0) -> str | None:
    return None if value is None else significant(value * scale)


COLUMNS: tuple[Column, ...] = (
    ("x best other", lambda o: _number(o.ratio_to_best, "{:.2f}")),
    ("x official", lambda o: _number(o.ratio_to_official, "{:.2f}")),
    ("x official fp32", lambda o: _number(o.ratio_to_official_fp32, "{:.2f}")),
    ("ms (quartiles)", _time),
    ("images/s", lambda o: _plain(o.images_per_second)),
    ("GFLOP/s", lambda o: _plain(o.flops_per_second, 1e-9)),
    ("of matmul", lambda o: _number(o.matmul_share, "{:.2g}%", 100)),
    ("MiB held", lambda o: _number(o.held, "{:.0f}", 1 / MIB)),
    ("MiB peak", lambda o: _number(o.peak, "{:.0f}", 1 / MIB)),
    ("J/image", lambda o: _plain(o.energy_per_image)),
    ("cold start s", lambda o: _plain(o.cold_start)),
    ("error", lambda o: _number(o.error, "{:.1e}")),
)


def summary_table(machine: Machine) -> Iterator[str]:
    """Per benchmark, network and arm of ours, geometric means of its ratios over the cases."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for line in machine.outcomes:
        one = line.result
        if one.kind == OURS and one.ratio_to_best is not None:
            groups.setdefault((one.bench, one.network, one.arm), []).append(one)
    if not groups:
        return
    heads = ["benchmark", "network", "arm", "cases", "x best other", "lowest"]
    heads += ["x official", "x official fp32"]
    yield from _head(heads, left=3)
    order = list(TITLES)
    for bench, network, arm in sorted(
        groups, key=lambda g: order.index(g[0]) if g[0] in order else 9
    ):
        group = groups[bench, network, arm]
        best = [one.ratio_to_best for one in group if one.ratio_to_best is not None]
        cells = [TITLES.get(bench, bench), network, arm, str(len(group))]
        cells += [f"**{geometric_mean(best):.2f}**", f"{min(best):.2f}"]
        for others in (
            [one.ratio_to_official for one in group],
            [one.ratio_to_official_fp32 for one in group],
        ):
            ratios = [ratio for ratio in others if ratio is not None]
            cells.append(f"{geometric_mean(ratios):.2f}" if ratios else "")
        yield row(cells)


def outcome_tables(lines: Sequence[Line[Outcome]]) -> Iterator[str]:
    """One table per case, a row per arm that has a time; below it who took no part, and why."""
    cases: dict[str, list[Line[Outcome]]] = {}
    for line in lines:
        cases.setdefault(line.result.case, []).append(line)
    several = len({line.commit for line in lines}) > 1
    notes = {case: [_note(line.result) for line in group] for case, group in cases.items()}
    always = [note for note in next(iter(notes.values())) if all(note in n for n in notes.values())]
    for case, group in cases.items():
        commit = f" (commit {group[0].commit})" if several else ""
        yield from ("", f"**{case}**{commit}", "")
        yield from _table([line.result for line in group])
        if len(cases) > 1:
            yield from _listed("", [note for note in notes[case] if note not in always])
    yield from _listed("In every case:" if len(cases) > 1 else "", always)


def _listed(heading: str, notes: Sequence[str]) -> Iterator[str]:
    lines = [f"* {note}" for note in notes if note]
    if lines:
        yield from (*["", heading] * bool(heading), "", *lines)


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    timed = [one for one in outcomes if one.median is not None]
    columns = [column for column in COLUMNS if any(column[1](one) is not None for one in timed)]
    dtypes = len({one.dtype for one in timed}) > 1
    if not timed:
        return
    yield from _head(["arm", *["dtype"] * dtypes, *(name for name, _ in columns)], 1 + dtypes)
    for one in timed:
        name = f"**{one.arm}**" if one.kind == OURS else one.arm
        yield row([name, *[one.dtype] * dtypes, *(cell(one) or "" for _, cell in columns)])


def _note(one: Outcome) -> str:
    """Empty if there is nothing to know about an arm."""
    if one.status == READY:
        return f"{one.arm}: {one.note}" if one.note else ""
    word = "took no part" if one.status == ABSENT else one.status
    return f"{one.arm} {word}: {one.note}"


def _head(names: list[str], left: int) -> Iterator[str]:
    yield row(names)
    yield row(["---"] * left + ["---:"] * (len(names) - left))


def row(cells: Sequence[str]) -> str:
    """One line of a markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
