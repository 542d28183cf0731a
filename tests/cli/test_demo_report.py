"""What the demo's report is made of."""

import math

import torch

from ctm_fast.cli.demo_report import Measured, content
from ctm_fast.evaluation import MetricRow


def measured(name: str, nfe: int) -> Measured:
    metrics = {"1nn": 0.6, "precision": 0.8, "recall": 0.7, "class_agreement": 0.9}
    images = torch.linspace(-1, 1, 40 * 64).reshape(40, 1, 8, 8)
    return Measured(MetricRow(name, metrics, nfe, 1.5), images)


def test_content() -> None:
    labels = torch.arange(40) % 10
    log = [
        {"step": 1, "loss": {"ctm": 0.5, "dsm": 0.2}},
        {"step": 2, "loss": {"ctm": 0.4, "dsm": 0.1}},
    ]
    path = [(80.0, 80 * torch.ones(10, 1, 8, 8)), (0.002, 0.5 * torch.ones(10, 1, 8, 8))]
    page = content(
        [measured("teacher", 35), measured("CTM", 1), measured("CTM", 8)],
        real=MetricRow("real / real", {"1nn": 0.5}, reference=True),
        labels=labels,
        card={},
        logs={"teacher": log, "student": log},
        trajectory=path,
        sigma_data=0.75,
        config={},
        environment={},
        seconds={"teacher": 60.0, "student": 90.0},
    )
    assert [row.name for row in page.rows] == ["real / real", "teacher", "CTM", "CTM"]
    assert "1.0 minutes" in page.summary and "1.5 minutes" in page.summary
    assert "0.600" in page.summary and "0.700" in page.summary
    assert [grid.name for grid in page.grids] == [
        "samples-teacher-nfe35", "samples-ctm-nfe1", "samples-ctm-nfe8",
    ]  # fmt: skip
    # Four images of each class are there, in rows by class.
    assert len(page.grids[0].images) == 40
    (strip,) = page.comparisons
    assert [label for label, _ in strip.rows] == ["teacher, NFE 35", "CTM, NFE 1", "CTM, NFE 8"]
    assert {len(images) for _, images in strip.rows} == {10}
    (trajectory,) = page.trajectories
    assert trajectory.sigmas == [80.0, 0.002]
    noisy, clean = trajectory.rows[0][1]
    assert math.isclose(noisy.mean().item(), 0.75, abs_tol=1e-3)
    assert math.isclose(clean.mean().item(), 0.5, abs_tol=1e-3)
    teacher, student = page.figures
    assert (teacher.name, student.name) == ("loss-teacher", "loss-student")
    assert [curve.name for curve in student.curves] == ["ctm", "dsm"]
    assert list(student.curves[1].y) == [0.2, 0.1]
