"""Energy in log lines, by a stand-in for NVML."""

import sys
from types import SimpleNamespace

import pytest
import torch

from ctm_fast.trainer import power
from ctm_fast.trainer.power import NvmlPower, Power, Unreadable, integral, nvml_meter

GPU = torch.device("cuda", 1)


class NVMLError(Exception):
    """What NVML raises."""


class Nvml:
    """The second GPU, which draws 50 W on a clock of its own; functions may be lacking."""

    NVMLError = NVMLError

    def __init__(self, *lacking):
        self.lacking, self.now = set(lacking), 100.0

    def nvmlInit(self):
        self.check("init")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-uuid-1"
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self.check("counter")
        return round(self.now * 50e3)

    def nvmlDeviceGetPowerUsage(self, handle):
        self.check("power")
        return 50_000

    def check(self, function):
        if function in self.lacking:
            raise NVMLError("Not Supported")

    def perf_counter(self):
        return self.now


@pytest.fixture
def nvml(monkeypatch):
    """NVML on a machine with GPUs."""
    made = Nvml()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    properties = lambda index: SimpleNamespace(uuid=f"uuid-{index}")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(power, "time", made)
    return made


@pytest.mark.parametrize("lacking", [(), ("counter",)])
def test_a_line_has_the_energy_since_the_one_before(nvml, lacking):
    nvml.lacking.update(lacking)
    used = Power(GPU)
    used.start()
    nvml.now += 10
    # 500 J are 0.1389 Wh, for 2000 images.
    expected = {"power_w": 50.0, "energy_j": 500.0, "wh_per_kimg": 0.069444}
    assert used.entry(2000) == pytest.approx(expected, rel=1e-4)
    nvml.now += 1
    assert used.entry(0)["energy_j"] == pytest.approx(50)
    used.stop()
    assert used.entry(1) == {}


def test_the_thread_of_power_samples_ends(nvml):
    nvml.lacking.add("counter")
    meter = nvml_meter(GPU)
    assert isinstance(meter, NvmlPower) and meter.source == "NVML power samples"
    meter.start()
    nvml.now += 2
    assert meter.stop() == pytest.approx(100)
    assert not meter._thread.is_alive()


def test_without_a_gpu_one_line_says_so():
    used = Power(torch.device("cpu"))
    used.start()
    assert used.entry(8) == {"no_power": "the device is cpu, not an NVIDIA GPU"}
    assert used.entry(8) == {}
    used.stop()
    used.start()
    assert "no_power" in used.entry(8), "every session says it"


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [(("init",), "NVML: Not Supported"), (("counter", "power"), "NVML: Not Supported")],
)
def test_a_driver_without_energy(nvml, lacking, reason):
    nvml.lacking.update(lacking)
    used = Power(GPU)
    used.start()
    assert used.entry(8) == {"no_power": reason}


def test_without_the_library(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unreadable, match=r"pip install ctm_fast\[bench\]"):
        nvml_meter()


@pytest.mark.parametrize("function", ["counter", "power"])
def test_a_driver_that_fails_on_the_way_ends_the_numbers_alone(nvml, function):
    if function == "power":
        nvml.lacking.add("counter")
    used = Power(GPU)
    used.start()
    nvml.lacking.add(function)
    assert used.entry(8) == {"no_power": "NVML: Not Supported"}
    assert used.entry(8) == {}
    used.stop()


def test_integral():
    assert integral([(0.0, 1.0), (1.0, 3.0), (1.5, 3.0)]) == pytest.approx(2 + 1.5)
    assert integral([(0.0, 1.0)]) == 0


@pytest.mark.gpu
def test_a_gpu_uses_energy():
    used = Power(torch.device("cuda", 0))
    used.start()
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(300):
        a = a @ a / 100
    torch.cuda.synchronize()
    found = used.entry(300)
    used.stop()
    assert "no_power" in found or found["energy_j"] > 0
