"""Small cases for the tests of the benchmarks, whose numbers are not judged."""

import pytest

from benchmarks import flops, memory
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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of matrix products and the memory are measured in no time, and mean nothing."""
    monkeypatch.setattr(flops, "SIZES", {"cpu": (64,), "cuda": (64,)})
    monkeypatch.setattr(memory, "settle", lambda: None)
