"""What competes in one case: arms, and the ways to call a network that they have in common."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.inference.graphs import GraphPool
from ctm_fast.kernels import OPS

from .outcome import OURS, RIVAL

Named = dict[str, Tensor]
COMPILED = {"compile": "default", "compile-max-autotune": "max-autotune"}
"""Arms by `torch.compile` and their modes."""

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class Absent(Exception):
    """An arm cannot take part here; the message says why."""


@dataclass
class Ready:
    """An arm that is built.

    Attributes:
        work: one timed call; what it returns is dropped.
        result: one call on the inputs that are judged, by name of the result.
        note: what a reader has to know about the arm.
        judged: False if its weights are not ours, so that its result means nothing.
    """

    work: Callable[[], Any]
    result: Callable[[], Named]
    note: str = ""
    judged: bool = True


@dataclass(frozen=True)
class Arm:
    """One way to do the work of a case; `build` is timed as a part of the cold start."""

    name: str
    build: Callable[[], Ready]
    kind: str = RIVAL  # ours, official, rival or peer
    dtype: torch.dtype | None = None  # that it computes in; None: that of the case


def selected(arms: Sequence[Arm], only: Sequence[str], compiled: bool) -> list[Arm]:
    """The arms that were asked for, in order.

    Args:
        arms: of one case.
        only: names; "edm" also stands for "edm fp32". All if empty.
        compiled: False leaves out what takes a compiler.

    Raises:
        ValueError: for a name that no arm has, or if no arm is left.
    """

    def wanted(arm: Arm) -> bool:
        words = arm.name.split()
        if not compiled and any(word.startswith("compile") for word in words):
            return False
        return not only or any(name in (arm.name, words[0]) for name in only)

    known = {name for arm in arms for name in (arm.name, arm.name.split()[0])}
    unknown = sorted(set(only) - known)
    chosen = [arm for arm in arms if wanted(arm)]
    if unknown or not chosen:
        raise ValueError(f"no arm is called {unknown or list(only)}; choose from {sorted(known)}")
    return chosen


@contextmanager
def fresh_caches() -> Iterator[None]:
    """Context in which compilers find nothing of earlier runs: first calls are first calls.

    The compiled code of inductor and Triton goes to a temporary folder.
    """
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    kept = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(
        prefix="ctm_fast-bench-", ignore_cleanup_errors=True
    ) as folder:
        os.environ |= {name: str(Path(folder, name.lower())) for name in names}
        try:
            yield
        finally:
            for name, value in kept.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def plain_ops() -> Iterator[None]:
    """Context in which every op of ours runs by PyTorch alone: its `torch` backend or reference."""
    kept = {op: (op.native, op.triton) for op in OPS.values()}
    for op in kept:
        op.native = op.triton = None
    try:
        yield
    finally:
        for op, (native, triton) in kept.items():
            op.native, op.triton = native, triton


def plainly(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, with PyTorch alone inside."""

    def inside(*args: Any, **kwargs: Any) -> Any:
        with plain_ops():
            return call(*args, **kwargs)

    return inside


def cast(net: nn.Module, dtype: torch.dtype, device: str) -> Any:
    """`net` itself with its weights in `dtype`, in channels-last order, without gradients."""
    net.requires_grad_(False).eval()
    net.to(device=device, dtype=dtype)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compiled(
    function: Any, mode: str, *, frozen: bool, device: str, whole: bool = True
) -> Callable[..., Any]:
    """`torch.compile` with static shapes; compiled at the first call.

    Args:
        function: a module or a function of tensors.
        mode: "default" or "max-autotune".
        frozen: constant weights are folded and packed on a CPU.
        device: "cpu" or "cuda".
        whole: refuses graph breaks.
    """
    config: Any = importlib.import_module("torch._inductor.config")
    options: dict[str, Any] = {"autotune_num_choices_displayed": 0}
    if frozen and device == "cpu":
        options["freezing"] = True
    options = {name: value for name, value in options.items() if hasattr(config, name)}
    optimised = torch.compile(
        function, mode=None if mode == "default" else mode, fullgraph=whole, dynamic=False
    )

    def call(*args: Any, **kwargs: Any) -> Any:
        if not started:
            with config.patch(options):
                result = optimised(*args, **kwargs)
            started.append(True)
            return result
        return optimised(*args, **kwargs)

    started: list[bool] = []
    return plainly(call)


def pool(device: str) -> GraphPool | None:
    """Ours: a pool of CUDA graphs; None on a CPU."""
    return GraphPool() if device == "cuda" else None


def ours(build: Callable[[], Ready]) -> Arm:
    """The arm of this package."""
    return Arm("ours", build, OURS)
