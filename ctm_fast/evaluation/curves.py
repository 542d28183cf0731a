"""Loss curves with matplotlib, as a PNG file and as an SVG that follows the page's colours."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# Stands for the page's text colour in the SVG; a colour that nothing else uses.
_INK = "#010203"
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_MAX_POINTS = 2000  # drawn per line; longer ones are thinned after smoothing
_LINES = ("#3f6fd8", "#d9822b", "#2f9e6e", "#b5509b")


@dataclass(frozen=True)
class Curve:
    """One line of a figure."""

    name: str  # legend entry
    x: Sequence[float]
    y: Sequence[float]  # as long as x; values that are not finite leave a gap


@dataclass(frozen=True)
class Figure:
    """Lines over one pair of axes, raw and smoothed."""

    name: str  # stem of the PNG file
    title: str
    caption: str
    x_label: str  # with unit
    y_label: str  # with unit
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = True


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def smoothed(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Centred moving average over `window` values, fewer at the ends; NaN where nothing is finite.

    Args:
        values: (N,) numbers; those that are not finite are left out of the averages.
        window: >= 1.
    """
    y = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    first = np.maximum(np.arange(len(y)) - (window - 1) // 2, 0)
    end = np.minimum(np.arange(len(y)) + window // 2 + 1, len(y))
    number = counts[end] - counts[first]
    return np.where(number > 0, (sums[end] - sums[first]) / np.maximum(number, 1), np.nan)


def write_png(figure: Figure, path: str | Path) -> Path:
    """Path of a PNG of the figure on white.

    Raises:
        ImportError: without matplotlib.
    """
    picture = _drawn(figure, ink="#333333")
    picture.savefig(path, dpi=150, facecolor="white")
    return Path(path)


def svg(figure: Figure) -> str:
    """`<svg>` element of the figure, transparent, its text and axes in the page's colour.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": figure.name}):
        _drawn(figure, _INK).savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def _drawn(figure: Figure, ink: str) -> Any:
    if not available():
        raise ImportError('curves need matplotlib: pip install "ctm_fast[report]"')
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 3.4), layout="constrained")
    axes = canvas.add_subplot()
    for number, curve in enumerate(figure.curves):
        colour = _LINES[number % len(_LINES)]
        x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
        if len(x) != len(y):
            raise ValueError(f"curve {curve.name!r} has {len(x)} x and {len(y)} y values")
        if figure.log_y:
            y = np.where(y > 0, y, np.nan)
        mean = smoothed(y, max(1, len(y) // 25))
        every = slice(None, None, -(-len(x) // _MAX_POINTS) or 1)
        axes.plot(x[every], y[every], color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(x[every], mean[every], color=colour, linewidth=1.8, label=curve.name)
    if figure.log_x:
        axes.set_xscale("log")
    if figure.log_y:
        axes.set_yscale("log")
        _label_minor_ticks(axes, figure)
    axes.set_xlabel(figure.x_label, color=ink)
    axes.set_ylabel(figure.y_label, color=ink)
    axes.tick_params(which="both", colors=ink, labelsize=9)
    axes.grid(True, which="major", color=ink, alpha=0.15, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    if figure.curves:
        axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    return canvas


def _label_minor_ticks(axes: Any, figure: Figure) -> None:
    values = [v for curve in figure.curves for v in curve.y if math.isfinite(v) and v > 0]
    # Below two decades powers of ten alone leave an axis with one number or none.
    if values and max(values) < 100 * min(values):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
