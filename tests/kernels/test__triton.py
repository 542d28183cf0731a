"""Launching: what is recorded, what a launch is compiled for, and the cache in front of triton."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ctm_fast.kernels import _triton
from ctm_fast.kernels._triton import Config, Launch, config, launch, recorded, tl, triton
from tests.kernels.aot import compiled

needs_triton = pytest.mark.skipif(_triton.ABSENT is not None, reason=str(_triton.ABSENT))


@triton.jit
def _scaled(x, y, size, factor, BLOCK: tl.constexpr):
    o_x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_x = tl.load(x + o_x, mask=m_x)
    tl.store(y + o_x, (b_x.to(tl.float32) * factor).to(y.dtype.element_ty), mask=m_x)


def test_config_is_a_value() -> None:
    one, other = config(BLOCK=64, num_warps=2), config(BLOCK=64, num_warps=2)
    assert one == other and hash(one) == hash(other) and {one: 1}[other] == 1
    assert one != config(BLOCK=64, num_warps=4)
    assert one == Config((("BLOCK", 64),), 2)


def test_recorded_launches_do_not_run() -> None:
    x = torch.empty(5, device="meta")
    with recorded() as outer:
        launch(_scaled, (1,), (x, x, 5, 2.0), config(BLOCK=64))
        with recorded() as inner:
            launch(_scaled, (2,), (x, x, 5, 3.0), config(BLOCK=32))
    assert [entry.grid for entry in outer] == [(1,)]
    assert inner == [Launch(_scaled, (2,), (x, x, 5, 3.0), config(BLOCK=32))]


@pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter")
def test_interpreted() -> None:
    x, y = torch.arange(5.0), torch.full((5,), 7.0)
    launch(_scaled, (1,), (x, y, 5, 2.0), config(BLOCK=64))
    assert torch.equal(y, 2 * x)


@needs_triton
@pytest.mark.skipif(_triton.INTERPRETED, reason="compiles")
@pytest.mark.parametrize("arch", [80, 90])
def test_compiled_for_another_machine(arch: int) -> None:
    x = torch.empty(1 << 14, dtype=torch.bfloat16, device="meta")
    with recorded() as launches:
        launch(_scaled, (16,), (x, x, x.numel(), 2.0), config(BLOCK=1024))
        launch(_scaled, (16,), (x[1:], x[1:], x.numel() - 1, 2.0), config(BLOCK=1024))
    aligned, shifted = (compiled(entry, arch) for entry in launches)
    assert aligned.local == 0 and 0 < aligned.registers <= 64
    assert aligned.count("LDG", "128") and aligned.count("STG", "128")
    assert not shifted.count("LDG", "128")


class Compiled:
    """Stands for what triton's launcher returns, and remembers how it was run."""

    function, packed_metadata = "function", "metadata"

    def __init__(self) -> None:
        self.runs: list[tuple[Any, ...]] = []

    def run(self, *args: Any) -> None:
        self.runs.append(args)


class Kernel:
    """Stands for a kernel; every launch through it is a compilation."""

    def __init__(self) -> None:
        self.compiled: list[tuple[Any, ...]] = []
        self.made = Compiled()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def call(*args: Any, **options: Any) -> Compiled:
            self.compiled.append((grid, args, options))
            return self.made

        return call


class OnDevice(torch.Tensor):
    """A CPU tensor that says it lies on GPU 0."""

    def get_device(self) -> int:
        return 0


@pytest.fixture
def stand_in_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `launch` asks of torch and triton about the GPU, and an empty cache."""
    monkeypatch.setattr(_triton, "INTERPRETED", False)
    monkeypatch.setattr(_triton, "_compiled", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    driver = type("Driver", (), {"get_current_stream": staticmethod(lambda device: 42)})
    monkeypatch.setattr(_triton.triton.runtime.driver, "_active", driver, raising=False)


@needs_triton
def test_launches_are_compiled_once_for_each_kind(stand_in_driver: None) -> None:
    kernel, settings = Kernel(), config(BLOCK=64, num_warps=2, num_stages=3)
    x = torch.zeros(64).as_subclass(OnDevice)
    for _ in range(3):
        launch(kernel, (4,), (x, x, 64, 2.5), settings)
    options = {"BLOCK": 64, "num_warps": 2, "num_stages": 3}
    assert kernel.compiled == [((4,), (x, x, 64, 2.5), options)]
    run = (4, 1, 1, 42, "function", "metadata", None, None, None, x, x, 64, 2.5, 64)
    assert kernel.made.runs == [run, run]
    count = 1
    for args in (
        (x, x, 63, 2.5),  # not a multiple of 16
        (x, x, 1, 2.5),  # a constant
        (x, x, 2**40, 2.5),  # 64 bits
        (x[1:], x, 64, 2.5),  # not aligned
        (x.half(), x, 64, 2.5),
        (x, None, 64, 2.5),
    ):
        launch(kernel, (4,), args, settings)
        count += 1
        assert len(kernel.compiled) == count
        launch(kernel, (4,), args, settings)
        assert len(kernel.compiled) == count
    launch(kernel, (4,), (x, x, 64, 2.5), config(BLOCK=64, num_warps=4))
    assert len(kernel.compiled) == count + 1
    launch(kernel, (4,), (x, x, 128, 7.5), settings)
    assert len(kernel.compiled) == count + 1


@needs_triton
@pytest.mark.skipif(_triton.INTERPRETED, reason="launches compiled kernels")
def test_what_reaches_the_driver(tmp_path: Path) -> None:
    """Later launches, which go past triton's Python, give libcuda what its first launch gave."""
    here, include = Path(__file__).parent, Path(triton.__file__).parent / "backends/nvidia/include"
    library = tmp_path / "libcuda.so.1"
    compiler = os.environ.get("CC", "cc")
    source = here / "stand_in_cuda.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(library)], check=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.launch_worker", "1"],
        env={
            **os.environ,
            "TRITON_LIBCUDA_PATH": str(tmp_path),
            "LD_LIBRARY_PATH": str(tmp_path),
            "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        },
        cwd=here.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, microseconds = (json.loads(line) for line in done.stdout.splitlines())
    assert [line[0] for line in lines] == list(range(1, 10))
    factor = 0x40200000  # 2.5
    for _, size, addresses, given in lines:
        scalars = [factor] if size == 1 else [size, factor]
        assert given == [3, 2, 1, 64, 0, 77, *addresses, *scalars]
    assert microseconds > 0
