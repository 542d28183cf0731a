"""The page."""

from benchmarks.quality.records import QUALITY, Row, read
from benchmarks.quality.report import PAGE, page

ABOUT = {"machine": "a machine", "torch": "2", "commit": "abc", "dirty": False}


def row(method: str, seed: int, value: float) -> Row:
    measures = {nfe: {"sliced_wasserstein": value} for nfe in ("1", "2", "4", "8")}
    return Row("mixture", method, seed, 100.0, 16, 10, 98.0, 2.0, measures)


def test_means_and_ranges() -> None:
    rows = [(row("CTM", 0, 0.1), ABOUT), (row("CTM", 1, 0.3), ABOUT), (row("CD", 0, 0.5), ABOUT)]
    text = page(rows)
    assert "| CTM | 0.200 +- 0.100 |" in text
    assert "| CD | 0.500 |" in text
    assert "commit abc; 2 seeds; budget 100 network evaluations per image of a batch of 16" in text
    assert "## Digits" not in text


def test_committed_page_is_that_of_the_committed_rows() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(sorted(QUALITY.glob("*.jsonl"))))
