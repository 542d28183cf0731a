"""What is printed, and that every case is in the file as soon as it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.outcome import OURS, Outcome, read, with_ratios
from benchmarks.outcome_table import report, summary, table

from .test_outcome import ABOUT, outcome

CASE = with_ratios(
    [
        outcome("official", 8.0, "official"),
        replace(outcome("compile", None), status="FAILED", note="no compiler"),
        replace(outcome("edm", None), status="absent", note="no such network"),
        replace(outcome("ours", 2.0, OURS), note="frozen", peak=3 << 20, cold_start=1.25),
    ]
)


def test_ratios_come_first_and_empty_columns_are_left_out() -> None:
    lines = table(CASE)
    assert " ".join(lines[0].split()) == (
        "x best other x official ms quartiles MiB peak first call s"
    )
    assert lines[1].split()[:3] == ["official", "0.25", "1.00"]
    assert lines[2].split() == ["compile", "FAILED:", "no", "compiler"]
    assert lines[3].endswith("absent: no such network")
    assert lines[4].split()[:5] == ["ours", "4.00", "4.00", "2000", "2000"]
    assert lines[4].split()[-2:] == ["3", "1.2"]
    assert lines[5].strip() == "ours: frozen"


def test_no_arm_at_all_has_a_time() -> None:
    assert len(table([replace(outcome("ours", None), note="no")])) == 2


def test_cases_are_written_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "a.jsonl"

    def cases() -> Iterator[list[Outcome]]:
        yield CASE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report(cases(), ABOUT, file)
    assert [o for _, o in read(file)] == CASE
    assert "models: digits, batch 2" in capsys.readouterr().out
    passed, seen = report([CASE[:1]], ABOUT, None)
    assert passed and seen == CASE[:1]
    assert not report([CASE], ABOUT, None)[0]


def test_the_summary_has_our_ratios_and_what_is_missing() -> None:
    assert summary(CASE) == [
        "models: ours is 4.00 x the best other arm (1 case, 4.00 at least)",
        "FAILED: compile: no compiler",
        "absent: edm: no such network",
    ]
