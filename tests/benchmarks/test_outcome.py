"""Lines of result files: ratios, and the way to a file and back."""

from pathlib import Path

import pytest

from benchmarks.outcome import (
    OURS,
    READY,
    RIVAL,
    Outcome,
    append,
    default_file,
    read,
    with_ratios,
)

ABOUT = {"machine": "Some CPU (R) 9", "date": "2026-01-02", "commit": "abc", "dirty": False}


def outcome(arm: str, median: float | None, kind: str = RIVAL, dtype: str = "bfloat16") -> Outcome:
    return Outcome(
        bench="models",
        case="digits, batch 2",
        arm=arm,
        kind=kind,
        status=READY if median else "absent",
        note="",
        network="digits",
        dtype=dtype,
        device="cpu",
        batch=2,
        median=median,
        quartiles=median and (median, median),
    )


def test_ratios_compare_with_the_best_other_arm_and_with_the_official_ones() -> None:
    found = with_ratios(
        [
            outcome("official", 8.0, "official"),
            outcome("official-fp32", 16.0, "official", "float32"),
            outcome("compile", 2.0),
            outcome("eager", None),
            outcome("ours", 1.0, OURS),
            outcome("ours-fp8", 0.5, OURS),
        ]
    )
    assert [o.ratio_to_official for o in found] == [1.0, 0.5, 4.0, None, 8.0, 16.0]
    assert [o.ratio_to_official_fp32 for o in found] == [2.0, 1.0, 8.0, None, 16.0, 32.0]
    # For an arm of ours "other" is nothing of ours, so a regression shows.
    assert [o.ratio_to_best for o in found] == [0.0625, 0.03125, 0.25, None, 2.0, 4.0]


def test_in_float32_there_is_one_official_arm() -> None:
    official, ours = with_ratios(
        [outcome("official", 3.0, "official", "float32"), outcome("ours", 1.0, OURS, "float32")]
    )
    assert official.ratio_to_official_fp32 == 1 and ours.ratio_to_official_fp32 == 3


def test_lines_come_back_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.jsonl"
    first, second = outcome("ours", 1.0, OURS), outcome("ours", 2.0, OURS)
    append(file, [first, outcome("eager", None)], ABOUT)
    append(file, [second], ABOUT)
    assert file.read_text().count("\n") == 3
    (about, eager), (_, ours) = read(file)
    assert about == ABOUT and eager == outcome("eager", None) and ours == second


def test_wrong_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="cannot read"):
        read(file)
    file.write_text('{"bench": "models"}\n')
    with pytest.raises(ValueError, match="line 1 is not an outcome"):
        read(file)


def test_files_are_named_after_the_machine() -> None:
    assert default_file(ABOUT).name == "engine-some-cpu-9-2026-01-02-abc.jsonl"


def test_share_of_the_matrix_products() -> None:
    assert outcome("ours", 1.0).matmul_share is None
    fast = Outcome(**{**outcome("ours", 1.0).__dict__, "flops_per_second": 2.0, "matmul_rate": 8.0})
    assert fast.matmul_share == 0.25
