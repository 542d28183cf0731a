"""Rounding to 8 bits by Triton: interpreted on small odd shapes, compiled for the real ones."""

import pytest
import torch

from ctm_fast.inference.fp8 import FORMAT, LARGEST, LEAST
from ctm_fast.kernels import _triton
from ctm_fast.kernels._quantise_triton import _plan, quantise_rows
from ctm_fast.kernels._triton import recorded
from tests.kernels.aot import compiled

DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter"),
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def rows_of(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = torch.logspace(-4, 4, max(shape[0], 1))[: shape[0], None]
    return (torch.randn(shape, generator=generator) * sizes).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 16), (37, 48), (5, 1152), (300, 64), (0, 16), (3, 1)])
def test_values(
    shape: tuple[int, int], dtype: torch.dtype, device: str, poisoned_memory: None
) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no 8-bit numbers")
    rows = rows_of(shape, dtype).to(device)
    rows[2:3] = 0
    quantised, scale = quantise_rows(rows, FORMAT, LEAST)
    assert quantised.dtype == FORMAT and scale.shape == (shape[0], 1)
    exact = rows.float().abs().amax(1, keepdim=True) * (1 / LARGEST)
    assert torch.equal(scale, exact.clamp_min(LEAST))
    scaled = rows.float() * scale.reciprocal()
    expected, found = scaled.to(FORMAT).float(), quantised.float()
    wrong = expected != found
    if device == "cpu":
        # The interpreter rounds ties away from zero, the smallest numbers towards it, and loses
        # the carry of a number that is rounded up to a power of two.
        nearest = (found - scaled).abs() <= (scaled.abs() / 16).clamp_min(2**-9) * 1.0001
        carried = (torch.frexp(expected.abs())[0] == 0.5) & (expected.abs() > scaled.abs())
        wrong &= ~nearest & ~carried
    assert not wrong.any()


@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_do_not_lie_together(device: str) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no 8-bit numbers")
    rows = rows_of((32, 40), torch.float32).to(device)
    quantised, scale = quantise_rows(rows.t(), FORMAT, LEAST)
    same, scale_too = quantise_rows(rows.t().contiguous(), FORMAT, LEAST)
    assert torch.equal(quantised.float(), same.float()) and torch.equal(scale, scale_too)


@pytest.mark.parametrize("width", [1, 16, 17, 384, 1536, 8192])
def test_a_program_holds_whole_rows(width: int) -> None:
    sizes = dict(_plan(width).constants)
    assert sizes["BLOCK"] >= width and sizes["ROWS"] * sizes["BLOCK"] <= 8192


@pytest.mark.skipif(_triton.INTERPRETED or _triton.ABSENT is not None, reason="compiles")
@pytest.mark.parametrize("arch", [89, 90])
@pytest.mark.parametrize("width", [256, 384, 1536])
def test_compiled_for_gpus_with_8_bits(width: int, arch: int) -> None:
    with recorded() as launches:
        rows = torch.empty(64 * 1024, width, dtype=torch.bfloat16, device="meta")
        quantise_rows(rows, FORMAT, LEAST)
    (launch,) = launches
    binary = compiled(launch, arch)
    assert binary.local == 0 and binary.registers <= 80
    assert binary.count("LDG", "128") and binary.count("STG", "128")
    assert binary.count("SATFINITE", "E4M3") == 16
