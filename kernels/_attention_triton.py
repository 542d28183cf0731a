"""Attention by Triton, forward and backward, straight from packed queries, keys and values.

A program of the forward kernel owns a block of queries and passes over the keys with a running
maximum (Source: Milakov and Gimelshein 2018, arXiv:1805.02867). A program of the backward kernel
owns one head: its queries and their gradients stay on the chip while it passes over the keys, so
that everything is read once and written once, and nothing is added up between programs.
"""

# mypy: allow-untyped-defs

from functools import lru_cache

import torch

from ._triton import Config, config, launch, tl, triton

Tensor = torch.Tensor

LAYOUTS = {"adm": (0, 1, 2), "adm-legacy": (1, 0, 2), "edm": (1, 2, 0)}
"""Orders of the channels, slowest first: 0 is {q, k, v}, 1 the head, 2 the width of a head."""

WIDEST = {
    2: {16: 256, 32: 256, 64: 256, 128: 64, 256: 64},
    4: {16: 128, 32: 64, 64: 64, 128: 32, 256: 16},
}
"""Widest head by bytes of a number and number of pixels, all rounded up as by `padded`: what the
backward kernel holds on one multiprocessor of compute capability 8.0 or 9.0 without spills."""

PROGRAMS = 256  # about two for every multiprocessor of an A100 or H100


@triton.jit
def _load(p_b, m_b, FULL: tl.constexpr):
    """Block of a head, zero where the mask is off; a FULL block lies inside the head."""
    if FULL:
        b = tl.load(p_b)
    else:
        b = tl.load(p_b, mask=m_b, other=0.0)
    return b


@triton.jit
def _store(p_b, b, m_b, FULL: tl.constexpr):
    """Rounds and writes what `_load` would read."""
    b_rounded = b.to(p_b.dtype.element_ty)
    if FULL:
        tl.store(p_b, b_rounded)
    else:
        tl.store(p_b, b_rounded, mask=m_b)


