"""The page: self-contained, escaped, complete, and its numbers as strict JSON beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from ctm_fast.evaluation import (
    Comparison,
    Curve,
    Figure,
    Grid,
    MetricRow,
    ReportContent,
    Trajectory,
    curves,
    write_report,
)
from ctm_fast.evaluation.report import flattened, shown

IMAGES = torch.linspace(-1, 1, 6 * 16).view(6, 1, 4, 4)
ROW = {"1nn": 0.61234, "precision": 0.8, "recall": 0.75, "class_agreement": None}
CONTENT = ReportContent(
    title="Digits <script>alert(1)</script>",
    summary="Two sentences & a sign.",
    rows=[
        MetricRow("real / real", {"1nn": 0.5}, reference=True),
        MetricRow("CTM", ROW, nfe=1, ms_per_image=0.125),
    ],
    card={"seed": 0, "dataset": {"name": "digits"}, "bad": float("nan")},
    grids=[Grid("samples_nfe1", "NFE 1", "A row per class.", IMAGES, 3)],
    comparisons=[Comparison("seeds", "Same seeds", "By column.", [("NFE 1", IMAGES[:3])] * 2)],
    trajectories=[
        Trajectory("path", "One image", "From noise.", [80.0, 2.5, 0.002], [("CTM", IMAGES[:3])])
    ],
    figures=[Figure("loss", "Loss", "Per step.", "step", "loss", [Curve("CTM", [1, 2], [2, 1])])],
    config={"lr": 0.0004, "net": {"channels": 32, "flip": False, "levels": [1, 2], "extra": {}}},
    environment={"torch": "2.x"},
)


class Page(HTMLParser):
    """Checks that tags nest and collects what the page refers to."""

    EMPTY = ("meta", "img", "link", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    text = write_report(tmp_path / "run", CONTENT).read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    return parsed


def test_everything_is_inside_the_page(page):
    sources = [a.get("src") for tag, a in page.tags if tag in ("img", "script", "iframe")]
    assert len(sources) == 1 + 2 + 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    anchors = {a["id"] for tag, a in page.tags if tag == "section"}
    assert {link.removeprefix("#") for link in links} == anchors and len(anchors) == 6
    assert not [tag for tag, _ in page.tags if tag in ("script", "link")]
    style = "".join(page.words)
    assert "url(" not in style.split("</style>")[0] and "@import" not in style


def test_text_is_escaped_and_numbers_are_shown(page):
    text = " ".join(word.strip() for word in page.words)
    assert "Digits <script>alert(1)</script>" in text
    assert "Two sentences & a sign." in text
    for value in ("0.612", "0.800", "0.750", "0.12", "80", "2.5", "0.002", "not FID"):
        assert value in text
    # No row has a class agreement, so it has no column.
    assert "class agreement" not in text
    for value in ("net.channels", "32", "net.flip", "no", "1, 2", "dataset.name"):
        assert value in text


def test_yardsticks_are_marked(page):
    rows = [attributes for tag, attributes in page.tags if tag == "tr"]
    assert sum(row.get("class") == "reference" for row in rows) == 1


def test_files_beside_the_page(tmp_path):
    write_report(tmp_path, CONTENT)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    expected = {"samples_nfe1", "seeds", "path"} | ({"loss"} if curves.available() else set())
    assert pictures == expected
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    numbers = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in metrics.json"))
    assert numbers["rows"][1] == {
        "name": "CTM",
        "nfe": 1,
        "ms_per_image": 0.125,
        "reference": False,
        **ROW,
    }
    assert numbers["card"] == {"seed": 0, "dataset": {"name": "digits"}, "bad": None}


def test_an_empty_report_has_no_sections(tmp_path):
    text = write_report(tmp_path, ReportContent("Nothing yet", "An empty run.")).read_text()
    assert Page(text).open == [] and "<section" not in text and "<h2" not in text


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    text = write_report(tmp_path, CONTENT).read_text(encoding="utf-8")
    assert "The curve needs matplotlib" in text and "<svg" not in text
    assert not (tmp_path / "loss.png").exists()


def test_with_matplotlib_the_curve_is_in_the_page(tmp_path):
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    text = write_report(tmp_path, CONTENT).read_text(encoding="utf-8")
    assert text.count("<svg") == 1 and "needs matplotlib" not in text
    outside = set(re.findall(r"https?://[^\"'<> )]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": [CONTENT.grids[0]] * 2}, "'samples_nfe1' must be unique"),
        ({"grids": [replace(CONTENT.grids[0], name="../up")]}, "'../up' must be unique and match"),
        ({"rows": [MetricRow("CTM", {"fid": 2.0})]}, r"unknown metrics \['fid'\] in 'CTM'"),
        (
            {"trajectories": [replace(CONTENT.trajectories[0], sigmas=[1.0])]},
            "row 'CTM' of 'path' has 3 images for 1 noise levels",
        ),
    ],
)
def test_wrong_content(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "run", replace(CONTENT, **change))
    assert not (tmp_path / "run").exists()


def test_words():
    assert shown(None, "1nn") == "\u2013" and shown(0.5, "1nn") == "0.500"
    assert shown(9.876, "class_score") == "9.88"
    assert flattened({"a": {"b": True, "c": None}, "d": 1e-7}) == [
        ("a.b", "yes"),
        ("a.c", "\u2013"),
        ("d", "1e-07"),
    ]
