"""The contract of every op: each backend on each case against float64, and how it meets PyTorch."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ctm_fast.kernels import BACKENDS, OPS, BackendError
from ctm_fast.kernels import _native as native
from ctm_fast.kernels import _triton as triton_file
from tests.tolerance import assert_accurate

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TRITON_OPS = [name for name, op in OPS.items() if op.triton is not None]
PAIRS = [
    pytest.param(name, backend, id=f"{name}-{backend}")
    for name, op in OPS.items()
    for backend in BACKENDS
    if getattr(op, backend) is not None
]
CALLS = [
    pytest.param(name, backend, index, id=f"{name}-{backend}-{index}")
    for name, op in OPS.items()
    for backend in BACKENDS
    if getattr(op, backend) is not None
    for index in range(len(op.cases))
]


def tensors(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)


def in_float64(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.detach().double()
        return torch.float64 if isinstance(value, torch.dtype) else value

    exact = {key: convert(value) for key, value in kwargs.items()}
    # A dtype left to the op follows an input, and would round what has to be exact.
    return tuple(convert(value) for value in args), exact


def prepare(name: str, backend: str, case: dict, device: str) -> tuple[Any, tuple, dict]:
    """The op and one call of it; skips where the machine lacks the backend altogether."""
    op = OPS[name]
    if backend == "triton" and device == "cpu" and not triton_file.INTERPRETED:
        pytest.skip("runs in the interpreter: test_triton_ops_in_the_interpreter")
    if backend == "native" and native.ABSENT is not None:
        pytest.skip(native.ABSENT)
    return op, *op.example(device=device, **case)


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
    before = [a.clone() for a in args if isinstance(a, torch.Tensor)]
    fast = tensors(op(*args, **kwargs, backend=backend))
    same = tensors(op.reference(*args, **kwargs))
    exact_args, exact_kwargs = in_float64(args, kwargs)
    exact = tensors(op.reference(*exact_args, **exact_kwargs))
    assert len(fast) == len(same)
    for one, plain, truth in zip(fast, same, exact):
        assert_accurate(one, plain, truth)
        assert one.device == plain.device
        assert one.stride() == plain.stride() or one.numel() < 2
    for old, new in zip(before, (a for a in args if isinstance(a, torch.Tensor))):
        assert torch.equal(old, new), f"{name}: {backend} changed an argument"


@pytest.mark.parametrize(("name", "backend"), PAIRS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_layout_is_kept(name: str, backend: str, channels_last: bool) -> None:
    case = {**OPS[name].cases[0], "shape": (2, 6, 5, 7), "channels_last": channels_last}
    op, args, kwargs = prepare(name, backend, case, "cpu")
    assert op.why_not(backend, *args, **kwargs) is None
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for result in tensors(op(*args, **kwargs, backend=backend)):
        if result.shape == args[0].shape:
            assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", OPS)
def test_cases_cover_the_corners(name: str) -> None:
    op = OPS[name]
    calls = [op.example(**case)[0] for case in op.cases]
    images = [args[0] for args in calls]
    assert any(x.numel() == 0 for x in images), "no empty batch"
    assert any(x.numel() % 4 and x.numel() > 4 for x in images), "no odd size"
    assert any(x.ndim == 4 and not x.is_contiguous() for x in images), "no channels-last case"
    dtypes = {a.dtype for args in calls for a in args if isinstance(a, torch.Tensor)}
    assert {torch.float32, torch.bfloat16, torch.float16} <= dtypes
    assert op.bench, "nothing to benchmark"


@pytest.mark.parametrize("name", OPS)
def test_wrong_use_raises_value_error(name: str) -> None:
    op = OPS[name]
    args, kwargs = op.example(**op.cases[0])
    with pytest.raises(ValueError, match="int64"):
        op(args[0].long(), *args[1:], **kwargs)
    with pytest.raises(BackendError, match="unknown backend"):
        op(*args, **kwargs, backend="fastest")


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_gradients(name: str, backend: str) -> None:
    op, args, kwargs = prepare(name, backend, {**OPS[name].cases[1]}, "cpu")

    def gradients(call: Any, values: tuple, options: dict) -> list[torch.Tensor]:
        leaves = [
            v.detach().clone().requires_grad_()
            if isinstance(v, torch.Tensor) and v.is_floating_point()
            else v
            for v in values
        ]
        loss = sum((r.double() * r.double().sin()).sum() for r in tensors(call(*leaves, **options)))
        loss.backward()
        return [v.grad for v in leaves if isinstance(v, torch.Tensor) and v.requires_grad]

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

    same = gradients(op.reference, args, kwargs)
    exact = gradients(op.reference, *in_float64(args, kwargs))
    for one, plain, truth in zip(gradients(fast, args, kwargs), same, exact):
        assert_accurate(one, plain, truth)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.native or op.triton])
def test_opcheck(name: str) -> None:
    op = OPS[name]
    assert op.registered is not None, f"{name} has a compiled backend but registers no op"
    if native.ABSENT is not None and op.triton is None:
        pytest.skip(native.ABSENT)
    for case in op.cases[:4]:
        args, kwargs = op.example(**case)
        for registered, values in op.registered(*args, **kwargs):
            torch.library.opcheck(registered, values)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_compiles_as_one_graph(name: str, backend: str) -> None:
    torch._dynamo.reset()
    op, args, kwargs = prepare(name, backend, OPS[name].cases[1], "cpu")

    def call(*values: Any) -> Any:
        return op(*values, **kwargs, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for one, eager in zip(tensors(compiled(*args)), tensors(call(*args))):
        assert torch.equal(one, eager) and one.stride() == eager.stride()


@pytest.mark.skipif(not TRITON_OPS, reason="no op has a Triton version")
@pytest.mark.skipif(triton_file.ABSENT is not None, reason=str(triton_file.ABSENT))
def test_triton_ops_in_the_interpreter() -> None:
    if triton_file.INTERPRETED:
        return
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            __file__,
            "-k",
            "triton and cpu or triton and not values",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
