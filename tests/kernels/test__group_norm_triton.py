"""The Triton group norm on small odd shapes: every way to cut the work up, against float64."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from ctm_fast.kernels import BackendError, _triton, group_norm, use_backend
from ctm_fast.kernels import _group_norm_triton as host
from ctm_fast.kernels._group_norm_op import _arguments
from ctm_fast.kernels._group_norm_plan import Shape, Tiling, power_of_two
from tests.kernels.contract import gradients, in_float64, tensors
from tests.tolerance import assert_accurate

HALF = {"dtype": torch.float16}
DEPTHS = (4, 6, 8, 12, 16, 18, 24, 30, 36, 42, 48)  # channels of a group in the two U-Nets
CASES: list[dict[str, Any]] = [
    *({"shape": (2, 2 * d, 3, 4), "groups": 2, "pre": d % 4 == 0, "seed": d} for d in DEPTHS),
    {"shape": (3, 24, 5, 5), "groups": 4, "pre": True, **HALF, "factors": torch.float16},
    {"shape": (2, 48, 5, 5), "groups": 4, "residual": 0.5**0.5, **HALF, "act": False},
    {"shape": (1, 16, 7, 5), "groups": 2, "residual": 1.0, "pre": True},
    {"shape": (2, 6, 8, 8), "groups": 2, "channels_last": False, "pre": True},
    {"shape": (2, 12, 5, 5), "groups": 3, "channels_last": False, **HALF, "residual": 0.7},
    {"shape": (2, 5, 7, 3), "groups": 5, "modulated": False, "act": False, "eps": 0.1},
    {"shape": (1, 15, 3, 9), "groups": 1, "modulated": False, "seed": 2},
    {"shape": (4, 24, 1, 1), "groups": 4, "pre": True},
    {"shape": (2, 3, 1, 1), "groups": 3, "act": False, "residual": 2.0},
    {"shape": (2, 1, 4, 5), "groups": 1, "pre": True},
    {"shape": (2, 80, 2, 9), "groups": 20, **HALF},
]
runs_here = pytest.param(
    "cpu", marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter")
)
on_devices = pytest.mark.parametrize(
    "device", [runs_here, pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture(autouse=True)
def sums_like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU adds a tile's rows up as a tree; the interpreter one after the other, less exactly."""
    if not _triton.INTERPRETED:
        return
    from triton.runtime.interpreter import ReduceOps

    def tree(self: Any, values: Any) -> Any:
        rest = np.moveaxis(values.handle.data, self.axis, 0)
        while len(rest) > 1:
            rest = rest[: len(rest) // 2] + rest[len(rest) // 2 :]
        return self.to_tensor(rest[0], values.dtype)

    monkeypatch.setattr(ReduceOps, "sum", tree)


def streamed(shape: Shape, backward: bool) -> tuple[Tiling, bool]:
    """One launch that reads twice, in tiles of 8 pixels."""
    width = shape.widths()[len(shape.widths()) // 2]
    return Tiling(width, power_of_two(width), 8, 2, 1, shape.pixels), False


def split(shape: Shape, backward: bool) -> tuple[Tiling, bool]:
    """Two launches; the programs' channels cut groups, the last has fewer pixels."""
    width = min(16, power_of_two(shape.channels))
    return Tiling(width, width, 4, 2, 1, -(-shape.pixels // 3)), True


every_way = pytest.mark.parametrize("tiling", [None, streamed, split])


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Replaces the function that cuts the work up."""

    def replace(tiling: Any) -> None:
        if tiling is not None:
            monkeypatch.setattr(host, "tiling", tiling)
        host.plan.cache_clear()

    yield replace
    host.plan.cache_clear()


def call(*args: Any, **kwargs: Any) -> Any:
    return group_norm(*args, **kwargs, backend="triton")


def flat(results_and_gradients: tuple[list, list]) -> list[Any]:
    results, found = results_and_gradients
    return [*results, *found]


def assert_right(args: tuple, kwargs: dict, function: Any = call) -> None:
    """Results and all gradients as exact as those of the reference."""
    exact = in_float64(args, kwargs)
    found, plain, truth = (
        flat(gradients(f, *values))
        for f, values in (
            (function, (args, kwargs)),
            (group_norm.reference, (args, kwargs)),
            (group_norm.reference, exact),
        )
    )
    for one, same, right in zip(found, plain, truth, strict=True):
        assert (one is None) == (same is None)
        if one is not None:
            assert_accurate(one, same, right)


@on_devices
@every_way
@pytest.mark.parametrize("index", range(len(CASES)))
def test_values_and_gradients(
    index: int, tiling: Any, device: str, cut: Any, poisoned_memory: None
) -> None:
    cut(tiling)
    assert_right(*group_norm.example(**CASES[index], device=device))


@on_devices
@every_way
def test_every_argument_is_optional(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    shape = (1, 4, 2, 3)
    for modulated, pre, act, residual in product((0, 1, 2, 3), (0, 1), (0, 1), (None, 0.7)):
        case = dict(shape=shape, pre=bool(pre), act=bool(act), residual=residual, seed=modulated)
        args, kwargs = group_norm.example(**case, device=device)
        scale, shift = (args[i + 5] if modulated & (1 << i) else None for i in range(2))
        args = (*args[:5], scale, shift, *args[7:])
        found, exact = (gradients(f, args, kwargs) for f in (call, group_norm.reference))
        for one, other in zip(flat(found), flat(exact), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@on_devices
@every_way
def test_rows_are_read_where_they_lie(tiling: Any, device: str, cut: Any) -> None:
    """Halves of one linear layer, one row for all samples, a stride inside a row."""
    cut(tiling)
    (x, *rest, scale, shift, pre, act), _ = group_norm.example(
        shape=(3, 8, 3, 5), pre=True, device=device
    )
    expected = call(x, *rest, scale, shift, pre, act)
    halves = torch.cat([scale, shift], dim=1).chunk(2, dim=1)
    spaced = torch.stack([pre, pre], dim=2)[:, :, 1]
    assert torch.equal(call(x, *rest, *halves, spaced, act), expected)
    rest[1] = torch.stack([rest[1], rest[1]], dim=1)[:, 0]
    assert torch.equal(call(x, *rest, *halves, spaced, act), expected)
    assert_right((x, *rest, scale[:1], shift, pre[:1], act), {})


@on_devices
@every_way
def test_sum_is_that_of_pytorch_bit_for_bit(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    args, kwargs = group_norm.example(shape=(2, 8, 5, 5), residual=0.7, **HALF, device=device)
    for values in (args, (*args[:-2], args[-2].contiguous(), args[-1])):
        _, summed = call(*values, **kwargs)
        assert torch.equal(summed, group_norm.reference(*args, **kwargs)[1])
        assert summed.stride() == args[0].stride()


@on_devices
@every_way
def test_gradients_are_the_same_every_time(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    args, kwargs = group_norm.example(
        shape=(3, 8, 4, 5), pre=True, residual=0.7, **HALF, device=device
    )
    runs = [flat(gradients(call, args, kwargs)) for _ in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@on_devices
@every_way
def test_output_gradients_in_another_layout(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    args, kwargs = group_norm.example(shape=(2, 8, 3, 5), residual=0.7, device=device)
    generator = torch.Generator().manual_seed(3)
    dense = [torch.randn(2, 8, 3, 5, generator=generator).to(device) for _ in range(2)]
    odd = [dense[0].transpose(2, 3).contiguous().transpose(2, 3), dense[1][:1].expand(2, -1, 3, 5)]
    dense = [w.contiguous(memory_format=torch.channels_last) for w in odd]
    found, expected = (gradients(call, args, kwargs, w)[1] for w in (odd, dense))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for kept in range(2):
        results = call(*(a.requires_grad_() if a is args[0] else a for a in args), **kwargs)
        (one,) = torch.autograd.grad(results[kept], args[0], dense[kept])
        plain = group_norm.reference(*args, **kwargs)
        (other,) = torch.autograd.grad(plain[kept], args[0], dense[kept])
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@on_devices
@every_way
def test_statistics_survive_a_large_mean(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    args, _ = group_norm.example(shape=(2, 8, 9, 9), modulated=False, act=False, device=device)
    args = (args[0] * 0.01 + 1000, *args[1:])
    exact = group_norm.reference(*in_float64(args, {})[0])
    error, allowed = ((f(*args) - exact).abs().max() for f in (call, group_norm.reference))
    assert error < 0.1 * allowed
    _, _, mean, rstd = host._forward(*_arguments(*args))
    x = args[0].double().contiguous().view(2, 2, -1)
    torch.testing.assert_close(mean.double(), x.mean(2), rtol=1e-7, atol=0)
    expected = (x.var(2, correction=0) + args[4]).rsqrt()
    torch.testing.assert_close(rstd.double(), expected, rtol=3e-4, atol=0)


@on_devices
@every_way
def test_an_outlier_comes_first(tiling: Any, device: str, cut: Any) -> None:
    """The first pixel is what all others are compared with."""
    cut(tiling)
    args, _ = group_norm.example(shape=(2, 8, 9, 9), modulated=False, device=device)
    args[0][:, :, 0, 0] = 3000.0
    found = flat(gradients(call, args, {}))
    exact = flat(gradients(group_norm.reference, *in_float64(args, {})))
    for one, other in zip(found, exact, strict=True):
        assert one is other or (one - other).abs().max() <= 2e-6 * other.abs().max()


@on_devices
@every_way
def test_nan_and_inf_stay_in_their_group(tiling: Any, device: str, cut: Any) -> None:
    cut(tiling)
    (x, *rest), _ = group_norm.example(shape=(3, 8, 3, 3), **HALF, device=device)
    x[0, 0, 1, 1], x[1, 7, 0, 0] = float("nan"), float("inf")
    y = call(x, *rest)
    assert y[0, :4].isnan().all() and y[1, 4:].isnan().all()
    assert y[0, 4:].isfinite().all() and y[1, :4].isfinite().all() and y[2].isfinite().all()


@on_devices
def test_silu_over_its_whole_range(device: str) -> None:
    """The norm is made the identity, so that SiLU and its derivative see chosen values."""
    for dtype in (torch.float32, torch.float16):
        v = torch.cat([torch.linspace(-120, 120, 601), torch.linspace(-1e-3, 1e-3, 99)]).to(dtype)
        x = torch.stack([v, -v]).view(1, 2, -1, 1).to(device)
        std = x.double().std(correction=0).float()
        factors = std * torch.ones(2, device=device), torch.zeros(2, device=device)
        args = (x, 1, *factors, 0.0, None, None, None, True)
        assert_right(args, {})
        assert (call(*args)[x < -100].float().abs() < 1e-30).all()


@on_devices
def test_refused(device: str) -> None:
    (x, *rest), _ = group_norm.example(shape=(2, 6, 4, 4), device=device)
    with pytest.raises(BackendError, match=r"torch\.float64"):
        call(x.double(), *rest)
    with pytest.raises(BackendError, match="contiguous or channels-last"):
        call(x[:, :, ::2], *rest)
    wide = torch.empty(1, 2 * host.DEEPEST, 1, 1, device=device)
    factors = [torch.empty(2 * host.DEEPEST, device=device)] * 2
    assert "at most" in group_norm.why_not("triton", wide, 1, *factors)
    assert group_norm.why_not("triton", wide, 2, *factors) is None
    half = {"tail": wide[:, host.DEEPEST :]}
    assert "at most" in group_norm.why_not("triton", wide[:, : host.DEEPEST], 1, *factors, **half)
    x.requires_grad_()
    (first,) = torch.autograd.grad(call(x, *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use_backend\\('reference'\\)"):
        first.square().sum().backward()
    with use_backend("triton"):
        assert tensors(group_norm(x, *rest))[0].grad_fn is not None
