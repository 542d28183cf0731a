"""What the Triton kernels of the group norm share: tiles, factor rows, channels and groups.

Letters: N batch, C channels, G groups, D = C / G channels of a group, L pixels. Tiles are
(pixels, channels) in both memory orders; values of a channel are (BLOCK_C,), of a group (BLOCK_G,).
"""

# mypy: allow-untyped-defs, check-untyped-defs

from ._triton import tl, triton


@triton.jit
def offsets(o_l, o_c, C, L, LAST):
    """Of a tile in one sample. LAST: channels-last."""
    if LAST:
        o_x = o_l[:, None] * C + o_c[None, :]
    else:
        o_x = o_l[:, None] + o_c[None, :] * L
    return o_x


@triton.jit
def over_pixels(m_c, o_l, end, ALL):
    """Mask of a tile: channels by m_c, pixels below `end`. ALL: no pixel lies outside."""
    m_x = m_c[None, :]
    if not ALL:
        m_x = m_x & (o_l < end)[:, None]
    return m_x


@triton.jit
def row(pointer, o_c, m_c):
    """(BLOCK_C,) float32 of a factor; zeros where it is left out."""
    if pointer is None:
        b_row = tl.zeros(o_c.shape, tl.float32)
    else:
        b_row = tl.load(pointer + o_c, mask=m_c, other=0.0).to(tl.float32)
    return b_row


@triton.jit
def tile_sums(b_x, LAST, UNROLL):
    """(BLOCK_C,) sums over a tile's pixels: of the UNROLL that a lane has, then of the lanes."""
    ROWS: tl.constexpr = b_x.shape[0] // UNROLL
    if LAST:
        lanes = tl.sum(tl.reshape(b_x, (UNROLL, ROWS, b_x.shape[1])), 0)
    else:
        lanes = tl.sum(tl.reshape(b_x, (ROWS, UNROLL, b_x.shape[1])), 1)
    return tl.sum(lanes, 0)


@triton.jit
def members(i_g, o_c, m_c, D, BLOCK_G: tl.constexpr):
    """(BLOCK_G, BLOCK_C): whether a channel belongs to a group, counted from group i_g."""
    o_g = i_g + tl.arange(0, BLOCK_G)
    return (o_g[:, None] == (o_c // D)[None, :]) & m_c[None, :]


@triton.jit
def difference(b_a, b_b):
    """a - b in float32, and what rounding took from it (Source: Knuth 1997, TAOCP 2, 4.2.2)."""
    b_d = b_a - b_b
    b_t = b_d - b_a
    return b_d, (b_a - (b_d - b_t)) - (b_b + b_t)


@triton.jit
def group_means(member, values, D):
    """(BLOCK_G,) means of the values of each group's channels."""
    return tl.sum(tl.where(member, values[None, :], 0.0), 1) / D


@triton.jit
def to_channels(member, values):
    """(BLOCK_C,) values of each channel's group; 0 where there is none."""
    return tl.sum(tl.where(member, values[:, None], 0.0), 0)


@triton.jit
def sigmoid(b_z, EXACT):
    """Sigmoid of z, and z times the sigmoid of -z. EXACT: to float32; else to 16 bits, faster."""
    # Approximate exp2 and rsqrt are one instruction each, exp and a division about twelve.
    b_p = b_z * -1.4426950408889634
    if EXACT:
        b_e = tl.exp2(tl.minimum(b_p, 126.0))
        b_r = tl.rsqrt(1.0 + b_e)
        b_s = b_r * b_r
        b_s += b_s * (1.0 - (1.0 + b_e) * b_s)
        b_t = b_z * (b_e * b_s)
    else:
        b_r = tl.rsqrt(1.0 + tl.exp2(b_p))
        b_s = b_r * b_r
        b_t = b_z - b_z * b_s
    return b_s, b_t
