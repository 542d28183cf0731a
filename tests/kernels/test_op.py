"""How an op chooses its backend, and what it says when it cannot run one."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import ctm_fast
from ctm_fast.kernels import BACKENDS, OPS, BackendError, Op, jump, use_backend
from ctm_fast.kernels import _native as native
from ctm_fast.kernels import _triton as triton_file


@pytest.fixture
def op() -> Op:
    """An op that returns the name of the backend that ran; "native" takes even sizes only."""

    def unsupported(backend: str, size: int) -> str | None:
        return "odd size" if backend == "torch" and size % 2 else None

    made = Op(
        "probe",
        lambda size: "reference",
        torch=lambda size: "torch",
        unsupported=unsupported,
        example=lambda **case: ((2,), {}),
        cases=[{}],
    )
    del OPS["probe"]
    return made


def test_auto_takes_the_first_backend_that_can_run(op: Op) -> None:
    assert op(2) == op.choose(2) == "torch"
    assert op(3) == op.choose(3) == "reference"


def test_an_explicit_backend_never_falls_back(op: Op) -> None:
    assert op(2, backend="reference") == "reference"
    with pytest.raises(BackendError, match="probe: odd size"):
        op(3, backend="torch")
    with pytest.raises(BackendError, match="probe has no triton implementation"):
        op(2, backend="triton")
    with pytest.raises(BackendError, match="unknown backend 'cuda'"):
        op(2, backend="cuda")


def test_argument_beats_context_and_contexts_nest(op: Op) -> None:
    with use_backend("reference"):
        assert op(2) == "reference"
        assert op(2, backend="torch") == "torch"
        with use_backend("auto"):
            assert op(2) == "torch"
        assert op(2) == "reference"
    assert op(2) == "torch"


def test_the_context_ends_with_an_exception(op: Op) -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert op(2) == "torch"
    with pytest.raises(BackendError, match="unknown backend 'fast'"):
        with use_backend("fast"):
            pass


def test_public_names_are_those_of_the_package() -> None:
    assert ctm_fast.use_backend is use_backend
    assert ctm_fast.BackendError is BackendError


@pytest.mark.parametrize("backend", ["reference", "nonsense"])
def test_environment_variable(backend: str) -> None:
    code = (
        "from ctm_fast.kernels import jump; import torch; c = torch.ones(1); x = torch.ones(1, 2)"
    )
    code += "; from ctm_fast.kernels import op; print(op._default)"
    environment = {**os.environ, "CTM_FAST_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    if backend == "reference":
        assert done.stdout.strip() == "reference", done.stderr
    else:
        assert "unknown backend 'nonsense'" in done.stderr.splitlines()[-1]


def test_a_second_copy_of_the_kernels_is_refused() -> None:
    with pytest.raises(ImportError, match="two copies of an op"):
        import kernels  # noqa: F401


def test_native_part_is_there_when_a_compiler_is() -> None:
    if any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        assert native.ABSENT is None, native.ABSENT
    else:
        assert native.ABSENT is not None


def test_fast_backends_refuse_other_devices() -> None:
    meta = [torch.empty(2, device="meta")]
    assert "cpu or cuda" in (native.why_not(meta) or "cpu or cuda")
    reason = triton_file.why_not(meta)
    assert reason is not None and ("CUDA tensors" in reason or "cannot be imported" in reason)


def test_compiled_code_follows_the_context() -> None:
    torch._dynamo.reset()
    seen = []

    def backend(graph, inputs):
        seen.append([node.target.__name__ for node in graph.graph.nodes if callable(node.target)])
        return graph.forward

    compiled = torch.compile(jump, fullgraph=True, backend=backend)
    args, _ = jump.example(shape=(2, 3))
    with use_backend("torch"):
        compiled(*args)
    with use_backend("reference"):
        compiled(*args)
    assert len(seen) == 2 and "addcmul" in seen[0] and "addcmul" not in seen[1]


def test_backends_are_listed_once() -> None:
    assert sorted(BACKENDS) == ["native", "reference", "torch", "triton"]
    assert all(OPS[name].name == name for name in OPS)
