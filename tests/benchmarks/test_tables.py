"""The numbers of a table are those of the results, and who took no part is named."""

import dataclasses

import pytest

from benchmarks.collected import Line, Machine
from benchmarks.outcome import FAILED, Outcome
from benchmarks.tables import kernel_table, outcome_tables, row, significant, summary_table, where
from tests.benchmarks.measured import A100, XEON, outcomes, record


def lines(*results: list[Outcome], **facts: object) -> list[Line[Outcome]]:
    return [Line({**XEON, **facts}, "a.jsonl", one) for group in results for one in group]


def test_kernels_are_summed_up_by_geometric_means() -> None:
    records = [
        record("one", 1.0),
        record("two", 4.0),
        record("two", 9.0, variant="torch", auto=False),
        record("one", 3.0, mode="forward+backward", bandwidth=1e9, copy_bandwidth=2e9),
        record("one", 3.0, op="affine", ratio_to_rival=None),
    ]
    machine = Machine("xeon", False, kernels=[Line(XEON, "a", one) for one in records])
    assert list(kernel_table(machine)) == [
        "| op | pass | cases | x best other | lowest | highest | x eager | of copy |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| jump | forward | 2 | **2.00** | 1.00 | 4.00 | 4.00 |  |",
        "|  | forward and backward | 1 | **3.00** | 3.00 | 3.00 | 6.00 | 50% |",
    ]


def test_a_case_is_a_table_ratios_first() -> None:
    text = list(outcome_tables(lines(outcomes(batch=8))))
    assert text == [
        "",
        "**digits, batch 8, dtype bfloat16**",
        "",
        "| arm | x best other | x official | ms (quartiles) | images/s |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| official | 0.25 | 1.00 | 4000 (3600 to 4400) | 2 |",
        "| eager | 0.50 | 2.00 | 2000 (1800 to 2200) | 4 |",
        "| compile | 0.62 | 2.50 | 1600 (1440 to 1760) | 5 |",
        "| **ours** | 1.60 | 4.00 | 1000 (900 to 1100) | 8 |",
    ]


def test_all_that_was_measured_has_a_column() -> None:
    one = dataclasses.replace(
        *(outcomes()[-1],),
        flops_per_second=2e12,
        matmul_rate=8e12,
        held=123_400_000,
        peak=5_600_000,
        energy_per_image=0.0123,
        cold_start=2.345,
        error=0.0126,
        ratio_to_official_fp32=5.0,
    )
    head, _, cells = list(outcome_tables(lines([one])))[3:]
    assert head.endswith(
        "| x official fp32 | ms (quartiles) | images/s | GFLOP/s | of matmul | MiB held | MiB peak "
        "| J/image | cold start s | error |"
    )
    assert "| 5.00 | 1000 (" in cells
    assert cells.endswith("| 2000 | 25% | 118 | 5 | 0.0123 | 2.35 | 1.3e-02 |")


def test_the_summary_is_of_our_arms() -> None:
    slower = {"official": 4.0, "compile": 0.4, "ours": 1.0}
    every = lines(outcomes("sampler"), outcomes(batch=1), outcomes(batch=8, seconds=slower))
    assert list(summary_table(Machine("xeon", False, outcomes=every)))[2:] == [
        "| Networks, one forward | digits | ours | 2 | **0.80** | 0.40 | 4.00 |  |",
        "| Sampling | digits | ours | 1 | **1.60** | 1.60 | 4.00 |  |",
    ]
    assert list(summary_table(Machine("xeon", False))) == []


def test_dtypes_are_shown_where_they_differ() -> None:
    both = outcomes()
    both[0] = dataclasses.replace(both[0], dtype="float32")
    text = "\n".join(outcome_tables(lines(both)))
    assert "| arm | dtype | x best" in text and "| official | float32 | 0.25 |" in text


def test_who_took_no_part_is_said_once() -> None:
    some = {"official": 2.0, "graphs": None, "ours": 1.0}
    first, second = outcomes(batch=1, seconds=some), outcomes(batch=8, seconds=some)
    second[0] = dataclasses.replace(second[0], median=None, status=FAILED, note="out | of memory")
    text = list(outcome_tables(lines(first, second)))
    assert text[-4:] == ["", "In every case:", "", "* graphs took no part: it takes a GPU"]
    assert text.count("* official FAILED: out | of memory") == 1
    assert text.index("* official FAILED: out | of memory") > text.index(
        "**digits, batch 8, dtype bfloat16**"
    )
    single = list(outcome_tables(lines(first)))
    assert single[-2:] == ["", "* graphs took no part: it takes a GPU"]


def test_a_case_without_any_time_has_no_table() -> None:
    text = list(outcome_tables(lines(outcomes(seconds={"graphs": None}))))
    assert not any(line.startswith("|") for line in text) and "took no part" in text[-1]


def test_commits_are_told_apart() -> None:
    both = [*lines(outcomes(batch=1)), *lines(outcomes(batch=8), commit="f" * 12)]
    headings = [line for line in outcome_tables(both) if line.startswith("**")]
    assert headings[1].endswith(f"** (commit {'f' * 12}, 2026-01-02)")
    machine = Machine("xeon, 2 threads", False, outcomes=both)
    assert where(machine, both) == (
        "xeon, 2 threads, torch 2.13.0; commit 0123456789ab, 2026-01-02; "
        "commit ffffffffffff, 2026-01-02."
    )
    gpu = Machine("NVIDIA A100", True)
    assert "driver 580.1" in where(gpu, [Line(A100, "a", one) for one in outcomes()])


@pytest.mark.parametrize(
    ("value", "text"), [(12345.0, "12300"), (0.001234, "0.00123"), (99.96, "100"), (1.0, "1")]
)
def test_three_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_bars_within_cells() -> None:
    assert row(["a|b", "c"]) == "| a\\|b | c |"
