"""Other implementations of the ops: SDPA backends, `torch.compile`, apex and Liger."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ctm_fast.kernels import Op

from .eager import Factor, eager, group_norm

Tensor = torch.Tensor
Call = Callable[..., Any]

SDPA = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
APEX, LIGER = "apex.contrib.group_norm", "liger_kernel.ops.group_norm"
RIVALS = ("eager", "compile", "compile-max-autotune", *SDPA, "apex", "liger")
"""Names of all of them."""


class Unsupported(RuntimeError):
    """A rival cannot run this call, or is not installed; the message says why."""


def rivals(op: Op, device: str, compiled: bool) -> Iterator[tuple[str, Call]]:
    """Name and function of every rival of an op; calling one may raise `Unsupported`.

    Args:
        op: the op; the functions take its arguments.
        device: "cpu" or "cuda".
        compiled: whether `torch.compile` of the plain formulation takes part.
    """
    formulation = eager(op)
    yield "eager", formulation
    if compiled:
        yield "compile", torch.compile(formulation, fullgraph=True, dynamic=False)
    if device != "cuda":
        return
    if compiled:
        # Without CUDA graphs: their results live in static memory, and every variant here
        # allocates its own.
        mode = "max-autotune-no-cudagraphs"
        yield (
            "compile-max-autotune",
            torch.compile(formulation, fullgraph=True, dynamic=False, mode=mode),
        )
    if op.name == "attention":
        for name, backend in SDPA.items():
            yield name, only(backend, formulation)
    if op.name == "group_norm":
        yield "apex", ApexGroupNorm()
        yield "liger", liger_group_norm


def only(backend: SDPBackend, call: Call) -> Call:
    """`call` with this backend of `F.scaled_dot_product_attention` and no other."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(backend):
            return call(*args, **kwargs)

    return limited


class ApexGroupNorm:
    """`group_norm` by NVIDIA apex: norm and SiLU fused, everything else in plain PyTorch."""

    def __init__(self) -> None:
        self._module: Any = None

    def __call__(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float = 1e-5,
        scale: Factor = None,
        shift: Factor = None,
        pre: Factor = None,
        act: bool = False,
        **kwargs: Any,
    ) -> Any:
        fused = act and scale is None and shift is None
        if self._module is None:
            self._module = self._built(x, num_groups, weight, eps, fused)

        def norm(h: Tensor, groups: int, w: Tensor, b: Tensor, eps: float) -> Tensor:
            self._module.weight, self._module.bias = w, b
            return self._module(h)

        rest = (scale, shift, pre, act and not fused)
        return group_norm(x, num_groups, weight, bias, eps, *rest, norm=norm, **kwargs)

    @staticmethod
    def _built(x: Tensor, groups: int, weight: Tensor, eps: float, fused: bool) -> Any:
        kind = _imported(APEX).GroupNorm
        if groups not in kind.SUPPORTED_GROUPS or x.shape[1] not in kind.SUPPORTED_CHANNELS:
            raise Unsupported(f"apex has no {x.shape[1]} channels in {groups} groups")
        if not x.is_contiguous(memory_format=torch.channels_last):
            raise Unsupported("apex needs channels-last images")
        act = "silu" if fused else ""
        module = kind(groups, x.shape[1], eps, device=x.device, dtype=x.dtype, act=act)
        # Plain attributes, so that the gradients are those of the tensors of the call.
        del module.weight, module.bias
        return module


def liger_group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    scale: Factor = None,
    shift: Factor = None,
    pre: Factor = None,
    act: bool = False,
    **kwargs: Any,
) -> Any:
    """`group_norm` by Liger's kernels, everything but the norm in plain PyTorch."""
    function = _imported(LIGER).LigerGroupNormFunction
    if not x.is_contiguous():
        raise Unsupported("Liger needs contiguous images")

    def norm(h: Tensor, groups: int, w: Tensor, b: Tensor, eps: float) -> Tensor:
        # Its backward takes the last dimension for all pixels.
        pixels = h.flatten(2)
        return function.apply(pixels, w, b, h.shape[1], groups, eps).view_as(h)

    rest = (scale, shift, pre, act)
    return group_norm(x, num_groups, weight, bias, eps, *rest, norm=norm, **kwargs)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(f"{name} cannot be imported ({error})") from error
