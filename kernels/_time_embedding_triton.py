"""Triton kernels of the noise-level embedding: two matrix products with all else inside them."""

from functools import lru_cache

import torch

from ._triton import Config, config, launch, tl, triton

Tensor = torch.Tensor
Rows = torch.Tensor | None


@triton.jit
def _sin_cos(x):  # type: ignore[no-untyped-def]
    """Sine and cosine to 1e-7 for |x| <= 1e5, from one reduction and without local memory.

    tl.sin and tl.cos reduce twice and keep an array for arguments that do not occur here.
    """
    # 2 / pi and pi / 2 in three parts, whose products with the quotient are exact without FMA.
    b_quotient = tl.floor(x * 0.6366197723675814 + 0.5)
    b_rest = x - b_quotient * 1.5703125
    b_rest = b_rest - b_quotient * 4.825592041015625e-4
    b_rest = b_rest - b_quotient * 1.2675908465098473e-6
    b_square = b_rest * b_rest
    # Smallest largest error for |rest| <= pi / 4, by Remez' algorithm.
    b_sin = -0.16666655242443085 + b_square * (0.00833217613399029 - b_square * 1.9516977772582e-4)
    b_sin = b_rest + b_rest * b_square * b_sin
    b_cos = 0.04166664555668831 + b_square * (-0.001388736418448388 + b_square * 2.443809171382e-5)
    b_cos = 1.0 - 0.5 * b_square + b_square * b_square * b_cos
    b_turn = b_quotient.to(tl.int32)
    m_swap = (b_turn & 1) != 0
    b_first = tl.where(m_swap, b_cos, b_sin)
    b_second = tl.where(m_swap, b_sin, b_cos)
    b_first = tl.where((b_turn & 2) != 0, -b_first, b_first)
    b_second = tl.where(((b_turn + 1) & 2) != 0, -b_second, b_second)
    return b_first, b_second


