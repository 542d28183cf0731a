"""Rows, written and read."""

import pytest

from benchmarks.quality.records import Row, append, read

ROW = Row("mixture", "ECT", 0, 100.0, 16, 25, 100.0, 1.5, {"1": {"sliced_wasserstein": 0.25}})


def test_round_trip(tmp_path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    append(path, ROW, {"machine": "a"})
    assert read([path]) == [(ROW, {"machine": "a"})]


def test_twice_or_damaged(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, ROW, {})
    append(path, ROW, {})
    with pytest.raises(ValueError, match=r"line 2: \('mixture', 'ECT', 0\) is there twice"):
        read([path])
    for damaged in ("{}", "no json", '{"about": {}, "world": 1}', "[]"):
        path.write_text(damaged + "\n")
        with pytest.raises(ValueError, match=r"rows.jsonl, line 1"):
            read([path])
