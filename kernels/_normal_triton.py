"""Seeded noise by one Triton kernel: Philox and Box-Muller in registers, one 128-bit store."""

# Triton reads the types of a kernel's parameters off its arguments.
# mypy: allow-untyped-defs

from collections.abc import Sequence
from typing import Any

import torch

from ._normal_op import arguments, new, register
from ._triton import INTERPRETED, config, launch, tl, triton

Tensor = torch.Tensor

BLOCK = 128  # counters of one program; each makes four numbers


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds on blocks of 32-bit words."""
    A: tl.constexpr = 0xD2511F53
    B: tl.constexpr = 0xCD9E8D57
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, A), tl.mul(c0, A, sanitize_overflow=False)
        high1, low1 = tl.umulhi(c2, B), tl.mul(c2, B, sanitize_overflow=False)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def _radius(v):
    """sqrt(-2 log((v + 1/2) / 2^32)), accurate in float32 at both ends; csrc/normal_cpu.cpp."""
    ROOT: tl.constexpr = 0x3F3504F3  # bits of sqrt(1/2)
    f = v.to(tl.float32) + 0.5
    bits = f.to(tl.int32, bitcast=True) - ROOT
    n = bits >> 23
    m = (bits - (n << 23) + ROOT).to(tl.float32, bitcast=True)
    # Above sqrt(1/2), the distance from 1 has to come from the integer: v rounds to a float.
    t = ((v ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (0.5 * 2.0**-31)
    near = t < 0.2928932
    s = tl.where(near, -t, m - 1.0) / tl.where(near, 2.0 - t, m + 1.0)
    z = s * s
    # atanh(s) / s - 1 over s^2, minimax for |s| < 0.172.
    p = (0.149365365505218505859375 * z + 0.19988748431205749511719) * z + 0.3333338797092437744
    scale = tl.where(near, 0, 32 - n).to(tl.float32) * 0.693147180559945
    return tl.sqrt_rn(2.0 * (scale - 2.0 * (s + s * (z * p))))


@triton.jit
def _pair(v, w):
    """(r cos(a), r sin(a)) for a = 2 pi w / 2^32: the quadrant and the rest of it are integers."""
    radius = _radius(v)
    quadrant = (w + 0x20000000) >> 30
    rest = (w - (quadrant << 30)).to(tl.int32, bitcast=True)
    a = rest.to(tl.float32) * 1.4629180792671596e-09
    z = a * a
    sine = a + a * z * ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1)
    cosine = 2.443315711809948e-5 * z - 1.388731625493765e-3
    cosine = 1.0 + z * (z * (cosine * z + 4.166664568298827e-2) - 0.5)
    odd = (quadrant & 1) == 1
    first, second = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    first = tl.where(((quadrant + 1) & 2) == 2, -first, first)
    second = tl.where((quadrant & 2) == 2, -second, second)
    return radius * first, radius * second


@triton.jit
def _normal_kernel(seeds, noise, step_low, step_high, size, BLOCK: tl.constexpr):
    """One program makes 4 BLOCK numbers of one row."""
    pieces = tl.cdiv(size, 4 * BLOCK)
    i_n = (tl.program_id(0) // pieces).to(tl.int64)
    i_b = (tl.program_id(0) % pieces).to(tl.int64) * BLOCK
    seed = tl.load(seeds + i_n)
    o_b = i_b + tl.arange(0, BLOCK)
    c0, c1 = o_b.to(tl.uint32), (o_b >> 32).to(tl.uint32)
    c2 = tl.full((BLOCK,), step_low, tl.uint32)
    c3 = tl.full((BLOCK,), step_high, tl.uint32)
    k0 = tl.full((BLOCK,), seed, tl.int64).to(tl.uint32)
    k1 = tl.full((BLOCK,), seed >> 32, tl.int64).to(tl.uint32)
    v0, w0, v1, w1 = _philox(c0, c1, c2, c3, k0, k1)
    b_0, b_1 = _pair(v0, w0)
    b_2, b_3 = _pair(v1, w1)
    b_noise = tl.interleave(tl.interleave(b_0, b_2), tl.interleave(b_1, b_3))
    o_l = 4 * i_b + tl.arange(0, 4 * BLOCK)
    tl.store(noise + i_n * size + o_l, b_noise, mask=o_l < size)


SETTINGS = config(num_warps=4, BLOCK=BLOCK)


def _normal(seeds: Tensor, step: int, shape: Sequence[int]) -> Tensor:
    noise = new(seeds, step, shape)
    if noise.numel() > 0:
        batch = seeds.shape[0]
        size = noise.numel() // batch
        grid = (batch * -(-size // (4 * BLOCK)),)
        # Words as signed numbers: one type, and so one kernel, for all steps.
        low, high = ((step >> bits) & 0xFFFFFFFF for bits in (0, 32))
        low, high = (word - (word >> 31 << 32) for word in (low, high))
        launch(_normal_kernel, grid, (seeds.contiguous(), noise, low, high, size), SETTINGS)
    return noise


LIBRARY = register("_triton", _normal, ("CUDA", "CPU") if INTERPRETED else ("CUDA",))


def triton_normal(*args: Any, **kwargs: Any) -> Tensor:
    """`reference` by one Triton kernel."""
    return torch.ops.ctm_fast.normal_triton(*arguments(*args, **kwargs))


def launch_normal(*args: Any, **kwargs: Any) -> None:
    """What `triton_normal` launches."""
    _normal(*arguments(*args, **kwargs))