@triton.jit
def _forward_kernel(
    qkv,
    out,
    lse,
    L: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    LAST: tl.constexpr,
    PART: tl.constexpr,
    HEAD: tl.constexpr,
    WIDTH: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """Output of BQ queries of one head, and the base-2 logarithm of their sums of exponentials."""
    SCALE: tl.constexpr = D**-0.5 * 1.4426950408889634
    CHANNEL: tl.constexpr = 1 if LAST else L
    PIXEL: tl.constexpr = 3 * H * D if LAST else 1
    OUT_PIXEL: tl.constexpr = H * D if LAST else 1
    BLOCKS: tl.constexpr = (L + BQ - 1) // BQ
    FULL_Q: tl.constexpr = L % BQ == 0 and D == BD
    FULL_K: tl.constexpr = L % BK == 0 and D == BD
    i_nh = tl.program_id(0) // BLOCKS
    i_n = (i_nh // H).to(tl.int64)
    i_h = i_nh % H
    o_q = tl.program_id(0) % BLOCKS * BQ + tl.arange(0, BQ)
    o_d = tl.arange(0, BD)
    m_q = (o_q[:, None] < L) & (o_d[None, :] < D)
    o_width = o_d[None, :] * (WIDTH * CHANNEL)
    p_q = qkv + i_n * (3 * H * D * L) + i_h * (HEAD * CHANNEL)
    p_k = p_q + PART * CHANNEL
    p_v = p_k + PART * CHANNEL
    b_q = _load(p_q + (o_q[:, None] * PIXEL + o_width), m_q, FULL_Q)
    b_top = tl.full((BQ,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BQ,), tl.float32)
    b_out = tl.zeros((BQ, BD), tl.float32)
    for start in range(0, L, BK):
        o_k = start + tl.arange(0, BK)
        o_kd = o_k[:, None] * PIXEL + o_width
        m_k = (o_k[:, None] < L) & (o_d[None, :] < D)
        b_k = _load(p_k + o_kd, m_k, FULL_K)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * SCALE
        if L % BK:
            b_s = tl.where(o_k[None, :] < L, b_s, float("-inf"))
        b_new = tl.maximum(b_top, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_new[:, None])
        b_shrink = tl.exp2(b_top - b_new)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
        b_v = _load(p_v + o_kd, m_k, FULL_K)
        b_out *= b_shrink[:, None]
        b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision="ieee")
        b_top = b_new
    p_out = out + i_n * (H * D * L) + i_h * (D * CHANNEL)
    p_out += o_q[:, None] * OUT_PIXEL + o_d[None, :] * CHANNEL
    _store(p_out, b_out / b_sum[:, None], m_q, FULL_Q)
    tl.store(lse + i_nh.to(tl.int64) * L + o_q, b_top + tl.log2(b_sum), mask=o_q < L)


@triton.jit
def _backward_kernel(
    dout,
    qkv,
    out,
    lse,
    dqkv,
    L: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    LAST: tl.constexpr,
    PART: tl.constexpr,
    HEAD: tl.constexpr,
    WIDTH: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """Gradients of the queries, keys and values of one head, which BQ >= L holds as a whole."""
    SCALE: tl.constexpr = D**-0.5
    CHANNEL: tl.constexpr = 1 if LAST else L
    PIXEL: tl.constexpr = 3 * H * D if LAST else 1
    OUT_PIXEL: tl.constexpr = H * D if LAST else 1
    FULL_Q: tl.constexpr = L == BQ and D == BD
    FULL_K: tl.constexpr = L % BK == 0 and D == BD
    i_n = (tl.program_id(0) // H).to(tl.int64)
    i_h = tl.program_id(0) % H
    o_q = tl.arange(0, BQ)
    o_d = tl.arange(0, BD)
    m_q = (o_q[:, None] < L) & (o_d[None, :] < D)
    o_width = o_d[None, :] * (WIDTH * CHANNEL)
    o_out = o_q[:, None] * OUT_PIXEL + o_d[None, :] * CHANNEL
    o_out += i_n * (H * D * L) + i_h * (D * CHANNEL)
    b_dout = _load(dout + o_out, m_q, FULL_Q)
    if BK < L:
        b_out = _load(out + o_out, m_q, FULL_Q)
        b_mean = tl.sum(b_dout.to(tl.float32) * b_out.to(tl.float32), 1)
    o_head = i_n * (3 * H * D * L) + i_h * (HEAD * CHANNEL)
    o_qd = o_head + (o_q[:, None] * PIXEL + o_width)
    b_q = _load(qkv + o_qd, m_q, FULL_Q)
    p_lse = lse + tl.program_id(0).to(tl.int64) * L + o_q
    b_lse = tl.load(p_lse, mask=o_q < L, other=float("inf"))
    b_dq = tl.zeros((BQ, BD), tl.float32)
    # Hoisted out of the loop, the operands of the products would fill the registers.
    for start in tl.range(0, L, BK, disable_licm=True):
        o_k = start + tl.arange(0, BK)
        o_kd = o_head + PART * CHANNEL + (o_k[:, None] * PIXEL + o_width)
        o_vd = o_kd + PART * CHANNEL
        m_k = (o_k[:, None] < L) & (o_d[None, :] < D)
        b_k = _load(qkv + o_kd, m_k, FULL_K)
        b_v = _load(qkv + o_vd, m_k, FULL_K)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * (SCALE * 1.4426950408889634)
        b_p = tl.exp2(b_s - b_lse[:, None])
        if L % BK:
            b_p = tl.where(o_k[None, :] < L, b_p, 0.0)
        b_dv = tl.dot(tl.trans(b_p.to(b_dout.dtype)), b_dout, input_precision="ieee")
        _store(dqkv + o_vd, b_dv, m_k, FULL_K)
        b_dp = tl.dot(b_dout, tl.trans(b_v), input_precision="ieee")
        if BK >= L:
            b_mean = tl.sum(b_p * b_dp, 1)
        b_ds = (b_p * (b_dp - b_mean[:, None])).to(b_q.dtype)
        b_dk = tl.dot(tl.trans(b_ds), b_q, input_precision="ieee") * SCALE
        _store(dqkv + o_kd, b_dk, m_k, FULL_K)
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision="ieee")
    _store(dqkv + o_qd, b_dq * SCALE, m_q, FULL_Q)


def padded(size: int) -> int:
    """Size of the block that holds `size` numbers: the next power of two, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def fits(pixels: int, width: int, dtype: torch.dtype) -> bool:
    """Whether one program can hold a head of `width` channels over `pixels` pixels."""
    return padded(width) <= WIDEST[dtype.itemsize].get(padded(pixels), 0)


@lru_cache(maxsize=256)
def _plan(
    dtype: torch.dtype, pixels: int, heads: int, width: int, layout: str, last: bool, total: int
) -> tuple[int, Config, Config]:
    """Query blocks of a head, and how to compile both kernels; the batch has `total` heads."""
    rows, columns, wide = padded(pixels), padded(width), dtype.itemsize == 4
    sizes, strides, step = (3, heads, width), [0, 0, 0], 1
    for axis in reversed(LAYOUTS[layout]):
        strides[axis] = step
        step *= sizes[axis]
    shape = dict(L=pixels, H=heads, D=width, LAST=last)
    shape |= dict(PART=strides[0], HEAD=strides[1], WIDTH=strides[2])

    queries, keys = min(rows, 32 if wide else 128), min(rows, 16 if wide else 64)
    while queries > 16 and total * -(-pixels // queries) < PROGRAMS:
        queries //= 2
    warps = 8 if queries == 128 or queries * columns > 8192 else 4
    blocks = dict(BQ=queries, BK=keys, BD=columns)
    forward = config(num_warps=warps, num_stages=2, **shape, **blocks)

    if rows == 256 and not wide:
        keys = 32 if last and pixels == rows else 16
    warps = 8 if wide or rows * columns > 4096 else 4
    backward = config(num_warps=warps, **shape, BQ=rows, BK=keys, BD=columns)
    return -(-pixels // queries), forward, backward


def memory_format(qkv: Tensor) -> torch.memory_format:
    """Order in memory of the results: channels-last where qkv's channels lie side by side."""
    # Of a single pixel only the strides tell; contiguous tensors have a last stride of 1.
    last = qkv.stride(1) == 1 and qkv.stride(3) != 1
    return torch.channels_last if last else torch.contiguous_format


def _prepared(qkv: Tensor, num_heads: int, layout: str) -> tuple[int, tuple[int, Config, Config]]:
    """Number of heads in the batch, and the plan."""
    batch, channels, height, width = qkv.shape
    total = batch * num_heads
    last = memory_format(qkv) == torch.channels_last
    sizes = (height * width, num_heads, channels // (3 * num_heads))
    return total, _plan(qkv.dtype, *sizes, layout, last, 1 << (total.bit_length() - 1))


def results(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Memory for what `forward` returns."""
    batch, channels, height, width = qkv.shape
    shape = (batch, channels // 3, height, width)
    out = torch.empty(shape, dtype=qkv.dtype, device=qkv.device, memory_format=memory_format(qkv))
    rows = (batch, num_heads, height * width)
    return out, torch.empty(rows, dtype=torch.float32, device=qkv.device)


def forward(qkv: Tensor, num_heads: int, layout: str) -> tuple[Tensor, Tensor]:
    """Output, and (batch, heads, pixels) base-2 logarithms of the sums of exponentials."""
    out, lse = results(qkv, num_heads)
    if qkv.numel() > 0:
        dense = qkv.contiguous(memory_format=memory_format(qkv))
        total, (blocks, settings, _) = _prepared(qkv, num_heads, layout)
        launch(_forward_kernel, (total * blocks,), (dense, out, lse), settings)
    return out, lse


def backward(
    dout: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int, layout: str
) -> Tensor:
    """Gradient of qkv from that of the output."""
    order = memory_format(qkv)
    dqkv = torch.empty_like(qkv, memory_format=order)
    if qkv.numel() > 0:
        dout, qkv, out = (t.contiguous(memory_format=order) for t in (dout, qkv, out))
        total, (_, _, settings) = _prepared(qkv, num_heads, layout)
        launch(_backward_kernel, (total,), (dout, qkv, out, lse, dqkv), settings)
    return dqkv
