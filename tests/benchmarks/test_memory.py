"""Bytes of a call, as the system tells them."""

import pytest
import torch

from benchmarks import memory

MIB = 1 << 20


@pytest.mark.skipif(not memory.STATUS.exists(), reason="no /proc on this system")
def test_what_a_call_needs_and_what_stays() -> None:
    before = memory.held("cpu")
    kept = []
    used = memory.peak(lambda: torch.ones(64 * MIB, dtype=torch.int8), "cpu")
    assert used is None or 48 * MIB < used < 160 * MIB
    kept.append(torch.ones(64 * MIB, dtype=torch.int8))
    after = memory.held("cpu")
    assert 48 * MIB < after - before < 160 * MIB


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "RESET", tmp_path / "no" / "folder")
    assert memory.held("cpu") is None and memory.peak(lambda: None, "cpu") is None


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_tells() -> None:
    used = memory.peak(lambda: torch.ones(64 * MIB, dtype=torch.int8, device="cuda"), "cuda")
    assert 64 * MIB <= used < 80 * MIB
