"""Small cases for the tests of the benchmarks, whose numbers are not judged."""

import pytest

from ctm_fast.kernels import OPS


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op has one small case to be timed."""
    for op in OPS.values():
        monkeypatch.setattr(op, "bench", op.cases[:1])
