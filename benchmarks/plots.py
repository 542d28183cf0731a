"""What is drawn of the collected results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from .collected import Machine
from .drawing import BLUES, GREYS, OTHERS, Plot
from .outcome import OFFICIAL, OURS, Outcome

T = TypeVar("T")


def kernel_plots(machine: Machine) -> Iterator[Plot]:
    """One plot: every case of every op as a dot, with the geometric means."""
    groups: dict[str, list[float]] = {}
    for line in machine.kernels:
        one = line.result
        if one.auto and one.kind == OURS and one.ratio_to_rival is not None:
            both = ", with backward" if "backward" in one.mode else ""
            groups.setdefault(one.op.replace("_", " ") + both, []).append(one.ratio_to_rival)
    if groups:
        title = f"Kernels against the fastest other implementation, {machine.name}"
        axis = "times as fast as the best other (dot: a case, line: geometric mean)"
        yield Plot(f"{machine.slug}-kernels", title, "strip", axis, (("", groups),))


def outcome_plots(machine: Machine, bench: str) -> Iterator[Plot]:
    """Ratios of all arms per case, and images per second where there are several batches."""
    timed = [line.result for line in machine.of_bench(bench) if line.result.median is not None]
    colours = _colours(timed)
    nets: dict[str, dict[str, dict[str, float]]] = {}
    for one in timed:
        others = [o.median for o in timed if o.case == one.case and o.kind != OURS and o.median]
        if others and one.median:
            ratio = min(others) / one.median
            nets.setdefault(one.network, {}).setdefault(one.case, {})[one.arm] = ratio
    if nets:
        title = f"{bench.capitalize()}: speed over the fastest other arm, {machine.name}"
        axis = "times as fast as the best other arm"
        panels = tuple(_headed(net, cases) for net, cases in nets.items())
        yield Plot(f"{machine.slug}-{bench}-ratios", title, "bars", axis, panels, colours)
    lines: dict[str, dict[str, dict[str, float]]] = {}
    for one in timed:
        if one.images_per_second is not None:
            arms = lines.setdefault(_apart_from_batch(one), {})
            arms.setdefault(one.arm, {})[str(one.batch)] = one.images_per_second
    several = {
        heading: arms
        for heading, arms in lines.items()
        if len({batch for values in arms.values() for batch in values}) > 1
    }
    if several:
        title = f"{bench.capitalize()}: images per second, {machine.name}"
        panels = tuple(several.items())
        yield Plot(f"{machine.slug}-{bench}-speed", title, "lines", "images/s", panels, colours)


def _colours(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """A colour for each arm, in the order of their first appearance."""
    colours = {OURS: iter(BLUES * 9), OFFICIAL: iter(GREYS * 9)}
    others = iter(OTHERS * 9)
    kinds = {one.arm: one.kind for one in outcomes}
    return {arm: next(colours.get(kind, others)) for arm, kind in kinds.items()}


def _words(case: str) -> list[str]:
    return [word.strip() for word in case.split(",") if word.strip()]


def _headed(network: str, cases: dict[str, T]) -> tuple[str, dict[str, T]]:
    """The words that all cases of a network have in common, and the cases by their other words."""
    every = [_words(case) for case in cases]
    shared = [word for word in every[0] if all(word in words for words in every)]
    if len(every) == 1:
        shared = [word for word in shared if not word.startswith("batch ")] or [network]
    others = [", ".join(word for word in words if word not in shared) for words in every]
    return ", ".join(shared), dict(zip(others, cases.values()))


def _apart_from_batch(one: Outcome) -> str:
    """The words of a case that are not about its batch."""
    return ", ".join(word for word in _words(one.case) if word != f"batch {one.batch}")
