"""What every test shares: thread counts, poisoned memory, and the count of skipped GPU tests."""

import os

# Tests are tiny: one thread is the fastest, and children must not fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch

_EMPTY = ("empty", "empty_like", "empty_strided", "empty_permuted")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("gpu" in report.keywords for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} GPU tests skipped: no CUDA GPU here", yellow=True)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores torch's number of threads after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills what torch.empty* returns with NaN, so that an element nobody wrote is seen."""
    for name in _EMPTY:
        monkeypatch.setattr(torch, name, _poisoning(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoning(torch.Tensor.new_empty))


def _poisoning(function):
    def poisoned(*args, **kwargs):
        tensor = function(*args, **kwargs)
        if tensor.is_floating_point() and tensor.device.type != "meta":
            tensor.fill_(float("nan"))
        return tensor

    return poisoned
