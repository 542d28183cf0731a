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


def test_what_it_will_cost(capsys) -> None:
    told = shown(capsys, "--preset", "ctm-cifar10")[""][0]
    assert "student 60.4 M, teacher 55.73 M" in told
    assert "teacher 23.3, student with gradient 2" in told and "E[n] = 11.67" in told
    assert "no GPU result is committed; not estimated" in told
    assert "1 process, microbatch 256: weights" in told
    assert "E[n]" not in shown(capsys, "--preset", "edm-cifar10")[""][0]
    few = shown(capsys, "--preset", "ctm-cifar10", "--microbatch", "4", "--steps", "1")[""][0]
    assert "256 a step, 256 in all" in few and "1 process, microbatch 4: " in few


def test_a_long_value_does_not_push_the_others_sources_away(capsys) -> None:
    assert main(["train", "--dry-run", "--preset", "ctm-cifar10-gan"]) == 0
    (lr,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("train.lr "))
    assert len(lr) < 150


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
