"""A stand-in for CUDA, and tests that run on it and on a real GPU."""

import pytest

from .fake_cuda import FakeCuda


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fake":
        FakeCuda(monkeypatch)
        return "cpu"
    return request.param
