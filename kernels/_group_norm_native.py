"""The group norm of csrc/, registered with torch as `ctm_fast::group_norm`, with its gradient."""

from typing import Any

import torch

from . import _native
from ._group_norm_op import (
    Factor,
    Tensor,
    nothing,
    register,
    rounded_sums,
    statistics,
    unwritten_sums,
)
from ._join_native import native_join


def is_channels_last(x: Tensor) -> bool:
    """Whether csrc/ reads x as (batch, pixels, channels); where both fit, the longer rows win."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return not x.is_contiguous() or x.shape[1] > x.shape[2] * x.shape[3]


def _in_layout_of(x: Tensor, other: Factor) -> Factor:
    """`other` as csrc/ reads x; no copy if it lies so already."""
    if other is None:
        return None
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return other.contiguous(memory_format=layout)


def _call(
    name: str,
    x: Tensor,
    factors: tuple[Tensor, Tensor, Factor, Factor, Factor],
    num_groups: int,
    act: bool,
    residual_scale: float,
    *rest: Any,
) -> None:
    """One call of csrc/ on weight, bias, scale, shift and pre; `rest` follows."""
    # Named here so that what .contiguous() may have made outlives the call.
    rows = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in factors]
    batch, channels, height, width = x.shape
    getattr(_native.module, name)(
        (
            x.data_ptr(),
            *(
                (0, 0, 0)
                if t is None
                else (t.data_ptr(), t.stride(0) if t.ndim == 2 else 0, _native.DTYPES[t.dtype])
                for t in rows
            ),
            (batch, channels, height * width, num_groups),
            *(_native.DTYPES[x.dtype], is_channels_last(x), act, residual_scale),
        ),
        *(t.data_ptr() if isinstance(t, Tensor) else 0 if t is None else t for t in rest),
        torch.get_num_threads(),
    )


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Factor,
    shift: Factor,
    pre: Factor,
    residual: Factor,
    num_groups: int,
    eps: float,
    residual_scale: float,
    act: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    summed = nothing(x) if residual is None else torch.empty_like(x)
    mean, rstd = statistics(x, num_groups)
    if x.numel() == 0:
        return y, summed, mean.zero_(), rstd.zero_()
    rest = (_in_layout_of(x, residual), summed, y, mean, rstd)
    factors = (weight, bias, scale, shift, pre)
    _call("group_norm", x, factors, num_groups, act, residual_scale, eps, *rest)
    return y, summed, mean, rstd


def _backward(
    dy: Tensor,
    dsummed: Factor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Factor,
    shift: Factor,
    pre: Factor,
    mean: Tensor,
    rstd: Tensor,
    num_groups: int,
    residual_scale: float,
    act: bool,
) -> tuple[Tensor, ...]:
    factors = (weight, bias, scale, shift, pre)
    dx = torch.empty_like(x)
    sums = unwritten_sums(x, factors)
    if x.numel() == 0:
        for t in sums:
            if t is not None:
                t.zero_()
    else:
        rest = (_in_layout_of(x, dy), _in_layout_of(x, dsummed), mean, rstd, dx, *sums)
        _call("group_norm_backward", x, factors, num_groups, act, residual_scale, *rest)
    return dx, *rounded_sums(x, factors, sums)


native_group_norm, registered = register("group_norm", _forward, _backward, native_join, ["CPU"])
