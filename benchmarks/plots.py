"""The plots of collected results as SVG, the same bytes for the same results."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

from .collected import Machine
from .outcome import OFFICIAL, OURS, Outcome
from .record import geometric_mean

T = TypeVar("T")

STYLE = 2  # raised when the same results shall look different, so that all plots are drawn again
WIDE = 90  # characters of a heading over the whole figure
INK, PALE = "#222222", "#d0d0d0"
# Okabe & Ito 2008, apart for all kinds of colour vision; ours and the official arm keep theirs.
BLUES = ("#0072b2", "#56b4e9")
GREYS = ("#707070", "#b0b0b0")
OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#b8a800")
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    """What is drawn. `panels` holds names and numbers only."""

    name: str  # stem of the file
    title: str
    kind: str  # "strip", "bars" or "lines"
    axis: str  # label of the numbers
    panels: tuple[tuple[str, dict[str, Any]], ...]  # heading, and data as its kind needs it
    colours: dict[str, str] = dataclasses.field(default_factory=dict)  # by arm


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


def fingerprint(plot: Plot) -> str:
    """Tells plots of other results or of another style apart; written into the file."""
    text = json.dumps([STYLE, dataclasses.asdict(plot)])
    return f"results-{hashlib.sha256(text.encode()).hexdigest()}"


def stored_fingerprint(path: Path) -> str | None:
    """The fingerprint of the plot in a file."""
    found = re.search("results-[0-9a-f]{64}", path.read_text(encoding="utf-8"))
    return found[0] if found else None


def drawn(plot: Plot) -> bytes:
    """The SVG of a plot on white, its text as outlines.

    Raises:
        ImportError: without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ImportError('plots need matplotlib: pip install "ctm_fast[report]"')
    from matplotlib import rc_context

    rules: Any = {
        "svg.fonttype": "path",
        "svg.hashsalt": plot.name,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(rules):
        figure = {"strip": _strip, "bars": _bars, "lines": _lines}[plot.kind](plot)
        buffer = io.BytesIO()
        metadata = {**about, "Identifier": fingerprint(plot)}
        figure.savefig(buffer, format="svg", facecolor="white", metadata=metadata)
    # Trailing blanks would be refused by whoever checks the repository for them.
    lines = (line.rstrip() for line in buffer.getvalue().decode().splitlines())
    return ("\n".join(lines) + "\n").encode()


def _canvas(plot: Plot, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    figure.suptitle(plot.title, fontsize=10, x=0.01, ha="left")
    for spare in axes[len(plot.panels) :]:
        spare.set_visible(False)
    return figure, axes


def _ratio_axis(axes: Any, label: str) -> None:
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlabel(label)
    axes.grid(True, axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _log_axis(axis: Any, values: Sequence[float]) -> None:
    """Labels an axis of powers of ten at 1, 2, 5, 10, ..., or where that is too much at 1, 10."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    subs = (1.0,) if max(values) > 300 * min(values) else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _strip(plot: Plot) -> Any:
    groups = plot.panels[0][1]
    figure, (axes,) = _canvas(plot, 0.9 + 0.28 * len(groups))
    for height, values in enumerate(groups.values()):
        axes.plot(values, [height] * len(values), "o", color=BLUES[0], alpha=0.55, markersize=5)
        mean = geometric_mean(values)
        axes.plot([mean, mean], [height - 0.32, height + 0.32], color=INK, linewidth=2)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    every = [value for values in groups.values() for value in values]
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, *every) / 1.1, max(1.25, *every) * 1.15)
    _log_axis(axes.xaxis, every)
    _ratio_axis(axes, plot.axis)
    return figure


def _bars(plot: Plot) -> Any:
    rows = sum(len(arms) + 1 for _, cases in plot.panels for arms in cases.values())
    figure, all_axes = _canvas(
        plot, 1.3 + 0.17 * rows + 0.5 * len(plot.panels), 1, len(plot.panels)
    )
    every = [v for _, cases in plot.panels for arms in cases.values() for v in arms.values()]
    for axes, (heading, cases) in zip(all_axes, plot.panels):
        height, ticks = 0.0, []
        for arms in cases.values():
            ticks.append(height + (len(arms) - 1) / 2)
            for arm, value in arms.items():
                axes.barh(height, value, 0.86, **_filled(plot, arm))
                end = {"xy": (value, height), "xytext": (3, 0), "textcoords": "offset points"}
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axes.annotate(f"{value:.2f}", **end, va="center", fontsize=7, bbox=box)
                height += 1
            height += 1
        axes.set_yticks(ticks, [fill(case, 26) for case in cases])
        axes.set_ylim(height - 1.2, -0.8)
        axes.set_title(fill(heading, WIDE), loc="left", fontsize=9, fontweight="bold")
        axes.set_xlim(0, max(1.0, *every) * 1.08)
        _ratio_axis(axes, plot.axis if axes is all_axes[-1] else "")
    _legend(figure, plot, bars=True)
    return figure


def _lines(plot: Plot) -> Any:
    columns = min(2, len(plot.panels))
    rows = -(-len(plot.panels) // columns)
    figure, all_axes = _canvas(plot, 0.9 + 2.6 * rows, columns, rows)
    for axes, (heading, arms) in zip(all_axes, plot.panels):
        batches = sorted({int(batch) for values in arms.values() for batch in values})
        for arm, values in arms.items():
            points = sorted((int(batch), speed) for batch, speed in values.items())
            look = {"marker": _marker(plot, arm), "color": plot.colours[arm], "markersize": 5}
            look["linestyle"] = "--" if _again(plot, arm) else "-"
            axes.plot(*zip(*points), linewidth=1.5, **look)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        speeds = [speed for values in arms.values() for speed in values.values()]
        _log_axis(axes.yaxis, speeds)
        axes.set_ylim(min(speeds) / 1.3, max(speeds) * 1.3)
        axes.set_title(fill(heading, WIDE // columns), loc="left", fontsize=9, fontweight="bold")
        axes.set_xlabel("batch")
        axes.set_ylabel(plot.axis)
        axes.grid(True, color=PALE, linewidth=0.6)
    _legend(figure, plot, bars=False)
    return figure


def _again(plot: Plot, arm: str) -> bool:
    """Whether an arm before this one has its colour: there are more arms than colours."""
    arms = list(plot.colours)
    return plot.colours[arm] in [plot.colours[other] for other in arms[: arms.index(arm)]]


def _filled(plot: Plot, arm: str) -> dict[str, Any]:
    look: dict[str, Any] = {"facecolor": plot.colours[arm]}
    if _again(plot, arm):
        look |= {"hatch": "/////", "edgecolor": "white", "linewidth": 0}
    return look


def _marker(plot: Plot, arm: str) -> str:
    return MARKERS[list(plot.colours).index(arm) % len(MARKERS)]


def _legend(figure: Any, plot: Plot, bars: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(**_filled(plot, arm), label=arm)
        if bars
        else Line2D(
            *([], []),
            color=colour,
            linestyle="--" if _again(plot, arm) else "-",
            marker=_marker(plot, arm),
            markersize=5,
            label=arm,
        )
        for arm, colour in plot.colours.items()
    ]
    columns = min(len(handles), 5)
    where = "outside lower center"
    figure.legend(handles=handles, loc=where, ncols=columns, frameon=False, fontsize=8)
