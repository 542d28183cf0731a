"""Triton kernel of the group norm, forward, in one launch.

A mean is kept as two numbers, itself and the rest that rounding took from it: where it is large
against the standard deviation, that rest matters. Squares are of deviations from a mean.
"""

# mypy: allow-untyped-defs, check-untyped-defs

from ._group_norm_tiles import (
    group_means,
    members,
    offsets,
    over_pixels,
    row,
    sigmoid,
    tile_sums,
    to_channels,
)
from ._triton import tl, triton


@triton.jit
def load(x, residual, residual_scale, o_x, m_x, POLICY):
    """What is normalised, in x's dtype."""
    b_x = tl.load(x + o_x, mask=m_x, other=0.0, eviction_policy=POLICY)
    if residual is not None:
        b_r = tl.load(residual + o_x, mask=m_x, other=0.0)
        b_x = ((b_x.to(tl.float32) + b_r.to(tl.float32)) * residual_scale).to(b_x.dtype)
    return b_x


@triton.jit
def streamed(x, residual, summed, residual_scale, begin, o_c, m_c, C, L, LAST, SPAN, ROWS, UNROLL):
    """(BLOCK_C,) mean, its rest, squared deviations of the pixels [begin, begin + SPAN).

    Each lane adds up every ROWS-th pixel, minus the first of them; then the lanes are merged
    (Source: Chan, Golub and LeVeque 1983, Section 2).
    """
    EVEN: tl.constexpr = L % SPAN == 0 and SPAN % (ROWS * UNROLL) == 0
    LANES: tl.constexpr = (UNROLL, ROWS, o_c.shape[0])
    end = tl.minimum(begin + SPAN, L)
    o_r = begin + tl.arange(0, ROWS)
    o_0 = offsets(o_r, o_c, C, L, LAST)
    m_0 = over_pixels(m_c, o_r, end, False)
    b_0 = load(x, residual, residual_scale, o_0, m_0, "evict_last").to(tl.float32)
    sums = tl.zeros(b_0.shape, tl.float32)
    squares = tl.zeros(b_0.shape, tl.float32)
    o_t = tl.arange(0, ROWS * UNROLL)
    for i_l in range(begin, end, ROWS * UNROLL):
        o_x = offsets(i_l + o_t, o_c, C, L, LAST)
        m_x = over_pixels(m_c, i_l + o_t, end, EVEN)
        b_x = load(x, residual, residual_scale, o_x, m_x, "evict_last")
        if summed is not None:
            tl.store(summed + o_x, b_x, mask=m_x)
        b_d = tl.reshape(b_x.to(tl.float32), LANES) - b_0[None, :, :]
        if not EVEN:
            b_d = tl.where(tl.reshape(m_x, LANES), b_d, 0.0)
        sums += tl.sum(b_d, 0)
        squares += tl.sum(b_d * b_d, 0)
    count = tl.maximum(end - o_r + (ROWS - 1), 0) // ROWS
    count = count.to(tl.float32)[:, None]
    b_m = sums / tl.maximum(count, 1.0)
    squares -= sums * b_m
    mean = tl.sum((b_0 + b_m) * count, 0) / (end - begin)
    b_m += b_0 - mean[None, :]
    rest = tl.sum(b_m * count, 0) / (end - begin)
    b_m -= rest[None, :]
    return mean, rest, tl.sum(squares + count * b_m * b_m, 0)


@triton.jit
def group_moments(member, mean, rest, pre, squares, eps, L, D):
    """Mean, its rest and 1 / standard deviation of the groups; distances of their channels.

    Args:
        mean, rest: (BLOCK_C,) means of the channels, without `pre`, and what is missing there.
        squares: (BLOCK_C,) squared deviations of a channel's pixels from its mean.

    Returns:
        middle, rest, inverse: (BLOCK_G,).
        distance: (BLOCK_C,) a channel's mean, with `pre`, minus its group's.
    """
    middle = group_means(member, mean + pre, D)
    b_d = (mean[None, :] - middle[:, None]) + (pre + rest)[None, :]
    b_d = tl.where(member, b_d, 0.0)
    missing = tl.sum(b_d, 1) / D
    b_d = tl.where(member, b_d - missing[:, None], 0.0)
    variance = tl.sum(tl.where(member, squares[None, :], 0.0) + L * b_d * b_d, 1) / (L * D)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    return middle, missing, inverse, tl.sum(b_d, 0)


@triton.jit
def coefficients(inverse, weight, bias, scale, shift, o_c, m_c):
    """(BLOCK_C,) a and b of z = a (x + pre - mean) + b, to which SiLU is applied."""
    gain = 1.0 + row(scale, o_c, m_c)
    b = row(bias, o_c, m_c) * gain + row(shift, o_c, m_c)
    return inverse * row(weight, o_c, m_c) * gain, b


