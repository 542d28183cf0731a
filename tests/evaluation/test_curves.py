"""Moving averages, and curves that follow the page's colours and fetch nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ctm_fast.evaluation import Curve, Figure, curves

STEPS = list(range(1, 101))
FIGURE = Figure(
    "loss",
    "Training",
    "Loss of every step.",
    "optimizer step",
    "loss per pixel",
    [Curve("CTM", STEPS, [1 / s for s in STEPS]), Curve("DSM", STEPS, [float("nan")] * 100)],
)


@pytest.mark.parametrize("window", [1, 2, 5, 8, 100])
def test_smoothed_against_a_loop(window):
    values = np.random.default_rng(0).random(20)
    values[[3, 4]] = np.nan, np.inf
    for i, mean in enumerate(curves.smoothed(values, window)):
        part = values[max(0, i - (window - 1) // 2) : i + window // 2 + 1]
        part = part[np.isfinite(part)]
        assert np.isnan(mean) if len(part) == 0 else mean == pytest.approx(part.mean())


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ctm_fast\[report\]"):
        curves.write_png(FIGURE, "never.png")


def test_svg():
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    text = curves.svg(FIGURE)
    ElementTree.fromstring(text)
    assert "currentColor" in text and curves._INK not in text
    assert "optimizer step" in text and "loss per pixel" in text and "CTM" in text
    links = {part.split('"')[0] for part in text.split("http")[1:]}
    assert links <= {"://www.w3.org/2000/svg", "://www.w3.org/1999/xlink"}
    assert curves.svg(FIGURE) == text


def test_png_and_lengths(tmp_path):
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    assert curves.write_png(FIGURE, tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    broken = Figure("a", "", "", "", "", [Curve("short", [1, 2], [1.0])])
    with pytest.raises(ValueError, match="'short' has 2 x and 1 y values"):
        curves.write_png(broken, tmp_path / "b.png")


def test_long_curves_are_thinned():
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    steps = list(range(1, 50_001))
    long = Figure("a", "", "", "", "", [Curve("c", steps, np.random.default_rng(0).random(50_000))])
    assert len(curves.svg(long)) < 250_000
