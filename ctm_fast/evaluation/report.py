"""The page that a run leaves behind: one self-contained HTML file, its pictures and its numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import curves
from .curves import Figure
from .pictures import SCALE, grid_png, png_uri
from .protocol import COLUMNS

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class MetricRow:
    """One line of the headline table."""

    name: str  # "real / real", "teacher", "CTM"
    metrics: Mapping[str, float | None]  # keys out of `protocol.COLUMNS`; None shows as a dash
    nfe: int | None = None  # network calls per image
    ms_per_image: float | None = None
    reference: bool = False  # shown apart: a yardstick, not a result


@dataclass(frozen=True)
class Grid:
    """A picture of many images, `ncol` in a row."""

    name: str  # stem of the PNG file
    title: str
    caption: str
    images: Tensor  # (N, C, H, W) in [-1, 1]
    ncol: int


@dataclass(frozen=True)
class Comparison:
    """Rows of images with a label on the left: the same seeds for several NFE."""

    name: str  # stem of the PNG file
    title: str
    caption: str
    rows: Sequence[tuple[str, Tensor]]  # label, (n, C, H, W) in [-1, 1]; one n for all rows


@dataclass(frozen=True)
class Trajectory:
    """States of images on their way from noise to data, the noise level below each."""

    name: str  # stem of the PNG file
    title: str
    caption: str
    sigmas: Sequence[float]  # (T,) noise level of every column
    rows: Sequence[tuple[str, Tensor]]  # label, (T, C, H, W) scaled for display, in [-1, 1]


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows. Sections without content are left out."""

    title: str
    summary: str  # one or two sentences
    rows: Sequence[MetricRow] = ()
    card: Mapping[str, Any] = field(default_factory=dict)  # from `OfflineProtocol.card`
    grids: Sequence[Grid] = ()
    comparisons: Sequence[Comparison] = ()
    trajectories: Sequence[Trajectory] = ()
    figures: Sequence[Figure] = ()
    config: Mapping[str, Any] = field(default_factory=dict)  # nested; shown with dotted names
    environment: Mapping[str, Any] = field(default_factory=dict)  # from `environment()`
    scale: int = SCALE  # screen pixels per image pixel


def write_report(out_dir: str | Path, content: ReportContent) -> Path:
    """Path of `report.html`; its pictures and `metrics.json` are written beside it.

    The page contains all its pictures and refers to nothing outside. Curves need matplotlib;
    without it the page says so.

    Args:
        out_dir: folder, created if it is missing; files of the same names are replaced.
        content: what to show.

    Raises:
        ValueError: for a repeated or unsuitable picture name, an unknown metric, or a trajectory
            whose rows are not as long as its noise levels.
        ImportError: without jinja2.
    """
    if find_spec("jinja2") is None:
        raise ImportError('the report needs jinja2: pip install "ctm_fast[report]"')
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    _check(content)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "metrics.json", numbers(content))
    _write_pictures(out, content)
    have_curves = curves.available()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"metric": shown, "number": _plain_number}
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(template).render(
        content=content,
        columns=_used_columns(content),
        picture=lambda images, ncol: png_uri(images, ncol, content.scale),
        figures=[(f, Markup(curves.svg(f)) if have_curves else None) for f in content.figures],
        config=flattened(content.config),
        card=flattened(content.card),
    )
    path = out / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def numbers(content: ReportContent) -> dict[str, Any]:
    """What `metrics.json` holds; JSON types only, values that are not finite become None."""
    rows = [
        {
            "name": row.name,
            "nfe": row.nfe,
            "ms_per_image": row.ms_per_image,
            "reference": row.reference,
            **row.metrics,
        }
        for row in content.rows
    ]
    return _finite(
        {
            "title": content.title,
            "rows": rows,
            "card": content.card,
            "config": content.config,
            "environment": content.environment,
        }
    )


def flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted name, value in words) of every leaf, in order."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += flattened(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _words(value)))
    return rows


def shown(value: float | None, column: str) -> str:
    """A metric as the table shows it: three decimals, two for scores and times, a dash for None."""
    if value is None:
        return "\u2013"
    return f"{value:.{2 if column in ('class_score', 'ms_per_image') else 3}f}"


def _check(content: ReportContent) -> None:
    names = [grid.name for grid in content.grids] + [figure.name for figure in content.figures]
    names += [strip.name for strip in _strips(content)]
    for name in names:
        if names.count(name) > 1 or not _NAME.fullmatch(name):
            raise ValueError(f"picture name {name!r} must be unique and match {_NAME.pattern}")
    for row in content.rows:
        unknown = sorted(set(row.metrics) - set(COLUMNS))
        if unknown:
            raise ValueError(f"unknown metrics {unknown} in {row.name!r}; allowed are {COLUMNS}")
    for trajectory in content.trajectories:
        for label, images in trajectory.rows:
            if len(images) != len(trajectory.sigmas):
                raise ValueError(
                    f"row {label!r} of {trajectory.name!r} has {len(images)} images for "
                    f"{len(trajectory.sigmas)} noise levels"
                )


def _write_pictures(out: Path, content: ReportContent) -> None:
    for grid in content.grids:
        grid_png(grid.images, out / f"{grid.name}.png", grid.ncol, content.scale)
    for strip in _strips(content):
        images = torch.cat([images for _, images in strip.rows])
        grid_png(images, out / f"{strip.name}.png", len(strip.rows[0][1]), content.scale)
    if curves.available():
        for figure in content.figures:
            curves.write_png(figure, out / f"{figure.name}.png")


def _strips(content: ReportContent) -> list[Comparison | Trajectory]:
    return [*content.comparisons, *content.trajectories]


def _used_columns(content: ReportContent) -> list[str]:
    used = [c for c in COLUMNS if any(row.metrics.get(c) is not None for row in content.rows)]
    timed = any(row.ms_per_image is not None for row in content.rows)
    return used + (["ms_per_image"] if timed else [])


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _plain_number(value)
    if value is None:
        return "\u2013"
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value) or "\u2013"
    return str(value) if value != {} else "\u2013"


def _plain_number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:g}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
