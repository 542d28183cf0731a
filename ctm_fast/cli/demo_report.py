"""What the demo's report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..evaluation import (
    Comparison,
    Curve,
    Figure,
    Grid,
    MetricRow,
    ReportContent,
    Trajectory,
    class_ordered,
    displayed,
)

NFES = (1, 2, 4, 8)  # network calls per image at which the CTM is measured
TEACHER_STEPS = 18  # Heun steps of the teacher, 35 network calls
GRID = 10  # images per class in a grid
STRIP = 12  # images per row of the comparison over NFE

TITLES = {
    "teacher": "Teacher: denoising score matching",
    "student": "Student: CTM and denoising terms",
    "student-gan": "Student with the adversarial term, which begins half way",
}

Log = list[dict[str, Any]]  # lines of log.jsonl


@dataclass(frozen=True)
class Measured:
    """Samples with their line of the metric table."""

    row: MetricRow
    images: Tensor  # (N, 1, 8, 8) in [-1, 1]


def content(
    measured: Sequence[Measured],
    *,
    real: MetricRow,
    labels: Tensor | None,
    card: Mapping[str, Any],
    logs: Mapping[str, Log],
    trajectory: Sequence[tuple[float, Tensor]],
    sigma_data: float,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> ReportContent:
    """The page.

    Args:
        measured: the teacher, then each CTM with rising NFE, all from the same seeds and labels.
        real: the real/real line.
        labels: (N,) classes of the samples.
        card: how the numbers were made.
        logs: lines of "teacher", "student" and what else was trained.
        trajectory: (sigma, images) of one image per class, from noise to data.
        sigma_data: of the training images.
        config: everything that was chosen.
        environment: what the run was made with.
        seconds: training time of each of them.
    """
    assert labels is not None
    one = measured[1].row.metrics
    minutes = {name: f"{each / 60:.1f} minutes" for name, each in seconds.items()}
    summary = (
        f"A diffusion model was trained on 1,797 real handwritten digits for {minutes['teacher']} "
        f"and distilled into a consistency trajectory model for {minutes['student']}. One network "
        f"call per image reaches 1-NN accuracy {one['1nn']:.3f} (0.5 is a perfect match) and "
        f"recall {one['recall']:.3f}."
    )
    return ReportContent(
        title="Consistency trajectory model on real digits",
        summary=summary,
        rows=[real, *(m.row for m in measured)],
        card=card,
        grids=[_grid(m, labels) for m in measured],
        comparisons=[_comparison(measured, labels)],
        trajectories=[_path(trajectory, sigma_data)],
        figures=[_curve(name, TITLES[name], log) for name, log in logs.items()],
        config=config,
        environment=environment,
    )


def _grid(measured: Measured, labels: Tensor) -> Grid:
    row = measured.row
    calls = "1 network call" if row.nfe == 1 else f"{row.nfe} network calls"
    return Grid(
        name=f"samples-{row.name.lower().replace(' + ', '-')}-nfe{row.nfe}",
        title=f"{row.name}, {calls} per image",
        caption="One row per class, unselected: the first images of the run.",
        images=class_ordered(measured.images, labels, GRID),
        ncol=GRID,
    )


def _comparison(measured: Sequence[Measured], labels: Tensor) -> Comparison:
    shown = class_ordered(torch.arange(len(labels)), labels, 2)[: 2 * STRIP : 2][:STRIP]
    return Comparison(
        name="same-seeds",
        title="The same noise, more network calls",
        caption="Every column starts from the same noise and class in every row.",
        rows=[(f"{m.row.name}, NFE {m.row.nfe}", m.images[shown]) for m in measured],
    )


def _path(trajectory: Sequence[tuple[float, Tensor]], sigma_data: float) -> Trajectory:
    count = min(5, len(trajectory[0][1]))
    states = [displayed(x, sigma, sigma_data).clamp(-1, 1) for sigma, x in trajectory]
    return Trajectory(
        name="trajectory",
        title="From noise to image",
        caption="Jumps of the CTM along its trajectory; each state is scaled for display.",
        sigmas=[sigma for sigma, _ in trajectory],
        rows=[(f"class {k}", torch.stack([x[k] for x in states])) for k in range(count)],
    )


def _curve(name: str, title: str, log: Log) -> Figure:
    # A line has only the terms that took part in its steps.
    terms = dict.fromkeys(term for line in log for term in line["loss"])
    points = {
        term: [(line["step"], line["loss"][term]) for line in log if term in line["loss"]]
        for term in terms
    }
    return Figure(
        name=f"loss-{name}",
        title=title,
        caption="Mean over the steps between two lines of the log, and its moving average.",
        x_label="optimizer step",
        y_label="loss per image",
        curves=[Curve(k, [p[0] for p in v], [p[1] for p in v]) for k, v in points.items()],
    )
