"""The Triton group norm, registered with torch as `ctm_fast::group_norm_triton`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ._group_norm_backward import group_norm_backward, group_norm_over_batch
from ._group_norm_forward import group_norm_forward
from ._group_norm_native import is_channels_last
from ._group_norm_op import Factor, Tensor, inputs_of, nothing, register, statistics
from ._group_norm_plan import Shape, power_of_two, tiling, windows
from ._group_norm_split import (
    group_norm_apply,
    group_norm_moments,
    group_norm_spread,
    group_norm_sums,
)
from ._join_triton import launch_join, triton_join
from ._triton import INTERPRETED, Config, config, launch

DEEPEST = 4096
"""Most channels of a group."""

BATCH_COLUMNS = 16  # channels of a program that adds up over the batch


@dataclass(frozen=True)
class Plan:
    """What is launched for one shape."""

    blocks: int  # programs side by side in one sample's channels
    spans: int  # programs side by side in its pixels
    first: Config
    second: Config | None  # None: the first launch does everything


@cache
def plan(
    channels: int,
    groups: int,
    pixels: int,
    batch: int,
    itemsize: int,
    last: bool,
    act: bool,
    backward: bool,
) -> Plan:
    """Grids and configurations that compute one shape; see `Shape`."""
    shape = Shape(channels, groups, pixels, batch, itemsize, last)
    cut, split = tiling(shape, backward)
    blocks, spans = -(-channels // cut.width), -(-pixels // cut.span)
    sizes = dict(C=channels, G=groups, L=pixels, LAST=last, ACT=act)
    tile = dict(BLOCK_C=cut.block_c, BLOCK_L=cut.block_l)
    if not split:
        tile |= dict(BLOCK_G=power_of_two(cut.width // shape.depth), UNROLL=cut.unroll)
        only = config(num_warps=cut.warps, **sizes, WIDTH=cut.width, **tile)
        return Plan(blocks, spans, only, None)
    window, touched = windows(channels, groups, cut.width)
    over_spans = dict(BLOCK_S=power_of_two(spans), BLOCK_W=window, BLOCK_G=touched)
    second = config(num_warps=cut.warps, **sizes, SPAN=cut.span, **tile, **over_spans)
    if not backward:
        del sizes["G"], sizes["ACT"]
    first = config(num_warps=cut.warps, **sizes, SPAN=cut.span, **tile, UNROLL=cut.unroll)
    return Plan(blocks, spans, first, second)


@cache
def _over_batch(channels: int, kinds: int, spans: int) -> Config:
    return config(
        num_warps=4, C=channels, KINDS=kinds, SPANS=spans, BLOCK_R=128, BLOCK_C=BATCH_COLUMNS
    )


def _plan(x: Tensor, num_groups: int, last: bool, act: bool, backward: bool) -> Plan:
    batch, channels, height, width = x.shape
    pixels = height * width
    return plan(channels, num_groups, pixels, batch, x.element_size(), last, act, backward)


def _rows(factors: Sequence[Factor]) -> list[Factor]:
    """The factors with neighbouring values of a row side by side."""
    return [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in factors]


def _strides(factors: Sequence[Factor]) -> list[int]:
    """Distances between the rows of scale, shift and pre."""
    return [0 if t is None else t.stride(0) for t in factors[2:]]


def _like(last: bool, tensor: Factor) -> Factor:
    """The tensor in x's memory order."""
    if tensor is None:
        return None
    layout = torch.channels_last if last else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


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
    last = is_channels_last(x)
    residual = _like(last, residual)
    target = None if residual is None else summed
    factors = _rows((weight, bias, scale, shift, pre))
    strides = _strides(factors)
    cut = _plan(x, num_groups, last, act, False)
    grid = (x.shape[0] * cut.spans * cut.blocks,)
    args: tuple[Any, ...]
    if cut.second is None:
        args = (x, residual, *factors, y, target, mean, rstd, *strides, eps, residual_scale)
        launch(group_norm_forward, grid, args, cut.first)
        return y, summed, mean, rstd
    parts = mean.new_empty((x.shape[0], cut.spans, 2, x.shape[1]))
    args = (x, residual, target, parts, residual_scale)
    launch(group_norm_moments, grid, args, cut.first)
    args = (x if target is None else target, parts, *factors, y, mean, rstd, *strides, eps)
    launch(group_norm_apply, grid, args, cut.second)
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
    batch, channels = x.shape[:2]
    factors: Sequence[Factor] = (weight, bias, scale, shift, pre)
    dx = torch.empty_like(x)
    gradients = [None if t is None else t.new_empty(t.shape) for t in factors]
    results = (dx, *(nothing(x) if d is None else d for d in gradients))
    if x.numel() == 0:
        for d in results:
            d.zero_()
        return results
    last = is_channels_last(x)
    dweight, dbias, *drows = gradients
    factors = _rows(factors)
    strides = _strides(factors)
    cut = _plan(x, num_groups, last, act, True)
    kinds = 2 if cut.second is None or pre is None else 3
    parts = mean.new_empty((batch, cut.spans, kinds, channels))
    grid = (batch * cut.spans * cut.blocks,)
    read = (*factors, mean, rstd, parts)
    args: tuple[Any, ...] = (x, _like(last, dy))
    if cut.second is not None:
        launch(group_norm_sums, grid, (*args, *read, *strides), cut.first)
    args = (*args, _like(last, dsummed), *read, dx, *drows, *strides, residual_scale)
    if cut.second is not None:
        launch(group_norm_spread, grid, args, cut.second)
    else:
        launch(group_norm_backward, grid, args, cut.first)
    args = (parts, factors[2], dweight, dbias, strides[0], batch * cut.spans)
    grid = (-(-channels // BATCH_COLUMNS),)
    launch(group_norm_over_batch, grid, args, _over_batch(channels, kinds, cut.spans))
    return results


def launches(*args: Any, **kwargs: Any) -> None:
    """Runs the kernels of one call and of its gradient, without torch.library."""
    inputs, _ = inputs_of(launch_join, *args, **kwargs)
    x, weight, bias, scale, shift, pre, residual, num_groups, _, residual_scale, act = inputs
    y, summed, mean, rstd = _forward(*inputs)
    x, dsummed = (x, None) if residual is None else (summed, summed)
    rest = (mean, rstd, num_groups, residual_scale, act)
    _backward(y, dsummed, x, weight, bias, scale, shift, pre, *rest)


triton_group_norm, registered = register(
    "group_norm_triton",
    _forward,
    _backward,
    triton_join,
    ["CUDA", "CPU"] if INTERPRETED else ["CUDA"],
)
