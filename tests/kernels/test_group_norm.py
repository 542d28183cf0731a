"""Group norm: values and all gradients against float64, layouts, threads, dtypes, wrong use."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, group_norm, use_backend
from tests.tolerance import assert_accurate

needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["torch", pytest.param("native", marks=needs_native)]
BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    *({**case, "seed": 1} for case in group_norm.cases),
    *(
        {"shape": (2, 2 * depth, 5, 5), "groups": 2, "pre": depth % 2 == 1, "seed": depth}
        for depth in (1, 3, 5, 6, 7, 12, 17, 18, 24, 33, 48, 96)
    ),
    {"shape": (1, 9, 40, 40), "groups": 3, "pre": True, **BFLOAT, "channels_last": False},
    {"shape": (1, 6, 33, 65), "groups": 2, "pre": True, "channels_last": False},
    {"shape": (1, 4, 64, 64), "groups": 1, "pre": True, **HALF},
    {"shape": (2, 2304, 2, 3), "groups": 32, **BFLOAT, "pre": True},
    {"shape": (70, 3, 1, 2), "groups": 1, "modulated": False},
    {"shape": (2, 130, 1, 1), "groups": 13, "channels_last": False},
]


def run(call: Any, args: tuple) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The result and the gradients in all tensors of one weighted sum of it."""
    leaves = [
        a.detach().clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args
    ]
    results = call(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]
    torch.autograd.backward(results, [w.to(r.dtype) for w, r in zip(weights, results)])
    y = results[0] if len(results) == 1 else torch.cat([r.flatten() for r in results])
    return y.detach(), [a.grad for a in leaves if isinstance(a, torch.Tensor)]


def in_float64(args: tuple) -> tuple:
    return tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)


@needs_native
@pytest.mark.parametrize("index", range(len(CASES)))
def test_values_and_gradients(index: int, poisoned_memory: None) -> None:
    args, _ = group_norm.example(**CASES[index])
    fast, gradients = run(lambda *a: group_norm(*a, backend="native"), args)
    plain, plain_gradients = run(group_norm.reference, args)
    exact, exact_gradients = run(group_norm.reference, in_float64(args))
    assert_accurate(fast, plain, exact)
    assert fast.ndim == 1 or fast.stride() == args[0].stride() or fast.numel() < 2
    for one, same, truth in zip(gradients, plain_gradients, exact_gradients, strict=True):
        assert_accurate(one, same, truth)
        assert one.dtype == same.dtype


def test_reference_is_the_formula() -> None:
    args, _ = group_norm.example(
        shape=(2, 6, 3, 4),
        groups=3,
        pre=True,
        dtype=torch.float64,
        factors=torch.float64,
        eps=0.01,
    )
    x, groups, weight, bias, eps, scale, shift, pre, _ = args
    h = (x + pre[:, :, None, None]).contiguous().view(2, groups, -1)
    h = (h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True, correction=0) + eps).sqrt()
    h = h.view_as(x) * weight[:, None, None] + bias[:, None, None]
    h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(group_norm(*args), h / (1 + (-h).exp()))
    torch.testing.assert_close(group_norm(*args[:-1], False), h)


