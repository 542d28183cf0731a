"""What `--dry-run` shows: every value with its source."""

import pytest

from ctm_fast.cli import main
from ctm_fast.presets import PRESETS


def shown(capsys, *words: str) -> dict[str, tuple[str, str]]:
    """name -> (value, source) of a dry run; "" holds what follows the table."""
    capsys.readouterr()
    assert main(["train", "--dry-run", *words]) == 0
    table, _, rest = capsys.readouterr().out.partition("\n\n")
    rows = {"": (rest, "")}
    for line in table.splitlines():
        name, value, source = (part.strip() for part in line.split("  ") if part.strip())
        rows[name] = (value, source)
    return rows


def test_a_preset_with_its_sources(capsys) -> None:
    rows = shown(capsys, "--preset", "ect-cifar10")
    assert rows["train.lr"] == ("0.0001", "locuslab/ect, run_ecm.sh")
    assert rows["objective"] == ("ect", "preset ect-cifar10")
    assert rows["objective.density"][0] == "LogNormal(P_mean=-1.1, P_std=2.0)"
    assert rows["train.seed"] == ("0", "library default")
    assert rows["net.dropout"] == ("0.2", "locuslab/ect, run_ecm.sh")
    assert "2406.14548" in rows[""][0]
    for name, _, source in PRESETS["ect-cifar10"]:
        assert rows[name][1] == source


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_shown(name, capsys) -> None:
    rows = shown(capsys, f"--preset={name}")
    assert not [row for row, (_, source) in rows.items() if source == "command line"]
    sources = {row: source for row, _, source in PRESETS[name]}
    assert sources.items() <= {row: source for row, (_, source) in rows.items()}.items()


def test_what_the_command_line_changes(capsys) -> None:
    words = ["--lr", "0.5", "objective:tcm", "--objective.boundary-share", "0.5"]
    rows = shown(capsys, "--preset", "tcm-digits-stage2", *words)
    changed = {name for name, (_, source) in rows.items() if source == "command line"}
    assert changed == {"train.lr", "objective.boundary_share"}
    assert "high=20.0" in rows["objective.density"][0]


def test_another_objective_than_the_presets(capsys) -> None:
    rows = shown(capsys, "--preset", "ect-digits", "objective:ict")
    assert rows["objective"] == ("ict", "command line")
    assert rows["objective.P_mean"][1] == "command line"
    assert rows["train.lr"][1] == "chosen for the embedded digits"


def test_without_a_preset(capsys) -> None:
    rows = shown(capsys, "--steps", "5", "objective:dsm")
    assert rows["train.steps"] == ("5", "command line")
    assert rows["objective.label_dropout"] == ("0.0", "library default")