@triton.jit
def _store(y, o_x, m_x, b_d, a, b, ACT):
    """y of one tile, from the distance of x to its center."""
    b_y = b_d * a[None, :] + b[None, :]
    if ACT:
        b_s, _ = sigmoid(b_y, y.dtype.element_ty == tl.float32)
        b_y *= b_s
    tl.store(y + o_x, b_y.to(y.dtype.element_ty), mask=m_x)


@triton.jit
def apply_tiles(x, y, center, a, b, begin, o_c, m_c, C, L, LAST, ACT, SPAN, BLOCK_L):
    """Writes y of the pixels [begin, begin + SPAN), the last first: they are still cached."""
    FINAL: tl.constexpr = (SPAN - 1) // BLOCK_L * BLOCK_L
    EVEN: tl.constexpr = L % SPAN == 0 and SPAN % BLOCK_L == 0
    end = tl.minimum(begin + SPAN, L)
    o_t = begin + FINAL + tl.arange(0, BLOCK_L)
    for i_l in range(0, SPAN, BLOCK_L):
        o_x = offsets(o_t - i_l, o_c, C, L, LAST)
        m_x = over_pixels(m_c, o_t - i_l, end, EVEN)
        b_x = tl.load(x + o_x, mask=m_x, other=0.0, eviction_policy="evict_first")
        _store(y, o_x, m_x, b_x.to(tl.float32) - center[None, :], a, b, ACT)


@triton.jit
def group_norm_forward(
    x,
    residual,
    weight,
    bias,
    scale,
    shift,
    pre,
    y,
    summed,
    mean,
    rstd,
    scale_stride,
    shift_stride,
    pre_stride,
    eps,
    residual_scale,
    C: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    LAST: tl.constexpr,
    ACT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_G: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """A program has WIDTH channels of one sample, whole groups. It keeps x if BLOCK_L covers L."""
    D: tl.constexpr = C // G
    BLOCKS: tl.constexpr = (C + WIDTH - 1) // WIDTH
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_c = tl.program_id(0) % BLOCKS * WIDTH
    o_i = tl.arange(0, BLOCK_C)
    o_c = i_c + o_i
    m_c = (o_i < WIDTH) & (o_c < C)
    x += i_n * (C * L)
    y += i_n * (C * L)
    if residual is not None:
        residual += i_n * (C * L)
        summed += i_n * (C * L)
    if scale is not None:
        scale += i_n * scale_stride
    if shift is not None:
        shift += i_n * shift_stride
    if pre is not None:
        pre += i_n * pre_stride

    if BLOCK_L >= L:
        o_l = tl.arange(0, BLOCK_L)
        o_x = offsets(o_l, o_c, C, L, LAST)
        m_x = over_pixels(m_c, o_l, L, BLOCK_L == L)
        b_x = load(x, residual, residual_scale, o_x, m_x, "")
        if summed is not None:
            tl.store(summed + o_x, b_x, mask=m_x)
        b_f = b_x.to(tl.float32)
        center = tile_sums(b_f, LAST, UNROLL) / L
        b_d = b_f - center[None, :]
        if BLOCK_L > L:
            b_d = tl.where(m_x, b_d, 0.0)
        squares = tile_sums(b_d * b_d, LAST, UNROLL)
        rest = tl.zeros((BLOCK_C,), tl.float32)
        if x.dtype.element_ty == tl.float32:  # 16-bit results do not show it
            rest = tile_sums(b_d, LAST, UNROLL) / L
            squares -= L * rest * rest
    else:
        center, rest, squares = streamed(
            *(x, residual, summed, residual_scale, 0, o_c, m_c, C, L, LAST),
            *(L, BLOCK_L // UNROLL, UNROLL),
        )

    member = members(i_c // D, o_c, m_c, D, BLOCK_G)
    b_pre = row(pre, o_c, m_c)
    middle, missing, inverse, distance = group_moments(
        member, center, rest, b_pre, squares, eps, L, D
    )
    o_g = i_c // D + tl.arange(0, BLOCK_G)
    m_g = (o_g < (i_c + WIDTH) // D) & (o_g < G)
    tl.store(mean + i_n * G + o_g, middle + missing, mask=m_g)
    tl.store(rstd + i_n * G + o_g, inverse, mask=m_g)
    a, b = coefficients(to_channels(member, inverse), weight, bias, scale, shift, o_c, m_c)
    b += a * (distance - rest)
    if BLOCK_L >= L:
        _store(y, o_x, m_x, b_d, a, b, ACT)
    else:
        if summed is not None:
            tl.debug_barrier()
            x = summed
        apply_tiles(x, y, center, a, b, 0, o_c, m_c, C, L, LAST, ACT, L, BLOCK_L)
