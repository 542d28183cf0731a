"""How every op meets the rest of PyTorch: registration, compilation, derivatives, autocast."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ctm_fast.kernels import OPS
from ctm_fast.kernels import _native as native
from ctm_fast.kernels import _triton as triton_file
from tests.kernels.contract import PAIRS, floating, gradients, prepare, tensors


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.native or op.triton])
def test_opcheck(name: str) -> None:
    op = OPS[name]
    assert op.registered is not None, f"{name} has a compiled backend but registers no op"
    if native.ABSENT is not None and not triton_file.INTERPRETED:
        pytest.skip(native.ABSENT)
    for case in op.cases[:4]:
        args, kwargs = op.example(**case)
        for registered, values in op.registered(*args, **kwargs):
            torch.library.opcheck(registered, values)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_compiles_as_one_graph(name: str, backend: str) -> None:
    torch._dynamo.reset()
    op, args, kwargs = prepare(name, backend, OPS[name].cases[1], "cpu")

    def call(*values: Any, **options: Any) -> Any:
        return op(*values, **options, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for one, eager in zip(tensors(compiled(*args, **kwargs)), tensors(call(*args, **kwargs))):
        assert torch.equal(one, eager) and one.stride() == eager.stride()
    if not op.differentiable:
        return
    _, expected = gradients(call, args, kwargs)
    _, found = gradients(compiled, args, kwargs)
    for one, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(one, eager)


@pytest.mark.parametrize("name", OPS)
def test_reference_has_the_gradient_of_its_formula(name: str) -> None:
    op = OPS[name]
    if not any(floating(t) for t in tensors(op.example(**op.cases[0]))):
        return  # random numbers: there is nothing to differentiate
    case = min((c for c in op.cases), key=lambda c: _size(op, c))
    args, kwargs = op.example(**case)
    leaves, tree = tree_flatten((args, kwargs))
    leaves = [v.detach().double().requires_grad_() if floating(v) else v for v in leaves]
    leaves = [torch.float64 if isinstance(v, torch.dtype) else v for v in leaves]
    wanted = [v for v in leaves if floating(v)]

    def call(*values: torch.Tensor) -> Any:
        given = iter(values)
        inputs, options = tree_unflatten([next(given) if floating(v) else v for v in leaves], tree)
        return tuple(tensors(op.reference(*inputs, **options)))

    assert torch.autograd.gradcheck(call, wanted)


def _size(op: Any, case: dict) -> float:
    count = sum(t.numel() for t in tensors(op.example(**case)))
    first = op.example(**case)[0][0]
    # Large enough to tell a formula from its neighbour, small enough for finite differences.
    return count if first.numel() >= 12 else float("inf")


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_autocast_changes_no_result_dtype(name: str, backend: str) -> None:
    op, args, kwargs = prepare(name, backend, OPS[name].cases[0], "cpu")
    if name in UNDER_AUTOCAST:
        return
    expected = tensors(op(*args, **kwargs, backend=backend))
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors(op(*args, **kwargs, backend=backend))
    for one, plain in zip(found, expected, strict=True):
        assert one.dtype == plain.dtype
        torch.testing.assert_close(one, plain, rtol=0.05, atol=0.05)


UNDER_AUTOCAST = ("affine", "time_embedding")
"""Layers with weights, which autocast puts in its own dtype like every `nn.Linear`."""

INTERPRETED_FILES = sorted(
    [Path(__file__).name, "test_all_ops.py"]
    + [file.name for file in Path(__file__).parent.glob("test__*_triton.py")]
)


@pytest.mark.skipif(triton_file.ABSENT is not None, reason=str(triton_file.ABSENT))
@pytest.mark.skipif(triton_file.INTERPRETED, reason="this is the interpreted run")
@pytest.mark.parametrize("file", INTERPRETED_FILES)
def test_triton_in_the_interpreter(file: str) -> None:
    chosen = [] if file.startswith("test__") else ["-k", "triton or opcheck"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(
        [*command, "-m", "not slow and not gpu", str(Path(__file__).parent / file)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout, done.stdout[-500:]
