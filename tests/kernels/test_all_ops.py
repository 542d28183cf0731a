"""The contract of every op: each backend on each case against float64, in every memory order."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from ctm_fast.kernels import OPS, BackendError
from tests.kernels.contract import (
    CALLS,
    DEVICES,
    PAIRS,
    floating,
    gradients,
    in_float64,
    prepare,
    tensors,
)
from tests.tolerance import assert_accurate


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "backend", "index"), CALLS)
def test_values(name: str, backend: str, index: int, device: str, poisoned_memory: None) -> None:
    case = OPS[name].cases[index]
    op, args, kwargs = prepare(name, backend, case, device)
    reason = op.why_not(backend, *args, **kwargs)
    if reason is not None:
        assert device == "cuda", f"{name}: {backend} does not run its own case {case}: {reason}"
        with pytest.raises(BackendError, match=name):
            op(*args, **kwargs, backend=backend)
        return
    before = [t.clone() for t in tensors((args, kwargs))]
    fast = tensors(op(*args, **kwargs, backend=backend))
    same = tensors(op.reference(*args, **kwargs))
    exact_args, exact_kwargs = in_float64(args, kwargs)
    exact = tensors(op.reference(*exact_args, **exact_kwargs))
    for one, plain, truth in zip(fast, same, exact, strict=True):
        assert_accurate(one, plain, truth)
        assert one.device == plain.device
        assert one.ndim != 4 or one.stride() == plain.stride() or one.numel() < 2
    for old, new in zip(before, tensors((args, kwargs)), strict=True):
        assert torch.equal(old, new), f"{name}: {backend} changed an argument"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "backend", "index"), CALLS)
def test_gradients(name: str, backend: str, index: int, device: str, poisoned_memory: None) -> None:
    op, args, kwargs = prepare(name, backend, OPS[name].cases[index], device)
    if not any(floating(t) for t in tensors((args, kwargs))):
        return  # random numbers: there is nothing to differentiate
    if op.why_not(backend, *args, **kwargs) is not None:
        assert device == "cuda"
        return
    if not op.differentiable and backend != "reference":
        wanting = (args[0].clone().requires_grad_(), *args[1:])
        with pytest.raises(BackendError, match="gradient"):
            op(*wanting, **kwargs, backend=backend)
        assert op.choose(*wanting, **kwargs) == "reference"
        with torch.no_grad():
            op(*wanting, **kwargs, backend=backend)
        return

    def fast(*values: Any, **options: Any) -> Any:
        return op(*values, **options, backend=backend)

    _, ours = gradients(fast, args, kwargs)
    _, same = gradients(op.reference, args, kwargs)
    _, exact = gradients(op.reference, *in_float64(args, kwargs))
    for one, plain, truth in zip(ours, same, exact, strict=True):
        assert one is not None and plain is not None and truth is not None
        # ATen is plain PyTorch itself, and rounds after every step where the reference does once.
        assert_accurate(one, plain, truth, times=8 if backend == "torch" else 2)


def strange(leaf: Any) -> Any:
    """The same values where neighbours in a row do not lie side by side."""
    if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0 or leaf.numel() == 0:
        return leaf
    spread = leaf.new_full((*leaf.shape[:-1], 2 * leaf.shape[-1] + 1), 99)
    spread[..., 1::2] = leaf
    return spread[..., 1::2]


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_odd_strides(name: str, backend: str) -> None:
    """A backend reads what lies strangely in memory correctly, or says why it cannot."""
    op, args, kwargs = prepare(name, backend, OPS[name].cases[0], "cpu")
    expected = tensors(op(*args, **kwargs, backend="reference"))
    odd_args, odd_kwargs = tree_map(strange, (args, kwargs))
    only_first = (odd_args[0], *args[1:])
    only_rest = (args[0], *odd_args[1:])
    for values in (odd_args, only_first, only_rest):
        reason = op.why_not(backend, *values, **odd_kwargs)
        if reason is not None:
            with pytest.raises(BackendError):
                op(*values, **odd_kwargs, backend=backend)
        chosen = backend if reason is None else "auto"
        for one, plain in zip(tensors(op(*values, **odd_kwargs, backend=chosen)), expected):
            torch.testing.assert_close(one, plain)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
@pytest.mark.parametrize("kind", ["transposed", "expanded", "strange"])
def test_output_gradients_of_any_layout(name: str, backend: str, kind: str) -> None:
    op, args, kwargs = prepare(name, backend, OPS[name].cases[0], "cpu")
    if not op.differentiable:
        return

    def call(*values: Any, **options: Any) -> Any:
        return op(*values, **options, backend=backend)

    results, _ = gradients(call, args, kwargs)
    generator = torch.Generator().manual_seed(3)
    dense = [torch.randn(r.shape, generator=generator) for r in results]
    if kind == "expanded":
        odd = [w.flatten()[:1].reshape([1] * w.ndim).expand(w.shape) for w in dense]
        dense = [w.clone(memory_format=torch.contiguous_format) for w in odd]
    elif kind == "transposed":
        odd = [w.transpose(0, -1).contiguous().transpose(0, -1) for w in dense]
    else:
        odd = [strange(w) for w in dense]
    _, expected = gradients(call, args, kwargs, dense)
    _, found = gradients(call, args, kwargs, odd)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_layout_is_kept(name: str, backend: str, channels_last: bool) -> None:
    op = OPS[name]
    if not any("channels_last" in case for case in op.cases):
        return  # no images among its arguments
    index = next(i for i, case in enumerate(op.cases) if case.get("channels_last", True))
    case = {**op.cases[index], "channels_last": channels_last}
    op, args, kwargs = prepare(name, backend, case, "cpu")
    assert op.why_not(backend, *args, **kwargs) is None
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for result in tensors(op(*args, **kwargs, backend=backend)):
        if result.ndim == 4:
            assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", OPS)
def test_cases_cover_the_corners(name: str) -> None:
    op = OPS[name]
    calls = [op.example(**case) for case in op.cases]
    first = [args[0] for args, _ in calls]
    assert any(x.numel() == 0 for x in first), "no empty batch"
    assert any(x.numel() % 4 and x.numel() > 4 for x in first), "no odd size"
    if any(x.ndim == 4 for x in first):
        assert any(x.ndim == 4 and not x.is_contiguous() for x in first), "no channels-last case"
    dtypes = {t.dtype for call in calls for t in tensors(call)}
    if any(dtype.is_floating_point for dtype in dtypes):
        assert {torch.float32, torch.bfloat16, torch.float16} <= dtypes
    assert op.bench, "nothing to benchmark"
    assert op.triton is None or op.bench_gpu, "nothing to benchmark on a GPU"


@pytest.mark.parametrize("name", OPS)
def test_wrong_use_raises_value_error(name: str) -> None:
    op = OPS[name]
    args, kwargs = op.example(**op.cases[0])
    with pytest.raises(ValueError, match="int64"):
        op(args[0].long() if floating(args[0]) else args[0].double(), *args[1:], **kwargs)
    with pytest.raises(BackendError, match="unknown backend"):
        op(*args, **kwargs, backend="fastest")


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_tensors_on_two_devices_are_refused(name: str, backend: str) -> None:
    op = OPS[name]
    args, kwargs = op.example(**op.cases[0])
    if len(tensors((args, kwargs))) < 2:
        return
    elsewhere = (args[0].to("meta"), *args[1:])
    with pytest.raises((BackendError, ValueError, RuntimeError), match=r"(?i)device|cpu"):
        op(*elsewhere, **kwargs, backend=backend)
