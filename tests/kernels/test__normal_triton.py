"""Seeded noise by Triton: interpreted on small shapes, compiled for the real ones."""

import pytest
import torch

from ctm_fast.kernels import _triton, normal
from ctm_fast.kernels._triton import recorded
from tests.kernels.aot import compiled

DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter"),
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


@on_devices
@pytest.mark.parametrize(
    ("shape", "step"),
    [
        ((3, 16, 16), 0),
        ((1, 5, 7), 1),
        ((515,), 16),
        ((3,), -1),
        ((), 2**31),
        ((2, 3, 4), 2**40 + 3),
    ],
    ids=str,
)
def test_every_number_is_right(
    shape: tuple[int, ...], step: int, device: str, poisoned_memory: None
) -> None:
    seeds = torch.tensor([0, -1, 2**31, -(2**63), 0x0123456789ABCDEF], device=device)
    exact = normal(seeds, step, shape, backend="reference", dtype=torch.float64)
    fast = normal(seeds, step, shape, backend="triton")
    assert fast.dtype == torch.float32 and fast.is_contiguous()
    torch.testing.assert_close(fast.double(), exact, rtol=5e-7, atol=0)


@on_devices
def test_both_tails_are_accurate(device: str) -> None:
    seeds = torch.arange(12, device=device)
    exact = normal(seeds, 0, (2048,), backend="reference", dtype=torch.float64)
    fast = normal(seeds, 0, (2048,), backend="triton").double()
    radius = exact.unflatten(1, (-1, 2)).norm(dim=-1)
    assert radius.min() < 0.02 and radius.max() > 4
    assert ((fast - exact) / exact).abs().max() < 5e-7


@on_devices
def test_rows_do_not_depend_on_their_batch(device: str) -> None:
    seeds = torch.tensor([5, 6, 7], device=device)
    whole = normal(seeds, 1, (3, 11, 13), backend="triton")
    assert torch.equal(normal(seeds[1:2], 1, (3, 11, 13), backend="triton"), whole[1:2])
    spread = torch.stack([seeds, seeds], 1)[:, 0]
    assert torch.equal(normal(spread, 1, (3, 11, 13), backend="triton"), whole)


@pytest.mark.gpu
def test_every_device_draws_the_same_numbers() -> None:
    seeds = torch.arange(-8, 8)
    here = normal(seeds, 3, (3, 32, 32))
    there = normal(seeds.cuda(), 3, (3, 32, 32))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=0)


@pytest.mark.gpu
def test_captured_in_a_graph() -> None:
    seeds = torch.arange(4, device="cuda")
    normal(seeds, 0, (3, 8, 8))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        noise = normal(seeds, 0, (3, 8, 8))
    seeds.copy_(torch.arange(10, 14))
    graph.replay()
    assert torch.equal(noise, normal(seeds, 0, (3, 8, 8)))


@pytest.mark.skipif(_triton.ABSENT is not None, reason=str(_triton.ABSENT))
@pytest.mark.skipif(_triton.INTERPRETED, reason="compiles")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_compiled_it_keeps_all_in_registers_and_stores_128_bits(step: int, arch: int) -> None:
    args, kwargs = normal.example(batch=64, shape=(3, 32, 32), step=step, device="meta")
    with recorded() as launches:
        normal.launches(*args, **kwargs)
    (one,) = launches
    binary = compiled(one, arch)
    assert binary.local == 0 and binary.shared == 0 and binary.registers <= 32
    assert binary.count("STG", "128") == 1


def test_few_kernels_serve_all_steps() -> None:
    kinds = set()
    for step in (0, 1, 2, 15, 16, 255, 2**20, -1, 2**40):
        args, kwargs = normal.example(batch=2, shape=(3, 32, 32), step=step, device="meta")
        with recorded() as launches:
            normal.launches(*args, **kwargs)
        kinds.add(tuple(_triton._kinds(launches[0].args)[2:]))
    # One of them is for 0, 16, ..., one for 1, one for the others; two more beyond 2^32.
    assert len(kinds) <= 6 and all(len(kind) == 3 for kind in kinds)
