"""Results of several files: machines apart, the newest of each case."""

from pathlib import Path

import pytest

from benchmarks.collected import collect, machine_name
from tests.benchmarks.measured import A100, XEON, outcomes, record, write


def test_machines_apart(tmp_path: Path) -> None:
    write(tmp_path / "engine-a.jsonl", outcomes(), XEON)
    write(tmp_path / "engine-b.jsonl", [*outcomes(), *outcomes("step")], A100)
    write(tmp_path / "c.jsonl", [record("one", 2.0)], XEON, threads=1)
    gpu, one, two = collect(tmp_path)
    assert gpu.name == "NVIDIA A100" and gpu.on_gpu and gpu.benches == ["models", "step"]
    assert [line.result.bench for line in gpu.of_bench("step")] == ["step"] * 4
    assert one.name.endswith("2 cores, 1 thread") and two.name.endswith("2 threads")
    assert one.slug == "intel-xeon-processor-2-cores-1-thread"
    assert (len(one.kernels), len(one.outcomes), len(two.kernels)) == (1, 0, 0)


def test_the_newest_of_each_case(tmp_path: Path) -> None:
    write(tmp_path / "engine-a.jsonl", [*outcomes(batch=1), *outcomes(batch=8)])
    new = {"date": "2026-02-01", "commit": "f" * 12, "dirty": True}
    write(tmp_path / "engine-0.jsonl", outcomes(batch=8, seconds={"ours": 1.0}), **new)
    (machine,) = collect(tmp_path)
    found = {(line.result.batch, line.commit) for line in machine.outcomes}
    assert found == {
        (1, "0123456789ab, 2026-01-02"),
        (8, f"{'f' * 12} with changes, 2026-02-01"),
    }
    # An arm of the older run would be compared with times of another day.
    assert [line.result.arm for line in machine.outcomes if line.result.batch == 8] == ["ours"]


def test_two_files_of_one_day_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [record("one", 2.0), record("two", 2.0)])
    write(tmp_path / "b.jsonl", [record("two", 3.0)])
    with pytest.raises(ValueError, match=r"a\.jsonl and b\.jsonl hold the same case"):
        collect(tmp_path)


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="is not a result"):
        collect(tmp_path)


def test_nothing(tmp_path: Path) -> None:
    assert collect(tmp_path) == []


def test_names() -> None:
    assert machine_name(A100) == "NVIDIA A100"
    assert machine_name({**XEON, "gpu": "NVIDIA A100"}).endswith("2 threads")
