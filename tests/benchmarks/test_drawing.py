"""That the same numbers give the same bytes, and other ones another fingerprint."""

import dataclasses
import xml.etree.ElementTree
from pathlib import Path

import pytest

from benchmarks import drawing
from benchmarks.drawing import Plot, drawn, fingerprint, stored_fingerprint

STRIP = Plot("a", "Kernels", "strip", "times", (("", {"jump": [1.0, 4.0]}),))
ARMS = {"one": {"1": 0.5, "8": 4.0}, "two": {"1": 0.6, "8": 0.7}}
COLOURS = {"one": "#0072b2", "two": "#0072b2"}
PLOTS = {
    "strip": STRIP,
    "bars": Plot("b", "Ratios", "bars", "times", (("net", {"batch 1": {"one": 2.0}}),), COLOURS),
    "lines": Plot("c", "Speed", "lines", "images/s", (("net", ARMS),), COLOURS),
    "curves": Plot("d", "Quality", "curves", "distance", (("net", ARMS), ("", {})), COLOURS),
}


@pytest.mark.parametrize("kind", PLOTS)
def test_same_numbers_same_bytes(kind: str, tmp_path: Path) -> None:
    plot = PLOTS[kind]
    image = drawn(plot)
    assert image == drawn(plot)
    assert xml.etree.ElementTree.fromstring(image).tag.endswith("svg")
    assert len(image) < 150_000 and b" \n" not in image
    path = tmp_path / "plot.svg"
    assert stored_fingerprint(path) is None
    path.write_bytes(image)
    assert stored_fingerprint(path) == fingerprint(plot)


def test_other_numbers_other_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(STRIP, panels=(("", {"jump": [1.0]}),))
    before = fingerprint(STRIP)
    assert before != fingerprint(other)
    monkeypatch.setattr(drawing, "STYLE", drawing.STYLE + 1)
    assert before != fingerprint(STRIP)
    (tmp_path / "a.svg").write_text("<svg/>")
    assert stored_fingerprint(tmp_path / "a.svg") is None


@pytest.mark.parametrize(("top", "scale"), [(4.0, "log"), (0.8, "linear")])
def test_curves_share_an_axis_that_suits_them(top: float, scale: str) -> None:
    panels = (("a", {"one": {"1": 0.5, "8": top}}), ("b", {"two": {"1": 0.6, "8": 0.7}}))
    figure = drawing._lines(Plot("d", "Quality", "curves", "distance", panels, COLOURS))
    first, second = figure.axes
    assert first.get_yscale() == second.get_yscale() == scale
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] < 0.5
    assert first.get_xlabel() == "network calls"


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ctm_fast\[report\]"):
        drawn(STRIP)
