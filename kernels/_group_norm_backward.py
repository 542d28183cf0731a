"""Triton kernels of the group norm, backward, in one launch; the sums over the batch.

With v = x - center, center near mean - pre, n the normalised x, z = a v + b, and dz the gradient of
z, all gradients follow from the sums over pixels of dz, dz n and n. With w = weight (1 + scale),
a = w rstd, and A, B the means over a group's channels of w sum(dz) and w sum(dz n):

    dx   = a dz - rstd (A + n B) / L
    dpre = a sum(dz) - rstd (A + B sum(n) / L)
"""

# mypy: allow-untyped-defs, check-untyped-defs

from ._group_norm_tiles import (
    difference,
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
def channel_values(weight, bias, scale, shift, pre, mean, rstd, o_c, m_c, D):
    """(BLOCK_C,) center and rest of mean - pre, rstd, w, and z at the center."""
    gain = 1.0 + row(scale, o_c, m_c)
    w = row(weight, o_c, m_c) * gain
    b_m = tl.load(mean + o_c // D, mask=m_c, other=0.0)
    inverse = tl.load(rstd + o_c // D, mask=m_c, other=0.0)
    # Rounding the center shifts all pixels of a channel alike, which no sum would average out.
    center, rest = difference(b_m, row(pre, o_c, m_c))
    b = row(bias, o_c, m_c) * gain + row(shift, o_c, m_c)
    return center, rest, inverse, w, b - w * inverse * rest


@triton.jit
def _inner(x, dy, o_x, m_x, center, a, b, ACT, POLICY):
    """v and dz of one tile; dz is 0 outside."""
    b_x = tl.load(x + o_x, mask=m_x, other=0.0, eviction_policy=POLICY).to(tl.float32)
    b_dz = tl.load(dy + o_x, mask=m_x, other=0.0, eviction_policy=POLICY).to(tl.float32)
    b_v = b_x - center[None, :]
    if ACT:
        b_z = b_v * a[None, :] + b[None, :]
        b_s, b_t = sigmoid(b_z, x.dtype.element_ty == tl.float32)
        b_dz *= b_s + b_s * b_t
    return b_v, b_dz


@triton.jit
def streamed_sums(x, dy, center, a, b, begin, o_c, m_c, C, L, LAST, ACT, PRE, SPAN, ROWS, UNROLL):
    """(BLOCK_C,) sums of dz, dz v and, if PRE, v over the pixels [begin, begin + SPAN)."""
    EVEN: tl.constexpr = L % SPAN == 0 and SPAN % (ROWS * UNROLL) == 0
    LANES: tl.constexpr = (UNROLL, ROWS, o_c.shape[0])
    end = tl.minimum(begin + SPAN, L)
    o_t = tl.arange(0, ROWS * UNROLL)
    plain = tl.zeros((ROWS, o_c.shape[0]), tl.float32)
    by_v = tl.zeros((ROWS, o_c.shape[0]), tl.float32)
    of_v = tl.zeros((ROWS, o_c.shape[0]), tl.float32)
    for i_l in range(begin, end, ROWS * UNROLL):
        o_x = offsets(i_l + o_t, o_c, C, L, LAST)
        m_x = over_pixels(m_c, i_l + o_t, end, EVEN)
        b_v, b_dz = _inner(x, dy, o_x, m_x, center, a, b, ACT, "evict_last")
        plain += tl.sum(tl.reshape(b_dz, LANES), 0)
        by_v += tl.sum(tl.reshape(b_dz * b_v, LANES), 0)
        if PRE:
            if not EVEN:
                b_v = tl.where(m_x, b_v, 0.0)
            of_v += tl.sum(tl.reshape(b_v, LANES), 0)
    return tl.sum(plain, 0), tl.sum(by_v, 0), tl.sum(of_v, 0)


@triton.jit
def _store_tile(dx, dsummed, o_x, m_x, b_v, b_dz, a, p, q, factor, POLICY):
    b_dx = b_dz * a[None, :] + (b_v * p[None, :] + q[None, :])
    if dsummed is not None:
        b_s = tl.load(dsummed + o_x, mask=m_x, other=0.0, eviction_policy=POLICY)
        b_dx += b_s.to(tl.float32) * factor
    tl.store(dx + o_x, b_dx.to(dx.dtype.element_ty), mask=m_x)


@triton.jit
def spread_tiles(
    x,
    dy,
    dsummed,
    dx,
    factor,
    center,
    a,
    b,
    a_x,
    p,
    q,
    begin,
    o_c,
    m_c,
    C,
    L,
    LAST,
    ACT,
    SPAN,
    BLOCK_L,
):
    """Writes dx of the pixels [begin, begin + SPAN), the last first: they are still cached."""
    FINAL: tl.constexpr = (SPAN - 1) // BLOCK_L * BLOCK_L
    EVEN: tl.constexpr = L % SPAN == 0 and SPAN % BLOCK_L == 0
    end = tl.minimum(begin + SPAN, L)
    o_t = begin + FINAL + tl.arange(0, BLOCK_L)
    for i_l in range(0, SPAN, BLOCK_L):
        o_x = offsets(o_t - i_l, o_c, C, L, LAST)
        m_x = over_pixels(m_c, o_t - i_l, end, EVEN)
        b_v, b_dz = _inner(x, dy, o_x, m_x, center, a, b, ACT, "evict_first")
        _store_tile(dx, dsummed, o_x, m_x, b_v, b_dz, a_x, p, q, factor, "evict_first")


@triton.jit
def factor_gradients(
    dscale, dshift, dpre, o_n, weight, bias, o_c, m_c, plain, by_n, of_n, w, inverse, A, B, L, D
):
    """Writes the gradients of one sample's factors."""
    if dshift is not None:
        tl.store(dshift + o_n + o_c, plain.to(dshift.dtype.element_ty), mask=m_c)
    if dscale is not None:
        b_d = row(weight, o_c, m_c) * by_n + row(bias, o_c, m_c) * plain
        tl.store(dscale + o_n + o_c, b_d.to(dscale.dtype.element_ty), mask=m_c)
    if dpre is not None:
        b_d = inverse * ((w * plain - A) - B * (of_n / L))
        if D == 1:
            b_d *= 0.0  # the norm takes it away again
        tl.store(dpre + o_n + o_c, b_d.to(dpre.dtype.element_ty), mask=m_c)


@triton.jit
def pixel_coefficients(w, inverse, rest, A, B, L, D, factor):
    """(BLOCK_C,) a, p and q of dx = a dz + p v + q, all times the factor."""
    if L * D == 1:
        factor *= 0.0  # one value, of which nothing is left
    p = -inverse * inverse * (B / L) * factor
    return w * inverse * factor, p, -p * rest - inverse * (A / L) * factor


@triton.jit
def group_norm_backward(
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
    WIDTH: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_G: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """As `group_norm_forward`. parts: (N, 2, C) float32 sums of dz and dz n."""
    D: tl.constexpr = C // G
    BLOCKS: tl.constexpr = (C + WIDTH - 1) // WIDTH
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_c = tl.program_id(0) % BLOCKS * WIDTH
    o_i = tl.arange(0, BLOCK_C)
    o_c = i_c + o_i
    m_c = (o_i < WIDTH) & (o_c < C)
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
    mean += i_n * G
    rstd += i_n * G
    center, rest, inverse, w, b = channel_values(
        weight, bias, scale, shift, pre, mean, rstd, o_c, m_c, D
    )
    a = w * inverse
    if BLOCK_L >= L:
        o_l = tl.arange(0, BLOCK_L)
        o_x = offsets(o_l, o_c, C, L, LAST)
        m_x = over_pixels(m_c, o_l, L, BLOCK_L == L)
        b_v, b_dz = _inner(x, dy, o_x, m_x, center, a, b, ACT, "")
        plain = tile_sums(b_dz, LAST, UNROLL)
        by_v = tile_sums(b_dz * b_v, LAST, UNROLL)
        of_v = tl.zeros((BLOCK_C,), tl.float32)
        if pre is not None:
            of_v = tile_sums(b_v if BLOCK_L == L else tl.where(m_x, b_v, 0.0), LAST, UNROLL)
    else:
        STEP: tl.constexpr = BLOCK_L // UNROLL
        plain, by_v, of_v = streamed_sums(
            *(x, dy, center, a, b, 0, o_c, m_c, C, L, LAST, ACT, pre is not None, L, STEP, UNROLL)
        )
    parts += i_n * (2 * C)
    tl.store(parts + o_c, plain, mask=m_c)
    # Read again after a store, so that they need no registers above.
    center, rest, inverse, w, b = channel_values(
        weight, bias, scale, shift, pre, mean, rstd, o_c, m_c, D
    )
    a = w * inverse
    by_n = (by_v - rest * plain) * inverse
    of_n = (of_v - rest * L) * inverse
    tl.store(parts + C + o_c, by_n, mask=m_c)

    member = members(i_c // D, o_c, m_c, D, BLOCK_G)
    A = to_channels(member, group_means(member, w * plain, D))
    B = to_channels(member, group_means(member, w * by_n, D))
    o_n = i_n * C
    factor_gradients(
        *(
            dscale,
            dshift,
            dpre,
            o_n,
            weight,
            bias,
            o_c,
            m_c,
            plain,
            by_n,
            of_n,
            w,
            inverse,
            A,
            B,
            L,
            D,
        )
    )
    a_x, p, q = pixel_coefficients(w, inverse, rest, A, B, L, D, residual_scale)
    if BLOCK_L >= L:
        _store_tile(dx, dsummed, o_x, m_x, b_v, b_dz, a_x, p, q, residual_scale, "")
    else:
        spread_tiles(
            *(x, dy, dsummed, dx, residual_scale, center, a, b, a_x, p, q, 0, o_c, m_c),
            *(C, L, LAST, ACT, L, BLOCK_L),
        )


@triton.jit
def group_norm_over_batch(
    parts,
    scale,
    dweight,
    dbias,
    scale_stride,
    rows,
    C: tl.constexpr,
    KINDS: tl.constexpr,
    SPANS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dweight and dbias from parts (N, SPANS, KINDS, C); rows = N SPANS."""
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    plain = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    by_n = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for i_r in range(0, rows, BLOCK_R):
        o_r = i_r + tl.arange(0, BLOCK_R)
        m_r = (o_r < rows)[:, None] & m_c[None, :]
        p_r = parts + o_r.to(tl.int64)[:, None] * (KINDS * C) + o_c[None, :]
        b_plain = tl.load(p_r, mask=m_r, other=0.0)
        b_by_n = tl.load(p_r + C, mask=m_r, other=0.0)
        if scale is not None:
            o_s = (o_r // SPANS).to(tl.int64)[:, None] * scale_stride + o_c[None, :]
            gain = 1.0 + tl.load(scale + o_s, mask=m_r, other=0.0).to(tl.float32)
            b_plain *= gain
            b_by_n *= gain
        plain += b_plain
        by_n += b_by_n
    tl.store(dbias + o_c, tl.sum(plain, 0).to(dbias.dtype.element_ty), mask=m_c)
    tl.store(dweight + o_c, tl.sum(by_n, 0).to(dweight.dtype.element_ty), mask=m_c)
