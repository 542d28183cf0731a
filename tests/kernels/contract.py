"""What the contract tests of the ops share: their parametrisation, and calls in float64."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ctm_fast.kernels import BACKENDS, OPS
from ctm_fast.kernels import _native as native
from ctm_fast.kernels import _triton as triton_file

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
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
    """All tensors in a result or in arguments, in order."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def floating(leaf: Any) -> bool:
    """Whether a leaf is a floating tensor."""
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def in_float64(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The same call with every floating tensor and every dtype in float64."""

    def convert(leaf: Any) -> Any:
        if floating(leaf):
            return leaf.detach().double()
        return torch.float64 if isinstance(leaf, torch.dtype) else leaf

    return tree_map(convert, (args, kwargs))


def prepare(name: str, backend: str, case: dict, device: str) -> tuple[Any, tuple, dict]:
    """The op and one call of it; skips where the machine lacks the backend altogether."""
    op = OPS[name]
    if backend == "native" and native.ABSENT is not None:
        pytest.skip(native.ABSENT)
    if backend == "triton" and triton_file.ABSENT is not None:
        pytest.skip(triton_file.ABSENT)
    args, kwargs = op.example(device=device, **case)
    if backend == "triton" and device == "cpu":
        if not triton_file.INTERPRETED:
            pytest.skip("runs in the interpreter: test_triton_in_the_interpreter")
        if any(t.dtype == torch.bfloat16 for t in tensors((args, kwargs))):
            pytest.skip("the interpreter computes bfloat16 wrongly")
    return op, args, kwargs


def gradients(
    call: Any, args: tuple, kwargs: dict, weights: list[torch.Tensor] | None = None
) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """Results of a call, and the gradients in all its floating tensors of their weighted sum.

    `weights` are the gradients of the results; by default random ones, alike in every dtype.
    """
    leaves, tree = tree_flatten((args, kwargs))
    # .clone() would lose an odd memory order.
    leaves = [v.detach().requires_grad_() if floating(v) else v for v in leaves]
    inputs, options = tree_unflatten(leaves, tree)
    results = tensors(call(*inputs, **options))
    if weights is None:
        generator = torch.Generator().manual_seed(7)
        drawn = [torch.randn(r.shape, generator=generator) for r in results]
        weights = [w.to(r.device, r.dtype) for w, r in zip(drawn, results)]
    else:
        weights = [w.to(r.dtype) for w, r in zip(weights, results)]
    torch.autograd.backward(results, weights)
    return [r.detach() for r in results], [v.grad for v in leaves if floating(v)]
