"""Two result files as ratios, one as the tables of a document."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare import compare, markdown
from benchmarks.record import Record
from tests.benchmarks.test_record import RECORD

ABOUT = {"machine": "a", "torch": "2.13.0", "threads": 2, "commit": "abc", "dirty": False}


def written(file: Path, records: list[Record], **about: object) -> Path:
    file.write_text("".join(r.to_json({**ABOUT, **about}) + "\n" for r in records))
    return file


def test_ratios_of_the_common_lines(tmp_path: Path) -> None:
    only_before = replace(RECORD, variant="eager")
    failed = replace(RECORD, variant="native", median=None, quartiles=None, status="FAILED")
    before = written(tmp_path / "a", [RECORD, only_before, failed])
    after = written(
        tmp_path / "b", [replace(RECORD, median=0.25e-3), failed], commit="def", dirty=True
    )
    lines = list(compare(before, after))
    assert lines[0] == "commits: abc, def with changes"
    assert lines[2].split()[:3] == ["4.00", "1", "0.25"] and RECORD.case in lines[2]
    assert lines[-1].split()[0] == "4.00" and "(1 cases)" in lines[-1]
    assert not any("native" in line or "eager" in line for line in lines)


def test_different_machines_are_pointed_out(tmp_path: Path) -> None:
    before = written(tmp_path / "a", [RECORD])
    after = written(tmp_path / "b", [RECORD], machine="b", threads=1)
    assert list(compare(before, after))[:2] == [
        "different machine: a, b",
        "different threads: 2, 1",
    ]


def test_files_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    before = written(tmp_path / "a", [RECORD])
    after = written(tmp_path / "b", [replace(RECORD, case="other")])
    with pytest.raises(ValueError, match="no time of the same case and variant"):
        list(compare(before, after))


def test_markdown_has_a_table_per_op_and_mode(tmp_path: Path) -> None:
    records = [
        replace(RECORD, ratio=2.0, ratio_to_rival=1.5),
        replace(RECORD, variant="eager", auto=False, ratio=1.0, note="largest error 2"),
        replace(RECORD, variant="native", auto=False, median=None, quartiles=None, status="FAILED"),
        replace(RECORD, mode="forward+backward", bandwidth=3e12, copy_bandwidth=4e12),
    ]
    text = "\n".join(markdown(written(tmp_path / "a", records, date="2026-01-02")))
    assert text.startswith("a, torch 2.13.0, 2 threads, commit abc, 2026-01-02.")
    assert "**jump, forward**" in text and "**jump, forward+backward**" in text
    assert f"| {RECORD.case} | **torch** | 1 (0.9 to 1.2) | 2.00 | 1.50 |" in text
    assert "|  | eager (less accurate) | 1 (0.9 to 1.2) | 1.00 |  |" in text
    assert "|  | native | FAILED |  |  |" in text
    assert "| 75% |" in text
    widths = {line.count("|") for line in text.split("**jump, forward**")[1].splitlines() if line}
    assert len(widths - {0}) == 2
