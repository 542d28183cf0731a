"""The kernel benchmark covers every op and backend; its numbers are not judged here."""

import pytest

from benchmarks import bench_kernels
from benchmarks.bench_kernels import interleaved, measure, report
from ctm_fast.kernels import OPS


def test_every_op_has_cases_and_the_reference_is_one(monkeypatch, capsys) -> None:
    for op in OPS.values():
        assert op.bench, op.name
        monkeypatch.setattr(op, "bench", op.bench[:1])
    lines = list(measure(rounds=1, device="cpu"))
    assert {line.op for line in lines} == set(OPS)
    for line in lines:
        assert line.milliseconds > 0
        assert line.backend != "reference" or line.ratio == 1
    report(iter(lines))
    shown = capsys.readouterr().out
    assert "processor: " in shown and "commit: " in shown
    assert all(name in shown for name in OPS)


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    medians = interleaved(calls, rounds=3)
    assert order == ["a", "b"] * 5  # two rounds of warming up
    assert set(medians) == {"a", "b"}


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="unknown op 'gelu'; choose from"):
        list(measure("gelu"))
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        list(bench_kernels.measure(rounds=0))
