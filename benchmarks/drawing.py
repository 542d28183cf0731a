"""Plots as SVG, the same bytes for the same numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

from .record import geometric_mean

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
    kind: str  # "strip", "bars", "lines" (over batch sizes) or "curves" (over network calls)
    axis: str  # label of the numbers
    panels: tuple[tuple[str, dict[str, Any]], ...]  # heading, and data as its kind needs it
    colours: dict[str, str] = dataclasses.field(default_factory=dict)  # by arm


def fingerprint(plot: Plot) -> str:
    """Tells plots of other results or of another style apart; written into the file."""
    text = json.dumps([STYLE, dataclasses.asdict(plot)])
    return f"results-{hashlib.sha256(text.encode()).hexdigest()}"


def stored_fingerprint(path: Path) -> str | None:
    """The fingerprint of the plot in a file; None without one."""
    if not path.exists():
        return None
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
        kinds = {"strip": _strip, "bars": _bars, "lines": _lines, "curves": _lines}
        figure = kinds[plot.kind](plot)
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
    every = _values(dict(plot.panels))
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
    every = _values(dict(plot.panels))
    for axes, (heading, arms) in zip(all_axes, plot.panels):
        places = sorted({int(place) for values in arms.values() for place in values})
        for arm, values in arms.items():
            points = sorted((int(place), value) for place, value in values.items())
            look = {"marker": _marker(plot, arm), "color": plot.colours[arm], "markersize": 5}
            look["linestyle"] = "--" if _again(plot, arm) else "-"
            axes.plot(*zip(*points), linewidth=1.5, **look)
        axes.set_xscale("log")
        axes.set_xticks(places, [str(place) for place in places])
        shown = every if plot.kind == "curves" else _values({heading: arms})
        low, high = min(shown), max(shown)
        if plot.kind == "lines" or high > 3 * low:
            axes.set_yscale("log")
            axes.minorticks_off()
            _log_axis(axes.yaxis, shown)
            axes.set_ylim(low / 1.3, high * 1.3)
        else:
            axes.minorticks_off()
            margin = 0.05 * (high - low)
            axes.set_ylim(low - margin, high + margin)
        axes.set_title(fill(heading, WIDE // columns), loc="left", fontsize=9, fontweight="bold")
        axes.set_xlabel("batch" if plot.kind == "lines" else "network calls")
        axes.set_ylabel(plot.axis)
        axes.grid(True, color=PALE, linewidth=0.6)
    _legend(figure, plot, bars=False)
    return figure


def _values(panels: dict[str, dict[str, dict[str, float]]]) -> list[float]:
    return [v for groups in panels.values() for arms in groups.values() for v in arms.values()]


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
