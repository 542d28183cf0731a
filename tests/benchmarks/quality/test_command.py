"""The commands."""

import pytest

from benchmarks.__main__ import main
from benchmarks.quality.records import read


def test_quality_writes_rows_and_goes_on(tmp_path, capsys) -> None:
    words = ["quality", "--worlds", "mixture", "--methods", "ECT", "--seeds", "0"]
    words += [
        "--budget",
        "0.002",
        "--samples",
        "300",
        "--pictures",
        str(tmp_path),
        "--out",
        str(tmp_path / "a.jsonl"),
    ]
    assert main(words) == 0
    rows = read([tmp_path / "a.jsonl"])
    assert rows[-1][0].method == "ECT"
    assert rows[-1][1]["machine"]
    assert "mixture, ECT, seed 0: [1] sliced_wasserstein" in capsys.readouterr().out
    assert main(words) == 0
    assert len(read([tmp_path / "a.jsonl"])) == len(rows)
    # Rows of another budget are neither mixed with these nor taken for them.
    assert main([*words, "--budget", "0.004"]) == 2
    assert "rows of mixture with a budget of 32, asked for is 64" in capsys.readouterr().err
    assert len(read([tmp_path / "a.jsonl"])) == len(rows)


def test_page_is_up_to_date() -> None:
    assert main(["quality-page", "--check"]) == 0


@pytest.mark.parametrize("words", [["--budget", "0"], ["--methods", "XYZ"], ["--worlds", "moons"]])
def test_bad_words(words: list[str], tmp_path) -> None:
    assert main(["quality", *words, "--out", str(tmp_path / "a.jsonl")]) != 0