def test_reference_has_two_derivatives() -> None:
    args, _ = group_norm.example(
        shape=(2, 4, 2, 3), dtype=torch.float64, factors=torch.float64, pre=True
    )
    leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
    assert torch.autograd.gradcheck(group_norm, leaves)
    assert torch.autograd.gradgradcheck(group_norm, leaves)
    assert group_norm.choose(*leaves) == "torch"


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_factor_is_optional(backend: str, scale: bool, shift: bool) -> None:
    x, *rest, a, b, _, act = group_norm.example(shape=(2, 6, 3, 3))[0]
    args = (x, *rest, a if scale else None, b if shift else None, None, act)
    fast, gradients = run(lambda *v: group_norm(*v, backend=backend), args)
    exact, exact_gradients = run(group_norm.reference, in_float64(args))
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
    for one, truth in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(one.double(), truth, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_of_factors_serves_all_samples(backend: str) -> None:
    x, *rest, scale, shift, pre, act = group_norm.example(shape=(3, 6, 3, 3), pre=True)[0]
    args = (x, *rest, scale[:1], shift[:1], pre[:1], act)
    fast, gradients = run(lambda *v: group_norm(*v, backend=backend), args)
    exact, exact_gradients = run(group_norm.reference, in_float64(args))
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
    for one, truth in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(one.double(), truth, rtol=1e-5, atol=2e-5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_of_another_dtype(dtype: torch.dtype) -> None:
    args, _ = group_norm.example(shape=(2, 6, 3, 3), pre=True, dtype=dtype, factors=torch.bfloat16)
    args = (*args[:2], args[2].float(), *args[3:5], args[5].half(), *args[6:])
    fast, gradients = run(lambda *a: group_norm(*a, backend="native"), args)
    plain, plain_gradients = run(group_norm.reference, args)
    exact, exact_gradients = run(group_norm.reference, in_float64(args))
    assert_accurate(fast, plain, exact)
    for one, same, truth in zip(gradients, plain_gradients, exact_gradients, strict=True):
        assert_accurate(one, same, truth)


@needs_native
def test_halves_of_one_linear_layer_are_read_in_place() -> None:
    """Scale and shift as `chunk` leaves them, and a pre with a stride between its values."""
    x, *rest, scale, shift, pre, act = group_norm.example(shape=(3, 6, 3, 3), pre=True)[0]
    halves = torch.cat([scale, shift], dim=1).chunk(2, dim=1)
    spaced = torch.stack([pre, pre], dim=2)[:, :, 1]
    expected = group_norm(x, *rest, scale, shift, pre, act, backend="native")
    assert torch.equal(group_norm(x, *rest, *halves, spaced, act, backend="native"), expected)


@needs_native
def test_group_of_one_value() -> None:
    (x, _, weight, bias, *_), _ = group_norm.example(shape=(2, 3, 1, 1))
    x.requires_grad_()
    y = group_norm(x, 3, weight, bias, backend="native")
    assert torch.equal(y[:, :, 0, 0], bias.expand(2, 3))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


@needs_native
def test_statistics_survive_a_large_mean() -> None:
    args, _ = group_norm.example(shape=(2, 8, 9, 9), modulated=False, act=False)
    args = (args[0] * 0.01 + 1000, *args[1:])
    plain, exact = group_norm.reference(*args), group_norm.reference(*in_float64(args))
    assert_accurate(group_norm(*args, backend="native"), plain, exact)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_silu_over_its_whole_range(dtype: torch.dtype) -> None:
    """The norm is made the identity, so that SiLU and its derivative see chosen values."""
    v = torch.cat([torch.linspace(-120, 120, 6001), torch.linspace(-1e-3, 1e-3, 999)]).to(dtype)
    x = torch.stack([v, -v]).view(1, 2, -1, 1)
    args = (x, 1, torch.ones(2), torch.zeros(2), 0.0, None, None, None, True)
    std = x.double().std(correction=0)
    args = (x, 1, *(t * std.float() for t in args[2:4]), *args[4:])
    fast, (gradient, *_) = run(lambda *a: group_norm(*a, backend="native"), args)
    plain, (plain_gradient, *_) = run(group_norm.reference, args)
    exact, (exact_gradient, *_) = run(group_norm.reference, in_float64(args))
    assert_accurate(fast, plain, exact)
    assert_accurate(gradient, plain_gradient, exact_gradient)
    assert (fast[x < -100].float().abs() < 1e-30).all()


@needs_native
def test_nan_and_inf_are_not_hidden() -> None:
    (x, *rest), _ = group_norm.example(shape=(3, 4, 3, 3), **BFLOAT)
    x[0, 0, 1, 1], x[1, 3, 0, 0] = float("nan"), float("inf")
    y = group_norm(x, *rest, backend="native")
    assert y[0, :2].isnan().all() and y[1, 2:].isnan().all()
    assert y[0, 2:].isfinite().all() and y[1, :2].isfinite().all() and y[2].isfinite().all()


@needs_native
def test_only_what_requires_a_gradient_gets_one() -> None:
    args, _ = group_norm.example(shape=(2, 6, 3, 3), pre=True)
    _, all_gradients = run(lambda *a: group_norm(*a, backend="native"), args)
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    for index, expected in zip(tensors, all_gradients, strict=True):
        values = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        values[index].requires_grad_()
        y = group_norm(*values, backend="native")
        generator = torch.Generator().manual_seed(7)
        y.backward(torch.randn(y.shape, generator=generator, dtype=torch.float64).float())
        assert torch.equal(values[index].grad, expected)
    with torch.no_grad():
        assert not group_norm(*values, backend="native").requires_grad


@needs_native
def test_gradient_of_another_layout() -> None:
    args, _ = group_norm.example(shape=(2, 6, 3, 4), pre=True)
    x = args[0].clone().requires_grad_()
    dy = torch.randn(2, 6, 4, 3).transpose(2, 3)
    y = group_norm(x, *args[1:], backend="native")
    (expected,) = torch.autograd.grad(y, x, dy.contiguous(), retain_graph=True)
    (given,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(given, expected) and given.stride() == x.stride()
    (broadcast,) = torch.autograd.grad(group_norm(x, *args[1:], backend="native").sum(), x)
    (plain,) = torch.autograd.grad(group_norm.reference(x, *args[1:]).sum(), x)
    torch.testing.assert_close(broadcast, plain, rtol=1e-4, atol=1e-5)


@needs_native
def test_gradient_of_a_gradient_is_refused_and_not_wrong() -> None:
    args, _ = group_norm.example(shape=(2, 6, 3, 3))
    x = args[0].clone().requires_grad_()
    y = group_norm(x, *args[1:], backend="native")
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use_backend\\('reference'\\)"):
        first.square().sum().backward()
    with use_backend("reference"):
        (first,) = torch.autograd.grad(
            group_norm(x, *args[1:]).square().sum(), x, create_graph=True
        )
        first.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any()


@needs_native
def test_autocast_leaves_the_dtype_alone() -> None:
    args, _ = group_norm.example(shape=(2, 6, 3, 3), **BFLOAT)
    expected = group_norm(*args, backend="native")
    for backend in ("native", "torch", "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            y = group_norm(*args, backend=backend)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=0.04, atol=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        wide, _ = group_norm.example(shape=(2, 6, 3, 3))
        assert group_norm(*wide).dtype == torch.float32


@needs_native
def test_reasons() -> None:
    (x, *rest), _ = group_norm.example(shape=(2, 6, 4, 4))
    assert group_norm.choose(x, *rest) == "native"
    sliced = x[:, :, ::2]
    assert "contiguous or channels-last" in group_norm.why_not("native", sliced, *rest)
    assert group_norm.choose(sliced, *rest) == "torch"
    torch.testing.assert_close(group_norm(sliced, *rest), group_norm.reference(sliced, *rest))
    with pytest.raises(BackendError, match=r"torch\.float64"):
        group_norm(x.double(), *rest, backend="native")
    _, tangent = torch.func.jvp(lambda v: group_norm(v, *rest[:3]), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.zeros_like(x), atol=1e-5, rtol=0)


def test_wrong_arguments_are_named() -> None:
    (x, groups, weight, bias, eps, scale, *_), _ = group_norm.example(shape=(3, 6, 4, 4))
    plain = (x, groups, weight, bias, eps, None, None, None, False)
    for message, args in {
        "6 channels do not divide into 4 groups": (x, 4, weight, bias),
        "6 channels do not divide into 0 groups": (x, 0, weight, bias),
        r"x is torch.int64 of shape \(3, 6, 4, 4\)": (x.long(), groups, weight, bias),
        r"x is torch.float32 of shape \(3, 6, 4\)": (x[..., 0], groups, weight, bias),
        r"weight has shape \(5,\); it must be \(6,\)": (x, groups, weight[:5], bias),
        r"bias has shape \(6, 1\)": (x, groups, weight, bias[:, None]),
        "bias is torch.float64; it must be one of": (x, groups, weight, bias.double()),
        "eps is -1.0": (x, groups, weight, bias, -1.0),
        "eps is nan": (x, groups, weight, bias, float("nan")),
        r"scale has shape \(2, 6\); it must be \(3 or 1, 6\)": (
            *(x, groups, weight, bias, eps),
            scale[:2],
        ),
        "pre is torch.float64": (x, groups, weight, bias, eps, None, None, scale.double()),
        r"residual is torch.float32 of shape \(2, 6, 4, 4\)": (*plain, x[:2]),
        r"tail is torch.float32 of shape \(3, 2, 4, 3\)": (*plain, None, 1.0, x[:, :2, :, 1:]),
        "tail is torch.float16": (*plain, None, 1.0, x.half()),
        r"weight has shape \(6,\); it must be \(8,\)": (*plain, None, 1.0, x[:, :2]),
        "9 channels do not divide into 2 groups": (*plain, None, 1.0, x[:, :3]),
    }.items():
        with pytest.raises(ValueError, match=message):
            group_norm(*args)