@triton.jit
def _silu(x):  # type: ignore[no-untyped-def]
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _first_layer(  # type: ignore[no-untyped-def]
    c_noise,  # (batch or 1,)
    frequencies,  # (K / 2,)
    before,  # (batch or 1, K), rows s_before apart, or None
    weight,  # (E, K)
    bias,  # (E,)
    rows,  # (batch, K): what goes into the layer
    saved,  # (2, batch, E), of which the first is what comes out of it
    batch,
    s_noise,
    s_before,
    K: tl.constexpr,
    E: tl.constexpr,
    SIN_FIRST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    HALF: tl.constexpr = K // 2
    i_e = tl.program_id(1)
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    o_e = i_e * BLOCK_E + tl.arange(0, BLOCK_E)
    m_b, m_e = o_b < batch, o_e < E
    o_b = o_b.to(tl.int64)
    b_noise = tl.load(c_noise + o_b * s_noise, mask=m_b, other=0.0).to(tl.float32)
    b_out = tl.zeros((BLOCK_B, BLOCK_E), dtype=tl.float32)
    for i_k in range(0, HALF, BLOCK_K):
        o_k = i_k + tl.arange(0, BLOCK_K)
        m_k = o_k < HALF
        m_row, m_weight = m_b[:, None] & m_k[None, :], m_e[:, None] & m_k[None, :]
        b_frequency = tl.load(frequencies + o_k, mask=m_k, other=0.0).to(tl.float32)
        if SIN_FIRST:
            b_first, b_second = _sin_cos(b_noise[:, None] * b_frequency[None, :])
        else:
            b_second, b_first = _sin_cos(b_noise[:, None] * b_frequency[None, :])
        if before is not None:
            p_before = before + o_b[:, None] * s_before + o_k[None, :]
            b_first += tl.load(p_before, mask=m_row, other=0.0).to(tl.float32)
            b_second += tl.load(p_before + HALF, mask=m_row, other=0.0).to(tl.float32)
        b_first = b_first.to(rows.dtype.element_ty)
        b_second = b_second.to(rows.dtype.element_ty)
        if i_e == 0:
            p_rows = rows + o_b[:, None] * K + o_k[None, :]
            tl.store(p_rows, b_first, mask=m_row)
            tl.store(p_rows + HALF, b_second, mask=m_row)
        p_weight = weight + o_e[:, None] * K + o_k[None, :]
        b_weight = tl.load(p_weight, mask=m_weight, other=0.0).to(b_first.dtype)
        b_out = tl.dot(b_first, tl.trans(b_weight), b_out, input_precision="ieee")
        b_weight = tl.load(p_weight + HALF, mask=m_weight, other=0.0).to(b_first.dtype)
        b_out = tl.dot(b_second, tl.trans(b_weight), b_out, input_precision="ieee")
    b_out += tl.load(bias + o_e, mask=m_e, other=0.0).to(tl.float32)[None, :]
    p_out = saved + o_b[:, None] * E + o_e[None, :]
    tl.store(p_out, b_out.to(saved.dtype.element_ty), mask=m_b[:, None] & m_e[None, :])


@triton.jit
def _second_layer(  # type: ignore[no-untyped-def]
    saved,  # (2, batch, E): what came out of the first layer, and what SiLU is applied to here
    weight,  # (E, E)
    bias,  # (E,)
    after,  # (batch or 1, E), rows s_after apart, or None
    out,  # (batch, E)
    batch,
    s_after,
    E: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    o_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    m_b, m_e = o_b < batch, o_e < E
    o_second = (o_b + batch).to(tl.int64)
    o_b = o_b.to(tl.int64)
    m_out = m_b[:, None] & m_e[None, :]
    b_out = tl.zeros((BLOCK_B, BLOCK_E), dtype=tl.float32)
    for i_k in range(0, E, BLOCK_K):
        o_k = i_k + tl.arange(0, BLOCK_K)
        m_k = o_k < E
        p_in = saved + o_b[:, None] * E + o_k[None, :]
        b_in = tl.load(p_in, mask=m_b[:, None] & m_k[None, :], other=0.0)
        b_in = _silu(b_in.to(tl.float32)).to(saved.dtype.element_ty)
        p_weight = weight + o_e[:, None] * E + o_k[None, :]
        b_weight = tl.load(p_weight, mask=m_e[:, None] & m_k[None, :], other=0.0).to(b_in.dtype)
        b_out = tl.dot(b_in, tl.trans(b_weight), b_out, input_precision="ieee")
    b_out += tl.load(bias + o_e, mask=m_e, other=0.0).to(tl.float32)[None, :]
    if after is not None:
        p_after = after + o_b[:, None] * s_after + o_e[None, :]
        b_out += tl.load(p_after, mask=m_out, other=0.0).to(tl.float32)
    p_sum = saved + o_second[:, None] * E + o_e[None, :]
    tl.store(p_sum, b_out.to(saved.dtype.element_ty), mask=m_out)
    p_out = out + o_b[:, None] * E + o_e[None, :]
    tl.store(p_out, _silu(b_out).to(out.dtype.element_ty), mask=m_out)


@lru_cache
def _configs(
    many: int, half: bool, K: int, E: int, sin_first: bool
) -> tuple[int, int, Config, Config]:
    """Rows of a tile, tiles side by side, and both kernels' configurations.

    `many` is 0, 1 or 2 for up to 16, up to 64 and more rows.
    """
    # Few rows: time is that of reading the weights, so as many programs as possible do it.
    block_b, block_e = ((16, 16), (32, 32), (64, 64) if half else (32, 32))[many]
    widest = 64 if half else 32
    inner = next(b for b in (64, 32, 16) if b <= widest and (K // 2 % b == 0 or b == 16))
    outer = next(b for b in (128, 64, 32, 16) if b <= widest * 2 and (E % b == 0 or b == 16))
    block = {"BLOCK_B": block_b, "BLOCK_E": block_e}
    # No more threads than there are loads of 16 bytes.
    warps = min(4, block_e * inner * (2 if half else 4) // 512)
    constants = {"K": K, "E": E, "SIN_FIRST": sin_first, **block, "BLOCK_K": inner}
    first = config(num_warps=warps, num_stages=2, **constants)
    second = config(num_warps=4, num_stages=3, E=E, **block, BLOCK_K=outer)
    return block_b, -(-E // block_e), first, second


def _batch(*rows: Rows) -> int:
    """Rows of the result: those of the arguments that have not one row."""
    sizes = [t.shape[0] for t in rows if t is not None]
    return next((size for size in sizes if size != 1), 1)


def unwritten(
    c_noise: Tensor, weight0: Tensor, before: Rows, after: Rows, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, E) result, (batch, K) rows and (2, batch, E) sums of the two layers."""
    E, K = weight0.shape
    batch = _batch(c_noise, before, after)
    y = torch.empty((batch, E), dtype=dtype, device=weight0.device)
    return y, y.new_empty((batch, K)), y.new_empty((2, batch, E))


def forward(
    c_noise: Tensor,
    frequencies: Tensor,
    weight0: Tensor,
    bias0: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    before: Rows,
    after: Rows,
    sin_first: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Result, what goes into the first layer, and both layers' sums: see `unwritten`."""
    y, rows, saved = unwritten(c_noise, weight0, before, after, dtype)
    batch, E = y.shape
    if batch == 0:
        return y, rows, saved
    many = 0 if batch <= 16 else 1 if batch <= 64 else 2
    half, K = dtype.itemsize == 2, rows.shape[1]
    block_b, columns, first, second = _configs(many, half, K, E, sin_first)
    grid = -(-batch // block_b), columns
    frequencies, weight0, bias0 = frequencies.contiguous(), weight0.contiguous(), bias0.contiguous()
    weight1, bias1 = weight1.contiguous(), bias1.contiguous()
    step = 0 if c_noise.shape[0] == 1 else c_noise.stride(0)
    (before, s_before), (after, s_after) = _addressed(before), _addressed(after)
    args = c_noise, frequencies, before, weight0, bias0, rows, saved, batch, step, s_before
    launch(_first_layer, grid, args, first)
    launch(_second_layer, grid, (saved, weight1, bias1, after, y, batch, s_after), second)
    return y, rows, saved


def _addressed(rows: Rows) -> tuple[Rows, int]:
    """Rows whose values lie side by side, and how far apart they are; (None, 0) for None."""
    if rows is None:
        return None, 0
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    return rows, 0 if rows.shape[0] == 1 else rows.stride(0)
