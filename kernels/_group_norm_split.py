"""Triton kernels of the group norm in two launches: partial sums over pixels, then their use.

For few samples or many pixels. A program has BLOCK_C channels, which may cut groups, and SPAN
pixels. parts: (N, spans, 2 or 3, C) float32.
"""

# mypy: allow-untyped-defs, check-untyped-defs

from ._group_norm_backward import (
    channel_values,
    factor_gradients,
    pixel_coefficients,
    spread_tiles,
    streamed_sums,
)
from ._group_norm_forward import (
    apply_tiles,
    coefficients,
    group_moments,
    streamed,
)
from ._group_norm_tiles import difference, group_means, members, row, to_channels
from ._triton import tl, triton


@triton.jit
def group_norm_moments(
    x,
    residual,
    summed,
    parts,
    residual_scale,
    C: tl.constexpr,
    L: tl.constexpr,
    LAST: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """parts: (N, spans of SPAN pixels, 2, C) float32, means and squared deviations."""
    SPANS: tl.constexpr = (L + SPAN - 1) // SPAN
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    i_p = tl.program_id(0) // BLOCKS
    i_n = (i_p // SPANS).to(tl.int64)
    o_c = tl.program_id(0) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    x += i_n * (C * L)
    if residual is not None:
        residual += i_n * (C * L)
        summed += i_n * (C * L)
    mean, rest, squares = streamed(
        *(x, residual, summed, residual_scale, i_p % SPANS * SPAN, o_c, m_c),
        *(C, L, LAST, SPAN, BLOCK_L // UNROLL, UNROLL),
    )
    parts += i_p.to(tl.int64) * (2 * C)
    tl.store(parts + o_c, mean + rest, mask=m_c)
    tl.store(parts + C + o_c, squares, mask=m_c)


@triton.jit
def group_norm_apply(
    x,
    parts,
    weight,
    bias,
    scale,
    shift,
    pre,
    y,
    mean,
    rstd,
    scale_stride,
    shift_stride,
    pre_stride,
    eps,
    C: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    LAST: tl.constexpr,
    ACT: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """y from `group_norm_moments`. BLOCK_W channels cover the groups that BLOCK_C of them touch."""
    D: tl.constexpr = C // G
    SPANS: tl.constexpr = (L + SPAN - 1) // SPAN
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    # Backwards: what the first launch read last is still cached.
    i_b = tl.num_programs(0) - 1 - tl.program_id(0)
    i_p = i_b // BLOCKS
    i_n = (i_p // SPANS).to(tl.int64)
    i_c = i_b % BLOCKS * BLOCK_C
    i_g = i_c // D
    o_c = i_c + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    x += i_n * (C * L)
    y += i_n * (C * L)
    if scale is not None:
        scale += i_n * scale_stride
    if shift is not None:
        shift += i_n * shift_stride
    if pre is not None:
        pre += i_n * pre_stride

    i_end = tl.minimum((i_c + (BLOCK_C + D - 1)) // D, G)
    o_w = i_g * D + tl.arange(0, BLOCK_W)
    m_w = o_w < i_end * D
    o_s = tl.arange(0, BLOCK_S)
    p_w = parts + i_n * (SPANS * 2 * C) + o_s[:, None] * (2 * C) + o_w[None, :]
    m_s = m_w[None, :] & (o_s < SPANS)[:, None]
    count = tl.minimum(L - o_s * SPAN, SPAN).to(tl.float32)[:, None]
    means = tl.load(p_w, mask=m_s, other=0.0)
    center = tl.sum(means * count, 0) / L
    means = tl.where(m_s, means - center[None, :], 0.0)
    rest = tl.sum(means * count, 0) / L
    means -= rest[None, :]
    squares = tl.sum(tl.load(p_w + C, mask=m_s, other=0.0) + count * means * means, 0)
    member = members(i_g, o_w, m_w, D, BLOCK_G)
    middle, missing, inverse, _ = group_moments(
        member, center, rest, row(pre, o_w, m_w), squares, eps, L, D
    )
    o_g = i_g + tl.arange(0, BLOCK_G)
    # A group that several blocks share is written by the one with its first channel.
    m_g = (o_g < i_end) & (o_g * D >= i_c) & (i_p % SPANS == 0)
    tl.store(mean + i_n * G + o_g, middle + missing, mask=m_g)
    tl.store(rstd + i_n * G + o_g, inverse, mask=m_g)

    member = members(i_g, o_c, m_c, D, BLOCK_G)
    a, b = coefficients(to_channels(member, inverse), weight, bias, scale, shift, o_c, m_c)
    near, away = difference(to_channels(member, middle), row(pre, o_c, m_c))
    b -= a * (away + to_channels(member, missing))
    begin = i_p % SPANS * SPAN
    apply_tiles(x, y, near, a, b, begin, o_c, m_c, C, L, LAST, ACT, SPAN, BLOCK_L)


@triton.jit
def group_norm_sums(
    x,
    dy,
    weight,
    bias,
    scale,
    shift,
    pre,
    mean,
    rstd,
    parts,
    scale_stride,
    shift_stride,
    pre_stride,
    C: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    LAST: tl.constexpr,
    ACT: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """parts: sums of dz, dz n and, with `pre`, n."""
    SPANS: tl.constexpr = (L + SPAN - 1) // SPAN
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    KINDS: tl.constexpr = 2 if pre is None else 3
    i_p = tl.program_id(0) // BLOCKS
    i_n = (i_p // SPANS).to(tl.int64)
    o_c = tl.program_id(0) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    x += i_n * (C * L)
    dy += i_n * (C * L)
    if scale is not None:
        scale += i_n * scale_stride
    if shift is not None:
        shift += i_n * shift_stride
    if pre is not None:
        pre += i_n * pre_stride
    mean += i_n * G
    rstd += i_n * G
    center, rest, inverse, w, b = channel_values(
        weight, bias, scale, shift, pre, mean, rstd, o_c, m_c, C // G
    )
    begin = i_p % SPANS * SPAN
    plain, by_v, of_v = streamed_sums(
        *(x, dy, center, w * inverse, b, begin, o_c, m_c, C, L, LAST, ACT, KINDS == 3),
        *(SPAN, BLOCK_L // UNROLL, UNROLL),
    )
    parts += i_p.to(tl.int64) * (KINDS * C) + o_c
    tl.store(parts, plain, mask=m_c)
    tl.store(parts + C, (by_v - rest * plain) * inverse, mask=m_c)
    if KINDS == 3:
        count = tl.minimum(L - begin, SPAN)
        tl.store(parts + 2 * C, (of_v - rest * count) * inverse, mask=m_c)


@triton.jit
def group_norm_spread(
    x,
    dy,
    dsummed,
    weight,
    bias,
    scale,
    shift,
    pre,
    mean,
    rstd,
    parts,
    dx,
    dscale,
    dshift,
    dpre,
    scale_stride,
    shift_stride,
    pre_stride,
    residual_scale,
    C: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    LAST: tl.constexpr,
    ACT: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """dx and the gradients of scale, shift and pre, from `group_norm_sums`."""
    D: tl.constexpr = C // G
    SPANS: tl.constexpr = (L + SPAN - 1) // SPAN
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    KINDS: tl.constexpr = 2 if pre is None else 3
    # Backwards: what the first launch read last is still cached.
    i_b = tl.num_programs(0) - 1 - tl.program_id(0)
    i_p = i_b // BLOCKS
    i_n = (i_p // SPANS).to(tl.int64)
    i_c = i_b % BLOCKS * BLOCK_C
    i_g = i_c // D
    o_c = i_c + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    x += i_n * (C * L)
    dy += i_n * (C * L)
    dx += i_n * (C * L)
    if dsummed is not None:
        dsummed += i_n * (C * L)
    if scale is not None:
        scale += i_n * scale_stride
    if shift is not None:
        shift += i_n * shift_stride
    if pre is not None:
        pre += i_n * pre_stride

    i_end = tl.minimum((i_c + (BLOCK_C + D - 1)) // D, G)
    o_w = i_g * D + tl.arange(0, BLOCK_W)
    m_w = o_w < i_end * D
    o_s = tl.arange(0, BLOCK_S)
    parts += i_n * (SPANS * KINDS * C) + o_s[:, None] * (KINDS * C)
    m_s = m_w[None, :] & (o_s < SPANS)[:, None]
    w = row(weight, o_w, m_w) * (1.0 + row(scale, o_w, m_w))
    plain = tl.sum(tl.load(parts + o_w[None, :], mask=m_s, other=0.0), 0)
    by_n = tl.sum(tl.load(parts + (C + o_w)[None, :], mask=m_s, other=0.0), 0)
    member = members(i_g, o_w, m_w, D, BLOCK_G)
    mean_plain = group_means(member, w * plain, D)
    mean_by_n = group_means(member, w * by_n, D)

    member = members(i_g, o_c, m_c, D, BLOCK_G)
    A, B = to_channels(member, mean_plain), to_channels(member, mean_by_n)
    mean += i_n * G
    rstd += i_n * G
    center, rest, inverse, w, b = channel_values(
        weight, bias, scale, shift, pre, mean, rstd, o_c, m_c, D
    )
    if i_p % SPANS == 0:
        m_p = m_c[None, :] & (o_s < SPANS)[:, None]
        plain_c = tl.sum(tl.load(parts + o_c[None, :], mask=m_p, other=0.0), 0)
        by_n_c = tl.sum(tl.load(parts + (C + o_c)[None, :], mask=m_p, other=0.0), 0)
        of_n_c = tl.zeros((BLOCK_C,), tl.float32)
        if pre is not None:
            of_n_c = tl.sum(tl.load(parts + (2 * C + o_c)[None, :], mask=m_p, other=0.0), 0)
        factor_gradients(
            *(dscale, dshift, dpre, i_n * C, weight, bias, o_c, m_c),
            *(plain_c, by_n_c, of_n_c, w, inverse, A, B, L, D),
        )
    a_x, p, q = pixel_coefficients(w, inverse, rest, A, B, L, D, residual_scale)
    spread_tiles(
        *(x, dy, dsummed, dx, residual_scale, center, w * inverse, b, a_x, p, q),
        *(i_p % SPANS * SPAN, o_c, m_c, C, L, LAST, ACT, SPAN, BLOCK_L),
    )
