"""The kernel benchmark covers every op and backend; its numbers are not judged here."""

from dataclasses import replace

import pytest
import torch

from benchmarks.bench_kernels import Settings, measure, with_ratios
from benchmarks.record import Record
from benchmarks.session import READY
from ctm_fast.kernels import BACKENDS, OPS


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_cases_and_every_backend_is_timed(name: str, tiny: None) -> None:
    op = OPS[name]
    batches = list(measure(Settings(op=name, rounds=1)))
    assert [batch[0].mode for batch in batches] == (
        ["forward", "forward+backward"] if op.differentiable else ["forward"]
    )
    args, kwargs = op.example(**op.bench[0])
    able = {b for b in BACKENDS if op.why_not(b, *args, **kwargs) is None}
    for batch in batches:
        by_name = {record.variant: record for record in batch}
        assert able - {"reference"} <= set(by_name) and "eager" in by_name
        assert by_name["eager"].ratio == 1
        for record in batch:
            assert record.status == READY, record
            assert record.median > 0 and record.quartiles[0] <= record.quartiles[1]
            assert record.ratio > 0 and (record.bytes is None or record.bytes > 0)
            assert record.host is None and record.copy_bandwidth is None
        # Where the reference is what `auto` takes, it is timed under the name of eager.
        chosen = op.choose(*args, **kwargs)
        assert [r.variant for r in batch if r.auto] == ([chosen] if chosen in by_name else [])


def test_every_op_is_benchmarked() -> None:
    for op in OPS.values():
        assert op.bench, op.name


def test_options_choose_cases_modes_and_variants(tiny: None) -> None:
    settings = Settings(op="group_norm", rounds=1, gradients=False, variants=("torch",))
    (batch,) = measure(settings)
    assert [r.variant for r in batch] == ["torch", "eager"]
    assert list(measure(replace(settings, case="dtype float32")))
    with pytest.raises(ValueError, match="no case of group_norm contains 'float12'"):
        list(measure(replace(settings, case="float12")))


def test_compiled_variants_take_part(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stand_in(function, **options):
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    (batch,) = measure(Settings(op="jump", rounds=1, gradients=False, compiled=True))
    assert "compile" in [r.variant for r in batch]
    assert asked == [{"fullgraph": True, "dynamic": False}]


@pytest.mark.slow
def test_a_compiled_variant_is_timed(tiny: None) -> None:
    batches = list(measure(Settings(op="jump", rounds=1, compiled=True)))
    found = [r for batch in batches for r in batch if r.variant == "compile"]
    assert [r.status for r in found] == [READY, READY], found


def test_wrong_options_are_named() -> None:
    for settings, message in (
        (Settings(op="gelu"), "unknown op 'gelu'; choose from"),
        (Settings(rounds=0), "rounds must be at least 1, got 0"),
        (Settings(variants=("fastest",)), r"unknown variants \['fastest'\]; choose from"),
        (Settings(base="no-such-revision"), "no revision 'no-such-revision'"),
    ):
        with pytest.raises(ValueError, match=message):
            next(measure(settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ValueError, match="there is no CUDA GPU"):
        next(measure(Settings(device="cuda")))


@pytest.mark.gpu
def test_on_a_gpu_host_time_and_bandwidth_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS["group_norm"]
    monkeypatch.setattr(op, "bench_gpu", op.cases[:1])
    for batch in measure(Settings(op="group_norm", device="cuda", rounds=2, compiled=False)):
        for record in (r for r in batch if r.status == READY):
            assert record.median > 0 and record.host > 0
            assert 0 < record.share < 2 and record.copy_bandwidth > 1e11


def line(variant: str, median: float | None, kind: str = "ours", auto: bool = False) -> Record:
    return Record(
        op="jump",
        case="shape (2, 3)",
        mode="forward",
        variant=variant,
        kind=kind,
        status="ok" if median else "absent",
        note="",
        auto=auto,
        shape=(2, 3),
        dtype="float32",
        options={},
        rounds=1,
        median=median,
        quartiles=median and (median, median),
    )


def test_ratios_are_those_of_the_medians() -> None:
    records = with_ratios(
        [
            line("native", 1.0, auto=True),
            line("torch", 4.0),
            line("eager", 8.0, "rival"),
            line("compile", 2.0, "rival"),
            line("apex", None, "rival"),
            line("base:torch", 3.0, "base", auto=True),
        ]
    )
    assert [r.ratio for r in records] == [8.0, 2.0, 1.0, 4.0, None, 8 / 3]
    assert [r.ratio_to_rival for r in records] == [2.0, 0.5, 0.25, 1.0, None, 2 / 3]
    # What auto takes is compared with what it took, even if that was another backend.
    assert [r.ratio_to_base for r in records] == [3.0, 0.75, None, None, None, None]
