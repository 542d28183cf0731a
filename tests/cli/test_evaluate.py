"""`ctm-fast evaluate`: the table and the JSON file, with the real/real row first."""

import json

import pytest

from ctm_fast.cli import evaluate, main
from ctm_fast.evaluation import OfflineProtocol


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol with 40 images per side, so that the test is quick."""

    class Small(OfflineProtocol):
        def __init__(self, dataset, seed):
            super().__init__(dataset, seed, num_samples=80)

    monkeypatch.setattr(evaluate, "OfflineProtocol", Small)


def run(model, *words) -> int:
    return main(["evaluate", "--model", str(model), *words])


def test_rows_of_a_student(student_file, tmp_path, few_images, capsys) -> None:
    out = tmp_path / "new" / "numbers.json"
    assert run(student_file, "--steps", "1", "3", "--out", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["real / real", "NFE 1", "NFE 3"]
    numbers = json.loads(out.read_text())
    assert set(numbers["rows"]) == {"real / real", "NFE 1", "NFE 3"}
    # Random weights give no digits, and the table must show it beside the real row.
    assert numbers["rows"]["NFE 1"]["1nn"] > 0.9 > numbers["rows"]["real / real"]["1nn"]
    assert numbers["card"]["samples"] == 80


def test_a_diffusion_model_has_one_row(teacher_file, few_images, capsys) -> None:
    assert run(teacher_file, "--steps", "2") == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "real / real",
        "NFE 3",
    ]


def test_table_shows_a_dash_for_what_has_no_meaning() -> None:
    row = dict.fromkeys(evaluate.COLUMNS, 0.5) | {"class_score": None}
    assert evaluate.table([("x", row)]).splitlines()[1].split() == [
        "x", "0.500", "0.500", "0.500", "0.500", "-", "0.500",
    ]  # fmt: skip
