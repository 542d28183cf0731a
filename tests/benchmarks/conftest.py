"""Small cases for the tests of the benchmarks, whose numbers are not judged."""

import pytest

from ctm_fast.kernels import OPS
from ctm_fast.models import PRESETS

from .tiny_networks import TINY


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op has one small case to be timed."""
    for op in OPS.values():
        monkeypatch.setattr(op, "bench", op.cases[:1])


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of TINY are presets."""
    for name, config in TINY.items():
        monkeypatch.setitem(PRESETS, name, config)
