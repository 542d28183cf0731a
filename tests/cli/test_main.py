"""Every mistake ends in one clear line on stderr and a status; help names every command."""

import pytest

from ctm_fast.cli import main
from ctm_fast.cli import main as entry
from ctm_fast.cli.main import COMMANDS, parsed
from ctm_fast.trainer import Alarmed


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ctm-fast: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "fly"),
        (["demo", "--budget", "huge"], "huge"),
        (["demo", "--budgte", "small"], "Unrecognized options: --budgte"),
        (["demo", "--seed", "many"], "many"),
        (["sample"], "--model"),
        (["train", "--out", "x", "objective:ctm", "--objective.num-scales", "1"], "num_scales=1"),
        (["train", "--out", "x", "--steps", "0", "objective:dsm"], "steps must be a whole number"),
    ],
)
def test_wrong_arguments_give_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    line = one_line(capsys)
    assert message in line
    assert "--help" in line


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_exits_with_0(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        entry([command, "--help"] if command else ["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert "ctm-fast" in shown
    if not command:
        assert all(name in shown for name in COMMANDS)


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "doctor" in capsys.readouterr().out


def test_failures_give_one_line_and_status_1(capsys, tmp_path) -> None:
    missing = tmp_path / "none.safetensors"
    assert main(["sample", "--model", str(missing)]) == 1
    assert str(missing) in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "the same command continues"),
        (ValueError("no\nsuch thing"), 1, "no such thing"),
        (PermissionError(13, "Permission denied", "runs"), 1, "Permission denied"),
        (Alarmed(7, ["divergence of ctm: so much"], "a.safetensors"), 1, "last checkpoint: a.saf"),
    ],
)
def test_status_of_what_a_command_raises(error, status, message, capsys, monkeypatch) -> None:
    def fail(self):
        raise error

    monkeypatch.setattr(COMMANDS["doctor"], "run", fail)
    assert main(["doctor"]) == status
    assert message in one_line(capsys)


def test_a_defect_keeps_its_traceback(monkeypatch) -> None:
    def fail(self):
        raise AttributeError("a defect")

    monkeypatch.setattr(COMMANDS["doctor"], "run", fail)
    with pytest.raises(AttributeError, match="a defect"):
        main(["doctor"])


def test_nested_choices_reach_the_objective() -> None:
    words = "train --out x --steps 7 objective:ctm --objective.num-scales 9"
    words += " objective.distance:pseudo-huber --objective.distance.factor 0.25"
    command = parsed(words.split())
    assert command.train.steps == 7
    assert command.objective.num_scales == 9
    assert command.objective.distance.factor == 0.25
