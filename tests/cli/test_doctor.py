"""The report of `ctm-fast doctor`."""

import pytest

from ctm_fast.cli import doctor
from ctm_fast.kernels import BACKENDS, OPS, _native


def test_report_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run() == 0
    report = capsys.readouterr().out
    facts = (
        "torch",
        "triton",
        "compiler",
        "cuda compiler",
        "cuda devices",
        "native part",
        "frozen",
        "python",
    )
    for fact in facts:
        assert any(line.startswith(f"{fact} ") for line in report.splitlines()), fact
    lines = [line.split() for line in report.splitlines()]
    for name in OPS:
        assert [line[1] for line in lines if line[:1] == [name]][: len(BACKENDS)] == list(BACKENDS)


def test_every_op_has_one_backend_that_auto_takes() -> None:
    rows = doctor.availability("cpu")
    taken = [name for name, _, state in rows if state == "available, taken by auto"]
    assert taken == list(OPS)
    assert ("heun_predict", "torch", "heun_predict has no torch implementation") in rows


def test_an_absent_native_part_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_native, "ABSENT", "the native part was not built: no compiler")
    doctor.run()
    report = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "native part none: the native part was not built: no compiler" in report
    assert "heun_correct native the native part was not built: no compiler" in report
    assert "heun_correct reference available, taken by auto" in report
