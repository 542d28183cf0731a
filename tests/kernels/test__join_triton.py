"""The Triton join: interpreted on small odd shapes, compiled for those of both U-Nets."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import _triton, group_norm, join
from ctm_fast.kernels._join_triton import BLOCK, join_rows
from ctm_fast.kernels._triton import Launch, recorded
from tests.kernels.aot import compiled
from tests.kernels.contract import gradients

DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter"),
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
on_devices = pytest.mark.parametrize("device", DEVICES)
DTYPES = [torch.float32, torch.float16]
SHAPES = [
    *((2, 3, 5, 7, 4), (1, 64, 8, 8, 32), (3, 33, 9, 4, 95), (2, 1, 40, 40, 2), (1, 700, 3, 1, 1)),
    *((1, 1, 2, 3, 1500), (2, 1030, 1, 2, 0), (0, 3, 4, 4, 2)),
]  # the last number: channels of tail


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(
    shape: tuple, channels_last: bool, dtype: torch.dtype, device: str, poisoned_memory: None
) -> None:
    *images, tail = shape
    for residual in (None, 1.0, 0.7):
        if residual is None and not tail:
            continue
        case: dict[str, Any] = {"shape": tuple(images), "tail": tail, "residual": residual}
        args, _ = join.example(**case, dtype=dtype, channels_last=channels_last, device=device)
        expected, wanted = gradients(join.reference, args, {})
        found, ours = gradients(lambda *a: join(*a, backend="triton"), args, {})
        assert torch.equal(found[0], expected[0]), f"{case}"
        assert found[0].numel() == 0 or found[0].stride() == expected[0].stride()
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one, other)


@on_devices
def test_images_that_lie_otherwise(device: str) -> None:
    (x, tail, residual, factor), _ = join.example(
        shape=(2, 5, 6, 7), tail=3, residual=0.7, device=device
    )
    expected = join.reference(x, tail, residual, factor)
    whole = torch.cat([x, tail], 1)
    for other in (tail.contiguous(), whole[:, 5:], tail.transpose(2, 3).contiguous().mT):
        result = join(x, other, residual.contiguous(), factor, backend="triton")
        assert torch.equal(result, expected) and result.stride() == expected.stride()


@on_devices
def test_addresses_that_are_not_aligned(device: str) -> None:
    (x, tail), _ = join.example(shape=(2, 8, 5, 5), tail=8, channels_last=False, device=device)
    flat = torch.empty(2, x.numel() + 1, device=device)
    x, tail = (flat[i, 1:].copy_(v.flatten()).view_as(v) for i, v in enumerate((x, tail)))
    assert torch.equal(join(x, tail, backend="triton"), torch.cat([x, tail], 1))


@on_devices
def test_the_group_norm_goes_by_way_of_it(device: str, poisoned_memory: None) -> None:
    case = {"shape": (2, 9, 4, 5), "tail": 7, "groups": 2, "residual": 0.7, "pre": True}
    args, _ = group_norm.example(**case, device=device)
    y, joined = group_norm(*args, backend="triton")
    assert torch.equal(joined, join.reference(args[0], args[11], args[9], args[10]))
    assert torch.equal(y, group_norm(joined, *args[1:9], backend="triton"))


def launches(op: Any, **case: Any) -> list[Launch]:
    args, kwargs = op.example(device="meta", **case)
    with recorded() as found:
        op.launches(*args, **kwargs)
    return found


def test_what_is_launched() -> None:
    case: dict[str, Any] = {"shape": (3, 40, 9, 7), "dtype": torch.bfloat16}
    (only,) = launches(join, **case, tail=30)
    head, tail = 3 * 63 * 40, 3 * 63 * 30
    assert only.grid == (-(-head // BLOCK) + -(-tail // BLOCK),)
    assert only.args[4] == 3 * 63 and dict(only.config.constants)["HEAD"] == 40
    (only,) = launches(join, **case, tail=30, channels_last=False)
    assert only.args[4] == 3 and dict(only.config.constants)["TAIL"] == 30 * 63
    (only,) = launches(join, **case, residual=0.7)
    assert only.grid == (-(-head // BLOCK),) and only.args[2] is None
    first, *norm = launches(group_norm, **case, tail=24, residual=0.7)
    assert first.kernel is join_rows and norm
    assert all(launch.kernel is not join_rows for launch in norm)


@pytest.mark.skipif(_triton.ABSENT is not None, reason=str(_triton.ABSENT))
@pytest.mark.skipif(_triton.INTERPRETED, reason="compiles")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("index", range(len(join.bench_gpu)))
def test_compiled_for_the_shapes_of_both_networks(index: int, arch: int) -> None:
    (launch,) = launches(join, **join.bench_gpu[index])
    binary = compiled(launch, arch)
    assert binary.local == 0 and binary.shared == 0 and binary.registers <= 40
    for word in ("LDG", "STG"):
        assert binary.count(word) == binary.count(word, "128") > 0, "128 bits at a time"
