"""`Op`: one operation, its definition in PyTorch and its faster backends behind one call."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from . import _native, _triton

BACKENDS = ("triton", "native", "torch", "reference")
"""Every backend, in the order in which `auto` tries them."""

OPS: dict[str, "Op"] = {}
"""Every op of the package by name."""

Case = dict[str, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call; the message says why."""


def _checked(backend: str) -> str:
    if backend != "auto" and backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; choose from {('auto', *BACKENDS)}")
    return backend


_default = _checked(os.environ.get("CTM_FAST_BACKEND") or "auto")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Context in which every op runs on `backend`, unless a call names another one.

    The choice holds for the whole process, not for one thread.

    Args:
        backend: "auto", "reference", "torch", "native" or "triton".

    Raises:
        BackendError: `backend` is none of these.
    """
    global _default
    previous, _default = _default, _checked(backend)
    try:
        yield
    finally:
        _default = previous


class Op:
    """One operation: called like its reference, it runs the fastest backend that can do so.

    Args:
        name: how `OPS` and error messages call it.
        reference: the definition, in PyTorch; runs on every device and has all derivatives.
        torch: the same by the best fused ATen calls, or None.
        triton: the same by Triton kernels, or None.
        native: the same by C++ on the CPU and CUDA C++ on a GPU, or None.
        check: called with the arguments before any backend; raises ValueError for wrong use.
        unsupported: `unsupported(backend, *args, **kwargs)` is the reason why this op cannot run
            this call on that backend, or None. Machine and device were asked before.
        registered: the ops registered with `torch.library` behind the fast backends, each with
            arguments, for `opcheck`: `registered(*args, **kwargs) -> [(overload, args), ...]`.
        differentiable: whether every backend has first derivatives.
        example: `example(device=..., seed=..., **case) -> (args, kwargs)` of one call.
        cases: keyword arguments of `example` that the tests run: small and odd sizes.
        bench: keyword arguments of `example` that the benchmarks time on a CPU.
        bench_gpu: the same for a GPU: the shapes of both U-Nets. Triton kernels are compiled ahead
            of time for exactly these.
        quick: `quick(*args, **kwargs)` is the result of a call where nothing records it, without
            all the rest of this class, or None for a call that has to take the ordinary way. Tried
            on "auto", and on "native" where that exists.
        launches: runs the Triton kernels of one call and of its gradient without going through
            `torch.library`, so that `_triton.recorded` sees them for tensors on "meta".
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        *,
        torch: Callable[..., Any] | None = None,
        triton: Callable[..., Any] | None = None,
        native: Callable[..., Any] | None = None,
        check: Callable[..., None] | None = None,
        unsupported: Callable[..., str | None] | None = None,
        registered: Callable[..., list[tuple[Any, tuple[Any, ...]]]] | None = None,
        differentiable: bool = False,
        example: Callable[..., Call],
        cases: Sequence[Case],
        bench: Sequence[Case] = (),
        bench_gpu: Sequence[Case] = (),
        launches: Callable[..., None] | None = None,
        quick: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self.reference = name, reference
        self.torch, self.triton, self.native = torch, triton, native
        self.check, self.unsupported, self.registered = check, unsupported, registered
        self.differentiable = differentiable
        self.example, self.cases = example, tuple(cases)
        self.bench, self.bench_gpu, self.launches = tuple(bench), tuple(bench_gpu), launches
        self.quick = quick
        self.__doc__ = reference.__doc__
        OPS[name] = self

    def why_not(self, backend: str, *args: Any, **kwargs: Any) -> str | None:
        """Reason why `backend` cannot run this call, or None if it can."""
        if backend not in BACKENDS:
            return f"unknown backend {backend!r}; choose from {BACKENDS}"
        if getattr(self, backend) is None:
            return f"{self.name} has no {backend} implementation"
        if backend == "reference":
            return None
        if backend in ("triton", "native"):
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            machine = _triton if backend == "triton" else _native
            reason = machine.why_not(tensors) or _transform(backend)
            if reason is not None:
                return reason
        return None if self.unsupported is None else self.unsupported(backend, *args, **kwargs)

    def choose(self, *args: Any, **kwargs: Any) -> str:
        """The backend that `auto` takes for this call."""
        # Triton's interpreter is for tests: it runs when asked for by name, never by itself.
        on_cpu = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_cpu
        tried = BACKENDS[1:] if on_cpu or _triton.INTERPRETED else BACKENDS
        return next(b for b in tried if self.why_not(b, *args, **kwargs) is None)

    def __call__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        backend = backend or _default
        unnamed = backend == "auto" or (backend == "native" and self.native is not None)
        if self.quick is not None and unnamed and not torch.compiler.is_compiling():
            result = self.quick(*args, **kwargs)
            if result is not None:
                return result
        if self.check is not None:
            self.check(*args, **kwargs)
        if backend == "auto":
            backend = self.choose(*args, **kwargs)
        elif (reason := self.why_not(backend, *args, **kwargs)) is not None:
            raise BackendError(f"{self.name}: {reason}")
        return getattr(self, backend)(*args, **kwargs)

    def __repr__(self) -> str:
        backends = ", ".join(b for b in BACKENDS if getattr(self, b) is not None)
        return f"Op({self.name!r}: {backends})"


def _transform(backend: str) -> str | None:
    """Reason why a surrounding `torch.func` transform or forward-mode level needs the reference."""
    if torch.compiler.is_compiling():
        return None
    if torch.autograd.forward_ad._current_level >= 0:
        return f"{backend} ops have no forward-mode derivative; use backend 'reference'"
    if torch._C._functorch.maybe_current_level() is not None:
        return f"{backend} ops do not run inside torch.func transforms; use backend 'reference'"
    return None
