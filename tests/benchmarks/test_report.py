"""What a run prints and appends to its file."""

import json
from dataclasses import replace

import pytest

from benchmarks.report import report, summary, table
from tests.benchmarks.test_record import RECORD

EAGER = replace(RECORD, variant="eager", kind="rival", auto=False, median=2e-3, ratio=1.0)
OURS = replace(RECORD, ratio=2.0, ratio_to_rival=1.5)
FAILED = replace(
    RECORD, variant="native", status="FAILED", note="too far off", median=None, quartiles=None
)


def test_a_table_has_one_row_per_variant_and_no_empty_columns() -> None:
    lines = table([OURS, replace(EAGER, note="largest error 2"), FAILED])
    assert lines[0].split() == ["variant", "ms", "quartiles", *["x", "eager", "x", "best", "rival"]]
    assert lines[1].split() == ["torch", "*", "1", "0.9", "..", "1.2", "2.00", "1.50"]
    assert lines[2].endswith("less accurate: largest error 2")
    assert lines[3].split() == ["native", "FAILED:", "too", "far", "off"]


def test_on_a_gpu_there_are_host_time_and_bandwidth() -> None:
    lines = table([replace(OURS, host=7e-6, bandwidth=3e12, copy_bandwidth=4e12)])
    assert lines[0].endswith("host us  GB/s  of copy")
    assert lines[1].split()[-4:] == ["7.0", "3000", "75", "%"]


def test_a_failure_has_no_time_and_fails_the_run(capsys: pytest.CaptureFixture, tmp_path) -> None:
    file = tmp_path / "results" / "a.jsonl"
    assert report([[OURS, EAGER]], {"commit": "abc"}, file)
    assert not report([[FAILED, EAGER]], {"commit": "abc"}, file)
    shown = capsys.readouterr().out
    assert "commit: abc" in shown and "1 FAILED" in shown
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["torch", "eager", "native", "eager"]
    assert lines[2]["status"] == "FAILED" and lines[2]["median"] is None


def test_the_summary_is_the_geometric_mean_of_what_auto_takes() -> None:
    slower = replace(OURS, case="other", ratio=0.5, ratio_to_rival=None)
    absent = replace(EAGER, variant="apex", status="absent", note="apex cannot be imported")
    base = replace(OURS, variant="base:torch", kind="base", ratio=100.0)
    lines = summary([OURS, slower, EAGER, absent, base])
    expected = "  jump, forward: 1.00 x eager (2 cases), 1.50 x best rival (1 cases)"
    assert lines[1:] == [expected, "  not compared: apex cannot be imported"]
