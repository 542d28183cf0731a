"""The join as one Triton kernel, registered with torch as `ctm_fast::join_triton`."""

# Triton reads the types of a kernel's parameters off its arguments.
# mypy: allow-untyped-defs, check-untyped-defs

from functools import lru_cache
from typing import Any

import torch

from ._join_op import Image, Tensor, joins, new_joined, register
from ._triton import INTERPRETED, Config, config, launch, tl, triton

BLOCK = 1024  # elements of one program: eight per thread are a 128-bit load of 16-bit values


@triton.jit
def _place(i_p, WIDTH: tl.constexpr, OTHER: tl.constexpr, BLOCK: tl.constexpr):
    """Of a program's elements in images with rows of WIDTH: where they lie, how far the rows of
    OTHER elements that are put between these move them."""
    first = i_p.to(tl.int64) * BLOCK
    i_row = first // WIDTH
    # The division of each element has 32 bits, and a constant divisor.
    o_l = tl.arange(0, BLOCK)
    o_row = ((first - i_row * WIDTH).to(tl.int32) + o_l) // WIDTH
    return first + o_l, i_row * OTHER + o_row * OTHER


@triton.jit
def join_rows(
    x,
    residual,
    tail,
    joined,
    rows,
    residual_scale,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows of residual_scale (x + residual), HEAD wide, each followed by one of tail's, TAIL wide.

    The programs of x come first. Channels-last, a row is a pixel's channels; else a sample's.
    """
    i_p = tl.program_id(0)
    size = rows.to(tl.int64) * HEAD
    pieces = tl.cdiv(size, BLOCK)
    if i_p < pieces:
        o_x, moved = _place(i_p, HEAD, TAIL, BLOCK)
        m_x = o_x < size
        b_x = tl.load(x + o_x, mask=m_x)
        if residual is not None:
            b_sum = b_x.to(tl.float32) + tl.load(residual + o_x, mask=m_x).to(tl.float32)
            b_x = (b_sum * residual_scale).to(b_x.dtype)
        tl.store(joined + o_x + moved, b_x, mask=m_x)
    elif tail is not None:
        o_t, moved = _place(i_p - pieces, TAIL, HEAD, BLOCK)
        m_t = o_t < rows.to(tl.int64) * TAIL
        tl.store(joined + HEAD + o_t + moved, tl.load(tail + o_t, mask=m_t), mask=m_t)


@lru_cache(maxsize=256)
def _plan(head: int, tail: int, itemsize: int) -> Config:
    warps = BLOCK * itemsize // (16 * 32)
    return config(num_warps=min(warps, 4), HEAD=head, TAIL=tail, BLOCK=BLOCK)


def _forward(x: Tensor, tail: Image, residual: Image, residual_scale: float) -> Tensor:
    joined = new_joined(x, tail)
    if joined.numel() == 0:
        return joined
    last = not joined.is_contiguous()
    batch, channels, height, width = joined.shape
    rows, size = (batch * height * width, 1) if last else (batch, height * width)
    head, rest = x.shape[1] * size, (channels - x.shape[1]) * size
    images = [None if t is None else _in_order(t, last) for t in (x, residual, tail)]
    grid = (-(-rows * head // BLOCK) + -(-rows * rest // BLOCK),)
    args = (*images, joined, rows, residual_scale)
    launch(join_rows, grid, args, _plan(head, rest, x.element_size()))
    return joined


def _in_order(t: Tensor, last: bool) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def launch_join(*args: Any, **kwargs: Any) -> Tensor:
    """`triton_join` without torch.library."""
    return _forward(*joins(*args, **kwargs))


def launches(*args: Any, **kwargs: Any) -> None:
    """What `triton_join` launches."""
    launch_join(*args, **kwargs)


triton_join, registered = register(
    "join_triton", _forward, ["CUDA", "CPU"] if INTERPRETED else ["CUDA"]
)
