"""How the Triton group norm is cut up, and what the compiler makes of it for the U-Nets."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import _triton, group_norm
from ctm_fast.kernels._group_norm_plan import (
    BACKWARD,
    FORWARD,
    Shape,
    power_of_two,
    tiling,
    windows,
)
from ctm_fast.kernels._triton import Launch, recorded
from tests.kernels.aot import SHARED, compiled

BATCHES = (1, 2, 4, 8, 11, 16, 18, 32, 64, 100, 256, 1000)
TILES_WRITTEN = ("forward", "apply", "backward", "spread")
SERVED = sorted(
    {
        (c["shape"][1], c["groups"], c["shape"][2] ** 2, c["dtype"].itemsize)
        for c in group_norm.bench_gpu
    }
)


def assert_sound(shape: Shape, backward: bool) -> None:
    cut, split = tiling(shape, backward)
    assert power_of_two(cut.width) == cut.block_c and 1 <= cut.warps <= 32
    for size in (cut.block_c, cut.block_l, cut.unroll, cut.warps):
        assert size == power_of_two(size) and size >= 1
    assert cut.block_l % cut.unroll == 0 and cut.block_c * cut.block_l <= 1 << 15
    if split:
        assert -(-shape.pixels // cut.span) * windows(shape.channels, shape.groups, cut.width)[
            0
        ] <= (8192 if cut.span < shape.pixels else 1 << 16)
    else:
        assert cut.width % shape.depth == 0 and cut.span == shape.pixels
        if cut.block_l >= shape.pixels:
            assert cut.block_c * cut.block_l <= (BACKWARD if backward else FORWARD).kept


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("channels", "groups", "pixels", "itemsize"), SERVED)
def test_shapes_of_the_u_nets(
    channels: int, groups: int, pixels: int, itemsize: int, backward: bool
) -> None:
    cuts = set()
    for batch in BATCHES:
        shape = Shape(channels, groups, pixels, batch, itemsize, True)
        assert_sound(shape, backward)
        cut, split = tiling(shape, backward)
        cuts.add((cut, split))
        row = cut.width * itemsize
        assert row % 16 == 0 and row >= 32, "rows are not aligned, or less than a sector"
        assert cut.block_c * -(-channels // cut.width) <= 1.8 * channels, "lanes are wasted"
        if split:
            assert channels % cut.width == 0
    assert len(cuts) <= 8, "every batch size is compiled anew"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_any_shape(backward: bool, last: bool) -> None:
    for groups in (1, 3, 32):
        for depth in (1, 5, 6, 48, 130, 1536, 4096):
            for pixels in (1, 2, 63, 256, 5000, 1 << 18):
                for batch, itemsize in ((1, 4), (7, 2), (3000, 2)):
                    shape = Shape(groups * depth, groups, pixels, batch, itemsize, last)
                    assert_sound(shape, backward)


@pytest.mark.parametrize(("channels", "groups", "width"), [(192, 32, 64), (42, 6, 4), (6, 2, 8)])
def test_windows_hold_the_groups_of_every_block(channels: int, groups: int, width: int) -> None:
    depth = channels // groups
    most, number = windows(channels, groups, width)
    touched = [
        {c // depth for c in range(begin, min(begin + width, channels))}
        for begin in range(0, channels, width)
    ]
    assert number >= max(map(len, touched)) > number // 2
    assert most >= max(map(len, touched)) * depth > most // 2


def shipped() -> list[Any]:
    """Launches of the GPU benchmarks, each once; not slow: one of each kernel and group depth."""
    seen, quick, params = set(), set(), []
    for case in group_norm.bench_gpu:
        args, kwargs = group_norm.example(**case, device="meta")
        with recorded() as found:
            group_norm.launches(*args, **kwargs)
        batch, channels, height, width = args[0].shape
        for launch in found:
            dtypes = tuple(a.dtype for a in launch.args if isinstance(a, torch.Tensor))
            key = (launch.kernel, launch.config, dtypes)
            if key in seen:
                continue
            seen.add(key)
            name = launch.kernel.__name__.removeprefix("group_norm_")
            kind = (name, channels // args[1] if name != "over_batch" else 0)
            for arch in (80, 90):
                first = kind not in quick if arch == 80 else (name, arch) not in quick
                quick |= {kind} if arch == 80 else {(name, arch)}
                dtype = str(args[0].dtype).removeprefix("torch.")
                label = f"{name}-{dtype}-{channels}x{height}x{width}-batch{batch}-sm{arch}"
                slow = [] if first else [pytest.mark.slow]
                params.append(pytest.param(name, launch, arch, id=label, marks=slow))
    return params


@pytest.mark.skipif(
    _triton.ABSENT is not None or _triton.INTERPRETED, reason="needs Triton's compiler"
)
@pytest.mark.parametrize(("name", "launch", "arch"), shipped() if _triton.ABSENT is None else [])
def test_shipped_configurations_compile(name: str, launch: Launch, arch: int) -> None:
    binary = compiled(launch, arch)
    assert binary.local == 0, "registers are spilled"
    assert binary.shared <= min(SHARED[arch], 32 * 1024)
    assert binary.registers <= (128 if launch.config.num_warps >= 8 else 168)
    assert binary.count("LDG", "128") >= 2
    if name in TILES_WRITTEN:
        assert binary.count("STG", "128") >= 1
        vector = 16 // launch.args[0].element_size()
        constants = dict(launch.config.constants)
        tile = constants["BLOCK_C"] * constants["BLOCK_L"]
        accesses = max(tile // (32 * launch.config.num_warps * vector), 1)
        assert binary.count("STG", "128") >= accesses, "a tile is written in narrow pieces"
