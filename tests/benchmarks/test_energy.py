"""Energy by a stand-in for NVML and a stand-in for the kernel's power files."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import energy
from benchmarks.energy import Energy


class NVMLError(Exception):
    """What NVML raises."""


class FakeNvml:
    """A GPU that always draws 50 W, whose driver may lack one function or all."""

    NVMLError = NVMLError

    def __init__(self, *lacking: str) -> None:
        self.lacking = list(lacking)

    def nvmlInit(self) -> None:
        self.check("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1234"
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.check("counter")
        return round(time.perf_counter() * 50e3)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.check("power")
        return 50_000

    def check(self, function: str) -> None:
        if function in self.lacking:
            raise NVMLError("Not Supported")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch sees a GPU."""
    properties = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)


def measured(nvml: object, monkeypatch: pytest.MonkeyPatch) -> Energy:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Energy("cuda") as used:
        time.sleep(0.15)
    return used


@pytest.mark.parametrize(
    ("lacking", "source"),
    [((), "NVML energy counter"), (("counter",), "NVML power samples")],
)
def test_a_gpu_of_fifty_watts(
    gpu: None, monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...], source: str
) -> None:
    used = measured(FakeNvml(*lacking), monkeypatch)
    assert used.source == source
    assert used.joules == pytest.approx(50 * used.seconds, rel=0.3)
    assert used.per(5) == pytest.approx(10 * used.seconds, rel=0.3)
    assert "counters need 1 s" in used.note


@pytest.mark.parametrize("lacking", [("init",), ("counter", "power")])
def test_a_driver_without_energy(
    gpu: None, monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...]
) -> None:
    used = measured(FakeNvml(*lacking), monkeypatch)
    assert used.joules is None and used.per(5) is None and used.source == ""
    assert used.note == "NVML: Not Supported" and used.seconds > 0.1


@pytest.mark.parametrize("function", ["counter", "power"])
def test_a_driver_that_fails_on_the_way(
    gpu: None, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    nvml = FakeNvml() if function == "counter" else FakeNvml("counter")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Energy("cuda") as used:
        nvml.lacking.append(function)
        time.sleep(0.05)
    assert used.joules is None and used.note == "NVML: Not Supported"


def test_without_the_library(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Energy("cuda") as used:
        pass
    assert used.joules is None and "pip install ctm_fast[bench]" in used.note


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with Energy("cuda") as used:
        pass
    assert used.joules is None and used.note == "no NVIDIA GPU"


def test_an_exception_passes_and_leaves_no_number(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("counter"))
    with pytest.raises(RuntimeError, match="of the body"):
        with Energy("cuda") as used:
            raise RuntimeError("of the body")
    assert used.joules is None and not used._meter._thread.is_alive()


def zone(folder: Path, name: str, what: str, microjoules: int, size: int = 999_999_999) -> Path:
    path = folder / name
    path.mkdir()
    (path / "name").write_text(f"{what}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{size}\n")
    return path


def test_packages_and_memory_of_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    cores = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    (tmp_path / "intel-rapl").mkdir()
    with Energy("cpu") as used:
        (first / "energy_uj").write_text("3000000")
        (cores / "energy_uj").write_text("7000000")
        (memory / "energy_uj").write_text("500000")
        (second / "energy_uj").write_text("1000000")  # started again from zero
    assert used.joules == pytest.approx(2 + 0.5 + 2)
    assert used.source == "RAPL"


def test_a_processor_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with Energy("cpu") as used:
        pass
    assert used.joules is None and "no energy counters" in used.note
    path = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").unlink()
    with Energy("cpu") as used:
        pass
    assert used.joules is None and "cannot be read" in used.note


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        Energy("tpu")


@pytest.mark.gpu
def test_a_gpu_uses_energy() -> None:
    pytest.importorskip("pynvml")
    a = torch.randn(4096, 4096, device="cuda")
    with Energy("cuda") as used:
        for _ in range(300):
            a @ a
    assert used.joules is None or used.joules > 0
