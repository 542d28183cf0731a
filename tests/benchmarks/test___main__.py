"""The command line: results are written where they are asked for, wrong use is exit status 2."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.__main__ import main

SHORT = ["kernels", "--op", "jump", "--rounds", "1", "--no-gradients", "--device", "cpu"]


def test_kernels_writes_what_table_and_compare_read(
    tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture, threads: None
) -> None:
    file = tmp_path / "a.jsonl"
    assert main([*SHORT, "--threads", "1", "--out", str(file)]) == 0
    assert torch.get_num_threads() == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["threads"] for line in lines} == {1}
    assert "machine: " in capsys.readouterr().out
    assert main(["table", str(file)]) == 0
    assert "**jump, forward**" in capsys.readouterr().out
    assert main(["compare", str(file), str(file)]) == 0
    assert "   1.00" in capsys.readouterr().out


def test_results_have_a_folder(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    assert main(SHORT) == 0
    (file,) = (tmp_path / "results").iterdir()
    assert file.suffix == ".jsonl" and file.read_text().count("\n") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernels", "--op", "gelu"], "unknown op 'gelu'"),
        (["kernels", "--threads", "0"], "threads must be at least 1, got 0"),
        (["kernels", "--base", "no-such-revision"], "no revision 'no-such-revision'"),
        (["table", "no-such-file"], "cannot read no-such-file"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_interruption(monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    def interrupted(settings):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(command, "measure", interrupted)
    assert main(SHORT) == 130
